"""What a session token allows."""

from __future__ import annotations

from dataclasses import dataclass, field

from tavit_flwr.config import STREAM
from tavit_flwr.errors import SessionError
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.cohort import Cohort
from tavit_flwr.server.gathering import Gathering
from tavit_flwr.wire.exchange import Exchange
from tavit_flwr.wire.ledger import Ledger

#: The kind of session that restores held-out images; no gradient exists in it.
EVALUATE = "evaluate"


@dataclass
class Session:
    """One client, one body, one phase, so many steps.

    Attributes
    ----------
    client, task : str
        Who, for messages to people; a stream must give the client's name besides the token.
    host : BodyHost
        The body that the task subscribes to.
    phase : str
        A phase's name or `EVALUATE`.
    steps : int
        Exact number of steps; the session ends after them. Ignored in evaluation.
    cohort : Cohort or None
        Where the body moves.
    gathering : Gathering or None
        Where it is frozen and takes requests that wait together.
    shape : tuple of int or None
        [B, D, G, G] that every step must have; None in evaluation, where only D is fixed.
    exchange : Exchange
        Where its frames come and go.
    carrier : str
        What brings the frames: `STREAM` or `MESSAGES`.
    instance : str
        What the first stream drew for itself: only that one may come back.
    began : float
        Unix time of its first frame; 0 before.
    answered : float
        Unix time of its last answer; 0 before.
    steps_done : int
        Steps that were finished.
    alone_s : float
        Seconds that the body computed for this session alone.
    error : str
        Why the session ended early, if it did.
    """

    client: str
    task: str
    host: BodyHost
    phase: str
    steps: int
    cohort: Cohort | None = None
    shape: tuple[int, ...] | None = None
    exchange: Exchange = field(default_factory=Exchange)
    carrier: str = STREAM
    instance: str = ""
    began: float = 0.0
    answered: float = 0.0
    steps_done: int = 0
    alone_s: float = 0.0
    error: str = ""
    gathering: Gathering | None = None

    @property
    def ledger(self) -> Ledger:
        """Bytes and frames of this session, as the server sees them."""
        return self.exchange.ledger

    @property
    def body_s(self) -> float:
        """Seconds that the body computed for this session: alone, or together with its cohort."""
        return self.alone_s if self.cohort is None else self.cohort.body_s

    def give_up(self, reason: str) -> None:
        """End it from outside; its cohort goes on without it."""
        self.exchange.end(SessionError("a session that goes on", reason, self.where))
        if self.cohort is not None:
            self.cohort.leave(self.client, reason)

    @property
    def where(self) -> str:
        """Client, task and phase, for error messages."""
        return f"client {self.client}, task {self.task}, {self.phase}"
