"""Schedule, checkpoints and the report."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from tavit_flwr import files
from tavit_flwr.config import PhaseConfig, ScheduleConfig, compose, to_dict
from tavit_flwr.errors import CheckpointError, ConfigError
from tavit_flwr.payloads import EVALUATE_METRICS
from tavit_flwr.server import checkpoint as module
from tavit_flwr.server.checkpoint import (
    Checkpoint,
    RunState,
    check_same_experiment,
    latest,
    save,
    save_state,
    set_aside,
    to_resume,
)
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.server.replies import Reply
from tavit_flwr.server.report import Report
from tavit_flwr.server.results import table
from tavit_flwr.server.rounds import Round
from tavit_flwr.server.schedule import RoundPlan, plan
from tavit_flwr.wire.records import Enrolment


def test_the_schedule_is_flattened_in_order():
    phases = [PhaseConfig("task-specific", 2, 7), PhaseConfig("task-agnostic", 1, 5)]
    rounds = plan(ScheduleConfig(cycles=3, phases=phases))
    assert [one.index for one in rounds] == list(range(1, 10))
    assert [(one.cycle, one.phase, one.round, one.steps) for one in rounds[:4]] == [
        (1, "task-specific", 1, 7),
        (1, "task-specific", 2, 7),
        (1, "task-agnostic", 1, 5),
        (2, "task-specific", 1, 7),
    ]
    assert [one.ends_phase for one in rounds] == [False, True, True] * 3
    assert [one.half_cycle for one in rounds if one.ends_phase] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert [one.progress * 57 for one in rounds] == pytest.approx([0, 7, 14, 19, 26, 33, 38, 45, 52])


def make(index=1):
    weights = {"body/natural/w": torch.full((3,), float(index)), "head/denoise/w": torch.randn(2, 2)}
    moments = {"natural": {"0/exp_avg": torch.randn(3), "0/step": torch.tensor(4.0)}, "rain-1": {}}
    state = RunState(
        "key", index, {"seed": 1}, versions={"p0000": index}, history=[{"event": "train"}], totals={"steps": 5.0}
    )
    return Checkpoint(state, weights, moments)


def assert_same(one, other):
    assert one.state == other.state
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert one.moments.keys() == other.moments.keys()
    for body, tensors in one.moments.items():
        assert tensors.keys() == other.moments[body].keys()
        assert all(torch.equal(tensors[name], other.moments[body][name]) for name in tensors)


def test_a_checkpoint_comes_back(tmp_path):
    saved = make()
    path = save(tmp_path / "checkpoints", saved, 3)
    assert path.name == "round-000001"
    assert_same(latest(tmp_path / "checkpoints"), saved)


def test_only_the_last_ones_are_kept(tmp_path):
    for index in range(1, 12):
        save(tmp_path, make(index), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000010", "round-000011"]
    assert latest(tmp_path).state.round == 11


def test_saving_a_round_again_replaces_it(tmp_path):
    save(tmp_path, make(1), 3)
    again = make(1)
    save(tmp_path, again, 3)
    assert_same(latest(tmp_path), again)


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("broken", ["write_tensors", "write_json", "sync_folder"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, broken):
    before = make(1)
    save(tmp_path, before, 1)
    with monkeypatch.context() as patch:
        patch.setattr(module, broken, full)
        with pytest.raises(CheckpointError, match=r"No space left.*resume=true"):
            save(tmp_path, make(2), 1)
    if broken != "sync_folder":  # by then it is written
        assert_same(latest(tmp_path), before)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    save(tmp_path, make(3), 1)
    assert latest(tmp_path).state.round == 3


def test_a_rename_that_fails_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    before = make(1)
    save(tmp_path, before, 1)
    rename = Path.rename

    def failing(self, target):
        return full() if "round-000002" in str(target) else rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError):
        save(tmp_path, make(2), 1)
    assert_same(latest(tmp_path), before)
    assert [path.name for path in tmp_path.iterdir()] == ["round-000001"]


def test_what_a_killed_process_did_not_finish_does_not_count_and_goes_with_the_next_checkpoint(tmp_path, killed):
    save(tmp_path, make(1), 3)
    child = killed(lambda: save(tmp_path, make(2), 3))
    own = tmp_path / f".round-000009.{os.getpid()}.tmp"  # in a container the next process often has the same id
    own.mkdir()
    assert (tmp_path / f".round-000002.{child}.tmp").is_dir()
    assert latest(tmp_path).state.round == 1
    save(tmp_path, make(3), 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000001", "round-000003"]


@pytest.mark.parametrize("spoil", ["weights.safetensors", "moments-natural.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_told(tmp_path, spoil):
    path = save(tmp_path, make(), 3)
    whole = (path / spoil).read_bytes()
    (path / spoil).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="delete that folder"):
        latest(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", '{"run_key": "x"}', '{"unknown": 1}', "\udcff"])
def test_a_state_of_another_form_is_told(tmp_path, text):
    path = save(tmp_path, make(), 3)
    (path / "state.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match="delete that folder"):
        latest(tmp_path)


def test_moments_that_are_missing_are_told(tmp_path):
    """Without them a body would go on with fresh moments, and nobody would know."""
    path = save(tmp_path, make(), 3)
    (path / "moments-natural.safetensors").unlink()
    with pytest.raises(CheckpointError, match="moments-natural"):
        latest(tmp_path)


def test_scores_are_added_to_a_round_that_is_saved(tmp_path):
    saved = make()
    saved.state.evaluated = False
    save(tmp_path, saved, 3)
    assert not latest(tmp_path).state.evaluated
    saved.state.evaluated = True
    saved.state.history.append({"event": "evaluate"})
    save_state(tmp_path, saved.state)
    assert_same(latest(tmp_path), saved)


def test_a_full_disk_leaves_the_state_before(tmp_path, monkeypatch):
    saved = make()
    save(tmp_path, saved, 3)
    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(CheckpointError, match=r"No space left.*resume=true"):
        save_state(tmp_path, saved.state)


def test_earlier_checkpoints_are_set_aside_and_whole(tmp_path):
    folder = tmp_path / "checkpoints"
    assert set_aside(folder) is None
    first, second = make(1), make(2)
    save(folder, first, 3)
    aside = set_aside(folder)
    assert not folder.exists()
    save(folder, second, 3)
    other = set_aside(folder)
    assert aside != other
    assert_same(latest(aside), first)
    assert_same(latest(other), second)


def test_no_checkpoint_is_told(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="resume=false"):
            latest(folder)


def test_a_folder_without_a_state_does_not_count(tmp_path):
    save(tmp_path, make(1), 3)
    (tmp_path / "round-000002").mkdir()
    (tmp_path / "round-000003-copy").mkdir()
    assert latest(tmp_path).state.round == 1


SAVED = {"seed": 1, "name": "x", "resume": False, "output_dir": "/a", "wire": {"listen": "a"}, "model": {"preset": "t"},
         "schedule": {"cycles": 2, "phases": [{"kind": "joint"}]}, "keep_checkpoints": 3}  # fmt: skip


def test_the_same_experiment_may_run_elsewhere():
    now = SAVED | {"resume": True, "output_dir": "/b", "wire": {"listen": "b", "new": 1}, "keep_checkpoints": 9}
    check_same_experiment(SAVED, now)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 2}, "seed"),
        ({"model": {"preset": "u"}}, "model.preset"),
        ({"schedule": {"cycles": 3, "phases": [{"kind": "joint"}]}}, "schedule.cycles"),
        ({"schedule": {"cycles": 2, "phases": []}}, "schedule.phases"),
        ({"new": 1}, "new"),
        ({"model": {"preset": "t", "resume": 1}}, "model.resume"),
    ],
)
def test_another_experiment_is_named(change, key):
    with pytest.raises(CheckpointError, match=key):
        check_same_experiment(SAVED, SAVED | change)


def test_how_clients_are_averaged_and_chosen_is_part_of_the_experiment():
    """They change the numbers; deadlines and quorums do not."""
    saved = SAVED | {
        "federation": {
            "average": "uniform",
            "fraction": 1.0,
            "min_clients": 1,
            "by_task": False,
            "quorum": 0.5,
            "round_timeout_s": 5.0,
        }
    }
    check_same_experiment(saved, saved | {"federation": saved["federation"] | {"quorum": 0.9, "round_timeout_s": 9.0}})
    for key, value in (("average", "examples"), ("fraction", 0.5)):
        with pytest.raises(CheckpointError, match=f"federation.{key}"):
            check_same_experiment(saved, saved | {"federation": saved["federation"] | {key: value}})


def scores(client, task, psnr, images=2.0):
    """One client's usable evaluation reply."""
    metrics = dict.fromkeys(EVALUATE_METRICS, 1.0) | {
        "psnr-db": psnr, "ssim": psnr / 100, "input-psnr-db": 20.0, "input-ssim": 0.5, "images": images,
    }  # fmt: skip
    return Reply(Participant(1, Enrolment(client, task, "natural")), metrics)


