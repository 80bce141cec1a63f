"""Frames: one payload as safetensors bytes with a small typed header, checked before any work.

A frame is one safetensors blob, whose data may be compressed. In its header ``__metadata__`` has protocol version,
kind, phase and step. Nothing that can execute code is ever deserialised.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from tavit_flwr import payloads
from tavit_flwr.config import ZSTD
from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import Payload
from tavit_flwr.wire.compression import compress, decompress
from tavit_flwr.wire.dtypes import names, pack, unpack
from tavit_flwr.wire.limits import Limits

PROTOCOL_VERSION = "3"

#: A header lists at most four tensors; anything near this size is an attack or an accident.
MAX_HEADER_BYTES = 4096

_KINDS: dict[str, type] = {kind.__name__: kind for kind in (*payloads.UP, *payloads.DOWN)}
_TENSORS: dict[str, frozenset[str]] = {
    name: frozenset(field.name for field in fields(kind) if field.name != "step") for name, kind in _KINDS.items()
}
_FLOAT32 = Limits()
_SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int8: "I8"}
_DTYPES = {name: dtype for dtype, name in _SAFETENSORS.items()}
_MOST_SIDES = 8
_TOLD = "__metadata__"
#: Name, tensor and wire type to the tensors of the frame.
Pack = Callable[[str, Tensor, str], dict[str, Tensor]]

_HEADER_KEYS = frozenset({"version", "kind", "phase", "step"})

with warnings.catch_warnings():  # torch warns once in a process that nobody may write to bytes
    warnings.simplefilter("ignore")
    torch.frombuffer(bytes(1), dtype=torch.uint8)


def encode(payload: Payload, phase: str, limits: Limits = _FLOAT32, pack: Pack = pack) -> bytes:
    """Write one payload as a frame; see `tavit_flwr.wire.encoder.Encoder` for a session's.

    Parameters
    ----------
    payload : Payload
        One of the dataclasses in `tavit_flwr.payloads`.
    phase : str
        The session's phase, or ``evaluate``.
    limits : Limits, optional
        The type of the payload's direction, and compression.
    pack : callable, optional
        See `tavit_flwr.wire.dtypes.pack`.
    """
    kind = type(payload).__name__
    tensors: dict[str, Tensor] = {}
    for name in sorted(_TENSORS[kind]):
        tensors |= pack(name, getattr(payload, name), wire_type(kind, limits))
    header = {"version": PROTOCOL_VERSION, "kind": kind, "phase": phase, "step": str(payload.step)}
    blob = _blob(tensors, header)
    return compress(blob) if tensors and limits.compression == ZSTD else blob


def _blob(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Write safetensors: equal payloads give equal bytes, and each tensor is copied once.

    The library's own `save` orders the metadata by chance, and copies twice.
    """
    header: dict[str, object] = {_TOLD: metadata}
    data: list[memoryview] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        begin, end = end, end + tensor.numel() * tensor.dtype.itemsize
        shape = list(tensor.shape)
        header[name] = {"dtype": _SAFETENSORS[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
        data.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *data))


def wire_type(kind: str, limits: Limits) -> str:
    """Type in which the tensors of a kind of payload travel."""
    return limits.up if _KINDS[kind] in payloads.UP else limits.down


def identity(frame: bytes) -> tuple[str, str] | None:
    """Kind and step that a frame claims, unique within a session and direction; None where its header is no header."""
    try:
        told = _header(frame)[_TOLD]
    except ProtocolError:
        return None
    return (told["kind"], told["step"]) if told["kind"] in _KINDS else None


