"""Whole held-out images with their degraded versions, the same in every evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from tavit_flwr.data.images import ImageSet, Sample, unit_range
from tavit_flwr.degrade import Degrade
from tavit_flwr.errors import DataError
from tavit_flwr.seeding import generator


@dataclass(frozen=True)
class HeldOut:
    """One whole image for evaluation.

    Attributes
    ----------
    name : str
        The photograph.
    variant : str
        Which setting of the degradation it has (``q10``, ``heavy``), empty where there is one only, and for pairs.
    degraded_CHW, clean_CHW : Tensor
        Float32 in [-1, 1], of equal size.
    """

    name: str
    variant: str
    degraded_CHW: Tensor
    clean_CHW: Tensor


def held_out_pairs(images: ImageSet, degrade: Degrade | None, *, seed: int, task: str) -> Iterator[HeldOut]:
    """Give each held-out image with its degraded version.

    The draws depend on seed, task and position alone. Variants of the degradation take turns over the images, so
    that each appears where there are at least as many images as variants.

    Parameters
    ----------
    images : ImageSet
        Held-out images, or pairs, which are taken as they are.
    degrade : Degrade or None
        Makes the degraded version of images that are not pairs.
    seed : int
        The run's seed.
    task : str
        The task's name.

    Raises
    ------
    DataError
        An image cannot be used, or is no pair although there is no degradation.
    """
    for index in range(len(images)):
        yield _one(images.load(index), degrade, index, seed=seed, task=task)


def _one(sample: Sample, degrade: Degrade | None, index: int, *, seed: int, task: str) -> HeldOut:
    clean_CHW = unit_range(sample.clean_CHW)
    if sample.degraded_CHW is not None:
        return HeldOut(sample.name, "", unit_range(sample.degraded_CHW) * 2 - 1, clean_CHW * 2 - 1)
    if degrade is None:
        raise DataError("a pair, as the task has no degradation", "one image", sample.name, "use data.source=paired")
    variant = index % len(degrade.variants)
    degraded_CHW = degrade(clean_CHW[None], generator(seed, "held-out", task, index), [variant])[0]
    return HeldOut(sample.name, degrade.variants[variant], degraded_CHW * 2 - 1, clean_CHW * 2 - 1)
