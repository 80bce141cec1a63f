"""A deployed client-step beside both its limits: the unsplit loop, and one Flower message per exchange.

``python -m simulations.bench.naive_way`` deploys two SuperNodes on loopback, with TLS and keys, and measures in turns,
with 4 crops a step, for the preset ``small``, whose step is mostly computing, and for ``tiny``, whose is not,

* ``unsplit``: the same clients in one process, as `simulations.bench.steps` has them; before and after each run;
* ``ours``: client-steps of a real ``flwr run``, of both phases. ``messages_s`` are the seconds that a round takes
  besides: Flower's messages, for which a process starts each, and averaging;
* ``naive``: the same split with two Flower messages a step, as Flower's vertical-fl example does, task-specific; see
  ``simulations/naive``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from simulations.bench.cases import BESIDE_NAIVE, config_of, images, round_lines, train, words
from simulations.bench.cases import NODES_BESIDE_NAIVE as NODES
from simulations.bench.record import Record, arguments, report
from simulations.bench.steps import add
from simulations.bench.unsplit import PHASE_NAMES, UnsplitLoop
from simulations.deployment import federation
from simulations.flower import ROOT, Flower
from simulations.processes import unwind_when_ended
from tavit_flwr.errors import SessionError

BATCH = 4
STEPS = 100


def main(given: list[str] | None = None) -> list[Record]:
    """Measure, print a table, and write the JSON."""
    parser = arguments("naive_way", __doc__)
    parser.add_argument("--steps", type=int, default=5, help="of the naive way, after the first; two where it is quick")
    parser.add_argument("--presets", nargs="+", default=list(BESIDE_NAIVE), choices=BESIDE_NAIVE)
    options = parser.parse_args(given)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = images(folder / "images")
        with federation(folder / "flwr", []) as running:
            for number in range(NODES):
                add(running, number, pictures)
            for preset in options.presets:
                for repeat in range(1 if options.quick else 2):
                    output = folder / f"run-{preset}-{repeat}"
                    steps = 2 if options.quick else options.steps
                    rows += measured(running.flower, preset, pictures, output, steps)
    records = [record for preset in options.presets for record in _records(preset, rows)]
    return report(options.output, records, rows, "a deployed client-step, two SuperNodes")


def measured(flower: Flower, preset: str, pictures: Path, output: Path, steps: int) -> list[dict[str, Any]]:
    """Measure one preset once: a row for each phase, and one for each naive step."""
    given = words(preset, NODES, pictures, f"data.batch_size={BATCH}", "federation.enrol_timeout_s=300")
    rows = beside_unsplit(flower, preset, given, output)
    (ours_ms,) = (row["ours_ms"] for row in rows if row["phase"] == PHASE_NAMES[0])
    naive_s = naive(flower, steps, output.with_suffix(".json"), preset, config_of(given).data.crop)
    return rows + [
        {"preset": preset, "beside": "naive", "phase": PHASE_NAMES[0], "naive_s": one,
         "naive_ratio": 1000 * one / ours_ms, "ours_ms": ours_ms}
        for one in naive_s
    ]  # fmt: skip


def _records(preset: str, rows: Sequence[dict[str, Any]]) -> list[Record]:
    split, slow = (
        [row for row in rows if row["beside"] == way and row["preset"] == preset] for way in ("unsplit", "naive")
    )
    runs = list(zip(*([row for row in split if row["phase"] == phase] for phase in PHASE_NAMES), strict=True))
    ours, unsplit = ([mean(row[key] for row in run) for run in runs] for key in ("ours_ms", "unsplit_ms"))
    name = "naive_ratio/deployment" if preset == BESIDE_NAIVE[0] else f"naive_ratio/deployment/{preset}"
    return [
        Record.of(f"step_ratio/deployment/{preset}/{NODES}", "ms a client-step", ours, unsplit),
        Record.of(name, "s a client-step", [row["naive_s"] for row in slow], [row["ours_ms"] / 1000 for row in slow]),
    ]


def beside_unsplit(flower: Flower, preset: str, given: list[str], output: Path) -> list[dict[str, Any]]:
    """Run both phases, a round each, between two measurements of the unsplit loop; a row for each phase."""
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
        rows.append({"preset": preset, "beside": "unsplit", "phase": phase, "unsplit_ms": unsplit_ms,
                     "ours_ms": ours_ms, "step_ratio": ours_ms / unsplit_ms, "messages_s": messages_s})  # fmt: skip
    return rows


def naive(flower: Flower, steps: int, output: Path, preset: str, crop: int) -> list[float]:
    """Seconds a client-step with one Flower message per exchange; the first step, which warms up, is left out."""
    told = run_naive(flower, steps + 1, output, preset=preset, crop=crop)
    return [seconds / told["clients"] for seconds in told["seconds"][1:]]


def run_naive(
    flower: Flower, steps: int, output: Path, nodes: int | None = None, preset: str = "small", crop: int = 64
) -> dict[str, Any]:
    """Run the naive app and give what it wrote.

    Raises
    ------
    SessionError
        When it wrote nothing.
    """
    output.unlink(missing_ok=True)
    values: dict[str, str | int] = {
        "steps": steps,
        "batch": BATCH,
        "crop": crop,
        "preset": preset,
        "output": str(output),
    }
    options = ["--federation-config", f"num-supernodes={nodes} init-args-num-cpus={nodes}"] if nodes else []
    outcome = flower.run_app(ROOT / "simulations" / "naive", values, options)
    if not output.is_file():
        raise SessionError("a run of the naive app", outcome.log[-2000:], "flwr run")
    told: dict[str, Any] = json.loads(output.read_text())
    return told


if __name__ == "__main__":
    unwind_when_ended()
    main()
