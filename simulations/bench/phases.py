"""What frozen parts save: no gradient that nobody uses is computed.

``python -m simulations.bench.phases`` times both sides' computing of a step of either phase, in turns, in one process,
and tells each part's passes, frozen beside moving. Heads and tails move in the task-specific phase, the body in the
task-agnostic one. ``client`` and ``server`` are all that either side computes, optimisers included; the body's backward
pass includes its optimiser's step. Rows of ``autocast`` are whole steps of both sides with
``compute.autocast=bfloat16`` beside the same without, preset ``small``: a processor without bfloat16 instructions is
slower with it.
"""

from __future__ import annotations

from typing import Any

import torch

from simulations.bench.record import Record, arguments, cores, report
from simulations.bench.unsplit import PHASE_NAMES
from tavit_flwr.config import BFLOAT16, NONE, compose
from tavit_flwr.server.step_times import PASSES, StepTime, TimedSteps


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
            rows += [
                {"preset": preset, **row} for row in compared(*(timed.time(phase, steps) for phase in PHASE_NAMES))
            ]
    rows += autocast(1 if options.quick else repeats, steps)
    own = [row for row in rows if row["preset"] == "paper" and row["what"] == "client"]
    pairs = [row["frozen_ms"] for row in own], [row["moving_ms"] for row in own]
    return report(
        options.output, [Record.of("phase_compute_ratio", "ms a client-step", *pairs)], rows,
        "what each part computes a step, frozen and moving",
    )  # fmt: skip


def compared(specific: StepTime, agnostic: StepTime) -> list[dict[str, Any]]:
    """Rows of the parts and of both sides, frozen beside moving, milliseconds."""
    pairs = {name: (agnostic.parts_s[name], specific.parts_s[name]) for name in PASSES}
    pairs |= {name: (moving, frozen) for name, (frozen, moving) in pairs.items() if name.startswith("body")}
    pairs |= {"client": (agnostic.client_s, specific.client_s), "server": (specific.server_s, agnostic.server_s)}
    return [
        {"what": name, "frozen_ms": 1000 * frozen, "moving_ms": 1000 * moving, "ratio": frozen / moving}
        for name, (frozen, moving) in pairs.items()
    ]


def autocast(repeats: int, steps: int) -> list[dict[str, Any]]:
    """Rows of whole steps with autocast and without, in turns."""
    given = ["model=small", "optimiser=paper", "data.batch_size=4"]
    plain, cast = (TimedSteps(compose([*given, f"compute.autocast={kind}"])) for kind in (NONE, BFLOAT16))
    rows = []
    for _ in range(repeats):
        for phase in PHASE_NAMES:
            float32_s, bfloat16_s = (
                one.client_s + one.server_s for one in (timed.time(phase, steps) for timed in (plain, cast))
            )
            rows.append({"preset": "small", "what": f"autocast, {phase}", "float32_ms": 1000 * float32_s,
                         "bfloat16_ms": 1000 * bfloat16_s, "ratio": bfloat16_s / float32_s})  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
