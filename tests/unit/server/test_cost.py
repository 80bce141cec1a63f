"""The estimate before a run: against the paper's published counts, and against what a run then sends."""

import json

import pytest
from typer.testing import CliRunner

from tavit_flwr.cli import app
from tavit_flwr.config import compose
from tavit_flwr.data import decode
from tavit_flwr.models import preset
from tavit_flwr.restoration import window_count
from tavit_flwr.server import scored_images, step_times
from tavit_flwr.server.cost import estimate
from tavit_flwr.server.part_costs import part_costs
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


@pytest.mark.parametrize(
    ("kind", "rounds", "steps", "fixed", "heads"),
    [("task-agnostic", 3, 5, 2, 2), ("task-agnostic", 3, 5, 9, 5), ("task-agnostic", 3, 5, 0, 15),
     ("task-specific", 3, 5, 2, 45)],
)  # fmt: skip
def test_a_frozen_head_passes_once_over_batches_that_come_again(kind, rounds, steps, fixed, heads):
    """In all rounds of a phase; in each round its batches are gone through from the first."""
    given = [*ONE_STEP, _phase(kind, rounds, steps), f"data.fixed_batches={fixed}"]
    of_head, _, of_tail = (part.flop for part in part_costs(preset("paper"), 64))
    tails = 15 * (3 if kind == "task-specific" else 2)
    assert estimate(compose(given)).client_flop == heads * of_head + tails * of_tail


def test_passes_of_a_head_that_has_moved_since_are_computed_again():
    phases = ",".join(
        f"{{kind: {kind}, rounds: 1, steps: 4}}" for kind in ("task-agnostic", "task-specific", "task-agnostic")
    )
    given = [*ONE_STEP, f"schedule.phases=[{phases}]", "data.fixed_batches=2"]
    of_head, _, of_tail = (part.flop for part in part_costs(preset("paper"), 64))
    assert estimate(compose(given)).client_flop == (2 + 12 + 2) * of_head + (8 + 12 + 8) * of_tail


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


@pytest.mark.parametrize(
    ("clients", "given"),
    [(2, []), (5, ["clients=[denoise*3,deblock*2]", "federation.fraction=0.4", "schedule.evaluate_first=true"])],
)
def test_the_estimate_is_what_a_run_sends(fake_grid, tiny, make_phases, run, tmp_path, clients, given):
    """Also where few take part, and of those that share their held-out images the first alone evaluates."""
    phases = make_phases("task-specific", "task-agnostic", steps=4, rounds=2)
    config = tiny(phases, "data.batch_size=8", *given)
    run(config, tmp_path / "out", fake_grid(clients))
    totals = json.loads((tmp_path / "out" / "results.json").read_text())
    cost = estimate(config)
    sent = totals["bytes_up"] + totals["bytes_down"]
    expected = cost.bytes_up + cost.bytes_down + cost.weight_bytes + cost.evaluation_bytes
    assert expected < sent < 1.03 * expected  # headers of frames and of tiny arrays
    assert totals["steps"] == cost.client_steps


def test_the_papers_test_sets_are_counted_without_their_folders():
    float32 = [f"wire.dtypes.evaluation.{direction}=float32" for direction in ("up", "down")]
    cost = estimate(compose(["experiment=paper", "data.folder=/absent", *float32]))
    assert {one.task: (one.count, one.note) for one in cost.scored} == {
        "deblock": (2 * 200, "as published"), "denoise": (68, "as published"), "derain": (200, "as published"),
        "deblur": (1111, "as published"),
    }  # fmt: skip
    assert cost.evaluation_windows == 7 * (651 * (400 + 68 + 200) + 3726 * 1111)  # the paper's windows
    assert cost.evaluation_flop == 7 * (651 * 668 + 3726 * 1111) * sum(p.flop for p in part_costs(preset("paper"), 64))
    assert cost.evaluation_bytes == cost.evaluation_windows * 2**20
    assert cost.unknown == ()


def test_folders_that_are_here_are_counted_as_they_are(tmp_path, make_images):
    for folder, count, side in (("a", 2, 40), ("b", 3, 70), ("not scored", 5, 90)):
        make_images(tmp_path / "test" / folder, count=count, side=side)
    for side in ("lq", "gt"):
        make_images(tmp_path / "pairs" / side, count=2, side=33)
    make_images(tmp_path / "train", count=6, side=50)
    config = compose(
        [
            "experiment=tiny", "clients=[deblock, deblock, derain, denoise, deblur, inpaint]", "data.held_out=2",
            "tasks.deblock.evaluation_folder=" + str(tmp_path / "test"), "tasks.deblock.test_sets=[a, b]",
            "evaluation.every_variant=true", "tasks.derain.source=paired",
            "tasks.derain.evaluation_folder=" + str(tmp_path / "pairs"), "tasks.denoise.source=folder",
            "tasks.denoise.folder=" + str(tmp_path / "train"), "tasks.deblur.source=folder",
            "tasks.deblur.folder=/absent", "tasks.inpaint.evaluation_folder=/elsewhere",
        ]
    )  # fmt: skip
    cost = estimate(config)

    def windows(side):
        return window_count(side, side, config.data.crop, config.evaluation.stride)

    photograph = window_count(321, 481, config.data.crop, config.evaluation.stride)
    assert [(one.task, one.count, one.windows, one.note) for one in cost.scored] == [
        ("deblock", 2 * 5, 2 * (2 * windows(40) + 3 * windows(70)), ""),
        ("derain", 2, 2 * windows(33), ""),
        ("denoise", 2, 2 * windows(50), ""),
        ("deblur", 2, 2 * photograph, "if of 481x321"),
    ]
    assert cost.unknown == ("inpaint",)
    assert "besides what is not known here: inpaint" in cost.lines()[-1]


