"""Metric lines turned into what the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tavit_flwr.server.page.charts import Series

Line = Mapping[str, Any]

#: Marks in the manner of the paper's figure; a joint phase moves all parts and has the body's mark.
_MARKS = {"task-specific": "cross", "task-agnostic": "dot", "joint": "dot", "before training": "dot"}


def scores(history: Sequence[Line], key: str) -> list[Series]:
    """One series a task: a score over half cycles."""
    return [
        Series(
            task,
            [(line["cycle"], line[key]) for line in own],
            [_MARKS.get(line["phase"], "dot") for line in own],
        )
        for task, own in _by_task(history, "evaluate").items()
    ]


def losses(history: Sequence[Line]) -> list[Series]:
    """One series a task: mean loss of each round."""
    return [
        Series(task, [(line["round"], max(line["loss_mean"], 1e-12)) for line in own])
        for task, own in _by_task(history, "train").items()
    ]


def task_rows(history: Sequence[Line]) -> list[dict[str, Any]]:
    """Input, first and last scores of each task."""
    rows = []
    for task, own in _by_task(history, "evaluate").items():
        first, last = own[0], own[-1]
        gain = last["psnr_db"] - last["input_psnr_db"]
        rows.append({"task": task, "first": first, "last": last, "gain_db": gain})
    return rows


#: Cells of the table of who took part.
TRAINED, FAILED, NOT_ASKED = "trained", "failed", "not asked"


def participation(
    history: Sequence[Line], participants: Mapping[str, str]
) -> tuple[list[tuple[int, str]], list[tuple[str, str, list[str]]], list[str]]:
    """Who took part.

    Parameters
    ----------
    history : sequence of mapping
        Metric lines.
    participants : mapping
        Client to task: all that enrolled, for some may never have taken part.

    Returns
    -------
    tuple
        Rounds with their phase; ``(client, task, cell of each round)``, where a cell is `TRAINED`, `FAILED` or
        `NOT_ASKED`; and a line for each client that a round left out.
    """
    rounds: dict[int, str] = {}
    clients = {client: (task, dict[int, str]()) for client, task in participants.items()}
    problems: dict[str, None] = {}
    for line in history:
        for problem in line.get("left_out", ()):
            problems[f"round {line['round']}, {line['phase']}: {problem}"] = None
        if line["event"] == "train":
            rounds[line["round"]] = line["phase"]
            for client in line["clients"]:
                clients.setdefault(client, (line["task"], {}))[1][line["round"]] = TRAINED
            for client in line.get("failed", ()):
                clients.setdefault(client, ("", {}))[1][line["round"]] = FAILED
    table = [
        (client, task, [took.get(number, NOT_ASKED) for number in rounds])
        for client, (task, took) in sorted(clients.items())
    ]
    return list(rounds.items()), table, list(problems)


def traffic(history: Sequence[Line]) -> list[tuple[str, tuple[float, float]]]:
    """MiB up and down of each phase's rounds of training, and of evaluation."""
    rows: dict[str, list[float]] = {}
    for name, event in (("round", "train"), ("evaluation", "evaluate")):
        for lines in _rounds(history, event):
            row = rows.setdefault(_row_of(lines[0]), [0.0, 0.0])
            for place, way in enumerate(("up", "down")):
                row[place] += lines[0].get(f"{name}_bytes_{way}", 0) / 2**20
    return [(phase, (up, down)) for phase, (up, down) in rows.items() if up or down]


#: Where a round's seconds go: see `times`.
PLACES = (
    "clients compute", "wire", "waiting on the server", "server computes", "Flower and the rest",
    "clients and wire, in evaluation",
)  # fmt: skip


def times(history: Sequence[Line]) -> list[tuple[str, tuple[float, ...]]]:
    """Seconds of each phase's rounds, and of evaluation, by `PLACES`.

    Clients run side by side, so means over a round's clients are taken. What a client waits is spent on the wire and,
    between a request and its answer, on the server: there the body computes, or the session waits for its cohort or
    for a core. In evaluation clients do not tell computing and waiting apart.
    """
    rows: dict[str, list[float]] = {}
    for lines in _rounds(history, "train"):
        compute_s, wait_s, server_s, body_s = _means(lines, ("compute_s", "wait_s", "server_s", "body_s"))
        server_s = min(server_s, wait_s)  # clients that compute meanwhile do not wait
        body_s = min(body_s, server_s)
        rest_s = max(0.0, lines[0]["round_wall_s"] - compute_s - wait_s)
        _add(rows, lines[0], (compute_s, wait_s - server_s, server_s - body_s, body_s, rest_s, 0.0))
    for lines in _rounds(history, "evaluate"):
        client_s, server_s, body_s = _means(lines, ("client_s", "server_s", "body_s"))
        server_s = min(server_s, client_s)
        body_s = min(body_s, server_s)
        rest_s = max(0.0, lines[0].get("evaluation_wall_s", 0.0) - client_s)
        _add(rows, lines[0], (0.0, 0.0, server_s - body_s, body_s, rest_s, client_s - server_s))
    return [(phase, tuple(row)) for phase, row in rows.items() if any(row)]


def _means(lines: Sequence[Line], keys: Sequence[str]) -> list[float]:
    """Means over a round's clients; each line is of one task and holds the mean over its own."""
    counts = [len(line.get("clients", ())) for line in lines]
    total = max(1, sum(counts))
    return [sum(line.get(key, 0.0) * n for line, n in zip(lines, counts, strict=True)) / total for key in keys]


def _add(rows: dict[str, list[float]], line: Line, values: Sequence[float]) -> None:
    row = rows.setdefault(_row_of(line), [0.0] * len(values))
    for place, value in enumerate(values):
        row[place] += value


def _row_of(line: Line) -> str:
    return str(line["phase"]) if line["event"] == "train" else "evaluation"


def _by_task(history: Sequence[Line], event: str) -> dict[str, list[Line]]:
    tasks: dict[str, list[Line]] = {}
    for line in history:
        if line["event"] == event:
            tasks.setdefault(line["task"], []).append(line)
    return tasks


def _rounds(history: Sequence[Line], event: str) -> list[list[Line]]:
    """The lines of each round, one a task."""
    rounds: dict[int, list[Line]] = {}
    for line in history:
        if line["event"] == event:
            rounds.setdefault(line["round"], []).append(line)
    return list(rounds.values())
