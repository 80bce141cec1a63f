"""Finished runs read back, and what makes one unfit for a mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulations.jobs import FINISHED, INCIDENTAL, read_record
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
    steps : dict
        Task to client-steps.
    curves : dict
        Task to PSNR in dB after each half cycle.
    mib_per_cycle, wall_s : float
        MiB up and down per cycle, seconds.
    config : dict
        What may not differ between runs of one name, seeds aside.
    folder : str
        Where it lies.
    unfit : str
        Why it has no place in a mean; empty where it has.
    """

    name: str
    seed: int
    tasks: dict[str, dict[str, Any]]
    steps: dict[str, int]
    curves: dict[str, dict[float, float]]
    mib_per_cycle: float
    wall_s: float
    config: dict[str, Any]
    folder: str
    unfit: str


def read_run(folder: Path) -> Run:
    """Read a run's ``results.json`` and ``metrics.jsonl``.

    Raises
    ------
    ConfigError
        When they are not a run's.
    """
    try:
        results = json.loads((folder / "results.json").read_text())
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        config = results["config"]
        planned = _steps_of_rounds(config["schedule"])
        steps = dict.fromkeys(results["tasks"], 0)
        curves: dict[str, dict[float, float]] = {task: {} for task in results["tasks"]}
        for line in lines:
            if line["event"] == "evaluate":
                curves[line["task"]][line["cycle"]] = line["psnr_db"]
            elif line["task"] in steps:
                steps[line["task"]] += len(line["clients"]) * planned[line["round"] - 1]
        return Run(
            name=config["name"],
            seed=config["seed"],
            tasks=results["tasks"],
            steps=steps,
            curves=curves,
            mib_per_cycle=(results["bytes_up"] + results["bytes_down"]) / 2**20 / config["schedule"]["cycles"],
            wall_s=results["wall_s"],
            config=dict(_flat({key: value for key, value in config.items() if key not in {*INCIDENTAL, "seed"}})),
            folder=str(folder),
            unfit=_unfit(results, len(planned)),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ConfigError("a finished run's files", f"{type(error).__name__}: {error}", str(folder)) from error


def find_runs(places: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read every run at or below the places, each once.

    Returns
    -------
    tuple
        Runs that can be compared, and for each of the others why it cannot.

    Raises
    ------
    ConfigError
        When a place holds none, or when a mean would hide what is meant: two runs share name and seed, or runs of one
        name differ in more than the seed.
    """
    folders: dict[Path, None] = {}
    for place in places:
        found = {path.parent.resolve() for name in ("results.json", "job.json") for path in place.rglob(name)}
        if not found:
            raise ConfigError("a folder with finished runs", "no results.json at or below it", str(place))
        folders |= dict.fromkeys(sorted(found))
    jobs = {folder: _unfinished(folder) for folder in folders}
    every = [read_run(folder) for folder, problem in jobs.items() if not problem]
    runs = [run for run in every if not run.unfit]
    left_out = [f"{folder}: {problem}" for folder, problem in jobs.items() if problem]
    left_out += [f"{run.folder}: {run.unfit}" for run in every if run.unfit]
    first: dict[str, Run] = {}
    seen: dict[tuple[str, int], Run] = {}
    for run in runs:
        _check_alike(first.setdefault(run.name, run), run)
        other = seen.setdefault((run.name, run.seed), run)
        if other is not run:
            raise ConfigError(
                "one run for each name and seed", f"{other.folder} and {run.folder}",
                f"name '{run.name}', seed {run.seed}", "give runs that differ names of their own: name=...",
            )  # fmt: skip
    whole = [run for run in runs if run.steps == _most_steps(runs, run.name)]
    left_out += [f"{run.folder}: fewer client-steps than other runs of its name" for run in runs if run not in whole]
    if not whole:
        raise ConfigError("runs that finished", "; ".join(left_out), "the places given")
    return whole, left_out


def _unfinished(folder: Path) -> str:
    """What its job says against a run, if a job made it."""
    record = read_record(folder)
    if record.get("status", FINISHED) == FINISHED:
        return ""
    return f"its job is {record['status']}" + "".join(f": {problem}" for problem in record["problems"][:1])


def _unfit(results: Mapping[str, Any], planned: int) -> str:
    if results["rounds"] < planned:
        return f"it ended after round {results['rounds']} of {planned}"
    stale = [task for task, row in results["tasks"].items() if row.get("stale")]
    return f"nobody scored {', '.join(stale)} at its end" if stale else ""


def _check_alike(one: Run, other: Run) -> None:
    differing = sorted(key for key in {*one.config, *other.config} if one.config.get(key) != other.config.get(key))
    if differing:
        raise ConfigError(
            f"one configuration for all runs named '{one.name}'", f"other values of {', '.join(differing)}",
            f"{one.folder} and {other.folder}", "give runs that differ names of their own: name=...",
        )  # fmt: skip


def _most_steps(runs: Sequence[Run], name: str) -> dict[str, int]:
    own = [run.steps for run in runs if run.name == name]
    return {task: max(steps.get(task, 0) for steps in own) for steps in own for task in steps}


def _steps_of_rounds(schedule: Mapping[str, Any]) -> list[int]:
    phases = [phase["steps"] for phase in schedule["phases"] for _ in range(phase["rounds"])]
    return phases * int(schedule["cycles"])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
