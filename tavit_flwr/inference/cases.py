"""What an evaluation restores: clean images degraded by the task's own operator, or given pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from tavit_flwr.config import PAIRED
from tavit_flwr.data.dicom import dicom_pairs
from tavit_flwr.data.folders import image_files
from tavit_flwr.data.matching import match_pairs
from tavit_flwr.data.pairs import PAIR_FOLDERS
from tavit_flwr.degrade import Degrade
from tavit_flwr.errors import ConfigError, DataError
from tavit_flwr.inference.decode import read_picture
from tavit_flwr.inference.operators import Operator, operator_of
from tavit_flwr.models.stored import StoredWeights
from tavit_flwr.seeding import generator


@dataclass(frozen=True)
class Case:
    """One degraded image and its clean one, read when asked for.

    Attributes
    ----------
    name : str
        The clean image's path below its folder; for pairs what both files have in common.
    variant : str
        Setting of the degradation (``q10``, ``heavy``); empty where there is one only, and for pairs.
    load : callable
        Gives degraded and clean, [3, H, W] in [0, 1], float32.
    """

    name: str
    variant: str
    load: Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TestSet:
    """The cases of an evaluation.

    Attributes
    ----------
    cases : list of Case
        In the order of their names.
    about : dict
        Where they come from, for the report.
    operator : Operator or None
        What degrades them; None where pairs are given.
    """

    __test__ = False  # not one of pytest's

    cases: list[Case]
    about: dict[str, Any]
    operator: Operator | None = None


def find_cases(
    stored: StoredWeights,
    task: str,
    *,
    clean: Path | None,
    degraded: Path | None = None,
    pairs: Path | None = None,
    options: Mapping[str, object] | None = None,
    seed: int | None = None,
    synthetic: bool = False,
) -> TestSet:
    """Find what an evaluation restores.

    Parameters
    ----------
    stored, task
        Whose weights are evaluated.
    clean, degraded, pairs, options, seed, synthetic
        See `tavit_flwr.inference.evaluate.evaluate`.

    Raises
    ------
    ConfigError
        The folders are not one way of giving images; options of a degradation come with given pairs; or the run learnt
        from pairs and none are given.
    DataError
        A folder is missing or has no images, or an image has no partner.
    """
    for option, folder in (("--clean", clean), ("--degraded", degraded), ("--pairs", pairs)):
        if folder is not None and not folder.is_dir():
            raise DataError("a folder", "a file" if folder.exists() else "nothing", str(folder), f"check {option}")
    match clean, degraded, pairs:
        case Path() as folder, None, None:
            return _degraded_here(stored, task, folder, options or {}, seed, synthetic=synthetic)
        case Path() as folder, Path() as other, None:
            cases, about = _two_folders(folder, other), {"clean": str(folder), "degraded": str(other)}
        case None, None, Path() as folder:
            window_hu = (
                stored.config["data"]["window_hu"] if stored.config and _source(stored, task) == "dicom" else None
            )
            cases = _dicom_cases(folder, window_hu) if window_hu else _folder_of_pairs(folder)
            about = {"pairs": str(folder)}
        case _:
            raise ConfigError("--clean, --clean with --degraded, or --pairs", "none of these three")
    for option, given in (("--option", bool(options)), ("--seed", seed is not None), ("--synthetic", synthetic)):
        if given:
            raise ConfigError(f"no {option} beside pairs", "both", hint="given images are taken as they are")
    return TestSet(cases, about)


def _source(stored: StoredWeights, task: str) -> str:
    """Where a run's images of a task came from; empty for imported weights."""
    if stored.config is None:
        return ""
    return str(stored.config["tasks"][task].get("source") or stored.config["data"]["source"])


def _degraded_here(
    stored: StoredWeights, task: str, clean: Path, options: Mapping[str, object], seed: int | None, *, synthetic: bool
) -> TestSet:
    """Clean images and the task's own degradation."""
    operator, source = operator_of(stored, task, options), _source(stored, task)
    if source in PAIRED and not synthetic:
        raise ConfigError(
            "pairs: --pairs DIR, or --degraded DIR beside --clean", f"none, though the run's source is '{source}'",
            f"task '{task}'", f"--synthetic scores it on '{operator.name}', which it was not trained on",
        )  # fmt: skip
    if seed is None:
        seed = 0 if stored.config is None else int(stored.config["seed"])
    made = {"name": operator.name, "options": operator.options, "seed": seed}
    cases = _degraded_cases(clean, operator.degrade, seed=seed, task=task)
    return TestSet(cases, {"clean": str(clean), "degradation": made}, operator)


def _degraded_cases(clean: Path, degrade: Degrade, *, seed: int, task: str) -> list[Case]:
    """Each image below a folder, once for each variant of the degradation.

    The draws are named as in the federated evaluation (`tavit_flwr.data.held_out.held_out_pairs`): by seed, task and
    the image's place in its set.
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


def _two_folders(clean: Path, degraded: Path) -> list[Case]:
    """Pairs of two folders, matched by name."""
    if clean.resolve() == degraded.resolve():
        raise ConfigError("two folders", "one and the same", "--clean and --degraded")
    folders = (degraded, clean) if degraded.name != clean.name else (Path("degraded"), Path("clean"))
    sides = (folders[0].name, folders[1].name)
    roots = {sides[0]: degraded, sides[1]: clean}
    files = {f"{side}/{file}": root / file for side, root in roots.items() for file in image_files(root)}
    return _matched(files, [sides], clean.parent)


def _folder_of_pairs(folder: Path) -> list[Case]:
    """Pairs of one folder, laid out as for training (see `tavit_flwr.data.pairs.paired_folder`)."""
    return _matched({file: folder / file for file in image_files(folder)}, PAIR_FOLDERS, folder)


def _matched(files: Mapping[str, Path], sides: Sequence[tuple[str, str]], folder: Path) -> list[Case]:
    pairs = match_pairs(list(files), sides, folder)

    def loader(name: str) -> Callable[[], tuple[Tensor, Tensor]]:
        def load() -> tuple[Tensor, Tensor]:
            degraded_CHW, clean_CHW = (read_picture(files[file]).to_unit() for file in pairs[name])
            if degraded_CHW.shape != clean_CHW.shape:
                sizes = " and ".join(f"{image.shape[2]}x{image.shape[1]}" for image in (degraded_CHW, clean_CHW))
                raise DataError("a pair of equal size", f"{sizes} pixels", name, "make both equally large")
            return degraded_CHW, clean_CHW

        return load

    return [Case(name, "", loader(name)) for name in sorted(pairs)]


def _dicom_cases(folder: Path, window_hu: tuple[float, float]) -> list[Case]:
    """Slices at low and full dose, in the window that the run was trained in."""
    slices = dicom_pairs(folder, crop=1, window_hu=window_hu)

    def loader(index: int) -> Callable[[], tuple[Tensor, Tensor]]:
        def load() -> tuple[Tensor, Tensor]:
            pair = slices.load(index)
            return cast("Tensor", pair.degraded_CHW), pair.clean_CHW

        return load

    return [Case(name, "", loader(index)) for index, name in enumerate(slices.names)]
