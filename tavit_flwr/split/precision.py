"""In which type parts compute: float32, or bfloat16 where it is asked for and torch has it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tavit_flwr.config import BFLOAT16
from tavit_flwr.split.devices import device_of

_MARK = "tavit_autocast"


def set_precision(part: nn.Module, autocast: str) -> None:
    """Let a part compute as ``compute.autocast`` says; its weights, gradients and outputs are float32 in any case."""
    setattr(part, _MARK, autocast == BFLOAT16)


def run(part: nn.Module, *inputs: Any) -> Any:  # noqa: ANN401 - whatever the part takes and gives
    """Call a part in its own precision.

    What it gives is float32, so that all that follows is, too; under autocast named tuples become plain ones.
    """
    autocasts = getattr(part, _MARK, False)
    context: AbstractContextManager[object] = (
        torch.autocast(device_of(part).type, torch.bfloat16) if autocasts else nullcontext()
    )
    with context:
        outputs = part(*inputs)
    return _float32(outputs) if autocasts else outputs


def _float32(outputs: Any) -> Any:  # noqa: ANN401 - a tensor, or tensors in tuples and lists
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, Sequence):
        return tuple(_float32(one) for one in outputs)
    return outputs
