"""One request, one answer, and the same answer again: whatever transport comes and goes."""

import functools
import threading
import time

import pytest
import torch

from tavit_flwr.errors import ProtocolError, SessionError
from tavit_flwr.payloads import Features, GradFeatures, Smashed
from tavit_flwr.wire.exchange import Exchange
from tavit_flwr.wire.frames import encode

ONES = torch.ones(1, 1, 1, 1)


@functools.cache  # the order of a header's keys is not fixed
def frame(kind, step):
    return encode(kind(step, ONES), "joint")


@pytest.fixture
def exchange():
    return Exchange()


def nothing():
    pass


def test_a_request_is_answered(exchange):
    holder = exchange.attach(nothing)
    holder.offer(frame(Smashed, 0))
    assert holder.take() is None
    assert exchange.receive(1, "it") == frame(Smashed, 0)
    exchange.answer(frame(Features, 0))
    assert holder.take() == frame(Features, 0)


def test_a_request_that_comes_again_is_not_worked_on_again(exchange):
    holder = exchange.attach(nothing)
    holder.offer(frame(Smashed, 0))
    exchange.receive(1, "it")
    holder = exchange.attach(nothing)
    holder.offer(frame(Smashed, 0))  # before the answer
    with pytest.raises(SessionError, match=r"within 0\.1 s"):
        exchange.receive(0.1, "another")
    exchange.answer(frame(Features, 0))
    assert holder.take() == frame(Features, 0)
    holder = exchange.attach(nothing)
    holder.offer(frame(Smashed, 0))  # after it
    assert holder.take() == frame(Features, 0)
    with pytest.raises(SessionError, match=r"within 0\.1 s"):
        exchange.receive(0.1, "another")
    counted = {way: {kind: row["frames"] for kind, row in kinds.items()}
               for way, kinds in exchange.ledger.as_dict().items()}  # fmt: skip
    assert counted == {"up": {"Smashed": 1, "Smashed, resent": 2}, "down": {"Features": 1, "Features, resent": 1}}


def test_a_second_request_before_the_answer_is_refused(exchange):
    holder = exchange.attach(nothing)
    holder.offer(frame(Smashed, 0))
    with pytest.raises(ProtocolError, match="one request at a time"):
        holder.offer(frame(GradFeatures, 0))


def test_the_newer_transport_replaces_the_older(exchange):
    told = []
    old = exchange.attach(lambda: told.append("old"))
    new = exchange.attach(lambda: told.append("new"))
    assert told == ["old"]
    for use in (lambda: old.offer(frame(Smashed, 0)), old.take):
        with pytest.raises(SessionError, match="another has replaced"):
            use()
    old.detach()
    new.offer(frame(Smashed, 0))
    assert exchange.receive(1, "it")


def test_one_who_waits_is_told_when_it_is_replaced(exchange):
    old = exchange.attach(nothing)
    old.offer(frame(Smashed, 0))
    threading.Timer(0.1, exchange.attach, [nothing]).start()
    with pytest.raises(SessionError, match="another has replaced"):
        old.take(10)


def test_the_wait_for_a_request_counts_from_the_last_frame(exchange):
    began = time.monotonic()
    threading.Timer(0.2, lambda: exchange.attach(nothing)).start()
    with pytest.raises(SessionError, match=r"it within 0\.3 s; received nothing"):
        exchange.receive(0.3, "it")
    assert 0.45 < time.monotonic() - began < 5


def test_an_ended_session_keeps_its_last_answer_and_takes_no_more(exchange):
    holder = exchange.attach(nothing)
    holder.offer(frame(Smashed, 0))
    exchange.receive(1, "it")
    exchange.answer(frame(Features, 0))
    exchange.end()
    assert holder.take() == frame(Features, 0)
    holder.offer(frame(Smashed, 0))
    assert holder.take() == frame(Features, 0)
    with pytest.raises(SessionError, match="after the session's end"):
        holder.offer(frame(Smashed, 1))


def test_whoever_asks_gets_the_error_and_whoever_does_not_is_ended():
    told = []
    asking, idle = Exchange(), Exchange()
    holder = asking.attach(lambda: told.append("asking"))
    holder.offer(frame(Smashed, 0))
    idle.attach(lambda: told.append("idle"))
    for exchange in (asking, idle):
        exchange.end(SessionError("peace", "NaN"))
        exchange.end(SessionError("something else", "later"))
    assert told == ["idle"]
    with pytest.raises(SessionError, match="NaN"):
        holder.take(1)
    with pytest.raises(SessionError, match="NaN"):
        idle.receive(1, "it")


def test_a_frame_without_a_name_is_not_taken_for_the_one_before(exchange):
    holder = exchange.attach(nothing)
    for _ in range(2):
        holder.offer(b"rubbish")
        assert exchange.receive(1, "it") == b"rubbish"
        exchange.answer(b"")
        holder.take()
    assert exchange.ledger.as_dict()["up"] == {}
