"""Law 4: stop and resume equals never stopped, bit for bit."""

import json
import shutil

import pytest
import torch

from tavit_flwr.errors import CheckpointError
from tavit_flwr.server.checkpoint import latest

SCHEDULE = ("task-specific", "task-agnostic", "joint")


@pytest.fixture
def config(tiny, make_phases):
    # Two clients of one task, so that averaging is at work; cohorts of three; Adam on both sides; dropout in the body.
    # Learning rates that fall over the run.
    decay = "optimiser.client.decay=cosine optimiser.server.decay=cosine"
    return tiny("clients=[denoise,denoise,deblock]", make_phases(*SCHEDULE), "keep_checkpoints=9", *decay.split())


def differing(one, other):
    assert set(one) == set(other)
    return [name for name in one if not torch.equal(one[name], other[name])]


def assert_equal(ours, reference):
    assert ours.state.round == reference.state.round
    assert differing(ours.weights, reference.weights) == []
    assert set(ours.moments) == set(reference.moments)
    for body in reference.moments:
        assert reference.moments[body], "no moments: the comparison would be empty"
        assert differing(ours.moments[body], reference.moments[body]) == []
    assert ours.state.versions == reference.state.versions
    assert losses(ours) == losses(reference)


def losses(checkpoint):
    keys = ("event", "round", "task", "loss_first", "loss_last", "psnr_db", "ssim")
    return [{key: line.get(key) for key in keys} for line in checkpoint.state.history]


def test_stop_and_resume_equals_never_stopped(config, fake_grid, run, tmp_path):
    reference = run(config, tmp_path / "whole", fake_grid(3))
    run(config, tmp_path / "parts", fake_grid(3), rounds=1)
    for stop in (1, None):  # each with new processes: nothing but files is left of the ones before
        ours = run(config, tmp_path / "parts", fake_grid(3), rounds=stop, resume=True)
    assert_equal(ours, reference)
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
    results = [json.loads((tmp_path / folder / "results.json").read_text()) for folder in ("parts", "whole")]
    for key in ("tasks", "rounds", "steps", "body_steps", "bytes_up", "bytes_down"):
        assert results[0][key] == results[1][key], key


def test_resuming_with_stores_that_are_newer_than_the_checkpoint(tiny, make_phases, fake_grid, run, tmp_path):
    """The server may stop after the clients have saved and before it has: they then hold a version more."""
    config = tiny(make_phases("task-specific", rounds=3))
    reference = run(config, tmp_path / "whole", fake_grid(2))
    run(config, tmp_path / "parts", fake_grid(2), rounds=2)
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "round-000002")
    ours = run(config, tmp_path / "parts", fake_grid(2), resume=True)
    assert ours.state.versions == {"p0000": 3, "p0001": 3}
    assert differing(ours.weights, reference.weights) == []
    assert losses(ours) == losses(reference)
    assert not any("lost" in str(line) for line in ours.state.history)


@pytest.mark.long
def test_resuming_from_well_before_the_stores_keeps_what_is_saved_anew(tiny, make_phases, fake_grid, run, tmp_path):
    """With the newer checkpoints gone the clients start afresh once, not for ever."""
    config = tiny(make_phases("task-specific", rounds=4), "keep_checkpoints=9")
    run(config, tmp_path / "out", fake_grid(2), rounds=4)
    for index in (2, 3, 4):
        shutil.rmtree(tmp_path / "out" / "checkpoints" / f"round-00000{index}")
    grid = fake_grid(2)
    run(config, tmp_path / "out", grid, rounds=2, resume=True)
    fresh = [r.content["metrics"]["fresh-moments"] for r in grid.answered if r.has_content() and "arrays" in r.content]
    assert fresh == [1.0, 1.0, 0.0, 0.0]


def test_moments_survive_a_round_that_was_lost_twice(tiny, make_phases, fake_grid, run, tmp_path):
    """A client that is left out again and again still holds the version that the server knows of."""
    config = tiny("clients=[denoise,deblock]", make_phases("task-specific", rounds=5))
    lost = {3, 4}

    def late(message, reply):
        orders = message.content.config_records["config"]
        return None if orders.get("next_version") in lost and reply.content.get("arrays") else reply

    grid = fake_grid(2, twists={1: late})
    run(config, tmp_path / "out", grid)
    fresh = [
        reply.content["metrics"]["fresh-moments"]
        for reply in grid.answered
        if reply.has_content() and reply.metadata.src_node_id == 101 and "arrays" in reply.content
    ]
    assert fresh == [0.0, 0.0, 0.0]  # rounds 1, 2 and 5


