"""What degrades clean images in an evaluation: a task's own operator, with options changed or not."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tavit_flwr.config import compose
from tavit_flwr.degrade import DEGRADATIONS, Degrade, degradation
from tavit_flwr.models.stored import StoredWeights


@dataclass(frozen=True)
class Operator:
    """A task's degradation with all its options."""

    name: str
    options: dict[str, Any]
    degrade: Degrade


def operator_of(stored: StoredWeights, task: str, changed: Mapping[str, object]) -> Operator:
    """Find the degradation of a task: the run's, or for imported weights that of ``conf/task/``.

    Parameters
    ----------
    stored : StoredWeights
        The weights' description.
    task : str
        The task.
    changed : mapping of str to object
        Options that replace the task's.

    Raises
    ------
    ConfigError
        If the task is in neither, or an option is unknown or out of range.
    """
    if stored.config is not None:
        settings: Mapping[str, Any] = stored.config["tasks"][task]
        name, own = str(settings["degradation"]), settings["options"]
    else:
        composed = compose([f"clients=[{task}]"]).tasks[task]
        name, own = composed.degradation, composed.options
    given = {**own, **changed}
    degrade = degradation(name, given)
    defaults = {key: one.default for key, one in inspect.signature(DEGRADATIONS[name]).parameters.items()}
    return Operator(name, {**defaults, **given}, degrade)
