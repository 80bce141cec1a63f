"""Records: their names, their fields, and what they are made of."""

import json
from dataclasses import asdict, replace

import pytest

from simulations.bench import __main__ as every
from simulations.bench import record
from simulations.bench.record import Record, spread
from tavit_flwr.errors import ConfigError

GOOD = Record("restore_ratio/paper", 2.0, "ms a window", 1.0, 2.0, 0.5)


@pytest.mark.parametrize(
    "name",
    [
        "step_ratio/simulation/tiny/1", "step_ratio/deployment/paper/4", "naive_ratio/deployment",
        "protocol_ms/float32", "protocol_ms/bfloat16", "bytes_ratio/bfloat16", "bytes_ratio/int8",
        "scale_time/100_vs_10", "scale_memory/100_vs_10", "phase_compute_ratio", "restore_ratio/paper",
        "first_step_s/simulation",
    ],
)  # fmt: skip
def test_names_that_are_reported(name):
    assert Record(name, 1, "s", 1, 1, 0).name == name


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "step_ratio/simulation/tiny/3"}, {"name": "step_ratio/simulation/tiny"}, {"name": "restore_ratio"},
        {"name": "naive_ratio/simulation"}, {"unit": ""}, {"ratio": float("nan")}, {"spread": -1.0},
        {"value": float("inf")},
    ],
)  # fmt: skip
def test_others_are_refused(changes):
    with pytest.raises(ConfigError):
        Record(**(asdict(GOOD) | changes))


def test_ratios_are_those_of_what_was_measured_next_to_each_other():
    """The machine became four times slower half-way: the medians mix both, the ratios do not."""
    one = Record.of("restore_ratio/paper", "ms", [2.0, 2.2, 8.0, 8.8], [1.0, 1.0, 4.0, 4.0])
    assert (one.value, one.baseline) == (5.1, 2.5)
    assert one.ratio == pytest.approx(2.1)
    assert one.spread == pytest.approx(0.2)


def test_the_spread_of_one_is_none():
    assert spread([3.0]) == 0.0


def test_a_report_is_written_with_the_machine_and_the_command(tmp_path, capsys):
    record.report(tmp_path / "deep" / "one.json", [GOOD], [{"ms": 1.5, "each": [1, 2]}, {"other": "x"}], "title")
    written = json.loads((tmp_path / "deep" / "one.json").read_text())
    assert [Record(**row) for row in written["records"]] == [GOOD]
    assert written["rows"][0] == {"ms": 1.5, "each": [1, 2]}
    assert {"processor", "cores", "memory_gib", "load", "date", "command", "torch"} <= set(written["machine"])
    assert "restore_ratio/paper: 2 ms a window" in capsys.readouterr().out


def run_all(tmp_path, monkeypatch, outcomes, *options):
    """Run all benchmarks with a stand-in for their processes, which writes what `outcomes` says."""
    asked = []

    def run(words):
        asked.append(words)
        name, output = words[2].rpartition(".")[2], words[4]
        if name in outcomes:
            every.write_json(every.Path(output), {"records": [asdict(one) for one in outcomes[name]]})
        return 0 if name in outcomes else 1

    monkeypatch.setattr(every, "run", run)
    (tmp_path / "bench").mkdir()
    output = tmp_path / "bench.json"
    status = every.main(["--output", str(output), *options])
    return status, json.loads(output.read_text()), asked


ALL = [replace(GOOD, name=name) for name in every.NEEDED]


def test_all_records_are_in_one_file(tmp_path, monkeypatch):
    outcomes = {name: ALL if name == "restore" else [] for name in every.BENCHMARKS}
    for number, (options, names) in enumerate((
        ([], every.BENCHMARKS), (["--quick"], [name for name in every.BENCHMARKS if name not in every.FULL]),
        (["--quick", "--only", "wire_types"], ["wire_types"]),
    )):  # fmt: skip
        (tmp_path / str(number)).mkdir()
        status, records, asked = run_all(tmp_path / str(number), monkeypatch, outcomes, *options)
        assert (status, records) == (0, [asdict(one) for one in ALL] if "restore" in names else [])
        assert [words[2] for words in asked] == [f"simulations.bench.{name}" for name in names]
        assert all((words[-1] == "--quick") == ("--quick" in options) for words in asked)


def test_a_figure_that_is_missing_fails_the_whole(tmp_path, monkeypatch, capsys):
    outcomes = {name: ALL[1:] if name == "restore" else [] for name in every.BENCHMARKS}
    status, records, _ = run_all(tmp_path, monkeypatch, outcomes, "--quick")
    assert (status, len(records)) == (1, len(ALL) - 1)
    assert f"failed: {ALL[0].name}" in capsys.readouterr().out


def test_a_benchmark_that_fails_fails_the_whole_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "bench").mkdir(exist_ok=True)
    stale = tmp_path / "bench" / "steps.json"
    every.write_json(stale, {"records": [asdict(GOOD)]})
    (tmp_path / "other").mkdir()
    status, records, _ = run_all(tmp_path / "other", monkeypatch, {"restore": [GOOD]}, "--only", "restore", "steps")
    assert (status, records) == (1, [asdict(GOOD)])
    assert "failed: steps" in capsys.readouterr().out
