"""The learning rate over a run."""

import pytest
import torch

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.split.optimisers import learning_rate


@pytest.mark.parametrize(
    ("decay", "progress", "share"),
    [("none", 0.0, 1.0), ("none", 0.9, 1.0), ("cosine", 0.0, 1.0), ("cosine", 0.5, 0.5), ("cosine", 2 / 3, 0.25)],
)
def test_the_learning_rate_of_a_place_in_the_run(decay, progress, share):
    config = OptimiserConfig(name="sgd", lr=0.4, decay=decay)
    assert learning_rate(config, progress) == pytest.approx(0.4 * share)


def test_the_body_steps_at_the_learning_rate_of_the_place():
    moved = []
    for progress in (0.0, 0.5, 0.0):
        body = torch.nn.Conv2d(4, 4, 1)
        host = BodyHost("natural", body, OptimiserConfig(name="sgd", lr=0.2, decay="cosine"), 4, seed=0)
        host.begin_phase(moves=True, progress=progress)
        before = body.bias.detach().clone()
        one = host.forward_moving([torch.ones(1, 4, 2, 2)], input_gradient=False, step_path=(1, "joint", 1, 0))
        host.backward_and_step(one, [torch.ones(1, 4, 2, 2)], [1.0])
        moved.append(float((before - body.bias.detach()).mean()))
    assert moved == pytest.approx([0.2 * 4, 0.1 * 4, 0.2 * 4])
