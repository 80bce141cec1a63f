"""Restoration of whole images of any size, window by window.

The scheme is the paper's: reflect-pad right and bottom, windows at a fixed stride, uniform averaging of overlaps, crop,
clamp. Reflection repeats where an image is smaller than the padding (ours), so that any size from 1x1 works. Images are
read and restored strip by strip, so that the memory does not grow with their height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tavit_flwr.errors import ConfigError, DataError, ModelError

#: Finished rows that wait for each other (ours), so that few strips are handed on.
_HELD_ROWS = 128


@runtime_checkable
class LooksAhead(Protocol):
    """A model that can begin with a batch of windows before it has ended with the one before."""

    def begin(self, windows_BCPP: Tensor) -> Callable[[], Tensor]:
        """Do what can be done at once; what comes back does the rest, in the order of the calls."""


def window_origins(length: int, window: int, stride: int) -> range:
    """Where windows begin along one side of an image.

    Parameters
    ----------
    length : int
        The image's side, pixels.
    window, stride : int
        The window's side and the distance between windows, pixels; ``1 <= stride <= window``.

    Returns
    -------
    range
        ``0, stride, ...`` up to the last multiple of `stride` that is at most `length`, as in the paper. The last
        window always reaches the border; where `stride` divides `length` it lies in the padding altogether.

    Raises
    ------
    ConfigError
        If window or stride is out of range.
    DataError
        If the length is below 1.
    """
    if not 1 <= stride <= window:
        raise ConfigError("1 <= stride <= window", f"stride {stride}, window {window}", "tiling")
    if length < 1:
        raise DataError("an image side of at least 1 pixel", str(length), "tiling")
    return range(0, length + 1, stride)


def window_count(height: int, width: int, window: int = 64, stride: int = 16) -> int:
    """Count the windows of one image; 651 for 481x321 and 3,726 for 1280x720 at the defaults (paper).

    Parameters
    ----------
    height, width : int
        The image's sides, pixels.
    window, stride : int
        See `window_origins`, errors too.

    Returns
    -------
    int
        Calls of the model, in windows.
    """
    return len(window_origins(height, window, stride)) * len(window_origins(width, window, stride))


def restore_tiled(
    degraded_CHW: Tensor,
    model: Callable[[Tensor], Tensor],
    window: int = 64,
    stride: int = 16,
    batch_size: int = 32,
) -> Tensor:
    """Restore a whole image.

    Parameters
    ----------
    degraded_CHW : Tensor
        [C, H, W] in [-1, 1], floating point, any size from 1x1.
    model, window, stride, batch_size
        See `restored_strips`.

    Returns
    -------
    Tensor
        [C, H, W], clamped to [-1, 1].

    Raises
    ------
    ConfigError
        If window, stride or batch size is out of range.
    DataError
        If the image is empty, not [C, H, W] or not floating point.
    ModelError
        If the model returns another shape, or something that is not finite.
    """
    if degraded_CHW.dim() != 3 or degraded_CHW.numel() == 0 or not degraded_CHW.is_floating_point():
        raise DataError("a floating-point image [C, H, W]", f"{list(degraded_CHW.shape)} {degraded_CHW.dtype}")
    height, width = degraded_CHW.shape[1:]
    strips = restored_strips(
        lambda rows: degraded_CHW[:, rows.to(degraded_CHW.device)], height, width, model, window, stride, batch_size
    )
    restored_CHW = torch.cat(list(strips), dim=1)
    refuse_garbage(restored_CHW)
    return restored_CHW


def refuse_garbage(restored: Tensor) -> None:
    """Raise `ModelError` where restored pixels are not finite; on a GPU this waits for them."""
    if not bool(torch.isfinite(restored).all()):
        raise ModelError(
            "finite restored pixels", "NaN or infinity", "tiling",
            "look for weights that diverged, or compute in float32",
        )  # fmt: skip


def restored_strips(
    read: Callable[[Tensor], Tensor],
    height: int,
    width: int,
    model: Callable[[Tensor], Tensor],
    window: int = 64,
    stride: int = 16,
    batch_size: int = 32,
) -> Iterator[Tensor]:
    """Restore an image from top to bottom, in strips.

    Parameters
    ----------
    read : callable
        Takes indices of rows and returns these rows, [C, N, W] in [-1, 1], on the device where windows are to be
        gathered and averaged. Rows are asked for once from top to bottom, then, for the reflection at the bottom, the
        last ones again.
    height, width : int
        The image's sides, pixels.
    model : callable
        Takes windows [B, C, P, P] and returns them restored, same shape and device, B at most `batch_size`. It is
        called without gradients; putting modules into eval mode is the caller's business.
    window : int, default 64
        Side of a window (P), pixels.
    stride : int, default 16
        Distance between windows, pixels.
    batch_size : int, default 32
        Windows a call. It bounds the memory, together with some window rows of the image.

    Yields
    ------
    Tensor
        The next rows, [C, N, W], clamped to [-1, 1], NaN where what the model gave is not finite; all together the
        image. Nothing here waits for a GPU.

    Raises
    ------
    ConfigError
        If window, stride or batch size is out of range.
    DataError
        If a side is below 1.
    ModelError
        If the model returns another shape.
    """
    if batch_size < 1:
        raise ConfigError("batch_size of at least 1", str(batch_size), "tiling")
    tops, lefts = window_origins(height, window, stride), window_origins(width, window, stride)
    rows, columns = _reflected(height, tops[-1] + window), _reflected(width, lefts[-1] + window)
    window_rows = 1 + (batch_size + len(lefts) - 2) // len(lefts)  # that a batch can touch
    depth = min(len(rows), _HELD_ROWS + window + stride * (window_rows - 1))

    def padded(indices: Tensor) -> Tensor:
        values = read(indices)
        return values[:, :, columns.to(values.device)]

    source = padded(rows[:depth])
    total = torch.zeros_like(source)
    row_cover, column_cover = _cover(tops, window, source), _cover(lefts, window, source)[:width]

    def finished(last: int) -> Tensor:
        mean = total[:, : last - first, :width] / (row_cover[first:last, None] * column_cover)
        return torch.where(torch.isfinite(mean), mean.clamp(-1.0, 1.0), torch.nan)

    begun: list[tuple[list[tuple[int, int]], Callable[[], Tensor]]] = []

    def add_up(leave: int) -> None:
        while len(begun) > leave:
            places, finish = begun.pop(0)
            for place, restored in zip(places, finish(), strict=True):
                _view(total, place, window).add_(restored)

    origins = ((top, left) for top in tops for left in lefts)
    first = 0  # the padded row that `source` and `total` begin with
    while batch := list(islice(origins, batch_size)):
        done = batch[0][0] - first  # no later window reaches these rows
        if done > _HELD_ROWS:
            add_up(leave=0)
            yield finished(min(first + done, height))
            first += done
            fresh = padded(rows[first + depth - done : first + depth])
            source = torch.cat((source[:, done:], fresh), dim=1)
            total = torch.cat((total[:, done:], torch.zeros_like(fresh)), dim=1)
        places = [(top - first, left) for top, left in batch]
        windows_BCPP = torch.stack([_view(source, place, window) for place in places])
        with torch.no_grad():
            finish = model.begin(windows_BCPP) if isinstance(model, LooksAhead) else partial(model, windows_BCPP)
        begun.append((places, partial(_finish, finish, windows_BCPP.shape)))
        add_up(leave=isinstance(model, LooksAhead))
    add_up(leave=0)
    if first < height:
        yield finished(height)


def _view(image: Tensor, origin: tuple[int, int], window: int) -> Tensor:
    top, left = origin
    return image[:, top : top + window, left : left + window]


@torch.no_grad()
def _finish(finish: Callable[[], Tensor], shape: torch.Size) -> Tensor:
    restored = finish()
    if restored.shape != shape:
        raise ModelError(f"restored windows {list(shape)}", str(list(restored.shape)), "tiling")
    return restored


def _cover(origins: range, window: int, like: Tensor) -> Tensor:
    """How many windows cover each pixel of one side."""
    counts = torch.zeros(origins[-1] + window, dtype=like.dtype, device=like.device)
    for origin in origins:
        counts[origin : origin + window] += 1
    return counts


def _reflected(size: int, length: int) -> Tensor:
    """Extend ``0 .. size-1`` to `length` indices by repeated reflection about the last and the first."""
    period = max(1, 2 * (size - 1))
    index = torch.arange(length) % period
    return torch.minimum(index, period - index) if size > 1 else index
