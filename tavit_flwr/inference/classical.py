"""Classical denoisers to compare with, out of libraries, told the noise's standard deviation.

Settings are ours, chosen on training photographs of BSDS500 (see docs/restoring.md), never on a test set.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tavit_flwr.errors import ConfigError, DataError

Pixels = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Method:
    """A denoiser.

    Attributes
    ----------
    settings : str
        What a report says of it.
    denoise : callable
        ``(degraded_HWC, sigma) -> restored_HWC``; RGB in [0, 1], `sigma` on the same scale.
    needs : str
        The package it needs beyond the installed ones, empty if none.
    """

    settings: str
    denoise: Callable[[Pixels, float], Pixels]
    needs: str = ""


def _wavelet(degraded_HWC: Pixels, sigma: float) -> Pixels:
    from pywt import dwtn_max_level
    from skimage.restoration import cycle_spin, denoise_wavelet

    settings = {
        "sigma": sigma, "wavelet": "db2", "mode": "soft", "method": "BayesShrink", "convert2ycbcr": True,
        "wavelet_levels": min(5, dwtn_max_level(degraded_HWC.shape[:2], "db2")), "rescale_sigma": True,
        "channel_axis": -1,
    }  # fmt: skip
    restored: Pixels = cycle_spin(
        degraded_HWC, denoise_wavelet, max_shifts=3, func_kw=settings, channel_axis=-1, workers=1
    )
    return restored


def _nlm(degraded_HWC: Pixels, sigma: float) -> Pixels:
    from skimage.restoration import denoise_nl_means

    restored: Pixels = denoise_nl_means(
        degraded_HWC, patch_size=5, patch_distance=6, h=0.5 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1
    )
    return restored


def _tv(degraded_HWC: Pixels, sigma: float) -> Pixels:
    from skimage.restoration import denoise_tv_chambolle

    total_variation: Any = denoise_tv_chambolle  # untyped in scikit-image
    restored: Pixels = total_variation(degraded_HWC, weight=0.8 * sigma, eps=1e-5, max_num_iter=500, channel_axis=-1)
    return restored


def _bm3d(degraded_HWC: Pixels, sigma: float) -> Pixels:
    from bm3d import bm3d_rgb

    restored: Pixels = bm3d_rgb(degraded_HWC, sigma_psd=sigma)
    return restored


METHODS: dict[str, Method] = {
    "wavelet": Method(
        "scikit-image denoise_wavelet, db2, BayesShrink, soft, 5 levels, YCbCr, mean of 16 shifts", _wavelet
    ),
    "nlm": Method("scikit-image denoise_nl_means, patch 5, distance 6, h 0.5 sigma", _nlm),
    "tv": Method("scikit-image denoise_tv_chambolle, weight 0.8 sigma, 500 steps at most", _tv),
    "bm3d": Method("bm3d package, bm3d_rgb, both stages", _bm3d, needs="bm3d"),
}


def check_methods(names: Sequence[str], sigma_255: float | None) -> None:
    """Raise `ConfigError` for an unknown name, one whose package is not installed, or noise that cannot be."""
    if sigma_255 is not None and not 0 <= sigma_255 < math.inf:
        raise ConfigError("a standard deviation from 0 on", str(sigma_255), "--sigma-255")
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"methods out of {', '.join(METHODS)}", repr(name), "--against")
        needs = METHODS[name].needs
        if needs and importlib.util.find_spec(needs) is None:
            raise ConfigError(
                f"the package '{needs}'", "none installed", f"--against {name}",
                f"install tavit-flwr[{needs}] (its licence allows non-commercial use only), or leave '{name}' out",
            )  # fmt: skip


def denoise(name: str, degraded_CHW: Tensor, sigma: float) -> Tensor:
    """Denoise [3, H, W] in [0, 1], float32; the result is clipped to that range. Without noise it is the input.

    Raises
    ------
    DataError
        If the noise is not a finite number.
    """
    if not 0 <= sigma < math.inf:
        raise DataError("a finite standard deviation of the noise", str(sigma), name, "give --sigma-255")
    if sigma == 0:
        return degraded_CHW
    degraded_HWC: Any = degraded_CHW.permute(1, 2, 0).double().contiguous().numpy()
    restored_HWC = np.clip(METHODS[name].denoise(degraded_HWC, sigma), 0.0, 1.0)
    return torch.from_numpy(np.ascontiguousarray(restored_HWC, dtype=np.float32)).permute(2, 0, 1)


def estimated_sigma(degraded_CHW: Tensor) -> float:
    """Estimate the standard deviation of an image's noise, mean over channels, on the image's scale.

    NaN for an image without any detail.
    """
    from skimage.restoration import estimate_sigma

    estimate: Any = estimate_sigma  # untyped in scikit-image
    return float(estimate(degraded_CHW.permute(1, 2, 0).numpy(), average_sigmas=True, channel_axis=-1))
