"""The training loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tavit_flwr.errors import ModelError


def mse(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error over all elements, on the model's scale of [-1, 1] (paper).

    Parameters
    ----------
    restored, clean : Tensor
        Same shape, for example [B, 3, P, P].

    Returns
    -------
    Tensor
        A scalar that carries the gradient.

    Raises
    ------
    ModelError
        If the shapes differ; nothing is broadcast.
    """
    if restored.shape != clean.shape:
        raise ModelError(f"restored of the clean batch's shape {list(clean.shape)}", str(list(restored.shape)), "loss")
    return F.mse_loss(restored, clean)
