"""Image files to uint8 RGB tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tavit_flwr.errors import DataError, TavitError

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_QUARTER_TURNS = (5, 6, 7, 8)
_EXIF_ORIENTATION = 0x0112


def read_image(path: Path, where: str, *, halve_jpeg: bool) -> Tensor:
    """Decode a file.

    EXIF orientation is applied; grey becomes RGB; alpha is dropped; 16 bits are scaled to 8.

    Parameters
    ----------
    path : Path
        The file.
    where : str
        How errors name it: the path below the user's folder.
    halve_jpeg : bool
        Average 2x2 pixels of a JPEG file, so that its own block artefacts do not pass for detail (ours).

    Returns
    -------
    Tensor
        [3, H, W], uint8.

    Raises
    ------
    DataError
        The file cannot be decoded, or holds floating-point or 32-bit values.
    """
    with _opened(path, where) as image:
        halve = halve_jpeg and _is_jpeg(image)
        upright = _eight_bit_rgb(ImageOps.exif_transpose(image), where)
        rgb_HWC = np.array(upright.reduce(2) if halve else upright)
    return torch.from_numpy(rgb_HWC).permute(2, 0, 1).contiguous()


def image_size(path: Path, where: str, *, halve_jpeg: bool) -> tuple[int, int]:
    """Read height and width, as `read_image` would return them, from the file's header alone.

    Raises
    ------
    DataError
        The header cannot be decoded.
    """
    with _opened(path, where) as image:
        width, height = image.size
        # Not image.getexif(): for PNG that decodes the whole image. TIFF's size is that of the turned image.
        if image.format != "TIFF" and Image.Image.getexif(image).get(_EXIF_ORIENTATION) in _QUARTER_TURNS:
            width, height = height, width
        if halve_jpeg and _is_jpeg(image):
            width, height = (width + 1) // 2, (height + 1) // 2
    return height, width


@contextmanager
def _opened(path: Path, where: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            image.filename = ""  # with a name Pillow maps plain TIFFs into memory, and garbles those that are turned
            yield image
    except (TavitError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever a damaged or hostile file leads them to
        reason = f"{type(error).__name__}: {str(error).replace(str(path), path.name)}"
        raise DataError("an image that can be decoded", reason, where, "repair or remove this file") from error


def _is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def _eight_bit_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        values_HW = np.asarray(image).astype(np.int64)
        if values_HW.min() < 0 or values_HW.max() > 65535:
            raise DataError("8 or 16 bits a channel", "32-bit values", where, "convert this file to 16 or 8 bits")
        image = Image.fromarray(((values_HW + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise DataError("8 or 16 bits a channel", "floating-point values", where, "convert this file to 8 bits")
    return image.convert("RGB")
