"""The cohort: clients that step one body together, with deadlines and a quorum."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tavit_flwr.errors import QuorumError, SessionError, TavitError
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.split.devices import torch_threads
from tavit_flwr.split.server_side import BodyPass, cohort_weights

logger = logging.getLogger("flwr")


@dataclass(frozen=True)
class Member:
    """One client of a cohort; members are ordered by `client`."""

    client: str
    task: str


@dataclass
class _Turn:
    """What members have brought to the turn under way, and what the last one gave."""

    number: int = 0
    gradients: dict[str, Tensor] = field(default_factory=dict)
    smashed: dict[str, Tensor] = field(default_factory=dict)
    arrived: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class TurnResult:
    """What a turn gives one member: features of the next step, a gradient, or nothing at the end."""

    features: Tensor | None = None
    grad_smashed: Tensor | None = None


class Cohort:
    """A barrier around one body.

    In every turn each member brings the gradient of the step before, activations of the next step, or both. When all
    have come, or the deadline has passed with a quorum, the body steps and runs forward for all at once. A member that
    does not come in time is left out from then on; its gradient is never used in part.

    Parameters
    ----------
    host : BodyHost
        The body, already in moving mode.
    members : sequence of Member
        Who was invited.
    input_gradient : bool
        Whether members get d loss / d smashed back (joint phase).
    step_path : tuple
        Names the round for the dropout generator.
    join_timeout_s, step_timeout_s : float
        Deadlines of the first turn and of every later one.
    quorum : float
        Least fraction of the invited members.
    threads : int
        Of torch, for the cohort's batch.

    Attributes
    ----------
    left : dict
        Client to why it was left out.
    body_s : float
        Seconds that the body computed.
    """

    def __init__(
        self,
        host: BodyHost,
        members: Sequence[Member],
        *,
        input_gradient: bool,
        step_path: tuple[str | int, ...],
        join_timeout_s: float,
        step_timeout_s: float,
        quorum: float,
        threads: int = 1,
    ) -> None:
        self._host = host
        self._tasks = {member.client: member.task for member in members}
        self._active = set(self._tasks)
        self._least = max(1, math.ceil(quorum * len(self._tasks) - 1e-9))
        self._input_gradient = input_gradient
        self._step_path = step_path
        self._join_timeout_s = join_timeout_s
        self._step_timeout_s = step_timeout_s
        self._threads = threads
        self._changed = threading.Condition()
        self._turn = _Turn()
        self._results: dict[str, TurnResult] = {}
        self._pass: BodyPass | None = None
        self._pass_order: list[str] = []
        self._pass_rows: list[int] = []
        self._steps_done = 0
        self._failure: TavitError | None = None
        self.left: dict[str, str] = {}
        self.body_s = 0.0

    def take_turn(self, client: str, gradient: Tensor | None, smashed: Tensor | None) -> TurnResult:
        """Bring tensors to the turn under way and wait for its result.

        Raises
        ------
        SessionError
            When this member was left out.
        QuorumError
            When too few members are left; the round ends for all.
        """
        with self._changed:
            self._refuse(client)
            number = self._turn.number
            if gradient is not None:
                self._turn.gradients[client] = gradient
            if smashed is not None:
                self._turn.smashed[client] = smashed
            self._turn.arrived.add(client)
            self._changed.notify_all()
            while self._turn.number == number and self._failure is None and client in self._active:
                if self._active <= self._turn.arrived:
                    self._finish_turn()
                    break
                remaining = self._deadline() - time.monotonic()
                if remaining <= 0:
                    self._drop_absent()
                else:
                    self._changed.wait(remaining)
            self._refuse(client)
            return self._results[client]

    def leave(self, client: str, reason: str) -> None:
        """Take a member out: its stream ended, or it sent something unusable."""
        with self._changed:
            if client in self._active:
                self._active.discard(client)
                self.left[client] = reason
                self._check_quorum()
                self._forget()
                self._changed.notify_all()

    def done(self, client: str) -> None:
        """A member has taken its last turn and is not waited for any more."""
        with self._changed:
            self._active.discard(client)
            self._forget()
            self._changed.notify_all()

    def close(self, reason: TavitError) -> None:
        """End the cohort for all: no turn begins after this call, and those who wait get the reason."""
        with self._changed:
            if self._failure is None:
                self._failure = reason
            self._changed.notify_all()

    def _forget(self) -> None:
        """Drop the graph and all tensors once nobody is left to use them."""
        if not self._active:
            self._pass, self._results, self._turn = None, {}, _Turn(number=self._turn.number)

    @property
    def steps_done(self) -> int:
        """Optimiser steps of this cohort."""
        return self._steps_done

    def _refuse(self, client: str) -> None:
        if self._failure is not None:
            raise self._failure
        if client not in self._active:
            raise SessionError("a member of the cohort", f"client {client} was left out: {self.left.get(client, '')}")

    def _deadline(self) -> float:
        timeout_s = self._join_timeout_s if self._turn.number == 0 else self._step_timeout_s
        return self._turn.began + timeout_s

    def _drop_absent(self) -> None:
        for client in sorted(self._active - self._turn.arrived):
            self._active.discard(client)
            self.left[client] = f"nothing came before the deadline of turn {self._turn.number}"
        self._check_quorum()
        self._changed.notify_all()

    def _check_quorum(self) -> None:
        if len(self._active) < self._least and self._failure is None:
            self._failure = QuorumError(
                f"at least {self._least} of {len(self._tasks)} clients in the cohort", f"{len(self._active)}",
                f"body '{self._host.name}', turn {self._turn.number}", f"left: {self.left}; see federation.quorum",
            )  # fmt: skip
            self._changed.notify_all()

    def _finish_turn(self) -> None:
        """Step and run forward; called with the lock held, by the member that came last."""
        turn, order = self._turn, sorted(self._active)
        began = time.monotonic()
        try:
            with torch_threads(self._threads):
                gradients = self._step(turn.gradients) if turn.gradients else {}
                features = self._forward(turn.smashed, order) if turn.smashed else {}
        except TavitError as error:
            self._failure = error
        except Exception as error:  # such as of memory: not the fault of whoever came last, so it ends the cohort
            logger.exception("body '%s', turn %s", self._host.name, turn.number)
            self._failure = SessionError(
                "a turn without errors of the server", type(error).__name__, f"body '{self._host.name}'",
                "see the ServerApp's log; a smaller data.batch_size or federation.fraction takes less memory",
            )  # fmt: skip
        else:
            self._results = {client: TurnResult(features.get(client), gradients.get(client)) for client in order}
        self.body_s += time.monotonic() - began
        self._turn = _Turn(number=turn.number + 1)
        self._changed.notify_all()

    def _step(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        if self._pass is None:
            raise SessionError("a gradient after a forward pass", "a gradient before any")
        order = [client for client in self._pass_order if client in self._active]
        weights = dict(zip(order, cohort_weights([self._tasks[client] for client in order]), strict=True))
        # A member that left after the forward pass keeps its rows in the batch, with a gradient of zero.
        rows = torch.split(self._pass.features, self._pass_rows)
        everyone = [
            gradients[client] if client in weights else row.new_zeros(row.shape)
            for client, row in zip(self._pass_order, rows, strict=True)
        ]
        shares = [weights.get(client, 1.0) for client in self._pass_order]
        result = self._host.backward_and_step(self._pass, everyone, shares)
        self._pass = None
        self._steps_done += 1
        return dict(zip(self._pass_order, result, strict=True)) if result else {}

    def _forward(self, smashed: dict[str, Tensor], order: list[str]) -> dict[str, Tensor]:
        self._pass_order = order
        self._pass_rows = [len(smashed[client]) for client in order]
        path = (*self._step_path, self._steps_done)
        batch = [smashed[client] for client in order]
        self._pass = self._host.forward_moving(batch, input_gradient=self._input_gradient, step_path=path)
        return dict(zip(order, torch.split(self._pass.sent, self._pass_rows), strict=True))
