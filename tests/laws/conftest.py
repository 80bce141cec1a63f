"""A small federation in one process: real body service, real gRPC with TLS, one thread a client.

``TAVIT_TEST_DEVICE=cuda`` puts bodies, heads and tails on a GPU; laws that promise bits hold them on the CPU only.
"""

from __future__ import annotations

import copy
import os
import threading
from dataclasses import dataclass, field, replace

import pytest
import torch

from tavit_flwr.client.frozen_passes import FrozenPasses
from tavit_flwr.client.session import ClientSession
from tavit_flwr.config import OptimiserConfig, WireConfig
from tavit_flwr.models import build_body, build_head, build_tail, initialise_part, preset
from tavit_flwr.seeding import derive_seed, generator
from tavit_flwr.server import body_service
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.server.gathering import Gathering
from tavit_flwr.server.sessions import Session
from tavit_flwr.split.devices import choose_device
from tavit_flwr.split.optimisers import build_optimiser
from tavit_flwr.split.phases import PHASES
from tavit_flwr.split.unsplit import UnsplitClient, unsplit_step
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.stream_client import StreamClient

ARCHITECTURE = preset("tiny")
SEED = 7
DEVICE = choose_device(os.environ.get("TAVIT_TEST_DEVICE", "cpu"), "TAVIT_TEST_DEVICE")


@dataclass
class LabClient:
    name: str
    task: str
    head: torch.nn.Module
    tail: torch.nn.Module
    optimiser: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    ledger: object = None

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = generator(SEED, "lab", self.name, step)
        side = ARCHITECTURE.crop
        clean = torch.rand(2, 3, side, side, generator=draws) * 2 - 1
        return (clean + 0.3 * torch.randn(clean.shape, generator=draws)).clamp(-1, 1), clean


def _trained_looking(part, *path):
    """Initialise, then move every zero a little, so that gates and residuals are open and all gradients flow."""
    initialise_part(part, SEED, *path)
    draws = generator(SEED, "open", *path)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draws))
    return part


