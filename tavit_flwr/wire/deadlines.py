"""A deadline on waits that have none of their own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """One thread that calls `expire` when an armed deadline passes.

    gRPC's blocking iterators wait for ever for the next message of a stream; the watchdog cancels the call instead. It
    sleeps through waits that end in time: a deadline wakes it only where it would look too late.

    Parameters
    ----------
    expire : callable
        Called once, from the watchdog's thread, with the name of the wait that took too long.
    """

    def __init__(self, expire: Callable[[str], None]) -> None:
        self._expire = expire
        self._changed = threading.Condition()
        self._deadline = self._looks_at = math.inf
        self._waiting_for = ""
        self._closed = False
        self.expired = ""
        self._thread = threading.Thread(target=self._run, name="tavit-watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def within(self, seconds: float, waiting_for: str) -> Iterator[None]:
        """Arm the deadline for the body of the ``with``."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._waiting_for = waiting_for
            if self._deadline < self._looks_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._deadline = math.inf

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._deadline > now:
                    self._looks_at = self._deadline
                    self._changed.wait(None if self._deadline == math.inf else self._deadline - now)
                else:
                    self._deadline = math.inf
                    self.expired = self._waiting_for
                    self._changed.release()
                    try:
                        self._expire(self.expired)
                    finally:
                        self._changed.acquire()
