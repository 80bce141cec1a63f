"""What a killed predecessor left running in the same home is ended before anything is started there."""

import os
import subprocess
import sys

import pytest
from flwr.common.config import parse_config_args

from simulations import flower
from simulations.deployment import Federation, Node, federation
from simulations.processes import processes_of


@pytest.fixture
def left(tmp_path):
    """A process of the home ``flwr``, as of a federation whose script was killed."""
    home = tmp_path / "flwr"
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    process = subprocess.Popen(command, env=os.environ | {"FLWR_HOME": str(home)}, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert processes_of(home) == [process.pid]
    yield home, process
    process.kill()
    process.wait()
    process.stdout.close()


class StoppedError(Exception):
    """In place of what would be started."""


@pytest.fixture
def start(left, monkeypatch):
    home, process = left

    def ended(*_, **__):
        assert process.wait(10) == -9
        raise StoppedError

    def begin(what):
        monkeypatch.setattr(Federation, "start_superlink", ended)
        monkeypatch.setattr(flower.subprocess, "Popen", ended)
        with pytest.raises(StoppedError), what(home):
            pass

    return begin


def test_a_federation_ends_it(start):
    start(lambda home: federation(home, []))


def test_a_local_flower_ends_it(start):
    start(flower.local_flower)


def test_a_node_configuration_is_written_as_flower_reads_it(tmp_path, monkeypatch):
    running = Federation(tmp_path / "flwr", {})
    commands = []
    monkeypatch.setattr(running, "_spawn", lambda name, command, environment: commands.append(command))
    monkeypatch.setattr(running, "_register", lambda *_: None)
    running.add(Node("a", {"task": "denoise", "threads": 2, "require-tls": True}))
    (pairs,) = (command[command.index("--node-config") + 1] for command in commands)
    assert parse_config_args([pairs]) == {
        "task": "denoise", "threads": 2, "require-tls": True, "state-dir": str(tmp_path / "flwr" / "state" / "a"),
    }  # fmt: skip
