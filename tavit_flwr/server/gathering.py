"""Frozen requests that wait at the same time, as one batch: an option for speed, which gives up equal bits.

A body treats the rows of a batch apart, so a client gets what it would get alone, but for the last bits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tavit_flwr.errors import SessionError
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.split.server_side import BodyPass, body_backward, joined

#: Runs a function on one of the service's workers and waits for its result.
Work = Callable[..., Any]

#: Features of a request, and what makes d loss / d smashed of d loss / d features.
FrozenPass = tuple[Tensor, Callable[[Tensor], Tensor]]


class Gathering:
    """Runs one frozen body for the sessions of a round, one batch at a time.

    While a batch is at work others come to wait; the next is the request whose turn it is with all of its shape. Its
    gradients are waited for, and run backward as one batch too.

    Parameters
    ----------
    host : BodyHost
        The body, in frozen mode.
    timeout_s : float
        How long a batch waits for its gradients. Rows of a member that has left or is late get a gradient of zero; the
        session of one that is late ends.
    """

    def __init__(self, host: BodyHost, timeout_s: float) -> None:
        self._host = host
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._free = threading.Lock()
        self._waiting: list[_Request] = []

    @contextmanager
    def run(self, smashed: Tensor, work: Work) -> Iterator[FrozenPass]:
        """Wait for the body's turn; a member that goes without having brought its gradient leaves its batch."""
        mine = _Request(smashed)
        with self._lock:
            self._waiting.append(mine)
        with self._free:
            if mine.batch is None:  # else another has taken it along
                work(self._forward, self._taken_along(mine))
        batch, place = mine.taken()
        try:
            yield batch.features[place], lambda gradient: batch.backward(place, gradient, self._free, work)
        finally:
            batch.leave(place)

    def _taken_along(self, mine: _Request) -> list[_Request]:
        with self._lock:
            others = [one for one in self._waiting if one is not mine]
            self._waiting = [one for one in others if one.smashed.shape != mine.smashed.shape]
            return [mine, *(one for one in others if one.smashed.shape == mine.smashed.shape)]

    def _forward(self, requests: Sequence[_Request]) -> None:
        body_pass = self._host.forward_frozen(joined([one.smashed for one in requests]), input_gradient=True)
        batch = _Batch(body_pass, [len(one.smashed) for one in requests], self._timeout_s)
        for place, one in enumerate(requests):
            one.batch, one.place = batch, place


@dataclass(eq=False)
class _Request:
    """One client's activations, and where they went."""

    smashed: Tensor
    batch: _Batch | None = None
    place: int = 0

    def taken(self) -> tuple[_Batch, int]:
        if self.batch is None:
            raise SessionError("a batch for the activations", "none")
        return self.batch, self.place


class _Batch:
    """One pass, and the gradients of its members as they come."""

    def __init__(self, body_pass: BodyPass, rows: list[int], timeout_s: float) -> None:
        self._pass = body_pass
        self._rows = rows
        self._timeout_s = timeout_s
        self._ends = time.monotonic() + timeout_s
        self._changed = threading.Condition()
        self.features = torch.split(body_pass.sent, rows)
        self._missing = set(range(len(rows)))
        self._gradients = [torch.zeros(()).expand(piece.shape) for piece in self.features]
        self._result: Sequence[Tensor] | None = None

    def backward(self, place: int, gradient: Tensor, free: threading.Lock, work: Work) -> Tensor:
        with self._changed:
            if place not in self._missing:
                raise SessionError(
                    f"a gradient within {self._timeout_s:g} s of its features", "a later one: its batch went on",
                    "compute.batch_waiting", "raise wire.step_timeout_s",
                )  # fmt: skip
            self._gradients[place] = gradient
            self.leave(place)
            while self._result is None:
                remaining = self._ends - time.monotonic()
                if self._missing and remaining > 0:
                    self._changed.wait(remaining)
                    continue
                self._missing.clear()
                with free:
                    self._result = torch.split(work(body_backward, self._pass, joined(self._gradients)), self._rows)
                self._changed.notify_all()
            return self._result[place]

    def leave(self, place: int) -> None:
        with self._changed:
            self._missing.discard(place)
            self._changed.notify_all()
