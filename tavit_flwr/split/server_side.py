"""The server's half of a step: body forward, body backward, and the cohort's weighted gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tavit_flwr.split.cut_gradients import backward_from, gradient_from
from tavit_flwr.split.devices import device_of
from tavit_flwr.split.precision import run


@dataclass(frozen=True)
class BodyPass:
    """One forward pass of a body, kept until its gradient comes back.

    Attributes
    ----------
    leaf : Tensor
        The smashed activations, [B, D, G, G], as a leaf of the graph.
    features : Tensor
        The body's output with its graph.
    moves : bool
        Whether the backward pass is also for the body's parameters.
    """

    leaf: Tensor
    features: Tensor
    moves: bool

    @property
    def sent(self) -> Tensor:
        """What crosses: the features without a graph, contiguous, on the CPU."""
        return self.features.detach().contiguous().cpu()


def body_forward(body: nn.Module, smashed_BDGG: Tensor, *, input_gradient: bool, moves: bool) -> BodyPass:
    """Run a body, keeping the graph that the phase needs and no more.

    Parameters
    ----------
    body : nn.Module
        Already put in the phase's mode by `set_moving`.
    smashed_BDGG : Tensor
        Activations at the head's cut, taken to the body's device.
    input_gradient : bool
        Whether the gradient of the smashed activations will be asked for (not in the task-agnostic phase).
    moves : bool
        Whether gradients of the body's parameters will be asked for.
    """
    leaf = smashed_BDGG.detach().to(device_of(body)).requires_grad_(input_gradient)
    with torch.set_grad_enabled(input_gradient or moves):
        features = run(body, leaf)
    return BodyPass(leaf, features, moves)


def body_backward(body_pass: BodyPass, grad_features_BDGG: Tensor) -> Tensor | None:
    """Run the body backward on its device.

    Parameter gradients accumulate where the body moved when it ran forward, and only there.

    Returns
    -------
    Tensor or None
        d loss / d smashed on the CPU, or None where the forward pass did not ask for it.
    """
    gradient = grad_features_BDGG.to(body_pass.features.device)
    if not body_pass.moves:  # by then the body may be in another phase: its parameters must not collect anything
        return gradient_from(body_pass.features, gradient, body_pass.leaf).cpu()
    backward_from([body_pass.features], [gradient])
    return None if body_pass.leaf.grad is None else body_pass.leaf.grad.cpu()


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Several clients' tensors as one batch; a single one is not copied."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


def cohort_weights(tasks: Sequence[str]) -> list[float]:
    """Weight of each client in a cohort: mean over the clients of a task, then over the tasks.

    FeSTA, NeurIPS 2021, Algorithm 1; our choice for TAViT, whose record is silent.

    Parameters
    ----------
    tasks : sequence of str
        The task of each client.

    Returns
    -------
    list of float
        In the same order; sums to one.
    """
    sizes = Counter(tasks)
    return [1.0 / (len(sizes) * sizes[task]) for task in tasks]
