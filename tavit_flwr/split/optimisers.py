"""Optimisers from configuration, and their state as flat tensors for checkpoints."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.errors import CheckpointError

_Kind = TypeVar("_Kind", bound=Optimizer)


def _without_compiler(kind: type[_Kind]) -> type[_Kind]:
    """Torch's own optimiser, less the wrappers that import its compiler: two seconds of every client's process.

    They tell ``torch.compile`` to leave these methods alone; nothing here is compiled. What else they do is to
    compute the step without gradients.
    """
    names = ("step", "add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(methods["step"])
    return cast(type[_Kind], type(kind.__name__, (kind,), methods))


_Adam, _SGD = _without_compiler(Adam), _without_compiler(SGD)


def build_optimiser(parameters: Iterable[Tensor], config: OptimiserConfig) -> Optimizer:
    """Build Adam or plain SGD, fused: ten times faster than the loop on CPU; a part may be without parameters."""
    group = [{"params": list(parameters)}]
    if config.name == "sgd":
        return _SGD(group, lr=config.lr, fused=True)
    return _Adam(group, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(config: OptimiserConfig, progress: float) -> float:
    """Learning rate of a round: a function of where in the run it is, so that a resumed run needs no state for it.

    Parameters
    ----------
    config : OptimiserConfig
        ``decay`` is ``none`` (paper) or ``cosine``, half a cosine from ``lr`` to zero over the run (ours).
    progress : float
        Share of the run's steps that earlier rounds have done, in ``[0, 1)``.
    """
    return config.lr * (0.5 + 0.5 * math.cos(math.pi * progress)) if config.decay == "cosine" else config.lr


def set_learning_rate(optimiser: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter; moments stay."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def moments(optimiser: Optimizer) -> dict[str, Tensor]:
    """A copy of the state on the CPU, ``{"<parameter index>/<name>": tensor}``; empty before the first step."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}/{name}": torch.as_tensor(value).detach().clone().cpu()
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_moments(optimiser: Optimizer, saved: dict[str, Tensor]) -> None:
    """Put back what `moments` gave, on the device of each parameter.

    Raises
    ------
    CheckpointError
        When a tensor belongs to no parameter or has another shape.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        index_text, _, name = key.partition("/")
        index = int(index_text) if index_text.isdigit() else -1
        if not 0 <= index < len(parameters):
            raise CheckpointError(f"moments of {len(parameters)} parameters", f"an entry named {key!r}")
        if value.ndim and value.shape != parameters[index].shape:
            raise CheckpointError(
                f"moments of shape {tuple(parameters[index].shape)}", str(tuple(value.shape)), f"entry {key!r}"
            )
        state.setdefault(index, {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
