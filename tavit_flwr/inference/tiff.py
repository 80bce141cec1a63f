"""TIFF files of 16 bits that Pillow refuses or misreads: grey with alpha, separate planes, white as zero."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tavit_flwr.errors import DataError
from tavit_flwr.inference.picture import Picture, Pixels

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # PhotometricInterpretation
_SEPARATE = 2  # PlanarConfiguration
_PLAIN_ALPHA = 2  # ExtraSamples
_PROFILE = 34675
_COLUMNS_TURNED, _ROWS_TURNED, _SIDES_SWAPPED = (2, 3, 6, 7), (3, 4, 7, 8), (5, 6, 7, 8)  # Orientation

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong with a file is said once, as an error


def read_odd_tiff(path: Path, most_pixels: int) -> Picture | None:
    """Decode such a file, its orientation applied; None for any other file, which is Pillow's.

    Raises
    ------
    DataError
        If it is too large, has several pages, or its channels are neither grey nor RGB with plain alpha or none.
    """
    with path.open("rb") as file:
        if file.read(4) not in _SIGNATURES:
            return None
    try:
        tiff = tifffile.TiffFile(path)
    except Exception:  # whatever a damaged file makes it raise: Pillow says what is wrong
        return None
    with tiff:
        page: Any = tiff.pages[0]
        if not _odd(page):
            return None
        if page.imagelength * page.imagewidth > most_pixels:
            raise DataError(f"at most {most_pixels} pixels", f"{page.imagewidth}x{page.imagelength}", str(path))
        if len(tiff.pages) > 1:
            raise DataError("one image a file", f"{len(tiff.pages)} pages", str(path), "split this file")
        colours = 3 if page.photometric == _RGB else 1
        extra = tuple(int(one) for one in page.extrasamples)
        if (
            page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
            or page.dtype != np.uint16
            or extra not in ((), (_PLAIN_ALPHA,))
            or page.samplesperpixel != colours + len(extra)
        ):
            received = f"{page.photometric.name}, {page.samplesperpixel} channels of {page.dtype}, extra {extra}"
            raise DataError("grey or RGB, with plain alpha or none", received, str(path), "save it anew")
        return _picture(page)


def _odd(page: Any) -> bool:  # noqa: ANN401 - tifffile's page
    separate = page.planarconfig == _SEPARATE and page.samplesperpixel > 1
    grey_and_alpha = page.samplesperpixel == 2
    return bool(page.bitspersample == 16 and (separate or grey_and_alpha or page.photometric == _WHITE_IS_ZERO))


def _picture(page: Any) -> Picture:  # noqa: ANN401 - tifffile's page
    values: Pixels = page.asarray()
    if values.ndim == 2:
        values = values[:, :, None]
    elif page.planarconfig == _SEPARATE:
        values = np.moveaxis(values, 0, 2)
    orientation = int(page.tags.valueof(274, 1))
    if orientation in _SIDES_SWAPPED:
        values = values.swapaxes(0, 1)
    values = values[:: -1 if orientation in _ROWS_TURNED else 1, :: -1 if orientation in _COLUMNS_TURNED else 1]
    colour_HWC, alpha_HW = (values[:, :, :-1], values[:, :, -1]) if page.extrasamples else (values, None)
    if page.photometric == _WHITE_IS_ZERO:
        np.invert(colour_HWC, out=colour_HWC)
    return Picture(colour_HWC, alpha_HW, page.tags.valueof(_PROFILE))
