"""Trained parts on disk: a run's output folder, one of its checkpoints, or an imported folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tavit_flwr.errors import CheckpointError, ConfigError
from tavit_flwr.models.parts import Parts, build_body, build_head, build_tail
from tavit_flwr.models.presets import Preset, preset

#: The two files of an imported folder; a run's checkpoint has the first and `state.json`.
WEIGHTS_FILE = "weights.safetensors"
IMPORTED_FILE = "weights.json"

_STATE_FILE = "state.json"
_ROUND = re.compile(r"^round-\d{6}$")
_DAMAGED = "name an older round's folder, or copy this one again"

Part = Literal["head", "body", "tail"]


@dataclass(frozen=True)
class StoredWeights:
    """What a folder says about its weights; the tensors stay on disk until they are asked for.

    Attributes
    ----------
    folder : Path
        Holds `WEIGHTS_FILE`.
    preset : Preset
        The architecture.
    time_step : int
        See `tavit_flwr.models.Head`.
    window : int
        Side of the windows of a tiled restoration, pixels: the run's training crop, or the preset's.
    bodies : dict of str to str
        Task to the body it subscribes to, for each task whose head is stored.
    config : dict or None
        The run's resolved configuration; None for imported weights.
    """

    folder: Path
    preset: Preset
    time_step: int
    window: int
    bodies: dict[str, str]
    config: dict[str, Any] | None

    def owners(self, part: Part) -> list[str]:
        """Tasks whose heads or tails are stored, or names of stored bodies."""
        return sorted({name.split("/")[1] for name in _names(self.folder) if name.startswith(f"{part}/")})

    def there(self) -> str:
        """What is stored, for errors."""
        tasks, bodies = (", ".join(self.owners(part)) or "none" for part in ("head", "body"))
        return f"there are tasks: {tasks}; bodies: {bodies}"

    def state(self, part: Part, owner: str) -> dict[str, Tensor]:
        """Read one part's tensors; other parts' are not read.

        Raises
        ------
        CheckpointError
            If there are none under that owner (a task, or a body's name), or the file is damaged.
        """
        prefix = f"{part}/{owner}/"
        names = [name for name in _names(self.folder) if name.startswith(prefix)]
        if not names:
            raise CheckpointError(f"a {part} of '{owner}'", f"none; {self.there()}", str(self.folder))
        try:
            with safe_open(self.folder / WEIGHTS_FILE, framework="pt") as file:
                return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise _damaged(self.folder, f"{WEIGHTS_FILE}: {error}") from error


def load_parts(path: Path, task: str) -> Parts:
    """Read the head, body and tail of one task; other tasks' tensors are not read.

    Parameters
    ----------
    path : Path
        A run's output folder (its newest whole checkpoint counts), one checkpoint's folder, or a folder written by
        ``tavit import-checkpoint``.
    task : str
        The task's name.

    Returns
    -------
    Parts
        In eval mode, no parameter requires a gradient, float32, on the CPU.

    Raises
    ------
    CheckpointError
        If there are no weights, they are damaged or do not fit their preset, or have no such task or no body for it
        (the error names the tasks there are).
    """
    return parts_of(describe(path), task)


def describe(path: Path) -> StoredWeights:
    """Say what weights a folder holds (see `load_parts` for `path` and errors)."""
    folder = _find(path)
    imported = (folder / IMPORTED_FILE).is_file()
    document = _read_json(folder / (IMPORTED_FILE if imported else _STATE_FILE))
    owners = {name.split("/")[1] for name in _names(folder) if name.startswith("head/")}
    try:
        config = None if imported else dict(document["config"])
        model = document if config is None else config["model"]
        architecture = preset(model["preset"], **model["overrides"])
        window = architecture.crop if config is None else int(config["data"]["crop"])
        if config is None:
            bodies = {str(task): str(body) for task, body in document["tasks"].items()}
        else:
            bodies = {task: str(settings["body"]) for task, settings in config["tasks"].items()}
        bodies = {task: body for task, body in bodies.items() if task in owners}
        return StoredWeights(folder, architecture, model["time_step"], window, bodies, config)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise _damaged(folder, f"a description that does not fit: {type(error).__name__}: {error}") from error


def parts_of(stored: StoredWeights, task: str) -> Parts:
    """Read what `describe` found (see `load_parts`)."""
    if task not in stored.bodies:
        known = ", ".join(sorted(stored.bodies)) or "none"
        raise CheckpointError(f"a task out of {known}", repr(task), str(stored.folder), "choose one of these tasks")
    parts = Parts(
        build_head(stored.preset, stored.time_step), build_body(stored.preset), build_tail(stored.preset), stored.preset
    )
    _fill(parts.head, stored.state("head", task), f"head of '{task}' in {stored.folder}")
    if parts.body.state_dict():  # an identity has none
        _fill(parts.body, stored.state("body", stored.bodies[task]), f"body of '{task}' in {stored.folder}")
    _fill(parts.tail, stored.state("tail", task), f"tail of '{task}' in {stored.folder}")
    return parts


def _find(path: Path) -> Path:
    """Return the folder that holds the tensors."""
    if not path.is_dir():
        received = "a file" if path.exists() else "nothing"
        raise CheckpointError("a folder with weights", received, str(path), "give a run's output folder")
    if _whole(path):
        return path
    for parent in (path / "checkpoints", path):
        rounds = sorted(child for child in parent.glob("round-*") if _ROUND.match(child.name) and _whole(child))
        if rounds:
            return rounds[-1]
    raise CheckpointError(
        "checkpoints/round-NNNNNN, or weights.safetensors with state.json or weights.json",
        "no whole one",
        str(path),
        "let the run end its first round, or import weights with tavit import-checkpoint",
    )


def _whole(folder: Path) -> bool:
    described = (folder / _STATE_FILE).is_file() or (folder / IMPORTED_FILE).is_file()
    return described and (folder / WEIGHTS_FILE).is_file()


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path.parent, f"{path.name}: {error}") from error
    if not isinstance(document, dict):
        raise _damaged(path.parent, f"{path.name} without an object")
    return document


def _names(folder: Path) -> list[str]:
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            return [str(name) for name in file.keys()]  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, f"{WEIGHTS_FILE}: {error}") from error


def _fill(part: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a part and freeze it."""
    try:
        part.load_state_dict(state)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise CheckpointError("the preset's tensors, name by name and shape by shape", text, where, _DAMAGED) from error
    broken = [name for name, value in part.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError("finite weights", f"NaN or infinity in {', '.join(broken[:3])}", where, _DAMAGED)
    part.eval().requires_grad_(False)


def _damaged(folder: Path, received: str) -> CheckpointError:
    return CheckpointError("a readable checkpoint", received, str(folder), _DAMAGED)
