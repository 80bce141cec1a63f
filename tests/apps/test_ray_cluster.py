"""Simulated clients on the machines of a Ray cluster: two Ray nodes, here as processes of one machine."""

import json

import pytest

from simulations.flower import local_flower
from simulations.processes import free_port

ray_cluster = pytest.importorskip("ray.cluster_utils")


@pytest.fixture(params=["apart", "shared"])
def states(request, tmp_path):
    """State folders of the two nodes: each its own, or both the same, as on a shared disk."""
    return [tmp_path / name for name in (("one", "two") if request.param == "apart" else ("both", "both"))]


@pytest.fixture
def cluster(monkeypatch, tmp_path, states):
    """Two nodes with room for one client each, which alone know where their clients' state is."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = ray_cluster.Cluster()
    try:
        for state in states:
            monkeypatch.setenv("TAVIT_STATE_DIR", str(state))
            made.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20)
        monkeypatch.setenv("TAVIT_STATE_DIR", str(tmp_path / "neither"))
        made.wait_for_nodes(60)
        yield made
    finally:
        made.shutdown()


@pytest.mark.slow
@pytest.mark.long
def test_clients_run_on_both_nodes_of_a_cluster(cluster, states, tmp_path, make_proxy):
    """They reach the body service at another address than it listens at, as from another machine.

    Where the nodes share their state, a client finds its own whichever node it runs on. Where they do not, it may have
    to be sent its weights again, and to start with fresh moments.
    """
    with local_flower(tmp_path / "flwr", {"RAY_ADDRESS": cluster.address}) as flower:
        port = free_port()
        outside = make_proxy(f"127.0.0.1:{port}", "127.0.0.2")
        words = (
            "experiment=tiny data.batch_size=1 evaluation.stride=32 evaluation.batch_size=128 federation.cohort=all "
            f"wire.listen=127.0.0.1:{port} wire.advertise={outside.address} output_dir={tmp_path / 'run'}"
        )
        outcome = flower.run(words, clients=2, timeout_s=150)
    assert outcome.completed, outcome.log[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["left_out"] == [] for line in lines)
    assert {client for line in lines if line["event"] == "train" for client in line["clients"]} == {"p0000", "p0001"}
    assert json.loads((tmp_path / "run" / "results.json").read_text())["body_steps"] == 3
    assert all(list(state.glob("*/*")) for state in states)
    assert not (tmp_path / "neither").exists()
    if states[0] == states[1]:
        assert len(list(states[0].glob("*/*"))) == 2
        assert "fresh moments" not in outcome.log
        assert "asking for them again" not in outcome.log
