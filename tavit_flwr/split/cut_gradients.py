"""Backward passes that begin with gradients from elsewhere, as all do at a cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


class _Cut(torch.autograd.Function):
    """A scalar whose gradient is 1, and behind it the tensors whose gradients are known."""

    @staticmethod
    def forward(ctx: FunctionCtx, gradients: Sequence[Tensor], *outputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: FunctionCtx, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.saved_tensors  # type: ignore[attr-defined]


def gradient_from(output: Tensor, gradient: Tensor, leaf: Tensor) -> Tensor:
    """What ``torch.autograd.grad(output, leaf, gradient)`` gives; see `backward_from`."""
    return torch.autograd.grad(_Cut.apply([gradient], output), leaf)[0]  # type: ignore[no-untyped-call]


def backward_from(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """What ``torch.autograd.backward(outputs, gradients)`` does, to the bit.

    Given gradients, torch's own imports sympy to compare their shapes: about a second of every client's process.

    Raises
    ------
    RuntimeError
        When a gradient has another shape than its output.
    """
    _Cut.apply(gradients, *outputs).backward()  # type: ignore[no-untyped-call]
