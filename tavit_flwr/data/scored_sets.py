"""Sets of held-out images that are scored each for itself: folders of a test set, and settings of a degradation."""

from __future__ import annotations

from collections.abc import Sequence

from tavit_flwr.config import TavitConfig, images_of
from tavit_flwr.data.images import LazyImages
from tavit_flwr.degrade import degradation
from tavit_flwr.errors import DataError


def labels_of(config: TavitConfig, task: str) -> tuple[str, ...]:
    """Name the sets that a task's scores are told apart by; empty where there is only one.

    They follow from the configuration alone: ``tasks.<task>.test_sets``, the variants of the degradation, or both, as
    in ``kodak-q10``. Both sides know them then, and no name of a node's folders travels that the server did not give.
    """
    own = config.tasks[task]
    variants = ("",) if images_of(config, task).paired else degradation(own.degradation, own.options).variants
    labels = tuple(label_of(test_set, variant) for test_set in own.test_sets or ("",) for variant in variants)
    return labels if len(labels) > 1 else ()


def label_of(test_set: str, variant: str) -> str:
    """Join the name of a folder and of a variant, either of which may be empty."""
    return "-".join(part for part in (test_set, variant) if part)


def set_of(name: str, test_sets: Sequence[str]) -> str:
    """Find the set that an image belongs to by its name, the path below its folder; empty for none of them."""
    first = name.partition("/")[0]
    return first if first in test_sets else ""


def only_test_sets(images: LazyImages, test_sets: Sequence[str], where: str) -> LazyImages:
    """Keep the images of the named sets; all images where none is named.

    Raises
    ------
    DataError
        A set has no images.
    """
    if not test_sets:
        return images
    kept = [name for name in images.names if set_of(name, test_sets)]
    empty = sorted(set(test_sets) - {set_of(name, test_sets) for name in kept})
    if empty:
        raise DataError(
            f"images in the folders {', '.join(test_sets)} of the evaluation folder",
            f"none in {', '.join(empty)}",
            where,
            "correct tasks.<task>.test_sets or tasks.<task>.evaluation_folder",
        )
    return images.only(kept)
