"""FedAvg, task by task, as laws."""

import dataclasses
import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tavit_flwr.errors import ModelError, ProtocolError
from tavit_flwr.server.aggregation import Averages, ClientWeights, Weights, check_state

HOW = st.sampled_from(["uniform", "examples"])


@st.composite
def replies(draw, tasks=("denoise", "deblock", "derain"), least=1):
    names = draw(st.lists(st.text("abcdef0123", min_size=1, max_size=4), min_size=least, max_size=6, unique=True))
    result = []
    for index, name in enumerate(names):
        numbers = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        scale = draw(st.sampled_from([1e-6, 1.0, 1e6]))
        head = {"w": torch.randn(3, 2, generator=numbers) * scale, "b": torch.randn(2, generator=numbers)}
        tail = {"w": torch.randn(2, 3, generator=numbers)}
        task = tasks[0] if index == 0 else draw(st.sampled_from(tasks))
        result.append(ClientWeights(name, task, draw(st.integers(1, 500)), head, tail))
    return result


def average(returned, how):
    """Average replies in the order in which they are given."""
    returned = list(returned)
    averages = Averages([(reply.task, reply.client) for reply in returned], how)
    for reply in returned:
        averages.add(reply)
    return averages.result()


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[task][part][name], other[task][part][name])
        for task in one
        for part in (0, 1)
        for name in one[task][part]
    )


@settings(max_examples=50, deadline=None)
@given(replies(), HOW, st.randoms(use_true_random=False))
def test_the_order_of_the_replies_changes_no_bit(given_replies, how, draws: random.Random):
    shuffled = list(given_replies)
    draws.shuffle(shuffled)
    assert same(average(given_replies, how), average(iter(shuffled), how))


@settings(max_examples=50, deadline=None)
@given(replies(), HOW)
def test_tasks_never_mix(given_replies, how):
    together = average(given_replies, how)
    assert set(together) == {reply.task for reply in given_replies}
    for task in together:
        alone = average([reply for reply in given_replies if reply.task == task], how)
        assert same(alone, {task: together[task]})


@settings(max_examples=50, deadline=None)
@given(replies(), HOW)
def test_one_client_is_the_identity(given_replies, how):
    one = given_replies[0]
    head, tail = average([one], how)[one.task]
    assert all(torch.equal(head[name], one.head[name]) for name in one.head)
    assert all(torch.equal(tail[name], one.tail[name]) for name in one.tail)


@settings(max_examples=50, deadline=None)
@given(replies(tasks=("denoise",)), HOW)
def test_the_average_is_the_weighted_mean(given_replies, how):
    head, tail = average(given_replies, how)["denoise"]
    weights = [1.0 if how == "uniform" else reply.examples for reply in given_replies]
    for part, result in (("head", head), ("tail", tail)):
        for name, tensor in result.items():
            stack = torch.stack([getattr(reply, part)[name].double() for reply in given_replies])
            shares = torch.tensor(weights, dtype=torch.float64).reshape(-1, *[1] * tensor.ndim)
            expected = (stack * shares).sum(0) / sum(weights)
            scale = float(stack.abs().max())
            assert torch.allclose(tensor.double(), expected, rtol=1e-6, atol=1e-6 * scale)
            assert tensor.dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(replies(tasks=("denoise",), least=2))
def test_uniform_ignores_examples(given_replies):
    others = [dataclasses.replace(reply, examples=index + 1) for index, reply in enumerate(given_replies)]
    assert same(average(given_replies, "uniform"), average(others, "uniform"))


def test_examples_count():
    zero, one = ({"w": torch.full((2,), value)} for value in (0.0, 1.0))
    pair = [ClientWeights("a", "t", 1, zero, zero), ClientWeights("b", "t", 3, one, one)]
    assert torch.equal(average(pair, "examples")["t"][0]["w"], torch.full((2,), 0.75))
    assert torch.equal(average(pair, "uniform")["t"][0]["w"], torch.full((2,), 0.5))


