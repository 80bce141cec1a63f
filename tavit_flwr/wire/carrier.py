"""What a session needs of whatever carries its payloads."""

from __future__ import annotations

from typing import Protocol

from tavit_flwr.payloads import Payload
from tavit_flwr.wire.ledger import Ledger


class Carrier(Protocol):
    """Carries one session's payloads between a client and a body.

    Attributes
    ----------
    ledger : Ledger
        Bytes and frames as this end counted them.
    wait_s : float
        Seconds spent waiting for answers.
    """

    ledger: Ledger
    wait_s: float

    def send(self, payload: Payload) -> None:
        """Hand one payload over without waiting for its answer, which `receive` gives; one at a time."""

    def receive(self, expected: type, step: int) -> Payload:
        """Wait, within a deadline, for the answer to the payload last sent: one kind of payload of one step."""

    def finish(self, step: int) -> None:
        """End the session after `step` steps, and wait for the acknowledgement."""
