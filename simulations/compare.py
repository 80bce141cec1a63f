"""Any number of runs in one table and one figure: means and spread over seeds, and what sharing a body gave.

``python -m simulations.compare outputs/runs --synergy multi single`` reads every run below a folder.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simulations.finished import find_runs
from simulations.scores import Row, Synergy, at_the_end, rows, synergy
from tavit_flwr.errors import ConfigError
from tavit_flwr.files import write_json


def markdown(table: Sequence[Row], gains: Sequence[Synergy]) -> str:
    """The scores as one table of Markdown, the differences as one for each pair of experiments."""
    lines = [
        "| experiment | task | seeds | input dB | PSNR dB | SSIM | client-steps | MiB per cycle | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in table:
        psnr_db, ssim = _with(row.psnr_db, row.psnr_spread_db, 2), _with(row.ssim, row.ssim_spread, 4)
        lines.append(
            f"| {row.name} | {row.task} | {row.seeds} | {row.input_psnr_db:.2f} | {psnr_db} | {ssim} "
            f"| {row.steps:.0f} | {row.mib_per_cycle:.0f} | {row.wall_s:.0f} |"
        )
    for of, over in _pairs(gains):
        own = [gain for gain in gains if (gain.of, gain.over) == (of, over)]
        lines += ["", f"{of} minus {over}, PSNR in dB, paired by seed:", "", "| task | seeds | mean | 95 % interval |"]
        lines.append("|---|---:|---:|---:|")
        for gain in at_the_end(own):
            interval = "one seed" if math.isnan(gain.low_db) else f"{gain.low_db:+.2f} to {gain.high_db:+.2f}"
            lines.append(f"| {gain.task} | {gain.seeds} | {gain.difference_db:+.2f} | {interval} |")
        tasks = list(dict.fromkeys(gain.task for gain in own))
        lines += ["", f"{of} minus {over} after each half cycle, dB, with the interval's half width:", ""]
        lines += [f"| cycle | {' | '.join(tasks)} |", "|---:" * (1 + len(tasks)) + "|"]
        for cycle in sorted({gain.cycle for gain in own}):
            cells = {gain.task: _difference(gain) for gain in own if gain.cycle == cycle}
            lines.append(f"| {cycle:g} | {' | '.join(cells.get(task, '') for task in tasks)} |")
    return "\n".join(lines) + "\n"


def figure(table: Sequence[Row], gains: Sequence[Synergy], path: Path) -> None:
    """Gains over the input in PSNR and SSIM, and differences with their intervals where some are asked for; SVG."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.name for row in table))
    tasks = list(dict.fromkeys(row.task for row in table))
    panels = 3 if gains else 2
    drawing = Figure(figsize=(panels * (2.4 + 0.8 * len(tasks)), 4), layout="constrained")
    psnr = {(row.name, row.task): (row.psnr_db - row.input_psnr_db, row.psnr_spread_db) for row in table}
    similarity = {(row.name, row.task): (row.ssim - row.input_ssim, row.ssim_spread) for row in table}
    _bars(drawing.add_subplot(1, panels, 1), psnr, names, tasks, "PSNR above the input, dB")
    _bars(drawing.add_subplot(1, panels, 2), similarity, names, tasks, "SSIM above the input")
    if gains:
        _differences(drawing.add_subplot(1, panels, 3), at_the_end(gains), tasks)
    drawing.savefig(path)


def _bars(
    axes: Any,  # noqa: ANN401 - matplotlib's
    heights: Mapping[tuple[str, str], tuple[float, float]],
    names: list[str],
    tasks: list[str],
    label: str,
) -> None:
    """Draw a bar for each experiment and task, its spread over seeds as whiskers."""
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        shown = [(number, *heights[name, task]) for number, task in enumerate(tasks) if (name, task) in heights]
        axes.bar(
            [number + (place - (len(names) - 1) / 2) * width for number, _, _ in shown],
            [height for _, height, _ in shown], width, label=name,
            yerr=[0 if math.isnan(spread) else spread for _, _, spread in shown], capsize=3,
        )  # fmt: skip
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel(label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


def _differences(axes: Any, gains: Sequence[Synergy], tasks: list[str]) -> None:  # noqa: ANN401 - matplotlib's
    """Draw a point for each difference, its confidence interval as whiskers."""
    pairs = _pairs(gains)
    for place, (of, over) in enumerate(pairs):
        own = [gain for gain in gains if (gain.of, gain.over) == (of, over)]
        axes.errorbar(
            [tasks.index(gain.task) + (place - (len(pairs) - 1) / 2) * 0.2 for gain in own],
            [gain.difference_db for gain in own], fmt="o", capsize=3, label=f"{of} minus {over}",
            yerr=[0 if math.isnan(gain.low_db) else gain.high_db - gain.difference_db for gain in own],
        )  # fmt: skip
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("difference in PSNR, dB, 95 % interval")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


def main(arguments: list[str] | None = None) -> int:
    """Write ``compare.md``, ``.csv``, ``-synergy.csv``, ``.json`` and ``.svg``, and print the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="runs, or folders that hold runs")
    parser.add_argument(
        "--synergy", nargs=2, metavar=("OF", "OVER"), action="append", default=[], help="multi single; may be repeated"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/compare"))
    options = parser.parse_args(arguments)
    try:
        runs, left_out = find_runs(options.runs)
        gains = [gain for pair in options.synergy for gain in synergy(runs, *pair)]
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    table = rows(runs)
    options.output.mkdir(parents=True, exist_ok=True)
    text = markdown(table, gains)
    (options.output / "compare.md").write_text(text)
    _write_csv(options.output / "compare.csv", Row, table)
    _write_csv(options.output / "compare-synergy.csv", Synergy, gains)
    write_json(
        options.output / "compare.json",
        {
            "rows": _plain(table), "synergy": _plain(at_the_end(gains)), "synergy_by_half_cycle": _plain(gains),
            "runs": [run.folder for run in runs], "left_out": left_out,
        },
    )  # fmt: skip
    figure(table, gains, options.output / "compare.svg")
    print(text)
    return 0


def _write_csv(path: Path, kind: type[Row] | type[Synergy], items: Sequence[Row] | Sequence[Synergy]) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [*kind.__dataclass_fields__])
        writer.writeheader()
        writer.writerows(asdict(item) for item in items)


def _pairs(gains: Sequence[Synergy]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((gain.of, gain.over) for gain in gains))


def _difference(gain: Synergy) -> str:
    return _with(gain.difference_db, gain.high_db - gain.difference_db, 2, sign="+")


def _with(mean: float, spread: float, digits: int, sign: str = "-") -> str:
    return f"{mean:{sign}.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}")


def _plain(items: Sequence[Row] | Sequence[Synergy]) -> list[dict[str, Any]]:
    """For JSON, which has no NaN."""
    return [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(item).items()}
        for item in items
    ]


if __name__ == "__main__":
    sys.exit(main())
