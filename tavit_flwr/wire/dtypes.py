"""Types in which the tensors of the cut travel: what a float32 tensor becomes on the wire, and back.

`float32` and `bfloat16` are the tensor itself. `float16` and `int8` carry a scale beside it, named ``<tensor>.scale``:

* `float16` has one scale a tensor, a power of two. Multiplying by it loses nothing; without it gradients, which are
  far below float16's smallest number, would become zero, and large activations infinite.
* `int8` has one scale a token: the D channels of one place of one image, which the body's LayerNorm normalises
  together. Tokens differ in size by orders of magnitude, gradients above all, and what a layer sees of a token is its
  direction, so each token keeps its own 127 steps. One scale a channel would depend on the rest of the batch; one a
  tensor drowns the small tokens. It is a bfloat16 of 2 bytes: its range is float32's, and its rounding adds no error,
  as the rounded scale is the one that is used.

All of it is a function of the tensor alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tavit_flwr.config import BFLOAT16, FLOAT16, FLOAT32, INT8
from tavit_flwr.errors import ProtocolError
from tavit_flwr.split.finite import all_finite

#: Name of a tensor's scale: the tensor's own and this.
SCALE = ".scale"

_MOST_INT8 = 127
_FLOAT16_EXPONENT = 14  # the largest value becomes less than 2**15; float16 ends below 2**16
_SMALLEST_EXPONENT = -110  # keeps the scale of an almost empty tensor within bfloat16


@dataclass(frozen=True)
class WireType:
    """One type of the wire.

    Attributes
    ----------
    dtype : torch.dtype
        Of the tensor in the frame.
    scale_shape : callable or None
        Shape of the scale, from the tensor's [B, D, G, G]; None where there is no scale.
    shrink : callable
        float32 tensor to the tensor and the scale.
    """

    dtype: torch.dtype
    scale_shape: Callable[[torch.Size], tuple[int, ...]] | None
    shrink: Callable[[Tensor], tuple[Tensor, Tensor | None]]


def _as_it_is(tensor: Tensor) -> tuple[Tensor, None]:
    return tensor, None


def _bfloat16(tensor: Tensor) -> tuple[Tensor, None]:
    return tensor.to(torch.bfloat16), None


def _float16(tensor: Tensor) -> tuple[Tensor, Tensor]:
    _, exponent = torch.frexp(tensor.abs().amax())
    scale = torch.ldexp(torch.ones(()), (exponent - _FLOAT16_EXPONENT - 1).clamp(min=_SMALLEST_EXPONENT))
    return (tensor / scale).to(torch.float16), scale.to(torch.bfloat16).reshape(1, 1, 1, 1)


def _int8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    scale = (tensor.abs().amax(1, keepdim=True) / _MOST_INT8).to(torch.bfloat16)
    step = torch.where(scale > 0, scale, torch.ones_like(scale)).float()
    return (tensor / step).round_().clamp_(-_MOST_INT8, _MOST_INT8).to(torch.int8), scale


WIRE_TYPES: dict[str, WireType] = {
    FLOAT32: WireType(torch.float32, None, _as_it_is),
    BFLOAT16: WireType(torch.bfloat16, None, _bfloat16),
    FLOAT16: WireType(torch.float16, lambda _: (1, 1, 1, 1), _float16),
    INT8: WireType(torch.int8, lambda shape: (shape[0], 1, *shape[2:]), _int8),
}


def pack(name: str, tensor: Tensor, wire_type: str) -> dict[str, Tensor]:
    """Give the tensors of a frame that stand for one tensor of a payload.

    Parameters
    ----------
    name : str
        The payload's name for it.
    tensor : Tensor
        float32, [B, D, G, G], on the CPU.
    wire_type : str
        A key of `WIRE_TYPES`.
    """
    packed, scale = WIRE_TYPES[wire_type].shrink(tensor)
    return {name: packed.contiguous()} if scale is None else {name: packed.contiguous(), f"{name}{SCALE}": scale}


def packed_bytes(shape: tuple[int, ...], wire_type: str) -> int:
    """Size of a tensor [B, D, G, G] on the wire, without the header of its frame."""
    kind = WIRE_TYPES[wire_type]
    scales = 0 if kind.scale_shape is None else prod(kind.scale_shape(torch.Size(shape)))
    return prod(shape) * kind.dtype.itemsize + scales * torch.bfloat16.itemsize


def names(tensor_names: frozenset[str], wire_type: str) -> frozenset[str]:
    """Names of the tensors in a frame, from those of its payload."""
    if WIRE_TYPES[wire_type].scale_shape is None:
        return tensor_names
    return tensor_names | {f"{name}{SCALE}" for name in tensor_names}


def unpack(name: str, tensors: dict[str, Tensor], wire_type: str, where: str) -> Tensor:
    """Undo `pack`; the result is float32.

    Raises
    ------
    ProtocolError
        For another dtype than the session's, another shape, or values that are not finite.
    """
    kind, tensor = WIRE_TYPES[wire_type], tensors[name]
    if tensor.dtype != kind.dtype or tensor.ndim != 4 or not tensor.numel():
        raise ProtocolError(
            f"{name} as a non-empty {kind.dtype} tensor [B, D, G, G]", f"{tensor.dtype} {tuple(tensor.shape)}", where,
            "see wire.dtype and wire.dtypes",
        )  # fmt: skip
    if kind.scale_shape is not None:
        scale, shape = tensors[f"{name}{SCALE}"], kind.scale_shape(tensor.shape)
        if scale.dtype != torch.bfloat16 or tuple(scale.shape) != shape or bool((scale < 0).any()):
            raise ProtocolError(
                f"{name}{SCALE} of bfloat16 {shape}, zero or more", f"{scale.dtype} {tuple(scale.shape)}", where
            )
        tensor = tensor.float().mul_(scale.float())
    if not all_finite(tensor):
        raise ProtocolError(
            f"finite values in {name}", "NaN or infinity", where, "check the learning rate and the images"
        )
    return tensor.float()
