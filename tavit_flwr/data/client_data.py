"""A client's images: its share for training and the held-out photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from tavit_flwr.config import PAIRED, SOURCES, Source
from tavit_flwr.data.dicom import SOFT_TISSUE_HU, dicom_pairs
from tavit_flwr.data.folders import image_folder
from tavit_flwr.data.images import ImageSet, LazyImages
from tavit_flwr.data.pairs import paired_folder
from tavit_flwr.data.partition import client_shard, split_held_out
from tavit_flwr.data.photographs import HELD_OUT_PHOTOGRAPHS, TRAINING_PHOTOGRAPHS, bundled_photographs
from tavit_flwr.data.scored_sets import only_test_sets
from tavit_flwr.data.voc import voc_sbd
from tavit_flwr.errors import ConfigError, DataError


@dataclass(frozen=True)
class ClientData:
    """Training images of one client and the held-out images it is evaluated on; no image is in both."""

    train: ImageSet
    held_out: ImageSet

    def check(self) -> None:
        """Read headers of both, see `tavit_flwr.data.images.LazyImages.check`; raise `DataError` at what is found."""
        self.train.check()
        self.held_out.check()


def load_client_data(
    *,
    source: Source,
    folder: Path | None,
    evaluation_folder: Path | None,
    held_out: int,
    halve_jpeg: bool,
    crop: int,
    seed: int,
    task: str,
    shard: int,
    num_shards: int,
    test_sets: Sequence[str] = (),
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
) -> ClientData:
    """Find a client's images; none is opened before it is used, or before `ClientData.check`.

    Parameters
    ----------
    source : str
        ``bundled`` photographs, a ``folder`` of clean images, a ``paired`` folder, PASCAL ``voc`` with SBD, or
        ``dicom`` slices at low and full dose.
    folder : Path or None
        The folder; None for ``bundled``.
    evaluation_folder : Path or None
        Held-out images of the same kind (clean ones for ``bundled`` and ``voc``), all of them, in place of `held_out`.
        Use it for video frames and for slices of one patient, which are nearly the same image.
    held_out : int
        How many whole photographs are set aside: the first of a fixed list for ``bundled``, drawn for folders.
    halve_jpeg : bool
        Halve JPEG files before they serve as clean images; pairs are never halved.
    crop : int
        Side of the crops in pixels.
    seed : int
        The run's seed.
    task : str
        The task's name.
    shard, num_shards : int
        Which of how many clients of this task share these images.
    test_sets : sequence of str
        Folders of the evaluation folder whose images are held out; all images where none is named.
    window_hu : tuple of float
        See `tavit_flwr.data.dicom.dicom_pairs`.

    Returns
    -------
    ClientData
        Training images that no other client of the task holds, and held-out images, the same for all clients.

    Raises
    ------
    ConfigError
        `source` is unknown, a folder source has no folder, or a number is out of range.
    DataError
        A folder cannot be used, or there are too few images.
    """
    if source not in SOURCES:
        raise ConfigError(f"one of {', '.join(SOURCES)}", f"'{source}'", "configuration key 'data.source'")
    if evaluation_folder is not None and folder is not None:
        _check_apart(folder, evaluation_folder)
    images = _images(source, folder, halve_jpeg=halve_jpeg, crop=crop, window_hu=window_hu)
    if evaluation_folder is not None:
        train_names = TRAINING_PHOTOGRAPHS if source == "bundled" else images.names
        kind: Source = source if source in PAIRED else "folder"
        found = _images(kind, evaluation_folder, halve_jpeg=halve_jpeg, crop=crop, window_hu=window_hu)
        aside = only_test_sets(found, test_sets, f"folder {evaluation_folder}")
    else:
        train_names, held_out_names = _split(source, images, held_out, seed=seed)
        aside = images.only(held_out_names)
    own = client_shard(train_names, seed=seed, task=task, shard=shard, num_shards=num_shards)
    return ClientData(train=images.only(own), held_out=aside)


def _images(
    source: Source, folder: Path | None, *, halve_jpeg: bool, crop: int, window_hu: tuple[float, float]
) -> LazyImages:
    if source == "bundled":
        return bundled_photographs(halve_jpeg=halve_jpeg)
    if folder is None:
        raise ConfigError("a folder of images", "none", "configuration key 'data.folder'", f"data.source is {source}")
    if source == "folder":
        return image_folder(folder, crop=crop, halve_jpeg=halve_jpeg)
    if source == "paired":
        return paired_folder(folder, crop=crop)
    if source == "voc":
        return voc_sbd(folder, crop=crop, halve_jpeg=halve_jpeg)
    if source == "dicom":
        return dicom_pairs(folder, crop=crop, window_hu=window_hu)
    assert_never(source)


def _split(source: Source, images: LazyImages, held_out: int, *, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if source != "bundled":
        return split_held_out(images.names, held_out, seed=seed)
    if not 1 <= held_out <= len(HELD_OUT_PHOTOGRAPHS):
        raise ConfigError(
            f"1 to {len(HELD_OUT_PHOTOGRAPHS)} held-out photographs of the bundled ones",
            f"{held_out}",
            "configuration key 'data.held_out'",
        )
    return TRAINING_PHOTOGRAPHS, HELD_OUT_PHOTOGRAPHS[:held_out]


def _check_apart(folder: Path, evaluation_folder: Path) -> None:
    train, aside = folder.resolve(), evaluation_folder.resolve()
    if train.is_relative_to(aside) or aside.is_relative_to(train):
        raise DataError(
            "an evaluation folder outside of the training folder",
            "one inside the other",
            f"{folder} and {evaluation_folder}",
            "move one of them: held-out images must not be trained on",
        )
