"""The session loop against a carrier that is not there: what is sent, when, and what is never sent."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tavit_flwr.client.evaluation import SplitRestorer, score
from tavit_flwr.client.pictures import save_picture
from tavit_flwr.client.session import ClientSession
from tavit_flwr.errors import DataError, ModelError, ProtocolError
from tavit_flwr.payloads import EVALUATE_METRICS, Acknowledged, Features, GradSmashed
from tavit_flwr.restoration import restore_tiled
from tavit_flwr.split.phases import PHASES
from tavit_flwr.wire.ledger import Ledger

D = 4


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, D, 1)

    def forward(self, degraded):
        smashed = self.conv(degraded)
        return smashed, (smashed * 2,)


class Tail(nn.Module):
    def __init__(self, broken_from=None):
        super().__init__()
        self.conv = nn.Conv2d(D, 3, 1)
        self.broken_from = broken_from
        self.passes = 0

    def forward(self, features, local, degraded):
        restored = self.conv(features + local[0])
        if self.broken_from is not None and self.passes >= self.broken_from:
            restored = restored * float("inf")
        self.passes += 1
        return restored


class FakeCarrier:
    """An identity body."""

    def __init__(self, wrong=None):
        self.ledger, self.wait_s = Ledger(), 0.0
        self.sent, self.log = [], []
        self.wrong = wrong

    def send(self, payload):
        self.sent.append(payload)
        self.log.append(f"{type(payload).__name__} {payload.step}")

    def receive(self, expected, step):
        self.log.append(f"? {expected.__name__} {step}")
        if self.wrong:
            return self.wrong(step)
        if expected is Features:
            last = [one.smashed for one in self.sent if hasattr(one, "smashed")][-1]
            return Features(step, last)
        return GradSmashed(step, [one.grad_features for one in self.sent if hasattr(one, "grad_features")][-1])

    def hand_in(self, payload):
        self.log.append(f"! {type(payload).__name__} {payload.step}")
        self.sent.append(payload)


def batches(step):
    draws = torch.Generator().manual_seed(step)
    return torch.rand(2, 3, 4, 4, generator=draws), torch.rand(2, 3, 4, 4, generator=draws)


def session(phase, tail=None, batches=batches):
    torch.manual_seed(0)
    head, tail = Head(), tail or Tail()
    optimiser = torch.optim.SGD([*head.parameters(), *tail.parameters()], lr=0.1)
    return ClientSession(head, tail, optimiser, batches, PHASES[phase], "client p0000, task denoise"), head, tail


@pytest.mark.parametrize("phase", ["task-specific", "joint"])
def test_a_moving_client_needs_two_round_trips_a_step_and_draws_its_next_batch_meanwhile(phase):
    carrier = FakeCarrier()
    work, head, _ = session(phase, batches=lambda step: carrier.log.append(f"batch {step}") or batches(step))
    before = head.conv.weight.clone()
    outcome = work.run(carrier, 2)
    assert carrier.log == [
        "batch 0", "Smashed 0", "batch 1", "? Features 0", "GradFeatures 0", "? GradSmashed 0",
        "Smashed 1", "? Features 1", "GradFeatures 1", "? GradSmashed 1", "! Close 2",
    ]  # fmt: skip
    assert len(outcome.losses) == 2
    assert outcome.examples == [2, 2]
    assert not torch.equal(before, head.conv.weight)


def test_a_frozen_client_needs_one_round_trip_a_step_and_runs_its_next_head_meanwhile():
    carrier = FakeCarrier()
    work, head, tail = session("task-agnostic")
    head.register_forward_hook(lambda *_: carrier.log.append("head"))
    tail.register_forward_hook(lambda *_: carrier.log.append("tail"))
    before = [parameter.clone() for part in (head, tail) for parameter in part.parameters()]
    work.run(carrier, 3)
    assert carrier.log == [
        "head", "Smashed 0", "head", "? Features 0", "tail", "GradFeaturesAndSmashed 0", "head", "? Features 1", "tail",
        "GradFeaturesAndSmashed 1", "? Features 2", "tail", "! GradFeatures 2", "! Close 3",
    ]  # fmt: skip
    after = [parameter for part in (head, tail) for parameter in part.parameters()]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("phase", ["task-specific", "task-agnostic", "joint"])
@pytest.mark.parametrize("broken_from", [0, 1])
def test_a_loss_that_is_not_finite_is_told_and_nothing_of_its_step_is_sent(phase, broken_from):
    carrier = FakeCarrier()
    work, _, _ = session(phase, Tail(broken_from))
    with pytest.raises(ModelError, match=f"client p0000, task denoise, step {broken_from}.*learning rate"):
        work.run(carrier, 3)
    gradients = [one for one in carrier.sent if hasattr(one, "grad_features")]
    assert [one.step for one in gradients] == list(range(broken_from))
    assert all(torch.isfinite(one.grad_features).all() for one in gradients)
    assert carrier.log[-1] == f"? Features {broken_from}"


def test_moving_parts_need_an_optimiser():
    for phase in ("task-specific", "joint"):
        with pytest.raises(ModelError, match="optimiser"):
            ClientSession(Head(), Tail(), None, batches, PHASES[phase], "client p0000")


def test_another_answer_is_refused():
    work, _, _ = session("task-specific")
    with pytest.raises(ProtocolError, match="Features"):
        work.run(FakeCarrier(wrong=Acknowledged), 1)


def test_features_of_another_shape_are_refused():
    work, _, _ = session("task-specific")
    with pytest.raises(ModelError, match="shape"):
        work.run(FakeCarrier(wrong=lambda step: Features(step, torch.ones(1, D, 4, 4))), 1)


def test_restoring_sends_smashed_activations_only():
    carrier = FakeCarrier()
    restorer = SplitRestorer(Head(), Tail(), carrier)
    with torch.no_grad():
        for size in (3, 1):
            assert restorer(torch.rand(size, 3, 4, 4)).shape == (size, 3, 4, 4)
    assert carrier.log == ["Smashed 0", "? Features 0", "Smashed 1", "? Features 1"]
    assert (restorer.batches, restorer.windows) == (2, 4)


def test_the_body_is_never_idle_while_an_image_is_restored():
    """The next head pass is there before an answer comes, and is sent before the tail runs; the bits are the same."""
    carrier, head, tail = FakeCarrier(), Head(), Tail()
    head.register_forward_hook(lambda *_: carrier.log.append("head"))
    tail.register_forward_hook(lambda *_: carrier.log.append("tail"))
    image = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    restorer = SplitRestorer(head, tail, carrier)
    restored = restore_tiled(image, restorer, 4, 4, 4)  # nine windows
    assert carrier.log == [
        "head", "Smashed 0", "head", "? Features 0", "Smashed 1", "tail", "head", "? Features 1", "Smashed 2", "tail",
        "? Features 2", "tail",
    ]  # fmt: skip
    in_turn = SplitRestorer(head, tail, FakeCarrier())
    assert torch.equal(restored, restore_tiled(image, lambda windows: in_turn(windows), 4, 4, 4))


def test_scores_have_the_names_that_may_leave():
    clean = torch.rand(3, 16, 16) * 2 - 1
    degraded = (clean + 0.2).clamp(-1, 1)
    scores = score(degraded, clean * 0.99, clean)
    assert set(scores) <= EVALUATE_METRICS
    assert scores["psnr-db"] > scores["input-psnr-db"]
    assert scores["ssim"] > scores["input-ssim"] * 0.9


def test_scores_of_equal_images_are_numbers_that_json_can_hold():
    clean = torch.zeros(3, 16, 16)
    assert all(np.isfinite(value) for value in score(clean, clean, clean).values())
    with pytest.raises(DataError, match="NaN"):
        score(clean, clean * float("nan"), clean)


def test_a_picture_shows_the_images_side_by_side(tmp_path):
    images = [torch.full((3, 5, 7), value) for value in (-1.0, 0.0, 3.0)]
    path = tmp_path / "new" / "a.png"
    save_picture(path, images, gap_px=2)
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (5, 3 * 7 + 2 * 2, 3)
    assert (pixels[:, :7] == 0).all()
    assert (pixels[:, 7:9] == 255).all()
    assert (pixels[:, 9:16] == 128).all()
    assert (pixels[:, -7:] == 255).all()
    assert path.parent.stat().st_mode & 0o077 == 0
