"""What a frozen head makes of batches that come again: computed once, and kept for the whole phase."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from tavit_flwr.client.store import PrivateStore
from tavit_flwr.errors import CheckpointError
from tavit_flwr.split.client_side import HeadPass

logger = logging.getLogger("flwr")


@dataclass(frozen=True)
class FrozenPass:
    """A batch, and the frozen head's outputs for it.

    Attributes
    ----------
    degraded, clean : Tensor
        [B, C, P, P] in [-1, 1].
    head_pass : HeadPass
        Without a graph.
    """

    degraded: Tensor
    clean: Tensor
    head_pass: HeadPass

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, on the CPU, none sharing memory with another."""
        local = {f"local/{index}": tensor for index, tensor in enumerate(self.head_pass.local)}
        named = {"degraded": self.degraded, "clean": self.clean, "smashed": self.head_pass.smashed} | local
        return {name: tensor.detach().cpu().clone() for name, tensor in named.items()}

    @classmethod
    def of(cls, tensors: dict[str, Tensor], device: torch.device) -> Self:
        """Undo `tensors`; the head's outputs lie on its device."""
        count = sum(name.startswith("local/") for name in tensors)
        local = tuple(tensors[f"local/{index}"].to(device) for index in range(count))
        return cls(tensors["degraded"], tensors["clean"], HeadPass(tensors["smashed"].to(device), local, local))


class FrozenPasses:
    """Passes of a frozen head, one for each batch of a phase that come again.

    Each is kept in memory for a session and, with a store, on the node's disk for the phase's other rounds and, by
    messages, for the other messages of a round.

    Parameters
    ----------
    period : int
        Steps after which the batches begin again.
    store : PrivateStore, optional
        Of this client and run.
    key : str
        Names head and batches: what was kept under another key is forgotten as its place is needed.
    device : torch.device, optional
        Where the head is.
    """

    def __init__(
        self, period: int, store: PrivateStore | None = None, key: str = "", device: torch.device | None = None
    ) -> None:
        self._period = period
        self._store = store
        self._key = key
        self._device = device or torch.device("cpu")
        self._made: dict[int, FrozenPass] = {}

    def of_step(self, step: int, make: Callable[[int], FrozenPass]) -> FrozenPass:
        """Find the pass of a step's batch, or make and keep it."""
        place = step % self._period
        if place not in self._made:
            self._made[place] = self._found(place) or self._keep(place, make(step))
        return self._made[place]

    def _found(self, place: int) -> FrozenPass | None:
        tensors = self._store.kept(_kind(place), self._key) if self._store is not None else None
        return None if tensors is None else FrozenPass.of(tensors, self._device)

    def _keep(self, place: int, made: FrozenPass) -> FrozenPass:
        if self._store is not None:
            try:
                self._store.keep(_kind(place), self._key, made.tensors(), beside=self._key)
            except CheckpointError as error:
                logger.warning("%s; a pass of the frozen head will be computed again when it is needed", error)
        return made


def _kind(place: int) -> str:
    return f"pass{place}"
