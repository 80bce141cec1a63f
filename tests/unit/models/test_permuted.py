"""The permuting head: a fixed projection in an order that the seed and the image give, undone by the tail."""

import pytest
import torch

from tavit_flwr.errors import ModelError
from tavit_flwr.models import build_parts
from tavit_flwr.models.permuted import reordered, restored_order
from tavit_flwr.split.client_side import head_backward, head_forward, tail_forward_backward
from tavit_flwr.split.devices import device_of


@pytest.fixture
def parts():
    return build_parts("tiny", head_kind="permuted")


@pytest.fixture
def batch():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_nothing_of_it_can_be_trained_and_all_of_it_is_set(parts):
    assert list(parts.head.parameters()) == []
    state = parts.head.state_dict()
    assert set(state) == {"weight", "key"}
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in state.values())
    assert state["weight"].any()


def test_tokens_are_the_patches_in_another_order(parts, batch):
    head = parts.head
    smashed, local = head(batch)
    scale, grid = parts.preset.scale, parts.preset.grid
    plain = torch.einsum("bcyixj,dcij->bdyx", batch.reshape(3, 3, grid, scale, grid, scale), head.weight)
    torch.testing.assert_close(restored_order(smashed, local[-1]), plain)
    assert not torch.allclose(smashed, plain)
    for order in local[-1]:
        assert order.long().sort().values.tolist() == list(range(grid * grid))
    assert not any(skip.any() for skip in local[:-1])


def test_the_order_is_fixed_by_seed_and_image_and_differs_between_both(parts, batch):
    orders = parts.head(batch).local[-1]
    again = build_parts("tiny", head_kind="permuted").head(batch[1:]).local[-1]
    assert torch.equal(orders[1:], again)
    assert len({tuple(order.tolist()) for order in orders}) == 3
    other = build_parts("tiny", seed=1, head_kind="permuted").head(batch).local[-1]
    assert not torch.equal(orders, other)


def test_the_tail_puts_features_back(parts, batch):
    tail = parts.tail
    with torch.no_grad():
        for value in tail.parameters():
            value.add_(0.1)
    _, local = parts.head(batch)
    features = torch.rand(3, parts.preset.body_dim, 8, 8)
    first, second = local[-1], torch.stack([torch.randperm(64) for _ in range(3)]).float()
    one = tail(reordered(features, first), (*local[:-1], first), batch)
    other = tail(reordered(features, second), (*local[:-1], second), batch)
    torch.testing.assert_close(one, other)
    with pytest.raises(ModelError):
        tail(features, local[:-1], batch)


def test_a_step_moves_the_tail_and_asks_nothing_of_the_head(parts, batch):
    passed = head_forward(parts.head, batch, moves=True)
    answer = tail_forward_backward(parts.tail, passed.sent, passed, batch, batch * 0.5)
    head_backward(passed, torch.ones_like(passed.smashed), answer.grad_local)
    assert any(value.grad is not None and value.grad.any() for value in parts.tail.parameters())


def test_a_wrong_batch_is_refused(parts):
    with pytest.raises(ModelError, match="sides multiples"):
        parts.head(torch.zeros(1, 3, 30, 32))


def test_a_head_of_fixed_weights_is_where_they_are(parts):
    assert device_of(parts.head.to("meta")).type == "meta"
