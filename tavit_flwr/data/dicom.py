"""Pairs of CT slices at low and full dose, as DICOM files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tavit_flwr.data.folders import check_holds_crop, image_files
from tavit_flwr.data.images import LazyImages, Sample
from tavit_flwr.data.matching import match_pairs
from tavit_flwr.data.pairs import check_equal
from tavit_flwr.errors import DataError

DICOM_SUFFIXES = (".dcm", ".ima")

DOSE_FOLDERS = (("low_dose", "full_dose"),)

SOFT_TISSUE_HU = (-160.0, 240.0)
"""The window in which work on low-dose CT is usually scored: centre 40, width 400."""

_SAME_PLACE_MM = 0.01


def dicom_pairs(folder: Path, *, crop: int, window_hu: tuple[float, float]) -> LazyImages:
    """Give the pairs of a folder that holds ``low_dose`` and ``full_dose``, per patient or with patients inside.

    Hounsfield units are cut to the window and scaled to [0, 1] as float32, so that a wide window costs no precision.
    The one channel becomes three equal ones.

    Parameters
    ----------
    folder : Path
        The folder that holds both.
    crop : int
        Side of the crops in pixels; no slice may be smaller.
    window_hu : tuple of float
        Lowest and highest value of the window, Hounsfield units.

    Raises
    ------
    DataError
        pydicom is not installed; the folder is missing; a slice has no partner. On `check` and on loading: a slice lies
        elsewhere in the body than its partner; a file is no single grey CT slice, cannot be decoded or is too small.
    """
    pydicom = _pydicom()
    files = image_files(folder, DICOM_SUFFIXES)
    if not files:
        raise DataError(
            f"DICOM files ({', '.join(DICOM_SUFFIXES)})", "none", f"folder {folder}", "see docs/datasets.md"
        )
    pairs = match_pairs(files, DOSE_FOLDERS, folder)

    def read(name: str) -> Sample:
        low, full = (_read(pydicom, folder / file, file, pixels=True) for file in pairs[name])
        _check_pair(low, full, pairs[name], crop)
        degraded, clean = (
            _windowed(_hounsfield(pydicom, slice_, file), window_hu)
            for slice_, file in zip((low, full), pairs[name], strict=True)
        )
        return Sample(name, clean, degraded)

    def check(name: str) -> None:
        low, full = (_read(pydicom, folder / file, file, pixels=False) for file in pairs[name])
        _check_pair(low, full, pairs[name], crop)

    return LazyImages(sorted(pairs), read, check)


def _pydicom() -> Any:  # noqa: ANN401 - lazily imported
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise DataError(
            "the package pydicom",
            "none",
            "data.source=dicom",
            "install it with the extra: pip install 'tavit-flwr[dicom]'",
        ) from error
    return pydicom


def _read(pydicom: Any, path: Path, where: str, *, pixels: bool) -> Any:  # noqa: ANN401 - pydicom's dataset
    try:
        slice_ = pydicom.dcmread(path, stop_before_pixels=not pixels)
        frames, photometric = int(slice_.get("NumberOfFrames") or 1), slice_.get("PhotometricInterpretation")
        size = int(slice_.Rows), int(slice_.Columns)
    except (OSError, AttributeError, TypeError, ValueError, pydicom.errors.InvalidDicomError) as error:
        reason = f"{type(error).__name__}: {str(error).replace(str(path), path.name)}"
        raise DataError("a DICOM image", reason, where, "repair or remove this file") from error
    if slice_.get("Modality") != "CT" or frames != 1 or photometric != "MONOCHROME2":
        received = f"modality {slice_.get('Modality')}, {frames} frames, {photometric}, {size[1]}x{size[0]} pixels"
        raise DataError("a CT slice of one frame, MONOCHROME2", received, where, "remove this file")
    return slice_


def _check_pair(low: Any, full: Any, files: tuple[str, str], crop: int) -> None:  # noqa: ANN401 - pydicom's dataset
    size = int(full.Rows), int(full.Columns)
    check_holds_crop(size, crop, files[1])
    check_equal((int(low.Rows), int(low.Columns)), size, files)
    here, there = ([float(value) for value in slice_.get("ImagePositionPatient") or ()] for slice_ in (low, full))
    if here and there and max(abs(a - b) for a, b in zip(here, there, strict=False)) > _SAME_PLACE_MM:
        raise DataError(
            "two slices of one place in the body",
            f"positions {here} and {there} mm",
            f"{files[0]} and {files[1]}",
            "give equal names to slices of equal position",
        )


def _hounsfield(pydicom: Any, slice_: Any, where: str) -> Tensor:  # noqa: ANN401 - pydicom's dataset
    """Pixel values as Hounsfield units, [H, W], float32."""
    if "RescaleSlope" not in slice_ or "RescaleIntercept" not in slice_:
        raise DataError("a slope and an intercept to Hounsfield units", "none", where, "remove this file")
    try:
        values_HW = pydicom.pixels.apply_rescale(slice_.pixel_array, slice_)
    except (AttributeError, ValueError, RuntimeError, NotImplementedError, ImportError) as error:
        raise DataError(
            "pixels that pydicom can decode",
            f"{type(error).__name__}: {error}",
            where,
            "compressed files need a decoder of pydicom's (pylibjpeg), or decompress them beforehand",
        ) from error
    return torch.from_numpy(np.asarray(values_HW, np.float32))


def _windowed(values_HW: Tensor, window_hu: tuple[float, float]) -> Tensor:
    low, high = window_hu
    return ((values_HW - low) / (high - low)).clamp_(0, 1).expand(3, -1, -1).contiguous()
