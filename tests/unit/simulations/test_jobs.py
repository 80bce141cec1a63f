"""Jobs: named by what they compute, judged by what they wrote, run once at a time and continued where they stopped."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest

from simulations import jobs
from simulations.flower import ROOT, RunOutcome
from simulations.jobs import FAILED, FINISHED, Job, fingerprint
from simulations.verdict import problems_of
from tavit_flwr.config import compose, to_dict
from tavit_flwr.errors import ConfigError, SessionError
from tavit_flwr.server.page import render

TINY = ["experiment=tiny"]
COMPLETED = RunOutcome(1, "finished:completed", "")


def write_run(folder, *, clients=("a", "b"), left_out=(), stale=False):
    """A run that two clients enrolled for, whoever of them trained."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"psnr_db": 21.0, "input_psnr_db": 20.0, "stale": stale}
    tasks = {"denoise": row, "deblock": row | {"psnr_db": 24.0}}
    results = {"tasks": tasks, "participants": dict.fromkeys(clients, "denoise")}
    (folder / "results.json").write_text(json.dumps(results))
    line = {"event": "train", "clients": list(clients[:1]), "left_out": list(left_out)}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


@pytest.fixture
def flower(monkeypatch):
    """Stands for Flower: notes what it is asked to run, and does it."""
    asked = []

    class Fake:
        def run(self, overrides, clients, *, at_once, app, **options):
            asked.append(overrides)
            fake.apps.append(app)
            fake.clients.append((clients, at_once))
            folder = jobs.Path(overrides.partition("output_dir=")[2].split("'")[3])
            if fake.fails:
                raise SessionError("a run", "none")
            write_run(folder, left_out=fake.left_out)
            return COMPLETED

    fake = Fake()
    fake.fails, fake.left_out, fake.apps, fake.clients, fake.environments = False, [], [], [], []

    @contextmanager
    def start(home, environment):
        fake.environments.append(environment)
        yield fake

    monkeypatch.setattr(jobs, "local_flower", start)
    return fake, asked


def test_the_fingerprint_sees_what_is_computed_and_nothing_else():
    base = fingerprint(compose(TINY))
    assert fingerprint(compose([*TINY, "output_dir=/elsewhere", "keep_checkpoints=9"])) == base
    assert fingerprint(compose([*TINY, "seed=1"])) != base
    assert fingerprint(compose([*TINY, "optimiser.client.lr=0.5"])) != base


def test_folders_tell_jobs_apart(tmp_path):
    names = {Job.of([*TINY, f"seed={seed}"], tmp_path).folder for seed in range(3)}
    assert len(names) == 3
    assert Job.of([*TINY, f"output_dir={tmp_path}/mine"]).folder == tmp_path / "mine"


def test_resume_is_not_asked_for():
    with pytest.raises(ConfigError, match="resume"):
        Job.of([*TINY, "resume=true"])


def test_a_finished_job_is_not_run_again(tmp_path, flower):
    _, asked = flower
    assert Job.of(TINY, tmp_path).run("one")["status"] == FINISHED
    again = Job.of(TINY, tmp_path).run("two")
    assert len(asked) == 1
    assert again["already"]
    assert again["psnr_gain_db"] == pytest.approx(2.5)


def test_whole_models_are_an_app_of_their_own(tmp_path, flower):
    fake, _ = flower
    Job.of(["experiment=multi", "clients=[denoise]"], tmp_path).run("one")
    Job.of(["experiment=fedprox", "clients=[denoise]"], tmp_path).run("one")
    assert fake.apps == [None, ROOT / "simulations" / "whole"]
    assert "PYTHONPATH" not in fake.environments[0]
    assert fake.environments[1]["PYTHONPATH"].split(jobs.os.pathsep)[0] == str(ROOT)


def test_a_stopped_job_is_continued(tmp_path, flower):
    fake, asked = flower
    fake.fails = True
    job = Job.of(TINY, tmp_path)
    assert job.run("one")["status"] == FAILED
    (job.folder / "checkpoints" / "round-000001").mkdir(parents=True)
    fake.fails = False
    assert Job.of(TINY, tmp_path).run("two")["status"] == FINISHED
    assert "resume=true" not in asked[0]
    assert "resume=true" in asked[1]


