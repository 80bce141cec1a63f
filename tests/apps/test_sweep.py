"""A real sweep: one job runs, one cannot compose and is told, and a second start runs nothing again."""

import json
import os
import subprocess
import sys

import pytest

from simulations.flower import ROOT

TINY = ["experiment=tiny", "data.batch_size=1", "evaluation.stride=32", "evaluation.batch_size=128"]


def sweep(folder, *words):
    command = [sys.executable, "-m", "simulations.run", *words, "--multirun", *TINY, f"output_dir='{folder}'"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_a_sweep_tells_failures_and_runs_nothing_twice(tmp_path):
    root = tmp_path / "with a space"
    first = sweep(root, "tasks.denoise.degradation=noise,nose", "clients=[denoise]")
    assert first.returncode == 1, first.stdout + first.stderr
    records = {path.parent: json.loads(path.read_text()) for path in root.glob("*/job.json")}
    finished = [folder for folder, record in records.items() if record["status"] == "finished"]
    assert len(finished) == 1, first.stdout
    assert "nose" in first.stdout.partition("job 1 failed")[2]
    (folder,) = finished
    results = json.loads((folder / "results.json").read_text())
    assert set(results["tasks"]) == {"denoise"}
    record = records[folder]
    assert {"flwr", "torch", "ray", "numpy", "hydra-core"} <= set(record["versions"])
    assert record["config"]["clients"] == ["denoise"]
    assert not (folder / "flwr").exists()  # its Flower home goes when nothing failed
    written = (folder / "results.json").stat().st_mtime_ns

    again = sweep(root, "clients=[denoise]")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "finished before" in again.stdout
    assert (folder / "results.json").stat().st_mtime_ns == written
