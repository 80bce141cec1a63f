"""Faults on a SuperLink with TLS and SuperNodes with keys: what is killed here is Flower's own processes.

One deployment and four runs for all, because each of Flower's messages takes seconds. `test_faults.py` has every other
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

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

PROCESSES = Path(__file__).parent / "real_processes"
#: What is said of one that was killed: by our deadline, or by Flower's, whichever is first.
SILENT = "(no reply before the deadline|Error: Node Unavailable)"
#: A step before that at which ClientApps are held, and one more.
STEPS = 2
JOINT = f"{{kind: joint, rounds: 2, steps: {STEPS}}}"
ALL_PHASES = ", ".join(f"{{kind: {kind}, rounds: 1, steps: {STEPS}}}" for kind in
                       ("task-specific", "task-agnostic", "joint"))  # fmt: skip


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


def lines_of(out, event):
    found = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line["event"] == event]


def train_lines(out):
    return lines_of(out, "train")


class Hold:
    """Where a node's ClientApp stops, until it is let go."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.environment = {
            "PYTHONPATH": os.pathsep.join([str(PROCESSES), os.environ.get("PYTHONPATH", "")]),
            "TAVIT_TEST_FAULT": json.dumps({"kind": "hold", "step": STEPS - 1, "folder": str(folder)}),
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
        left = [command(pid) for pid in set(pids) & set(processes_of(self.running.home))]
        self.left.setdefault(name, []).extend(left)  # one node may be killed twice

    def kill_serverapp(self):
        (pid,) = [pid for pid in processes_of(self.running.home) if command(pid) == "flwr-serverapp"]
        os.kill(pid, signal.SIGKILL)

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


class Interrupted:
    """One experiment in three runs: the first lost its ServerApp in the second round, the next one the SuperLink.

    Each is resumed at once: the SuperLink does not know yet that what ran is lost. The last one goes on by messages.
    """

    def __init__(self, deployment):
        self.out, hold = deployment.folder / "interrupted", deployment.holds["stays"]
        self.out.mkdir()  # as if a run had been killed before its first round
        both = ("federation.min_nodes=2", "federation.wait_for_nodes_s=120", "resume=true")
        hold.expect("joint", 2)
        first = deployment.run(self.out, JOINT, *both)
        hold.held("joint")
        deployment.kill_serverapp()
        hold.let_go("joint")
        hold.expect("joint", 2)
        second = deployment.run(self.out, JOINT, *both)
        hold.held("joint")
        deployment.running.kill_superlink()
        deployment.running.start_superlink()
        hold.let_go("joint")
        third = deployment.run(self.out, JOINT, *both, "wire.carrier=messages", "wire.step_timeout_s=60")
        self.first, self.second, self.last = first.wait(), second.wait(), third.wait()
        soon(lambda: not deployment.apps(), 30)
        deployment.left["interrupted"] = deployment.apps()


@pytest.fixture(scope="module")
def interrupted(deployment):
    return Interrupted(deployment)


def test_the_end_of_the_serverapp_or_of_the_superlink_is_the_run_s_failure(interrupted):
    for broken in (interrupted.first, interrupted.second):
        assert broken.status == "finished:failed"
    assert "Connection to the SuperLink is unavailable" in interrupted.second.log[-2000:]


def test_supernodes_reconnect_by_themselves_and_resume_goes_on(deployment, interrupted):
    out, last = interrupted.out, interrupted.last
    assert last.completed, last.log[-4000:]
    assert "no round was saved" in interrupted.first.log
    for resumed in (interrupted.second, last):
        assert "rounds: 1 of 2 already done" in resumed.log
    assert "the frames of all sessions travel in Flower messages" in last.log
    everyone = {deployment.client(name) for name in ("stays", "client")}
    assert {client for line in train_lines(out) if line["round"] == 2 for client in line["clients"]} == everyone
    assert (out / "results.json").is_file()


