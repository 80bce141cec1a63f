"""The tables of the document: medians by case, beside their goals."""

import json
from dataclasses import asdict

import pytest

from simulations.bench import tables
from simulations.bench.record import NAMES, Record, machine
from tavit_flwr.errors import ConfigError

ROWS = [
    {"preset": "small", "clients": 2, "split_ms": 1.0, "processes": [["driver", 300], ["actor", 200]]},
    {"preset": "small", "clients": 2, "split_ms": 3.0, "processes": [["driver", 900]]},
    {"preset": "small", "clients": 4, "split_ms": 5000.0},
]
RECORD = Record("step_ratio/simulation/small/2", 2.0, "ms a client-step", 1.9, 1.052, 0.01)


def write(folder, **changes):
    """What a benchmark left there, and a document."""
    where = machine() | {"command": "python -m simulations.bench.steps"} | changes
    (folder / "steps.json").write_text(json.dumps({"machine": where, "records": [asdict(RECORD)], "rows": ROWS}))
    document = folder / "performance.md"
    document.write_text(f"# Performance\n\n{tables.BEGIN}\n\nold figures\n\n{tables.END}\n\nAfterwards.\n")
    return document


@pytest.fixture
def folder(tmp_path):
    write(tmp_path)
    return tmp_path


def test_a_case_has_one_row_of_medians_with_their_spread_and_its_first_list(folder, capsys):
    tables.main(["--folder", str(folder)])
    told = capsys.readouterr().out
    assert "| preset | clients | split ms | processes | measurements |" in told
    assert "| small | 2 | 2 (1) | driver 300, actor 200 | 2 |" in told
    assert "| small | 4 | 5,000 |  | 1 |" in told
    assert "| step_ratio/simulation/small/2 | 2 | 1.9 | ms a client-step | 1.052 | 0.010 | ratio at most 1.05 |" in told


def test_a_case_that_was_measured_again_replaces_the_figure_and_has_a_table_of_its_own(folder, capsys):
    again = folder / "steps-small.json"
    again.write_text((folder / "steps.json").read_text().replace("1.052", "1.041"))
    tables.main(["--folder", str(folder)])
    told = capsys.readouterr().out
    assert told.count("## `simulations/bench/steps.py`") == 2
    assert told.count("| step_ratio/simulation/small/2 |") == 1
    assert "1.041" in told


def test_the_document_keeps_what_stands_before_and_behind_the_marks(folder, tmp_path):
    document = tmp_path / "performance.md"
    for _ in range(2):
        tables.main(["--folder", str(folder), "--write", str(document)])
        text = document.read_text()
        assert text.startswith(f"# Performance\n\n{tables.BEGIN}\n\n## Figures beside their goals\n")
        assert text.endswith(f"|\n\n{tables.END}\n\nAfterwards.\n")
        assert "old figures" not in text
    for broken in ("# no mark\n", f"{tables.BEGIN}\n"):
        document.write_text(broken)
        with pytest.raises(ConfigError, match="tables"):
            tables.main(["--folder", str(folder), "--write", str(document)])
        assert document.read_text() == broken


def test_quick_measurements_are_marked(tmp_path, capsys):
    for command, marked in (("python -m simulations.bench.steps", False), ("... steps --quick", True)):
        write(tmp_path, command=command)
        tables.main(["--folder", str(tmp_path)])
        assert ("**Quick" in capsys.readouterr().out) == marked


def test_what_was_measured_with_other_code_says_so(tmp_path, capsys):
    for code, marked in ((machine()["sources"], False), ("other", True)):
        write(tmp_path, sources=code)
        tables.main(["--folder", str(tmp_path)])
        assert ("sources have changed" in capsys.readouterr().out) == marked


def test_numbers_are_short():
    numbers = (0.01234, 12.34, 999.4, 999.7, 123456.0, 0)
    assert [tables._number(value) for value in numbers] == ["0.0123", "12.3", "999", "1,000", "123,456", "0"]


def test_goals_are_of_records_that_exist():
    names = [
        "step_ratio/simulation/small/2", "step_ratio/deployment/small/1", "protocol_ms/float32",
        "protocol_ms/bfloat16", "bytes_ratio/bfloat16", "bytes_ratio/int8", "naive_ratio/deployment",
        "scale_time/100_vs_10", "scale_memory/100_vs_10", "phase_compute_ratio", "restore_ratio/paper",
    ]  # fmt: skip
    assert all(NAMES.fullmatch(name) for name in names)
    assert [tables._goal(name) for name in names] == [goal for _, goal in tables.GOALS]
