"""How long a run will take on this machine, from a few timed steps of each kind of phase."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tavit_flwr.config import TavitConfig
from tavit_flwr.models import build_body, build_head, build_tail, initialise_part
from tavit_flwr.seeding import generator
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.cost import estimate, simulated_rounds
from tavit_flwr.server.initial import preset_of
from tavit_flwr.split.client_side import head_backward, head_forward, tail_forward_backward, tail_restore
from tavit_flwr.split.devices import choose_device
from tavit_flwr.split.optimisers import build_optimiser
from tavit_flwr.split.phases import PHASES, set_moving
from tavit_flwr.split.precision import set_precision
from tavit_flwr.split.server_side import body_backward

#: What the parts do in a step.
PASSES = tuple(f"{part} {way}" for part in ("head", "body", "tail") for way in ("forward", "backward"))


@dataclass(frozen=True)
class StepTime:
    """Median seconds that one client-step of a phase takes.

    Attributes
    ----------
    phase : str
        The phase's name.
    client_s, server_s : float
        On either side.
    parts_s : dict
        Of each of `PASSES`. The body's backward pass is with its optimiser's step, the tail's with the loss; on a GPU
        the tail's two passes are not told apart exactly.
    """

    phase: str
    client_s: float
    server_s: float
    parts_s: dict[str, float] = field(default_factory=dict)


class TimedSteps:
    """One client and one body of a configuration, on its devices, with drawn pixels in place of images.

    Parameters
    ----------
    config : TavitConfig
        The experiment.
    """

    def __init__(self, config: TavitConfig) -> None:
        preset, seed = preset_of(config), config.seed
        client_device = choose_device(config.compute.client_device, "compute.client_device")
        server_device = choose_device(config.compute.server_device, "compute.server_device")
        self._head = build_head(preset, config.model.time_step)
        self._tail = build_tail(preset)
        body = build_body(preset)
        for part, name in ((self._head, "head"), (self._tail, "tail"), (body, "body")):
            initialise_part(part, seed, "timed", name)
            set_precision(part, config.compute.autocast)
        self._head.to(client_device)
        self._tail.to(client_device)
        moving = [*self._head.parameters(), *self._tail.parameters()]
        self._optimiser = build_optimiser(moving, config.optimiser.client)
        self._host = BodyHost("timed", body, config.optimiser.server, preset.body_dim, seed, server_device)
        self._tail_forward_done = 0.0
        self._tail.register_forward_hook(self._note_tail)
        shape = config.data.batch_size, 3, config.data.crop, config.data.crop
        self._clean = torch.rand(shape, generator=generator(seed, "timed", "clean")) * 2 - 1
        self._degraded = (self._clean + 0.1).clamp(-1, 1)

    def time(self, phase: str, repeats: int) -> StepTime:
        """Do one step to warm up and `repeats` timed ones."""
        kind = PHASES[phase]
        for part in (self._head, self._tail):
            set_moving(part, kind.client_moves)
        self._host.begin_phase(moves=kind.body_moves)
        times = [self._step(phase) for _ in range(repeats + 1)][1:]
        client_s, server_s, *parts = (statistics.median(values) for values in zip(*times, strict=True))
        return StepTime(phase, client_s, server_s, dict(zip(PASSES, parts, strict=True)))

    def time_window(self, repeats: int) -> StepTime:
        """Do one batch of an evaluation to warm up and `repeats` timed ones; the times are those of one window."""
        for part in (self._head, self._tail):
            set_moving(part, False)
        self._host.begin_phase(moves=False)
        times = [self._evaluate() for _ in range(repeats + 1)][1:]
        client_s, server_s = (statistics.median(side) / len(self._degraded) for side in zip(*times, strict=True))
        return StepTime("evaluation", client_s, server_s)

    def _evaluate(self) -> tuple[float, float]:
        began = time.perf_counter()
        head_pass = head_forward(self._head, self._degraded, moves=False)
        smashed = head_pass.sent
        head_done = time.perf_counter()
        features = self._host.forward_frozen(smashed, input_gradient=False).sent
        body_done = time.perf_counter()
        tail_restore(self._tail, features, head_pass, self._degraded)
        return (head_done - began) + (time.perf_counter() - body_done), body_done - head_done

    def _step(self, phase: str) -> tuple[float, ...]:
        """One step: seconds on the client, on the server, of each of `PASSES`.

        What crosses is put on the CPU, which waits for a GPU.
        """
        kind = PHASES[phase]
        began = time.perf_counter()
        self._optimiser.zero_grad(set_to_none=True)
        head_pass = head_forward(self._head, self._degraded, moves=kind.client_moves)
        smashed = head_pass.sent
        head_done = time.perf_counter()
        if kind.body_moves:
            body_pass = self._host.forward_moving([smashed], input_gradient=kind.client_moves, step_path=("timed",))
        else:
            body_pass = self._host.forward_frozen(smashed, input_gradient=True)
        features = body_pass.sent
        forward_done = time.perf_counter()
        tail_pass = tail_forward_backward(self._tail, features, head_pass, self._degraded, self._clean)
        gradient = tail_pass.sent
        tail_done = time.perf_counter()
        grad_smashed: Tensor | None = None
        if kind.body_moves:
            returned = self._host.backward_and_step(body_pass, [gradient], [1.0])
            grad_smashed = returned[0] if returned else None
        else:
            grad_smashed = body_backward(body_pass, gradient)
        backward_done = time.perf_counter()
        if grad_smashed is not None:
            head_backward(head_pass, grad_smashed, tail_pass.grad_local)
        head_backward_done = time.perf_counter()
        if kind.client_moves:
            self._optimiser.step()
        ended = time.perf_counter()
        client_s = (head_done - began) + (tail_done - forward_done) + (ended - backward_done)
        return (
            client_s, (forward_done - head_done) + (backward_done - tail_done),
            head_done - began, head_backward_done - backward_done, forward_done - head_done, backward_done - tail_done,
            self._tail_forward_done - forward_done, tail_done - self._tail_forward_done,
        )  # fmt: skip

    def _note_tail(self, *_: object) -> None:
        self._tail_forward_done = time.perf_counter()


def timed_lines(config: TavitConfig, repeats: int) -> list[str]:
    """Time each kind of phase of a configuration, and say what that makes of the whole run."""
    steps = TimedSteps(config)
    times = {one.kind: steps.time(one.kind, repeats) for one in config.schedule.phases}
    in_turn_s = apart_s = 0.0
    for one, chosen in simulated_rounds(config):
        step, clients = times[one.phase], len(chosen)
        in_turn_s += one.steps * clients * (step.client_s + step.server_s)
        if PHASES[one.phase].body_moves:  # the server takes the cohort as one batch, then the clients go on together
            apart_s += one.steps * (step.client_s + clients * step.server_s)
        elif config.schedule.lend_body:  # each client has the body itself
            apart_s += one.steps * (step.client_s + step.server_s)
        else:  # the slower of one client's own round, and a server that is busy with all of them
            apart_s += one.steps * max(step.client_s + step.server_s, clients * step.server_s)
    cost, window = estimate(config), steps.time_window(repeats)
    most = max((one.windows for one in cost.scored), default=0) * cost.evaluations  # of one client
    scoring_in_turn_s = cost.evaluation_windows * (window.client_s + window.server_s)
    scoring_apart_s = max(most * (window.client_s + window.server_s), cost.evaluation_windows * window.server_s)
    return [
        *(
            f"{one.phase}: {1000 * one.client_s:,.0f} ms on the client and {1000 * one.server_s:,.0f} ms on the server "
            f"a step, median of {repeats}"
            for one in times.values()
        ),
        f"evaluation: {1000 * window.client_s:,.1f} ms on the client and {1000 * window.server_s:,.1f} ms on the "
        "server a window",
        _both("training", in_turn_s, apart_s),
        _both("evaluation", scoring_in_turn_s, scoring_apart_s),
        _both("together", in_turn_s + scoring_in_turn_s, apart_s + scoring_apart_s),
        "not in these times: reading and degrading images, the wire, averaging"
        + (f"; evaluation of {', '.join(cost.unknown)}" if cost.unknown else "")
        + ("; passes of the head that data.fixed_batches spares are in them" if config.data.fixed_batches else ""),
    ]


def _both(what: str, in_turn_s: float, apart_s: float) -> str:
    return (
        f"{what}: about {_time(in_turn_s)} with all clients in turn on this machine, {_time(apart_s)} with a machine "
        "like this one for each client and for the server"
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
