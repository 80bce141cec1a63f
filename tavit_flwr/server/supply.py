"""Weights that a round's orders are about: their names, and which of them travel."""

from __future__ import annotations

from flwr.app import ArrayRecord

from tavit_flwr.server.aggregation import State, Weights
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.wire.records import ARRAYS, BODY
from tavit_flwr.wire.weights import arrays_bytes, content_key, parts_of, tensors_to_arrays


class Supply:
    """Heads, tails and lent bodies on their way to clients, each version once to each.

    What a client has is a belief: one that has lost its store says so, and is sent everything again.

    Parameters
    ----------
    weights : Weights
        Of the round.
    held : dict
        What each client was sent last, or kept of its own training, by the key of its content; grows.
    lends : bool
        Whether clients run the body themselves.

    Attributes
    ----------
    bytes : int
        Of the weights that have travelled.
    """

    def __init__(self, weights: Weights, held: dict[str, str], *, lends: bool = False) -> None:
        self._weights = weights
        self._held = held
        self._lends = lends
        self._arrays: dict[str, ArrayRecord] = {}
        self._keys: dict[str, str] = {}
        self.bytes = 0

    def parts_key(self, one: Participant) -> str:
        """Key of a client's head and tail."""
        return self._key(ARRAYS, one)

    def body_key(self, one: Participant) -> str:
        """Key of the body that a client is lent; empty where it is lent none."""
        return self._key(BODY, one) if self._lends else ""

    def missing(self, one: Participant) -> dict[str, ArrayRecord]:
        """Records that a client does not have; from now on it does."""
        lacks = [kind for kind in self._kinds if self._held.get(f"{kind} {one.client}") != self._key(kind, one)]
        return self._records(lacks, one)

    def everything(self, one: Participant) -> dict[str, ArrayRecord]:
        """Records for a client that has lost what it had."""
        return self._records(self._kinds, one)

    def kept(self, one: Participant, head: State, tail: State) -> None:
        """Take down that a client has these of its own training."""
        self._held[f"{ARRAYS} {one.client}"] = content_key(parts_of(head, tail))

    @property
    def _kinds(self) -> tuple[str, ...]:
        return (ARRAYS, BODY) if self._lends else (ARRAYS,)

    def _records(self, kinds: tuple[str, ...] | list[str], one: Participant) -> dict[str, ArrayRecord]:
        records = {}
        for kind in kinds:
            owner = self._owner(kind, one)
            if owner not in self._arrays:
                self._arrays[owner] = tensors_to_arrays(self._tensors(kind, one))
            records[kind] = self._arrays[owner]
            self.bytes += arrays_bytes(records[kind])
            self._held[f"{kind} {one.client}"] = self._key(kind, one)
        return records

    def _key(self, kind: str, one: Participant) -> str:
        owner = self._owner(kind, one)
        if owner not in self._keys:
            self._keys[owner] = content_key(self._tensors(kind, one))
        return self._keys[owner]

    def _owner(self, kind: str, one: Participant) -> str:
        return f"{kind} {one.task if kind == ARRAYS else one.enrolment.body}"

    def _tensors(self, kind: str, one: Participant) -> State:
        if kind == ARRAYS:
            return parts_of(self._weights.heads[one.task], self._weights.tails[one.task])
        return {f"body/{name}": tensor for name, tensor in self._weights.bodies[one.enrolment.body].items()}
