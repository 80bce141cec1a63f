"""TensorBoard gets the numbers of the metric lines, once, also after a resume."""

import pytest

from tavit_flwr.config import compose
from tavit_flwr.errors import ConfigError
from tavit_flwr.server import scalars
from tavit_flwr.server.check import check_experiment
from tavit_flwr.server.report import Report

TRAIN = {
    "event": "train", "round": 1, "cycle": 0.5, "phase": "joint", "task": "denoise", "clients": ["p0"], "time": 10.0,
    "round_bytes_up": 7, "loss_mean": 0.5, "left_out": [],
}  # fmt: skip
SCORED = {
    "event": "evaluate", "round": 1, "cycle": 0.5, "phase": "joint", "task": "deblock", "time": 11.0, "psnr_db": 30.5,
    "sets": {"q10": {"psnr_db": 28.0, "images": 2}},
}  # fmt: skip


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value, event.wall_time) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_a_resumed_run_has_each_line_once(tmp_path):
    first = Report(tmp_path, [], {}, tensorboard=True)
    first.open()
    for line in (TRAIN, TRAIN | {"task": "deblock"}, SCORED):
        first._add(dict(line))
    first.close()
    resumed = Report(tmp_path, first.history[:2], {}, tensorboard=True)
    resumed.open()
    resumed._add(SCORED | {"round": 2})
    resumed.close()
    found = read(tmp_path / "tensorboard")
    assert set(found) == {
        "round_bytes_up", "loss_mean/denoise", "loss_mean/deblock", "psnr_db/deblock",
        "psnr_db/deblock/q10", "images/deblock/q10",
    }  # fmt: skip
    times = [line["time"] for line in resumed.history]
    assert found["round_bytes_up"] == [(1, 7.0, times[0])]
    assert found["loss_mean/deblock"] == [(1, 0.5, times[1])]
    assert found["psnr_db/deblock"] == [(2, 30.5, times[2])]


def test_without_it_nothing_is_written(tmp_path):
    report = Report(tmp_path, [], {})
    report.open()
    report._add(dict(TRAIN))
    report.close()
    assert not (tmp_path / "tensorboard").exists()


def test_the_missing_package_is_told_before_the_run(monkeypatch):
    monkeypatch.setattr(scalars.importlib.util, "find_spec", lambda name: None)
    check_experiment(compose("experiment=tiny"), simulated=True)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        check_experiment(compose("experiment=tiny tensorboard=true"), simulated=True)
