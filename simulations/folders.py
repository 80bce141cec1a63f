"""Folders that a script fills, and may empty again because it made them itself; the app in a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def own_folder(folder: Path, script: str, *, keep: bool = False) -> Path:
    """Make a folder; one that is there is replaced only if the same script made it, or it is empty.

    Parameters
    ----------
    folder : Path
        Where.
    script : str
        Names the marker that is left in the folder.
    keep : bool
        Keep what the script left there before.

    Raises
    ------
    SystemExit
        When the folder holds what the script did not make; nothing has been touched then.
    """
    marker = folder / f".made-by-simulations-{script}"
    if folder.exists() and not folder.is_dir():
        raise SystemExit(f"{folder} is a file: choose another --output")
    if folder.exists() and any(folder.iterdir()):
        if not marker.is_file():
            raise SystemExit(f"{folder} holds files that this script did not make: choose another --output")
        if not keep:
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return folder


@contextmanager
def app_alone(project: Path, within: Path) -> Iterator[Path]:
    """A copy of what ``flwr run`` packs of this project, in a folder that goes at the end.

    ``flwr run`` looks at every file below the folder that it is given. Below the project that is the environment too,
    some 47,000 files and five seconds.
    """
    with tempfile.TemporaryDirectory(prefix="app-", dir=within) as name:
        app = Path(name)
        for folder in ("tavit_flwr", "conf"):
            shutil.copytree(project / folder, app / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(project / file, app)
        yield app
