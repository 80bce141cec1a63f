"""``make demo``: five clients, four tasks, one shared body, on bundled photographs, under a real ``flwr run``."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from simulations.flower import RunOutcome, local_flower
from simulations.folders import own_folder
from simulations.processes import unwind_when_ended
from tavit_flwr.config import compose, override
from tavit_flwr.errors import ConfigError, TavitError
from tavit_flwr.server.check import check_experiment
from tavit_flwr.server.page import stop_page

_DECORATION = re.compile(r"\x1b\[[0-9;]*m|^(INFO|WARNING|ERROR)\s*:\s?")
_OURS = re.compile(
    r"body service|clients?:|left out|cycle \d|loss \d|client-steps|PSNR \d|fresh|can run at once|Error:|no place"
)


def main(arguments: list[str] | None = None) -> int:
    """Run an experiment in a Flower of its own and show what it reached.

    Returns
    -------
    int
        0 only when the run completed, every client took part in every round, and every task ended above its input.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. experiment=tiny seed=1")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="replaced if the demo made it")
    options = parser.parse_args(arguments)
    try:
        if any(word.startswith("output_dir=") for word in options.overrides):
            raise ConfigError("no output_dir", "one", "overrides", "use --output")
        config = compose(options.overrides)
        check_experiment(config, simulated=True)
    except TavitError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    output = own_folder(options.output.resolve(), "demo", keep=config.resume)
    shutil.rmtree(output / "flwr", ignore_errors=True)  # what Flower left of a run that is resumed
    console = Console()
    console.print(
        f"{len(config.clients)} clients, tasks: {', '.join(config.tasks)}; log: {output}/flwr.log", soft_wrap=True
    )
    overrides = shlex.join([*options.overrides, override("output_dir", output)])
    with (
        (output / "flwr.log").open("a") as log,
        local_flower(output / "flwr", {"TAVIT_STATE_DIR": str(output / "state")}) as flower,
    ):

        def show(line: str) -> None:
            log.write(line + "\n")
            text = _DECORATION.sub("", _DECORATION.sub("", line)).strip()
            if _OURS.search(text) and "MetricRecord" not in text:
                console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

        outcome = flower.run(overrides, len(config.clients), on_line=show)
    pictures = gather_pictures(output / "state", output / "pictures")
    if not outcome.completed:
        stop_page(output / "report.html", f"Flower says: {outcome.status}")  # a ServerApp that was killed could not
    return report(console, outcome, output, pictures)


def gather_pictures(state: Path, target: Path) -> list[Path]:
    """Copy the pictures that simulated clients left in their own folders, ``<task>-<number>.png``, into one folder."""
    target.mkdir(parents=True, exist_ok=True)
    found = {source.name: source for source in sorted(state.glob("*/*/pictures/*.png"), reverse=True)}
    return [shutil.copyfile(source, target / name) for name, source in sorted(found.items())]


def report(console: Console, outcome: RunOutcome, output: Path, pictures: list[Path]) -> int:
    """Show the final table and say what went wrong, if anything did."""
    problems = [] if outcome.completed else [f"Flower says: {outcome.status}; see {output / 'flwr.log'}"]
    results_path = output / "results.json"
    if results_path.is_file():
        results = json.loads(results_path.read_text())
        console.print(_table(results))
        console.print(
            f"{results['steps']} client-steps in {results['wall_s']:.0f} s, "
            f"{results['bytes_up'] / 2**20:.0f} MiB up, {results['bytes_down'] / 2**20:.0f} MiB down"
        )
        problems += [
            f"{task} ended at {row['psnr_db']:.2f} dB, not above its input's {row['input_psnr_db']:.2f} dB"
            for task, row in results["tasks"].items()
            if row["psnr_db"] <= row["input_psnr_db"]
        ]
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        problems += sorted({problem for line in lines for problem in line.get("left_out", [])})
        console.print(
            f"results      {results_path}\npage         {output / 'report.html'}\n"
            f"pictures     {output / 'pictures'} ({len(pictures)} images)\n"
            f"checkpoints  {output / 'checkpoints'}",
            soft_wrap=True,
        )
    else:
        problems.append(f"no results were written; see {output / 'flwr.log'}")
    for problem in problems:
        console.print(f"[red]problem:[/red] {problem}")
    return 1 if problems else 0


def _table(results: dict[str, Any]) -> Table:
    table = Table(title="PSNR on held-out photographs, dB")
    for column in ("task", "images", "input", "before training", "after training", "gain over input", "SSIM after"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, row in results["tasks"].items():
        gain = row["psnr_db"] - row["input_psnr_db"]
        table.add_row(
            task, str(row["images"]), f"{row['input_psnr_db']:.2f}", f"{row['before']['psnr_db']:.2f}",
            f"{row['psnr_db']:.2f}", f"{gain:+.2f}", f"{row['ssim']:.3f}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    unwind_when_ended()
    sys.exit(main())
