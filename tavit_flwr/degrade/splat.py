"""Points at fractional positions put onto a pixel grid."""

from __future__ import annotations

import torch
from torch import Tensor


def splat(y: Tensor, x: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    """Add each point's weight to the four pixels around it, bilinearly; what falls outside is dropped.

    The sum runs in a fixed order, so equal points give equal bits.

    Parameters
    ----------
    y, x, weight : Tensor
        Of one shape, float64; positions in pixels, with integers at pixel centres.
    height, width : int
        The grid.

    Returns
    -------
    Tensor
        [height, width], float32.
    """
    y, x, weight = y.flatten(), x.flatten(), weight.flatten()
    top, left = y.floor(), x.floor()
    total = torch.zeros(height * width, dtype=torch.float64)
    for row, row_share in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_share in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixel = (row * width + column)[inside].long()
            total += torch.bincount(pixel, (weight * row_share * column_share)[inside], minlength=height * width)
    return total.view(height, width).float()
