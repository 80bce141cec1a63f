"""How long it takes from ``flwr run`` to the first step, in simulation, beside the naive app on the same Flower.

``python -m simulations.bench.first_step`` starts both in turns, with two clients. Ours counts until the body service
has the first activations, after enrolment; the naive app until its server has them. Neither evaluates before.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from simulations.bench.cases import images, train, words
from simulations.bench.naive_way import run_naive
from simulations.bench.record import Record, arguments, report
from simulations.flower import local_flower
from simulations.processes import unwind_when_ended

NODES = 2


def main(given: list[str] | None = None) -> list[Record]:
    """Measure in turns, print a table, and write the JSON."""
    parser = arguments("first_step", __doc__)
    parser.add_argument("--repeats", type=int, default=7, help="two where it is quick")
    options = parser.parse_args(given)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = images(folder / "images")
        with local_flower(folder / "flwr", {"TAVIT_STATE_DIR": f"{folder}/state"}) as flower:
            for repeat in range(2 if options.quick else options.repeats):
                output = folder / f"run-{repeat}"
                began = time.time()
                train(flower, words("small", NODES, pictures), output, rounds=1, steps=1, nodes=NODES)
                ours_s = json.loads((output / "results.json").read_text())["first_step_time"] - began
                began = time.time()
                naive_s = run_naive(flower, 1, folder / "naive.json", NODES)["first"] - began
                rows.append({"ours_s": ours_s, "naive_s": naive_s, "ratio": ours_s / naive_s})
    pairs = [row["ours_s"] for row in rows], [row["naive_s"] for row in rows]
    records = [Record.of("first_step_s/simulation", "s", *pairs)]
    return report(options.output, records, rows, "from `flwr run` to the first step, simulation")


if __name__ == "__main__":
    unwind_when_ended()
    main()
