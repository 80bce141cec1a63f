"""Bodies that are baselines of the Vision Transformer: convolutions, and nothing at all. Ours."""

from __future__ import annotations

from torch import Tensor, nn

from tavit_flwr.errors import ModelError
from tavit_flwr.models.blocks import ConvBlock
from tavit_flwr.models.presets import Preset


class ConvolutionalBody(nn.Module):
    """As many residual 3x3 convolutions as the transformer has layers: no attention, no positions.

    At the ``paper`` preset's size it has 18.9 million parameters beside the transformer's 17.0, at that of ``small``
    0.15 beside 0.22.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.blocks = nn.ModuleList(
            ConvBlock(preset.body_dim, preset.body_dim, preset.groups) for _ in range(preset.body_layers)
        )

    def forward(self, smashed_BDGG: Tensor) -> Tensor:
        """Return features of the activations' shape, [B, D, G, G]; `ModelError` if that does not fit."""
        _check(smashed_BDGG, self.preset)
        for block in self.blocks:
            smashed_BDGG = smashed_BDGG + block(smashed_BDGG)
        return smashed_BDGG


class IdentityBody(nn.Module):
    """No body: what the head sends comes back as it is, and nothing is trained."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset

    def forward(self, smashed_BDGG: Tensor) -> Tensor:
        """Return the activations themselves, [B, D, G, G]; `ModelError` if their shape does not fit."""
        _check(smashed_BDGG, self.preset)
        return smashed_BDGG


def _check(smashed: Tensor, preset: Preset) -> None:
    if smashed.dim() != 4 or smashed.shape[1] != preset.body_dim or min(smashed.shape) == 0:
        raise ModelError(f"activations [B, {preset.body_dim}, G, G]", str(list(smashed.shape)), "body")
