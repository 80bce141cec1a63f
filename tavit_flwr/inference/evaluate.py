"""Score restored images against clean ones, beside the degraded input and other methods on the same pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, cat, ones, uint8

from tavit_flwr.errors import DataError
from tavit_flwr.files import write_whole
from tavit_flwr.inference.cases import Case, find_cases
from tavit_flwr.inference.classical import METHODS, check_methods, denoise, estimated_sigma
from tavit_flwr.inference.evaluation import Evaluation, ImageScores, Scores, score
from tavit_flwr.inference.restore import FAILURES, one_line, progress_bar, say
from tavit_flwr.inference.restorer import Restorer, Settings
from tavit_flwr.models.stored import describe, parts_of

_GAP_PX = 4


def evaluate(
    clean: Path | None = None,
    *,
    weights: Path,
    task: str,
    degraded: Path | None = None,
    pairs: Path | None = None,
    options: Mapping[str, object] | None = None,
    seed: int | None = None,
    synthetic: bool = False,
    settings: Settings | None = None,
    rounding: bool = False,
    against: Sequence[str] = (),
    sigma_255: float | None = None,
    limit: int | None = None,
    pictures: Path | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Restore a test set and score it.

    Parameters
    ----------
    clean : Path, optional
        Folder of clean images of any size; they are taken as they are. The task's own degradation makes the degraded
        ones from them, each once for each of its variants, not rounded to 8 bits.
    weights, task
        See `tavit_flwr.models.stored.load_parts`.
    degraded : Path, optional
        Folder of degraded images, matched with the clean ones by name.
    pairs : Path, optional
        In place of both: one folder of pairs, laid out as for training (`tavit_flwr.data.pairs`, or
        `tavit_flwr.data.dicom` where that is what the run trained on).
    options : mapping of str to object, optional
        Options of the degradation that replace the task's, such as ``{"sigma_255": 15.0}``.
    seed : int, optional
        Of the degradation; the run's, or 0 for imported weights.
    synthetic : bool, default False
        Degrade clean images although the run learnt the task from pairs.
    settings : Settings, optional
        How to restore.
    rounding : bool, default False
        Round images to 8 bits before they are scored. The paper does not.
    against : sequence of str
        Names of `METHODS`, to be scored on the same degraded pixels.
    sigma_255 : float, optional
        The noise's standard deviation that those methods are told; without it that of the task's noise, and where
        the task has another degradation an estimate for each image.
    limit : int, optional
        Take only the first images, each with all settings of its degradation.
    pictures : Path, optional
        A folder for one PNG a case: degraded, restored and clean side by side.
    console : Console, optional
        Where the progress bar and the lines of failed images go, by default the standard error.

    Returns
    -------
    Evaluation
        Scores of all cases that could be used, and why the others could not.

    Raises
    ------
    TavitError
        If weights, settings or folders cannot be used, or no case could.
    """
    console = console or Console(stderr=True)
    check_methods(against, sigma_255)
    stored = describe(weights)
    restorer = Restorer(parts_of(stored, task), stored.window, settings or Settings(), partial(say, console))
    found = find_cases(
        stored, task, clean=clean, degraded=degraded, pairs=pairs, options=options, seed=seed, synthetic=synthetic
    )
    if found.operator and found.operator.name == "noise" and sigma_255 is None:
        sigma_255 = float(found.operator.options["sigma_255"])
    result = Evaluation(
        {
            "weights": str(stored.folder), "preset": stored.preset.name, "task": task, **found.about,
            "rounding": rounding, "against": {name: METHODS[name].settings for name in against},
            "sigma_255": ("estimated" if sigma_255 is None else sigma_255) if against else None,
        }
    )  # fmt: skip
    first = list(dict.fromkeys(case.name for case in found.cases))[:limit]
    cases = [case for case in found.cases if case.name in first]
    with progress_bar(console) as progress:
        bar = progress.add_task("images", total=len(cases))
        for case in cases:
            try:
                images = _images(case, restorer, against, sigma_255, progress)
                result.images.append(_scored(case, images, rounding=rounding))
                if pictures:
                    _save_side_by_side(pictures / f"{_flat(case)}.png", images)
            except FAILURES as error:
                result.failures[_flat(case)] = one_line(error)
                say(console, f"failed: {_flat(case)}: {one_line(error)}")
            progress.advance(bar)
    if not result.images:
        raise DataError("at least one image that can be scored", "none", str(clean or pairs), "see the lines above")
    result.about |= _described(restorer)
    return result


Images = dict[str, tuple[Tensor, float]]


def _images(
    case: Case, restorer: Restorer, against: Sequence[str], sigma_255: float | None, progress: Progress
) -> Images:
    """All versions of one image, [3, H, W] in [-1, 1], each with the seconds it took."""
    degraded_CHW, clean_CHW = case.load()
    windows = progress.add_task("windows", total=restorer.windows(*clean_CHW.shape[1:]))
    images: Images = {"clean": (clean_CHW * 2 - 1, 0.0), "input": (degraded_CHW * 2 - 1, 0.0)}
    try:
        images["restored"] = _timed(
            lambda: restorer(degraded_CHW * 2 - 1, lambda count: progress.advance(windows, count))
        )
    finally:
        progress.remove_task(windows)
    if against:
        sigma = estimated_sigma(degraded_CHW) if sigma_255 is None else sigma_255 / 255
        for name in against:
            images[name] = _timed(lambda name=name: denoise(name, degraded_CHW, sigma) * 2 - 1)  # type: ignore[misc]
    return images


def _timed(make: Callable[[], Tensor]) -> tuple[Tensor, float]:
    began = time.perf_counter()
    return make(), time.perf_counter() - began


def _scored(case: Case, images: Images, *, rounding: bool) -> ImageScores:
    clean_CHW, _ = images["clean"]
    scores: dict[str, Scores] = {
        name: score(image_CHW, clean_CHW, rounding=rounding, seconds=seconds)
        for name, (image_CHW, seconds) in images.items()
        if name != "clean"
    }
    return ImageScores(case.name, case.variant, scores)


def _save_side_by_side(path: Path, images: Images) -> None:
    columns = []
    for name in ("input", "restored", "clean"):
        image_CHW, _ = images[name]
        columns += [image_CHW, ones(3, image_CHW.shape[1], _GAP_PX)]
    pixels = ((cat(columns[:-1], dim=2).clamp(-1, 1) + 1) * 127.5).round().to(uint8).permute(1, 2, 0).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda beside: Image.fromarray(pixels.numpy()).save(beside, "PNG"))


def _flat(case: Case) -> str:
    """A case's name as one file name."""
    name = case.name.replace("/", "__")
    return f"{name}-{case.variant}" if case.variant else name


def _described(restorer: Restorer) -> dict[str, Any]:
    settings = restorer.settings
    return {
        "window": restorer.window, "stride": settings.stride, "batch_size": restorer.batch_size,
        "bf16": settings.bf16, "device": str(restorer.device),
    }  # fmt: skip
