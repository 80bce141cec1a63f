"""Frozen requests that wait at the same time run as one batch; whoever leaves it does not stop the others."""

import threading
import time

import pytest
import torch
from torch import nn

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.errors import SessionError
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.gathering import Gathering
from tavit_flwr.split.server_side import body_backward

pytestmark = pytest.mark.timeout(60)
D = 4


class Body(nn.Module):
    """Holds its first pass until it is let go."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(D, D, 1)
        self.begun, self.go, self.rows = threading.Event(), threading.Event(), []

    def forward(self, smashed):
        self.rows.append(len(smashed))
        self.begun.set()
        assert self.go.wait(20)
        return torch.tanh(self.mix(smashed))


def smashed(client, rows=2, side=3):
    return torch.randn(rows, D, side, side, generator=torch.Generator().manual_seed(ord(client)))


class Members:
    """Clients in threads; the first holds the body until all others wait."""

    def __init__(self, timeout_s=20.0):
        torch.set_num_threads(1)
        self.body = Body()
        self.host = BodyHost("natural", self.body, OptimiserConfig(), D, seed=0)
        self.host.begin_phase(moves=False)
        self.gathering = Gathering(self.host, timeout_s)
        self.passes, self.results, self.errors = [], {}, {}

    def work(self, function, *arguments):
        self.passes.append(function is body_backward)
        return function(*arguments)

    def member(self, client, tensor, before_gradient):
        try:
            with self.gathering.run(tensor, self.work) as (features, backward):
                before_gradient()
                self.results[client] = features, backward(2 * features)
        except Exception as error:
            self.errors[client] = error

    def run(self, tensors, **before_gradient):
        threads = {
            client: threading.Thread(
                target=self.member, args=(client, tensor, before_gradient.get(client, lambda: None))
            )
            for client, tensor in tensors.items()
        }
        for index, thread in enumerate(threads.values()):
            thread.start()
            assert self.body.begun.wait(20)
            deadline = time.monotonic() + 20
            while len(self.gathering._waiting) < index and time.monotonic() < deadline:
                time.sleep(0.001)
        self.body.go.set()
        for thread in threads.values():
            thread.join(30)
        return self

    def alone(self, tensor):
        body_pass = self.host.forward_frozen(tensor, input_gradient=True)
        return body_pass.sent, body_backward(body_pass, 2 * body_pass.sent)


def test_those_who_wait_share_one_pass_each_way_and_get_what_they_get_alone():
    tensors = {"a": smashed("a"), "b": smashed("b"), "c": smashed("c")}
    members = Members().run(tensors)
    assert members.errors == {}
    assert members.body.rows == [2, 4]
    assert sorted(members.passes) == [False, False, True, True]
    for client, tensor in tensors.items():
        for ours, alone in zip(members.results[client], members.alone(tensor), strict=True):
            torch.testing.assert_close(ours, alone)
    assert all(parameter.grad is None for parameter in members.body.parameters())


def test_one_that_finds_the_body_free_gets_the_same_bits_as_without_the_option():
    members = Members().run({"a": smashed("a")})
    assert all(map(torch.equal, members.results["a"], members.alone(smashed("a"))))


def test_other_shapes_run_for_themselves():
    members = Members().run({"a": smashed("a"), "b": smashed("b"), "c": smashed("c", side=2), "d": smashed("d")})
    assert members.errors == {}
    assert sorted(members.body.rows) == [2, 2, 4]


def test_one_that_leaves_does_not_stop_the_others():
    def leave():
        raise SessionError("a client", "none")

    members = Members().run({"a": smashed("a"), "b": smashed("b"), "c": smashed("c")}, b=leave)
    assert set(members.results) == {"a", "c"}
    assert list(members.errors) == ["b"]
    torch.testing.assert_close(members.results["c"], members.alone(smashed("c")))


def test_one_that_is_late_is_told_and_the_others_go_on():
    done = threading.Event()
    members = Members(timeout_s=0.3)
    held = members.member

    def member(client, *rest):
        held(client, *rest)
        if client == "c":
            done.set()

    members.member = member
    members.run({"a": smashed("a"), "b": smashed("b"), "c": smashed("c")}, b=lambda: done.wait(20))
    torch.testing.assert_close(members.results["c"], members.alone(smashed("c")))
    assert "wire.step_timeout_s" in str(members.errors["b"])


def test_a_pass_that_fails_is_the_trouble_of_whoever_ran_it():
    members = Members()
    tries = []

    def forward(tensor):
        tries.append(len(tensor))
        if len(tensor) > 2:
            raise MemoryError
        members.body.begun.set()
        assert members.body.go.wait(20)
        return members.body.mix(tensor)

    members.body.forward = forward
    members.run({"a": smashed("a"), "b": smashed("b"), "c": smashed("c")})
    assert tries == [2, 4, 2]
    assert len(members.results) == 2
    assert [type(error) for error in members.errors.values()] == [MemoryError]
