"""A body service in a process of its own, and a client's end here: a session without Flower, to look inside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from simulations.bench.record import cores
from tavit_flwr.config import TavitConfig
from tavit_flwr.models import build_body, initialise_part
from tavit_flwr.server import channel as server_channel
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.server.initial import preset_of
from tavit_flwr.server.sessions import Session
from tavit_flwr.split.phases import PHASES
from tavit_flwr.split.precision import set_precision
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.stream_client import StreamClient

_TIMEOUT_S = 300.0


class Stopwatch:
    """Adds up the seconds that functions take, by name.

    Attributes
    ----------
    seconds : dict
        Name to seconds on the wall.
    calls : dict
        Name to number of calls.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def around(self, owner: Any, attribute: str, name: str) -> None:  # noqa: ANN401 - a module or class
        """Replace a function of a module or class by one that is timed; for the life of the process."""
        function = getattr(owner, attribute)

        def timed(*given: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever it takes and gives
            began = time.perf_counter()
            try:
                return function(*given, **options)
            finally:
                self.add(name, time.perf_counter() - began)

        setattr(owner, attribute, timed)

    def add(self, name: str, seconds: float) -> None:
        """Add to a name."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.calls[name] = self.calls.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Give the seconds so far, and begin anew."""
        taken, self.seconds, self.calls = self.seconds, {}, {}
        return taken


@dataclass
class Server:
    """The other process; made by `server`."""

    pipe: Connection
    config: TavitConfig

    def open(self, phase: str, steps: int, route: Callable[[str], str] = lambda address: address) -> StreamClient:
        """Open a session of one client there, and connect to it; `route` may put something before its address."""
        self.pipe.send((phase, steps))
        address, token, certificate = self.pipe.recv()
        return StreamClient(
            route(address), token, certificate, phase, Limits.of(self.config.wire, phase), client="c0",
            first_timeout_s=_TIMEOUT_S, step_timeout_s=_TIMEOUT_S, session_timeout_s=_TIMEOUT_S,
        )  # fmt: skip

    def close_session(self) -> dict[str, float]:
        """End the session, and give what the server counted of it, seconds by name."""
        self.pipe.send(None)
        counted: dict[str, float] = self.pipe.recv()
        return counted


@contextmanager
def server(config: TavitConfig, *, timed: bool = True) -> Iterator[Server]:
    """Start a body service of this configuration, in another process where it is `timed`, else in a thread."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, config, Stopwatch()), daemon=True) if timed else None
    thread = threading.Thread(target=_serve, args=(there, config, None), daemon=True)
    (process or thread).start()
    try:
        yield Server(here, config)
    finally:
        here.close()
        (process or thread).join(10)
        if process is not None:
            process.kill()


def _serve(pipe: Connection, config: TavitConfig, watch: Stopwatch | None) -> None:
    if watch is not None:
        torch.set_num_threads(cores())
        watch.around(server_channel, "decode", "deserialise")
        watch.around(server_channel.Channel, "answer", "serialise")
    preset = preset_of(config)
    body = build_body(preset)
    initialise_part(body, config.seed, "bench", "body")
    set_precision(body, config.compute.autocast)
    settings = config.optimiser.server
    with BodyService(config.wire, threads=cores()) as service:
        host = BodyHost("natural", body, settings, preset.body_dim, config.seed)
        while True:
            try:
                phase, steps = pipe.recv()
            except EOFError:
                return
            kind = PHASES[phase]
            host.begin_phase(moves=kind.body_moves)
            cohort = None
            if kind.body_moves:
                cohort = Cohort(
                    host, [Member("c0", "denoise")], input_gradient=kind.client_moves, step_path=("bench",),
                    join_timeout_s=_TIMEOUT_S, step_timeout_s=_TIMEOUT_S, quorum=1.0,
                    threads=service.cores,
                )  # fmt: skip
            session = Session("c0", "denoise", host, phase, steps, cohort)
            certificate = service.certificate.certificate_pem if service.certificate else b""
            pipe.send((service.address, service.open(session), certificate))
            try:
                pipe.recv()
            except EOFError:
                return
            answering = {"answering": session.exchange.answering_s, "body": session.body_s}
            pipe.send(answering if watch is None else watch.take() | answering)
            service.end_round()
