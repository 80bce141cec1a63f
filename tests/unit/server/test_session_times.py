"""How long a round's sessions took, when the first step came, and what a step sent."""

import json
import logging
from types import SimpleNamespace

import pytest

from tavit_flwr.server.report import Report, _sessions_s
from tavit_flwr.server.rounds import Round
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.server.sessions import Session


def test_sessions_one_after_another_are_added_up():
    """Each took 3 s; the second began when the first had ended, so that the round's sessions took 6."""
    answered = {1: 103.0, 2: 106.0}
    opened = SimpleNamespace(sessions={node: (None, SimpleNamespace(answered=end)) for node, end in answered.items()})
    replies = [SimpleNamespace(participant=SimpleNamespace(node_id=node), metrics={"wall-s": 3.0}) for node in answered]
    assert _sessions_s(opened, replies) == 6.0
    assert _sessions_s(opened, replies[:1]) == 3.0
    assert _sessions_s(opened, []) == 0.0


def a_round(began):
    """A round of one session, whose first frame came at that Unix time; at 0 none came, as with a lent body."""
    session = Session("p0000", "denoise", None, "task-specific", 1, began=began)
    if began:
        session.ledger.add("up", "Smashed", 3 * 2**20)
        session.ledger.add("down", "Features", 2**20)
    return Round(sessions={100: (None, session)})


@pytest.fixture
def report(tmp_path, caplog):
    caplog.set_level(logging.INFO, "flwr")
    report = Report(tmp_path, [], {})
    report.open(1000.0)
    return report


def results_of(report, tmp_path):
    report.results({})
    return json.loads((tmp_path / "results.json").read_text())


def test_the_first_step_is_told_once_and_lent_rounds_have_none(report, tmp_path, caplog):
    plan = RoundPlan(1, 1, "task-specific", 1, 1, True, 0.0)
    for began in (0.0, 1012.5, 1020.0):
        report.training(plan, a_round(began), [], 1.0)
    assert results_of(report, tmp_path)["first_step_time"] == 1012.5
    assert caplog.text.count("the first step began") == 1
    assert "the first step began 12.5 s after the run" in caplog.text


def test_a_resumed_run_tells_its_own_first_step_and_keeps_the_first_one_s_time(tmp_path, caplog):
    caplog.set_level(logging.INFO, "flwr")
    report = Report(tmp_path, [], {"first_step_time": 5.0})
    report.open(1000.0)
    report.training(RoundPlan(1, 1, "task-specific", 1, 1, True, 0.0), a_round(1002.0), [], 1.0)
    assert "began 2.0 s after the run" in caplog.text
    assert results_of(report, tmp_path)["first_step_time"] == 5.0


def test_the_bytes_of_a_step_are_told_at_the_end(report, tmp_path, caplog):
    report.training(RoundPlan(1, 1, "task-specific", 1, 1, True, 0.0), a_round(1001.0), [], 1.0)
    report.count({"steps": 2})
    results = results_of(report, tmp_path)
    assert (results["step_bytes_up"], results["step_bytes_down"]) == (3 * 2**20, 2**20)
    assert "each client-step: 1.500 MiB up, 0.500 MiB down" in caplog.text
