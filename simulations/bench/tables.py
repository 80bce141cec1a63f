"""The tables of ``docs/performance.md`` from what the benchmarks wrote.

``python -m simulations.bench.tables`` prints them; ``--write docs/performance.md`` puts them in place of all that
follows the line `MARK` there.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tavit_flwr.errors import ConfigError
from tavit_flwr.files import write_bytes

MARK = "<!-- tables -->"

#: What a record's ratio or value should be: a pattern of names, and the goal in words.
GOALS = (
    (r"step_ratio/simulation/(small|paper)/2", "ratio at most 1.05"),
    (r"step_ratio/deployment/.*/1", "ratio at most 1.10"),
    (r"protocol_ms/float32", "at most 12 ms"),
    (r"protocol_ms/bfloat16", "at most 7 ms"),
    (r"bytes_ratio/bfloat16", "ratio at most 0.5"),
    (r"bytes_ratio/int8", "ratio at most 0.27"),
    (r"naive_ratio/deployment", "ratio at least 100"),
    (r"scale_time/100_vs_10", "ratio at most 1.1"),
    (r"scale_memory/100_vs_10", "ratio at most 1.2"),
    (r"phase_compute_ratio", "ratio at most 0.6"),
    (r"restore_ratio/paper", "ratio at most 1.05"),
)
#: Numbers that tell cases apart; other numbers are measurements.
CASES = frozenset({"clients", "steps", "batch_size", "own_batch_size", "unsplit_threads"})


def main(given: list[str] | None = None) -> None:
    """Print the tables, or write them into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench"), help="with the benchmarks' own files")
    parser.add_argument("--write", type=Path, help="a document with the mark")
    options = parser.parse_args(given)
    paths = sorted(options.folder.glob("*.json"))
    text = tables({path.stem: json.loads(path.read_text()) for path in paths})
    if options.write is None:
        print(text)
        return
    before, mark, _ = options.write.read_text().partition(MARK)
    if not mark:
        raise ConfigError(f"the line {MARK}", "none", str(options.write))
    write_bytes(options.write, f"{before}{MARK}\n\n{text}".encode())


def tables(measured: dict[str, dict[str, Any]]) -> str:
    """Markdown of all that was measured.

    Parameters
    ----------
    measured : dict
        Name of a benchmark to what it wrote.
    """
    records = [record for one in measured.values() for record in one["records"]]
    lines = ["## Figures beside their goals", ""]
    head = ("figure", "value", "baseline", "unit", "ratio", "spread", "goal")
    rows = [
        (f"`{one['name']}`", _number(one["value"]), _number(one["baseline"]), one["unit"], f"{one['ratio']:.3f}",
         f"{one['spread']:.3f}", _goal(one["name"]))
        for one in records
    ]  # fmt: skip
    lines += [*_table(head, rows), ""]
    for name, one in measured.items():
        where = one["machine"]
        lines += [
            f"## `simulations/bench/{name}.py`", "",
            f"`{where['command']}`, {where['date']}, {where['cores']} cores of {where['processor']}, "
            f"{where['memory_gib']:.0f} GiB, torch {where['torch']}, load {where['load']:.1f} at its end. Medians.", "",
            *_medians(one["rows"]), "",
        ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _medians(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One row a case: the medians of its measurements, and how many there are."""
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, list)))
    apart = [key for key in columns if key in CASES or any(isinstance(row.get(key), str) for row in rows)]
    cases: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(tuple(row.get(key, "") for key in apart), []).append(row)
    shown = []
    for case, own in cases.items():
        values = {key: [row[key] for row in own if key in row] for key in columns if key not in apart}
        medians = [_number(statistics.median(found)) if found else "" for found in values.values()]
        shown.append((*map(str, case), *medians, str(len(own))))
    head = [key.replace("_", " ") for key in (*apart, *(key for key in columns if key not in apart), "measurements")]
    return _table(head, shown)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (head, ["---"] * len(head), *rows)
    return [f"| {' | '.join(line)} |" for line in lines]


def _goal(name: str) -> str:
    return next((goal for pattern, goal in GOALS if re.fullmatch(pattern, name)), "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
