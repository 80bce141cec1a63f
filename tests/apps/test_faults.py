"""Faults of clients, streams and the server, with processes that are really killed and disks that really refuse.

ServerApp and ClientApps are the real ones, each message in a process of its own, over TLS streams on loopback. What
passes the messages on is a stand-in for SuperLink and SuperNodes, which takes no seconds for each of them;
`test_deployed_faults.py` has the real ones. One run for each phase has all faults of clients at once.
"""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity
from safetensors.torch import load_file

from tavit_flwr.config import compose
from tavit_flwr.server import waiting

sys.path.insert(0, str(Path(__file__).parent / "real_processes"))
from grid import ProcessGrid, started_starter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PHASES = ("task-specific", "task-agnostic", "joint")
STEPS = 4

#: Short, so that a fault costs seconds, but not so short that a machine under load is one.
STEP_TIMEOUT_S = 8

#: Partitions take every task once before any task twice.
CLIENTS = {
    "well": "denoise",
    "well too": "deblock",
    "ten times slower": "derain",
    "cut for two seconds": "deblur",
    "killed": "denoise",
    "sends NaN": "deblock",
    "full disk": "denoise",
    "asleep": "deblock",
    "cut for long": "denoise",
}
NAMES = {name: f"p{index:04d}" for index, name in enumerate(CLIENTS)}
NODES = {name: 100 + index for index, name in enumerate(CLIENTS)}


def settings(out, images, phases, clients):
    schedule = ",".join(f"{{kind: {kind}, rounds: 1, steps: {STEPS}}}" for kind in phases)
    return [
        "experiment=tiny", f"clients=[{','.join(clients)}]", f"schedule.phases=[{schedule}]", "data.source=folder",
        f"data.folder={images}", "data.held_out=1", "data.batch_size=1", "compute.client_threads=1",
        "compute.server_threads=1", "schedule.evaluate_first=false", "evaluation.pictures=false",
        "evaluation.batch_size=64", "keep_checkpoints=9", "federation.quorum=0.2", f"output_dir={out}",
        "wire.join_timeout_s=30", f"wire.step_timeout_s={STEP_TIMEOUT_S}", "wire.session_timeout_s=120",
    ]  # fmt: skip


def train_lines(out):
    found = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line["event"] == "train"]


def processes_with(marker):
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found |= {int(entry.name)} if marker.encode() in (entry / "environ").read_bytes() else set()
    return found


def open_sockets():
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found |= {target} if (target := os.readlink(link)).startswith("socket:") else set()
    return found


def listens(address):
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def soon(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture(scope="module")
def images(tmp_path_factory, make_images):
    return make_images(tmp_path_factory.mktemp("images") / "all", count=6)


@pytest.fixture(scope="module")
def marker():
    return uuid.uuid4().hex


@pytest.fixture(scope="module")
def starter(marker):
    starter, process = started_starter(marker)
    yield starter
    starter.close()
    process.wait(20)
    assert processes_with(marker) == set()


class Cutter:
    """Stands between a client and the service, and cuts their stream once the client holds at a step."""

    def __init__(self, make_proxy, folder, phase, seconds):
        folder.mkdir()
        (folder / f"{phase}.on").touch()
        self.held = folder / f"{phase}.held"
        self.fault = {"kind": "hold", "step": 2, "folder": str(folder)}
        self.make_proxy, self.seconds = make_proxy, seconds
        self.proxy = None

    def route(self, address):
        if self.proxy is None:
            self.proxy = self.make_proxy(address)
            threading.Thread(target=self._cut, daemon=True).start()
        return self.proxy.address

    def _cut(self):
        soon(self.held.exists, 200)
        self.proxy.refusing = True
        self.proxy.cut()
        self.held.unlink()
        time.sleep(self.seconds)
        self.proxy.refusing = False


class Outcome:
    """What a run with all faults leaves behind."""

    def __init__(self, phase, folder, images, starter, run, make_proxy):
        self.phase, self.folder, self.out = phase, folder, folder / "out"
        self.addresses = set()
        brief = Cutter(make_proxy, folder / "brief", phase, 2)
        long = Cutter(make_proxy, folder / "long", phase, 60)
        cutters = {NODES["cut for two seconds"]: brief, NODES["cut for long"]: long}
        faults = {
            "killed": {"kind": "kill", "step": 2}, "sends NaN": {"kind": "nan"}, "full disk": {"kind": "disk-full"},
            "ten times slower": {"kind": "slow", "factor": 10},
            "asleep": {"kind": "asleep", "step": 2, "seconds": 2.5 * STEP_TIMEOUT_S},
            "cut for two seconds": brief.fault, "cut for long": long.fault,
        }  # fmt: skip

        def route(node, address):
            self.addresses.add(address)
            return cutters[node].route(address) if node in cutters else address

        config = compose(settings(self.out, images, [phase], CLIENTS.values()))
        before = open_sockets()
        grid = ProcessGrid(folder, len(CLIENTS), starter, {NODES[name]: one for name, one in faults.items()}, route)
        self.checkpoint = run(config, self.out, grid)
        for cutter in cutters.values():
            cutter.proxy.close()
        self.left_running = dict(starter.running) if not soon(lambda: not starter.running) else {}
        soon(lambda: not open_sockets() - before)  # gRPC closes its own a moment later
        self.left_open = open_sockets() - before
        self.trained = {client for line in train_lines(self.out) for client in line["clients"]}
        self.left_out = train_lines(self.out)[0]["left_out"]

    def why(self, name):
        """Why a client was left out, if it was."""
        found = [problem for problem in self.left_out if f"client {NAMES[name]}," in problem]
        assert len(found) == (NAMES[name] not in self.trained), (found, self.trained)
        return found[0] if found else ""


@pytest.fixture(
    scope="module",
    params=[phase if phase == "joint" else pytest.param(phase, marks=pytest.mark.long) for phase in PHASES],
)
def outcome(request, tmp_path_factory, images, starter, run, make_proxies):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "SETTLE_S", 0.01)
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        yield Outcome(request.param, tmp_path_factory.mktemp(request.param), images, starter, run, make_proxies)


