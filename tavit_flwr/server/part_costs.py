"""What the parts of a model cost: weights, and floating-point operations of a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tavit_flwr.models import Preset, build_body, build_head, build_tail

_QUICK_CROP = 64


@dataclass(frozen=True)
class PartCost:
    """One part.

    Attributes
    ----------
    flop : int
        Of the forward pass of one crop: two for each multiplication with its addition, in convolutions and matrix
        products.
    parameters : int
        How many weights it has.
    """

    flop: int
    parameters: int


@cache
def part_costs(preset: Preset, crop: int) -> tuple[PartCost, PartCost, PartCost]:
    """Count head, body and tail as one crop passes through them.

    A crop of the usual size does so for real: on the meta device operators import torch's compiler, which takes longer.
    """
    device = "cpu" if crop <= _QUICK_CROP else "meta"
    head, body, tail = (part.to(device).eval() for part in (build_head(preset), build_body(preset), build_tail(preset)))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # torch has no formula for the quick one
        for part in (head, body, tail):
            for weight in part.state_dict().values():
                weight.zero_()  # NaN is no place to take a value from, as a permuting head does
        degraded = torch.zeros(1, 3, crop, crop, device=device)
        with _Flops() as of_head:
            smashed, local = head(degraded)
        with _Flops() as of_body:
            features = body(smashed)
        with _Flops() as of_tail:
            tail(features, local, degraded)
    counted = ((head, of_head), (body, of_body), (tail, of_tail))
    one, two, three = (
        PartCost(counter.total, sum(weight.numel() for weight in part.parameters())) for part, counter in counted
    )
    return one, two, three


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts as torch's ``FlopCounterMode`` does, by its formulas, without importing torch's compiler.

    That import takes two seconds, and every run counts before it begins.

    Attributes
    ----------
    total : int
        Of what was called within the context; a multiplication and an addition are two.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch would wrap the method below in what imports the compiler
        return False

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operator of torch
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what the operator gives
        """Call the operator, and count it."""
        named = dict(kwargs or {})
        made = func(*args, **named)
        formula: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **named, out_val=made)
        return made
