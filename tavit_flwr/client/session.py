"""The client's side of a session: many steps, one graph, one optimiser, one carrier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from tavit_flwr.client.frozen_passes import FrozenPass, FrozenPasses
from tavit_flwr.errors import ModelError, ProtocolError
from tavit_flwr.payloads import (
    Close,
    Features,
    GradFeatures,
    GradFeaturesAndSmashed,
    GradSmashed,
    Payload,
    Smashed,
)
from tavit_flwr.split.client_side import HeadPass, TailPass, head_backward, head_forward, tail_forward_backward
from tavit_flwr.split.finite import all_finite
from tavit_flwr.split.phases import Phase, set_moving
from tavit_flwr.wire.carrier import Carrier

P = TypeVar("P", bound=Payload)

#: ``step -> (degraded, clean)``, both [B, C, P, P] in [-1, 1].
Batches = Callable[[int], tuple[Tensor, Tensor]]


@dataclass
class SessionOutcome:
    """What a session leaves behind, besides the moved weights.

    Attributes
    ----------
    losses : list of float
        One per step.
    examples : list of int
        Crops of each step.
    done : int
        Steps after which nothing is left to do here; a session that was interrupted goes on from there.
    """

    losses: list[float] = field(default_factory=list)
    examples: list[int] = field(default_factory=list)
    done: int = 0


class ClientSession:
    """One client's parts and batches in one phase.

    Parameters
    ----------
    head, tail : nn.Module
        The client's parts; they move in place.
    optimiser : Optimizer or None
        Over head and tail; needed where they move.
    batches : callable
        See `Batches`.
    phase : Phase
        Which parts move.
    where : str
        Client, task, cycle and round, for error messages.
    passes : FrozenPasses, optional
        Where batches come again: keeps what a frozen head makes of them, to be used again.
    """

    def __init__(
        self, head: nn.Module, tail: nn.Module, optimiser: Optimizer | None, batches: Batches, phase: Phase, where: str,
        passes: FrozenPasses | None = None,
    ) -> None:  # fmt: skip
        if phase.client_moves and optimiser is None:
            raise ModelError("an optimiser for head and tail", "none", where)
        self._head = head
        self._tail = tail
        self._optimiser = optimiser
        self._batches = batches
        self._phase = phase
        self._where = where
        self._passes = passes

    def run(self, carrier: Carrier, steps: int, outcome: SessionOutcome | None = None) -> SessionOutcome:
        """Do the session's steps and wait until the server has everything.

        Parameters
        ----------
        carrier : Carrier
            Brings payloads to the body and back.
        steps : int
            Of the whole session.
        outcome : SessionOutcome, optional
            Of the same session, interrupted after ``outcome.done`` steps; the parts are as they were then.

        Raises
        ------
        ModelError
            When a loss or its gradient is not finite; that gradient is not sent.
        SessionError, ProtocolError
            From the carrier.
        """
        set_moving(self._head, self._phase.client_moves)
        set_moving(self._tail, self._phase.client_moves)
        outcome = outcome or SessionOutcome()
        if self._phase.client_moves:
            self._run_moving(carrier, steps, outcome)
        else:
            self._run_frozen(carrier, steps, outcome)
        carrier.hand_in(Close(steps))
        return outcome

    def _run_moving(self, carrier: Carrier, steps: int, outcome: SessionOutcome) -> None:
        """Head and tail move: two round trips a step, because the next features need the moved head."""
        batch = self._batches(outcome.done)
        for step in range(outcome.done, steps):
            degraded, clean = batch
            self._zero_grad()
            head_pass = head_forward(self._head, degraded, moves=True)
            carrier.send(Smashed(step, head_pass.sent))
            if step + 1 < steps:
                batch = self._batches(step + 1)  # while the body runs
            tail_pass = self._tail_step(_features(carrier, step), head_pass, degraded, clean, step, outcome)
            carrier.send(GradFeatures(step, tail_pass.sent))
            answer = carrier.receive(GradSmashed, step)
            head_backward(head_pass, _expect(answer, GradSmashed).grad_smashed, tail_pass.grad_local)
            if self._optimiser is not None:
                self._optimiser.step()
            outcome.done = step + 1

    def _run_frozen(self, carrier: Carrier, steps: int, outcome: SessionOutcome) -> None:
        """Head and tail are frozen: one round trip a step, and the next head pass runs while the body does."""
        current = self._frozen_pass(outcome.done)
        carrier.send(Smashed(outcome.done, current.head_pass.sent))
        for step in range(outcome.done, steps):
            following = self._frozen_pass(step + 1) if step + 1 < steps else None
            features, head_pass = _features(carrier, step), current.head_pass
            tail_pass = self._tail_step(features, head_pass, current.degraded, current.clean, step, outcome)
            outcome.done = step + 1
            if following is None:
                carrier.hand_in(GradFeatures(step, tail_pass.sent))
            else:
                current = following
                carrier.send(GradFeaturesAndSmashed(step, tail_pass.sent, current.head_pass.sent))

    def _frozen_pass(self, step: int) -> FrozenPass:
        """A step's batch with the frozen head's pass, computed once for each batch that comes again."""
        return self._passes.of_step(step, self._compute_pass) if self._passes else self._compute_pass(step)

    def _compute_pass(self, step: int) -> FrozenPass:
        degraded, clean = self._batches(step)
        return FrozenPass(degraded, clean, head_forward(self._head, degraded, moves=False))

    def _tail_step(
        self,
        features: Tensor,
        head_pass: HeadPass,
        degraded: Tensor,
        clean: Tensor,
        step: int,
        outcome: SessionOutcome,
    ) -> TailPass:
        tail_pass = tail_forward_backward(self._tail, features, head_pass, degraded, clean)
        loss = float(tail_pass.loss)
        if not math.isfinite(loss) or not all_finite(tail_pass.grad_features):
            raise ModelError(
                "a finite loss and gradient", f"loss {loss}", f"{self._where}, step {step}", "lower the learning rate"
            )
        outcome.losses.append(loss)
        outcome.examples.append(len(degraded))
        return tail_pass

    def _zero_grad(self) -> None:
        if self._optimiser is not None:
            self._optimiser.zero_grad(set_to_none=True)


def _features(carrier: Carrier, step: int) -> Tensor:
    return _expect(carrier.receive(Features, step), Features).features


def _expect(payload: Payload, kind: type[P]) -> P:
    if not isinstance(payload, kind):
        raise ProtocolError(kind.__name__, type(payload).__name__)
    return payload
