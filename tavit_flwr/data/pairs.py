"""A folder of (degraded, clean) pairs, matched by equal stems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from tavit_flwr.data.decode import image_size, read_image
from tavit_flwr.data.folders import check_holds_crop, check_some, image_files
from tavit_flwr.data.images import LazyImages, Sample
from tavit_flwr.errors import DataError

PAIR_FOLDERS = (("degraded", "clean"), ("lq", "gt"), ("input", "target"), ("blur", "sharp"), ("rain", "norain"))
"""Folder names as restoration data sets have them: degraded images, clean images."""


def paired_folder(folder: Path, *, crop: int) -> LazyImages:
    """Give the pairs of a folder, sorted by name. Images are taken as they are, JPEGs too.

    The two folders of `PAIR_FOLDERS` may lie directly in `folder` (``blur/a.png``, ``sharp/a.png``) or deeper, once
    per scene (``scene1/blur/a.png``, ``scene1/sharp/a.png``, as in GoPro); a pair's path is otherwise equal but for
    the suffix.

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
        a pair is undecodable, too small or of unequal sizes. Of the images a few are checked here, each on loading.
    """
    pairs = _pairs(folder)
    names = sorted(pairs)

    def read(name: str) -> Sample:
        degraded, clean = (read_image(folder / file, file, halve_jpeg=False) for file in pairs[name])
        check_holds_crop((clean.shape[1], clean.shape[2]), crop, pairs[name][1])
        _check_equal((degraded.shape[1], degraded.shape[2]), (clean.shape[1], clean.shape[2]), pairs[name])
        return Sample(name, clean, degraded)

    def check(name: str) -> None:
        degraded, clean = (image_size(folder / file, file, halve_jpeg=False) for file in pairs[name])
        check_holds_crop(clean, crop, pairs[name][1])
        _check_equal(degraded, clean, pairs[name])

    check_some(names, check)
    return LazyImages(names, read)


def _pairs(folder: Path) -> dict[str, tuple[str, str]]:
    """Map the name of each pair to its two files, degraded first."""
    files = image_files(folder)
    found = []
    for degraded_side, clean_side in PAIR_FOLDERS:
        degraded, clean = _by_stem(files, degraded_side), _by_stem(files, clean_side)
        if degraded and clean:
            found.append((degraded, clean))
    if len(found) != 1:
        known = ", ".join(f"{degraded}/ + {clean}/" for degraded, clean in PAIR_FOLDERS)
        received = "several" if found else "none with images in both"
        raise DataError(f"one of {known}", received, f"folder {folder}", "keep the images of one pair of folders there")
    degraded, clean = found[0]
    _check_partners(degraded, clean)
    return {name: (degraded[name], clean[name]) for name in degraded}


def _by_stem(files: Sequence[str], side: str) -> dict[str, str]:
    """Map path without `side` and suffix to file, for the files below a folder of that name."""
    found: dict[str, str] = {}
    for file in files:
        parents = list(PurePosixPath(file).parent.parts)
        if side not in parents:
            continue
        parents.remove(side)
        name = "/".join([*parents, PurePosixPath(file).stem])
        if name in found:
            raise DataError(
                "one image of each name", f"{found[name]} and {file}", f"folder {side}", "remove one of the two"
            )
        found[name] = file
    return found


def _check_partners(degraded: Mapping[str, str], clean: Mapping[str, str]) -> None:
    alone = sorted(
        [degraded[name] for name in degraded.keys() - clean] + [clean[name] for name in clean.keys() - degraded]
    )
    if alone:
        shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        raise DataError(
            "a partner with the same stem for each image",
            f"{len(alone)} without: {shown}",
            hint="add the partners or remove these files",
        )


def _check_equal(degraded: tuple[int, int], clean: tuple[int, int], files: tuple[str, str]) -> None:
    if degraded != clean:
        raise DataError(
            "a pair of equal size",
            f"{degraded[1]}x{degraded[0]} and {clean[1]}x{clean[0]} pixels",
            f"{files[0]} and {files[1]}",
            "make both equally large or remove both",
        )
