"""Faults on a SuperLink with TLS and SuperNodes with keys: what is killed here is Flower's own processes.

One deployment and three runs for all, because each of Flower's messages takes seconds. `test_faults.py` has every other
fault, and the processes that are killed there are not Flower's.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simulations.deployment import Node, federation
from simulations.processes import processes_of
from tavit_flwr.config import compose

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROCESSES = Path(__file__).parent / "real_processes"
JOINT = "{kind: joint, rounds: 2, steps: 4}"
ALTERNATING = "{kind: task-specific, rounds: 1, steps: 4}, {kind: task-agnostic, rounds: 1, steps: 4}"


def settings(out, phases):
    return [
        "experiment=tiny", "clients=[denoise,deblock,derain]", f"schedule.phases=[{phases}]", "data.source=folder",
        "data.held_out=1", "data.batch_size=1", "compute.client_threads=1", "compute.server_threads=1",
        "schedule.evaluate_first=false", "evaluation.pictures=false", "keep_checkpoints=9", "federation.quorum=0.2",
        f"output_dir={out}", "wire.join_timeout_s=120", "wire.step_timeout_s=8",
    ]  # fmt: skip


def listens(address):
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def soon(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def train_lines(out):
    found = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line["event"] == "train"]


class Hold:
    """Where a node's ClientApp stops, until it is let go."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.environment = {
            "PYTHONPATH": os.pathsep.join([str(PROCESSES), os.environ.get("PYTHONPATH", "")]),
            "TAVIT_TEST_FAULT": json.dumps({"kind": "hold", "step": 2, "folder": str(folder)}),
        }

    def expect(self, where, round_=1):
        (self.folder / f"{where}.on").write_text(str(round_))

    def held(self, where):
        """Wait until the ClientApp is there; its pid."""
        path = self.folder / f"{where}.held"
        assert soon(path.exists, 240), f"nobody came to {path}"
        return int(path.read_text())

    def let_go(self, where):
        for path in self.folder.glob(f"{where}.*"):
            path.unlink()


class Background:
    """A run in a thread of its own."""

    def __init__(self, flower, overrides):
        self.outcome = None
        self._run = lambda: flower.run(overrides, timeout_s=420)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self):
        try:
            self.outcome = self._run()
        except BaseException as error:
            self.outcome = error

    def wait(self):
        self._thread.join(450)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        assert self.outcome is not None, "the run does not end"
        return self.outcome


class Deployment:
    """A SuperLink and its nodes, and where their ClientApps stop.

    Attributes
    ----------
    left : dict
        What was killed, to the processes of it that were still there half a minute later.
    """

    def __init__(self, folder, running, make_images):
        self.folder, self.running = folder, running
        self.holds, self.nodes, self.left = {}, {}, {}
        self._make_images = make_images

    def add(self, name, task):
        self.holds[name] = Hold(self.folder / f"hold-{name}")
        images = self._make_images(self.folder / f"images-{name}", count=3, prefix=name)
        self.nodes[name] = Node(name, {"task": task, "data-dir": str(images)}, self.holds[name].environment)
        self.running.add(self.nodes[name])

    def client(self, name):
        """The name by which the server knows a node."""
        return (self.running.home / "state" / name / "client-name").read_text().strip()

    def run(self, out, phases, *overrides):
        return Background(self.running.flower, " ".join(f"'{one}'" for one in (*settings(out, phases), *overrides)))

    def kill_supernode(self, name):
        pids = self.running.pids(name)
        assert {command(pid) for pid in pids} == {"flower-supernode", "flower-superexec", "flwr-clientapp"}
        self.running.kill(name)
        soon(lambda: not set(pids) & set(processes_of(self.running.home)), 30)
        self.left[name] = [command(pid) for pid in set(pids) & set(processes_of(self.running.home))]

    def apps(self):
        """Processes of apps, and of commands that watch them: they end with their runs."""
        return [name for pid in processes_of(self.running.home) if (name := command(pid)).startswith("flwr")]


def command(pid):
    with contextlib.suppress(OSError, IndexError):
        return Path(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1]).name
    return ""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory, make_images):
    folder = tmp_path_factory.mktemp("deployed")
    home = folder / "flwr"
    with federation(home, []) as running:
        made = Deployment(folder, running, make_images)
        made.add("stays", "denoise")
        made.add("client", "deblock")
        yield made
    assert processes_of(home) == []
    assert not listens(running.address)


@pytest.fixture(scope="module")
def interrupted(deployment):
    """A run whose SuperLink is killed in its second round, and the run that goes on after it."""
    out, hold, running = deployment.folder / "interrupted", deployment.holds["stays"], deployment.running
    hold.expect("joint", 2)
    broken = deployment.run(out, JOINT, "federation.min_nodes=2")
    hold.held("joint")
    running.kill_superlink()
    hold.let_go("joint")
    soon(lambda: not deployment.apps(), 120)
    deployment.left["superlink"] = deployment.apps()
    running.start_superlink()
    resumed = deployment.run(out, JOINT, "federation.min_nodes=2", "federation.wait_for_nodes_s=120", "resume=true")
    return out, broken.wait(), resumed.wait()


