"""Flower on a machine that is slow: to say how a run ended, and to start Ray."""

import subprocess
import time

import pytest

from simulations.flower import Flower, RunOutcome


@pytest.fixture
def answers(monkeypatch):
    """What ``flwr list`` does, call by call: text to print, or an exception."""
    left = []

    def run(command, **_):
        one = left.pop(0)
        if isinstance(one, Exception):
            raise one
        return subprocess.CompletedProcess(command, 0, stdout=one)

    monkeypatch.setattr("simulations.flower.commit_of", lambda _: "")  # git is asked in the same way
    monkeypatch.setattr(subprocess, "run", run)
    return left


def test_a_slow_answer_is_asked_for_again(answers, tmp_path):
    answers += [subprocess.TimeoutExpired("flwr", 60), "", '{"runs": [{"status": "finished:completed"}]}']
    assert Flower(tmp_path, {}).status(7, time.monotonic() + 30) == "finished:completed"
    assert answers == []


def test_after_the_deadline_nobody_is_asked_again(answers, tmp_path):
    answers += [subprocess.TimeoutExpired("flwr", 60)]
    assert Flower(tmp_path, {}).status(7, time.monotonic() - 1) == "unknown"


@pytest.mark.parametrize(
    ("logs", "runs"),
    [
        (["The current node timed out during startup. This could", "done"], 2),
        (["The current node timed out during startup. This could"] * 2, 2),
        (["another reason"], 1),
        (["done"], 1),
    ],
)
def test_a_run_for_which_ray_did_not_start_is_started_once_more_and_says_so(tmp_path, monkeypatch, logs, runs):
    left, said = list(logs), []

    def run_app(self, *_, **__):
        log = left.pop(0)
        return RunOutcome(1, "finished:completed" if log == "done" else "finished:failed", log)

    monkeypatch.setattr(Flower, "run_app", run_app)
    outcome = Flower(tmp_path, {}).run("", app=tmp_path, on_line=said.append)
    assert left == []
    assert outcome.completed == (logs[-1] == "done")
    assert len(said) == runs - 1
    assert all("busy" in line for line in said)
