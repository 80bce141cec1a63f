"""Scores of finished runs over seeds, and differences of two experiments."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from simulations.finished import Run
from tavit_flwr.errors import ConfigError


@dataclass(frozen=True)
class Row:
    """One experiment's scores on one task over its seeds; spreads are standard deviations, NaN for one seed."""

    name: str
    task: str
    seeds: int
    input_psnr_db: float
    psnr_db: float
    psnr_spread_db: float
    input_ssim: float
    ssim: float
    ssim_spread: float
    steps: float
    mib_per_cycle: float
    wall_s: float


@dataclass(frozen=True)
class Synergy:
    """How much higher one experiment scores than another on a task after a half cycle, paired by seed.

    Attributes
    ----------
    of, over : str
        The experiments' names.
    cycle : float
        0 before training, 0.5 after the first of two phases.
    difference_db : float
        Mean of the differences in PSNR.
    low_db, high_db : float
        95 % confidence interval by Student's t; NaN for one seed.
    """

    of: str
    over: str
    task: str
    cycle: float
    seeds: int
    difference_db: float
    low_db: float
    high_db: float


def rows(runs: Sequence[Run]) -> list[Row]:
    """One row for each experiment and task, in the order of the runs."""
    table = []
    for name in dict.fromkeys(run.name for run in runs):
        own = [run for run in runs if run.name == name]
        table += [_row(name, task, own) for task in dict.fromkeys(task for run in own for task in run.tasks)]
    return table


def synergy(runs: Sequence[Run], of: str, over: str) -> list[Synergy]:
    """Differences ``of - over`` after each half cycle, for each task that both have, over the seeds that both have.

    Raises
    ------
    ConfigError
        When no seed and task are common, or one of them took more client-steps on a task than the other.
    """
    first, second = ({run.seed: run for run in runs if run.name == name} for name in (of, over))
    seeds = sorted(first.keys() & second.keys())
    result = []
    for task in dict.fromkeys(task for seed in seeds for task in first[seed].tasks if task in second[seed].tasks):
        pairs = [(first[seed], second[seed]) for seed in seeds]
        if any(one.steps[task] != other.steps[task] for one, other in pairs):
            one, other = pairs[0]
            raise ConfigError(
                f"as many client-steps on {task} in both", f"{one.steps[task]} in {of}, {other.steps[task]} in {over}",
                f"--synergy {of} {over}", "compare runs of equal budgets",
            )  # fmt: skip
        for cycle in sorted(set.intersection(*({*run.curves[task]} for pair in pairs for run in pair))):
            differences = [one.curves[task][cycle] - other.curves[task][cycle] for one, other in pairs]
            result.append(Synergy(of, over, task, cycle, len(pairs), *_interval(differences)))
    if not result:
        names = sorted({run.name for run in runs})
        raise ConfigError(f"runs of '{of}' and '{over}' with common seeds and tasks", f"runs of {names}", "--synergy")
    return result


def at_the_end(gains: Sequence[Synergy]) -> list[Synergy]:
    """Of differences after each half cycle, the last ones."""
    return list({(gain.of, gain.over, gain.task): gain for gain in gains}.values())


def _row(name: str, task: str, runs: Sequence[Run]) -> Row:
    runs = [run for run in runs if task in run.tasks]
    scores = [run.tasks[task] for run in runs]
    psnr_db = [score["psnr_db"] for score in scores]
    ssim = [score["ssim"] for score in scores]
    return Row(
        name=name,
        task=task,
        seeds=len(scores),
        input_psnr_db=statistics.fmean(score["input_psnr_db"] for score in scores),
        psnr_db=statistics.fmean(psnr_db),
        psnr_spread_db=_spread(psnr_db),
        input_ssim=statistics.fmean(score["input_ssim"] for score in scores),
        ssim=statistics.fmean(ssim),
        ssim_spread=_spread(ssim),
        steps=statistics.fmean(run.steps[task] for run in runs),
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