class Lab:
    """Clients and one body, stepped split or unsplit from the same start."""

    def __init__(self, tasks, optimiser):
        self.config = optimiser
        self.body = _trained_looking(build_body(ARCHITECTURE), "body")
        self.host = BodyHost("natural", self.body, optimiser, ARCHITECTURE.body_dim, SEED, DEVICE)
        self.clients = []
        for index, task in enumerate(tasks):
            head = _trained_looking(build_head(ARCHITECTURE), "head", task, index).to(DEVICE)
            tail = _trained_looking(build_tail(ARCHITECTURE), "tail", task, index).to(DEVICE)
            moving = build_optimiser([*head.parameters(), *tail.parameters()], optimiser)
            self.clients.append(LabClient(f"c{index}", task, head, tail, moving))
        self.sessions = []

    def weights(self):
        parts = {"body": self.body} | {
            f"{client.name}/{part}": getattr(client, part) for client in self.clients for part in ("head", "tail")
        }
        return {
            f"{owner}/{name}": value.clone().cpu()
            for owner, part in parts.items()
            for name, value in part.state_dict().items()
        }

    def run_split(
        self,
        phase_name,
        steps,
        *,
        invited=(),
        beside=None,
        route=lambda address, client: address,
        quorum=1.0,
        wire=None,
        period=0,
        gathers=False,
        **limits,
    ):
        """Train over the stream; others may be `invited` into the cohort, and `beside` runs meanwhile.

        `route` may put something between a client and the address of the service.
        """
        phase = PHASES[phase_name]
        self.host.begin_phase(moves=phase.body_moves)
        wire = wire or WireConfig()
        wire = replace(wire, **{"join_timeout_s": 20, "step_timeout_s": 20, "session_timeout_s": 60} | limits)
        cohort = None
        if phase.body_moves:
            cohort = Cohort(
                self.host,
                [Member(client.name, client.task) for client in self.clients]
                + [Member(name, self.clients[0].task) for name in invited],
                input_gradient=phase.client_moves,
                step_path=(1, phase_name, 1),
                join_timeout_s=20,
                step_timeout_s=wire.step_timeout_s,
                quorum=quorum * len(self.clients) / (len(self.clients) + len(invited)),
            )
        gathering = Gathering(self.host, wire.step_timeout_s) if gathers else None
        sessions = [
            Session(one.name, one.task, self.host, phase_name, steps, cohort, gathering=gathering)
            for one in self.clients
        ]
        self.sessions += sessions
        errors = []
        with BodyService(wire, threads=1) as service:

            def run(client, session):
                work = ClientSession(
                    client.head,
                    client.tail,
                    client.optimiser,
                    client.batch,
                    phase,
                    f"client {client.name}",
                    FrozenPasses(period) if period else None,
                )
                try:
                    with StreamClient(
                        route(service.address, client),
                        service.open(session),
                        service.certificate.certificate_pem,
                        phase_name,
                        Limits.of(wire, phase_name),
                        client=client.name,
                        first_timeout_s=20,
                        step_timeout_s=20,
                        session_timeout_s=60,
                        connect_timeout_s=wire.step_timeout_s,
                    ) as stream:
                        client.losses += work.run(stream, steps).losses
                        client.ledger = stream.ledger
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=run, args=pair) for pair in zip(self.clients, sessions, strict=True)]
            if beside is not None:
                threads.append(threading.Thread(target=lambda: beside(service, cohort)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        if errors:
            raise errors[0]

    def run_unsplit(self, phase_name, steps):
        body_optimiser = build_optimiser(self.body.parameters(), self.config)
        members = [UnsplitClient(one.task, one.head, one.tail, one.optimiser) for one in self.clients]
        for step in range(steps):
            batches = [tuple(image.to(DEVICE) for image in client.batch(step)) for client in self.clients]
            seed = derive_seed(SEED, "dropout", "natural", 1, phase_name, 1, step)
            phase = PHASES[phase_name]
            groups = [list(range(len(members)))] if phase.body_moves else [[index] for index in range(len(members))]
            for group in groups:
                losses = unsplit_step(
                    [members[index] for index in group],
                    self.body,
                    body_optimiser,
                    [batches[index] for index in group],
                    phase,
                    seed,
                )
                for index, loss in zip(group, losses, strict=True):
                    self.clients[index].losses.append(float(loss))


@pytest.fixture
def make_lab():
    torch.set_num_threads(1)

    def make(tasks, optimiser=None):
        return Lab(tasks, optimiser or OptimiserConfig(name="sgd", lr=0.05))

    return make


@pytest.fixture
def twin(make_lab):
    """Two labs that begin with equal weights."""

    def make(tasks, optimiser=None):
        return make_lab(tasks, copy.deepcopy(optimiser)), make_lab(tasks, optimiser)

    return make


class Watch:
    """All that client and server do; a mode of torch sees its own thread alone, so there is one for each call."""

    def __init__(self, monkeypatch, make):
        self._modes = {"client": [], "server": []}

        def watched(side, function):
            def call(*arguments, **options):
                with make() as mode:
                    self._modes[side].append(mode)
                    return function(*arguments, **options)

            return call

        work = BodyService._work
        monkeypatch.setattr(ClientSession, "run", watched("client", ClientSession.run))
        monkeypatch.setattr(body_service, "serve", watched("server", body_service.serve))
        monkeypatch.setattr(
            BodyService, "_work", lambda service, function, *rest, **options: work(
                service, watched("server", function), *rest, **options
            ),
        )  # fmt: skip

    def count(self, side):
        return sum(mode.count for mode in self._modes[side])


@pytest.fixture
def watching(monkeypatch):
    """Count what client and server do from now on, by modes of a kind."""
    return lambda make: Watch(monkeypatch, make)
