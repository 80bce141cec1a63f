"""The estimate before a run: against the paper's published counts, and against what a run then sends."""

import json

import pytest
from typer.testing import CliRunner

from tavit_flwr.cli import app
from tavit_flwr.config import compose
from tavit_flwr.models import preset
from tavit_flwr.restoration import window_count
from tavit_flwr.server import step_times
from tavit_flwr.server.cost import estimate, part_costs
from tavit_flwr.server.step_times import StepTime, timed_lines
from tavit_flwr.split.phases import PHASES

ONE_STEP = [
    "model=paper",
    "data.batch_size=1",
    "schedule.cycles=1",
    "schedule.evaluate_first=false",
    "clients=[denoise]",
]


def _phase(kind, rounds=1, steps=1):
    return f"schedule.phases=[{{kind: {kind}, rounds: {rounds}, steps: {steps}}}]"


def test_parts_cost_what_is_known_of_the_published_architecture():
    head, body, tail = part_costs(preset("paper"), 64)
    assert [round(part.flop / 1e9, 2) for part in (head, body, tail)] == [18.85, 9.66, 5.66]
    assert [part.parameters for part in (head, body, tail)] == [22_341_892, 16_953_344, 5_610_629]


@pytest.mark.parametrize(
    ("kind", "head", "tail", "body", "up", "down"),
    [("task-specific", 3, 3, 2, 2, 2), ("task-agnostic", 1, 2, 3, 2, 1), ("joint", 3, 3, 3, 2, 2)],
)
def test_a_step_costs_passes_of_the_parts_and_half_a_mebibyte_a_tensor(kind, head, tail, body, up, down):
    cost = estimate(compose([*ONE_STEP, _phase(kind)]))
    of_head, of_body, of_tail = (part.flop for part in part_costs(preset("paper"), 64))
    assert cost.client_flop == head * of_head + tail * of_tail
    assert cost.server_flop == body * of_body
    assert (cost.bytes_up, cost.bytes_down) == (up * 2**19, down * 2**19)
    assert (cost.rounds, cost.client_steps, cost.crops, cost.evaluations) == (1, 1, 1, 1)
    part_bytes = (22_341_892 + 5_610_629) * 4
    assert cost.weight_bytes == part_bytes * (2 if PHASES[kind].client_moves else 1)  # the evaluation finds them there


def test_everything_grows_with_the_schedule_the_batch_and_the_clients():
    one = estimate(compose([*ONE_STEP, _phase("task-specific")]))
    more = compose(
        [*ONE_STEP, _phase("task-specific", rounds=2, steps=3), "schedule.cycles=5", "data.batch_size=4",
         "clients=[denoise, deblock, derain, deblur]", "federation.fraction=0.5", "schedule.evaluate_first=true"]
    )  # fmt: skip
    cost = estimate(more)
    assert (cost.rounds, cost.client_steps, cost.crops) == (10, 60, 240)
    assert cost.client_flop == 240 * one.client_flop
    assert cost.bytes_up == 240 * one.bytes_up
    assert cost.evaluations == 6


def test_the_estimate_is_what_a_run_sends(fake_grid, tiny, make_phases, run, tmp_path):
    config = tiny(make_phases("task-specific", "task-agnostic", steps=4, rounds=2), "data.batch_size=8")
    run(config, tmp_path / "out", fake_grid(2))
    totals = json.loads((tmp_path / "out" / "results.json").read_text())
    cost = estimate(config)
    windows = window_count(40, 40, config.data.crop, config.evaluation.stride)
    restored = cost.evaluations * 2 * windows * cost.image_bytes // cost.image_windows
    sent = totals["bytes_up"] + totals["bytes_down"]
    expected = cost.bytes_up + cost.bytes_down + cost.weight_bytes + restored
    assert expected < sent < 1.03 * expected  # headers of frames and of tiny arrays
    assert totals["steps"] == cost.client_steps


def test_a_run_says_its_cost_before_it_starts(fake_grid, tiny, make_phases, run, tmp_path, caplog):
    caplog.set_level("INFO", "flwr")
    config = tiny(make_phases("task-specific", steps=1))
    run(config, tmp_path / "out", fake_grid(2))
    said = [record.getMessage() for record in caplog.records]
    (position,) = [index for index, text in enumerate(said) if estimate(config).lines()[0] in text]
    assert not any("client-steps in" in text for text in said[:position])


def test_hours_follow_from_the_timed_steps(monkeypatch):
    times = {"task-specific": StepTime("task-specific", 3.0, 1.0), "task-agnostic": StepTime("task-agnostic", 2.0, 1.5)}
    monkeypatch.setattr(step_times.TimedSteps, "time", lambda self, phase, repeats: times[phase])
    config = compose(
        ["model=tiny", "data.crop=32", "evaluation.stride=32", "clients=[denoise, deblock, derain, deblur, denoise]",
         "schedule.phases=[{kind: task-specific, steps: 3600}, {kind: task-agnostic, steps: 720}]",
         "schedule.cycles=1"]
    )  # fmt: skip
    text = "\n".join(timed_lines(config, 3))
    in_turn_h = 5 * (3600 * 4.0 + 720 * 3.5) / 3600
    apart_h = (3600 * 5.0 + 720 * (2.0 + 5 * 1.5)) / 3600  # the one server is busy with five clients
    assert f"about {in_turn_h:.1f} h with all clients in turn" in text
    assert f"{apart_h:.1f} h with a machine" in text


@pytest.mark.parametrize("phase", PHASES)
def test_steps_of_every_phase_can_be_timed(phase):
    (line, *_) = timed_lines(compose(["experiment=tiny", _phase(phase)]), 1)
    assert line.startswith(f"{phase}: ")


def test_the_command_prints_the_estimate():
    result = CliRunner().invoke(app, ["estimate", "experiment=tiny", "--timed-steps", "1"])
    assert result.exit_code == 0
    assert "12 client-steps" in result.output
    assert "not in these times" in result.output
    assert CliRunner().invoke(app, ["estimate", "experimnt=tiny"]).exit_code == 2
