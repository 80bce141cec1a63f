"""Missing pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from tavit_flwr.degrade.contract import Degrade
from tavit_flwr.errors import ConfigError

_FILL = 0.5
"""Mid-grey: zero on the model's scale of [-1, 1]."""


def missing_pixels(*, missing: float = 0.5) -> Degrade:
    """Lose each pixel with a given probability, in all channels at once; a lost pixel is mid-grey (ours).

    The mask is not told to the model: restoration is blind.

    Parameters
    ----------
    missing : float
        Share of the pixels that is lost, on average.

    Raises
    ------
    ConfigError
        `missing` is not a share from 0 to 1.
    """
    if not 0 <= missing <= 1:
        raise ConfigError("a share from 0 to 1", f"{missing}", "option 'missing' of 'missing_pixels'")

    def one(clean_CHW: Tensor, generator: torch.Generator, variant: int) -> Tensor:
        lost_HW = torch.rand(clean_CHW.shape[-2:], generator=generator) < missing
        return clean_CHW.masked_fill(lost_HW, _FILL)

    return Degrade("missing_pixels", one)
