"""What one session's frames may be: the two ends read it from the same configuration."""

from __future__ import annotations

from dataclasses import dataclass

from tavit_flwr.config import FLOAT32, NONE, WireConfig


@dataclass(frozen=True)
class Limits:
    """Size and types of a session's frames.

    Attributes
    ----------
    max_frame_bytes : int
        Of the whole frame, before and after decompression.
    up, down : str
        The only type accepted in each direction; see `tavit_flwr.wire.dtypes.WIRE_TYPES`.
    compression : str
        ``none`` or ``zstd``; the only one accepted.
    error_feedback : bool
        Whether what int8 rounds away of a gradient is added to the next one.
    """

    max_frame_bytes: int = 256 * 2**20
    up: str = FLOAT32
    down: str = FLOAT32
    compression: str = NONE
    error_feedback: bool = False

    @classmethod
    def of(cls, wire: WireConfig, phase: str) -> Limits:
        """Read those of a phase, or of ``evaluate``."""
        own = vars(wire.dtypes)["evaluation" if phase == "evaluate" else phase.replace("-", "_")]
        return cls(
            max_frame_bytes=max_frame_bytes(wire),
            up=own.up or wire.dtype,
            down=own.down or wire.dtype,
            compression=wire.compression,
            error_feedback=wire.error_feedback,
        )


def max_frame_bytes(wire: WireConfig) -> int:
    """Largest frame, bytes."""
    return int(wire.max_frame_mib * 2**20)
