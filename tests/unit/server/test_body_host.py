"""One body's step: the weighted mean of gradients, and none where they are not finite."""

import pytest
import torch
from torch import nn

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.errors import ModelError
from tavit_flwr.server.body_host import BodyHost

D = 4


def make_host():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    host = BodyHost("natural", nn.Conv2d(D, D, 1), OptimiserConfig(name="sgd", lr=1.0), D, seed=0)
    host.begin_phase(moves=True)
    return host


def tensors(*rows):
    return [torch.randn(count, D, 3, 3, generator=torch.Generator().manual_seed(count)) for count in rows]


def step(host, gradients, weights):
    batch = [torch.ones_like(one) for one in gradients]
    body_pass = host.forward_moving(batch, input_gradient=True, step_path=(0,))
    return host.backward_and_step(body_pass, gradients, weights)


@pytest.mark.parametrize(("rows", "weights"), [((2, 3), (0.25, 0.75)), ((2,), (1.0,)), ((1, 2, 3), (0.5, 0.25, 0.25))])
def test_the_body_moves_by_the_weighted_sum_and_each_client_gets_the_gradient_of_its_own_loss(rows, weights):
    host, gradients = make_host(), tensors(*rows)
    before = {name: value.clone() for name, value in host.body.state_dict().items()}
    kept = [one.clone() for one in gradients]
    own = step(host, gradients, weights)
    expected = {name: value.clone().requires_grad_() for name, value in before.items()}
    for weight, gradient in zip(weights, gradients, strict=True):
        output = nn.functional.conv2d(torch.ones_like(gradient), **expected)
        output.backward(weight * gradient)
    for name, value in host.body.state_dict().items():
        torch.testing.assert_close(value, before[name] - expected[name].grad)
    for gradient, mine in zip(gradients, own, strict=True):
        torch.testing.assert_close(mine, nn.functional.conv_transpose2d(gradient, before["weight"]))
    assert all(map(torch.equal, gradients, kept))


def test_a_gradient_that_is_not_finite_leaves_the_body_as_it_was():
    host, (gradient,) = make_host(), tensors(2)
    before = host.state()
    gradient[1, 2, 0, 0] = torch.inf
    with pytest.raises(ModelError, match="finite gradients of the body"):
        step(host, [gradient], [1.0])
    assert all(torch.equal(value, before[name]) for name, value in host.state().items())
    assert host.steps == 0
