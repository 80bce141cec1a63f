"""Count what crosses: bytes and frames, by direction and kind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class Ledger:
    """Bytes and frames of one session or one run; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._frames: Counter[tuple[str, str]] = Counter()

    def add(self, direction: str, kind: str, size: int) -> None:
        """Count one frame of `size` bytes going ``up`` (client to server) or ``down``."""
        with self._lock:
            self._bytes[direction, kind] += size
            self._frames[direction, kind] += 1

    def restore(self, counted: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
        """Go on counting from what `as_dict` gave."""
        with self._lock:
            for direction, kinds in counted.items():
                for kind, row in kinds.items():
                    self._bytes[direction, kind] += row["bytes"]
                    self._frames[direction, kind] += row["frames"]

    def total(self, direction: str) -> int:
        """Bytes in one direction."""
        with self._lock:
            return sum(size for (way, _), size in self._bytes.items() if way == direction)

    def as_dict(self) -> dict[str, dict[str, dict[str, int]]]:
        """``{direction: {kind: {"bytes": n, "frames": m}}}``."""
        with self._lock:
            result: dict[str, dict[str, dict[str, int]]] = {"up": {}, "down": {}}
            for (direction, kind), size in sorted(self._bytes.items()):
                result[direction][kind] = {"bytes": size, "frames": self._frames[direction, kind]}
            return result
