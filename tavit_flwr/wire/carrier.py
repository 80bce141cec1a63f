"""What a session needs of whatever carries its payloads."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

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

    def hand_in(self, payload: Payload) -> None:
        """Hand one payload over that has no answer but that it arrived, and wait for that."""


@runtime_checkable
class AsksAhead(Protocol):
    """A carrier for which one journey with many requests is better than many journeys with one."""

    def knows(self, expected: type, step: int) -> bool:
        """Whether the answer is there already."""

    def ask(self, payload: Payload) -> None:
        """Add a request to the next journey; where that is full, it begins."""

    def settle(self) -> None:
        """Begin the journey if there is anything to ask."""
