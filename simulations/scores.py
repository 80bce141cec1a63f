"""Finished runs read back, and their scores over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from tavit_flwr.errors import ConfigError


@dataclass(frozen=True)
class Run:
    """What one finished run reached.

    Attributes
    ----------
    name : str
        The experiment's.
    seed : int
        Runs of one name differ in it.
    tasks : dict
        Task to ``psnr_db``, ``ssim``, ``input_psnr_db`` and the like.
    steps, mib_per_cycle, wall_s : float
        Client-steps, MiB up and down per cycle, seconds.
    folder : str
        Where it lies.
    """

    name: str
    seed: int
    tasks: dict[str, dict[str, Any]]
    steps: float
    mib_per_cycle: float
    wall_s: float
    folder: str


@dataclass(frozen=True)
class Row:
    """One experiment's scores on one task over its seeds; spreads are standard deviations, NaN for one seed."""

    name: str
    task: str
    seeds: int
    input_psnr_db: float
    psnr_db: float
    psnr_spread_db: float
    ssim: float
    ssim_spread: float
    steps: float
    mib_per_cycle: float
    wall_s: float


@dataclass(frozen=True)
class Synergy:
    """How much higher one experiment scores than another on a task, paired by seed.

    Attributes
    ----------
    of, over : str
        The experiments' names.
    difference_db : float
        Mean of the differences in PSNR.
    low_db, high_db : float
        95 % confidence interval by Student's t; NaN for one seed.
    """

    of: str
    over: str
    task: str
    seeds: int
    difference_db: float
    low_db: float
    high_db: float


def read_run(folder: Path) -> Run:
    """Read a run's ``results.json``.

    Raises
    ------
    ConfigError
        When the file is not a run's.
    """
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text())
        config = results["config"]
        traffic = (results["bytes_up"] + results["bytes_down"]) / 2**20 / config["schedule"]["cycles"]
        return Run(
            config["name"], config["seed"], results["tasks"], results["steps"], traffic, results["wall_s"], str(folder)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("a finished run's results.json", f"{type(error).__name__}: {error}", str(path)) from error


def find_runs(places: Iterable[Path]) -> list[Run]:
    """Read every run at or below the places, each once.

    Raises
    ------
    ConfigError
        When a place holds none, or two runs share name and seed: their mean would hide which is meant.
    """
    folders: dict[Path, None] = {}
    for place in places:
        found = sorted(path.parent.resolve() for path in place.rglob("results.json")) if place.is_dir() else []
        if not found:
            raise ConfigError("a folder with finished runs", "no results.json at or below it", str(place))
        folders |= dict.fromkeys(found)
    runs = [read_run(folder) for folder in folders]
    seen: dict[tuple[str, int], str] = {}
    for run in runs:
        other = seen.setdefault((run.name, run.seed), run.folder)
        if other != run.folder:
            raise ConfigError(
                "one run for each name and seed", f"{other} and {run.folder}", f"name '{run.name}', seed {run.seed}",
                "give runs that differ names of their own: name=...",
            )  # fmt: skip
    return runs


def rows(runs: Sequence[Run]) -> list[Row]:
    """One row for each experiment and task, in the order of the runs."""
    table = []
    for name in dict.fromkeys(run.name for run in runs):
        own = [run for run in runs if run.name == name]
        table += [_row(name, task, own) for task in dict.fromkeys(task for run in own for task in run.tasks)]
    return table


def synergy(runs: Sequence[Run], of: str, over: str) -> list[Synergy]:
    """Differences ``of - over`` for each task that both have, over the seeds that both have.

    Raises
    ------
    ConfigError
        When no seed and task are common.
    """
    first, second = ({run.seed: run.tasks for run in runs if run.name == name} for name in (of, over))
    seeds = sorted(first.keys() & second.keys())
    result = []
    for task in dict.fromkeys(task for seed in seeds for task in first[seed]):
        pairs = [
            (first[seed][task], second[seed][task]) for seed in seeds if task in first[seed] and task in second[seed]
        ]
        if pairs:
            differences = [one["psnr_db"] - other["psnr_db"] for one, other in pairs]
            result.append(Synergy(of, over, task, len(pairs), *_interval(differences)))
    if not result:
        names = sorted({run.name for run in runs})
        raise ConfigError(f"runs of '{of}' and '{over}' with common seeds and tasks", f"runs of {names}", "--synergy")
    return result


def _row(name: str, task: str, runs: Sequence[Run]) -> Row:
    scores = [run.tasks[task] for run in runs if task in run.tasks]
    psnr_db = [score["psnr_db"] for score in scores]
    ssim = [score["ssim"] for score in scores]
    return Row(
        name=name,
        task=task,
        seeds=len(scores),
        input_psnr_db=statistics.fmean(score["input_psnr_db"] for score in scores),
        psnr_db=statistics.fmean(psnr_db),
        psnr_spread_db=_spread(psnr_db),
        ssim=statistics.fmean(ssim),
        ssim_spread=_spread(ssim),
        steps=statistics.fmean(run.steps for run in runs),
        mib_per_cycle=statistics.fmean(run.mib_per_cycle for run in runs),
        wall_s=statistics.fmean(run.wall_s for run in runs),
    )


def _interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean, and the bounds of its 95 % confidence interval."""
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    return mean, mean - half, mean + half


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan
