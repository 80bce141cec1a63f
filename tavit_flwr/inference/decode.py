"""Image files to pictures with all their bits: 8 or 16 a channel, grey or colour, alpha and colour profile kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tavit_flwr.errors import DataError, TavitError
from tavit_flwr.inference.picture import Picture, Pixels
from tavit_flwr.inference.tiff import read_odd_tiff

#: Largest image, pixels (ours): a guard against files that claim more than any memory holds.
MOST_PIXELS = 2**30

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_ONE_GREY_CHANNEL = ("I;16", "I;16L", "I;16B", "I;16N", "I")
#: The same bytes read in the other order: Pillow keeps the first byte of 16 only, so this gives it the second.
_OTHER_ORDER = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if np.little_endian else ";16L"}
_ROWS = 256  # copied at once, so that no second copy of the image is made


def read_picture(path: Path) -> Picture:
    """Decode a PNG, JPEG, TIFF, BMP or WebP file; EXIF orientation is applied.

    Raises
    ------
    DataError
        If it is missing, cannot be decoded, has several frames, or is neither 8 nor 16 bits a channel.
    """
    try:
        odd = read_odd_tiff(path, MOST_PIXELS)
        if odd is not None:
            return odd
        with _opened(path) as image:
            frames = int(getattr(image, "n_frames", 1))
            if frames > 1 and image.format != "MPO":  # MPO: a photograph and its previews
                raise DataError("one image a file", f"{frames} frames or pages", str(path), "split this file")
            profile = image.info.get("icc_profile") if image.mode != "CMYK" else None
            if _raw_mode(image).endswith((";16B", ";16L", ";16N")) and image.mode in ("RGB", "RGBA"):
                colour, alpha = _sixteen_bit_colours(path, image)
            else:
                ImageOps.exif_transpose(image, in_place=True)
                colour, alpha = _plain(image, path)
    except (TavitError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever a damaged or hostile file leads them to
        reason = f"{type(error).__name__}: {str(error).replace(str(path), path.name)}"
        raise DataError("an image that can be decoded", reason, str(path)) from error
    return Picture(colour, alpha, profile)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file with our limit of pixels in place of Pillow's, which refuses photographs of 180 megapixels."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(f"at most {MOST_PIXELS} pixels", f"{image.width}x{image.height}", str(path))
            image.filename = ""  # with a name Pillow maps plain TIFFs into memory, and garbles those that are turned
            yield image
            image.close()  # its pixels too, at once
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _plain(image: Image.Image, path: Path) -> tuple[Pixels, Pixels | None]:
    """Colours and alpha of anything but 16-bit colours."""
    if image.mode in _ONE_GREY_CHANNEL:
        values_HWC = _pixels(image)
        if values_HWC.dtype != np.uint16 and (values_HWC.min() < 0 or values_HWC.max() > 65535):
            raise DataError("8 or 16 bits a channel", "32-bit values", str(path), "convert this file to 16 or 8 bits")
        return _opaque(values_HWC.astype(np.uint16, copy=False), image)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise DataError("8 or 16 bits a channel", f"Pillow's mode {image.mode}", str(path), "convert this file to RGB")
    grey = image.mode in ("1", "L", "LA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        values_HWC = _pixels(image, "LA" if grey else "RGBA")
        return values_HWC[:, :, :-1], values_HWC[:, :, -1]
    return _pixels(image, "L" if grey else "RGB"), None


def _sixteen_bit_colours(path: Path, image: Image.Image) -> tuple[Pixels, Pixels | None]:
    """RGB, RGBA or grey with alpha at 16 bits: high bytes and low bytes decoded one after the other."""
    raw_mode = _raw_mode(image)
    if raw_mode.startswith("RGBa"):
        raise DataError("plain alpha", "colours multiplied by it at 16 bits", str(path), "save it without")
    if raw_mode == "LA;16B":  # four bytes a pixel, which Pillow can give as they are
        bytes_HWC = _decoded(path, "RGBA").astype(np.uint16)
        values_HWC = bytes_HWC[:, :, 0::2] * 256 + bytes_HWC[:, :, 1::2]
    else:
        low_mode = raw_mode[:-4] + _OTHER_ORDER[raw_mode[-4:]]
        values_HWC = _decoded(path, raw_mode).astype(np.uint16)
        values_HWC *= 256
        values_HWC += _decoded(path, low_mode)
    if values_HWC.shape[2] in (2, 4):
        return values_HWC[:, :, :-1], values_HWC[:, :, -1]
    return _opaque(values_HWC, image)


def _opaque(values_HWC: Pixels, image: Image.Image) -> tuple[Pixels, Pixels | None]:
    """16-bit colours and the alpha that a colour declared transparent (PNG's tRNS) makes."""
    clear = image.info.get("transparency")
    if clear is None:
        return values_HWC, None
    matches_HW = (values_HWC == np.asarray(clear)).all(axis=2)
    return values_HWC, np.where(matches_HW, 0, 65535).astype(np.uint16)


def _decoded(path: Path, raw_mode: str) -> Pixels:
    """Decode with another reading of the file's bytes, upright."""
    with _opened(path) as image:
        _set_raw_mode(image, raw_mode)
        ImageOps.exif_transpose(image, in_place=True)
        return _pixels(image)


def _pixels(image: Image.Image, mode: str = "") -> Pixels:
    """Copy an image's values, [H, W, C], some rows at a time."""

    def block(top: int) -> Pixels:
        rows = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        values = np.asarray(rows.convert(mode) if mode and mode != image.mode else rows)
        return values.reshape(*values.shape[:2], -1)

    image.load()
    first = block(0)
    result = np.empty((image.height, *first.shape[1:]), first.dtype)
    result[: len(first)] = first
    for top in range(_ROWS, image.height, _ROWS):
        result[top : top + _ROWS] = block(top)
    return result


def _tiles(image: Image.Image) -> list[Any]:
    """Pillow's plan of what to decode; each tile's arguments are a raw mode, or begin with one."""
    return list(getattr(image, "tile", []))


def _raw_mode(image: Image.Image) -> str:
    arguments = [tile[3] for tile in _tiles(image)[:1]]
    first = arguments[0] if arguments else ""
    return str(first[0] if isinstance(first, tuple) else first)


def _set_raw_mode(image: Image.Image, raw_mode: str) -> None:
    def changed(arguments: Any) -> Any:  # noqa: ANN401 - Pillow's
        return (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode

    image.tile = [tile._replace(args=changed(tile[3])) for tile in _tiles(image)]  # type: ignore[attr-defined]
