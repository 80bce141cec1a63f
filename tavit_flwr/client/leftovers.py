"""What nobody will ask for again: what finished runs kept of a client; with sessions, that of runs given up."""

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

#: With those that a killed process did not finish.
_OF_A_RUN = re.compile(r"^\.?(moments-\d{6}|(arrays|body|pass\d+)-[0-9a-f]{16})\.safetensors(\.\d+\.tmp)?$")


@dataclass(frozen=True)
class Leftover:
    """Moments and weights of one client in one run, and what its last session by messages left.

    Attributes
    ----------
    folder : Path
        The client's folder of that run.
    files : tuple of Path
        None is a picture.
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
        """Delete the files, and the folders if nothing else is in them; pictures stay."""
        folders = {self.folder, self.folder.parent}
        for file in self.files:
            folders |= set(file.parents[: len(file.parents) - len(self.folder.parents)])
            file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
                folder.rmdir()


def find_leftovers(state_dir: Path) -> Iterator[Leftover]:
    """Find what runs left in a state folder; only what a private store wrote, and never through a link."""
    for folder in sorted(state_dir.glob("*/*")):
        ours = _HASHED.match(folder.name) and _HASHED.match(folder.parent.name)
        if (
            ours
            and not folder.is_symlink()
            and not folder.parent.is_symlink()
            and (found := _leftover(folder, [*_kept_in(folder), *_sessions_in(folder)]))
        ):
            yield found


def forget_if_finished(workshop: Workshop, order: Order) -> bool:
    """Delete this client's moments and weights of a run whose last round is being evaluated.

    The server has then written the checkpoint of that round, and no later one will ask for them. What cannot be
    deleted stays and is logged: the scores must not be lost with it.
    """
    if order.next_version < workshop.config.schedule.total_rounds:
        return False
    folder = PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client).folder
    leftover = _leftover(folder, _kept_in(folder))
    try:
        if leftover is not None:
            leftover.remove()
    except OSError as error:
        logger.warning("moments and weights of a finished run stay in %s: %s", workshop.node.state_dir, error)
    return True


def _kept_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if _OF_A_RUN.match(file.name) and not file.is_symlink())


def _sessions_in(folder: Path) -> list[Path]:
    sessions = folder / "sessions"
    if not sessions.is_dir() or sessions.is_symlink():
        return []
    own = (each for each in sorted(sessions.iterdir()) if _HASHED.match(each.name) and not each.is_symlink())
    return [file for session in own if session.is_dir() for file in sorted(session.iterdir()) if not file.is_symlink()]


def _leftover(folder: Path, files: list[Path]) -> Leftover | None:
    details = [file.stat() for file in files]
    if not details:
        return None
    return Leftover(folder, tuple(files), sum(one.st_size for one in details), max(one.st_mtime for one in details))