def test_of_a_large_folder_a_few_headers_are_read(tmp_path, make_images, monkeypatch):
    folder = make_images(tmp_path / "test", count=7, side=40)
    monkeypatch.setattr(scored_images, "_HEADERS", 3)
    opened = []
    real = decode.Image.open
    monkeypatch.setattr(decode.Image, "open", lambda path, *rest: opened.append(path) or real(path, *rest))
    (one,) = estimate(compose(["experiment=tiny", "clients=[denoise]", f"data.evaluation_folder={folder}"])).scored
    assert one.count == 7
    assert len(opened) == 3


def test_bundled_photographs_are_counted_at_the_size_they_are_used_at():
    config = compose(["experiment=tiny", "clients=[denoise]", "data.held_out=2"])
    (one,) = estimate(config).scored
    sizes = ((300, 451), (214, 320))
    assert one.windows == sum(window_count(*size, config.data.crop, config.evaluation.stride) for size in sizes)


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
    window = StepTime("evaluation", 0.3, 0.1)
    monkeypatch.setattr(step_times.TimedSteps, "time_window", lambda self, repeats: window)
    text = "\n".join(timed_lines(config, 3))
    in_turn_h = 5 * (3600 * 4.0 + 720 * 3.5) / 3600
    apart_h = (3600 * 5.0 + 720 * (2.0 + 5 * 1.5)) / 3600  # the one server is busy with five clients
    assert f"training: about {in_turn_h:.1f} h with all clients in turn" in text
    assert f"{apart_h:.1f} h with a machine" in text
    cost = estimate(config)
    windows = sum(one.windows for one in cost.scored) * 3
    assert cost.evaluation_windows == windows == 4 * cost.scored[0].windows * 3
    scoring_in_turn_h, scoring_apart_h = windows * 0.4 / 3600, windows * 0.1 / 3600  # four clients at once: its turn
    assert f"together: about {in_turn_h + scoring_in_turn_h:.1f} h with all" in text
    assert f"{apart_h + scoring_apart_h:.1f} h with a machine" in text.splitlines()[-2]


@pytest.mark.parametrize(
    ("given", "clients", "at_once"),
    [
        (["federation.fraction=0.1"], 1, 1),
        (["federation.fraction=0.1", "federation.min_clients=3"], 3, 3),
        (["federation.fraction=0.1", "federation.by_task=true"], 2, 2),
        (["schedule.lend_body=true"], 5, 1),
    ],
)
def test_hours_are_of_those_who_take_part(monkeypatch, given, clients, at_once):
    """On one machine their steps add up; apart, the server's do, unless the body is lent."""
    monkeypatch.setattr(step_times.TimedSteps, "time", lambda self, phase, repeats: StepTime(phase, 1.0, 2.0))
    monkeypatch.setattr(step_times.TimedSteps, "time_window", lambda self, repeats: StepTime("evaluation", 0.0, 0.0))
    config = compose(
        ["experiment=tiny", "clients=[denoise*3, deblock*2]", "schedule.cycles=1",
         "schedule.phases=[{kind: task-specific, rounds: 2, steps: 3}]", *given]
    )  # fmt: skip
    (line,) = [line for line in timed_lines(config, 1) if line.startswith("training")]
    assert estimate(config).client_steps == 6 * clients
    assert f"about {6 * clients * 3} s with all clients in turn" in line
    assert f" {6 * max(3, 2 * at_once)} s with a machine" in line


@pytest.mark.parametrize("phase", PHASES)
def test_steps_of_every_phase_can_be_timed(phase):
    line, *others = timed_lines(compose(["experiment=tiny", _phase(phase)]), 1)
    assert line.startswith(f"{phase}: ")
    assert others[0].startswith("evaluation: ")


def test_the_command_prints_the_estimate():
    result = CliRunner().invoke(app, ["estimate", "experiment=tiny", "--timed-steps", "1"])
    assert result.exit_code == 0
    assert "12 client-steps" in result.output
    assert "not in these times" in result.output
    assert CliRunner().invoke(app, ["estimate", "experimnt=tiny"]).exit_code == 2
