"""Low resolution, interpolated back to full size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tavit_flwr.degrade.borders import reflect_window
from tavit_flwr.degrade.contract import Degrade
from tavit_flwr.errors import ConfigError

_REACH = 4
"""Of both kernels together, in pixels of the small image: the cubic kernel reaches two to each side, twice."""


def low_resolution(*, scale: int = 4) -> Degrade:
    """Reduce an image by an integer factor and enlarge it again, both bicubic (ours).

    The model then restores at full size, as in super-resolution of images that were enlarged beforehand. The kernel
    is the one with a = -0.5 that papers on super-resolution mean by bicubic, with antialiasing where it reduces. Sides
    that are no multiples of the factor are mirrored up to one. The small image is not rounded to 8 bits. Nothing is
    drawn.

    Parameters
    ----------
    scale : int
        2 to 16.

    Raises
    ------
    ConfigError
        `scale` is out of range.
    """
    if not 2 <= scale <= 16:
        raise ConfigError("a factor from 2 to 16", f"{scale}", "option 'scale' of 'low_resolution'")

    def one(clean_CHW: Tensor, generator: torch.Generator, variant: int) -> Tensor:
        height, width = clean_CHW.shape[-2:]
        full = -(-height // scale) * scale, -(-width // scale) * scale
        padded_BCHW = reflect_window(clean_CHW, 0, 0, *full)[None]
        small_BCHW = _bicubic(padded_BCHW, (full[0] // scale, full[1] // scale)).clamp_(0, 1)
        return _bicubic(small_BCHW, full)[0, :, :height, :width].clamp(0, 1)

    return Degrade("low_resolution", one, margin_px=_REACH * scale)


def _bicubic(images_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images_BCHW, size, mode="bicubic", align_corners=False, antialias=True)
