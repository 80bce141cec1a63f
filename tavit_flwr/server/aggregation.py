"""Per-task averaging of heads and tails (FedAvg), and the names of all weights of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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


class Averages:
    """Heads and tails averaged task by task, as replies come.

    Clients are added up in the order of their names, in double precision, so that the order of the replies does not
    matter: a reply waits until all before it have come or will not. What has been added is kept no longer.

    Parameters
    ----------
    expected : iterable of (task, client)
        Whose replies may come.
    how : {"uniform", "examples"}
        Every client counts alike (the paper's released client reports one example), or by its examples.

    Attributes
    ----------
    most_waiting : int
        How many replies have waited at once.
    """

    def __init__(self, expected: Iterable[tuple[str, str]], how: str) -> None:
        self._how = how
        self._next: dict[str, deque[str]] = {}
        for task, client in sorted(expected):
            self._next.setdefault(task, deque()).append(client)
        self._here: dict[str, ClientWeights | None] = {}
        self._sums: dict[str, _Sum] = {}
        self.most_waiting = 0

    def add(self, reply: ClientWeights) -> None:
        """Take in one client's weights, checked before."""
        self._settle(reply.task, reply.client, reply)

    def leave_out(self, task: str, client: str) -> None:
        """Do not wait for a client."""
        self._settle(task, client, None)

    def result(self) -> dict[str, tuple[State, State]]:
        """Task name to (head, tail), of all that have come; a task without replies is absent."""
        for client in sorted(self._here):
            self._add_up(self._here.pop(client))
        return {task: summed.mean() for task, summed in self._sums.items()}

    def _settle(self, task: str, client: str, reply: ClientWeights | None) -> None:
        self._here[client] = reply
        self.most_waiting = max(self.most_waiting, sum(one is not None for one in self._here.values()))
        order = self._next[task]
        while order and order[0] in self._here:
            self._add_up(self._here.pop(order.popleft()))

    def _add_up(self, reply: ClientWeights | None) -> None:
        if reply is not None:
            weight = 1.0 if self._how == "uniform" else reply.examples
            self._sums.setdefault(reply.task, _Sum()).add(reply, weight)


class _Sum:
    """Weights of clients of one task, times what each counts for."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._head: State = {}
        self._tail: State = {}

    def add(self, reply: ClientWeights, weight: float) -> None:
        self._weight += weight
        for summed, state in ((self._head, reply.head), (self._tail, reply.tail)):
            for name, tensor in state.items():
                scaled = tensor.double() * weight
                summed[name] = summed[name].add_(scaled) if name in summed else scaled

    def mean(self) -> tuple[State, State]:
        head, tail = ({name: (one / self._weight).float() for name, one in part.items()}
                      for part in (self._head, self._tail))  # fmt: skip
        return head, tail
