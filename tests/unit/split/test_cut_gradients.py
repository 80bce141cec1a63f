"""Gradients that come from elsewhere go on as torch's own backward pass takes them."""

import pytest
import torch

from tavit_flwr.split.cut_gradients import backward_from, gradient_from


@pytest.fixture
def cut():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3)
    image = torch.rand(2, 3, 8, 8, requires_grad=True)
    one = layer(image)
    other = one.relu().mean((2, 3))
    return layer, image, [one, other], [torch.rand_like(one), torch.rand_like(other)]


def test_several_gradients_go_back_in_one_pass_to_the_bit(cut):
    layer, image, outputs, gradients = cut
    theirs = torch.autograd.grad(outputs, [image, *layer.parameters()], gradients, retain_graph=True)
    backward_from(outputs, gradients)
    ours = [image.grad, *(parameter.grad for parameter in layer.parameters())]
    assert [torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)] == [True, True, True]


def test_a_gradient_alone_touches_no_parameter(cut):
    layer, image, (output, _), (gradient, _) = cut
    theirs = torch.autograd.grad(output, image, gradient, retain_graph=True)[0]
    assert torch.equal(gradient_from(output, gradient, image), theirs)
    assert [parameter.grad for parameter in layer.parameters()] == [None, None]


def test_another_shape_is_refused(cut):
    _, _, (output, _), (gradient, _) = cut
    with pytest.raises(RuntimeError, match="invalid gradient"):
        backward_from([output], [gradient[:1, :, :1, :1]])
