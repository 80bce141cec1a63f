"""One task's whole model among the weights of a run."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from tavit_flwr.errors import QuorumError
from tavit_flwr.server.aggregation import Weights, check_state

_PARTS = ("head", "body", "tail")


def whole_model(weights: Weights, task: str) -> ArrayRecord:
    """A task's ``head/...``, ``body/...`` and ``tail/...``; its body bears its own name."""
    return ArrayRecord(torch_state_dict=_flat(weights, task))


def put(weights: Weights, task: str, arrays: ArrayRecord | None) -> None:
    """Replace a task's whole model.

    Raises
    ------
    QuorumError
        When there is none.
    ProtocolError
        When its tensors do not fit or are not finite.
    """
    if arrays is None:
        raise QuorumError("an average", "none", f"task {task}")
    flat = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
    check_state(flat, _flat(weights, task), f"whole model of {task}")
    for part, states in zip(_PARTS, (weights.heads, weights.bodies, weights.tails), strict=True):
        own = f"{part}/"
        states[task] = {name.removeprefix(own): value for name, value in flat.items() if name.startswith(own)}


def _flat(weights: Weights, task: str) -> dict[str, Tensor]:
    groups = zip(_PARTS, (weights.heads, weights.bodies, weights.tails), strict=True)
    return {f"{part}/{name}": value for part, states in groups for name, value in states.get(task, {}).items()}