def test_the_order_of_the_replies_changes_no_bit_where_sums_do():
    """Even in double precision: (1e30 - 1e30) + 1 is 1, (1e30 + 1) - 1e30 is 0."""
    states = [{"w": torch.full((2,), value)} for value in (1e30, 1.0, -1e30)]
    three = [ClientWeights(name, "t", 1, state, state) for name, state in zip("abc", states, strict=True)]
    results = [average(order, "uniform")["t"][0]["w"] for order in itertools.permutations(three)]
    assert all(torch.equal(results[0], other) for other in results)


def test_nothing_in_nothing_out():
    assert average([], "uniform") == {}
    assert Averages([("t", "a")], "uniform").result() == {}


def reply_of(client, value=1.0):
    state = {"w": torch.full((2,), value)}
    return ClientWeights(client, "t", 1, state, state)


def test_replies_in_the_order_of_their_clients_are_not_kept():
    """A hundred clients of a task take as much memory as one."""
    clients = [f"p{number:04d}" for number in range(100)]
    averages = Averages([("t", client) for client in reversed(clients)], "uniform")
    for client in clients:
        averages.add(reply_of(client))
    assert averages.most_waiting == 1
    assert torch.equal(averages.result()["t"][0]["w"], torch.ones(2))


def test_replies_wait_for_those_before_them_and_no_longer():
    averages = Averages([("t", client) for client in "abcd"], "uniform")
    averages.add(reply_of("c", 1e30))
    averages.add(reply_of("b", 1.0))
    averages.leave_out("t", "a")
    assert (averages.most_waiting, averages._here) == (2, {})
    averages.add(reply_of("d", -1e30))
    in_order = average([reply_of("b", 1.0), reply_of("c", 1e30), reply_of("d", -1e30)], "uniform")
    assert same(averages.result(), in_order)


def test_those_that_never_come_do_not_hold_up_the_others():
    averages = Averages([("t", client) for client in "abc"], "uniform")
    for client in "cb":
        averages.add(reply_of(client, 3.0))
    assert torch.equal(averages.result()["t"][1]["w"], torch.full((2,), 3.0))


LIKE = {"w": torch.zeros(2, 3), "b": torch.zeros(2)}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"w": torch.zeros(2, 3)}, "missing"),
        ({**LIKE, "x": torch.zeros(1)}, "unknown"),
        ({**LIKE, "w": torch.zeros(3, 2)}, r"w of shape \(2, 3\)"),
        ({**LIKE, "w": torch.full((2, 3), float("nan"))}, "finite values in w"),
        ({**LIKE, "b": torch.tensor([0.0, float("inf")])}, "finite values in b"),
    ],
    ids=["missing", "unknown", "shape", "nan", "inf"],
)
def test_states_that_cannot_be_averaged_are_refused(state, says):
    with pytest.raises(ProtocolError, match=f"{says}.*client x"):
        check_state(state, LIKE, "client x")


def test_a_fitting_state_is_let_through():
    check_state({name: tensor + 1 for name, tensor in LIKE.items()}, LIKE, "client x")


def test_weights_come_back_flat_and_as_arrays():
    head, tail = {"denoise": {"w": torch.randn(3)}}, {"denoise": {"w": torch.ones(1)}}
    weights = Weights({"natural": {"a.b": torch.randn(2)}}, head, tail)
    for back in (Weights.from_flat(weights.flat()), Weights.from_arrays(weights.to_arrays())):
        assert set(back.flat()) == {"body/natural/a.b", "head/denoise/w", "tail/denoise/w"}
        assert all(torch.equal(back.flat()[name], tensor) for name, tensor in weights.flat().items())


@pytest.mark.parametrize("name", ["w", "head/w", "skip/denoise/w", "body//w"])
def test_names_of_another_form_are_refused(name):
    with pytest.raises(ModelError, match="body/<body>"):
        Weights.from_flat({name: torch.ones(1)})