def test_a_store_that_is_gone_is_said(tiny, make_phases, fake_grid, run, tmp_path, caplog):
    config = tiny(make_phases("task-specific", rounds=2))
    kept = run(config, tmp_path / "kept", fake_grid(2))
    assert "lost their private store" not in caplog.text
    run(config, tmp_path / "out", fake_grid(2), rounds=1)
    shutil.rmtree(tmp_path / "state")
    lost = run(config, tmp_path / "out", fake_grid(2), rounds=1, resume=True)
    assert "lost their private store" in caplog.text
    assert "p0001" in caplog.text
    assert differing(kept.weights, lost.weights), "the moments of the first round made no difference"


def test_a_run_that_stops_inside_a_phase_is_scored_and_goes_on_as_if_it_had_not_been(
    tiny, make_phases, fake_grid, run, tmp_path
):
    config = tiny(make_phases("joint", rounds=2))
    reference = run(config, tmp_path / "whole", fake_grid(2))
    run(config, tmp_path / "parts", fake_grid(2), rounds=1)
    first = json.loads((tmp_path / "parts" / "results.json").read_text())
    assert {task: row["round"] for task, row in first["tasks"].items()} == {"denoise": 1, "deblock": 1}
    assert_equal(run(config, tmp_path / "parts", fake_grid(2), resume=True), reference)
    ours, theirs = (json.loads((tmp_path / one / "results.json").read_text()) for one in ("parts", "whole"))
    assert ours["tasks"] == theirs["tasks"]


def test_killed_between_training_and_evaluation(config, fake_grid, run, tmp_path, monkeypatch):
    """The round stays trained, and a resumed run evaluates it first: scores and weights as if never stopped."""
    reference = run(config, tmp_path / "whole", fake_grid(3))

    class Killed(BaseException):
        pass

    def killed(self, current, opened, usable):
        raise Killed

    for resume in (False, True):  # in the evaluation after the phase, and again in the one that makes up for it
        with monkeypatch.context() as patch:
            patch.setattr("tavit_flwr.server.record.RunRecord.scored", killed)
            with pytest.raises(Killed):
                run(config, tmp_path / "parts", fake_grid(3), resume=resume)
        assert not latest(tmp_path / "parts" / "checkpoints").state.evaluated
    assert latest(tmp_path / "parts" / "checkpoints").state.round == 1
    assert_equal(run(config, tmp_path / "parts", fake_grid(3), resume=True), reference)


def test_a_second_run_in_the_same_folder_is_itself(tiny, make_phases, fake_grid, run, tmp_path):
    """It neither prunes the first one's checkpoints nor goes on from them."""
    config = tiny(make_phases("task-specific", rounds=3), "keep_checkpoints=2")
    first = run(config, tmp_path / "out", fake_grid(2))
    run(config, tmp_path / "out", fake_grid(2), rounds=1)
    second = run(config, tmp_path / "out", fake_grid(2), resume=True, rounds=1)
    assert second.state.round == 2
    assert second.state.run_key != first.state.run_key
    kept = latest(tmp_path / "out" / "checkpoints-before-1")
    assert kept.state == first.state
    assert differing(kept.weights, first.weights) == []


def test_resuming_another_experiment_is_refused(config, fake_grid, run, tmp_path, tiny, make_phases):
    run(config, tmp_path / "out", fake_grid(3), rounds=1)
    other = tiny("clients=[denoise,denoise,deblock]", make_phases(*SCHEDULE), "seed=1")
    with pytest.raises(CheckpointError, match="seed"):
        run(other, tmp_path / "out", fake_grid(3), resume=True)


def test_resume_without_a_checkpoint_is_refused(config, fake_grid, run, tmp_path):
    with pytest.raises(CheckpointError, match="resume=false"):
        run(config, tmp_path / "nothing", fake_grid(3), resume=True)
