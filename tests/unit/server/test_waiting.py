"""Waiting for replies: how often to look, and for whom not to wait."""

import itertools
import time
import types
import weakref

import pytest
from flwr.app import Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

from tavit_flwr.config import OptimiserConfig, WireConfig
from tavit_flwr.server import waiting
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.server.sessions import Session
from tavit_flwr.server.waiting import AHEAD, PatientGrid, patiently, pause_s, push
from tavit_flwr.wire.messages import FRAMES
from tavit_flwr.wire.records import Order, content_of

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def sender(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class HttpError(Exception):
    """As an HTTP client raises it."""

    def __init__(self, status):
        super().__init__(f"{status}")
        self.response = types.SimpleNamespace(status_code=status)


def test_a_superlink_that_fails_for_a_moment_is_asked_again(monkeypatch, caplog):
    monkeypatch.setattr(waiting, "AGAIN_S", 0.0)
    answers = iter([HttpError(500), HttpError(500), [7]])

    def ask():
        answer = next(answers)
        if isinstance(answer, HttpError):
            raise answer
        return answer

    assert patiently(ask) == [7]
    assert caplog.text.count("is asked again") == 2


@pytest.mark.parametrize(("status", "patience_s"), [(500, 0.05), (403, 60.0), (None, 60.0)])
def test_one_that_goes_on_failing_or_refuses_ends_the_run(monkeypatch, status, patience_s):
    monkeypatch.setattr(waiting, "AGAIN_S", 0.01)
    monkeypatch.setattr(waiting, "PATIENCE_S", patience_s)

    def ask():
        raise HttpError(status)

    with pytest.raises(HttpError):
        patiently(ask)


def test_looks_are_frequent_at_first_and_rarer_with_the_time_waited():
    assert pause_s(0) == 0.02
    pauses = [pause_s(seconds / 10) for seconds in range(1000)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 1.0
    for waited_s in (0.5, 2, 6, 20):
        assert pause_s(waited_s) <= max(0.02, 0.05 * waited_s)  # a reply is noticed 5 % of its time too late, at most
    looks, now = 0, 0.0
    while now < 6:  # about what a message takes where it is deployed
        now += pause_s(now)
        looks += 1
    assert looks < 100


class Picky:
    """A grid that does not take messages to some nodes, as one of Flower's does, and answers the others at once."""

    def __init__(self, style, refused):
        self.style, self.refused = style, refused
        self.numbers = itertools.count()
        self.answers = {}

    def push_messages(self, messages):
        taken = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{next(self.numbers)}"
            number = message.metadata.message_id
            if message.metadata.dst_node_id not in self.refused:
                taken.append(number)
                self.answers[number] = Message(content=RecordDict(), reply_to=message)
            elif self.style == "None":
                taken.append(None)
        return [] if self.style == "nothing" and len(taken) < len(messages) else taken

    def pull_messages(self, numbers):
        return [self.answers.pop(one) for one in list(numbers) if one in self.answers]


def message(node, content=None):
    return Message(content=content or RecordDict(), message_type=MessageType.TRAIN, dst_node_id=node)


@pytest.mark.parametrize(("style", "taken"), [("None", [1, 3]), ("dropped", [1, 3]), ("nothing", [])])
def test_what_flower_has_not_taken_has_no_number(style, taken):
    messages = [message(node) for node in (1, 2, 3)]
    numbers = push(Picky(style, {2}), messages)
    assert [one.metadata.dst_node_id for one, number in zip(messages, numbers, strict=True) if number] == taken
    assert len(set(numbers)) == len(taken) + 1
    assert push(Picky(style, {2}), []) == []


class Slow(Picky):
    """Answers one client at a time, and keeps no answer."""

    def pull_messages(self, numbers):
        number = next((one for one in list(numbers) if one in self.answers), None)
        return [] if number is None else [self.answers.pop(number)]


def orders_to(service, count):
    host = BodyHost("natural", nn.Conv2d(1, 1, 1), OptimiserConfig(), 1, seed=0)
    for node in range(1, count + 1):
        session = Session(f"c{node}", "t", host, "task-specific", 1)
        order = Order("{}", "run", "", service.open(session), b"", "stream", "task-specific", 1, 1, 1, 0, 1)
        yield message(node, content_of(order, {}))


def test_replies_are_given_on_as_they_come_and_not_kept():
    with BodyService(WireConfig(carrier="messages"), threads=1) as service:
        slow = Slow("None", set())
        grid = PatientGrid(slow, service, lambda _: False, lambda *_: None, lambda _: {}, lambda: 9)
        replies = grid.send_and_receive(orders_to(service, 5), timeout=60)
        assert slow.answers == {}  # nothing is sent before somebody asks for a reply
        alive, most = [], 0
        for reply in replies:
            alive.append(weakref.ref(reply))
            del reply
            most = max(most, sum(one() is not None for one in alive))
    assert len(alive) == 5
    assert most <= 1


@pytest.mark.parametrize(("at_once", "most"), [(1, AHEAD), (2, 2 * AHEAD), (11, 11)])
def test_few_orders_are_under_way_where_few_clients_are_at_work_at_once(at_once, most):
    """And all of them where all are: each node of a deployment asks for its own."""
    with BodyService(WireConfig(carrier="messages"), threads=1) as service:
        slow = Slow("None", set())
        grid = PatientGrid(slow, service, lambda _: False, lambda *_: None, lambda _: {}, lambda: at_once)
        answered, waiting_there = [], []
        for reply in grid.send_and_receive(orders_to(service, 11), timeout=60):
            answered.append(reply.metadata.src_node_id)
            waiting_there.append(len(slow.answers))
    assert sorted(answered) == list(range(1, 12))
    assert max(waiting_there) == most - 1


@pytest.mark.parametrize("style", ["None", "dropped"])
def test_nobody_waits_for_a_client_whose_order_could_not_be_sent(style):
    host = BodyHost("natural", nn.Conv2d(1, 1, 1), OptimiserConfig(), 1, seed=0)
    cohort = Cohort(host, [Member("a", "t"), Member("b", "t")], input_gradient=False, step_path=(1, "joint", 1),
                    join_timeout_s=600, step_timeout_s=600, quorum=0.5)  # fmt: skip
    with BodyService(WireConfig(carrier="messages"), threads=1) as service:
        sessions = [Session(name, "t", host, "joint", 1, cohort) for name in "ab"]
        orders = []
        for node, session in enumerate(sessions):
            order = Order("{}", "run", "", service.open(session), b"", "stream", "joint", 1, 1, 1, 0, 1)
            orders.append(message(node, content_of(order, {})))
        grid = PatientGrid(Picky(style, {1}), service, lambda _: False, lambda *_: None, lambda _: {}, lambda: 9)
        began = time.monotonic()
        replies = list(grid.send_and_receive(orders, timeout=600))
        assert time.monotonic() - began < 30
    refused = {one.metadata.src_node_id: one for one in replies if one.has_error()}
    assert set(refused) == {1}
    assert "could not be sent; at node 1" in refused[1].error.reason
    assert "could not be sent" in cohort.left["b"]
    assert FRAMES not in replies[0].content
