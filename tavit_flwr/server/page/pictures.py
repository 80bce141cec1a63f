"""Held-out images for the page, where they lie on this machine: images of clients elsewhere stay with them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

#: What a client's picture shows, from left to right.
PANELS = ("degraded", "restored", "clean")

_GAP_PX = 4
_MOST_PX = 640


@dataclass(frozen=True)
class Picture:
    """One held-out image, three times.

    Attributes
    ----------
    task : str
        Which restoration.
    panels : dict
        ``degraded``, ``restored`` and ``clean`` as data addresses.
    width, height : int
        Of each, pixels.
    """

    task: str
    panels: dict[str, str]
    width: int
    height: int


def read_pictures(files: Iterable[Path]) -> list[Picture]:
    """Cut clients' pictures ``<task>-<client>.png`` into panels, one picture a task, at most 640 pixels wide each."""
    found: dict[str, Picture] = {}
    for file in sorted(files):
        task = file.stem.rpartition("-")[0] or file.stem
        if task not in found:
            found[task] = _cut(file, task)
    return list(found.values())


def _cut(file: Path, task: str) -> Picture:
    with Image.open(file) as image:
        whole = image.convert("RGB")
    wide = (whole.width - _GAP_PX * (len(PANELS) - 1)) // len(PANELS)
    panels = {}
    size = (wide, whole.height)
    for number, name in enumerate(PANELS):
        left = number * (wide + _GAP_PX)
        panel = whole.crop((left, 0, left + wide, whole.height))
        panel.thumbnail((_MOST_PX, _MOST_PX))
        size = panel.size
        stream = io.BytesIO()
        panel.save(stream, "WEBP", quality=88)
        panels[name] = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
    return Picture(task, panels, *size)
