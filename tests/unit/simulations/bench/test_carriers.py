"""The benchmark of the carriers: what it counts, and beside what; no run is started."""

from pathlib import Path

import pytest

from simulations.bench import carriers


@pytest.fixture
def ran(monkeypatch):
    """Runs that would have been started; each session takes 12 s and its round 20."""
    runs = []

    def train(flower, given, output, *, rounds, steps, nodes):
        runs.append((given, steps, nodes))
        lines = [
            {"phase": phase, "round": number, "round_session_s": 12.0, "round_wall_s": 20.0}
            for number, phase in enumerate(carriers.PHASE_NAMES)
        ]
        return None, lines

    monkeypatch.setattr(carriers, "train", train)
    return runs


def test_a_minibatch_is_what_is_counted_and_the_stream_what_it_stands_beside(ran):
    rows = carriers.measured("deployment", None, carriers.CASES, Path("images"), Path("out"))
    assert [(row["carrier"], row["minibatches"]) for row in rows[::2]] == [
        ("stream", "1"), ("messages", "1"), ("messages", "4"),
    ]  # fmt: skip
    assert [row["minibatch_s"] for row in rows[::2]] == [12 / 40, 12 / 4, 12 / 8]
    assert [row["times_the_stream"] for row in rows[::2]] == pytest.approx([1, 10, 5])
    assert {row["round_s"] for row in rows} == {8.0}
    assert [steps for _, steps, _ in ran] == [40, 4, 8]
    assert {nodes for *_, nodes in ran} == {None}
    assert "wire.minibatches_per_message=4" in ran[2][0]


def test_it_is_a_command_that_tells_what_it_measures(capsys):
    with pytest.raises(SystemExit) as ended:
        carriers.main(["--help"])
    assert ended.value.code == 0
    assert "python -m simulations.bench.carriers" in capsys.readouterr().out
