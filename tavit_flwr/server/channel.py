"""Payloads in and out of one session's connection, checked and counted."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import Acknowledged, Close, Payload, Smashed
from tavit_flwr.server.sessions import Session
from tavit_flwr.wire.frames import Limits, decode, encode
from tavit_flwr.wire.stream_server import Connection

P = TypeVar("P", bound=Payload)


class Channel:
    """One session's frames as payloads.

    Parameters
    ----------
    session : Session
        Whose ledger counts and whose name errors carry.
    connection : Connection
        Where frames come from.
    limits : Limits
        Frame size and dtype.
    """

    def __init__(self, session: Session, connection: Connection, limits: Limits) -> None:
        self._session = session
        self._connection = connection
        self._limits = limits

    def receive_one_of(self, expected: tuple[type, ...], step: int) -> Payload:
        """Wait for one of several kinds of frame, for a given step."""
        session = self._session
        names = " or ".join(kind.__name__ for kind in expected)
        frame = self._connection.receive(f"{names} of step {step} from {session.where}")
        payload = decode(frame, session.phase, expected, step, self._limits)
        session.ledger.add("up", type(payload).__name__, len(frame))
        return payload

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

    def pack(self, payload: Payload) -> bytes:
        """Encode and count a frame that is about to be sent."""
        frame = encode(payload, self._session.phase)
        self._session.ledger.add("down", type(payload).__name__, len(frame))
        return frame

    def finish(self, steps: int) -> bytes:
        """Wait for the client's farewell, and say that everything arrived."""
        self.receive(Close, steps)
        return self.pack(Acknowledged(steps))
