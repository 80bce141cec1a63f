"""Asking Flower how a run ended, on a machine that is slow to answer."""

import subprocess
import time

import pytest

from simulations.flower import Flower


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
