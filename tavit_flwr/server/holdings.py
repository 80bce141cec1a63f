"""Which heads and tails each client has already, so that they travel once."""

from __future__ import annotations

from tavit_flwr.server.aggregation import State, Weights
from tavit_flwr.wire.records import content_key


class Holdings:
    """What clients were sent last, or kept of their own training, by the key of its content.

    It is a belief: a client that has lost its store says so, and is sent the weights again. A resumed run begins
    without any.
    """

    def __init__(self) -> None:
        self._held: dict[str, str] = {}
        self._keys: dict[str, tuple[State, str]] = {}

    def key(self, task: str, weights: Weights) -> str:
        """Key of a task's head and tail; computed once for each version."""
        head, known = weights.heads[task], self._keys.get(task)
        if known is None or known[0] is not head:  # averaging makes new dicts
            known = self._keys[task] = head, content_key(head, weights.tails[task])
        return known[1]

    def has(self, client: str, key: str) -> bool:
        """Whether a client should have these."""
        return self._held.get(client) == key

    def note(self, client: str, key: str) -> None:
        """Take down that a client has these, and that it forgets all others."""
        self._held[client] = key
