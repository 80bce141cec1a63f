"""What every degradation is: a callable on clean images, with the context and the variants it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tavit_flwr.errors import DataError

OneImage = Callable[[Tensor, torch.Generator, int], Tensor]


@dataclass(frozen=True)
class Degrade:
    """A degradation bound to its options.

    Attributes
    ----------
    name : str
        Its key in `DEGRADATIONS`.
    one : callable
        ``(clean_CHW, generator, variant) -> degraded_CHW``, both float32 in [0, 1].
    margin_px : int
        Context a crop needs on each side: crops are degraded with this margin, which is then cut away, so that the
        pixels at a crop's border are those of the degraded photograph.
    variants : tuple of str
        Names of the discrete settings of which each image draws one (JPEG qualities, rain mixes).
    """

    name: str
    one: OneImage
    margin_px: int = 0
    variants: tuple[str, ...] = ("",)

    def __call__(self, clean_BCHW: Tensor, generator: torch.Generator, variants: Sequence[int] | None = None) -> Tensor:
        """Degrade a batch.

        Parameters
        ----------
        clean_BCHW : Tensor
            Float32 in [0, 1], three channels.
        generator : torch.Generator
            The only source of randomness. It moves on by one draw per image, and image ``i`` depends on the draws
            before it alone, not on the batch size.
        variants : sequence of int, optional
            An index into `variants` for each image, in place of a drawn one.

        Returns
        -------
        Tensor
            [B, C, H, W], float32 in [0, 1].

        Raises
        ------
        DataError
            Wrong shape or dtype, or not one variant per image.
        """
        _check_images(clean_BCHW, self.name)
        if variants is not None and len(variants) != len(clean_BCHW):
            raise DataError(
                f"{len(clean_BCHW)} variants, one per image", f"{len(variants)}", f"degradation {self.name}"
            )
        degraded = []
        for index, clean_CHW in enumerate(clean_BCHW):
            own = torch.Generator().manual_seed(draw_integer(generator, 2**63 - 1))
            drawn = draw_integer(own, len(self.variants))
            degraded.append(self.one(clean_CHW, own, drawn if variants is None else variants[index]))
        return torch.stack(degraded)


Degradation = Callable[..., Degrade]
"""Makes a `Degrade` from keyword options."""


def draw_integer(generator: torch.Generator, below: int) -> int:
    """Draw an integer from ``[0, below)``."""
    return int(torch.randint(below, (1,), generator=generator))


def draw_between(generator: torch.Generator, low: float, high: float, count: int = 1) -> Tensor:
    """Draw `count` float64 numbers uniformly from ``[low, high)``."""
    return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)


def _check_images(clean_BCHW: Tensor, name: str) -> None:
    shape = tuple(clean_BCHW.shape)
    if clean_BCHW.ndim != 4 or shape[0] == 0 or shape[1] != 3:
        raise DataError("images of shape [B, 3, H, W] with B > 0", f"shape {list(shape)}", f"degradation {name}")
    if clean_BCHW.dtype != torch.float32:
        raise DataError("float32 images in [0, 1]", str(clean_BCHW.dtype), f"degradation {name}")