def test_a_job_that_ended_and_was_no_good_begins_anew(tmp_path, flower, capsys):
    """Its history would be the same again."""
    fake, asked = flower
    fake.left_out = ["client b: gone"]
    job = Job.of(TINY, tmp_path)
    assert job.run("one")["problems"] == ["client b: gone"]
    (job.folder / "checkpoints" / "round-000002").mkdir(parents=True)
    fake.left_out = []
    again = Job.of(TINY, tmp_path).run("two")
    assert again["status"] == FINISHED
    assert "resume=true" not in asked[1]
    aside = job.folder / "attempt-1"
    assert again["set_aside"] == str(aside)
    left = {"checkpoints", "flwr.log", "job.json", "metrics.jsonl", "results.json"}
    assert {path.name for path in aside.iterdir()} == left
    assert f"begins anew, because an earlier run ended with: client b: gone; what it left is in {aside}" in (
        capsys.readouterr().out
    )


def test_a_job_that_ended_well_while_flower_failed_is_only_concluded(tmp_path, flower):
    _, asked = flower
    job = Job.of(TINY, tmp_path)
    write_run(job.folder)
    (job.folder / "checkpoints" / "round-000002").mkdir(parents=True)
    assert job.run("two")["status"] == FINISHED
    assert "resume=true" in asked[0]


def test_more_clients_than_run_at_once_all_enrol(tmp_path, flower):
    fake, _ = flower
    many = ["experiment=tiny", "clients=[denoise*6,deblock*6]"]
    Job.of(many, tmp_path).run("one")
    Job.of([*many, "federation.cohort=all"], tmp_path).run("one")
    assert fake.clients == [(12, 8), (12, None)]


def test_an_experiment_that_cannot_work_starts_no_flower(tmp_path, flower):
    _, asked = flower
    record = Job.of([*TINY, "tasks.denoise.degradation=nose"], tmp_path).run("one")
    assert "did you mean 'noise'" in record["problems"][0]
    assert asked == []


def test_the_page_of_a_killed_run_says_so(tmp_path, flower):
    fake, _ = flower
    fake.fails = True
    job = Job.of(TINY, tmp_path)
    job.folder.mkdir(parents=True)
    page = render([], to_dict(job.config), rounds=0, rounds_planned=2, final=False)
    (job.folder / "report.html").write_text(page)
    job.run("one")
    text = (job.folder / "report.html").read_text()
    assert "Stopped: expected a run; received none" in text
    assert "refresh" not in text


def test_one_process_at_a_time(tmp_path, flower):
    _, asked = flower
    job = Job.of(TINY, tmp_path)
    job.folder.mkdir(parents=True)
    held = (
        "import fcntl, sys, time; handle = open(sys.argv[1], 'w'); fcntl.flock(handle, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", held, str(job.folder / ".job-lock")], stdout=subprocess.PIPE, cwd=ROOT
    ) as holder:
        holder.stdout.readline()
        record = job.run("one")
        holder.kill()
    assert record["status"] == FAILED
    assert "another process" in record["problems"][0]
    assert asked == []
    assert job.run("two")["status"] == FINISHED


@pytest.mark.parametrize(
    ("outcome", "run", "told"),
    [
        (RunOutcome(1, "finished:failed", "ConfigError: wrong\n"), None, "ConfigError: wrong"),
        (COMPLETED, None, "no results"),
        (COMPLETED, {"clients": ["a"]}, "1 of 2 clients enrolled"),
        (COMPLETED, {"left_out": ["client b: gone"]}, "client b: gone"),
        (RunOutcome(1, "finished:stopped", ""), {}, "stopped"),
    ],
)
def test_problems_are_seen_whatever_flower_says(tmp_path, outcome, run, told):
    if run is not None:
        write_run(tmp_path, **run)
    assert told in " ".join(problems_of(tmp_path, outcome, 2))


def test_a_clean_run_has_no_problems_though_one_client_was_never_sampled(tmp_path):
    write_run(tmp_path)
    assert problems_of(tmp_path, COMPLETED, 2) == []
