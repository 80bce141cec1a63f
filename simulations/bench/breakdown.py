"""Where a step's time goes, and whether the parts make up the whole.

``python -m simulations.bench.breakdown`` runs sessions of one client, with real parts, real TLS and the server in a
process of its own, and takes the time of each part where it is done:

* ``client``: reading and degrading a batch, head, tail and loss, the optimiser;
* ``serialise``: writing and reading frames, checks included, on both sides;
* ``body``: what the server computes;
* ``queue``: on the server, between a request and its answer, all that is neither of them: threads that hand over;
* ``network``: what a client waits beyond the server's time: gRPC, TLS, sockets, on both sides.

In the task-agnostic phase the client runs the next head while the server works; ``overlap`` is that time, counted
twice in the parts. ``sum`` adds them all up, the overlap taken off; ``rest`` is what no part accounts for, and
``unsplit`` the same step in one process, in turns.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from simulations.bench.cases import config_of, images, words
from simulations.bench.record import Record, arguments, cores, report
from simulations.bench.rig import Server, Stopwatch, server
from simulations.bench.unsplit import PHASE_NAMES, UnsplitLoop
from tavit_flwr.client import session as client_session
from tavit_flwr.client.session import Batches, ClientSession
from tavit_flwr.config import TavitConfig
from tavit_flwr.models import build_parts
from tavit_flwr.split.optimisers import build_optimiser
from tavit_flwr.split.phases import PHASES
from tavit_flwr.split.precision import set_precision
from tavit_flwr.wire import stream_client

COMPUTE = ("data", "head and tail", "optimiser")


class Client:
    """One client's parts in this process, every function timed that a step consists of."""

    def __init__(self, config: TavitConfig, batches: Batches, watch: Stopwatch) -> None:
        parts = build_parts(config.model.preset, seed=config.seed, **config.model.overrides)
        self._head, self._tail = parts.head, parts.tail
        for part in (parts.head, parts.tail):
            set_precision(part, config.compute.autocast)
        self._optimiser = build_optimiser([*parts.head.parameters(), *parts.tail.parameters()], config.optimiser.client)
        watch.around(self._optimiser, "step", "optimiser")
        self._watch, self._batches = watch, batches

    def run(self, one: Server, phase: str, steps: int) -> dict[str, float]:
        """Do one session; seconds a step by part, and the wall's."""

        def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
            began = time.perf_counter()
            drawn = self._batches(step)
            self._watch.add("data", time.perf_counter() - began)
            return drawn

        self._watch.take()
        kind = PHASES[phase]
        session = ClientSession(
            self._head, self._tail, self._optimiser if kind.client_moves else None, batch, kind, "bench"
        )
        with one.open(phase, steps) as stream:
            began = time.perf_counter()
            session.run(stream, steps)
            wall_s = time.perf_counter() - began
            wait_s = stream.wait_s
        there, here = one.close_session(), self._watch.take()
        client_s = sum(here.get(name, 0.0) for name in COMPUTE)
        connect_s = here.get("connect", 0.0)
        written_s = here["deserialise"] + here["send"] - connect_s
        read_s = there["serialise"] + there["deserialise"]
        queue_s = there["answering"] - there["body"] - read_s
        beyond_s = wait_s - there["answering"]  # negative where the client works meanwhile
        parts = {
            "client": client_s, "serialise": written_s + read_s, "body": there["body"], "queue": queue_s,
            "network": max(0.0, beyond_s), "overlap": min(0.0, beyond_s), "connect": connect_s,
        }  # fmt: skip
        sum_s = sum(parts.values())
        whole = {"wall": wall_s} | parts | {"sum": sum_s, "rest": wall_s - sum_s}
        return {name: value / steps for name, value in whole.items()}


def main(given: list[str] | None = None) -> list[Record]:
    """Measure in turns, print a table, and write the JSON."""
    parser = arguments("breakdown", __doc__)
    parser.add_argument("--presets", nargs="+", default=["small", "paper"])
    parser.add_argument("--repeats", type=int, default=3, help="one where it is quick")
    parser.add_argument("overrides", nargs="*", default=[], help="Hydra overrides, e.g. wire.dtype=bfloat16")
    options = parser.parse_intermixed_args(given)
    rows: list[dict[str, Any]] = []
    watch = watched()
    for preset in ("small",) if options.quick else options.presets:
        with tempfile.TemporaryDirectory() as name:
            config = config_of(words(preset, 1, images(Path(name) / "images"), *options.overrides))
            loop = UnsplitLoop(config)
            client = Client(config, loop.batch_of_first, watch)
            with server(config) as one:
                for phase in PHASE_NAMES:
                    rows += measured(client, one, loop, preset, phase, 1 if options.quick else options.repeats)
    return report(options.output, [], rows, "where a step's time goes, ms")


def measured(
    client: Client, one: Server, loop: UnsplitLoop, preset: str, phase: str, repeats: int
) -> list[dict[str, Any]]:
    """Rows of one phase: milliseconds a step."""
    torch.set_num_threads(cores())
    steps = int(min(100, max(4, 2 / loop.cost(phase, 2).wall_s)))
    client.run(one, phase, 2)  # warms both processes up
    rows = []
    for _ in range(repeats):
        unsplit_s = loop.cost(phase, steps).wall_s
        parts = client.run(one, phase, steps)
        shown = {name: 1000 * value for name, value in parts.items()}
        rows.append({"preset": preset, "phase": phase, **shown, "unsplit": 1000 * unsplit_s})
    return rows


def watched() -> Stopwatch:
    """Time the client's functions in this process from now on."""
    watch = Stopwatch()
    for name in ("head_forward", "tail_forward_backward", "head_backward"):
        watch.around(client_session, name, "head and tail")
    watch.around(stream_client, "decode", "deserialise")
    watch.around(stream_client.StreamClient, "send", "send")
    watch.around(stream_client.StreamClient, "_connect", "connect")
    return watch


if __name__ == "__main__":
    main()
