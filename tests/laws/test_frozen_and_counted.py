"""Laws 2 and 7: a frozen part keeps every bit, and bytes counted are bytes sent."""

import pytest
import torch


@pytest.mark.parametrize(
    ("phase", "frozen"), [("task-specific", "body/"), ("task-agnostic", ("c0/", "c1/"))], ids=["body", "clients"]
)
def test_frozen_parts_keep_every_bit(make_lab, phase, frozen):
    lab = make_lab(["denoise", "deblock"])
    before = lab.weights()
    lab.run_split(phase, 4)
    after = lab.weights()
    kept = [name for name in before if name.startswith(frozen)]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert any(not torch.equal(before[name], after[name]) for name in before if name not in kept)


def test_no_gradient_is_computed_for_a_frozen_part(make_lab):
    lab = make_lab(["denoise", "deblock"])
    lab.run_split("task-agnostic", 2)
    for client in lab.clients:
        for part in (client.head, client.tail):
            assert all(parameter.grad is None for parameter in part.parameters())
    fresh = make_lab(["denoise"])
    fresh.run_split("task-specific", 2)
    assert all(parameter.grad is None for parameter in fresh.body.parameters())


@pytest.mark.parametrize(
    ("phase", "up", "down"),
    [
        (
            "task-specific",
            {"Smashed": 6, "GradFeatures": 6, "Close": 1},
            {"Features": 6, "GradSmashed": 6, "Acknowledged": 1},
        ),
        (
            "task-agnostic",
            {"Smashed": 1, "GradFeaturesAndSmashed": 5, "GradFeatures": 1, "Close": 1},
            {"Features": 6, "Acknowledged": 2},
        ),
    ],
)
def test_both_ends_count_the_same_frames(make_lab, phase, up, down):
    lab = make_lab(["denoise", "deblock"])
    lab.run_split(phase, 6)
    for session in lab.sessions:
        client = next(one for one in lab.clients if one.name == session.client)
        counted = client.ledger.as_dict()
        assert counted == session.ledger.as_dict()
        assert {kind: row["frames"] for kind, row in counted["up"].items()} == up
        assert {kind: row["frames"] for kind, row in counted["down"].items()} == down