def test_a_resumed_run_ends_with_the_bits_of_one_that_was_never_stopped(
    deployment, interrupted, fake_grid, run, tmp_path
):
    """The same clients, images and seed, in threads of this process, and all of it over the stream."""
    configs = []
    for name in ("stays", "client"):
        state = tmp_path / name
        state.mkdir()
        shutil.copy(deployment.running.home / "state" / name / "client-name", state)
        configs.append({**deployment.nodes[name].config, "state-dir": str(state)})
    checkpoint = run(compose(settings(tmp_path / "out", JOINT)), tmp_path / "out", fake_grid(node_configs=configs))
    ours = load_file(interrupted.out / "checkpoints" / "round-000002" / "weights.safetensors")
    assert {name.split("/")[0] for name in ours} == {"head", "body", "tail"}
    assert [name for name, value in checkpoint.weights.items() if not torch.equal(value, ours[name])] == []


KILLED = [
    ("machine", "task-specific"), ("client", "task-specific"), ("client", "task-agnostic"), ("machine", "joint"),
]  # fmt: skip


@pytest.fixture(scope="module")
def battered(deployment, interrupted):
    """A run in which a SuperNode is killed in each phase and in an evaluation, and a ClientApp; one node comes late.

    The SuperNode of the first phase is started again, and takes part in those that follow.
    """
    out, holds = deployment.folder / "battered", deployment.holds
    deployment.add("machine", "denoise")
    for name, where in KILLED:
        holds[name].expect(where)
    holds["stays"].expect("evaluate")
    run = deployment.run(out, ALL_PHASES, "federation.min_nodes=3")
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
    holds["machine"].held("joint")
    holds["late"].expect("evaluating")
    deployment.kill_supernode("machine")
    holds["late"].held("evaluating")
    deployment.kill_supernode("late")
    outcome = run.wait()
    soon(lambda: not deployment.apps(), 30)
    deployment.left["run"] = deployment.apps()
    return out, outcome


def test_the_run_ends_with_the_metrics_of_those_that_are_left(deployment, battered):
    out, outcome = battered
    assert outcome.completed, outcome.log[-4000:]
    stays, machine, late = map(deployment.client, ("stays", "machine", "late"))
    trained = {}
    for line in train_lines(out):
        trained.setdefault(line["phase"], set()).update(line["clients"])
        assert line["loss_last"] > 0
    assert trained == {"task-specific": {stays}, "task-agnostic": {stays, machine, late}, "joint": {stays, late}}
    tasks = json.loads((out / "results.json").read_text())["tasks"]
    assert {task: row["stale"] for task, row in tasks.items()} == {"denoise": False, "derain": True}
    scored = [line for line in lines_of(out, "evaluate") if line["task"] == "denoise"]
    assert len(scored) == 3
    (problem,) = [one for one in scored[-1]["left_out"] if f"client {late}," in one]
    assert re.search(f"evaluate: {SILENT}", problem)


@pytest.mark.parametrize(("name", "phase"), KILLED)
def test_who_was_killed_is_named_with_the_round_that_it_was_in(deployment, battered, phase, name):
    """So the client, whose ClientApp was killed in the first phase, was in the second: its SuperNode lived."""
    out, _ = battered
    left_out = next(line["left_out"] for line in train_lines(out) if line["phase"] == phase)
    (problem,) = [one for one in left_out if f"client {deployment.client(name)}," in one]
    assert re.search(f"{phase}: {SILENT}", problem)


def test_nothing_is_left_behind(deployment, interrupted, battered):
    _, outcome = battered
    assert deployment.left == {what: [] for what in ("interrupted", "machine", "client", "late", "run")}, "processes"
    logs = interrupted.first.log + interrupted.second.log + outcome.log
    addresses = re.findall(r"body service at (\S+),", logs)
    assert len(addresses) == 3
    assert [address for address in addresses if listens(address)] == [], "ports"
    assert [str(path) for path in deployment.folder.rglob("*") if path.name.endswith(".tmp")] == [], "files"
