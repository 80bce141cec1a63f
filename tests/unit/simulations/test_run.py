"""What a sweep makes of its jobs: whatever ends one is told, and sweepers get a number."""

import json
import math
from types import SimpleNamespace

import pytest
from hydra.types import RunMode
from rich.console import Console

from simulations import run
from tavit_flwr.errors import ConfigError


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Run one of a sweep's jobs, in which `does` stands for all that a job does."""
    numbers = iter(range(9))

    def make(does):
        settings = SimpleNamespace(
            overrides=SimpleNamespace(task=["seed=1"]), sweep=SimpleNamespace(dir=str(tmp_path)),
            mode=RunMode.MULTIRUN, job=SimpleNamespace(num=next(numbers)),
        )  # fmt: skip
        monkeypatch.setattr(run.HydraConfig, "get", lambda: settings)
        monkeypatch.setattr(run.Job, "of", lambda words, root: SimpleNamespace(run=does))
        return run.one_job(None)

    return make


def failing(error):
    def does(_):
        raise error

    return does


def test_whatever_ends_a_job_the_sweep_goes_on_and_tells(job, tmp_path, capsys):
    assert job(failing(ConfigError("this", "that"))) == -math.inf
    assert job(failing(ZeroDivisionError("odd"))) == -math.inf
    assert job(lambda _: {"status": "failed", "problems": ["client b: gone"]}) == -math.inf
    assert job(lambda _: {"status": "finished", "problems": [], "psnr_gain_db": 1.5}) == 1.5
    assert "Traceback" in capsys.readouterr().err
    console = Console(record=True, width=200)
    assert run.report(console, tmp_path) == 1
    text = console.export_text()
    assert "4 jobs" in text
    for told in ("job 0 failed: seed=1", "expected this", "ZeroDivisionError: odd", "client b: gone"):
        assert told in text
    assert "job 3 failed" not in text


def test_a_job_that_was_killed_is_told(job, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        job(failing(KeyboardInterrupt()))
    assert json.loads((tmp_path / "00000.json").read_text())["problems"] == ["it did not come to its end"]


def test_what_ran_is_told_though_the_sweeper_gave_up(monkeypatch):
    def gives_up(**_):
        return lambda _: lambda: failing(SystemExit(1))(None)

    told = []
    monkeypatch.setattr(run.hydra, "main", gives_up)
    monkeypatch.setattr(run, "report", lambda console, records: told.append(records) or 1)
    monkeypatch.setattr(run.sys, "argv", ["run"])
    with pytest.raises(SystemExit):
        run.main()
    assert len(told) == 1
