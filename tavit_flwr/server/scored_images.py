"""What an evaluation will restore, as far as this machine can know before a run: its folders, or else the recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tavit_flwr.config import TaskImages, TavitConfig, images_of
from tavit_flwr.data.complete import Size, listing
from tavit_flwr.data.partition import split_held_out
from tavit_flwr.data.photographs import HELD_OUT_PHOTOGRAPHS, bundled_photographs
from tavit_flwr.data.recipes import Kind, part_at
from tavit_flwr.data.scored_sets import set_of
from tavit_flwr.degrade import degradation
from tavit_flwr.errors import DataError
from tavit_flwr.restoration import window_count

#: The usual photograph of a test set here, width and height: BSDS500's.
PHOTOGRAPH = (481, 321)

_HEADERS = 100  # of a folder that are read for its sizes (ours): within a second


@dataclass(frozen=True)
class ScoredImages:
    """Images of one task that each evaluation restores.

    Attributes
    ----------
    task : str
        The task.
    count : int
        Restorations: images, times the settings of their degradation where each is scored under all.
    windows : int
        Of all of them.
    note : str
        What the numbers rest on; empty where the images are on this machine.
    """

    task: str
    count: int
    windows: int
    note: str


Sets = list[tuple[int, Sequence[Size]]]


def scored_images(config: TavitConfig) -> list[ScoredImages]:
    """Count what each evaluation restores; a task is left out where neither this machine nor a recipe tells.

    Folders are listed, up to 100 headers of each are read.
    """
    found = []
    for task, settings in config.tasks.items():
        images, note = images_of(config, task), ""
        sets = _here(config, task, images)
        if not sets and images.evaluation_folder is not None:
            sets, note = _recipes(images.evaluation_folder, settings.test_sets), "as published"
        elif not sets:
            sets, note = [(config.data.held_out, (PHOTOGRAPH,))], f"if of {PHOTOGRAPH[0]}x{PHOTOGRAPH[1]}"
        every = config.evaluation.every_variant and not images.paired
        variants = len(degradation(settings.degradation, settings.options).variants) if every else 1
        if count := variants * sum(count for count, _ in sets):
            windows = variants * sum(count * _windows(config, sizes) for count, sizes in sets)
            found.append(ScoredImages(task, count, round(windows), note))
    return found


def _here(config: TavitConfig, task: str, images: TaskImages) -> Sets:
    """Held-out images on this machine and sizes of some; empty where they are elsewhere."""
    if images.source == "bundled" and images.evaluation_folder is None:
        photographs = bundled_photographs(halve_jpeg=config.data.halve_jpeg)
        photographs = photographs.only(HELD_OUT_PHOTOGRAPHS[: config.data.held_out])
        shapes = [photographs.load(index).clean_CHW.shape for index in range(len(photographs))]
        return [(len(photographs), [(shape[2], shape[1]) for shape in shapes])]
    folder = images.evaluation_folder or images.folder
    if folder is None or (images.source == "voc" and folder == images.folder):  # which torchvision alone can list
        return []
    kind: Kind = "pairs" if images.source == "paired" else "dicom" if images.source == "dicom" else "images"
    try:
        names, size_of = listing(kind, folder)
        if images.evaluation_folder is None:
            names = list(split_held_out(names, config.data.held_out, seed=config.seed)[1])
        test_sets = config.tasks[task].test_sets
        names = [name for name in names if not test_sets or set_of(name, test_sets)]
        return [(len(names), [size_of(name) for name in names[:: -(-len(names) // _HEADERS)]])] if names else []
    except DataError:
        return []


def _recipes(folder: Path, test_sets: Sequence[str]) -> Sets:
    """What the data sets hold that a folder, or its test sets, are called after; empty unless all are known."""
    parts = [part_at(folder / name) for name in test_sets or [""]]
    known = [(part.count, part.sizes or (PHOTOGRAPH,)) for part in parts if part is not None and part.count]
    return [*known] if len(known) == len(parts) else []


def _windows(config: TavitConfig, sizes: Sequence[Size]) -> float:
    """Mean number of windows over sizes of images."""
    crop, stride = config.data.crop, config.evaluation.stride
    return fmean(window_count(height, width, crop, stride) for width, height in sizes)
