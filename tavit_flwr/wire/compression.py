"""Compression of a frame's data, its header left readable; never more comes out than the header says.

A compressed frame is ``<8 bytes: length of the header> <header> <zstd of the data>``. The header is that of the frame
without compression, so the size of the data is known, and bounded, before anything is decompressed.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from tavit_flwr.errors import ConfigError, ProtocolError

#: Fast; the data are noise in their low bits, and higher levels gain next to nothing.
_LEVEL = 1


def codec() -> Any:  # noqa: ANN401 - an optional module
    """Import `zstandard`; `ConfigError` where the extra is not installed."""
    try:
        return import_module("zstandard")
    except ImportError as error:
        raise ConfigError(
            "the package zstandard", "none", "configuration key 'wire.compression'",
            "pip install 'tavit-flwr[zstd]', on the server and on every node",
        ) from error  # fmt: skip


def compress(frame: bytes) -> bytes:
    """Compress a frame's data."""
    start = 8 + int.from_bytes(frame[:8], "little")
    return frame[:start] + bytes(codec().ZstdCompressor(level=_LEVEL).compress(memoryview(frame)[start:]))


def decompress(frame: bytes, max_frame_bytes: int) -> bytes:
    """Undo `compress`; in one go, so that memory is set aside for the frame that the header tells of and nothing else.

    Raises
    ------
    ProtocolError
        Where the data are no zstd, or say that they are more or less than the header does.
    """
    start = 8 + int.from_bytes(frame[:8], "little")
    expected = _data_bytes(frame[8:start])
    if start + expected > max_frame_bytes:
        raise ProtocolError(f"a frame of at most {max_frame_bytes} bytes", f"one that says {start + expected}")
    zstd, packed = codec(), memoryview(frame)[start:]
    try:
        told = zstd.get_frame_parameters(packed).content_size
        if told != expected:
            raise ProtocolError(f"{expected} bytes of data, as the header says", f"{told}")
        data: bytes = zstd.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    except (zstd.ZstdError, ValueError) as error:
        raise ProtocolError("zstd data", str(error)) from error
    return frame[:start] + data


def _data_bytes(header: bytes) -> int:
    entries = json.loads(header)
    ends = [0]
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or not all(type(one) is int and one >= 0 for one in offsets):
            raise ProtocolError("tensors with data offsets", "others")
        ends += offsets
    return max(ends)
