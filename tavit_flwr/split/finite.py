"""Is every value finite? Asked of each tensor that crosses and each gradient that steps a body, so it must be quick."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

#: Elements that torch adds up on one thread: helpers would spin after so little work, and take cores from who computes.
#: Setting the number of threads instead would clear torch's cache of convolutions at every frame.
PIECE = 32767


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor of floats holds neither NaN nor infinity.

    A sum that is finite has only finite terms, and takes a fortieth of the time of looking at each; only where finite
    values add up to infinity, each has to be looked at.
    """
    sums = torch.stack([piece.sum() for piece in torch.split(tensor.reshape(-1), PIECE)])
    return math.isfinite(float(sums.sum())) or bool(torch.isfinite(tensor).all())


def all_finite_together(tensors: Sequence[Tensor]) -> bool:
    """Whether many tensors hold neither NaN nor infinity, by their common norm.

    On the caller's threads, and with one value read from their device, which waits for it once.
    """
    return math.isfinite(float(get_total_norm(tensors))) or all(bool(torch.isfinite(one).all()) for one in tensors)
