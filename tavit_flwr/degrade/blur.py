"""Motion blur along drawn, slightly curved paths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tavit_flwr.degrade.borders import reflect_window
from tavit_flwr.degrade.contract import Degrade, draw_between
from tavit_flwr.degrade.splat import splat
from tavit_flwr.errors import ConfigError

_POINTS_PER_PX = 4


def motion_blur(*, length_px: Sequence[float] = (5.0, 15.0), max_turn_deg: float = 60.0) -> Degrade:
    """Average an image along one camera path, the same for all pixels; borders are mirrored.

    Ours: the paper trains on GoPro pairs (25.64 dB at the input), which a paired folder serves. Each image draws the
    path's direction, its length, and by how much it turns from its start to its end.

    Parameters
    ----------
    length_px : sequence of two floats
        Shortest and longest path in pixels.
    max_turn_deg : float
        Largest turn to either side; 0 for straight paths.

    Raises
    ------
    ConfigError
        `length_px` is not an increasing pair of positive numbers up to 255, or `max_turn_deg` is outside 0 to 360.
    """
    if len(length_px) != 2 or not 0 < length_px[0] <= length_px[1] <= 255:
        raise ConfigError(
            "two lengths in pixels with 0 < shortest <= longest <= 255",
            f"{list(length_px)}",
            "option 'length_px' of 'motion_blur'",
        )
    if not 0 <= max_turn_deg <= 360:
        raise ConfigError("a turn from 0 to 360 degrees", f"{max_turn_deg}", "option 'max_turn_deg' of 'motion_blur'")
    shortest, longest = length_px
    radius_px = math.ceil(longest / 2)

    def one(clean_CHW: Tensor, generator: torch.Generator, variant: int) -> Tensor:
        length = float(draw_between(generator, shortest, longest))
        direction_deg = float(draw_between(generator, 0, 360))
        turn_deg = float(draw_between(generator, -max_turn_deg, max_turn_deg))
        return _blurred(clean_CHW, motion_kernel(length, direction_deg, turn_deg, radius_px))

    return Degrade("motion_blur", one, margin_px=radius_px)


def motion_kernel(length_px: float, direction_deg: float, turn_deg: float, radius_px: int) -> Tensor:
    """Draw a path of constant speed and curvature, centred on its mean so that the image does not shift.

    Returns
    -------
    Tensor
        [K, K] with ``K = 2 * radius_px + 1``, float32, sum 1. No point is further than half the length from the
        mean, so `radius_px` of at least that holds the whole path.
    """
    count = max(2, math.ceil(length_px * _POINTS_PER_PX))
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    heading = torch.deg2rad(direction_deg + turn_deg * (share - 0.5))
    y, x = torch.sin(heading).cumsum(0), torch.cos(heading).cumsum(0)
    y, x = (y - y.mean()) * (length_px / count), (x - x.mean()) * (length_px / count)
    side = 2 * radius_px + 1
    kernel_KK = splat(y + radius_px, x + radius_px, torch.ones_like(y), side, side)
    return kernel_KK / kernel_KK.sum()


def _blurred(clean_CHW: Tensor, kernel_KK: Tensor) -> Tensor:
    radius = kernel_KK.shape[0] // 2
    height, width = clean_CHW.shape[-2:]
    padded_CHW = reflect_window(clean_CHW, -radius, -radius, height + 2 * radius, width + 2 * radius)
    return F.conv2d(padded_CHW[:, None], kernel_KK[None, None])[:, 0].clamp_(0, 1)
