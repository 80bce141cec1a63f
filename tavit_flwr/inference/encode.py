"""Pictures to PNG and TIFF files of 8 and 16 bits a channel: Pillow writes no 16-bit colours."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from tavit_flwr.files import write_whole
from tavit_flwr.inference.picture import Picture, Pixels

TIFF_SUFFIXES = (".tif", ".tiff")

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels to PNG's grey, grey and alpha, RGB, RGBA
_UP = 2  # PNG's filter "each row less the row above": compresses photographs well and needs no loop
_ROWS = 256  # encoded at once


def write_picture(path: Path, picture: Picture) -> None:
    """Write a PNG or, where the name says so, a TIFF file; whole or not at all.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written; the file of before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_tiff if path.suffix.lower() in TIFF_SUFFIXES else _write_png
    write_whole(path, lambda beside: write(beside, picture))


def _write_tiff(path: Path, picture: Picture) -> None:
    height, width = picture.size
    grey, channels = picture.colour_HWC.shape[2] == 1, _channels(picture)
    strips = (np.ascontiguousarray(_rows(picture, top, top + _ROWS)) for top in range(0, height, _ROWS))
    tifffile.imwrite(
        path,
        (zlib.compress(strip.tobytes()) for strip in strips),
        shape=(height, width, channels) if channels > 1 else (height, width),
        dtype=picture.colour_HWC.dtype,
        photometric="minisblack" if grey else "rgb",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=None if picture.alpha_HW is None else ["unassalpha"],
        compression="zlib",
        rowsperstrip=_ROWS,
        iccprofile=picture.profile,
        metadata=None,
    )


def _write_png(path: Path, picture: Picture) -> None:
    height, width = picture.size
    colour_type = _COLOUR_TYPES[_channels(picture)]
    header = struct.pack(">IIBBBBB", width, height, 8 * picture.colour_HWC.itemsize, colour_type, 0, 0, 0)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header))
        if picture.profile:
            file.write(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.profile)))
        compressor = zlib.compressobj()
        for block in _filtered(picture):
            file.write(_chunk(b"IDAT", compressor.compress(block)))
        file.write(_chunk(b"IDAT", compressor.flush()) + _chunk(b"IEND", b""))


def _filtered(picture: Picture) -> Iterator[bytes]:
    """Blocks of rows, each row with its filter's number before it."""
    above: Pixels | None = None
    for top in range(0, picture.size[0], _ROWS):
        values = _rows(picture, top, top + _ROWS)
        rows = np.ascontiguousarray(values.astype(values.dtype.newbyteorder(">"))).view(np.uint8)
        rows = rows.reshape(len(values), -1)
        before = np.concatenate([np.zeros_like(rows[:1]) if above is None else above, rows[:-1]])
        filters = np.full((len(rows), 1), _UP, np.uint8)
        yield np.concatenate([filters, rows - before], axis=1).tobytes()  # wraps modulo 256, as the format wants
        above = rows[-1:]


def _channels(picture: Picture) -> int:
    return int(picture.colour_HWC.shape[2]) + (picture.alpha_HW is not None)


def _rows(picture: Picture, top: int, bottom: int) -> Pixels:
    """Colours and alpha together, [N, W, 1 to 4]."""
    if picture.alpha_HW is None:
        return picture.colour_HWC[top:bottom]
    return np.concatenate([picture.colour_HWC[top:bottom], picture.alpha_HW[top:bottom, :, None]], axis=2)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
