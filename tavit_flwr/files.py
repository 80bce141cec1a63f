"""Files that are whole or absent: written beside, flushed to disk, and renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

_BESIDE = re.compile(r"\..+\.(\d+)\.tmp")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file; on any error the previous file stays and nothing is left beside it."""
    write_whole(path, lambda beside: save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file of bytes; on any error the previous file stays and nothing is left beside it."""
    write_whole(path, lambda beside: beside.write_bytes(data))


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Write a JSON file; on any error the previous file stays and nothing is left beside it."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    write_whole(path, lambda beside: beside.write_text(text + "\n"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, flush it and rename it; on any error the previous file stays."""
    beside = beside_of(path)
    try:
        write(beside)
        with beside.open("rb+") as handle:
            os.fsync(handle.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def beside_of(path: Path) -> Path:
    """Where this process writes a file or folder before it is renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Delete what killed processes left half written.

    What another process is still writing stays. This process must not be writing there in another thread.

    Parameters
    ----------
    folder : Path
        Where they wrote.
    name : str
        Of the file or folder that it was to be. Leave it out only in a folder that nobody else writes to.
    """
    for path in folder.glob(f".{name}.*.tmp"):
        found = _BESIDE.fullmatch(path.name)
        if found is None or _another_runs(int(found[1])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _another_runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid != os.getpid()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
