"""What the options for frozen phases gain, beside the same session without them and beside the unsplit loop.

``python -m simulations.bench.frozen_options`` does sessions of one client in turns, with real parts, TLS and the server
in a process of its own:

* ``task-specific``: over the stream, and with ``lend_body``, where the client has the body and nothing crosses;
* ``task-agnostic``: over the stream, and with ``fixed_batches``, where a few batches come again and the frozen head
  runs once over each.

``bytes_a_step`` cross at each step, ``bytes_once`` for each version of a body and client.

Then it does whole runs of one SuperNode with TLS and keys, two rounds a phase, without the options and with both. A row
is a round, with all that Flower adds to it: the first that is lent a body waits for it to come, and the second round of
the same batches finds all passes on the node's disk. Their price in privacy is in ``docs/security.md``.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from simulations.bench.cases import config_of, images, round_lines, train, words
from simulations.bench.record import Record, arguments, cores, report
from simulations.bench.rig import Server, server
from simulations.bench.steps import add
from simulations.bench.unsplit import PHASE_NAMES, UnsplitLoop
from simulations.deployment import federation
from simulations.flower import Flower
from simulations.processes import unwind_when_ended
from tavit_flwr.client.frozen_passes import FrozenPasses
from tavit_flwr.client.lent import LentBody
from tavit_flwr.client.session import ClientSession
from tavit_flwr.config import TavitConfig
from tavit_flwr.models import build_parts
from tavit_flwr.split.optimisers import build_optimiser
from tavit_flwr.split.phases import PHASES, set_moving
from tavit_flwr.split.precision import set_precision
from tavit_flwr.wire.carrier import Carrier

#: Batches that come again.
FIXED = 4
NONE, LEND, REUSE = "none", "lend_body", "fixed_batches"
#: Steps of a deployed round.
DEPLOYED_STEPS = {"tiny": 40, "small": 40, "paper": 8}


class Client:
    """One client's parts, and a body that it is lent, in this process."""

    def __init__(self, config: TavitConfig, loop: UnsplitLoop) -> None:
        self._parts = build_parts(config.model.preset, seed=config.seed, **config.model.overrides)
        for part in (self._parts.head, self._parts.body, self._parts.tail):
            set_precision(part, config.compute.autocast)
        set_moving(self._parts.body, False)
        moving = [*self._parts.head.parameters(), *self._parts.tail.parameters()]
        self._optimiser = build_optimiser(moving, config.optimiser.client)
        self._batches = loop.batch_of_first

    def measured(self, one: Server, phase: str, option: str, steps: int) -> dict[str, float]:
        """Do one session; milliseconds and bytes a step, and bytes that crossed before the first."""
        if option == LEND:
            body_bytes = sum(4 * weight.numel() for weight in self._parts.body.state_dict().values())
            ms = self._session(LentBody(self._parts.body), phase, steps)
            return {"ms": ms, "bytes_a_step": 0, "bytes_once": body_bytes}
        with one.open(phase, steps) as stream:
            ms = self._session(stream, phase, steps, FIXED if option == REUSE else 0)
            passed = stream.ledger.total("up") + stream.ledger.total("down")
        one.close_session()
        return {"ms": ms, "bytes_a_step": passed / steps, "bytes_once": 0}

    def _session(self, carrier: Carrier, phase: str, steps: int, period: int = 0) -> float:
        kind = PHASES[phase]
        session = ClientSession(
            self._parts.head, self._parts.tail, self._optimiser if kind.client_moves else None,
            lambda step: self._batches(step % period if period else step), kind, "bench",
            FrozenPasses(period) if period else None,
        )  # fmt: skip
        began = time.perf_counter()
        session.run(carrier, steps)
        return 1000 * (time.perf_counter() - began) / steps


def main(given: list[str] | None = None) -> list[Record]:
    """Measure in turns, print a table, and write the JSON."""
    parser = arguments("frozen_options", __doc__)
    parser.add_argument(
        "--presets", nargs="+", default=["small", "paper"], choices=list(DEPLOYED_STEPS), help="small where it is quick"
    )
    parser.add_argument("--repeats", type=int, default=5, help="one where it is quick")
    options = parser.parse_args(given)
    rows: list[dict[str, Any]] = []
    torch.set_num_threads(cores())
    for preset in ("small",) if options.quick else options.presets:
        with tempfile.TemporaryDirectory() as name:
            pictures = images(Path(name) / "images")
            config = config_of(words(preset, 1, pictures))
            loop = UnsplitLoop(config)
            client = Client(config, loop)
            with server(config) as one:
                for phase, option in zip(PHASE_NAMES, (LEND, REUSE), strict=True):
                    rows += compared(client, one, loop, preset, phase, option, 1 if options.quick else options.repeats)
            rows += deployed(Path(name), pictures, preset, 1 if options.quick else min(2, options.repeats))
    return report(options.output, [], rows, "frozen phases, with and without their options")


def compared(
    client: Client, one: Server, loop: UnsplitLoop, preset: str, phase: str, option: str, repeats: int
) -> list[dict[str, Any]]:
    """Rows of one phase, without the option and with it; as many steps as a few batches come again in."""
    steps = int(min(100, max(4 * FIXED, 2 / loop.cost(phase, 2).wall_s)))
    rows = []
    for repeat in range(repeats + 1):
        unsplit_ms = 1000 * loop.cost(phase, steps).wall_s
        torch.set_num_threads(cores())
        for which in (NONE, option):
            found = client.measured(one, phase, which, steps if repeat else 2)
            case = {"preset": preset, "phase": phase, "option": which, "steps": steps}
            ratios = {"unsplit_ms": unsplit_ms, "ratio": found["ms"] / unsplit_ms}
            if repeat:  # the first warms both processes up
                rows.append(case | found | ratios)
    return rows


def deployed(folder: Path, pictures: Path, preset: str, repeats: int) -> list[dict[str, Any]]:
    """Rows of whole runs, one a round."""
    rows = []
    with federation(folder / "flwr", [], {"OMP_NUM_THREADS": str(cores())}) as running:
        add(running, 0, pictures)
        for repeat in range(repeats):
            for on in (False, True):
                rows += rounds(running.flower, preset, pictures, folder / f"run-{repeat}-{on}", on)
    return rows


def rounds(flower: Flower, preset: str, pictures: Path, output: Path, on: bool) -> list[dict[str, Any]]:
    """Run both phases, without options or with both; seconds of each round."""
    steps = DEPLOYED_STEPS[preset]
    given = words(preset, 1, pictures, "federation.enrol_timeout_s=300")
    given += ["schedule.lend_body=true", f"data.fixed_batches={steps}"] if on else []
    _, trained = train(flower, given, output, rounds=2, steps=steps, nodes=None)
    return [
        {"preset": preset, "place": "deployment", "phase": phase, "option": option if on else NONE, "steps": steps,
         "round": number, "round_s": line["round_wall_s"]}
        for phase, option in zip(PHASE_NAMES, (LEND, REUSE), strict=True)
        for number, line in zip(("first", "second"), round_lines(trained, phase), strict=True)
    ]  # fmt: skip


if __name__ == "__main__":
    unwind_when_ended()
    main()
