"""Questions go out in a window, and no silent node keeps the others from being asked."""

import pytest
from flwr.app import Message, MessageType, RecordDict

from tavit_flwr.server import inquiry
from tavit_flwr.server.inquiry import AT_ONCE, Inquiry

NODES = range(1, 3 * AT_ONCE + 1)


class Nodes:
    """A grid that gives one answer a look, of the node asked first; some nodes never answer, some are not known."""

    def __init__(self, silent=(), unknown=()):
        self.silent, self.unknown = set(silent), set(unknown)
        self.open, self.most = {}, 0

    def push_messages(self, messages):
        for message in messages:
            number = f"message-{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = number
            if message.metadata.dst_node_id not in self.unknown:
                self.open[number] = message
                yield number
        self.most = max(self.most, len(self.open))

    def pull_messages(self, message_ids):
        there = [one for one in message_ids if self.open[one].metadata.dst_node_id not in self.silent]
        return [Message(content=RecordDict(), reply_to=self.open.pop(one)) for one in there[:1]]


@pytest.fixture
def asked(monkeypatch):
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    def ask(grid):
        made = Inquiry(grid)
        made.ask([Message(content=RecordDict(), message_type=MessageType.QUERY, dst_node_id=node) for node in NODES])
        assert made.unanswered() == set(NODES)
        return made

    return ask


def test_no_more_are_asked_at_once_than_the_window_takes(asked):
    grid = Nodes(unknown={5, 150})
    made = asked(grid)
    answered, refused = [], []
    while made.unanswered():
        for node, answer in made.answers():
            (refused if answer is None else answered).append(node)
    assert answered == [node for node in NODES if node not in grid.unknown]
    assert refused == [5, 150]
    assert grid.most == AT_ONCE


def test_where_nobody_answers_the_others_are_asked_too(asked, monkeypatch):
    grid = Nodes(silent=range(1, AT_ONCE + 1))
    made = asked(grid)
    assert [node for _ in range(9) for node, _ in made.answers()] == []
    monkeypatch.setattr(inquiry, "QUIET_S", 0.0)
    answered = [node for _ in NODES for node, _ in made.answers()]
    assert answered == list(range(AT_ONCE + 1, 3 * AT_ONCE + 1))
    assert made.unanswered() == grid.silent
