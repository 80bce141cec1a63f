"""`make federation` with two real SuperNodes; strangers are turned away, and nodes set up wrongly are told so."""

import contextlib
import io
import json
import logging
import re
import socket
import urllib.request

import pytest

from simulations import federation as script
from simulations.deployment import Node, federation
from simulations.processes import processes_of

#: Each message starts a process that imports torch: as few as possible.
SMALL = [
    "experiment=tiny", "schedule.phases=[{kind: joint, rounds: 1, steps: 3}]", "schedule.evaluate_first=false",
    "evaluation.stride=32", "evaluation.pictures=false", "data.held_out=1", "federation.min_nodes=2",
]  # fmt: skip


class Seen:
    """What the script's own federation looked like while it ran."""

    def __init__(self, output):
        self.output = output
        self.home = output / "flwr"
        self.printed = io.StringIO()
        self.code = None
        self.address = ""
        self.pids = []
        self.without_tls = None

    def watch(self, home, nodes):
        @contextlib.contextmanager
        def watched():
            with federation(home, nodes) as running:
                running.add(Node("stranger", {"task": "denoise"}), register=False)
                running.add(Node("wrong", {"task": "denoise", "data-dir": str(self.output / "missing")}))
                self.address = running.address
                self.pids = running.pids(nodes[0].name)
                try:
                    urllib.request.urlopen(f"http://{running.address}/health", timeout=5)
                except OSError as error:
                    self.without_tls = error
                yield running

        return watched()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    watched = Seen(tmp_path_factory.mktemp("federation") / "out")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(watched.printed):
        patch.setattr(script, "federation", watched.watch)
        watched.code = script.main([*SMALL, "--output", str(watched.output)])
    return watched


@pytest.mark.slow
def test_two_nodes_with_keys_train_on_their_own_images(seen):
    assert seen.code == 0, seen.printed.getvalue()
    results = json.loads((seen.output / "results.json").read_text())
    assert set(results["tasks"]) == {"denoise", "deblock"}
    assert results["steps"] == 2 * 3
    assert min(results["step_bytes_up"], results["step_bytes_down"]) > 0
    lines = [json.loads(line) for line in (seen.output / "metrics.jsonl").read_text().splitlines()]
    assert all(line["left_out"] == [] for line in lines)
    assert len({client for line in lines if line["event"] == "train" for client in line["clients"]}) == 2
    printed = seen.printed.getvalue()
    for words in ("TLS, 2 node keys registered", "denoise", "SSIM after", "MiB down per client-step", "first step"):
        assert words in printed
    assert "each client-step:" in printed  # as in the log of every run
    seconds = re.search(r"the first step began ([0-9.]+) s after the run", printed)
    assert float(seconds[1]) > 0
    assert sum(1 for _ in seen.output.glob("images/*/*.png")) == len(
        {path.name for path in seen.output.glob("images/*/*.png")}
    )


@pytest.mark.slow
def test_a_node_set_up_wrongly_is_named_with_the_field_to_who_started_the_run(seen):
    told = [line for line in (seen.output / "flwr.log").read_text().splitlines() if "left out: node" in line]
    assert told
    assert all("'data-dir'; mount" in line for line in told)
    assert "left out: node" in seen.printed.getvalue()
    assert str(seen.output / "missing") not in (seen.output / "flwr.log").read_text()


@pytest.mark.slow
def test_nothing_that_was_started_is_left(seen):
    assert seen.pids
    assert processes_of(seen.home) == []
    host, _, port = seen.address.rpartition(":")
    with pytest.raises(OSError), socket.create_connection((host, int(port)), timeout=5):  # noqa: PT011
        pass
    assert (seen.home / "certificates" / "server.key").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_a_stranger_is_turned_away_and_nothing_goes_in_clear(seen):
    assert isinstance(seen.without_tls, OSError)
    assert "Failed to activate SuperNode" in (seen.home / "stranger.log").read_text()
    assert "No SuperNode found with the given public key" in (seen.home / "superlink.log").read_text()


@pytest.mark.timeout(120)
def test_nodes_set_up_wrongly_are_named_with_the_field_and_the_others_train(
    fake_grid, tiny, tmp_path, images, run, caplog
):
    caplog.set_level(logging.INFO, "flwr")
    empty = tmp_path / "empty"
    empty.mkdir()
    right = {"task": "denoise", "data-dir": str(images)}
    wrong = {
        "'task'": right | {"task": "denois"},
        "'data-dir'; mount": right | {"data-dir": str(tmp_path / "missing")},
        "images (.png": right | {"data-dir": str(empty)},
        "'data_dir'": {"task": "denoise", "data_dir": str(images)},
        "'body'": right | {"body": "ct"},
    }
    configs = [right, right | {"task": "deblock"}, *wrong.values()]
    grid = fake_grid(
        node_configs=[config | {"state-dir": str(tmp_path / f"state-{n}")} for n, config in enumerate(configs)]
    )
    out = tmp_path / "out"
    run(tiny("federation.quorum=0.2"), out, grid)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "train"]
    assert {line["task"] for line in trained} == {"denoise", "deblock"}
    for number, field in enumerate(wrong):
        told = [line for line in caplog.text.splitlines() if f"left out: node {102 + number}," in line]
        assert told
        assert field in told[0]
        assert "data-dir" in told[0] or "node configuration" in told[0]
        assert str(tmp_path) not in told[0]
