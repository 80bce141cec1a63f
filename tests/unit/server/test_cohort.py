"""The cohort: one body stepped for all, with deadlines, a quorum, and no memory of who came first."""

import itertools
import threading
import time

import pytest
import torch
from torch import nn

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.errors import QuorumError, SessionError, TavitError
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.split.server_side import cohort_weights

D = 4
TASKS = {"a": "denoise", "b": "denoise", "c": "deblock"}


class Body(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(D, D, 1)
        self.drop = nn.Dropout(dropout)

    def forward(self, smashed):
        return self.drop(torch.tanh(self.mix(smashed)))


def make_host(dropout=0.0):
    torch.set_num_threads(1)
    host = BodyHost("natural", Body(dropout), OptimiserConfig(name="sgd", lr=0.5), D, seed=3)
    host.begin_phase(moves=True)
    return host


def make_cohort(host, tasks=TASKS, **options):
    settings = {"input_gradient": False, "step_path": (1, "joint", 1), "join_timeout_s": 10, "step_timeout_s": 10,
                "quorum": 0.5}  # fmt: skip
    return Cohort(host, [Member(*one) for one in tasks.items()], **(settings | options))


def smashed(client, step):
    return torch.randn(2, D, 3, 3, generator=torch.Generator().manual_seed(ord(client) * 100 + step))


class Runner:
    """Each member in a thread; `waits` says after which other member's arrival one arrives."""

    def __init__(self, cohort, order=None):
        self.cohort = cohort
        self.order = order
        self.features, self.gradients, self.errors = {}, {}, {}
        self.arrived = {}
        self.lock = threading.Condition()

    def arrive(self, client, turn):
        """Let members enter a turn one by one, in the given order."""
        if not self.order:
            return
        position = self.order.index(client)
        with self.lock:
            self.lock.wait_for(lambda: self.arrived.get(turn, 0) >= position, 10)

    def arrival(self, turn):
        with self.lock:
            self.arrived[turn] = self.arrived.get(turn, 0) + 1
            self.lock.notify_all()

    def turn(self, client, turn, gradient, following):
        self.arrive(client, turn)
        if self.order and self.order[-1] != client:
            threading.Timer(0.01, self.arrival, [turn]).start()  # once this one is inside
        return self.cohort.take_turn(client, gradient, following)

    def member(self, client, steps):
        try:
            result = self.turn(client, 0, None, smashed(client, 0))
            for step in range(steps):
                self.features.setdefault(client, []).append(result.features)
                following = smashed(client, step + 1) if step + 1 < steps else None
                result = self.turn(client, step + 1, result.features * 2, following)
            self.cohort.done(client)
        except TavitError as error:
            self.errors[client] = error

    def run(self, clients, steps):
        threads = [threading.Thread(target=self.member, args=(client, steps)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return self


def reference(tasks, steps, dropout=0.0):
    """The same steps by hand: mean over the clients of a task, then over the tasks."""
    body = Body(dropout)
    optimiser = torch.optim.SGD(body.parameters(), lr=0.5)
    counts = {task: list(tasks.values()).count(task) for task in tasks.values()}
    for step in range(steps):
        optimiser.zero_grad()
        for client, task in tasks.items():
            features = body(smashed(client, step))
            features.backward(features.detach() * 2 / (counts[task] * len(counts)))
        optimiser.step()
    return body.state_dict()


def close(state, expected):
    return all(torch.allclose(state[name], expected[name], atol=1e-6) for name in expected)


def test_the_weights_are_means_over_clients_of_a_task_then_tasks():
    assert cohort_weights(["x", "x", "y", "z"]) == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3])
    assert cohort_weights(["x"]) == [1.0]


def test_the_body_steps_on_the_mean_over_clients_then_tasks():
    host = make_host()
    runner = Runner(make_cohort(host)).run("abc", 3)
    assert runner.errors == {}
    assert close(host.state(), reference(TASKS, 3))
    assert not close(host.state(), reference({"a": "x", "b": "y", "c": "z"}, 3))
    assert host.steps == runner.cohort.steps_done == 3


@pytest.mark.parametrize("order", list(itertools.permutations("abc"))[1:4], ids="".join)
def test_the_order_of_arrival_does_not_change_a_bit(order):
    host, other = make_host(0.3), make_host(0.3)
    plain = Runner(make_cohort(host), "abc").run("abc", 2)
    shuffled = Runner(make_cohort(other), list(order)).run("abc", 2)
    assert plain.errors == shuffled.errors == {}
    for name, tensor in host.state().items():
        assert torch.equal(tensor, other.state()[name])
    for client in "abc":
        assert all(map(torch.equal, plain.features[client], shuffled.features[client]))


def test_members_that_do_not_join_are_left_out_and_the_others_go_on():
    host = make_host()
    began = time.monotonic()
    runner = Runner(make_cohort(host, join_timeout_s=0.2)).run("ac", 2)
    assert 0.2 <= time.monotonic() - began < 5
    assert runner.errors == {}
    assert list(runner.cohort.left) == ["b"]
    assert close(host.state(), reference({"a": "denoise", "c": "deblock"}, 2))
    with pytest.raises(SessionError, match="left out"):  # too late
        runner.cohort.take_turn("b", None, smashed("b", 0))


def test_a_member_that_stalls_in_a_later_turn_is_left_out():
    host = make_host()
    cohort = make_cohort(host, step_timeout_s=0.2)
    stalls = threading.Thread(target=lambda: cohort.take_turn("b", None, smashed("b", 0)))
    stalls.start()
    runner = Runner(cohort).run("ac", 2)
    stalls.join(5)
    assert runner.errors == {}
    assert "turn 1" in cohort.left["b"]
    with pytest.raises(SessionError, match="left out"):
        cohort.take_turn("b", smashed("b", 1), None)
    # The first step's gradient is the mean over those that are left.
    assert close(host.state(), reference({"a": "denoise", "c": "deblock"}, 2))


@pytest.mark.parametrize("moment", ["before its turn", "inside its turn"])
def test_a_member_that_leaves_in_mid_turn_stops_nobody(moment):
    host = make_host()
    cohort = make_cohort(host)
    inside = threading.Event()

    def first():
        try:
            if moment == "inside its turn":
                threading.Timer(0.1, inside.set).start()
                cohort.take_turn("b", None, smashed("b", 0))
        except SessionError:
            pass

    thread = threading.Thread(target=first)
    thread.start()
    if moment == "inside its turn":
        inside.wait(5)
    cohort.leave("b", "its stream was cut")
    runner = Runner(cohort).run("ac", 2)
    thread.join(5)
    assert not thread.is_alive()
    assert runner.errors == {}
    assert close(host.state(), reference({"a": "denoise", "c": "deblock"}, 2))


def test_the_gradient_of_a_member_that_leaves_is_never_used():
    """It came, and its stream ended before the turn did."""
    host = make_host()
    cohort = make_cohort(host)
    together = threading.Barrier(3)
    inside = threading.Event()

    def member(client):
        features = cohort.take_turn(client, None, smashed(client, 0)).features
        together.wait(10)
        if client != "b":
            inside.wait(10)
            cohort.take_turn(client, features * 2, None)
            return
        threading.Timer(0.1, lambda: (cohort.leave("b", "its stream was cut"), inside.set())).start()
        with pytest.raises(SessionError):
            cohort.take_turn("b", features * 2, None)

    threads = [threading.Thread(target=member, args=(client,)) for client in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert close(host.state(), reference({"a": "denoise", "c": "deblock"}, 1))


def test_the_last_one_waited_for_leaving_lets_the_others_go():
    cohort = make_cohort(make_host(), join_timeout_s=30)
    runner = Runner(cohort)
    threading.Timer(0.1, cohort.leave, ["b", "its stream was cut"]).start()
    began = time.monotonic()
    runner.run("ac", 1)
    assert runner.errors == {}
    assert time.monotonic() - began < 5


def test_below_the_quorum_everyone_is_told():
    cohort = make_cohort(make_host(), join_timeout_s=0.2, quorum=1.0)
    runner = Runner(cohort).run("ac", 2)
    assert set(runner.errors) == {"a", "c"}
    for error in runner.errors.values():
        assert isinstance(error, QuorumError)
        assert "b" in str(error)
        assert "federation.quorum" in str(error)
    with pytest.raises(QuorumError):
        cohort.take_turn("b", None, smashed("b", 0))


def test_leaving_below_the_quorum_tells_those_who_wait_at_once():
    cohort = make_cohort(make_host(), quorum=0.9, join_timeout_s=30)
    threading.Timer(0.1, cohort.leave, ["b", "NaN"]).start()
    began = time.monotonic()
    assert set(Runner(cohort).run("ac", 1).errors) == {"a", "c"}
    assert time.monotonic() - began < 5


def test_done_is_not_leaving():
    cohort = make_cohort(make_host(), {"a": "denoise"}, quorum=1.0)
    assert Runner(cohort).run("a", 1).errors == {}
    cohort.leave("a", "the stream's end")
    assert cohort.left == {}


def test_a_stranger_is_refused():
    with pytest.raises(SessionError):
        make_cohort(make_host()).take_turn("z", None, smashed("z", 0))


def test_members_get_the_gradient_of_their_own_loss():
    """Joint phase: the weight that the cohort gives a client must not shrink its head's gradient."""
    host = make_host()
    cohort = make_cohort(host, input_gradient=True)
    got = {}

    def member(client):
        features = cohort.take_turn(client, None, smashed(client, 0)).features
        got[client] = cohort.take_turn(client, torch.ones_like(features), None).grad_smashed

    threads = [threading.Thread(target=member, args=(client,)) for client in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    for client in "abc":
        leaf = smashed(client, 0).requires_grad_(True)
        Body()(leaf).sum().backward()
        assert torch.allclose(got[client], leaf.grad, atol=1e-6)


def test_a_gradient_that_is_not_finite_moves_nothing():
    host = make_host()
    before = host.state()
    cohort = make_cohort(host, {"a": "denoise"})
    features = cohort.take_turn("a", None, smashed("a", 0)).features
    with pytest.raises(TavitError, match="body 'natural'"):
        cohort.take_turn("a", features * float("inf"), None)
    assert all(torch.equal(before[name], tensor) for name, tensor in host.state().items())


def test_an_error_of_the_server_ends_the_cohort_and_is_nobody_s_fault(monkeypatch, caplog):
    """Such as of memory: tried again it would be blamed on whoever came next."""
    host = make_host()
    tried = []

    def fails(*_, **__):
        tried.append(1)
        raise RuntimeError("cannot allocate /some/path")

    monkeypatch.setattr(host, "forward_moving", fails)
    runner = Runner(make_cohort(host)).run("abc", 2)
    assert len(tried) == 1
    assert runner.cohort.left == {}
    assert set(runner.errors) == set("abc")
    for error in runner.errors.values():
        assert isinstance(error, SessionError)
        assert "RuntimeError; at body 'natural'; see the ServerApp's log; a smaller data.batch_size" in str(error)
    assert "cannot allocate" in caplog.text
    with pytest.raises(SessionError, match="errors of the server"):
        runner.cohort.take_turn("a", None, smashed("a", 0))


def test_the_hosts_copies_are_copies():
    host = make_host()
    kept = host.state()
    with torch.no_grad():
        next(host.body.parameters()).add_(1)
    assert any(not torch.equal(kept[name], tensor) for name, tensor in host.state().items())


def test_the_batch_has_the_cohort_s_threads_and_what_is_around_it_keeps_its_own():
    host, seen = make_host(), []
    cohort = make_cohort(host, {"a": "denoise"}, threads=3)
    host.body.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    cohort.take_turn("a", None, smashed("a", 0))
    assert seen == [3]
    assert torch.get_num_threads() == 1
