"""The client's half of a step: head forward, tail forward with loss, and the head's two gradient paths.

The head feeds the tail twice: through the body (its smashed activations cross the wire) and directly (skips and time
embedding, which never leave the client). Dropping either path still trains, wrongly. Both meet in `head_backward`,
in one backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tavit_flwr.errors import ModelError
from tavit_flwr.restoration import mse
from tavit_flwr.split.cut_gradients import backward_from
from tavit_flwr.split.devices import device_of
from tavit_flwr.split.precision import run


@dataclass(frozen=True)
class HeadPass:
    """The head's outputs of one step.

    Attributes
    ----------
    smashed : Tensor
        [B, D, G, G] with the head's graph when the head moves. `sent` is what crosses.
    local : tuple of Tensor
        Skips and time embedding, with the head's graph when the head moves.
    leaves : tuple of Tensor
        The same values cut from the head's graph: what the tail sees.
    """

    smashed: Tensor
    local: tuple[Tensor, ...]
    leaves: tuple[Tensor, ...]

    @property
    def sent(self) -> Tensor:
        """What crosses: the smashed activations without a graph, contiguous, on the CPU."""
        return self.smashed.detach().contiguous().cpu()


@dataclass(frozen=True)
class TailPass:
    """What the tail made of the body's features.

    Attributes
    ----------
    loss : Tensor
        Scalar, detached.
    restored : Tensor
        [B, C, P, P] in [-1, 1], detached.
    grad_features : Tensor
        d loss / d features, [B, D, G, G].
    grad_local : tuple of Tensor or None
        d loss / d (skips, time embedding); None where the tail uses nothing. Stays on the client.
    """

    loss: Tensor
    restored: Tensor
    grad_features: Tensor
    grad_local: tuple[Tensor | None, ...]

    @property
    def sent(self) -> Tensor:
        """What crosses: the gradient of the features, contiguous, on the CPU."""
        return self.grad_features.contiguous().cpu()


def head_forward(head: nn.Module, degraded_BCPP: Tensor, *, moves: bool) -> HeadPass:
    """Run the head on its device, wherever the batch lies; keep its graph only when it moves."""
    with torch.set_grad_enabled(moves):
        smashed, local = run(head, degraded_BCPP.to(device_of(head)))
    leaves = tuple(tensor.detach().requires_grad_(moves) for tensor in local)
    return HeadPass(smashed, tuple(local), leaves)


def tail_forward_backward(
    tail: nn.Module, features_BDGG: Tensor, head_pass: HeadPass, degraded_BCPP: Tensor, clean_BCPP: Tensor
) -> TailPass:
    """Run the tail and the loss, and the backward pass as far as the client can go alone.

    Gradients of the tail's parameters accumulate in ``.grad`` where the tail moves (its parameters require them).
    Features and batch are taken to the head pass's device.

    Raises
    ------
    ModelError
        When the features' shape is not that of the smashed activations.
    """
    if features_BDGG.shape != head_pass.smashed.shape:
        raise ModelError(
            f"features of shape {tuple(head_pass.smashed.shape)}",
            str(tuple(features_BDGG.shape)),
            hint="the body must keep the shape of what the head sends",
        )
    device = head_pass.smashed.device
    features = features_BDGG.detach().to(device).requires_grad_(True)
    with torch.enable_grad():
        restored = run(tail, features, head_pass.leaves, degraded_BCPP.to(device))
        loss = mse(restored, clean_BCPP.to(device))
    loss.backward()  # type: ignore[no-untyped-call]
    if features.grad is None:
        raise ModelError("a tail that uses the body's features", "a tail whose output does not depend on them")
    grad_local = tuple(leaf.grad for leaf in head_pass.leaves)
    return TailPass(loss.detach(), restored.detach(), features.grad, grad_local)


def head_backward(head_pass: HeadPass, grad_smashed_BDGG: Tensor, grad_local: tuple[Tensor | None, ...]) -> None:
    """Join the head's two gradient paths in one backward pass; gradients accumulate in the head's ``.grad``.

    A head without parameters has no graph, and nothing to learn.
    """
    if not head_pass.smashed.requires_grad and not any(tensor.requires_grad for tensor in head_pass.local):
        return
    outputs, gradients = [head_pass.smashed], [grad_smashed_BDGG.to(head_pass.smashed.device)]
    for tensor, gradient in zip(head_pass.local, grad_local, strict=True):
        if gradient is not None and tensor.requires_grad:
            outputs.append(tensor)
            gradients.append(gradient)
    backward_from(outputs, gradients)


@torch.no_grad()
def tail_restore(tail: nn.Module, features_BDGG: Tensor, head_pass: HeadPass, degraded_BCPP: Tensor) -> Tensor:
    """Run the tail for its output alone, [B, C, P, P], where the degraded windows lie: evaluation."""
    device = head_pass.smashed.device
    restored: Tensor = run(tail, features_BDGG.to(device), head_pass.leaves, degraded_BCPP.to(device))
    return restored.to(degraded_BCPP.device)
