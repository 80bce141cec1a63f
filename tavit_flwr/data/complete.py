"""Check that a folder holds a data set as its recipe says: all files, whole headers, sizes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tavit_flwr.data.decode import image_size
from tavit_flwr.data.dicom import SOFT_TISSUE_HU, dicom_pairs
from tavit_flwr.data.folders import image_files
from tavit_flwr.data.images import LazyImages
from tavit_flwr.data.matching import match_pairs
from tavit_flwr.data.pairs import PAIR_FOLDERS, check_equal
from tavit_flwr.data.recipes import RECIPES, Kind, Part, Recipe, recipe_named
from tavit_flwr.data.voc import voc_sbd
from tavit_flwr.errors import ConfigError, DataError

HEADERS = 5000
"""Headers that are read of one part (ours: seconds); of a larger part as many, spread evenly."""

_ADVICE = "compare with the layout that `tavit check-data` lists"

Size = tuple[int, int]
Listing = tuple[list[str], Callable[[str], Size]]


@dataclass(frozen=True)
class Finding:
    """What one part of a data set turned out to hold.

    Attributes
    ----------
    part : Part
        What was looked for.
    count : int
        Images or pairs that were found.
    headers : int
        How many of them were opened.
    problem : str
        What is wrong; empty where nothing is.
    """

    part: Part
    count: int
    headers: int
    problem: str = ""

    @property
    def text(self) -> str:
        """The finding as people read it."""
        if self.problem:
            return f"WRONG: {self.problem}"
        return f"ok: {self.count:,} {self.part.what}, {self.headers:,} opened"


def find_recipe(name: str) -> Recipe:
    """Look a recipe up; `ConfigError` with the nearest name where there is none."""
    recipe = recipe_named(name)
    if recipe is None:
        known = [one.name for one in RECIPES]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ConfigError(f"one of {', '.join(known)}", repr(name), hint=f"did you mean '{close[0]}'?" if close else "")
    return recipe


def check_data(recipe: Recipe, folder: Path, part: str | None = None) -> Iterator[Finding]:
    """Compare a folder with a recipe, part by part; each finding comes as soon as it is known.

    Parameters
    ----------
    recipe : Recipe
        The data set.
    folder : Path
        Where it lies.
    part : str, optional
        Check this part alone.

    Raises
    ------
    ConfigError
        The recipe has no part of that name.
    """
    names = [one.name for one in recipe.parts]
    if part is not None and part not in names:
        raise ConfigError(f"a part of {recipe.name}: {', '.join(names)}", repr(part))
    for one in recipe.parts:
        if part in (None, one.name):
            yield _check(one, folder / one.folder)


def listing(kind: Kind, folder: Path) -> Listing:
    """List the images of a folder, or its pairs, and say how to find out an image's width and height.

    Raises
    ------
    DataError
        The folder is missing, or not laid out as its kind is; from the function: the image cannot be used.
    """
    return _LISTERS[kind](folder)


def _check(part: Part, folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding(part, 0, 0, f"expected a folder, received nothing, at {folder}; {_ADVICE}")
    try:
        names, size_of = listing(part.kind, folder)
    except DataError as error:
        return Finding(part, 0, 0, str(error))
    opened = names if len(names) <= HEADERS else names[:: -(-len(names) // HEADERS)]
    faults = [fault for name in opened if (fault := _fault(part, name, size_of))]
    problems = []
    if not names or (part.count is not None and len(names) != part.count):
        wanted = f"{part.count:,}" if part.count is not None else "some"
        problems.append(f"expected {wanted} {part.what}, received {len(names):,}; {_ADVICE}")
    if faults:
        problems.append(f"{len(faults):,} of {len(opened):,} cannot be used, the first: {faults[0]}")
    return Finding(part, len(names), len(opened), "; ".join(problems))


def _fault(part: Part, name: str, size_of: Callable[[str], Size]) -> str:
    try:
        width, height = size_of(name)
    except DataError as error:
        return str(error)
    if not part.sizes or (width, height) in part.sizes or (height, width) in part.sizes:
        return ""
    return f"expected {part.size_text} pixels, received {width}x{height}, at {name}"


def _images(folder: Path) -> Listing:
    return list(image_files(folder)), lambda name: _size(folder, name)


def _pairs(folder: Path) -> Listing:
    pairs = match_pairs(image_files(folder), PAIR_FOLDERS, folder)

    def size(name: str) -> Size:
        degraded, clean = (_size(folder, file) for file in pairs[name])
        check_equal(degraded[::-1], clean[::-1], pairs[name])
        return clean

    return sorted(pairs), size


def _voc(folder: Path) -> Listing:
    images = voc_sbd(folder, crop=1, halve_jpeg=False)
    return list(images.names), lambda name: _size(folder / PurePosixPath("VOCdevkit/VOC2012/JPEGImages"), name)


def _dicom(folder: Path) -> Listing:
    images = dicom_pairs(folder, crop=1, window_hu=SOFT_TISSUE_HU)
    return list(images.names), lambda name: _loaded_size(images, name)


def _loaded_size(images: LazyImages, name: str) -> Size:
    """Size of a pair of slices, whose pixels are decoded: a header does not tell whether they can be."""
    height, width = images.only([name]).load(0).clean_CHW.shape[1:]
    return width, height


def _size(folder: Path, file: str) -> Size:
    height, width = image_size(folder / file, file, halve_jpeg=False)
    return width, height


_LISTERS: dict[str, Callable[[Path], Listing]] = {"images": _images, "pairs": _pairs, "voc": _voc, "dicom": _dicom}
