"""Tensors to a GPU and back while it works on others; on other devices they are simply copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from tavit_flwr.split.devices import CPU


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU; a GPU fetches it in its turn, and nobody waits."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def downloaded(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Copy tensors to the CPU, each while its successor is computed."""
    coming: Callable[[], Tensor] | None = None
    for tensor in tensors:
        before, coming = coming, _download(tensor)
        if before is not None:
            yield before()
    if coming is not None:
        yield coming()


def _download(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin a copy; what comes back waits for its end, and not for what the GPU was given later."""
    copy = tensor.to(CPU, non_blocking=True)
    if tensor.device.type != "cuda":
        return lambda: copy
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        done.synchronize()
        return copy

    return wait
