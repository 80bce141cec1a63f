"""Rain streaks, seeded, blended over the image like light over a screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tavit_flwr.degrade.contract import Degrade, draw_between
from tavit_flwr.degrade.options import unknown_name
from tavit_flwr.degrade.splat import splat
from tavit_flwr.errors import ConfigError


@dataclass(frozen=True)
class StreakLayer:
    """Streaks of one distance from the camera: near ones are longer, wider and brighter.

    Attributes
    ----------
    density : float
        Streaks per pixel.
    length_px, brightness : tuple of float
        Each streak draws from this range.
    width_px : int
        Parallel lines that make up a streak.
    """

    density: float
    length_px: tuple[float, float]
    width_px: int
    brightness: tuple[float, float]


MIXES: dict[str, tuple[StreakLayer, ...]] = {
    "light": (
        StreakLayer(0.0013, (12, 24), 2, (0.3, 0.7)),
        StreakLayer(0.0004, (20, 36), 3, (0.25, 0.55)),
    ),
    "heavy": (
        StreakLayer(0.0100, (10, 20), 2, (0.3, 0.7)),
        StreakLayer(0.0040, (16, 32), 2, (0.35, 0.8)),
        StreakLayer(0.0020, (28, 48), 3, (0.3, 0.7)),
    ),
}
"""Set so that inputs read about like the published ones (Rain100L 25.52 dB, Rain100H 12.13 dB).

Measured on 20 photographs of BSDS500: light 25 dB, heavy 13.5 dB.
"""

_SLANT_DEG = 30.0
_SPREAD_DEG = 4.0


def rain(*, mix: Sequence[str] = ("light", "heavy")) -> Degrade:
    """Lay seeded streaks ``s`` over an image ``x`` with the screen blend ``1 - (1 - x)(1 - s)``.

    Ours: the paper trains on published pairs (Rain1400, Rain1800, Rain800, Rain12), which a paired folder serves.
    An image draws a slant up to 30 degrees off the vertical; its streaks deviate a few degrees from that and draw
    their own place, length and brightness. Streaks that begin outside of the image reach in, and none depends on
    the image, so a crop needs no margin.

    Parameters
    ----------
    mix : sequence of str
        Out of `MIXES`; each image draws one. They are the variants.

    Raises
    ------
    ConfigError
        `mix` is empty or has an unknown name.
    """
    if not mix:
        raise ConfigError(f"at least one of {', '.join(MIXES)}", "none", "option 'mix' of 'rain'")
    for name in mix:
        if name not in MIXES:
            raise unknown_name("a mix of 'rain'", name, list(MIXES))

    def one(clean_CHW: Tensor, generator: torch.Generator, variant: int) -> Tensor:
        height, width = clean_CHW.shape[-2:]
        slant_deg = float(draw_between(generator, -_SLANT_DEG, _SLANT_DEG))
        clear_HW = torch.ones(height, width)
        for layer in MIXES[mix[variant]]:
            clear_HW *= 1 - _streaks(layer, slant_deg, height, width, generator)
        return (1 - (1 - clean_CHW) * clear_HW).clamp_(0, 1)

    return Degrade("rain", one, variants=tuple(mix))


def _streaks(layer: StreakLayer, slant_deg: float, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw one layer's streaks: [height, width], opacity in [0, 1]."""
    reach = layer.length_px[1] / 2 + layer.width_px
    count = max(1, round(layer.density * (height + 2 * reach) * (width + 2 * reach)))
    y_N = draw_between(generator, -reach, height + reach, count)
    x_N = draw_between(generator, -reach, width + reach, count)
    length_N = draw_between(generator, *layer.length_px, count)
    brightness_N = draw_between(generator, *layer.brightness, count)
    angle_N = torch.deg2rad(slant_deg + draw_between(generator, -_SPREAD_DEG, _SPREAD_DEG, count))

    steps = math.ceil(layer.length_px[1])
    along_NS = torch.linspace(-0.5, 0.5, steps, dtype=torch.float64) * length_N[:, None]
    across_W = torch.arange(layer.width_px, dtype=torch.float64) - (layer.width_px - 1) / 2
    sine, cosine = torch.sin(angle_N)[:, None, None], torch.cos(angle_N)[:, None, None]
    y_NSW = y_N[:, None, None] + along_NS[:, :, None] * cosine - across_W * sine
    x_NSW = x_N[:, None, None] + along_NS[:, :, None] * sine + across_W * cosine

    taper_NS = 1 - (2 * along_NS / length_N[:, None]) ** 2
    per_step_N = brightness_N * length_N / steps
    opacity_NSW = (taper_NS * per_step_N[:, None])[:, :, None].expand_as(y_NSW)
    return splat(y_NSW, x_NSW, opacity_NSW, height, width).clamp_(0, 1)
