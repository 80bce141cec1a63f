"""The benchmark of the naive way: what stands beside what, and its one record; nothing is deployed."""

import contextlib
import json

import pytest

from simulations.bench import naive_way
from simulations.bench.unsplit import Cost


class Loop:
    """An unsplit loop that takes 40 ms a client-step before a run and 60 ms after it."""

    def __init__(self, config):
        self.clients = config.clients
        self.asked = 0

    def median_cost(self, phase, steps):
        self.asked += 1
        return Cost(0.04 if self.asked <= 2 else 0.06, 0.0)


@pytest.fixture
def ran(monkeypatch):
    """In place of a deployment: sessions of 11 s in rounds of 25, and naive steps of 10 s."""

    def train(flower, given, output, *, rounds, steps, nodes):
        assert (rounds, nodes) == (1, None)
        lines = [
            {"phase": phase, "round": number, "round_session_s": 11.0, "round_wall_s": 25.0}
            for number, phase in enumerate(naive_way.PHASE_NAMES)
        ]
        return None, lines

    @contextlib.contextmanager
    def federation(home, nodes):
        yield type("Running", (), {"flower": None})

    for name, value in (("UnsplitLoop", Loop), ("train", train), ("federation", federation)):
        monkeypatch.setattr(naive_way, name, value)
    monkeypatch.setattr(naive_way, "images", lambda folder: folder)
    monkeypatch.setattr(naive_way, "add", lambda *_: None)
    monkeypatch.setattr(naive_way, "naive", lambda flower, steps, *_: [10.0] * steps)


def test_a_step_stands_beside_the_unsplit_loop_and_the_naive_way_in_one_run(ran, tmp_path):
    records = naive_way.main(["--quick", "--output", str(tmp_path / "naive_way.json")])
    assert [one.name for one in records] == [
        "step_ratio/deployment/small/2", "naive_ratio/deployment",
        "step_ratio/deployment/tiny/2", "naive_ratio/deployment/tiny",
    ]  # fmt: skip
    for split, naive in (records[:2], records[2:]):
        assert (split.value, split.baseline, split.ratio) == pytest.approx((55, 50, 1.1))
        assert (naive.value, naive.baseline) == pytest.approx((10.0, 0.055))
    rows = [row for row in json.loads((tmp_path / "naive_way.json").read_text())["rows"] if row["preset"] == "tiny"]
    unsplit, naive = ([row for row in rows if row["beside"] == way] for way in ("unsplit", "naive"))
    assert [row["phase"] for row in unsplit] == list(naive_way.PHASE_NAMES)
    for row in unsplit:
        assert (row["unsplit_ms"], row["ours_ms"], row["messages_s"]) == pytest.approx((50, 55, 14))
        assert row["step_ratio"] == pytest.approx(1.1)
    assert len(naive) == 2
    assert [row["naive_ratio"] for row in naive] == pytest.approx(2 * [10 / 0.055])


def test_both_clients_of_a_step_are_counted(ran, tmp_path):
    first, _ = naive_way.beside_unsplit(None, "tiny", ["experiment=tiny"], tmp_path / "out")
    assert first["ours_ms"] == pytest.approx(1000 * 11 / (naive_way.STEPS * naive_way.NODES))
