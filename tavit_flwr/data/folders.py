"""A folder of clean images."""

from __future__ import annotations

import os
from pathlib import Path

from tavit_flwr.data.decode import image_size, read_image
from tavit_flwr.data.images import LazyImages, Sample
from tavit_flwr.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def image_folder(folder: Path, *, crop: int, halve_jpeg: bool = True) -> LazyImages:
    """Give the images of a folder and of the folders in it, sorted by path.

    File names are listed at once, images opened when needed: 100,000 files take about a second, and `check` another.

    Parameters
    ----------
    folder : Path
        The folder.
    crop : int
        Side of the crops in pixels; no image may be smaller.
    halve_jpeg : bool
        See `tavit_flwr.data.decode.read_image`.

    Raises
    ------
    DataError
        The folder is missing or has no images; on `check` and on loading: an image is undecodable or too small.
    """
    names = image_files(folder)
    if not names:
        raise DataError(
            f"images ({', '.join(IMAGE_SUFFIXES)})",
            "none",
            f"folder {folder}",
            "put images there or name another folder",
        )

    def read(name: str) -> Sample:
        clean_CHW = read_image(folder / name, name, halve_jpeg=halve_jpeg)
        check_holds_crop((clean_CHW.shape[1], clean_CHW.shape[2]), crop, name)
        return Sample(name, clean_CHW)

    def check(name: str) -> None:
        check_holds_crop(image_size(folder / name, name, halve_jpeg=halve_jpeg), crop, name)

    return LazyImages(names, read, check)


def image_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> tuple[str, ...]:
    """List files with image suffixes below a folder as sorted POSIX paths relative to it; hidden files are left out.

    Links to folders are followed, so that data sets can be put together out of links; one that leads back up is not.

    Raises
    ------
    DataError
        The folder does not exist.
    """
    if not folder.is_dir():
        received = "a file" if folder.exists() else "nothing"
        raise DataError("a folder", received, str(folder), "check data.folder and data.evaluation_folder")
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [one for one in folders if not _leads_up(Path(parent, one), folder)]
        below = Path(parent).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        found += [prefix + file for file in files if _has(suffixes, file)]
    return tuple(sorted(found))


def check_holds_crop(size: tuple[int, int], crop: int, where: str) -> None:
    """Raise `DataError` if an image of (height, width) is smaller than the crop."""
    if min(size) < crop:
        raise DataError(
            f"images of at least {crop}x{crop} pixels",
            f"{size[1]}x{size[0]}",
            where,
            "remove this image, lower data.crop, or set data.halve_jpeg=false if it is a JPEG",
        )


def _has(suffixes: tuple[str, ...], file: str) -> bool:
    return file.lower().endswith(suffixes) and not file.startswith(".")


def _leads_up(inner: Path, folder: Path) -> bool:
    """Whether a folder is a link to one that the way to it, from `folder` on, passed through; that would never end."""
    if not inner.is_symlink():
        return False
    target, steps = inner.resolve(), len(inner.parts) - len(folder.parts)
    return any(passed.resolve().is_relative_to(target) for passed in inner.parents[:steps])
