"""Every task of conf/task/ trains and is scored; a task of one's own is one YAML file."""

import json

import numpy as np

from tavit_flwr.config import compose, conf_dir

OFFERED = sorted(path.stem for path in (conf_dir() / "task").glob("*.yaml"))


def test_every_offered_task_trains_and_is_scored(fake_grid, tiny, make_phases, run, tmp_path, write_slice):
    for index in range(3):
        full = np.random.default_rng(index).normal(40, 60, (40, 40))
        write_slice(tmp_path / "ct" / "full_dose" / f"{index}.dcm", full)
        write_slice(
            tmp_path / "ct" / "low_dose" / f"{index}.dcm", full + np.random.default_rng(9).normal(0, 20, (40, 40))
        )
    config = tiny(
        f"clients=[{','.join(OFFERED)}]", f"tasks.ldct.folder={tmp_path / 'ct'}",
        make_phases("task-specific", "task-agnostic", steps=2),
    )  # fmt: skip
    run(config, tmp_path / "out", fake_grid(len(OFFERED)))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sorted(results["tasks"]) == OFFERED
    assert {config.tasks[task].body for task in OFFERED} == {"natural", "ct"}
    assert all(10 < scores["input_psnr_db"] < 60 for scores in results["tasks"].values())


def test_a_task_file_holds_a_task_and_nothing_else():
    for task in OFFERED:
        text = (conf_dir() / "task" / f"{task}.yaml").read_text()
        assert text.startswith(f"# @package tasks.{task}\n")
        assert list(compose(f"clients=[{task}]").tasks) == [task]
