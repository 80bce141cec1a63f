"""Which files to restore, and where each result goes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tavit_flwr.data.folders import IMAGE_SUFFIXES, image_files
from tavit_flwr.errors import DataError
from tavit_flwr.inference.encode import TIFF_SUFFIXES


@dataclass(frozen=True)
class Job:
    """One image to restore.

    Attributes
    ----------
    source, target : Path
        Where it is and where the result goes.
    refused : str
        Why the target must not be written, empty if it may.
    """

    source: Path
    target: Path
    refused: str = ""


def plan(inputs: Sequence[str], output: Path, *, overwrite: bool) -> list[Job]:
    """List the images to restore.

    Parameters
    ----------
    inputs : sequence of str
        Files, folders (with all images below them; their layout is kept) and glob patterns (the layout below the
        part without wildcards is kept). Hidden files are left out, and so is `output` inside a folder.
    output : Path
        The folder of the results. TIFF stays TIFF, all else becomes PNG.
    overwrite : bool
        Whether a result may replace a file. An input is never replaced.

    Returns
    -------
    list of Job
        Each source once, in the order of the inputs.

    Raises
    ------
    DataError
        If an input is nothing, or a folder or pattern without images; or if the output is a file.
    """
    if output.exists() and not output.is_dir():
        raise DataError("a folder for the results", "a file", str(output), "choose another --output")
    found: dict[Path, Path] = {}
    for given in inputs:
        for source, relative in _expanded(given, output):
            target = output / relative
            kept = target.suffix.lower() in TIFF_SUFFIXES
            found.setdefault(source, target if kept else target.with_suffix(".png"))
    sources = {_place(source) for source in found} | {source.resolve() for source in found}
    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    for source, target in found.items():
        first = taken.setdefault(_place(target), source)
        jobs.append(Job(source, target, _refusal(target, source, first, sources, overwrite=overwrite)))
    return jobs


def _refusal(target: Path, source: Path, first: Path, sources: set[Path], *, overwrite: bool) -> str:
    if _place(target) in sources or (target.exists() and target.samefile(source)):
        return "the output would replace an input; choose another --output"
    if first != source:
        return f"{target} is the output of {first} too; restore one of the two elsewhere"
    if target.is_dir():
        return f"{target} is a folder; choose another --output"
    if not overwrite and os.path.lexists(target):
        return f"{target} exists; give --overwrite to replace it"
    return ""


def _expanded(given: str, output: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each image of one input with its path below the output folder."""
    path = Path(given)
    if path.is_dir():
        pairs = [(path / name, Path(name)) for name in image_files(path) if not _inside(path / name, path, output)]
    elif path.exists():
        pairs = [(path, Path(path.name))]
    elif glob.has_magic(given):
        base = _fixed_part(path)
        files = (Path(name) for name in sorted(glob.glob(given, recursive=True)))
        pairs = [(file, file.relative_to(base)) for file in files if _is_image(file)]
        pairs = [(file, below) for file, below in pairs if not _inside(file, base, output)]
    else:
        raise DataError("an image, a folder or a pattern", "nothing", given, "check the path")
    if not pairs:
        raise DataError(f"images ({', '.join(IMAGE_SUFFIXES)})", "none", given, "check the path")
    yield from pairs


def _inside(file: Path, base: Path, output: Path) -> bool:
    """Whether a file lies in the output folder and that in the input: a result of an earlier call."""
    here = output.resolve()
    return here != base.resolve() and here.is_relative_to(base.resolve()) and file.resolve().is_relative_to(here)


def _fixed_part(pattern: Path) -> Path:
    """Return the parents of a pattern up to the first wildcard."""
    return next(parent for parent in pattern.parents if not glob.has_magic(str(parent)))


def _is_image(file: Path) -> bool:
    return file.is_file() and file.name.lower().endswith(IMAGE_SUFFIXES)


def _place(path: Path) -> Path:
    """Where a file's name lies, whether or not it is a link."""
    return path.parent.resolve() / path.name
