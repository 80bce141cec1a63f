"""Restoration of whole images of any size, window by window.

The scheme is the paper's: reflect-pad right and bottom, windows at a fixed stride, uniform averaging of overlaps, crop,
clamp. Reflection repeats where an image is smaller than the padding (ours), so that any size from 1x1 works.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from tavit_flwr.errors import ConfigError, DataError, ModelError


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
    model : callable
        Takes windows [B, C, P, P] and returns them restored, same shape, B at most `batch_size`. It is called without
        gradients; putting modules into eval mode is the caller's business.
    window : int, default 64
        Side of a window (P), pixels.
    stride : int, default 16
        Distance between windows, pixels.
    batch_size : int, default 32
        Windows a call; bounds the memory, together with two copies of the padded image.

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
        If the model returns another shape.
    """
    if degraded_CHW.dim() != 3 or degraded_CHW.numel() == 0 or not degraded_CHW.is_floating_point():
        raise DataError("a floating-point image [C, H, W]", f"{list(degraded_CHW.shape)} {degraded_CHW.dtype}")
    if batch_size < 1:
        raise ConfigError("batch_size of at least 1", str(batch_size), "tiling")
    height, width = degraded_CHW.shape[1:]
    tops, lefts = window_origins(height, window, stride), window_origins(width, window, stride)
    padded = _reflect_pad(degraded_CHW, tops[-1] + window, lefts[-1] + window)
    total = torch.zeros_like(padded)
    origins = ((top, left) for top in tops for left in lefts)
    with torch.no_grad():
        while batch := list(islice(origins, batch_size)):
            restored_BCPP = _call(model, torch.stack([_view(padded, origin, window) for origin in batch]))
            for origin, restored in zip(batch, restored_BCPP, strict=True):
                _view(total, origin, window).add_(restored)
    rows, columns = _cover(tops, window, padded), _cover(lefts, window, padded)
    mean = total[:, :height, :width] / (rows[:height, None] * columns[None, :width])
    return mean.clamp(-1.0, 1.0)


def _view(image: Tensor, origin: tuple[int, int], window: int) -> Tensor:
    top, left = origin
    return image[:, top : top + window, left : left + window]


def _call(model: Callable[[Tensor], Tensor], windows: Tensor) -> Tensor:
    restored = model(windows)
    if restored.shape != windows.shape:
        raise ModelError(f"restored windows {list(windows.shape)}", str(list(restored.shape)), "tiling")
    return restored


def _cover(origins: range, window: int, like: Tensor) -> Tensor:
    """How many windows cover each pixel of one side."""
    counts = torch.zeros(origins[-1] + window, dtype=like.dtype, device=like.device)
    for origin in origins:
        counts[origin : origin + window] += 1
    return counts


def _reflect_pad(image: Tensor, height: int, width: int) -> Tensor:
    rows = _reflected(image.shape[1], height).to(image.device)
    columns = _reflected(image.shape[2], width).to(image.device)
    return image[:, rows][:, :, columns]


def _reflected(size: int, length: int) -> Tensor:
    """Extend ``0 .. size-1`` to `length` indices by repeated reflection about the last and the first."""
    period = max(1, 2 * (size - 1))
    index = torch.arange(length) % period
    return torch.minimum(index, period - index) if size > 1 else index
