"""Weights in Flower messages: one array, the bytes of safetensors, and what names it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import PART_PREFIXES

#: Name of the one array in a record of weights.
PACKED = "safetensors"


def parts_of(head: Mapping[str, Tensor], tail: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Head and tail as one dict with names ``head/...`` and ``tail/...``."""
    return {f"head/{name}": tensor for name, tensor in head.items()} | {
        f"tail/{name}": tensor for name, tensor in tail.items()
    }


def tensors_to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Weights as Flower carries them: one array, the bytes of safetensors.

    A SuperLink keeps, sends and fetches each array by itself, and a head and tail are 172 tensors.
    """
    packed = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return ArrayRecord({PACKED: Array(np.frombuffer(packed, np.uint8))})


def arrays_to_tensors(arrays: ArrayRecord, prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Undo `tensors_to_arrays`.

    Raises
    ------
    ProtocolError
        When it is no such record, a name has none of the prefixes, or a tensor is not float32.
    """
    if set(arrays) != {PACKED}:
        raise ProtocolError(f"one array named '{PACKED}'", f"{sorted(arrays)[:4]}")
    try:
        packed = arrays[PACKED].numpy()
        if packed.dtype != np.uint8 or packed.ndim != 1:
            raise ProtocolError(f"'{PACKED}' as bytes", f"{packed.dtype} {packed.shape}")
        tensors: dict[str, Tensor] = load(packed.tobytes())
    except (SafetensorError, ValueError, KeyError, TypeError) as error:  # of numpy, or of a type that torch has not
        raise ProtocolError("safetensors", f"{type(error).__name__}: {error}"[:200]) from error
    for name, tensor in tensors.items():
        if not name.startswith(tuple(prefixes)):
            raise ProtocolError(f"tensors named {' or '.join(prefixes)}...", repr(name[:80]))
        if tensor.dtype != torch.float32:
            raise ProtocolError(f"'{name}' in float32", str(tensor.dtype))
    return tensors


def parts_to_arrays(head: Mapping[str, Tensor], tail: Mapping[str, Tensor]) -> ArrayRecord:
    """Head and tail as Flower carries them."""
    return tensors_to_arrays(parts_of(head, tail))


def arrays_to_parts(arrays: ArrayRecord) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Undo `parts_to_arrays`; errors as in `arrays_to_tensors`."""
    tensors = arrays_to_tensors(arrays, PART_PREFIXES)
    head, tail = (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in PART_PREFIXES
    )
    return head, tail


def content_key(tensors: Mapping[str, Tensor]) -> str:
    """Name weights by their content: SHA-256 over names, shapes and bits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def arrays_bytes(arrays: ArrayRecord) -> int:
    """Bytes of the arrays' data."""
    return sum(len(array.data) for array in arrays.values())
