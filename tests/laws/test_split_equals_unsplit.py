"""Law 1: the split step is the unsplit step."""

import pytest
import torch

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.split.precision import set_precision

STEPS = 20
COHORTS = [
    ["denoise"],
    pytest.param(["denoise", "deblock"], marks=pytest.mark.long),
    ["denoise", "deblock", "deblock"],
]


def relative(a, b):
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


@pytest.mark.parametrize("tasks", COHORTS, ids=len)
@pytest.mark.parametrize("phase", ["task-specific", "task-agnostic", "joint"])
def test_weights_agree_with_sgd(twin, phase, tasks):
    split, unsplit = twin(tasks)
    start = split.weights()
    split.run_split(phase, STEPS)
    unsplit.run_unsplit(phase, STEPS)
    ours, reference = split.weights(), unsplit.weights()
    moved = [name for name in start if not torch.equal(start[name], ours[name])]
    assert moved, "nothing moved: the comparison would be empty"
    worst = max((relative(ours[name], reference[name]), name) for name in ours)
    assert worst[0] < 1e-5, worst


def test_task_specific_is_bit_identical(twin):
    """One thread, equal shapes: two gradient paths joined in one backward pass add up as autograd's own do."""
    split, unsplit = twin(["denoise"])
    split.run_split("task-specific", STEPS)
    unsplit.run_unsplit("task-specific", STEPS)
    ours, reference = split.weights(), unsplit.weights()
    assert [name for name in ours if not torch.equal(ours[name], reference[name])] == []
    assert split.clients[0].losses == unsplit.clients[0].losses


@pytest.mark.parametrize("phase", ["task-specific", "task-agnostic", "joint"])
def test_losses_agree_with_adam(twin, phase):
    tasks = ["denoise", "deblock", "deblock"]
    split, unsplit = twin(tasks, OptimiserConfig(name="adam", lr=1e-3))
    split.run_split(phase, STEPS)
    unsplit.run_unsplit(phase, STEPS)
    for ours, reference in zip(split.clients, unsplit.clients, strict=True):
        assert ours.losses == pytest.approx(reference.losses, rel=1e-4)
        assert len(ours.losses) == STEPS


def test_phases_in_sequence_agree(twin):
    """Alternation keeps the equality: every phase starts from the weights and moments of the one before."""
    split, unsplit = twin(["denoise", "deblock"])
    for phase in ("task-specific", "task-agnostic", "task-specific"):
        split.run_split(phase, 5)
        unsplit.run_unsplit(phase, 5)
    ours, reference = split.weights(), unsplit.weights()
    assert max(relative(ours[name], reference[name]) for name in ours) < 1e-5


@pytest.mark.parametrize(
    "phase", [*(pytest.param(one, marks=pytest.mark.long) for one in ("task-specific", "task-agnostic")), "joint"]
)
def test_autocast_has_the_law_too_and_stays_near_float32(twin, make_lab, phase):
    """Split and unsplit compute the same in bfloat16; against float32 the losses of 20 steps differ by at most 2 %."""
    tasks, optimiser = ["denoise", "deblock"], OptimiserConfig(name="adam", lr=1e-3)
    split, unsplit = twin(tasks, optimiser)
    whole = make_lab(tasks, optimiser)
    for lab in (split, unsplit):
        for part in (lab.body, *(part for client in lab.clients for part in (client.head, client.tail))):
            set_precision(part, "bfloat16")
    split.run_split(phase, STEPS)
    unsplit.run_unsplit(phase, STEPS)
    whole.run_split(phase, STEPS)
    for ours, reference, exact in zip(split.clients, unsplit.clients, whole.clients, strict=True):
        assert ours.losses == pytest.approx(reference.losses, rel=1e-2)
        assert ours.losses == pytest.approx(exact.losses, rel=2e-2)
        assert ours.losses != exact.losses
    weights = [*split.body.parameters(), *split.clients[0].head.parameters()]
    assert {weight.dtype for weight in weights} == {torch.float32}
