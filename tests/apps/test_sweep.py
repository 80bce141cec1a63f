"""Real sweeps: one is killed in its middle and started again, beside another; failures are told at the end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from simulations.finished import read_run
from simulations.flower import ROOT
from simulations.processes import processes_of

SMALL = [
    "clients=[denoise]", "data.batch_size=1", "evaluation.stride=32", "evaluation.batch_size=128",
    "schedule.evaluate_first=false",
]  # fmt: skip
TINY = ["experiment=tiny", *SMALL]
WHOLE = ["experiment=end-to-end", "model=tiny", "schedule=tiny", "data.crop=32", *SMALL]

#: TAVIT_SWEEP_JOBS=8 kills a sweep of eight when three have finished.
JOBS = int(os.environ.get("TAVIT_SWEEP_JOBS", "2"))


def sweep(folder, *words):
    """Start a sweep in a process group of its own."""
    command = [sys.executable, "-m", "simulations.run", *words, "--multirun", f"output_dir='{folder}'"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def records(root):
    return {path.parent: json.loads(path.read_text()) for path in root.glob("*/job.json")}


def statuses(root):
    return [record["status"] for record in records(root).values()]


def wait_until(holds, process, timeout_s=60 + 40 * JOBS):
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(240 + 60 * JOBS)
def test_a_killed_sweep_runs_only_what_is_left_beside_another_and_tells_failures(tmp_path):
    root, words = tmp_path / "with a space", [*TINY, "tasks.denoise.degradation=noise,nose", f"seed=range({JOBS})"]
    first = sweep(root, *words)
    done = max(1, JOBS // 2 - 1)
    wait_until(lambda: statuses(root).count("finished") == done and "running" in statuses(root), first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {folder: record for folder, record in records(root).items() if record["status"] == "finished"}
    assert len(before) == done
    written = {folder: (folder / "results.json").stat().st_mtime_ns for folder in before}

    again, other = sweep(root, *words), sweep(tmp_path / "other", *WHOLE)
    said, said_by_other = again.communicate(timeout=200 + 40 * JOBS)[0], other.communicate(timeout=200)[0]
    assert other.returncode == 0, said_by_other
    assert statuses(tmp_path / "other") == ["finished"]
    assert again.returncode == 1, said
    assert said.count("finished before: ") == done
    assert {folder: (folder / "results.json").stat().st_mtime_ns for folder in before} == written
    assert sorted(statuses(root)) == ["failed"] * JOBS + ["finished"] * JOBS
    assert "nose" in said.partition(f"job {JOBS} failed")[2]

    for folder, record in (records(root) | records(tmp_path / "other")).items():
        if record["status"] == "failed":
            assert "did you mean 'noise'" in record["problems"][0]
            continue
        results = json.loads((folder / "results.json").read_text())
        assert read_run(folder).steps == {"denoise": 2 * 3}
        assert set(results["tasks"]) == {"denoise"}
        assert results["config"]["seed"] == record["config"]["seed"]
        assert {"flwr", "torch", "ray", "numpy", "hydra-core"} <= set(record["versions"])
        assert results["provenance"].get("commit", "") == record["commit"]
        assert (folder / "report.html").read_text().count('class="compare"') == 2  # held-out images
        assert not (folder / "flwr").exists()  # its Flower home goes when nothing failed
        assert processes_of(folder / "flwr") == []
