"""Which degraded file belongs to which clean one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tavit_flwr.errors import DataError

_COPY = re.compile(r"_\d+$")


def match_pairs(files: Sequence[str], sides: Sequence[tuple[str, str]], folder: Path) -> dict[str, tuple[str, str]]:
    """Match the files of two folders by name.

    The two folders may lie directly in `folder` (``blur/a.png``, ``sharp/a.png``) or deeper, once per scene
    (``scene1/blur/a.png``, ``scene1/sharp/a.png``). The rest of the path is equal, but for three things that published
    data sets do: the suffix; the side's own name before the stem (``rain/rain-001.png``, ``norain/norain-001.png``);
    and a number after the stem of the degraded file where one clean image has several (``rain/901_14.jpg``,
    ``norain/901.jpg``).

    Parameters
    ----------
    files : sequence of str
        POSIX paths below the folder.
    sides : sequence of (str, str)
        Accepted pairs of folder names, degraded first; exactly one of them must hold files on both sides.
    folder : Path
        For errors.

    Returns
    -------
    dict
        Name of each pair to its two files, degraded first.

    Raises
    ------
    DataError
        None or several of `sides` hold files; a file has no partner; two files have one name.
    """
    found = []
    for degraded_side, clean_side in sides:
        degraded, clean = _by_stem(files, degraded_side), _by_stem(files, clean_side)
        if degraded and clean:
            found.append((degraded, clean))
    if len(found) != 1:
        known = ", ".join(f"{degraded}/ + {clean}/" for degraded, clean in sides)
        received = "several" if found else "none with images in both"
        raise DataError(f"one of {known}", received, f"folder {folder}", "keep the images of one pair of folders there")
    degraded, clean = found[0]
    partners = {name: _partner(name, clean) for name in degraded}
    _check_partners(degraded, clean, partners)
    return {name: (degraded[name], clean[partner]) for name, partner in partners.items() if partner is not None}


def _by_stem(files: Sequence[str], side: str) -> dict[str, str]:
    """Map path without `side` and suffix to file, for the files below a folder of that name."""
    found: dict[str, str] = {}
    for file in files:
        *parents, last = file.split("/")
        if side not in parents:
            continue
        parents.remove(side)
        stem = last.rpartition(".")[0].removeprefix(f"{side}-").removeprefix(f"{side}_")
        name = "/".join([*parents, stem])
        if name in found:
            raise DataError(
                "one image of each name", f"{found[name]} and {file}", f"folder {side}", "remove one of the two"
            )
        found[name] = file
    return found


def _partner(name: str, clean: Mapping[str, str]) -> str | None:
    for candidate in (name, _COPY.sub("", name)):
        if candidate in clean:
            return candidate
    return None


def _check_partners(degraded: Mapping[str, str], clean: Mapping[str, str], partners: Mapping[str, str | None]) -> None:
    used = set(partners.values())
    alone = sorted(
        [degraded[name] for name, partner in partners.items() if partner is None]
        + [file for name, file in clean.items() if name not in used]
    )
    if alone:
        shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        raise DataError(
            "a partner with the same stem for each image",
            f"{len(alone)} without: {shown}",
            hint="add the partners or remove these files",
        )
