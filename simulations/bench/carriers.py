"""What a step costs over either carrier: the stream, or Flower messages with one minibatch or four in each.

``python -m simulations.bench.carriers`` trains one client of preset ``small`` in simulation and on a SuperLink with one
SuperNode, both on loopback. Seconds are those of a minibatch, from the start of a round's session to its end; what
Flower takes to begin and end a round is told apart: ``round_s``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from simulations.bench.cases import images, round_lines, train, words
from simulations.bench.record import Record, arguments, report
from simulations.bench.steps import add
from simulations.bench.unsplit import PHASE_NAMES
from simulations.deployment import federation
from simulations.flower import Flower, local_flower
from simulations.processes import unwind_when_ended

PLACES = ("simulation", "deployment")
#: Carrier, minibatches in one step, and steps of a round: as few as messages are slow.
CASES = (("stream", 1, 40), ("messages", 1, 4), ("messages", 4, 2))
QUICK = (("stream", 1, 20), ("messages", 1, 2), ("messages", 4, 1))


def main(given: list[str] | None = None) -> list[Record]:
    """Measure, print a table, and write the JSON."""
    parser = arguments("carriers", __doc__)
    parser.add_argument("--places", nargs="+", default=list(PLACES), choices=PLACES)
    options = parser.parse_args(given)
    cases = QUICK if options.quick else CASES
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = images(folder / "images")
        if "simulation" in options.places:
            with local_flower(folder / "local", {"TAVIT_STATE_DIR": f"{folder}/state"}) as flower:
                rows += measured("simulation", flower, cases, pictures, folder)
        if "deployment" in options.places:
            with federation(folder / "deployed", []) as running:
                add(running, 0, pictures)
                rows += measured("deployment", running.flower, cases, pictures, folder)
    return report(options.output, [], rows, "a minibatch of one client over either carrier")


def measured(
    place: str, flower: Flower, cases: tuple[tuple[str, int, int], ...], pictures: Path, folder: Path
) -> list[dict[str, Any]]:
    """Run each case once, the stream first; a row for each of its phases."""
    rows: list[dict[str, Any]] = []
    stream_s: dict[str, float] = {}
    for carrier, together, steps in cases:
        given = words(
            "small", 1, pictures, f"wire.carrier={carrier}", f"wire.minibatches_per_message={together}",
            "federation.enrol_timeout_s=300",
        )  # fmt: skip
        output = folder / f"{place}-{carrier}-{together}"
        nodes = 1 if place == "simulation" else None
        _, trained = train(flower, given, output, rounds=1, steps=steps * together, nodes=nodes)
        for phase in PHASE_NAMES:
            (line,) = round_lines(trained, phase)
            minibatch_s = line["round_session_s"] / (steps * together)
            times = minibatch_s / stream_s.setdefault(phase, minibatch_s)
            rows.append({"place": place, "carrier": carrier, "minibatches": str(together), "phase": phase,
                         "minibatch_s": minibatch_s, "times_the_stream": times,
                         "round_s": line["round_wall_s"] - line["round_session_s"]})  # fmt: skip
    return rows


if __name__ == "__main__":
    unwind_when_ended()
    main()
