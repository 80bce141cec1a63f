"""What became of a run: a verdict from what it wrote, because an exit code may hide clients that were left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simulations.flower import RunOutcome


def problems_of(folder: Path, outcome: RunOutcome, clients: int) -> list[str]:
    """What went wrong in a run.

    Parameters
    ----------
    folder : Path
        The run's.
    outcome : RunOutcome
        What Flower says.
    clients : int
        That many ought to have enrolled. Who of them trains in which round is the experiment's own choice.
    """
    problems = [] if outcome.completed else [f"Flower says: {outcome.status}{_last_error(outcome.log)}"]
    if not ended(folder):
        return problems or [f"no results were written; see {folder / 'flwr.log'}"]
    return problems + shortcomings(folder, clients)


def ended(folder: Path) -> bool:
    """Whether a run has gone to the end of its schedule; a run that goes on takes its results away first."""
    return (folder / "results.json").is_file()


def shortcomings(folder: Path, clients: int) -> list[str]:
    """What a run that has ended lacks: resumed, it would have the same history and lack the same."""
    enrolled = len(read_results(folder)["participants"])
    problems = [f"{enrolled} of {clients} clients enrolled"] if enrolled < clients else []
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return problems + sorted({problem for line in lines for problem in line.get("left_out", [])})


def gain_db(folder: Path) -> float:
    """Mean over tasks of the last PSNR above the input's, dB: a sweep's objective."""
    tasks = read_results(folder)["tasks"].values()
    return float(sum(row["psnr_db"] - row["input_psnr_db"] for row in tasks) / len(tasks))


def read_results(folder: Path) -> dict[str, Any]:
    """The results of a run that has ended."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if "Error" in line]
    return f": {lines[-1]}" if lines else ""
