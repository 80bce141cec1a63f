"""What every source of images looks like to the rest: names, and samples read when they are asked for."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tavit_flwr.errors import DataError

CACHE_BYTES = 256 * 2**20
"""Decoded images kept per image set (ours): all bundled photographs, or some 500 of BSDS500's size."""

HEADERS_CHECKED = 2000
"""Images of a set whose headers `LazyImages.check` reads at most (ours): about a second from a local disk."""

logger = logging.getLogger("flwr")


@dataclass(frozen=True)
class Sample:
    """One image, or one pair.

    Attributes
    ----------
    name : str
        Unique in its image set; for folders the path below the folder.
    clean_CHW : Tensor
        Three channels; uint8, or float32 in [0, 1] where a source has more than 8 bits that matter.
    degraded_CHW : Tensor or None
        Of the same shape and type; None means that the task's degradation makes it.
    """

    name: str
    clean_CHW: Tensor
    degraded_CHW: Tensor | None = None

    def __post_init__(self) -> None:
        for image_CHW in (self.clean_CHW, self.degraded_CHW):
            if image_CHW is None:
                continue
            shape = tuple(image_CHW.shape)
            if len(shape) != 3 or shape[0] != 3 or image_CHW.dtype not in (torch.uint8, torch.float32):
                raise DataError(
                    "an image [3, H, W] of type uint8 or float32", f"{image_CHW.dtype} {list(shape)}", self.name
                )
            if shape != tuple(self.clean_CHW.shape):
                raise DataError(
                    f"a degraded image of the clean one's size, {_size(self.clean_CHW)}",
                    _size(image_CHW),
                    self.name,
                    "make both images of the pair equally large, or remove the pair",
                )

    @property
    def size_bytes(self) -> int:
        """Memory of the decoded image or pair."""
        return sum(image.nbytes for image in (self.clean_CHW, self.degraded_CHW) if image is not None)


def unit_range(image: Tensor) -> Tensor:
    """Give a `Sample`'s image, or a part of it, as float32 in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


class ImageSet(Protocol):
    """Images by index."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name per image, in the order of the indices."""
        ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample:
        """Read one image or pair; raise `DataError` if that cannot be done."""
        ...

    def check(self) -> None:
        """Raise `DataError` if the headers of the files show that some cannot be used."""
        ...


class LazyImages:
    """Images that are read when they are first asked for, the last used ones kept in memory.

    Not made for several threads at once.

    Parameters
    ----------
    names : sequence of str
        The images of the set.
    read : callable
        ``read(name) -> Sample``.
    check : callable, optional
        ``check(name)`` raises `DataError` if the header of the file shows that it cannot be used.
    cache_bytes : int
        Upper bound for the decoded images that are kept.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[str], Sample],
        check: Callable[[str], None] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._names = tuple(names)
        self._read = read
        self._check = check
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[str, Sample] = OrderedDict()
        self._cached_bytes = 0

    @property
    def names(self) -> tuple[str, ...]:
        """One name per image."""
        return self._names

    def __len__(self) -> int:
        return len(self._names)

    def load(self, index: int) -> Sample:
        """Read an image or take it from memory.

        Raises
        ------
        DataError
            The image cannot be used; its name is said.
        IndexError
            `index` is not in ``[0, len(self))``.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        name = self._names[index]
        if name in self._cached:
            self._cached.move_to_end(name)
            return self._cached[name]
        sample = self._read(name)
        self._keep(name, sample)
        return sample

    def only(self, names: Sequence[str]) -> LazyImages:
        """Make a set of some of the images, read in the same way, with a memory of its own."""
        return LazyImages(names, self._read, self._check, self._cache_bytes)

    def check(self) -> None:
        """Read the headers of up to `HEADERS_CHECKED` images, spread evenly, the first and the last among them.

        Nothing is decoded. The log says so where not all were read; each image is checked again when it is loaded.

        Raises
        ------
        DataError
            Some cannot be used: how many of those that were read, the first of them and why, and a few more names.
        """
        if self._check is None:
            return
        last, count = len(self) - 1, min(len(self), HEADERS_CHECKED)
        problems = []
        for position in range(count):
            try:
                self._check(self._names[position * last // max(count - 1, 1)])
            except DataError as error:
                problems.append(error)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            first, more = problems[0], ", ".join(error.where for error in problems[1:5])
            where = f"{first.where}, and {len(problems) - 1} more of {count} images: {more}"
            raise DataError(first.expected, first.received, where, first.hint) from first
        if count < len(self):
            logger.info(
                "headers of %s of %s images were checked; the others are when they are loaded", count, len(self)
            )

    def _keep(self, name: str, sample: Sample) -> None:
        if sample.size_bytes > self._cache_bytes:
            return
        self._cached[name] = sample
        self._cached_bytes += sample.size_bytes
        while self._cached_bytes > self._cache_bytes:
            self._cached_bytes -= self._cached.popitem(last=False)[1].size_bytes


def _size(image_CHW: Tensor) -> str:
    return f"{image_CHW.shape[-1]}x{image_CHW.shape[-2]} pixels"
