"""What made a run, written down when it starts."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from flwr.serverapp import Grid

#: Environment variable that tells the commit to a ServerApp, which runs in a copy that has no history.
COMMIT = "TAVIT_COMMIT"

_PACKAGES = ("flwr", "torch", "numpy")


def provenance(grid: Grid) -> dict[str, str]:
    """When, from which code, with which words and packages, on what machine a run was started.

    Parameters
    ----------
    grid : Grid
        Knows Flower's number of the run, the words of its configuration and the hash of its code, where Flower made it.
    """
    made = {"started": now(), "commit": os.environ.get(COMMIT, "") or commit_of(Path(__file__).resolve().parents[2])}
    try:
        run = grid.run
        made |= {"run": str(run.run_id), "overrides": str(run.override_config.get("hydra", ""))}
        made |= {"bundle": run.fab_hash} if run.fab_hash else {}
    except (AttributeError, NotImplementedError):
        pass  # a grid of somebody's own
    made |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    made |= {"python": platform.python_version(), "platform": platform.platform()}
    return {key: value for key, value in made.items() if value}


def now() -> str:
    """The time, for people."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def commit_of(folder: Path) -> str:
    """Commit of a checkout, with ``-dirty`` where files differ from it; empty where the folder is none."""
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
