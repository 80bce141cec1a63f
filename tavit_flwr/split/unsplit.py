"""The unsplit reference: the same model and step in one process, slow and obvious.

The laws compare the split step with this one, and benchmarks take its cost as the limit that no split can beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tavit_flwr.restoration import mse
from tavit_flwr.split.phases import Phase, set_moving
from tavit_flwr.split.precision import run
from tavit_flwr.split.server_side import cohort_weights


@dataclass
class UnsplitClient:
    """One client's parts and optimiser, beside the body they all share."""

    task: str
    head: nn.Module
    tail: nn.Module
    optimiser: Optimizer


def unsplit_forward(head: nn.Module, body: nn.Module, tail: nn.Module, degraded_BCPP: Tensor) -> Tensor:
    """Restore a batch through head, body and tail, [B, C, P, P]."""
    smashed, local = run(head, degraded_BCPP)
    restored: Tensor = run(tail, run(body, smashed), local, degraded_BCPP)
    return restored


def unsplit_step(
    clients: Sequence[UnsplitClient],
    body: nn.Module,
    body_optimiser: Optimizer | None,
    batches: Sequence[tuple[Tensor, Tensor]],
    phase: Phase,
    dropout_seed: int | None = None,
) -> list[Tensor]:
    """Step every part that moves in a phase, for all clients at once.

    Where the body moves, the cohort's smashed activations run through it as one batch and the loss is the cohort's
    weighted sum; each client's own parts receive the gradient of its own loss.

    Parameters
    ----------
    clients : sequence of UnsplitClient
        The cohort, in its fixed order.
    body, body_optimiser
        The shared body and, where it moves, its optimiser.
    batches : sequence of (degraded, clean)
        One pair of [B, C, P, P] tensors per client.
    phase : Phase
        Which parts move.
    dropout_seed : int, optional
        Seeds the body's dropout where the body moves.

    Returns
    -------
    list of Tensor
        Each client's loss, detached.
    """
    set_moving(body, phase.body_moves)
    for client in clients:
        set_moving(client.head, phase.client_moves)
        set_moving(client.tail, phase.client_moves)
        client.optimiser.zero_grad(set_to_none=True)
    if not phase.body_moves:
        losses = [
            mse(unsplit_forward(client.head, body, client.tail, degraded), clean)
            for client, (degraded, clean) in zip(clients, batches, strict=True)
        ]
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
    else:
        losses = _joint_losses(clients, body, batches, dropout_seed)
        weights = cohort_weights([client.task for client in clients])
        for parameter in body.parameters():
            parameter.grad = None
        total = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        for client, weight in zip(clients, weights, strict=True):
            for parameter in (*client.head.parameters(), *client.tail.parameters()):
                if parameter.grad is not None:
                    parameter.grad /= weight
        if body_optimiser is not None:
            body_optimiser.step()
    if phase.client_moves:
        for client in clients:
            client.optimiser.step()
    return [loss.detach() for loss in losses]


def _joint_losses(
    clients: Sequence[UnsplitClient],
    body: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    dropout_seed: int | None,
) -> list[Tensor]:
    outputs = [run(client.head, degraded) for client, (degraded, _) in zip(clients, batches, strict=True)]
    with torch.random.fork_rng(devices=[]):
        if dropout_seed is not None:
            torch.manual_seed(dropout_seed)
        features = run(body, torch.cat([smashed for smashed, _ in outputs]))
    pieces = features.split([len(degraded) for degraded, _ in batches])
    return [
        mse(run(client.tail, piece, local, degraded), clean)
        for client, (_, local), piece, (degraded, clean) in zip(clients, outputs, pieces, batches, strict=True)
    ]
