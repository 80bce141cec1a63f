"""`data.fixed_batches`: a task-agnostic phase draws so many batches, the same in each of its rounds."""

from dataclasses import replace

import pytest
import torch

from tavit_flwr.client.frozen_passes import FrozenPass
from tavit_flwr.client.node import identify
from tavit_flwr.client.training import batches_of, passes_of, period
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.split.client_side import HeadPass
from tavit_flwr.wire.records import Order

ORDER = Order("", "run", "", "", b"", "stream", "task-agnostic", 1, 1, 6, 0, 1)


@pytest.fixture
def workshop(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("TAVIT_STATE_DIR", str(tmp_path))

    def make(*overrides):
        config = tiny("clients=[denoise]", *overrides)
        return Workshop.open(identify({"partition-id": 0, "num-partitions": 1}, config), config)

    return make


def test_batches_come_again_in_every_round_of_the_phase(workshop):
    shop = workshop("data.fixed_batches=2")
    one, other = (batches_of(shop, replace(ORDER, round=number)) for number in (1, 2))
    assert period(shop, ORDER) == 2
    for step, again in ((0, 2), (1, 3), (0, 4)):
        assert torch.equal(one(step)[0], one(again)[0])
        assert torch.equal(one(step)[1], other(again)[1])
    assert not torch.equal(one(0)[0], one(1)[0])
    assert not torch.equal(one(0)[0], batches_of(shop, replace(ORDER, cycle=2))(0)[0])


def test_other_weights_phases_and_images_call_for_other_passes(workshop):
    shop, order = workshop("data.fixed_batches=2"), replace(ORDER, weights="key")

    def kept(shop, order):
        calls = []
        passes_of(shop, order).of_step(0, lambda step: calls.append(step) or made)
        return not calls

    image = torch.zeros(1, 3, 4, 4)
    made = FrozenPass(image, image, HeadPass(image, (), ()))
    assert [kept(shop, order), kept(shop, replace(order, round=2))] == [False, True]
    for other in (replace(order, weights="other"), replace(order, cycle=2)):
        assert [kept(shop, other), kept(shop, other), kept(shop, order)] == [False, True, False]
    fewer = replace(shop, data=replace(shop.data, train=shop.data.train.only(shop.data.train.names[1:])))
    assert [kept(shop, order), kept(fewer, order)] == [True, False]
    assert passes_of(shop, replace(order, phase="task-specific")) is None


def test_phases_that_move_the_client_draw_anew(workshop):
    shop, order = workshop("data.fixed_batches=2"), replace(ORDER, phase="task-specific")
    assert period(shop, order) == 0
    batch = batches_of(shop, order)
    assert not torch.equal(batch(0)[0], batch(2)[0])
    assert torch.equal(batch(2)[0], batches_of(workshop(), order)(2)[0])


def test_the_period_counts_steps_of_several_minibatches(workshop):
    shop = workshop("data.fixed_batches=6", "wire.carrier=messages", "wire.minibatches_per_message=4",
                    "schedule.phases=[{kind: task-agnostic, rounds: 1, steps: 8}]")  # fmt: skip
    batch, steps = batches_of(shop, ORDER), period(shop, ORDER)
    assert steps == 3
    assert torch.equal(batch(0)[0], batch(steps)[0])
