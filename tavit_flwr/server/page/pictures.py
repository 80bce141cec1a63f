"""Held-out images for the page, where they lie on this machine: images of clients elsewhere stay with them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

#: What a client's picture shows, from left to right.
PANELS = ("degraded", "restored", "clean")

#: Pictures of a page, but for one a task, and bytes of all of them, so that it stays well below 5 MB; ours.
MOST_PICTURES, MOST_BYTES = 12, 3_500_000

_GAP_PX = 4
_MOST_PX = 640


@dataclass(frozen=True)
class Picture:
    """One held-out image, three times.

    Attributes
    ----------
    name : str
        Which restoration, and which of its images.
    panels : dict
        ``degraded``, ``restored`` and ``clean`` as data addresses.
    width, height : int
        Of each, pixels.
    """

    name: str
    panels: dict[str, str]
    width: int
    height: int


def read_pictures(files: Sequence[Path], most_bytes: int = MOST_BYTES) -> list[Picture]:
    """Cut clients' pictures ``<task>-<number>.png`` into panels, made smaller until all fit; some 0.1 s a picture.

    Parameters
    ----------
    files : sequence of Path
        Of pictures of one name, which clients of one task may have, the first is taken; of a task's, the first few.
    most_bytes : int
        Of all panels together; each picture gets its share.
    """
    tasks: dict[str, list[Path]] = {}
    for file in sorted({file.stem: file for file in reversed(files)}.values(), key=lambda file: file.stem):
        tasks.setdefault(file.stem.rpartition("-")[0], []).append(file)
    chosen = [file for own in tasks.values() for file in own[: max(1, MOST_PICTURES // len(tasks))]]
    return [_cut(file, most_bytes // len(chosen)) for file in chosen]


def _cut(file: Path, most_bytes: int) -> Picture:
    with Image.open(file) as image:
        whole = image.convert("RGB")
    wide = (whole.width - _GAP_PX * (len(PANELS) - 1)) // len(PANELS)
    lefts = [number * (wide + _GAP_PX) for number in range(len(PANELS))]
    cut = [whole.crop((left, 0, left + wide, whole.height)) for left in lefts]
    side = _MOST_PX
    while True:
        for panel in cut:
            panel.thumbnail((side, side))
        encoded = [_address(panel) for panel in cut]
        size = sum(map(len, encoded))
        if size <= most_bytes or side < 32:
            name = " ".join(file.stem.rsplit("-", 1))
            return Picture(name, dict(zip(PANELS, encoded, strict=True)), *cut[0].size)
        side = int(max(cut[0].size) * 0.95 * (most_bytes / size) ** 0.5)


def _address(panel: Image.Image) -> str:
    stream = io.BytesIO()
    panel.save(stream, "WEBP", quality=85, method=2)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
