"""A folder of (degraded, clean) pairs, matched by equal stems."""

from __future__ import annotations

from pathlib import Path

from tavit_flwr.data.decode import image_size, read_image
from tavit_flwr.data.folders import check_holds_crop, image_files
from tavit_flwr.data.images import LazyImages, Sample
from tavit_flwr.data.matching import match_pairs
from tavit_flwr.errors import DataError

PAIR_FOLDERS = (("degraded", "clean"), ("lq", "gt"), ("input", "target"), ("blur", "sharp"), ("rain", "norain"))
"""Folder names as restoration data sets have them: degraded images, clean images."""


def paired_folder(folder: Path, *, crop: int) -> LazyImages:
    """Give the pairs of a folder, sorted by name. Images are taken as they are, JPEGs too.

    The two folders of `PAIR_FOLDERS` may lie directly in `folder` or deeper, once per scene as in GoPro; see
    `tavit_flwr.data.matching.match_pairs` for what belongs together.

    Parameters
    ----------
    folder : Path
        The folder that holds both.
    crop : int
        Side of the crops in pixels; no pair may be smaller.

    Raises
    ------
    DataError
        The folder is missing; it holds none or several of `PAIR_FOLDERS`; an image has no partner, or two of them;
        on `check` and on loading: a pair is undecodable, too small or of unequal sizes.
    """
    pairs = match_pairs(image_files(folder), PAIR_FOLDERS, folder)
    names = sorted(pairs)

    def read(name: str) -> Sample:
        degraded, clean = (read_image(folder / file, file, halve_jpeg=False) for file in pairs[name])
        check_holds_crop((clean.shape[1], clean.shape[2]), crop, pairs[name][1])
        check_equal((degraded.shape[1], degraded.shape[2]), (clean.shape[1], clean.shape[2]), pairs[name])
        return Sample(name, clean, degraded)

    def check(name: str) -> None:
        degraded, clean = (image_size(folder / file, file, halve_jpeg=False) for file in pairs[name])
        check_holds_crop(clean, crop, pairs[name][1])
        check_equal(degraded, clean, pairs[name])

    return LazyImages(names, read, check)


def check_equal(degraded: tuple[int, int], clean: tuple[int, int], files: tuple[str, str]) -> None:
    """Raise `DataError` if the (height, width) of a pair's files, degraded first, differ."""
    if degraded != clean:
        raise DataError(
            "a pair of equal size",
            f"{degraded[1]}x{degraded[0]} and {clean[1]}x{clean[0]} pixels",
            f"{files[0]} and {files[1]}",
            "make both equally large or remove both",
        )