def test_the_end_of_the_superlink_ends_the_run_with_an_error(deployment, interrupted):
    _, broken, _ = interrupted
    assert deployment.left["superlink"] == [], "the ServerApp, a ClientApp, or the command that watches them"
    assert broken.status == "finished:failed"
    assert "Connection to the SuperLink is unavailable" in broken.log[-2000:]


def test_supernodes_reconnect_by_themselves_and_resume_goes_on(deployment, interrupted):
    out, _, resumed = interrupted
    assert resumed.completed, resumed.log[-4000:]
    assert "rounds: 1 of 2 already done" in resumed.log
    everyone = {deployment.client(name) for name in ("stays", "client")}
    assert {client for line in train_lines(out) if line["round"] == 2 for client in line["clients"]} == everyone
    assert (out / "results.json").is_file()


def test_a_resumed_run_ends_with_the_bits_of_one_that_was_never_stopped(
    deployment, interrupted, fake_grid, run, tmp_path
):
    """The same clients, images and seed, in threads of this process."""
    out, *_ = interrupted
    configs = []
    for name in ("stays", "client"):
        state = tmp_path / name
        state.mkdir()
        shutil.copy(deployment.running.home / "state" / name / "client-name", state)
        configs.append({**deployment.nodes[name].config, "state-dir": str(state)})
    checkpoint = run(compose(settings(tmp_path / "out", JOINT)), tmp_path / "out", fake_grid(node_configs=configs))
    ours = load_file(out / "checkpoints" / "round-000002" / "weights.safetensors")
    assert {name.split("/")[0] for name in ours} == {"head", "body", "tail"}
    assert [name for name, value in checkpoint.weights.items() if not torch.equal(value, ours[name])] == []


@pytest.fixture(scope="module")
def battered(deployment, interrupted):
    """A run in which a SuperNode is killed in each phase and a ClientApp in the first; one node comes late.

    The SuperNode of the first phase is started again, and takes part in the second.
    """
    out, holds = deployment.folder / "battered", deployment.holds
    deployment.add("machine", "denoise")
    for name, where in (("machine", "task-specific"), ("client", "task-specific"), ("client", "task-agnostic")):
        holds[name].expect(where)
    holds["stays"].expect("evaluate")
    run = deployment.run(out, ALTERNATING, "federation.min_nodes=3")
    pid = holds["client"].held("task-specific")
    assert command(pid) == "flwr-clientapp"
    holds["machine"].held("task-specific")
    os.kill(pid, signal.SIGKILL)
    deployment.kill_supernode("machine")
    deployment.add("late", "derain")
    deployment.running.restart("machine")
    holds["stays"].held("evaluate")
    holds["stays"].let_go("evaluate")
    holds["client"].held("task-agnostic")
    deployment.kill_supernode("client")
    outcome = run.wait()
    soon(lambda: not deployment.apps(), 30)
    deployment.left["run"] = deployment.apps()
    return out, outcome


def test_the_run_ends_with_the_metrics_of_those_that_are_left(deployment, battered):
    out, outcome = battered
    assert outcome.completed, outcome.log[-4000:]
    stays, machine, late = map(deployment.client, ("stays", "machine", "late"))
    trained = {"task-specific": set(), "task-agnostic": set()}
    for line in train_lines(out):
        trained[line["phase"]].update(line["clients"])
        assert line["loss_last"] > 0
    assert trained == {"task-specific": {stays}, "task-agnostic": {stays, machine, late}}
    assert {"denoise", "derain"} <= set(json.loads((out / "results.json").read_text())["tasks"])


@pytest.mark.parametrize(
    ("phase", "name"), [("task-specific", "machine"), ("task-specific", "client"), ("task-agnostic", "client")]
)
def test_who_was_killed_is_named_with_the_round_that_it_was_in(deployment, battered, phase, name):
    """So the client, whose ClientApp was killed in the first phase, was in the second: its SuperNode lived."""
    out, _ = battered
    left_out = next(line["left_out"] for line in train_lines(out) if line["phase"] == phase)
    (problem,) = [one for one in left_out if f"client {deployment.client(name)}," in one]
    assert f"{phase}: no reply before the deadline" in problem


def test_nothing_is_left_behind(deployment, interrupted, battered):
    *_, resumed = interrupted
    _, outcome = battered
    assert deployment.left == {"superlink": [], "machine": [], "client": [], "run": []}, "processes"
    addresses = re.findall(r"body service at (\S+),", resumed.log + outcome.log)
    assert len(addresses) == 2
    assert [address for address in addresses if listens(address)] == [], "ports"
    assert [str(path) for path in deployment.folder.rglob("*") if path.name.endswith(".tmp")] == [], "files"
