"""Passes of a frozen head: computed once for each batch of a phase, whatever session or process asks."""

import pytest
import torch

from tavit_flwr.client.frozen_passes import FrozenPass, FrozenPasses
from tavit_flwr.client.store import PrivateStore
from tavit_flwr.split.client_side import HeadPass

PERIOD = 3


class Head:
    """Makes another pass each time, so that what is found again shows."""

    def __init__(self):
        self.steps = []

    def make(self, step):
        self.steps.append(step)
        skip, degraded = torch.full((2, 4), float(len(self.steps))), torch.full((2, 3), float(step))
        return FrozenPass(degraded, degraded + 1, HeadPass(skip.bfloat16(), (skip, skip), (skip, skip)))


@pytest.fixture
def head():
    return Head()


@pytest.fixture
def store(tmp_path):
    return PrivateStore(tmp_path, "run", "client")


def same(one, other):
    first, second = one.tensors(), other.tensors()
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first
    )


def test_a_session_computes_one_for_each_batch(head):
    passes = FrozenPasses(PERIOD)
    made = [passes.of_step(step, head.make) for step in range(7)]
    assert head.steps == [0, 1, 2]
    assert [made[step] is made[step % PERIOD] for step in range(7)] == [True] * 7


def test_another_session_of_the_phase_finds_them(head, store):
    first = FrozenPasses(PERIOD, store, "phase")
    made = [first.of_step(step, head.make) for step in range(2)]
    second = FrozenPasses(PERIOD, store, "phase")
    found = [second.of_step(step, head.make) for step in (3, 4, 5)]
    assert head.steps == [0, 1, 5]
    assert [same(one, other) for one, other in zip(made, found, strict=False)] == [True, True]


def test_another_phase_or_head_computes_anew_and_takes_the_place(head, store):
    for key in ("phase", "next"):
        FrozenPasses(PERIOD, store, key).of_step(0, head.make)
    assert head.steps == [0, 0]
    assert len(list(store.folder.iterdir())) == 1


def test_a_damaged_file_is_computed_anew(head, store):
    FrozenPasses(PERIOD, store, "phase").of_step(0, head.make)
    (path,) = store.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    FrozenPasses(PERIOD, store, "phase").of_step(0, head.make)
    assert head.steps == [0, 0]


def test_a_full_disk_costs_the_memory_and_says_so(head, store, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tavit_flwr.client.store.write_tensors", full)
    passes = FrozenPasses(PERIOD, store, "phase")
    assert passes.of_step(0, head.make) is passes.of_step(PERIOD, head.make)
    assert "No space left on device" in caplog.text
    assert "computed again when it is needed" in caplog.text
