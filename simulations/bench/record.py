"""What a benchmark reports: records of one figure each, and a file with all that lies behind them."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from simulations.flower import ROOT
from tavit_flwr.errors import ConfigError
from tavit_flwr.files import write_json

#: What a record's name may be.
NAMES = re.compile(
    r"step_ratio/(simulation|deployment)/(tiny|small|paper)/[124]"
    r"|naive_ratio/deployment(/tiny)?|protocol_ms/(float32|bfloat16)|bytes_ratio/(bfloat16|int8)"
    r"|scale_(time|memory)/100_vs_10|phase_compute_ratio|restore_ratio/paper|first_step_s/simulation"
)


@dataclass(frozen=True)
class Record:
    """One figure beside its baseline.

    Attributes
    ----------
    name : str
        See `NAMES`.
    value, baseline : float
        Medians, in `unit`.
    unit : str
        Of both.
    ratio : float
        Median of the ratios of what was measured next to each other: the value's to the baseline's.
    spread : float
        Upper less lower quartile of these ratios; 0 where there is one.
    """

    name: str
    value: float
    unit: str
    baseline: float
    ratio: float
    spread: float

    def __post_init__(self) -> None:
        numbers = (self.value, self.baseline, self.ratio, self.spread)
        if not NAMES.fullmatch(self.name) or not self.unit:
            raise ConfigError(f"a name as in {NAMES.pattern}, and a unit", f"{self.name!r}, {self.unit!r}", "benchmark")
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ConfigError("finite numbers, 0 or more", str(numbers), self.name)

    @classmethod
    def of(
        cls, name: str, unit: str, values: Sequence[float], baselines: Sequence[float], *, inverse: bool = False
    ) -> Record:
        """Make one from pairs that were measured next to each other.

        Parameters
        ----------
        inverse : bool
            The ratio is the baseline's to the value's.
        """
        pairs = list(zip(values, baselines, strict=True))
        ratios = [baseline / value if inverse else value / baseline for value, baseline in pairs]
        return cls(
            name, statistics.median(values), unit, statistics.median(baselines), statistics.median(ratios),
            spread(ratios),
        )  # fmt: skip


def spread(values: Sequence[float]) -> float:
    """Upper less lower quartile; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return upper - lower


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    """Where and when: processor, cores, memory, load, versions, command, sources."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": names[0] if names else platform.machine(), "cores": cores(), "memory_gib": round(memory_gib, 1),
        "load": os.getloadavg()[0], "torch": torch.__version__, "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": shlex.join(["python", "-m", *map(str, _command())]), "sources": sources(),
    }  # fmt: skip


def sources() -> str:
    """Name the project's code by its content, to tell what was measured with other code."""
    digest = hashlib.sha256()
    for path in sorted(path for room in ("tavit_flwr", "simulations") for path in (ROOT / room).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _command() -> list[str]:
    module = sys.modules["__main__"].__spec__
    return [module.name.removesuffix(".__main__") if module else sys.argv[0], *sys.argv[1:]]


def arguments(name: str, description: str | None) -> argparse.ArgumentParser:
    """Give the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short measurement of fewer cases")
    parser.add_argument("--output", type=Path, default=Path(f"outputs/bench/{name}.json"))
    return parser


def report(output: Path, records: Sequence[Record], rows: Sequence[dict[str, Any]], title: str) -> list[Record]:
    """Print the rows as a table, and write them with the records and the machine."""
    output.parent.mkdir(parents=True, exist_ok=True)
    where = machine()
    write_json(output, {"machine": where, "records": [asdict(one) for one in records], "rows": list(rows)})
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, list)))
    table = Table(title=f"{title}; {where['cores']} cores, load {where['load']:.1f}, {where['date']}")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_shown(row.get(column, "")) for column in columns))
    Console(width=160).print(table)
    show(records)
    return list(records)


def show(records: Sequence[Record]) -> None:
    """Print records, one a line."""
    for one in records:
        print(
            f"{one.name}: {one.value:.4g} {one.unit}, baseline {one.baseline:.4g}; "
            f"ratio {one.ratio:.3f}, spread {one.spread:.3f}",
            flush=True,
        )


def _shown(value: Any) -> str:  # noqa: ANN401 - a cell
    return f"{value:.4g}" if isinstance(value, float) else str(value)
