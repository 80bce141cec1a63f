"""A deployed client-step beside both its limits: the unsplit loop, and one Flower message per exchange.

``python -m simulations.bench.naive_way`` deploys two SuperNodes on loopback, with TLS and keys, and measures in turns,
with preset ``small`` and 4 crops a step,

* ``unsplit``: the same clients in one process, as `simulations.bench.steps` has them; before and after each run;
* ``ours``: client-steps of a real ``flwr run``, of both phases. ``messages_s`` are the seconds that a round takes
  besides: Flower's messages, for which a process starts each, and averaging;
* ``naive``: the same split with two Flower messages a step, as Flower's vertical-fl example does, task-specific; see
  ``simulations/naive``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from simulations.bench.cases import config_of, images, round_lines, train, words
from simulations.bench.record import Record, arguments, report
from simulations.bench.steps import add
from simulations.bench.unsplit import PHASE_NAMES, UnsplitLoop
from simulations.deployment import federation
from simulations.flower import ROOT, Flower
from tavit_flwr.errors import SessionError

NODES, BATCH, CROP = 2, 4, 64
STEPS = 100


def main(given: list[str] | None = None) -> list[Record]:
    """Measure, print a table, and write the JSON."""
    parser = arguments("naive_way", __doc__)
    parser.add_argument("--steps", type=int, default=5, help="of the naive way, after the first; two where it is quick")
    options = parser.parse_args(given)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = images(folder / "images")
        with federation(folder / "flwr", []) as running:
            for number in range(NODES):
                add(running, number, pictures)
            for repeat in range(1 if options.quick else 2):
                split = beside_unsplit(running.flower, pictures, folder / f"run-{repeat}")
                (ours_ms,) = (row["ours_ms"] for row in split if row["phase"] == PHASE_NAMES[0])
                rows += split
                for naive_s in naive(running.flower, 2 if options.quick else options.steps, folder):
                    ratio = 1000 * naive_s / ours_ms
                    rows.append({"beside": "naive", "phase": PHASE_NAMES[0], "naive_s": naive_s, "naive_ratio": ratio,
                                 "ours_ms": ours_ms})  # fmt: skip
    slow = [row for row in rows if row["beside"] == "naive"]
    record = Record.of(
        "naive_ratio/deployment", "s a client-step", [row["naive_s"] for row in slow],
        [row["ours_ms"] / 1000 for row in slow],
    )  # fmt: skip
    return report(options.output, [record], rows, "a deployed client-step, two SuperNodes, preset small")


def beside_unsplit(flower: Flower, pictures: Path, output: Path) -> list[dict[str, Any]]:
    """Run both phases, a round each, between two measurements of the unsplit loop; a row for each phase."""
    given = words("small", NODES, pictures, f"data.batch_size={BATCH}", "federation.enrol_timeout_s=300")
    loop = UnsplitLoop(config_of(given))
    before = [loop.median_cost(phase, STEPS) for phase in PHASE_NAMES]
    _, trained = train(flower, given, output, rounds=1, steps=STEPS, nodes=None)
    after = [loop.median_cost(phase, STEPS) for phase in PHASE_NAMES]
    rows: list[dict[str, Any]] = []
    for phase, first, last in zip(PHASE_NAMES, before, after, strict=True):
        (line,) = round_lines(trained, phase)
        ours_ms = 1000 * line["round_session_s"] / (STEPS * NODES)
        unsplit_ms = 1000 * (first.wall_s + last.wall_s) / 2
        messages_s = line["round_wall_s"] - line["round_session_s"]
        rows.append({"beside": "unsplit", "phase": phase, "unsplit_ms": unsplit_ms, "ours_ms": ours_ms,
                     "step_ratio": ours_ms / unsplit_ms, "messages_s": messages_s})  # fmt: skip
    return rows


def naive(flower: Flower, steps: int, folder: Path) -> list[float]:
    """Seconds a client-step with one Flower message per exchange; the first step, which warms up, is left out."""
    measured = run_naive(flower, steps + 1, folder / "naive.json")
    return [seconds / measured["clients"] for seconds in measured["seconds"][1:]]


def run_naive(flower: Flower, steps: int, output: Path, nodes: int | None = None) -> dict[str, Any]:
    """Run the naive app and give what it wrote.

    Raises
    ------
    SessionError
        When it wrote nothing.
    """
    output.unlink(missing_ok=True)
    values: dict[str, str | int] = {"steps": steps, "batch": BATCH, "crop": CROP, "output": str(output)}
    options = ["--federation-config", f"num-supernodes={nodes} init-args-num-cpus={nodes}"] if nodes else []
    outcome = flower.run_app(ROOT / "simulations" / "naive", values, options)
    if not output.is_file():
        raise SessionError("a run of the naive app", outcome.log[-2000:], "flwr run")
    measured: dict[str, Any] = json.loads(output.read_text())
    return measured


if __name__ == "__main__":
    main()