def test_the_run_ends_and_the_metrics_of_the_others_are_there(outcome):
    assert {NAMES["well"], NAMES["well too"]} <= outcome.trained
    results = json.loads((outcome.out / "results.json").read_text())
    assert set(results["tasks"]) == set(CLIENTS.values())
    for line in train_lines(outcome.out):
        assert line["loss_last"] > 0
    assert outcome.checkpoint.state.round == 1


def test_a_killed_client_is_left_out(outcome):
    assert "stopped responding" in outcome.why("killed")


def test_a_client_that_sends_nan_is_left_out(outcome):
    assert "finite values in smashed" in outcome.why("sends NaN")


def test_a_client_whose_disk_is_full_is_left_out_and_keeps_its_paths_to_itself(outcome):
    if outcome.phase == "task-agnostic":  # nothing moves on the client, so nothing is written
        assert outcome.why("full disk") == ""
        return
    why = outcome.why("full disk")
    assert re.search("room for this client's moments.*free space", why)
    assert str(outcome.folder) not in why
    log = (outcome.folder / f"node-{NODES['full disk']}.log").read_text()
    assert "File too large" in log
    assert str(outcome.folder / "state") in log
    assert NAMES["full disk"] not in outcome.checkpoint.state.versions


def test_a_client_ten_times_slower_is_waited_for(outcome):
    assert outcome.why("ten times slower") == ""
    log = (outcome.folder / f"node-{NODES['ten times slower']}.log").read_text()
    assert max(float(times) for times in re.findall(r"slowed: ([0-9.]+) times", log)) > 2  # a second a step at most


def test_a_client_slower_than_the_deadline_is_left_out(outcome):
    assert re.search(f"within {STEP_TIMEOUT_S} s|deadline of turn", outcome.why("asleep"))


def test_a_stream_cut_for_two_seconds_costs_nothing(outcome):
    assert outcome.why("cut for two seconds") == ""
    log = (outcome.folder / f"node-{NODES['cut for two seconds']}.log").read_text()
    assert "connect" in log


def test_a_stream_cut_for_longer_than_the_deadline_costs_its_client_the_round(outcome):
    assert "wire.advertise" in outcome.why("cut for long")


def test_nothing_is_left_behind(outcome):
    assert outcome.left_running == {}, "processes"
    assert outcome.addresses, "no address was ever told"
    assert [address for address in outcome.addresses if listens(address)] == [], "a port"
    assert outcome.left_open == set(), "sockets"
    assert [str(path) for path in outcome.folder.rglob("*") if path.name.endswith(".tmp")] == [], "files"


class Server:
    """The ServerApp in a process, with its clients in others."""

    def __init__(self, folder, images, starter):
        self.folder, self.out, self._starter = folder, folder / "out", starter
        self._overrides = settings(self.out, images, PHASES, ["denoise", "deblock", "denoise"])
        folder.mkdir()

    def start(self, *overrides):
        given = " ".join(f"'{one}'" for one in (*self._overrides, *overrides))
        log = self.folder / "server.log"
        return self._starter.start("server", log, folder=str(self.folder), nodes=3, overrides=given)

    def finish(self, job):
        assert self._starter.wait(job, 120) == 0, self.log[-3000:]

    def kill_after(self, number, job):
        """Kill it as soon as the checkpoint of a round is there, wherever it is by then."""
        checkpoint = self.out / "checkpoints" / f"round-{number:06d}"
        assert soon(lambda: checkpoint.is_dir() or job in self._starter.gone, 120), self.log[-3000:]
        os.kill(self._starter.pid(job), signal.SIGKILL)
        done = (0,) if number == len(PHASES) else ()  # the run may have ended meanwhile
        assert self._starter.wait(job, 10) in (-signal.SIGKILL, *done)

    @property
    def log(self):
        return (self.folder / "server.log").read_text()

    def weights(self):
        return load_file(self.out / "checkpoints" / f"round-{len(PHASES):06d}" / "weights.safetensors")


def test_a_server_killed_after_each_phase_and_resumed_ends_with_the_same_bits(tmp_path, images, starter, marker):
    whole, cut = Server(tmp_path / "whole", images, starter), Server(tmp_path / "cut", images, starter)
    before = processes_with(marker)
    whole.finish(whole.start())
    cut.kill_after(1, cut.start())
    for number in range(2, len(PHASES) + 1):
        cut.kill_after(number, cut.start("resume=true"))
    cut.finish(cut.start("resume=true"))
    ours, reference = cut.weights(), whole.weights()
    assert {name.split("/")[0] for name in reference} == {"head", "body", "tail"}
    assert [name for name in reference if not torch.equal(reference[name], ours[name])] == []
    lines, expected = train_lines(cut.out), train_lines(whole.out)
    assert [line["loss_last"] for line in lines] == [line["loss_last"] for line in expected]
    assert (cut.out / "results.json").is_file()
    assert soon(lambda: processes_with(marker) <= before), "clients of a killed server"
    addresses = re.findall(r"body service at (\S+),", cut.log + whole.log)
    assert len(addresses) == len(PHASES) + 2
    assert [address for address in addresses if listens(address)] == []
    assert list(cut.out.rglob("*.tmp")) == []
