"""Published checkpoints in and out: one state dict each for head, body and tail."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tavit_flwr.config.validate import NAME
from tavit_flwr.errors import CheckpointError, ConfigError
from tavit_flwr.files import beside_of, sync_folder, write_json, write_tensors
from tavit_flwr.models import Parts, build_body, build_head, build_tail, preset
from tavit_flwr.models.official import faults, refuse_faults
from tavit_flwr.models.stored import IMPORTED_FILE, WEIGHTS_FILE, load_parts

_PARTS = ("head", "body", "tail")
_WRAPPER = "module."  # what DataParallel puts before each name
_ENVELOPE = "state_dict"  # what trainers put around it


def import_checkpoint(
    heads: Mapping[str, Path],
    tails: Mapping[str, Path],
    body: Path,
    output: Path,
    *,
    body_name: str = "natural",
    time_step: int = 0,
) -> None:
    """Check published state dicts tensor by tensor and write them as a folder that ``--weights`` takes.

    Parameters
    ----------
    heads, tails : mapping of str to Path
        Task to file: ``.pt``, ``.pth`` or ``.safetensors``. The tasks' names are those they shall have here.
    body : Path
        The file of the body that all these tasks share.
    output : Path
        A folder that does not exist yet.
    body_name : str
        The body's name here.
    time_step : int
        The constant time step that the heads will use; the published code draws a random one (see `Head`).

    Raises
    ------
    CheckpointError
        If a file cannot be read, or the output exists or cannot be written.
    ConfigError
        If a task has a head and no tail, or the reverse, or a name is none.
    ModelError
        If a tensor is missing, unexpected, of another shape or type, or not finite: all are listed, of all files.
    """
    _check_names(heads, tails, body_name)
    _refuse_existing(output)
    parts = _empty_parts(time_step)
    files = {f"body/{body_name}": body}
    for task in heads:
        files |= {f"head/{task}": heads[task], f"tail/{task}": tails[task]}
    states = {owner: read_state_dict(file) for owner, file in files.items()}
    targets = {owner: getattr(parts, owner.partition("/")[0]) for owner in files}
    found = [fault for owner, part in targets.items() for fault in faults(owner, part, states[owner])]
    refuse_faults(found, "--head, --tail and --body")
    flat = {
        f"{owner}/{name}": states[owner][name].detach().float().contiguous().clone()
        for owner, part in targets.items()
        for name in part.state_dict()
    }
    document = {
        "preset": parts.preset.name, "overrides": {}, "time_step": time_step,
        "tasks": dict.fromkeys(heads, body_name),
    }  # fmt: skip

    def write(folder: Path) -> None:
        write_tensors(folder / WEIGHTS_FILE, flat)
        write_json(folder / IMPORTED_FILE, document)

    _write_folder(output, write)


def export_checkpoint(weights: Path, output: Path, *, task: str) -> bool:
    """Write ``head.pt``, ``body.pt`` and ``tail.pt``: plain state dicts under the published names.

    Parameters
    ----------
    weights : Path
        See `load_parts`.
    output : Path
        A folder that does not exist yet.
    task : str
        The task's name.

    Returns
    -------
    bool
        Whether they are of the published architecture, so that the published code can load them.

    Raises
    ------
    CheckpointError
        If the weights cannot be read, or the output exists or cannot be written.
    """
    _refuse_existing(output)
    parts = load_parts(weights, task)

    def write(folder: Path) -> None:
        for part in _PARTS:
            torch.save(dict(_state(parts, part)), folder / f"{part}.pt")

    _write_folder(output, write)
    return parts.preset == preset("paper")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read one state dict, taken out of ``{"state_dict": ...}``, without ``module.`` before its names if all have it.

    Nothing but tensors and plain containers is unpickled.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes torch raise
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no more is known'}"
        raise CheckpointError(
            "a state dict of tensors (.pt, .pth or .safetensors)", reason, str(path),
            "save the part's state_dict() with torch.save; whole pickled modules are not read",
        ) from error  # fmt: skip
    if isinstance(found, Mapping) and isinstance(found.get(_ENVELOPE), Mapping):
        found = found[_ENVELOPE]
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise CheckpointError("a state dict: names to tensors", type(found).__name__, str(path))
    if not any(isinstance(value, Tensor) for value in found.values()):
        received = f"no tensor under {', '.join(list(found)[:5]) or 'any name'}"
        raise CheckpointError(
            "a state dict: names to tensors", received, str(path), "save the state dict that lies inside alone"
        )
    wrapped = all(name.startswith(_WRAPPER) for name in found)
    return {name.removeprefix(_WRAPPER) if wrapped else name: value for name, value in found.items()}


def _empty_parts(time_step: int) -> Parts:
    architecture = preset("paper")
    return Parts(build_head(architecture, time_step), build_body(architecture), build_tail(architecture), architecture)


def _check_names(heads: Mapping[str, Path], tails: Mapping[str, Path], body_name: str) -> None:
    if not heads or set(heads) != set(tails):
        raise ConfigError(
            "a head and a tail for each task",
            f"heads of {', '.join(sorted(heads)) or 'none'}; tails of {', '.join(sorted(tails)) or 'none'}",
        )
    for name in (*heads, body_name):
        if not NAME.match(name):
            raise ConfigError("names of tasks and bodies in [a-z0-9_-], at most 32 long", repr(name))


def _state(parts: Parts, part: str) -> Iterator[tuple[str, Tensor]]:
    """Yield one part's tensors, copied, in the published order."""
    for name, tensor in getattr(parts, part).state_dict().items():
        yield name, tensor.detach().clone()


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise CheckpointError("an output folder that does not exist yet", "one that does", str(output))


def _write_folder(output: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder beside `output` and rename it."""
    beside = beside_of(output)
    try:
        beside.mkdir(parents=True)
        write(beside)
        beside.rename(output)
        sync_folder(output.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError("an output folder that can be written", str(error), str(output)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
