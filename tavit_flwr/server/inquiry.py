"""Questions to nodes, a window of them at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from tavit_flwr.server.waiting import patiently, push

#: Questions without an answer, at most, and as many more whenever nothing has been heard for so long. Thousands at once
#: would keep Flower's simulation from the clients that are to answer: it looks through all messages for each node.
AT_ONCE, QUIET_S = 64, 5.0


class Inquiry:
    """Sends questions through Flower's grid, and remembers who has not answered yet.

    Attributes
    ----------
    heard : float
        When the last answer came, or the last question was added; of `time.monotonic`.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._to_send: deque[Message] = deque()
        self._sent: dict[str, int] = {}
        self._most = AT_ONCE
        self.heard = time.monotonic()

    def ask(self, questions: Sequence[Message]) -> None:
        """Put questions in the row; `answers` sends them."""
        self._to_send.extend(questions)
        self.heard = time.monotonic()

    def unanswered(self) -> set[int]:
        """Nodes that have not answered, asked already or not."""
        return {*self._sent.values(), *(question.metadata.dst_node_id for question in self._to_send)}

    def answers(self) -> Iterator[tuple[int, Message | None]]:
        """Send what there is room for, and look for answers once.

        Yields
        ------
        tuple of int and Message or None
            Node, and its answer; None where the question could not be sent.
        """
        for refused in self._send():
            yield refused, None
        for answer in patiently(lambda: list(self._grid.pull_messages(list(self._sent)))) if self._sent else []:
            node = self._sent.pop(answer.metadata.reply_to_message_id, None)
            if node is not None:
                self.heard = time.monotonic()
                yield node, answer

    def _send(self) -> list[int]:
        """Send questions, and give the nodes to which Flower has not taken one."""
        if self._to_send and len(self._sent) >= self._most and time.monotonic() - self.heard > QUIET_S:
            self._most, self.heard = len(self._sent) + AT_ONCE, time.monotonic()
        room = max(0, self._most - len(self._sent))
        fresh = [self._to_send.popleft() for _ in range(min(len(self._to_send), room))]
        refused = []
        for number, question in zip(push(self._grid, fresh), fresh, strict=True):
            if number:
                self._sent[number] = question.metadata.dst_node_id
            else:
                refused.append(question.metadata.dst_node_id)
        return refused
