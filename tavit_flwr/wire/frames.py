"""Frames: one payload as safetensors bytes with a small typed header, checked before any work.

A frame is one safetensors blob. Its ``__metadata__`` is the header: protocol version, kind, phase and step. Nothing
that can execute code is ever deserialised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tavit_flwr import payloads
from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import Payload

PROTOCOL_VERSION = "2"

#: A header lists at most two tensors; anything near this size is an attack or an accident.
MAX_HEADER_BYTES = 4096

_KINDS: dict[str, type] = {kind.__name__: kind for kind in (*payloads.UP, *payloads.DOWN)}
_TENSORS: dict[str, frozenset[str]] = {
    name: frozenset(field.name for field in fields(kind) if field.name != "step") for name, kind in _KINDS.items()
}
_HEADER_KEYS = frozenset({"version", "kind", "phase", "step"})


@dataclass(frozen=True)
class Limits:
    """What a tensor in a frame may be.

    Attributes
    ----------
    max_frame_bytes : int
        Of the whole frame.
    dtype : torch.dtype
        The only one accepted.
    """

    max_frame_bytes: int = 256 * 2**20
    dtype: torch.dtype = torch.float32


def encode(payload: Payload, phase: str) -> bytes:
    """Write one payload as a frame.

    Parameters
    ----------
    payload : Payload
        One of the dataclasses in `tavit_flwr.payloads`.
    phase : str
        The session's phase, or ``evaluate``.
    """
    kind = type(payload).__name__
    tensors = {name: getattr(payload, name).contiguous() for name in sorted(_TENSORS[kind])}
    header = {"version": PROTOCOL_VERSION, "kind": kind, "phase": phase, "step": str(payload.step)}
    blob: bytes = save(tensors, metadata=header)
    return blob


def identity(frame: bytes) -> tuple[str, str] | None:
    """Kind and step that a frame claims, unique within a session and direction; None where its header is no header."""
    try:
        header = _header(frame)
    except ProtocolError:
        return None
    return (header["kind"], header["step"]) if header["kind"] in _KINDS else None


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
        Size and dtype.

    Returns
    -------
    Payload
        Its tensors own their memory.

    Raises
    ------
    ProtocolError
        With what was expected and what came; nothing has been done with the frame then.
    """
    if len(frame) > limits.max_frame_bytes:
        raise ProtocolError(f"a frame of at most {limits.max_frame_bytes} bytes", f"{len(frame)} bytes")
    header = _header(frame)
    names = [kind.__name__ for kind in expected]
    if header["kind"] not in names:
        raise ProtocolError(f"a frame of kind {' or '.join(names)}", repr(header["kind"]), f"step {step}")
    if header["version"] != PROTOCOL_VERSION:
        raise ProtocolError(
            f"protocol version {PROTOCOL_VERSION}", repr(header["version"]), hint="run equal versions on both sides"
        )
    if header["phase"] != phase:
        raise ProtocolError(f"phase {phase!r}", repr(header["phase"]), f"step {step}")
    if header["step"] != str(step):
        raise ProtocolError(f"step {step}", repr(header["step"]), f"phase {phase}")
    return _payload(header["kind"], step, _tensors(frame), limits)


def _header(frame: bytes) -> Mapping[str, str]:
    if len(frame) < 8:
        raise ProtocolError("a safetensors frame", f"{len(frame)} bytes")
    length = int.from_bytes(frame[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(frame) - 8):
        raise ProtocolError(f"a header of at most {MAX_HEADER_BYTES} bytes inside the frame", f"{length} bytes")
    try:
        header = json.loads(frame[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a JSON header", type(error).__name__) from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or set(metadata) != _HEADER_KEYS:
        raise ProtocolError(f"a header with {sorted(_HEADER_KEYS)}", "another header")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ProtocolError("header values that are text", "other types")
    return metadata


def _tensors(frame: bytes) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(frame)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ProtocolError("a safetensors frame", f"{type(error).__name__}: {error}") from error
    return tensors


def _payload(kind: str, step: int, tensors: dict[str, Tensor], limits: Limits) -> Payload:
    if set(tensors) != _TENSORS[kind]:
        raise ProtocolError(f"{kind} with tensors {sorted(_TENSORS[kind])}", f"{sorted(tensors)[:4]}", f"step {step}")
    for name, tensor in tensors.items():
        if tensor.dtype != limits.dtype or tensor.ndim != 4 or not tensor.numel():
            raise ProtocolError(
                f"{name} as a non-empty {limits.dtype} tensor [B, D, G, G]",
                f"{tensor.dtype} {tuple(tensor.shape)}",
                f"step {step}",
            )
        if not torch.isfinite(tensor).all():
            raise ProtocolError(
                f"finite values in {name}", "NaN or infinity", f"step {step}", "check the learning rate and the images"
            )
    payload: Payload = _KINDS[kind](step=step, **tensors)
    return payload
