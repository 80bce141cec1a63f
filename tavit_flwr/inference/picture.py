"""A decoded image with all its bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """An image, upright.

    Attributes
    ----------
    colour_HWC : ndarray
        Uint8 or uint16; one channel (grey) or three (RGB).
    alpha_HW : ndarray or None
        Of the same type.
    profile : bytes or None
        ICC profile of the colours.
    """

    colour_HWC: Pixels
    alpha_HW: Pixels | None = None
    profile: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.colour_HWC.shape[0], self.colour_HWC.shape[1]

    @property
    def most(self) -> int:
        """The value of full brightness: 255 or 65535."""
        return int(np.iinfo(self.colour_HWC.dtype).max)

    def unit_rows(self, rows: Tensor) -> Tensor:
        """Rows in [0, 1]: [3, N, W], float32; grey as three equal channels."""
        values_NWC = torch.from_numpy(self.colour_HWC[rows.numpy()].astype(np.float32))
        return (values_NWC.permute(2, 0, 1) / self.most).expand(3, -1, -1).contiguous()

    def model_rows(self, rows: Tensor) -> Tensor:
        """Rows as the model takes them: as `unit_rows`, but in [-1, 1]."""
        return self.unit_rows(rows) * 2 - 1

    def to_unit(self) -> Tensor:
        """The whole image in [0, 1], [3, H, W]."""
        return self.unit_rows(torch.arange(self.size[0]))

    def blank(self) -> Picture:
        """Make a picture of the same size and type whose colours are still to be set by `set_rows`."""
        return Picture(np.empty_like(self.colour_HWC), self.alpha_HW, self.profile)

    def set_rows(self, top: int, restored_CNW: Tensor) -> None:
        """Set rows from `top` on to [3, N, W] in [-1, 1], rounded to the picture's bits; where it is grey, the mean."""
        grey = self.colour_HWC.shape[2] == 1
        channels = restored_CNW.mean(0, keepdim=True) if grey else restored_CNW
        values = ((channels.float().clamp(-1, 1) + 1) * (self.most / 2)).round().permute(1, 2, 0)
        self.colour_HWC[top : top + values.shape[0]] = values.numpy().astype(self.colour_HWC.dtype)
