"""Reflection at the border of an image, for margins of any size."""

from __future__ import annotations

import torch
from torch import Tensor


def reflected(start: int, stop: int, size: int) -> Tensor:
    """Give the pixel to read for each position from `start` to `stop` along an axis of `size` pixels.

    Positions outside are mirrored at the border without repeating the border pixel, as often as it takes; unlike
    torch's reflection padding this has no upper limit.

    Returns
    -------
    Tensor
        [stop - start], int64, each in ``[0, size)``.
    """
    period = max(2 * (size - 1), 1)
    position = torch.arange(start, stop) % period
    return torch.where(position < size, position, period - position)


def reflect_window(image_CHW: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Cut a window that may reach over the border, where the image is mirrored.

    Returns
    -------
    Tensor
        [C, height, width], a copy with the image's dtype.
    """
    rows = reflected(top, top + height, image_CHW.shape[-2])
    columns = reflected(left, left + width, image_CHW.shape[-1])
    return image_CHW[:, rows[:, None], columns]
