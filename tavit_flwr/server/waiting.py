"""Wait for nodes, and for replies but not for those that can no longer come."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from tavit_flwr.errors import QuorumError
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.correspondence import Correspondence

logger = logging.getLogger("flwr")

#: Seconds between two looks for replies: at first, and at most. Flower's own waiting takes 3 s from the start.
_FIRST_S, _MOST_S = 0.02, 1.0

#: The pause grows with the time already waited: a reply is noticed at most this share of its own time too late.
_SHARE = 0.05

#: Orders under way for each client that can be at work at once. Flower's simulation asks ten times a second for every
#: node, and looks through all orders each time: a hundred orders for a hundred nodes take a third of a core.
AHEAD = 4

#: How long to look for more nodes once enough have come.
SETTLE_S = 1.0

#: How long a question that changes nothing is asked again where the SuperLink fails, and how often.
PATIENCE_S, AGAIN_S = 60.0, 1.0

_Answer = TypeVar("_Answer")


def pause_s(waited_s: float) -> float:
    """How long to sleep before the next look."""
    return min(_MOST_S, max(_FIRST_S, _SHARE * waited_s))


class PatientGrid(Grid):
    """Flower's grid with another way to wait for replies; for `Strategy.start`, which waits through its grid.

    Parameters
    ----------
    grid : Grid
        Does all the rest.
    service : BodyService
        Hosts the sessions that the orders name.
    hopeless : callable
        Gets the nodes without a reply; true ends the waiting early.
    followed : callable
        Told of each message that follows upon a reply which is not the last: its number and its node.
    resupply : callable
        Gives a node the weights that it has lost.
    at_once : callable
        Of those that are sent orders now, how many can be at work at once.
    """

    def __init__(
        self,
        grid: Grid,
        service: BodyService,
        hopeless: Callable[[Sequence[int]], bool],
        followed: Callable[[str, int], None],
        resupply: Callable[[int], dict[str, ArrayRecord]],
        at_once: Callable[[], int],
    ) -> None:
        self._grid = grid
        self._service = service
        self._hopeless = hopeless
        self._followed = followed
        self._resupply = resupply
        self._at_once = at_once

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Push orders, and pull their replies until all are there, the time is up, or no more can come.

        Nothing is pushed before the first reply is asked for, and at no time more than `AHEAD` times as many orders as
        can be worked on at once. Replies that carry frames are not given back: the session's answers follow in another
        message to the node.

        Yields
        ------
        Message
            A reply as it arrives, not kept here; nodes without a reply have none.
        """
        news = threading.Event()
        to_come = deque(Correspondence(order, self._service, self._resupply, news.set) for order in messages)
        most = AHEAD * self._at_once()
        under_way: list[Correspondence] = []
        sent: dict[str, Correspondence] = {}
        began = alive = time.monotonic()
        while to_come or under_way:
            fresh = [to_come.popleft() for _ in range(min(len(to_come), most - len(under_way)))]
            sent.update(self._send([talk.order for talk in fresh], fresh))
            under_way += fresh
            for reply in self.pull_messages(list(sent)):
                if (talk := sent.pop(reply.metadata.reply_to_message_id, None)) is not None:
                    talk.take(reply)
                    alive = time.monotonic()
            for talk in under_way:
                if (message := talk.next_message()) is not None:
                    for key, _ in self._send([message], [talk]):
                        sent[key] = talk
                        self._followed(key, talk.node)
                    alive = time.monotonic()
            done = [talk for talk in under_way if talk.final is not None]
            under_way = [talk for talk in under_way if talk.final is None]
            while done:
                if (final := done.pop(0).final) is not None:
                    yield final
            remaining_s = float("inf") if timeout is None else began + timeout - time.monotonic()
            if remaining_s <= 0 or self._hopeless(sorted(talk.node for talk in (*under_way, *to_come))):
                break
            if to_come and len(under_way) < most:
                continue
            news.wait(min(pause_s(time.monotonic() - alive), remaining_s))
            news.clear()

    def _send(
        self, messages: Sequence[Message], talks: Sequence[Correspondence]
    ) -> Iterator[tuple[str, Correspondence]]:
        """Push messages, and end the correspondence of those that Flower does not take: nobody is to wait for them."""
        for number, talk in zip(push(self._grid, messages), talks, strict=True):
            if number:
                yield number, talk
            else:
                talk.not_sent()

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
        return patiently(self._grid.get_node_ids)

    def get_nodes(self) -> Any:  # noqa: ANN401 - as Flower has it
        """As Flower's."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As Flower's."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As Flower's."""
        numbers = list(message_ids)
        return patiently(lambda: list(self._grid.pull_messages(numbers)))


def patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Ask again where the SuperLink answers with its own failure, as when a busy machine's database is locked.

    Flower asks again only where it cannot be reached, and ends the run for anything else.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)  # of an HTTP client's error
            if status != 500 or time.monotonic() > deadline:
                raise
            logger.warning("the SuperLink failed, and is asked again: %s", error)
        time.sleep(AGAIN_S)


def push(grid: Grid, messages: Sequence[Message]) -> list[str]:
    """Push messages and give their numbers, the empty string for each that Flower has not taken.

    What `Grid.push_messages` gives has no place for those in simulation, and is empty where all are too large together.
    """
    taken = set(grid.push_messages(messages)) if messages else set()
    numbers = [message.metadata.message_id for message in messages]
    return [number if number in taken else "" for number in numbers]


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
        before, nodes = nodes, sorted(patiently(grid.get_node_ids))
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
