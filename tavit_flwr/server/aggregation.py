"""Per-task averaging of heads and tails (FedAvg), and the names of all weights of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from tavit_flwr.errors import ModelError, ProtocolError
from tavit_flwr.split.finite import all_finite

State = dict[str, Tensor]


@dataclass
class Weights:
    """All shared weights of a run.

    Attributes
    ----------
    bodies : dict
        Body name to state dict.
    heads, tails : dict
        Task name to state dict.
    """

    bodies: dict[str, State]
    heads: dict[str, State]
    tails: dict[str, State]

    def flat(self) -> State:
        """One dict with names ``body/<body>/...``, ``head/<task>/...``, ``tail/<task>/...``."""
        groups = (("body", self.bodies), ("head", self.heads), ("tail", self.tails))
        return {
            f"{part}/{owner}/{name}": tensor
            for part, states in groups
            for owner, state in states.items()
            for name, tensor in state.items()
        }

    @classmethod
    def from_flat(cls, flat: Mapping[str, Tensor]) -> Weights:
        """Undo `flat`; `ModelError` for a name of another form."""
        parts: dict[str, dict[str, State]] = {"body": {}, "head": {}, "tail": {}}
        for full, tensor in flat.items():
            part, _, rest = full.partition("/")
            owner, _, name = rest.partition("/")
            if part not in parts or not owner or not name:
                raise ModelError("names such as body/<body>/<tensor> or head/<task>/<tensor>", repr(full))
            parts[part].setdefault(owner, {})[name] = tensor
        return cls(parts["body"], parts["head"], parts["tail"])

    def to_arrays(self) -> ArrayRecord:
        """As Flower carries them."""
        return ArrayRecord(torch_state_dict=self.flat())

    @classmethod
    def from_arrays(cls, arrays: ArrayRecord) -> Weights:
        """Read what `to_arrays` wrote."""
        return cls.from_flat(arrays.to_torch_state_dict())


@dataclass(frozen=True)
class ClientWeights:
    """What one client returned after a session in which its parts moved."""

    client: str
    task: str
    examples: float
    head: State
    tail: State


def check_state(state: Mapping[str, Tensor], like: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights whose names, shapes or values cannot be averaged.

    Raises
    ------
    ProtocolError
        For missing, unknown or wrongly shaped tensors, NaN or infinity.
    """
    if set(state) != set(like):
        missing, unknown = sorted(set(like) - set(state))[:3], sorted(set(state) - set(like))[:3]
        raise ProtocolError("the part's tensors", f"missing {missing}, unknown {unknown}", where)
    for name, tensor in state.items():
        if tensor.shape != like[name].shape:
            raise ProtocolError(f"{name} of shape {tuple(like[name].shape)}", str(tuple(tensor.shape)), where)
        if not all_finite(tensor):
            raise ProtocolError(f"finite values in {name}", "NaN or infinity", where, "check its images")


def average(returned: Iterable[ClientWeights], how: str) -> dict[str, tuple[State, State]]:
    """Average heads and tails, task by task.

    The order of the replies does not matter: clients are taken in the order of their names, in double precision.

    Parameters
    ----------
    returned : iterable of ClientWeights
        Checked before.
    how : {"uniform", "examples"}
        Every client counts alike (the paper's released client reports one example), or by its examples.

    Returns
    -------
    dict
        Task name to (head, tail); a task without replies is absent.
    """
    by_task: dict[str, list[ClientWeights]] = {}
    for reply in sorted(returned, key=lambda reply: reply.client):
        by_task.setdefault(reply.task, []).append(reply)
    result: dict[str, tuple[State, State]] = {}
    for task, replies in by_task.items():
        weights = [1.0 if how == "uniform" else reply.examples for reply in replies]
        result[task] = (
            _mean([reply.head for reply in replies], weights),
            _mean([reply.tail for reply in replies], weights),
        )
    return result


def _mean(states: list[State], weights: list[float]) -> State:
    if len(states) == 1:
        return states[0]
    total = sum(weights)
    return {
        name: torch.stack(
            [state[name].double() * (weight / total) for state, weight in zip(states, weights, strict=True)]
        )
        .sum(dim=0)
        .to(states[0][name].dtype)
        for name in states[0]
    }
