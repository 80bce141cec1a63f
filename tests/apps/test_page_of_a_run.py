"""The page while a run goes on and after it: pictures of simulated clients, who failed, and why a run stopped."""

import json
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from simulations.page import write_page
from tavit_flwr import server_app
from tavit_flwr.client.pictures import pictures_here
from tavit_flwr.errors import QuorumError
from tavit_flwr.server.checkpoint import latest
from tavit_flwr.server.initial import initial_arrays
from tavit_flwr.server.strategy import TAViT

pytestmark = pytest.mark.timeout(120)


def gone(message, reply):
    """The SuperLink gives the node up when it trains."""
    return None if message.metadata.message_type == "train" else reply


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_pictures_are_there_after_the_first_phase_and_stay_the_runs_own(tiny, fake_grid, images, tmp_path):
    config, out, running = tiny("evaluation.pictures=true", "data.held_out=2"), tmp_path / "out", []
    others = tmp_path / "state" / "another-run" / "client" / "pictures"
    others.mkdir(parents=True)
    (others / "denoise-9.png").write_bytes(b"no picture at all")

    def watch(message, reply):
        if message.metadata.message_type == "train":
            running.append((out / "report.html").read_text())
        return reply

    grid = fake_grid(2, twists={0: watch})
    TAViT(config, out, None, pictures_here).start(grid=grid, initial_arrays=initial_arrays(config))
    assert [page.count('class="compare"') for page in running] == [0, 4]  # none before an evaluation
    assert all("Running" in page for page in running)
    final = (out / "report.html").read_text()
    assert final.count('class="compare"') == 4
    assert "Finished" in final
    path = write_page(out, tmp_path / "state")
    assert path.read_text().count('class="compare"') == 4
    results = json.loads((out / "results.json").read_text())
    assert results["participants"] == {"p0000": "denoise", "p0001": "deblock"}
    assert {"started", "flwr", "torch", "python"} <= set(results["provenance"])
    assert results["provenance"]["started"] in final
    assert all(line["evaluation_wall_s"] >= line["client_s"] > line["server_s"] > 0 for line in lines(out)[2:4])


@pytest.mark.parametrize("grid", ["InMemoryGrid", "GrpcGrid"])
def test_only_a_simulated_run_is_told_where_pictures_lie(grid, images, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(server_app, "TAViT", lambda *given: told.append(given[-1]) or MagicMock())
    words = f"experiment=tiny data=folder data.folder={images} data.held_out=1 output_dir={tmp_path / 'out'}"
    server_app.main(type(grid, (), {})(), SimpleNamespace(run_config={"hydra": words}))
    assert told == [pictures_here if grid == "InMemoryGrid" else None]


def test_a_run_that_fails_says_so_on_its_page(tiny, fake_grid, run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("an earlier run's page: Finished")
    with pytest.raises(QuorumError):  # it cannot begin, so nothing is touched
        run(tiny(), out, fake_grid(2, silent=lambda _: True), 1)
    assert (out / "report.html").read_text() == "an earlier run's page: Finished"
    with pytest.raises(QuorumError):
        run(tiny(), out, fake_grid(2, twists={0: gone, 1: gone}))
    text = (out / "report.html").read_text()
    assert "Stopped: QuorumError: expected usable replies" in text
    assert "refresh" not in text
    assert "Finished" not in text


def test_who_failed_is_told_and_a_resumed_run_keeps_its_beginning(tiny, fake_grid, run, tmp_path):
    out, config = tmp_path / "out", tiny("federation.quorum=0.5")
    run(config, out, fake_grid(2, twists={1: gone}), rounds=1)
    assert [line["failed"] for line in lines(out) if line["event"] == "train"] == [["p0001"]]
    text = (out / "report.html").read_text()
    assert text.count("<td class=yes>✓</td>") == text.count("<td class=no>✗</td>") == 1
    started = latest(out / "checkpoints").state.provenance["started"]
    run(config, out, fake_grid(2), resume=True)
    made = json.loads((out / "results.json").read_text())["provenance"]
    assert made["started"] == started
    assert "resumed" in made
