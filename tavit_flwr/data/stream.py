"""Batches of (degraded, clean) crops, each a pure function of where in the run it is used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tavit_flwr.data.images import ImageSet, Sample, unit_range
from tavit_flwr.degrade import Degrade
from tavit_flwr.degrade.borders import reflect_window
from tavit_flwr.degrade.contract import draw_integer
from tavit_flwr.errors import ConfigError, DataError
from tavit_flwr.seeding import generator


@dataclass(frozen=True)
class Batch:
    """Crops for one step, float32 in [-1, 1]: [B, 3, P, P] each."""

    degraded_BCPP: Tensor
    clean_BCPP: Tensor


class BatchStream:
    """Seeded batches from a set of images; it has no state, so a resumed run needs none to go on.

    Photographs are drawn uniformly, then a crop position in the photograph. (Uniform over all positions of all
    photographs would need the size of each file, and large photographs would crowd out the small ones.) Crops are
    rotated by 0, 90, 180 or 270 degrees and flipped (the paper's), both images of a pair alike. Degradations made
    here come after that, so that rain always falls downwards and JPEG blocks start at the crop's corner.

    Parameters
    ----------
    images : ImageSet
        Images, or pairs, which are taken as they are.
    degrade : Degrade or None
        Makes the degraded crop of images that are not pairs.
    crop : int
        Side of the crops in pixels.
    batch_size : int
        Crops per batch.
    seed : int
        The run's seed.
    client : str
        The client's name in the run.

    Raises
    ------
    ConfigError
        `crop` or `batch_size` is less than 1.
    DataError
        There are no images.
    """

    def __init__(
        self, images: ImageSet, degrade: Degrade | None, *, crop: int, batch_size: int, seed: int, client: str
    ) -> None:
        for key, value in (("data.crop", crop), ("data.batch_size", batch_size)):
            if value < 1:
                raise ConfigError("at least 1", f"{value}", f"configuration key '{key}'")
        if len(images) == 0:
            raise DataError("at least one image to train on", "none", f"client {client}")
        self._images = images
        self._degrade = degrade
        self._crop = crop
        self._batch_size = batch_size
        self._seed = seed
        self._client = client

    def batch(self, cycle: int, phase: str, round_: int, step: int) -> Batch:
        """Make the batch of one step.

        The same arguments give the same bits in any process and order. Its first crops do not depend on the batch
        size.

        Raises
        ------
        DataError
            An image cannot be used, or is no pair although there is no degradation.
        """
        draw = generator(self._seed, "batch", self._client, cycle, phase, round_, step)
        crops = [self._one(draw) for _ in range(self._batch_size)]
        degraded_BCPP, clean_BCPP = (torch.stack(side) for side in zip(*crops, strict=True))
        return Batch(degraded_BCPP=degraded_BCPP * 2 - 1, clean_BCPP=clean_BCPP * 2 - 1)

    def _one(self, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw one (degraded, clean) crop, in [0, 1]."""
        sample = self._images.load(draw_integer(draw, len(self._images)))
        if sample.degraded_CHW is not None:
            both = torch.cat([sample.degraded_CHW, sample.clean_CHW])
            degraded_CPP, clean_CPP = self._augmented_crop(both, sample, 0, draw).chunk(2)
            return degraded_CPP, clean_CPP
        if self._degrade is None:
            raise DataError(
                "a pair, as the task has no degradation", "one image", sample.name, "use data.source=paired"
            )
        margin = self._degrade.margin_px
        clean_CHW = self._augmented_crop(sample.clean_CHW, sample, margin, draw)
        degraded_CHW = self._degrade(clean_CHW[None], draw)[0]
        inner = slice(margin, margin + self._crop)
        return degraded_CHW[:, inner, inner], clean_CHW[:, inner, inner]

    def _augmented_crop(self, image_CHW: Tensor, sample: Sample, margin: int, draw: torch.Generator) -> Tensor:
        """Cut a crop with a margin (mirrored where the photograph ends), rotate and flip it: float32 in [0, 1]."""
        height, width = image_CHW.shape[-2:]
        if min(height, width) < self._crop:
            raise DataError(
                f"images of at least {self._crop}x{self._crop} pixels",
                f"{width}x{height}",
                sample.name,
                "remove this image or lower data.crop",
            )
        top = draw_integer(draw, height - self._crop + 1)
        left = draw_integer(draw, width - self._crop + 1)
        side = self._crop + 2 * margin
        window_CHW = reflect_window(image_CHW, top - margin, left - margin, side, side)
        turned_CHW = torch.rot90(window_CHW, draw_integer(draw, 4), (-2, -1))
        flips = [axis for axis in (-2, -1) if draw_integer(draw, 2)]
        return unit_range(turned_CHW.flip(flips))
