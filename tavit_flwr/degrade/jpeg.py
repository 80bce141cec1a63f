"""JPEG at a quality drawn per image, through a real codec."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tavit_flwr.degrade.contract import Degrade
from tavit_flwr.errors import ConfigError

Subsampling = Literal["4:4:4", "4:2:0"]

_MARGIN_PX: dict[Subsampling, int] = {"4:4:4": 0, "4:2:0": 16}
"""8x8 blocks are independent; half-size chroma is interpolated over block borders. 16 keeps the block grid in place."""


def jpeg(*, qualities: Sequence[int] = (10, 50), subsampling: Subsampling = "4:4:4") -> Degrade:
    """Encode as JPEG and decode, with a block grid that starts at the image's upper left corner.

    Qualities are the paper's: drawn from {10, 50}. The paper quantises blockwise DCT coefficients without chroma
    subsampling; we choose a real codec (libjpeg through Pillow, which is bit-identical to torchvision's and works
    where torchvision's compiled part does not load) and 4:4:4.

    Parameters
    ----------
    qualities : sequence of int
        1 to 100; each image draws one. They are the variants ``q10``, ``q50``, ...
    subsampling : str
        ``4:4:4`` keeps chroma at full size, ``4:2:0`` halves it as cameras do.

    Raises
    ------
    ConfigError
        `qualities` is empty or has a value outside 1 to 100.
    """
    if not qualities or not all(1 <= quality <= 100 for quality in qualities):
        raise ConfigError("qualities from 1 to 100", f"{list(qualities)}", "option 'qualities' of 'jpeg'")

    def one(clean_CHW: Tensor, generator: torch.Generator, variant: int) -> Tensor:
        return _coded(clean_CHW, qualities[variant], subsampling)

    return Degrade("jpeg", one, _MARGIN_PX[subsampling], tuple(f"q{quality}" for quality in qualities))


def _coded(clean_CHW: Tensor, quality: int, subsampling: Subsampling) -> Tensor:
    bytes_HWC = (clean_CHW * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(bytes_HWC)).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    decoded_HWC = np.array(Image.open(buffer))
    return torch.from_numpy(decoded_HWC).permute(2, 0, 1).float() / 255
