"""Gaussian noise, clipped."""

from __future__ import annotations

import torch
from torch import Tensor

from tavit_flwr.degrade.contract import Degrade
from tavit_flwr.errors import ConfigError


def noise(*, sigma_255: float = 30.0) -> Degrade:
    """Add white Gaussian noise, then clip to [0, 1] (the paper's: sigma 30, clipped; its inputs read 19.03 dB).

    Parameters
    ----------
    sigma_255 : float
        Standard deviation on the scale 0-255.

    Raises
    ------
    ConfigError
        `sigma_255` is negative.
    """
    if not sigma_255 >= 0:
        raise ConfigError("a standard deviation of at least 0", f"{sigma_255}", "option 'sigma_255' of 'noise'")

    def one(clean_CHW: Tensor, generator: torch.Generator, variant: int) -> Tensor:
        gaussian_CHW = torch.randn(clean_CHW.shape, generator=generator)
        return (clean_CHW + gaussian_CHW * (sigma_255 / 255)).clamp_(0, 1)

    return Degrade("noise", one)
