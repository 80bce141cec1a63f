"""Moments that nobody will ask for again: those of a finished run, and of runs that were given up."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tavit_flwr.client.store import PrivateStore
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.wire.records import Order

logger = logging.getLogger("flwr")

_HASHED = re.compile(r"^[0-9a-f]{16}$")
_MOMENTS = re.compile(r"^moments-\d{6}\.safetensors$")


@dataclass(frozen=True)
class Leftover:
    """Moments of one client in one run.

    Attributes
    ----------
    folder : Path
        The client's folder of that run.
    files : tuple of Path
        One a version.
    size_bytes : int
        Of all of them.
    last_used_s : float
        When the newest was written, seconds since 1970.
    """

    folder: Path
    files: tuple[Path, ...]
    size_bytes: int
    last_used_s: float

    def remove(self) -> None:
        """Delete the moments, and the folders if nothing else is in them; pictures stay."""
        for file in self.files:
            file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self.folder.rmdir()
            self.folder.parent.rmdir()


def find_leftovers(state_dir: Path) -> Iterator[Leftover]:
    """Find the moments in a state folder, of all runs; only what a private store wrote, and never through a link."""
    for folder in sorted(state_dir.glob("*/*")):
        ours = _HASHED.match(folder.name) and _HASHED.match(folder.parent.name)
        if ours and not folder.is_symlink() and not folder.parent.is_symlink() and (found := _moments_in(folder)):
            yield found


def forget_if_finished(workshop: Workshop, order: Order) -> bool:
    """Delete this client's moments of a run whose last round is being evaluated.

    The server has then written the checkpoint of that round, and no later one will ask for them. What cannot be
    deleted stays and is logged: the scores must not be lost with it.
    """
    if order.next_version < workshop.config.schedule.total_rounds:
        return False
    leftover = _moments_in(PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client).folder)
    try:
        if leftover is not None:
            leftover.remove()
    except OSError as error:
        logger.warning("moments of a finished run stay in %s: %s", workshop.node.state_dir, error)
    return True


def _moments_in(folder: Path) -> Leftover | None:
    if not folder.is_dir():
        return None
    files = tuple(sorted(file for file in folder.iterdir() if _MOMENTS.match(file.name) and not file.is_symlink()))
    details = [file.stat() for file in files]
    if not details:
        return None
    return Leftover(folder, files, sum(one.st_size for one in details), max(one.st_mtime for one in details))
