"""Optimisers are torch's own, and cost a process nothing but themselves."""

import subprocess
import sys

import pytest
import torch

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.split.optimisers import build_optimiser, load_moments, moments

TRAIN = """
import sys, torch, tavit_flwr.client_app, tavit_flwr.server_app
from tavit_flwr.config import OptimiserConfig, compose
from tavit_flwr.models import build_parts
from tavit_flwr.server.cost import estimate
from tavit_flwr.split.client_side import head_backward, head_forward, tail_forward_backward
from tavit_flwr.split.optimisers import build_optimiser, load_moments, moments
from tavit_flwr.split.phases import set_moving
from tavit_flwr.split.server_side import body_backward, body_forward

parts = build_parts(preset="tiny")
images = torch.zeros(1, 3, 32, 32)
for name, moves in (("sgd", True), ("adam", False)):
    optimiser = build_optimiser([*parts.head.parameters(), *parts.tail.parameters()], OptimiserConfig(name=name))
    set_moving(parts.body, moves)
    head_pass = head_forward(parts.head, images, moves=True)
    body_pass = body_forward(parts.body, head_pass.smashed, input_gradient=True, moves=moves)
    tail_pass = tail_forward_backward(parts.tail, body_pass.sent, head_pass, images, images)
    head_backward(head_pass, body_backward(body_pass, tail_pass.grad_features), tail_pass.grad_local)
    optimiser.step()
    optimiser.zero_grad()
    load_moments(optimiser, moments(optimiser))
estimate(compose(["experiment=tiny", "data.source=folder"]))
print([name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))])
"""


def test_training_does_not_import_the_compiler():
    said = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_steps_and_moments_are_those_of_torch(name, kind):
    """Also for one that goes on with the moments of another."""
    config = OptimiserConfig(name=name, lr=0.1)
    options = {"betas": (config.beta1, config.beta2)} if name == "adam" else {}
    layers = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    layers[1].load_state_dict(layers[0].state_dict())
    ours = build_optimiser(layers[0].parameters(), config)
    theirs = kind(layers[1].parameters(), lr=0.1, fused=True, **options)
    assert isinstance(ours, kind)
    assert ours.defaults["fused"]
    for step in range(4):
        if step == 2:
            saved, ours = moments(ours), build_optimiser(layers[0].parameters(), config)
            load_moments(ours, saved)
        for layer, optimiser in zip(layers, (ours, theirs), strict=True):
            optimiser.zero_grad()
            layer(torch.linspace(-1, step, 12).reshape(4, 3)).pow(2).sum().backward()
            optimiser.step()
    for one, other in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad
    assert {key: value.tolist() for key, value in moments(ours).items()} == {
        key: value.tolist() for key, value in moments(theirs).items()
    }
