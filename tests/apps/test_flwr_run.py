"""The real thing: `flwr run` with Ray, two clients in actors of their own, TLS streams, real photographs."""

import json
import os
import signal
import subprocess

import pytest

from simulations.demo import gather_pictures
from simulations.flower import ROOT, local_flower
from simulations.processes import processes_of

SMALL = "experiment=tiny data.batch_size=1 evaluation.stride=32 evaluation.batch_size=128"


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Both clients at once."""
    home = tmp_path_factory.mktemp("flower")
    left = subprocess.Popen(["sleep", "600"], env={**os.environ, "FLWR_HOME": str(home / "flwr")})
    with local_flower(home / "flwr", {"TAVIT_STATE_DIR": str(home / "state")}) as flower:
        assert left.wait(5) == -signal.SIGKILL  # what a predecessor left in this home would write into its folders
        outcome = flower.run(f"{SMALL} output_dir={home / 'together'}", 2, timeout_s=180)
    return home, outcome


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """One in the project's own folder and at Flower's default; one that is refused."""
    home = tmp_path_factory.mktemp("by-hand")
    with local_flower(home / "flwr", {"TAVIT_STATE_DIR": str(home / "state")}) as flower:
        default = flower.run(f"{SMALL} output_dir={home / 'default'}", app=ROOT, timeout_s=180)
        refused = flower.run(f"{SMALL} data=folder", 2, timeout_s=60)
    return home, default, refused


def test_every_client_takes_part_and_results_are_written(together):
    home, outcome = together
    assert outcome.completed, outcome.log[-3000:]
    results = json.loads((home / "together" / "results.json").read_text())
    assert set(results["tasks"]) == {"denoise", "deblock"}
    for row in results["tasks"].values():
        assert {"psnr_db", "ssim", "input_psnr_db", "input_ssim", "images"} <= set(row)
        assert row["images"] == 2
        assert 10 < row["input_psnr_db"] < 40
    assert results["steps"] == 2 * (3 + 3)
    assert results["body_steps"] == 3
    assert results["bytes_up"] > 0
    assert results["bytes_down"] > 0
    assert results["wall_s"] > 0
    assert results["config"]["clients"] == ["denoise", "deblock"]
    lines = [json.loads(line) for line in (home / "together" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "train"]
    assert [(line["phase"], line["task"]) for line in trained] == [
        ("task-specific", "denoise"),
        ("task-specific", "deblock"),
        ("task-agnostic", "denoise"),
        ("task-agnostic", "deblock"),
    ]
    assert all(line["left_out"] == [] for line in trained)
    assert len([line for line in lines if line["event"] == "evaluate"]) == 2 * 3


def test_pictures_stay_with_the_clients_and_a_finished_runs_moments_go(together):
    home, _ = together
    names = {f"{task}-{number}.png" for task in ("denoise", "deblock") for number in (1, 2)}
    assert {path.name for path in gather_pictures(home / "state", home / "pictures")} == names
    page = (home / "together" / "report.html").read_text()
    assert page.count('class="compare"') == 4
    assert "overrides" in page
    assert list((home / "state").rglob("moments-*")) == []
    assert (home / "together" / "checkpoints" / "round-000002" / "state.json").is_file()


@pytest.mark.long
def test_the_default_federation_says_what_it_cannot_do_and_does_the_rest(by_hand):
    """Flower's default offers two nodes; on a machine of two cores they share one slot."""
    home, outcome, _ = by_hand
    assert outcome.completed, outcome.log[-3000:]
    results = json.loads((home / "default" / "results.json").read_text())
    assert set(results["tasks"]) == {"denoise", "deblock"}
    if os.cpu_count() == 2:
        assert "only 1 of 2 clients can run at once" in outcome.log
        assert "init-args-num-cpus=2" in outcome.log
        assert results["steps"] == 2 * 3 + 1 * 3


@pytest.mark.long
def test_a_configuration_that_cannot_work_ends_the_run_before_a_client_is_asked(by_hand):
    outcome = by_hand[2]
    assert not outcome.completed
    assert "ConfigError: expected a folder of images; received none; at task 'denoise'" in outcome.log
    assert "left out" not in outcome.log


def test_nothing_is_left_behind(together):
    home, _ = together
    assert processes_of(home / "flwr") == []
