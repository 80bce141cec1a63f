"""One session's frames, between its logic and whatever transport is attached at the moment.

A session is a row of requests, each with one answer. The logic runs in a thread of its own and knows no transport; a
transport comes, goes and is replaced without the logic noticing. The last answer is kept: a request that comes again
gets the same answer and is not worked on again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tavit_flwr.errors import CapacityError, ProtocolError, SessionError, TavitError
from tavit_flwr.wire.frames import identity
from tavit_flwr.wire.ledger import Ledger


class Exchange:
    """A box for one request and its answer; safe to share between threads.

    Attributes
    ----------
    ledger : Ledger
        Frames that transports brought and took; those that came or went again are named so.
    answering_s : float
        Seconds between requests and their answers, in all.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.answering_s = 0.0
        self._asked = 0.0
        self._changed = threading.Condition()
        self._holder: Attachment | None = None
        self._attached = 0
        self._identity: object = None
        self._request: bytes | None = None
        self._answer: bytes | None = None
        self._taken = False
        self._alive = time.monotonic()
        self._ended = False
        self._error: TavitError | None = None

    def attach(
        self, on_end: Callable[[], object], on_answer: Callable[[], object] = lambda: None, most: int = 4
    ) -> Attachment:
        """Attach a transport in place of the one before, which is told that it is at its end.

        Parameters
        ----------
        on_end : callable
            Called when another transport has taken over, or when the session has ended while no answer was awaited:
            whoever awaits one gets the error instead.
        on_answer : callable
            Called when there is an answer to take.
        most : int
            Transports that have attached and not yet let go, whoever holds the session.

        Raises
        ------
        CapacityError
            When there are more.
        """
        attachment = Attachment(self, on_end, on_answer)
        with self._changed:
            if self._attached >= most:
                raise CapacityError(f"at most {most} streams of one client", "another")
            self._attached += 1
            before, self._holder = self._holder, attachment
            self._alive = time.monotonic()
            self._changed.notify_all()
        if before is not None:
            before.on_end()
        return attachment

    def receive(self, timeout_s: float, waiting_for: str) -> bytes:
        """Take the next request: the logic's side.

        Parameters
        ----------
        timeout_s : float
            Counts from the last frame that came or went, so that a client that comes back has as long as any other.

        Raises
        ------
        SessionError
            When nothing comes in time.
        TavitError
            What the session was ended with.
        """
        with self._changed:
            while self._request is None:
                if self._ended:
                    raise self._why(waiting_for)
                remaining = self._alive + timeout_s - time.monotonic()
                if remaining <= 0:
                    raise SessionError(
                        f"{waiting_for} within {timeout_s:g} s", "nothing" if self._holder else "a cut stream"
                    )
                self._changed.wait(remaining)
            request, self._request = self._request, None
            return request

    def answer(self, frame: bytes) -> None:
        """Answer the request last taken: the logic's side."""
        with self._changed:
            self._answer = frame
            self._alive = time.monotonic()
            self.answering_s += self._alive - self._asked
            holder = self._holder
            self._changed.notify_all()
        if holder is not None:
            holder.on_answer()

    def end(self, error: TavitError | None = None) -> None:
        """End the session; only the first call counts. Without an error the last answer can still be taken."""
        with self._changed:
            if self._ended:
                return
            self._ended = True
            if error is not None:
                self._error = error.copy()  # its own traceback would keep the frames of a whole round
                self._request = self._answer = None
            holder = self._holder
            told = holder is not None and holder.asking
            self._changed.notify_all()
        if holder is not None:
            holder.on_answer()
            if error is not None and not told:
                holder.on_end()

    @property
    def ended(self) -> bool:
        """Whether the session takes no more requests."""
        return self._ended

    def _offer(self, attachment: Attachment, frame: bytes) -> None:
        name = identity(frame)
        with self._changed:
            self._refuse(attachment)
            self._alive = time.monotonic()
            attachment.asking = True
            again = name is not None and name == self._identity
            if name is not None:
                self.ledger.add("up", f"{name[0]}, resent" if again else name[0], len(frame))
            if again:
                return
            if self._ended:
                raise self._why("no frame after the session's end")
            if self._identity is not None and self._answer is None:
                raise ProtocolError("one request at a time", "another before the answer")
            self._identity, self._request, self._answer, self._taken = name or object(), frame, None, False
            self._asked = self._alive
            self._changed.notify_all()

    def _take(self, attachment: Attachment, timeout_s: float, sent: bool) -> bytes | None:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._answer is None and not self._ended:
                self._refuse(attachment)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)
            self._refuse(attachment)
            if self._answer is None:
                raise self._why("an answer")
            if sent:
                kind = (identity(self._answer) or ("unnamed",))[0]
                self.ledger.add("down", f"{kind}, resent" if self._taken else kind, len(self._answer))
                self._taken = True
            self._alive = time.monotonic()
            attachment.asking = False
            return self._answer

    def _why(self, expected: str) -> TavitError:
        return self._error.copy() if self._error is not None else SessionError(expected, "the end of the session")

    def _refuse(self, attachment: Attachment) -> None:
        if self._holder is not attachment:
            raise SessionError("the session's own stream", "one that another has replaced")

    def _detach(self, attachment: Attachment) -> None:
        with self._changed:
            self._attached -= not attachment.detached
            attachment.detached = True
            if self._holder is attachment:
                self._holder = None
                self._changed.notify_all()


class Attachment:
    """A transport's hold on an exchange; made by `Exchange.attach`."""

    def __init__(self, exchange: Exchange, on_end: Callable[[], object], on_answer: Callable[[], object]) -> None:
        self._exchange = exchange
        self.on_end = on_end
        self.on_answer = on_answer
        self.asking = self.detached = False

    def check(self) -> None:
        """Raise what the session was ended with, if anything."""
        if self._exchange._error is not None:
            raise self._exchange._error.copy()

    def offer(self, frame: bytes) -> None:
        """Bring a request, or bring the last one again.

        Raises
        ------
        SessionError
            When another transport has taken over, or the session has ended.
        ProtocolError
            When the request before has no answer yet.
        """
        self._exchange._offer(self, frame)

    def take(self, timeout_s: float = 0.0, *, sent: bool = True) -> bytes | None:
        """Wait for the answer; None when it is not there in time. Errors as in `offer`.

        It is counted, unless it is not going to be sent.
        """
        return self._exchange._take(self, timeout_s, sent)

    def detach(self) -> None:
        """Let go: the transport is at its end, the session may not be."""
        self._exchange._detach(self)
