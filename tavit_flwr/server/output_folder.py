"""A run's output folder: for one run at a time, and named where it cannot be written."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tavit_flwr.errors import ConfigError

logger = logging.getLogger("flwr")

#: A ServerApp that has lost its SuperLink ends within a minute, and may write until then.
_WAIT_S = 60.0

_LOCK = ".lock"


@contextmanager
def claimed(folder: Path, *, resume: bool = False, wait_s: float = _WAIT_S) -> Iterator[None]:
    """Keep other runs out of an output folder, which is made if missing.

    The kernel holds the lock and frees it with this process, however that ends; the file stays. A process may claim a
    folder again that it has claimed.

    Parameters
    ----------
    folder : Path
        Where a run writes.
    resume : bool
        Whether it must be there.
    wait_s : float
        How long to wait for the end of the run that has it, seconds.

    Raises
    ------
    ConfigError
        When another run still has it then, when it cannot be written, or is missing and must not be.
    """
    if resume and not folder.is_dir():
        raise ConfigError(
            "the output folder of the stopped run", "none", str(folder), "correct output_dir, or leave out resume=true"
        )
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _wait_for(descriptor, folder, wait_s)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, folder: Path, wait_s: float) -> None:
    deadline, told = time.monotonic() + wait_s, False
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            if time.monotonic() >= deadline:
                raise ConfigError(
                    "an output folder that no other run writes to", f"one that {holder} still has", str(folder),
                    "wait for the end of that run or stop it, or choose another output_dir",
                ) from None  # fmt: skip
            if not told:
                logger.warning("%s has the output folder %s; waiting up to %g s for its end", holder, folder, wait_s)
            told = True
            time.sleep(0.2)
        except OSError as error:  # a file system without locks
            logger.warning("no lock on the output folder %s (%s): let no other run write there", folder, error)
            return
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Say which folder cannot be written, and what to do about it."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            "an output folder that can be written", str(error), str(folder),
            "free space or correct output_dir, and run again with resume=true if rounds were saved",
        ) from error  # fmt: skip
