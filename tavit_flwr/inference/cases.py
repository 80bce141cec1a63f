"""What an evaluation restores: clean images degraded by the task's own operator, or given pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tavit_flwr.config import compose
from tavit_flwr.data.folders import image_files
from tavit_flwr.data.matching import match_pairs
from tavit_flwr.degrade import DEGRADATIONS, Degrade, degradation
from tavit_flwr.errors import DataError
from tavit_flwr.inference.decode import read_picture
from tavit_flwr.models.stored import StoredWeights
from tavit_flwr.seeding import generator


@dataclass(frozen=True)
class Case:
    """One degraded image and its clean one, read when asked for.

    Attributes
    ----------
    name : str
        The clean image's path below its folder; for pairs what both have in common.
    variant : str
        Setting of the degradation (``q10``, ``heavy``); empty where there is one only, and for pairs.
    load : callable
        Gives degraded and clean, [3, H, W] in [0, 1], float32.
    """

    name: str
    variant: str
    load: Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Operator:
    """A task's degradation with all its options."""

    name: str
    options: dict[str, Any]
    degrade: Degrade


def operator_of(stored: StoredWeights, task: str, changed: Mapping[str, object]) -> Operator:
    """Find the degradation of a task: the run's, or for imported weights that of ``conf/task/``.

    Parameters
    ----------
    stored : StoredWeights
        The weights' description.
    task : str
        The task.
    changed : mapping of str to object
        Options that replace the task's.

    Raises
    ------
    ConfigError
        If the task is in neither, or an option is unknown or out of range.
    """
    if stored.config is not None:
        settings: Mapping[str, Any] = stored.config["tasks"][task]
        name, own = str(settings["degradation"]), settings["options"]
    else:
        composed = compose([f"clients=[{task}]"]).tasks[task]
        name, own = composed.degradation, composed.options
    given = {**own, **changed}
    degrade = degradation(name, given)
    defaults = {key: one.default for key, one in inspect.signature(DEGRADATIONS[name]).parameters.items()}
    return Operator(name, {**defaults, **given}, degrade)


def degraded_cases(clean: Path, degrade: Degrade, *, seed: int, task: str) -> list[Case]:
    """Each image below a folder, once for each variant of the degradation.

    The draws are those of the federated evaluation (`tavit_flwr.data.held_out.held_out_pairs`): equal seed, task,
    folder and variant give equal degraded images.

    Raises
    ------
    DataError
        If the folder is missing or has no images.
    """
    names = image_files(clean)
    if not names:
        raise DataError("images", "none", str(clean), "check --clean")

    def loader(name: str, index: int, variant: int) -> Callable[[], tuple[Tensor, Tensor]]:
        def load() -> tuple[Tensor, Tensor]:
            clean_CHW = read_picture(clean / name).to_unit()
            return degrade(clean_CHW[None], generator(seed, "held-out", task, index), [variant])[0], clean_CHW

        return load

    return [
        Case(name, variant, loader(name, index, position))
        for index, name in enumerate(names)
        for position, variant in enumerate(degrade.variants)
    ]


def given_cases(clean: Path, degraded: Path) -> list[Case]:
    """Pairs of two folders, matched by name (see `tavit_flwr.data.matching.match_pairs`).

    Raises
    ------
    DataError
        If a folder is missing, or an image has no partner.
    """
    folders = (degraded, clean) if degraded.name != clean.name else (Path("degraded"), Path("clean"))
    sides = (folders[0].name, folders[1].name)
    roots = {sides[0]: degraded, sides[1]: clean}
    files = [f"{side}/{file}" for side, root in roots.items() for file in image_files(root)]
    pairs = match_pairs(files, [sides], clean.parent)

    def loader(name: str) -> Callable[[], tuple[Tensor, Tensor]]:
        def load() -> tuple[Tensor, Tensor]:
            images = [
                read_picture(roots[side] / file.removeprefix(f"{side}/")).to_unit()
                for side, file in zip(sides, pairs[name], strict=True)
            ]
            if images[0].shape != images[1].shape:
                sizes = " and ".join(f"{image.shape[2]}x{image.shape[1]}" for image in images)
                raise DataError("a pair of equal size", f"{sizes} pixels", name, "make both equally large")
            return images[0], images[1]

        return load

    return [Case(name, "", loader(name)) for name in sorted(pairs)]
