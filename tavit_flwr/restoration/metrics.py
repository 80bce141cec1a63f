"""PSNR and SSIM, on RGB as the paper reports them and on Y as deraining papers do."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity
from torch import Tensor

from tavit_flwr.errors import ConfigError, DataError

Channel = Literal["rgb", "y"]

#: PSNR of two equal images is infinite; in means and in JSON such an image counts as this.
MOST_DB = 100.0

_RANGE = 255.0
_SSIM_WINDOW = 11
_Y_OFFSET = 16.0  # BT.601 as in MATLAB's rgb2ycbcr
_Y_WEIGHTS = np.array([65.481, 128.553, 24.966]) / _RANGE


def psnr_db(restored: Tensor, clean: Tensor, channel: Channel = "rgb", rounding: bool = False) -> float:
    """Peak signal-to-noise ratio of one image.

    Parameters
    ----------
    restored, clean : Tensor
        [3, H, W] in [-1, 1]; values beyond are clamped.
    channel : {"rgb", "y"}, default "rgb"
        All three channels (paper), or luma by BT.601 as in MATLAB's ``rgb2ycbcr``.
    rounding : bool, default False
        Round RGB to 8 bits first. The paper does not.

    Returns
    -------
    float
        Decibel, for a data range of 255; infinity for equal images, NaN where an input is NaN.

    Raises
    ------
    DataError
        If the shapes differ or are not [3, H, W].
    ConfigError
        If the channel is unknown.
    """
    restored_255, clean_255 = _pair(restored, clean, channel, rounding)
    error = float(np.mean((restored_255 - clean_255) ** 2))
    return math.inf if error == 0.0 else 10.0 * math.log10(_RANGE**2 / error)


def capped_psnr_db(restored: Tensor, clean: Tensor, channel: Channel = "rgb", rounding: bool = False) -> float:
    """`psnr_db`, at most `MOST_DB`: a number that means and JSON can hold.

    Raises
    ------
    DataError
        As `psnr_db`, and where one of the images holds NaN.
    """
    value = psnr_db(restored, clean, channel, rounding)
    if math.isnan(value):
        raise DataError("two images without NaN", "NaN in one of them", "PSNR", "look for weights that diverged")
    return min(MOST_DB, value)


def ssim(restored: Tensor, clean: Tensor, channel: Channel = "rgb", rounding: bool = False) -> float:
    """Structural similarity of one image: Gaussian 11x11 window, sigma 1.5, population covariance (paper).

    Parameters
    ----------
    restored, clean : Tensor
        [3, H, W] in [-1, 1], no side below 11; values beyond are clamped.
    channel : {"rgb", "y"}, default "rgb"
        Mean over the three channels (paper), or luma as in `psnr_db`.
    rounding : bool, default False
        Round RGB to 8 bits first. The paper does not.

    Returns
    -------
    float
        At most 1.

    Raises
    ------
    DataError
        If the shapes differ, are not [3, H, W], or a side is below 11.
    ConfigError
        If the channel is unknown.
    """
    restored_255, clean_255 = _pair(restored, clean, channel, rounding)
    if min(clean_255.shape[:2]) < _SSIM_WINDOW:
        raise DataError(
            f"an image of at least {_SSIM_WINDOW}x{_SSIM_WINDOW} pixels",
            f"{clean_255.shape[0]}x{clean_255.shape[1]}",
            "ssim",
            "leave so small an image out, or report PSNR only",
        )
    similarity: Any = structural_similarity  # untyped in scikit-image
    value = similarity(
        clean_255,
        restored_255,
        data_range=_RANGE,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2,
    )
    return float(value)


def _pair(restored: Tensor, clean: Tensor, channel: Channel, rounding: bool) -> tuple[npt.NDArray[Any], ...]:
    """Both images as float64 [H, W, 3] (RGB) or [H, W, 1] (Y) on 0-255."""
    if channel not in ("rgb", "y"):
        raise ConfigError("channel: 'rgb' or 'y'", repr(channel))
    if restored.shape != clean.shape or clean.dim() != 3 or clean.shape[0] != 3 or min(clean.shape) == 0:
        raise DataError("two images [3, H, W] of one shape", f"{list(restored.shape)} and {list(clean.shape)}")
    return tuple(_to_255(image, channel, rounding) for image in (restored, clean))


def _to_255(image: Tensor, channel: Channel, rounding: bool) -> npt.NDArray[Any]:
    rgb = (image.detach().cpu().double().clamp(-1.0, 1.0).permute(1, 2, 0).numpy() + 1.0) * (_RANGE / 2)
    if rounding:
        rgb = np.round(rgb)
    return rgb if channel == "rgb" else (rgb @ _Y_WEIGHTS + _Y_OFFSET)[:, :, None]
