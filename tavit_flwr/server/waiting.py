"""Wait for nodes, and for replies but not for those that can no longer come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from tavit_flwr.errors import QuorumError

#: Seconds between two looks for replies: at first, and at most. Flower's own waiting takes 3 s from the start.
_FIRST_S, _MOST_S = 0.1, 3.0

#: The pause grows with the time already waited: a reply is noticed at most this share of its own time too late.
_SHARE = 0.05

#: How long to look for more nodes once enough have come.
SETTLE_S = 1.0


def pause_s(waited_s: float) -> float:
    """How long to sleep before the next look."""
    return min(_MOST_S, max(_FIRST_S, _SHARE * waited_s))


class PatientGrid(Grid):
    """Flower's grid with another way to wait for replies; for `Strategy.start`, which waits through its grid.

    Parameters
    ----------
    grid : Grid
        Does all the rest.
    hopeless : callable
        Gets the nodes without a reply; true ends the waiting early.
    """

    def __init__(self, grid: Grid, hopeless: Callable[[Sequence[int]], bool]) -> None:
        self._grid = grid
        self._hopeless = hopeless

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push messages, and pull their replies until all are there, the time is up, or no more can come.

        Returns
        -------
        list of Message
            In the order of their arrival; nodes without a reply have none in it.
        """
        sent = list(messages)
        ids = self.push_messages(sent)
        asked = {key: one.metadata.dst_node_id for key, one in zip(ids, sent, strict=False) if key}
        began = time.monotonic()
        replies: list[Message] = []
        while asked:
            for reply in self.pull_messages(list(asked)):
                asked.pop(reply.metadata.reply_to_message_id, None)
                replies.append(reply)
            waited_s = time.monotonic() - began
            remaining_s = float("inf") if timeout is None else timeout - waited_s
            if not asked or remaining_s <= 0 or self._hopeless(sorted(asked.values())):
                break
            time.sleep(min(pause_s(waited_s), remaining_s))
        return replies

    def set_run(self, run: Any) -> None:  # noqa: ANN401 - as Flower has it
        """As Flower's."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:  # noqa: ANN401 - as Flower has it
        """As Flower's."""
        return self._grid.run

    def create_message(self, *args: Any, **options: Any) -> Message:  # noqa: ANN401 - as Flower has it
        """As Flower's."""
        return self._grid.create_message(*args, **options)

    def get_node_ids(self) -> Iterable[int]:
        """As Flower's."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Any:  # noqa: ANN401 - as Flower has it
        """As Flower's."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As Flower's."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As Flower's."""
        return self._grid.pull_messages(message_ids)


def wait_for_nodes(grid: Grid, least: int, timeout_s: float) -> list[int]:
    """Wait until `least` nodes are connected and no more have come for a moment.

    Raises
    ------
    QuorumError
        When fewer are there at the deadline.
    """
    deadline = time.monotonic() + timeout_s
    nodes: list[int] = []
    while True:
        before, nodes = nodes, sorted(grid.get_node_ids())
        if len(nodes) >= least and nodes == before:
            return nodes
        if time.monotonic() > deadline:
            if len(nodes) >= least:
                return nodes
            raise QuorumError(
                f"at least {least} nodes within {timeout_s:g} s", f"{len(nodes)}", "before the first round",
                "start more SuperNodes, or see federation.min_nodes and federation.wait_for_nodes_s",
            )  # fmt: skip
        time.sleep(SETTLE_S if nodes else 0.2)
