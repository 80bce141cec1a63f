"""The tables of the document: medians by case, beside their goals."""

import json
from dataclasses import asdict

import pytest

from simulations.bench import tables
from simulations.bench.record import NAMES, Record, machine
from tavit_flwr.errors import ConfigError

ROWS = [
    {"preset": "small", "clients": 2, "split_ms": 1.0, "each": [1]},
    {"preset": "small", "clients": 2, "split_ms": 3.0},
    {"preset": "small", "clients": 4, "split_ms": 5000.0},
]
RECORD = Record("step_ratio/simulation/small/2", 2.0, "ms a client-step", 1.9, 1.052, 0.01)


@pytest.fixture
def folder(tmp_path):
    one = {"machine": machine(), "records": [asdict(RECORD)], "rows": ROWS}
    (tmp_path / "steps.json").write_text(json.dumps(one))
    return tmp_path


def test_a_case_has_one_row_of_medians(folder, capsys):
    tables.main(["--folder", str(folder)])
    told = capsys.readouterr().out
    assert "| preset | clients | split ms | measurements |" in told
    assert "| small | 2 | 2 | 2 |" in told
    assert "| small | 4 | 5,000 | 1 |" in told
    assert (
        "| `step_ratio/simulation/small/2` | 2 | 1.9 | ms a client-step | 1.052 | 0.010 | ratio at most 1.05 |" in told
    )


def test_the_document_keeps_what_stands_before_the_mark(folder, tmp_path):
    document = tmp_path / "performance.md"
    document.write_text(f"# Performance\n\n{tables.MARK}\n\nold figures\n")
    tables.main(["--folder", str(folder), "--write", str(document)])
    text = document.read_text()
    assert text.startswith(f"# Performance\n\n{tables.MARK}\n\n## Figures beside their goals\n")
    assert "old figures" not in text
    document.write_text("# no mark\n")
    with pytest.raises(ConfigError, match="tables"):
        tables.main(["--folder", str(folder), "--write", str(document)])
    assert document.read_text() == "# no mark\n"


def test_goals_are_of_records_that_exist():
    names = [
        "step_ratio/simulation/small/2", "step_ratio/deployment/small/1", "protocol_ms/float32",
        "protocol_ms/bfloat16", "bytes_ratio/bfloat16", "bytes_ratio/int8", "naive_ratio/deployment",
        "scale_time/100_vs_10", "scale_memory/100_vs_10", "phase_compute_ratio", "restore_ratio/paper",
    ]  # fmt: skip
    assert all(NAMES.fullmatch(name) for name in names)
    assert [tables._goal(name) for name in names] == [goal for _, goal in tables.GOALS]
