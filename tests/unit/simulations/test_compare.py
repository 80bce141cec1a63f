"""Comparison of runs: means and spreads by hand, intervals paired by seed, and refusals."""

import csv
import json
import math
import xml.etree.ElementTree

import pytest

from simulations.compare import main
from simulations.finished import find_runs
from simulations.scores import at_the_end, rows, synergy
from tavit_flwr.errors import ConfigError

SCHEDULE = {"cycles": 2, "phases": [{"kind": "task-specific", "rounds": 1, "steps": 5}]}


def write(root, name, seed, psnr_db, tasks=("denoise",), clients=1, rounds=2, stale=False, **config):
    """A finished run that gained half of its decibels in each of two rounds."""
    folder = root / f"{name}-{seed}"
    folder.mkdir(parents=True)
    row = {"psnr_db": psnr_db, "ssim": psnr_db / 100, "input_psnr_db": 20.0, "input_ssim": 0.2, "stale": stale}
    config = {"name": name, "seed": seed, "output_dir": str(folder), "schedule": SCHEDULE, **config}
    totals = {"steps": 10, "bytes_up": 2**21, "bytes_down": 2**21, "wall_s": 5.0, "rounds": rounds}
    (folder / "results.json").write_text(json.dumps({"tasks": dict.fromkeys(tasks, row), "config": config, **totals}))
    lines = []
    for number in range(rounds + 1):
        for task in tasks:
            if number:
                lines.append({"event": "train", "round": number, "task": task, "clients": ["p"] * clients})
            reached = {"psnr_db": 20 + number / 2 * (psnr_db - 20)}
            lines.append({"event": "evaluate", "round": number, "cycle": number / 1, "task": task, **reached})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def root(tmp_path):
    for seed, multi, single in ((0, 27.0, 26.0), (1, 27.5, 26.9), (2, 28.0, 26.6)):
        write(tmp_path / "runs", "multi", seed, multi, ("denoise", "deblock"))
        write(tmp_path / "runs", "single", seed, single)
    return tmp_path / "runs"


def test_means_and_spreads(root):
    table = {(row.name, row.task): row for row in rows(find_runs([root])[0])}
    row = table["multi", "denoise"]
    assert set(table) == {("multi", "denoise"), ("multi", "deblock"), ("single", "denoise")}
    assert row.seeds == 3
    assert row.psnr_db == pytest.approx(27.5)
    assert row.psnr_spread_db == pytest.approx(0.5)
    assert row.mib_per_cycle == pytest.approx(2.0)
    assert row.steps == 2 * 5


def test_synergy_is_paired_by_seed(root):
    gains = synergy(find_runs([root])[0], "multi", "single")
    (gain,) = at_the_end(gains)
    assert (gain.task, gain.cycle, gain.seeds) == ("denoise", 2, 3)
    assert [(one.cycle, one.difference_db) for one in gains] == [(0, 0), (1, pytest.approx(0.5)), (2, 1)]
    assert gain.difference_db == pytest.approx(1.0)
    assert gain.high_db - gain.difference_db == pytest.approx(4.302653 * 0.4 / math.sqrt(3), rel=1e-5)
    assert gain.low_db == pytest.approx(2 * gain.difference_db - gain.high_db)


def test_one_seed_has_no_interval(tmp_path):
    write(tmp_path, "multi", 0, 27.0)
    write(tmp_path, "single", 0, 26.0)
    (gain,) = at_the_end(synergy(find_runs([tmp_path])[0], "multi", "single"))
    assert gain.difference_db == pytest.approx(1.0)
    assert math.isnan(gain.low_db)


def test_names_without_common_seeds_are_refused(root):
    with pytest.raises(ConfigError, match="multi"):
        synergy(find_runs([root])[0], "multi", "joint")


def test_unequal_client_steps_on_a_task_are_no_synergy(tmp_path):
    write(tmp_path, "multi", 0, 27.0)
    write(tmp_path, "splitfed", 0, 26.0, clients=4)
    with pytest.raises(ConfigError, match=r"as many client-steps on denoise.*10 in multi, 40 in splitfed"):
        synergy(find_runs([tmp_path])[0], "multi", "splitfed")


