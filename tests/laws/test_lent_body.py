"""A body that is lent for the rounds in which it is frozen makes no weight differ, and nothing of a step crosses."""

import json

import pytest
import torch

pytestmark = pytest.mark.timeout(120)

#: Frozen, moved once, and frozen again.
PHASES = [
    "{kind: task-specific, rounds: 2, steps: 2}",
    "{kind: task-agnostic, rounds: 1, steps: 2}",
    "{kind: task-specific, rounds: 2, steps: 2}",
]


def differing(one, other):
    return [name for name in one if not torch.equal(one[name], other[name])]


def orders(grid, kind):
    return [one for one in grid.asked if one.content["config"].get("phase") == kind]


@pytest.fixture
def experiment(tiny, run, tmp_path, fake_grid):
    def make(name, *overrides, phases=PHASES[:1], twist=None, **options):
        grid = fake_grid(2, twists=twist and {0: twist})
        config = tiny("clients=[denoise,deblock]", f"schedule.phases=[{','.join(phases)}]", *overrides)
        return run(config, tmp_path / name, grid, **options), grid

    return make


def lines(tmp_path, name):
    keys = ("event", "round", "task", "loss_first", "loss_last", "psnr_db")
    text = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    return [{key: json.loads(line).get(key) for key in keys} for line in text]


@pytest.mark.parametrize("carrier", ["stream", pytest.param("messages", marks=pytest.mark.long)])
def test_weights_are_those_of_the_wire(experiment, tmp_path, carrier):
    sent, _ = experiment("sent", phases=PHASES)
    lent, grid = experiment("lent", "schedule.lend_body=true", f"wire.carrier={carrier}", phases=PHASES)
    assert differing(sent.weights, lent.weights) == []
    assert differing(sent.moments["natural"], lent.moments["natural"]) == []
    assert lines(tmp_path, "sent") == lines(tmp_path, "lent")
    specific = orders(grid, "task-specific")
    assert len(specific) == 2 * 2 * 2  # one message a round, also where the others take many
    brought = [message.content["config"]["round"] for message in specific if "body" in message.content]
    assert brought == [1, 1, 3, 3]  # each version once to each client: the body has moved once between
    assert not any("body" in one.content for one in grid.asked if one.content["config"].get("phase") != "task-specific")


def test_no_step_crosses(experiment):
    _, grid = experiment("lent", "schedule.lend_body=true")
    asked = {one.metadata.message_id for one in orders(grid, "task-specific")}
    replies = [one for one in grid.answered if one.metadata.reply_to_message_id in asked]
    assert len(replies) == len(asked)
    for reply in replies:
        assert (reply.content["metrics"]["bytes-up"], reply.content["metrics"]["bytes-down"]) == (0.0, 0.0)


def test_a_body_that_was_lost_is_asked_for_again(experiment, tmp_path, caplog):
    lost = []

    def losing(message, reply):
        if reply.has_content() and "metrics" in reply.content and not lost:
            for path in (tmp_path / "state").glob("*/*/body-*.safetensors"):
                path.unlink()
                lost.append(path)
        return reply

    kept, _ = experiment("kept", "schedule.lend_body=true")
    again, _ = experiment("lost", "schedule.lend_body=true", twist=losing)
    assert lost
    assert "asking for them again" in caplog.text
    assert differing(kept.weights, again.weights) == []


def test_without_the_option_no_body_leaves(experiment):
    _, grid = experiment("sent")
    assert not any("body" in one.content for one in grid.asked)
    assert all(one.content["config"].get("body", "") == "" for one in grid.asked if "phase" in one.content["config"])