def place(index):
    return RoundPlan(index, 1, "joint", 1, 5, True, index / 2)


def test_the_results_are_the_last_scores_with_the_first_beside_them(tmp_path, caplog):
    report = Report(tmp_path / "out", [], {"steps": 5.0, "wall_s": 1.5})
    report.open()
    report.evaluation(place(0), Round(), [scores("a", "denoise", 21.0), scores("b", "deblock", 25.0)])
    # Clients of one task are averaged over images.
    after = report.evaluation(place(1), Round(), [scores("a", "denoise", 28.0, 3.0), scores("c", "denoise", 32.0, 1.0)])
    assert after == {"denoise": pytest.approx(29.0)}
    results = json.loads(report.results({"config": {"seed": 1}, "rounds": 1}).read_text())
    assert results["rounds"] == 1
    assert results["steps"] == 5
    assert results["wall_s"] == 1.5
    assert results["config"] == {"seed": 1}
    assert results["tasks"]["denoise"] == {
        "psnr_db": pytest.approx(29.0), "ssim": pytest.approx(0.29), "input_psnr_db": 20.0, "input_ssim": 0.5,
        "psnr_y_db": 1.0, "ssim_y": 1.0, "images": 4, "sets": {}, "round": 1, "stale": False,
        "before": {"psnr_db": 21.0, "ssim": 0.21},
    }  # fmt: skip
    assert results["tasks"]["deblock"]["psnr_db"] == 25.0
    assert results["tasks"]["deblock"]["round"] == 0
    assert results["tasks"]["deblock"]["stale"]
    assert "deblock: nobody scored it after round 1" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines == report.history
    assert len(lines) == 3
    assert "+9.00 dB" in table(report.history)
    assert "21.00" in table(report.history)


