"""The tables of ``docs/performance.md`` from what the benchmarks wrote.

``python -m simulations.bench.tables`` prints them; ``--write docs/performance.md`` puts them in place of all that
stands between the lines `BEGIN` and `END` there. Each says by which command, and whether that was a quick one.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulations.bench.record import sources, spread
from tavit_flwr.errors import ConfigError
from tavit_flwr.files import write_bytes

BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"

#: What a record's ratio or value should be: a pattern of names, and the goal in words.
GOALS = (
    (r"step_ratio/simulation/(small|paper)/2", "ratio at most 1.05"),
    (r"step_ratio/deployment/small/[12]", "ratio at most 1.10"),
    (r"protocol_ms/float32", "at most 12 ms"),
    (r"protocol_ms/bfloat16", "at most 7 ms"),
    (r"bytes_ratio/bfloat16", "ratio at most 0.5"),
    (r"bytes_ratio/int8", "ratio at most 0.27"),
    (r"naive_ratio/deployment(/tiny)?", "ratio at least 100"),
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
    parser.add_argument("--write", type=Path, help="a document with both marks")
    options = parser.parse_args(given)
    measured = {
        path.stem: json.loads(path.read_text())
        for path in sorted(options.folder.glob("*.json"), key=lambda path: path.stem)
    }
    text = tables(measured)
    if options.write is None:
        print(text)
        return
    before, begin, rest = options.write.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the lines {BEGIN} and {END}", "not both", str(options.write))
    write_bytes(options.write, f"{before}{BEGIN}\n\n{text}\n{END}{after}".encode())


def tables(measured: dict[str, dict[str, Any]]) -> str:
    """Markdown of all that was measured.

    Parameters
    ----------
    measured : dict
        Name of a benchmark to what it wrote. Others of the same, as ``steps-small``, come after it, and their records
        replace its own.
    """
    records = list({record["name"]: record for one in measured.values() for record in one["records"]}.values())
    lines = ["## Figures beside their goals", ""]
    head = ("figure", "value", "baseline", "unit", "ratio", "spread", "goal")
    rows = [
        (one["name"], _number(one["value"]), _number(one["baseline"]), one["unit"], f"{one['ratio']:.3f}",
         f"{one['spread']:.3f}", _goal(one["name"]))
        for one in records
    ]  # fmt: skip
    lines += [*_table(head, rows), ""]
    for name, one in measured.items():
        where = one["machine"]
        marks = (" **Quick: fewer cases, short.**" if _quick(one) else "") + (
            " **The sources have changed since.**" if where.get("sources") != sources() else ""
        )
        lines += [
            f"## `simulations/bench/{name.partition('-')[0]}.py`", "",
            f"`{where['command']}`, {where['date']}, {where['cores']} cores of {where['processor']}, "
            f"{where['memory_gib']:.0f} GiB, torch {where['torch']}, load {where['load']:.1f} at its end.{marks} "
            "Medians; in brackets the distance between the quartiles.", "",
            *_medians(one["rows"]), "",
        ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _quick(one: dict[str, Any]) -> bool:
    return "--quick" in one["machine"]["command"].split()


def _medians(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One row a case: medians of its measurements with their spread, lists of the first one, and how many there are."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    apart = [key for key in columns if key in CASES or any(isinstance(row.get(key), str) for row in rows)]
    measured = [key for key in columns if key not in apart]
    cases: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(tuple(row.get(key, "") for key in apart), []).append(row)
    shown = [
        (*map(str, case), *(_cell([row[key] for row in own if key in row]) for key in measured), str(len(own)))
        for case, own in cases.items()
    ]
    return _table([key.replace("_", " ") for key in (*apart, *measured, "measurements")], shown)


def _cell(values: Sequence[Any]) -> str:
    if not values:
        return ""
    if isinstance(values[0], list):
        return ", ".join(" ".join(map(str, one)) if isinstance(one, list) else _number(one) for one in values[0])
    median = _number(statistics.median(values))
    return f"{median} ({_number(spread(values))})" if len(values) > 1 else median


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (head, ["---"] * len(head), *rows)
    return [f"| {' | '.join(line)} |" for line in lines]


def _goal(name: str) -> str:
    return next((goal for pattern, goal in GOALS if re.fullmatch(pattern, name)), "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


if __name__ == "__main__":
    main()