def decode(frame: bytes, phase: str, expected: tuple[type, ...], step: int, limits: Limits) -> Payload:
    """Read one frame, checking everything that can be checked without the model.

    Parameters
    ----------
    frame : bytes
        As received.
    phase : str
        The session's phase; the frame must carry the same.
    expected : tuple of type
        The payload classes that this moment of the session allows.
    step : int
        The step that this moment of the session allows.
    limits : Limits
        Size, type and compression.

    Returns
    -------
    Payload
        In float32; its tensors own their memory, or are the only ones to use the frame's.

    Raises
    ------
    ProtocolError
        With what was expected and what came; nothing has been done with the frame then.
    """
    if len(frame) > limits.max_frame_bytes:
        raise ProtocolError(f"a frame of at most {limits.max_frame_bytes} bytes", f"{len(frame)} bytes")
    header = _header(frame)
    told, kinds = header[_TOLD], [kind.__name__ for kind in expected]
    if told["kind"] not in kinds:
        raise ProtocolError(f"a frame of kind {' or '.join(kinds)}", repr(told["kind"]), f"step {step}")
    if told["version"] != PROTOCOL_VERSION:
        raise ProtocolError(
            f"protocol version {PROTOCOL_VERSION}", repr(told["version"]), hint="run equal versions on both sides"
        )
    if told["phase"] != phase:
        raise ProtocolError(f"phase {phase!r}", repr(told["phase"]), f"step {step}")
    if told["step"] != str(step):
        raise ProtocolError(f"step {step}", repr(told["step"]), f"phase {phase}")
    if limits.compression == ZSTD and _TENSORS[told["kind"]]:
        frame = decompress(frame, limits.max_frame_bytes)
    return _payload(told["kind"], step, _tensors(frame, header), wire_type(told["kind"], limits))


def _header(frame: bytes) -> Mapping[str, Any]:
    if len(frame) < 8:
        raise ProtocolError("a safetensors frame", f"{len(frame)} bytes")
    length = int.from_bytes(frame[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(frame) - 8):
        raise ProtocolError(f"a header of at most {MAX_HEADER_BYTES} bytes inside the frame", f"{length} bytes")
    return _parsed(frame[8 : 8 + length])


@lru_cache(maxsize=64)  # exchanges look at a header too, and those of a session are alike
def _parsed(text: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a JSON header", type(error).__name__) from error
    told = header.get(_TOLD) if isinstance(header, dict) else None
    if not isinstance(told, dict) or set(told) != _HEADER_KEYS:
        raise ProtocolError(f"a header with {sorted(_HEADER_KEYS)}", "another header")
    if not all(isinstance(value, str) for value in told.values()):
        raise ProtocolError("header values that are text", "other types")
    return {str(name): value for name, value in header.items()}


def _tensors(frame: bytes, header: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give the frame's data as tensors, without a copy, once the header accounts for each of its bytes."""
    start = end = 8 + int.from_bytes(frame[:8], "little")
    described = {name: _described(name, entry) for name, entry in header.items() if name != _TOLD}
    tensors: dict[str, Tensor] = {}
    for name, (dtype, shape, offsets) in sorted(described.items(), key=lambda item: item[1][2]):
        begin, end = end, end + prod(shape) * dtype.itemsize
        if offsets != [begin - start, end - start] or begin % dtype.itemsize:
            raise ProtocolError(f"{name} at its place, {begin - start} to {end - start}", f"{offsets}")
        if end > len(frame):
            raise ProtocolError(f"{name} inside the frame", f"{shape} in {len(frame)} bytes")
        data = torch.frombuffer(frame, dtype=dtype, count=prod(shape), offset=begin) if end > begin else torch.empty(0)
        tensors[name] = data.to(dtype).view(shape)
    if end != len(frame):
        raise ProtocolError(f"{end} bytes, as the header says", f"{len(frame)}")
    return tensors


def _described(name: str, entry: object) -> tuple[torch.dtype, list[int], list[int]]:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]}:
            counts = [*shape, begin, end]
            if dtype in _DTYPES and len(shape) <= _MOST_SIDES and all(type(one) is int and one >= 0 for one in counts):
                return _DTYPES[dtype], shape, [begin, end]
    raise ProtocolError(f"{name[:40]} of a type among {sorted(_DTYPES)}, its shape and its place", repr(entry)[:200])


def _payload(kind: str, step: int, tensors: dict[str, Tensor], wire_type: str) -> Payload:
    expected = names(_TENSORS[kind], wire_type)
    if set(tensors) != expected:
        raise ProtocolError(f"{kind} with tensors {sorted(expected)}", f"{sorted(tensors)[:4]}", f"step {step}")
    values = {name: unpack(name, tensors, wire_type, f"step {step}") for name in _TENSORS[kind]}
    payload: Payload = _KINDS[kind](step=step, **values)
    return payload
