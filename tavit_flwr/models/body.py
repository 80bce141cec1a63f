"""The server's task-agnostic body: a Vision Transformer on the grid at the cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tavit_flwr.errors import ModelError
from tavit_flwr.models.presets import Preset


class _GridToTokens(torch.autograd.Function):
    """[B, D, G, G] -> [T, B, D], row by row, with a gradient that is contiguous as it would be off the wire.

    The plain permutation returns a strided gradient; convolutions then take another kernel, and the unsplit model would
    differ from the split one in the last bits.
    """

    @staticmethod
    def forward(ctx: Any, grid_BDGG: Tensor) -> Tensor:  # noqa: ANN401 - torch's untyped context
        ctx.grid = grid_BDGG.shape
        return grid_BDGG.flatten(2).permute(2, 0, 1)

    @staticmethod
    def backward(ctx: Any, grad_TBD: Tensor) -> Tensor:  # noqa: ANN401 - torch's untyped context
        return grad_TBD.permute(1, 2, 0).reshape(ctx.grid).contiguous()


_to_tokens: Callable[[Tensor], Tensor] = _GridToTokens.apply


class Body(nn.Module):
    """Learned additive positions, then stock post-norm encoder layers (paper: 97 tensors, 16,953,344 parameters).

    Tokens are the grid's cells, row by row. The grid is read from the input, not from the preset; for another grid
    than the training crop's the positions are interpolated bicubically (ours). Dropout draws from torch's global
    generator, as every stock module does.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.pos_embedding = nn.Parameter(torch.zeros(preset.grid**2, 1, preset.body_dim))
        layer = nn.TransformerEncoderLayer(
            preset.body_dim, preset.body_heads, preset.body_ffn, preset.body_dropout, activation="relu"
        )
        # batch_first=False and no nested tensors keep torch's fused inference path away: the same arithmetic with and
        # without gradients, in train and eval mode.
        self.transformer = nn.TransformerEncoder(layer, preset.body_layers, norm=None, enable_nested_tensor=False)

    def forward(self, smashed_BDGG: Tensor) -> Tensor:
        """Map activations at the cut to features.

        Parameters
        ----------
        smashed_BDGG : Tensor
            [B, D, G, G]; height and width of the grid may differ.

        Returns
        -------
        Tensor
            [B, D, G, G].

        Raises
        ------
        ModelError
            If the shape does not fit, before any work.
        """
        if smashed_BDGG.dim() != 4 or smashed_BDGG.shape[1] != self.preset.body_dim or min(smashed_BDGG.shape) == 0:
            raise ModelError(f"activations [B, {self.preset.body_dim}, G, G]", str(list(smashed_BDGG.shape)), "body")
        height, width = smashed_BDGG.shape[2:]
        tokens_TBD = _to_tokens(smashed_BDGG) + self.positions(height, width)
        out: Tensor = self.transformer(tokens_TBD)
        return out.permute(1, 2, 0).reshape(smashed_BDGG.shape).contiguous()

    def positions(self, height: int, width: int) -> Tensor:
        """Return the positional embedding for a grid, [height*width, 1, D]: the parameter itself where grids agree."""
        grid = self.preset.grid
        if (height, width) == (grid, grid):
            return self.pos_embedding
        square = self.pos_embedding.permute(1, 2, 0).reshape(1, -1, grid, grid)
        resized = F.interpolate(square, (height, width), mode="bicubic", align_corners=False)
        return resized.flatten(2).permute(2, 0, 1)
