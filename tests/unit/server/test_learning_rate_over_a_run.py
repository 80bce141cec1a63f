"""Learning rates fall over the run, on client and server alike."""

import torch

DECAY = ("optimiser.client.decay=cosine", "optimiser.server.decay=cosine")


def test_half_way_a_step_is_half_as_long(tiny, fake_grid, run, tmp_path):
    # One step a round of plain gradient descent: the second round begins half-way, where half a cosine is at one half.
    # The paper's tail, for ours begins with a last convolution of zeros, where neither head nor body has a gradient.
    base = ("clients=[denoise]", "optimiser=sgd", "schedule.cycles=1", "+model.overrides.global_residual=false")
    phases = "schedule.phases=[{kind: joint, rounds: 2, steps: 1}]"
    after = {}
    for name, more in (("plain", ()), ("falling", DECAY)):
        config = tiny(*base, phases, *more)
        for rounds in (1, 2):
            weights = run(config, tmp_path / f"{name}{rounds}", fake_grid(1), rounds=rounds).weights
            after[name, rounds] = weights
    first = after["plain", 1]
    assert all(torch.equal(after["falling", 1][key], first[key]) for key in first)
    for part in ("head", "tail", "body"):
        whole, half = (
            torch.cat([(after[name, 2][key] - first[key]).flatten() for key in first if key.startswith(part)]).double()
            for name in ("plain", "falling")
        )
        assert whole.norm() > 0
        assert float((half - whole / 2).norm() / whole.norm()) < 0.05  # float32: the step is small beside the weight