def test_runs_that_are_no_good_are_left_out_with_a_word(root, tmp_path, capsys):
    for number, (status, problems) in enumerate((("failed", ["client p: gone"]), ("running", [])), start=5):
        folder = write(root, "multi", number, 99.0)
        (folder / "job.json").write_text(json.dumps({"status": status, "problems": problems}))
    (root / "never").mkdir()
    (root / "never" / "job.json").write_text(json.dumps({"status": "failed", "problems": ["no results"]}))
    write(root, "multi", 7, 99.0, stale=True)
    write(root, "multi", 8, 99.0, rounds=1)
    write(root, "single", 9, 99.0, clients=0)
    assert main([str(root), "--output", str(tmp_path / "compared")]) == 0
    said = capsys.readouterr()
    assert "99" not in said.out
    for reason in (
        "its job is failed: client p: gone", "its job is running", "its job is failed: no results",
        "nobody scored denoise at its end", "it ended after round 1 of 2", "fewer client-steps than other runs",
    ):  # fmt: skip
        assert reason in said.err
    assert len(json.loads((tmp_path / "compared" / "compare.json").read_text())["left_out"]) == 6


def test_other_configurations_under_one_name_are_refused(root):
    write(root, "multi", 3, 30.0, model={"preset": "paper"})
    with pytest.raises(ConfigError, match=r"one configuration.*'multi'.*model\.preset"):
        find_runs([root])


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no results\.json"):
        find_runs([tmp_path])


def test_two_runs_of_one_name_and_seed_are_refused(root, tmp_path):
    write(tmp_path / "others", "multi", 0, 30.0)
    with pytest.raises(ConfigError, match="names of their own"):
        find_runs([root, tmp_path / "others"])
    assert len(find_runs([root, root / "multi-0"])[0]) == 6  # the same folder twice is one run


def test_a_broken_file_is_named(root):
    (root / "multi-0" / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match="multi-0"):
        find_runs([root])


def test_all_files_are_written(root, tmp_path, capsys):
    output = tmp_path / "compared"
    assert main([str(root), "--synergy", "multi", "single", "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert "| multi | denoise | 3 | 20.00 | 27.50 ± 0.50 |" in text
    assert "| denoise | 3 | +1.00 | +0.01 to +1.99 |" in text
    assert (output / "compare.md").read_text() in text
    with (output / "compare.csv").open() as handle:
        assert len(list(csv.DictReader(handle))) == 3
    with (output / "compare-synergy.csv").open() as handle:
        assert [float(row["cycle"]) for row in csv.DictReader(handle)] == [0, 1, 2]
    assert "| cycle | denoise |" in text
    assert "| 2 | +1.00 ± 0.99 |" in text
    written = json.loads((output / "compare.json").read_text())
    assert written["synergy"][0]["seeds"] == 3
    assert len(written["runs"]) == 6
    assert xml.etree.ElementTree.parse(output / "compare.svg").getroot().tag.endswith("svg")


def test_several_pairs_are_compared_and_drawn(root, tmp_path, capsys):
    pairs = ["--synergy", "multi", "single", "--synergy", "single", "multi"]
    assert main([str(root), *pairs, "--output", str(tmp_path / "compared")]) == 0
    text = capsys.readouterr().out
    for line in (
        "multi minus single",
        "single minus multi",
        "| +1.00 | +0.01 to +1.99 |",
        "| -1.00 | -1.99 to -0.01 |",
    ):
        assert line in text
    drawn = (tmp_path / "compared" / "compare.svg").read_text()
    assert "<!-- SSIM above the input -->" in drawn
    assert "<!-- multi minus single -->" in drawn
    assert "<!-- single minus multi -->" in drawn


def test_a_wrong_place_is_told(tmp_path, capsys):
    assert main([str(tmp_path), "--output", str(tmp_path / "compared")]) == 2
    assert "no results.json" in capsys.readouterr().err