def opened_report(folder, history):
    report = Report(folder, history, {})
    report.open()
    return report


def test_a_resumed_report_begins_with_the_lines_so_far(tmp_path):
    history = []
    opened_report(tmp_path, history).evaluation(place(0), Round(), [scores("a", "denoise", 21.0)])
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write("a line of a round that has to be done again\n")
    opened_report(tmp_path, history).evaluation(place(1), Round(), [scores("a", "denoise", 22.0)])
    assert [json.loads(line)["psnr_db"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [21, 22]


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(tmp_path, caplog):
    config = compose("experiment=tiny")
    for made in (False, True):
        if made:
            (tmp_path / "checkpoints" / ".round-000001.1.tmp").mkdir(parents=True)
        assert to_resume(tmp_path, config) is None
    assert f"no round was saved in {tmp_path}, so the run begins anew" in caplog.text
    save(tmp_path / "checkpoints", Checkpoint(RunState("key", 1, to_dict(config)), {}, {}), 3)
    assert to_resume(tmp_path, config).state.round == 1
    with pytest.raises(CheckpointError, match="seed"):
        to_resume(tmp_path, compose("experiment=tiny seed=9"))


def test_earlier_results_stay_until_a_run_begins_and_are_never_its_own(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("earlier\n")
    report = Report(tmp_path, [], {})
    assert (tmp_path / "metrics.jsonl").read_text() == "earlier\n"
    report.open()
    assert not (tmp_path / "results.json").exists()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_what_a_killed_run_did_not_finish_goes_and_what_is_not_ours_stays(tmp_path, killed):
    report = opened_report(tmp_path, [])
    child = killed(lambda: report.results({}))
    others = tmp_path / f".notes.{child}.tmp"
    others.touch()
    assert len(list(tmp_path.glob(".results.json.*.tmp"))) == 1
    opened_report(tmp_path, [])
    assert list(tmp_path.glob(".*")) == [others]


def test_an_output_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="output_dir"):
        Report(tmp_path / "file" / "out", [], {}).open()
    report = opened_report(tmp_path / "out", [])
    monkeypatch.setattr("tavit_flwr.server.report.write_json", full)
    with pytest.raises(ConfigError, match=r"No space.*output_dir"):
        report.results({})


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"x": float("nan")})
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"x": 2})
    with pytest.raises(OSError, match="No space"):
        files.write_tensors(tmp_path / "b.safetensors", {"x": torch.ones(2)})
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert json.loads(path.read_text()) == {"x": 1}
