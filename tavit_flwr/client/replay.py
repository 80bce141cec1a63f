"""A session in a process that does not wait: what has been answered is read again, what has not is asked, and left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import Payload
from tavit_flwr.wire.encoder import Encoder
from tavit_flwr.wire.frames import decode
from tavit_flwr.wire.ledger import Ledger
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.messages import MESSAGE_BYTES


class Suspended(Exception):  # noqa: N818 - no error: the session goes on when the answers are there
    """The session cannot go on before its requests are answered."""


class ReplayCarrier:
    """Carries a session's payloads between runs of a handler; see `Carrier` and `AsksAhead`.

    The client's side of a session is a function of its weights, its batches and the answers that it gets. So it can be
    run again from the start of a step: requests whose answers are there are not sent again, and at the first other
    one the run is given up by `Suspended`, with `requests` to be sent.

    Parameters
    ----------
    phase : str
        The session's phase, or ``evaluate``.
    limits : Limits
        Frame size, types and compression.
    answers : mapping
        ``(kind, step)`` to a file with the frame; those of the step under way.
    ledger : Ledger
        Of the whole session.
    wait_s : float
        Seconds between messages so far.
    residuals : mapping
        Of the session's `Encoder`, as of the message before: a payload is written once, so a run that begins the step
        again, and passes its requests by, goes on with what they left.
    """

    def __init__(
        self, phase: str, limits: Limits, answers: Mapping[tuple[str, int], Path], ledger: Ledger, wait_s: float,
        residuals: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        self.ledger = ledger
        self.wait_s = wait_s
        self.requests: list[bytes] = []
        self._phase = phase
        self.encode = Encoder(phase, limits, residuals)
        self._limits = limits
        self._answers = answers
        self._unread = set(answers)

    def send(self, payload: Payload) -> None:
        """Send one payload, and suspend the session unless its answer is there."""
        if not self._unread:
            self.hand_in(payload)
            raise Suspended

    def receive(self, expected: type, step: int) -> Payload:
        """Read the answer to a request that was sent in an earlier run.

        Raises
        ------
        ProtocolError
            When it is another one, or not a valid frame.
        """
        name = expected.__name__, step
        if name not in self._answers:
            raise ProtocolError(
                f"{expected.__name__} of step {step}", f"{sorted(self._unread)}", f"phase {self._phase}"
            )
        self._unread.discard(name)
        return decode(self._answers[name].read_bytes(), self._phase, (expected,), step, self._limits)

    def hand_in(self, payload: Payload) -> None:
        """Send a payload with the next message; that arrives, or the message is an error of Flower's."""
        frame = self.encode(payload)
        self.ledger.add("up", type(payload).__name__, len(frame))
        self.requests.append(frame)

    def knows(self, expected: type, step: int) -> bool:
        """Whether the answer is there."""
        return (expected.__name__, step) in self._answers

    def ask(self, payload: Payload) -> None:
        """Add a request to the message, and suspend the session when that is full."""
        self.hand_in(payload)
        if sum(map(len, self.requests)) + len(self.requests[-1]) > MESSAGE_BYTES:
            raise Suspended

    def settle(self) -> None:
        """Suspend the session if there is anything to ask."""
        if self.requests:
            raise Suspended
