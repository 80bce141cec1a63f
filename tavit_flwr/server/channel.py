"""Payloads in and out of one session's exchange, checked."""

from __future__ import annotations

import time
from typing import TypeVar

from torch import Tensor

from tavit_flwr.errors import ProtocolError, SessionError
from tavit_flwr.payloads import Acknowledged, Close, Payload, Smashed
from tavit_flwr.server.sessions import Session
from tavit_flwr.wire.encoder import Encoder
from tavit_flwr.wire.frames import decode
from tavit_flwr.wire.limits import Limits

P = TypeVar("P", bound=Payload)


class Channel:
    """One session's frames as payloads: requests are received, and each is answered before the next.

    Parameters
    ----------
    session : Session
        Whose exchange brings the frames and whose name errors carry.
    limits : Limits
        Frame size, types and compression.
    step_timeout_s, session_timeout_s : float
        Deadlines of every wait, and of the whole session from now on.
    """

    def __init__(self, session: Session, limits: Limits, *, step_timeout_s: float, session_timeout_s: float) -> None:
        self._session = session
        self._limits = limits
        self._encode = Encoder(session.phase, limits)
        self._step_timeout_s = step_timeout_s
        self._deadline = time.monotonic() + session_timeout_s

    def receive_one_of(self, expected: tuple[type, ...], step: int) -> Payload:
        """Wait for one of several kinds of frame, for a given step."""
        session = self._session
        names = " or ".join(kind.__name__ for kind in expected)
        waiting_for = f"{names} of step {step} from {session.where}"
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise SessionError(f"{waiting_for} within wire.session_timeout_s", "a session that is not at its end")
        frame = session.exchange.receive(min(self._step_timeout_s, remaining), waiting_for)
        session.began = session.began or time.time()
        return decode(frame, session.phase, expected, step, self._limits)

    def receive(self, expected: type[P], step: int) -> P:
        """Wait for one kind of frame, for a given step."""
        payload = self.receive_one_of((expected,), step)
        if not isinstance(payload, expected):
            raise ProtocolError(expected.__name__, type(payload).__name__, self._session.where)
        return payload

    def smashed(self, step: int) -> Tensor:
        """Wait for a step's activations and check that they fit the session's body."""
        smashed = self.receive(Smashed, step).smashed
        self.check_smashed(smashed, step)
        return smashed

    def check_smashed(self, smashed: Tensor, step: int) -> None:
        """Refuse activations that fit neither the session's body nor its batches: a cohort runs as one batch."""
        session, where = self._session, f"{self._session.where}, step {step}"
        session.host.check(smashed, where)
        if session.shape is not None and tuple(smashed.shape) != session.shape:
            raise ProtocolError(f"smashed activations of shape {session.shape}", str(tuple(smashed.shape)), where)

    def check_shape(self, gradient: Tensor, smashed: Tensor, step: int) -> None:
        """Refuse a tensor whose shape is not that of the step's activations."""
        if gradient.shape != smashed.shape:
            raise ProtocolError(
                f"a tensor of shape {tuple(smashed.shape)}",
                str(tuple(gradient.shape)),
                f"{self._session.where}, step {step}",
            )

    def answer(self, payload: Payload) -> None:
        """Answer the request last received."""
        self._session.answered = time.time()
        self._session.exchange.answer(self._encode(payload))

    def finish(self, steps: int) -> None:
        """Wait for the client's farewell, and say that everything arrived."""
        self.receive(Close, steps)
        self.answer(Acknowledged(steps))
