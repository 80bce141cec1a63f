"""Laws 3 and 5: same seed, same result, whatever order the nodes answer in."""

import threading

import torch

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.server.body_host import BodyHost


def test_the_order_of_the_nodes_does_not_matter(tiny, make_phases, fake_grid, run, tmp_path):
    config = tiny(
        "clients=[denoise,denoise,deblock]",
        make_phases("task-specific", "task-agnostic", "joint", rounds=1),
    )
    reference = run(config, tmp_path / "plain", fake_grid(3))
    for shuffle in (1,):
        ours = run(config, tmp_path / f"shuffled{shuffle}", fake_grid(3, shuffle=shuffle))
        assert [n for n in reference.weights if not torch.equal(ours.weights[n], reference.weights[n])] == []
        assert [
            n for n, t in reference.moments["natural"].items() if not torch.equal(ours.moments["natural"][n], t)
        ] == []


def test_another_seed_gives_another_result(tiny, make_phases, fake_grid, run, tmp_path):
    one, two = (
        run(tiny(make_phases("task-specific"), f"seed={seed}"), tmp_path / str(seed), fake_grid(2)) for seed in (0, 1)
    )
    assert any(not torch.equal(one.weights[name], two.weights[name]) for name in one.weights)


class _Dropping(torch.nn.Module):
    """A body that drops out after its `hook` has run."""

    def __init__(self, hook=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.hook = hook

    def forward(self, smashed):
        if self.hook:
            self.hook()
        return torch.nn.functional.dropout(smashed * self.weight, 0.5, self.training)


def _host(name, hook=None):
    host = BodyHost(name, _Dropping(hook), OptimiserConfig(name="sgd", lr=0.1), 4, seed=3)
    host.begin_phase(moves=True)
    return host


def _masks(host):
    path = (1, "joint", 1, 0)
    return host.forward_moving([torch.ones(2, 4, 8, 8)], input_gradient=False, step_path=path).sent


def test_two_bodies_at_once_draw_the_dropout_that_each_draws_alone():
    """Torch's generator belongs to the whole process; one body must not reseed it while another draws."""
    alone = _masks(_host("a"))
    a_inside, b_inside, a_done = threading.Event(), threading.Event(), threading.Event()

    def while_a_is_inside():
        a_inside.set()
        b_inside.wait(0.5)  # passes at once if the other body gets in

    def while_b_is_inside():
        b_inside.set()
        a_done.wait(0.5)

    def other():
        a_inside.wait(10)
        _masks(_host("b", while_b_is_inside))

    thread = threading.Thread(target=other)
    thread.start()
    together = _masks(_host("a", while_a_is_inside))
    a_done.set()
    thread.join(10)
    assert torch.equal(together, alone)


def test_dropout_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _masks(_host("a"))
    assert torch.equal(torch.rand(3), expected)
