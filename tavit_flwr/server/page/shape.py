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


def participation(history: Sequence[Line]) -> tuple[list[tuple[int, str]], list[tuple[str, str, list[str]]], list[str]]:
    """Who took part.

    Returns
    -------
    tuple
        Rounds with their phase; ``(client, task, cell of each round)``, where a cell is ``yes`` or empty; and a line
        for each client that a round left out.
    """
    rounds: dict[int, str] = {}
    clients: dict[str, tuple[str, set[int]]] = {}
    problems: dict[str, None] = {}
    for line in history:
        for problem in line.get("left_out", ()):
            problems[f"round {line['round']}, {line['phase']}: {problem}"] = None
        if line["event"] == "train":
            rounds[line["round"]] = line["phase"]
            for client in line["clients"]:
                clients.setdefault(client, (line["task"], set()))[1].add(line["round"])
    table = [
        (client, task, ["yes" if number in took else "" for number in rounds])
        for client, (task, took) in sorted(clients.items())
    ]
    return list(rounds.items()), table, list(problems)


def traffic(history: Sequence[Line]) -> list[tuple[str, tuple[float, float]]]:
    """MiB up and down of each phase's rounds of training."""
    rows: dict[str, list[float]] = {}
    for line in _a_line_a_round(history):
        row = rows.setdefault(line["phase"], [0.0, 0.0])
        row[0] += line["round_bytes_up"] / 2**20
        row[1] += line["round_bytes_down"] / 2**20
    return [(phase, (up, down)) for phase, (up, down) in rows.items()]


#: Where a round's seconds go: see `times`.
PLACES = ("clients compute", "wire", "waiting on the server", "server computes", "Flower and the rest")


def times(history: Sequence[Line]) -> list[tuple[str, tuple[float, ...]]]:
    """Seconds of each phase's rounds by `PLACES`.

    Clients run side by side, so means over a round's clients are taken. What a client waits is spent on the wire and,
    between a request and its answer, on the server: there the body computes, or the session waits for its cohort or
    for a core.
    """
    rows: dict[str, list[float]] = {}
    for phase, wall_s, lines in _rounds(history):
        clients = sum(len(line["clients"]) for line in lines)
        compute_s, wait_s, server_s, body_s = (
            sum(line.get(key, 0.0) * len(line["clients"]) for line in lines) / max(1, clients)
            for key in ("compute_s", "wait_s", "server_s", "body_s")
        )
        server_s = min(server_s, wait_s)  # clients that compute meanwhile do not wait
        body_s = min(body_s, server_s)
        rest_s = max(0.0, wall_s - compute_s - wait_s)
        row = rows.setdefault(phase, [0.0] * len(PLACES))
        for place, value in enumerate((compute_s, wait_s - server_s, server_s - body_s, body_s, rest_s)):
            row[place] += value
    return [(phase, tuple(row)) for phase, row in rows.items()]


def _by_task(history: Sequence[Line], event: str) -> dict[str, list[Line]]:
    tasks: dict[str, list[Line]] = {}
    for line in history:
        if line["event"] == event:
            tasks.setdefault(line["task"], []).append(line)
    return tasks


def _rounds(history: Sequence[Line]) -> list[tuple[str, float, list[Line]]]:
    rounds: dict[int, list[Line]] = {}
    for line in history:
        if line["event"] == "train":
            rounds.setdefault(line["round"], []).append(line)
    return [(lines[0]["phase"], lines[0]["round_wall_s"], lines) for lines in rounds.values()]


def _a_line_a_round(history: Sequence[Line]) -> list[Line]:
    return [lines[0] for _, _, lines in _rounds(history)]
