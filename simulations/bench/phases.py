"""What a client computes in the task-agnostic phase beside the task-specific one: no gradient that nobody uses.

``python -m simulations.bench.phases`` times both sides' computing of a step of either phase, in turns, in one process.
"""

from __future__ import annotations

from typing import Any

import torch

from simulations.bench.record import Record, arguments, cores, report
from simulations.bench.unsplit import PHASE_NAMES
from tavit_flwr.config import compose
from tavit_flwr.server.step_times import TimedSteps


def main(given: list[str] | None = None) -> list[Record]:
    """Measure in turns, print a table, and write the JSON."""
    parser = arguments("phases", __doc__)
    parser.add_argument("--steps", type=int, default=7, help="of each measurement; two where it is quick")
    parser.add_argument("--repeats", type=int, default=7, help="three where it is quick")
    options = parser.parse_args(given)
    steps, repeats = (2, 3) if options.quick else (options.steps, options.repeats)
    torch.set_num_threads(cores())
    rows: list[dict[str, Any]] = []
    for preset in ("small", "paper"):
        batch_size = 2 if preset == "paper" else 4
        timed = TimedSteps(compose([f"model={preset}", "optimiser=paper", f"data.batch_size={batch_size}"]))
        for _ in range(repeats):
            specific, agnostic = (timed.time(phase, steps) for phase in PHASE_NAMES)
            rows.append(
                {
                    "preset": preset, "agnostic_client_ms": 1000 * agnostic.client_s,
                    "specific_client_ms": 1000 * specific.client_s, "ratio": agnostic.client_s / specific.client_s,
                    "agnostic_server_ms": 1000 * agnostic.server_s, "specific_server_ms": 1000 * specific.server_s,
                }
            )  # fmt: skip
    own = [row for row in rows if row["preset"] == "paper"]
    pairs = [row["agnostic_client_ms"] for row in own], [row["specific_client_ms"] for row in own]
    return report(
        options.output, [Record.of("phase_compute_ratio", "ms a client-step", *pairs)], rows,
        "what a client computes a step, by phase",
    )  # fmt: skip


if __name__ == "__main__":
    main()
