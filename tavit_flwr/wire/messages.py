"""Frames in Flower messages: our own bytes, in a record of their own."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ConfigRecord, RecordDict

from tavit_flwr.errors import ProtocolError

FRAMES = "frames"

#: Frames of one message, where more than one can travel together: enough to be worth a message, little enough to hold.
MESSAGE_BYTES = 32 * 2**20


def frames_record(frames: Sequence[bytes]) -> ConfigRecord:
    """Frames of the cut as Flower carries them."""
    return ConfigRecord({FRAMES: list(frames)})


def frames_of(content: RecordDict, max_frame_bytes: int) -> list[bytes] | None:
    """Frames that a message carries; None where it carries none.

    Raises
    ------
    ProtocolError
        When the record holds anything else, or more than can be one message's.
    """
    record = content.config_records.get(FRAMES)
    if record is None:
        return None
    frames = record.get(FRAMES)
    if set(record) != {FRAMES} or not isinstance(frames, list) or not all(isinstance(one, bytes) for one in frames):
        raise ProtocolError(f"a list of frames under '{FRAMES}'", f"{sorted(record)[:4]}")
    most, size = max_frame_bytes + MESSAGE_BYTES, sum(len(one) for one in frames if isinstance(one, bytes))
    if not frames or size > most:
        raise ProtocolError(f"frames of at most {most} bytes in a message", f"{len(frames)} of {size} bytes")
    return [one for one in frames if isinstance(one, bytes)]
