"""Whole held-out images with their degraded versions, the same in every evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tavit_flwr.data.images import ImageSet, Sample, unit_range
from tavit_flwr.data.scored_sets import label_of, set_of
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
    label : str
        The set that it is scored in: its test set and the setting of the degradation (``q10``, ``heavy``), as far as
        there are any.
    degraded_CHW, clean_CHW : Tensor
        Float32 in [-1, 1], of equal size.
    """

    name: str
    label: str
    degraded_CHW: Tensor
    clean_CHW: Tensor


def held_out_pairs(
    images: ImageSet,
    degrade: Degrade | None,
    *,
    seed: int,
    task: str,
    test_sets: Sequence[str] = (),
    every_variant: bool = False,
) -> Iterator[HeldOut]:
    """Give each held-out image with its degraded version.

    The draws depend on seed, task and position alone.

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
    test_sets : sequence of str
        First folders of the images' names that go into their labels.
    every_variant : bool
        Give each image once for each variant of the degradation. Otherwise the variants take turns over the images,
        so that each appears where there are at least as many images as variants.

    Raises
    ------
    DataError
        An image cannot be used, or is no pair although there is no degradation.
    """
    for index in range(len(images)):
        sample = images.load(index)
        test_set = set_of(sample.name, test_sets)
        count = 1 if degrade is None else len(degrade.variants)
        for variant in range(count) if every_variant else [index % count]:
            yield _one(sample, degrade, variant, test_set, generator(seed, "held-out", task, index))


def _one(sample: Sample, degrade: Degrade | None, variant: int, test_set: str, draws: torch.Generator) -> HeldOut:
    clean_CHW = unit_range(sample.clean_CHW)
    if sample.degraded_CHW is not None:
        return HeldOut(sample.name, test_set, unit_range(sample.degraded_CHW) * 2 - 1, clean_CHW * 2 - 1)
    if degrade is None:
        raise DataError("a pair, as the task has no degradation", "one image", sample.name, "use data.source=paired")
    degraded_CHW = degrade(clean_CHW[None], draws, [variant])[0]
    return HeldOut(sample.name, label_of(test_set, degrade.variants[variant]), degraded_CHW * 2 - 1, clean_CHW * 2 - 1)
