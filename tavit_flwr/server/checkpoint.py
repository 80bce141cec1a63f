"""Checkpoints: one folder a round, safetensors and JSON, whole or absent, the last few kept."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tavit_flwr.config import TavitConfig, WireTypesConfig, to_dict
from tavit_flwr.errors import CheckpointError
from tavit_flwr.files import beside_of, remove_unfinished, sync_folder, write_json, write_tensors

logger = logging.getLogger("flwr")

_NAME = re.compile(r"^round-(\d{6})$")

#: Keys of the configuration that may differ between a run and its resumption.
_FREE_KEYS = frozenset({"resume", "output_dir", "keep_checkpoints", "name", "tensorboard"})
_FREE_GROUPS = frozenset({"wire", "compute", "federation"})
_BOUND_KEYS = (
    {"compute.autocast", "compute.batch_waiting"}
    | {f"wire.{key}" for key in ("minibatches_per_message", "dtype", "error_feedback")}
    | {f"wire.dtypes.{phase}.{way}" for phase in vars(WireTypesConfig()) for way in ("up", "down")}
    | {f"federation.{key}" for key in ("average", "fraction", "min_clients", "by_task", "strategy", "proximal_mu")}
)


@dataclass
class RunState:
    """All that a stopped run needs besides weights and moments.

    Attributes
    ----------
    run_key : str
        Names the run for the clients' private stores.
    round : int
        Rounds completed.
    config : dict
        Resolved configuration of the run.
    evaluated : bool
        Whether the last round's evaluation, if it has one, was done.
    participants : dict
        Client to task, as enrolled.
    bodies : list of str
        Whose moments belong to the checkpoint.
    versions : dict
        Client to the round whose moments it holds.
    held : dict
        Which weights each client was sent last; see `tavit_flwr.server.supply.Supply`.
    history : list of dict
        The metric lines so far.
    totals : dict
        Steps and bytes so far.
    provenance : dict
        What made the run, as it was started; see `tavit_flwr.server.provenance`.
    """

    run_key: str
    round: int
    config: dict[str, Any]
    evaluated: bool = True
    participants: dict[str, str] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """One round's checkpoint in memory."""

    state: RunState
    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a round's folder beside and rename it, then forget all but the last `keep`.

    Raises
    ------
    CheckpointError
        When the disk is full or the folder cannot be written; earlier checkpoints stay usable.
    """
    name = f"round-{checkpoint.state.round:06d}"
    beside = beside_of(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        beside.mkdir()
        write_tensors(beside / "weights.safetensors", checkpoint.weights)
        for body, moments in checkpoint.moments.items():
            write_tensors(beside / f"moments-{body}.safetensors", moments)
        checkpoint.state.bodies = sorted(checkpoint.moments)
        write_json(beside / "state.json", asdict(checkpoint.state))
        target = folder / name
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
        sync_folder(folder)
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"room for the checkpoint of round {checkpoint.state.round}", str(error), str(folder),
            "free space and run again with resume=true: the checkpoint before is whole",
        ) from error  # fmt: skip
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def save_state(folder: Path, state: RunState) -> None:
    """Replace the state in a round's folder: what its evaluation added, while weights and moments stay.

    Raises
    ------
    CheckpointError
        When it cannot be written; the state before stays.
    """
    path = folder / f"round-{state.round:06d}" / "state.json"
    try:
        write_json(path, asdict(state))
    except OSError as error:
        raise CheckpointError(
            f"room for the scores of round {state.round}", str(error), str(path),
            "free space and run again with resume=true",
        ) from error  # fmt: skip


def set_aside(folder: Path) -> Path | None:
    """Rename an earlier run's checkpoints, so that a new run neither prunes them nor is taken for it.

    Returns
    -------
    Path or None
        Where they are now; None when there were none.

    Raises
    ------
    CheckpointError
        When they cannot be renamed.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}-before-{number}")).exists():
        number += 1
    try:
        folder.rename(aside)
    except OSError as error:
        raise CheckpointError(
            "an output folder that can be written", str(error), str(folder), "choose another output_dir"
        ) from error
    return aside


def to_resume(output_dir: Path, config: TavitConfig) -> Checkpoint | None:
    """Read what ``resume=true`` goes on from.

    Returns
    -------
    Checkpoint or None
        None where the run was stopped before it had saved a round: nothing of it is lost by beginning anew.

    Raises
    ------
    CheckpointError
        When the newest checkpoint cannot be read, or is another experiment's.
    """
    folder = output_dir / "checkpoints"
    if not _complete(folder):
        logger.warning("resume=true: no round was saved in %s, so the run begins anew", output_dir)
        return None
    checkpoint = latest(folder)
    check_same_experiment(checkpoint.state.config, to_dict(config))
    return checkpoint


def latest(folder: Path) -> Checkpoint:
    """Read the newest whole checkpoint.

    Raises
    ------
    CheckpointError
        When there is none, or it cannot be read.
    """
    complete = _complete(folder)
    if not complete:
        raise CheckpointError(
            "a checkpoint to resume from", "none", str(folder), "set output_dir to the stopped run's, or resume=false"
        )
    path = complete[-1]
    try:
        state = RunState(**json.loads((path / "state.json").read_text()))
        moments = {body: load_file(path / f"moments-{body}.safetensors") for body in state.bodies}
        return Checkpoint(state, load_file(path / "weights.safetensors"), moments)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            "a readable checkpoint", f"{type(error).__name__}: {error}", str(path),
            "delete that folder to use the one before",
        ) from error  # fmt: skip


def check_same_experiment(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume a run under another configuration.

    A longer schedule is not another experiment only if nothing else differs, but its rounds would no longer match the
    plan, so it is refused as well.

    Raises
    ------
    CheckpointError
        Naming the keys that differ.
    """
    differing = [
        key
        for key in _differences(saved, now)
        if key in _BOUND_KEYS or (key not in _FREE_KEYS and key.split(".")[0] not in _FREE_GROUPS)
    ]
    if differing:
        raise CheckpointError(
            "the configuration of the stopped run", f"other values for {', '.join(differing)}", "resume=true",
            "resume with the same configuration, or start anew in another output_dir",
        )  # fmt: skip


def _differences(saved: Any, now: Any, prefix: str = "") -> list[str]:  # noqa: ANN401 - JSON
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        keys = sorted(set(saved) | set(now))
        found = [_differences(saved.get(key), now.get(key), f"{prefix}{key}.") for key in keys]
        return [key for keys in found for key in keys]
    return [] if saved == now else [prefix.rstrip(".")]


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("round-*") if _NAME.match(path.name) and (path / "state.json").is_file())
