"""PASCAL VOC 2012 with the Semantic Boundaries Dataset, listed through torchvision."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from tavit_flwr.data.decode import image_size, read_image
from tavit_flwr.data.folders import check_holds_crop
from tavit_flwr.data.images import LazyImages, Sample
from tavit_flwr.errors import DataError

_IMAGES = PurePosixPath("VOCdevkit/VOC2012/JPEGImages")


def voc_sbd(folder: Path, *, crop: int, halve_jpeg: bool) -> LazyImages:
    """Give the images of VOC 2012's segmentation training set and of SBD, less VOC's validation set.

    Complete copies give the 10,582 images of the paper. All of them lie in VOC's own image folder; of SBD the lists
    alone are read. Clients of one task share them out, so two clients hold two disjoint halves.

    Parameters
    ----------
    folder : Path
        Holds ``VOCdevkit/VOC2012`` and ``sbd`` with its ``train.txt`` and ``val.txt``.
    crop : int
        Side of the crops in pixels; no image may be smaller.
    halve_jpeg : bool
        See `tavit_flwr.data.decode.read_image`.

    Raises
    ------
    DataError
        A list is missing, or torchvision cannot be imported; on `check` and on loading: an image is missing,
        undecodable or too small. Nothing is downloaded.
    """
    names = _names(folder)

    def read(name: str) -> Sample:
        clean_CHW = read_image(folder / _IMAGES / name, name, halve_jpeg=halve_jpeg)
        check_holds_crop((clean_CHW.shape[1], clean_CHW.shape[2]), crop, name)
        return Sample(name, clean_CHW)

    def check(name: str) -> None:
        check_holds_crop(image_size(folder / _IMAGES / name, name, halve_jpeg=halve_jpeg), crop, name)

    return LazyImages(names, read, check)


def _names(folder: Path) -> tuple[str, ...]:
    datasets = _torchvision_datasets()
    try:
        voc = {use: datasets.VOCSegmentation(str(folder), "2012", use, download=False) for use in ("train", "val")}
        sbd = [datasets.SBDataset(str(folder / "sbd"), use, "segmentation", download=False) for use in ("train", "val")]
    except (OSError, RuntimeError) as error:
        raise DataError(
            "VOCdevkit/VOC2012 and sbd with its lists of images",
            f"{type(error).__name__}: {error}",
            f"folder {folder}",
            "unpack PASCAL VOC 2012 and SBD there as `tavit check-data` lists; nothing is downloaded for you",
        ) from error
    train = {PurePosixPath(path).name for part in (voc["train"], *sbd) for path in part.images}
    return tuple(sorted(train - {PurePosixPath(path).name for path in voc["val"].images}))


def _torchvision_datasets() -> Any:  # noqa: ANN401 - torchvision has no types
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: its binary does not fit torch's
        raise DataError(
            "a torchvision that can be imported, for this data set alone",
            f"{type(error).__name__}: {error}",
            "data.source=voc",
            "install the torchvision of the same build as torch (CPU or CUDA)",
        ) from error
    return datasets
