"""Building blocks of head and tail: residual block, linear attention, gate, time embedding, resampling.

The shapes and the order of operations are the paper's (they are those of the usual denoising-diffusion U-Net) and are
checked against reference outputs in ``tests/unit/models/test_official_golden.py``. Attribute names follow the published
state dicts. Shapes: B batch, C channels, H and W pixels, E time embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tavit_flwr.models.presets import Preset


def sinusoidal_embedding(time_step: int, batch: int, size: int, like: Tensor) -> Tensor:
    """Embed one constant time step for a whole batch, sines first (paper).

    Parameters
    ----------
    time_step : int
        The step, the same for every sample.
    batch : int
        Number of rows.
    size : int
        Even, at least 4.
    like : Tensor
        Gives device and dtype.

    Returns
    -------
    Tensor
        [B, size].
    """
    half = size // 2
    exponents = torch.arange(half, device=like.device, dtype=like.dtype) * (-math.log(10000.0) / (half - 1))
    angles = time_step * torch.exp(exponents)
    return torch.cat((angles.sin(), angles.cos())).repeat(batch, 1)


class Mish(nn.Module):
    """``x * tanh(softplus(x))``, one operation after the other as in the published code.

    torch's fused Mish is the same function with other last bits, which grow to 2e-4 in the gradient at the cut. A step
    of the `paper` preset takes as long with either, a forward pass 2 % longer with this one (1 CPU thread).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of x's shape."""
        return x * F.softplus(x).tanh_()


class ConvBlock(nn.Module):
    """conv3x3 - GroupNorm - Mish: [B, C_in, H, W] -> [B, C_out, H, W] (paper)."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.GroupNorm(groups, channels_out), Mish()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C_out, H, W]."""
        out: Tensor = self.block(x)
        return out


class ResidualBlock(nn.Module):
    """Two conv blocks, the time embedding added between them, and a shortcut (paper).

    The shortcut is a 1x1 convolution where the widths differ and the identity elsewhere.
    """

    def __init__(self, channels_in: int, channels_out: int, time_size: int, groups: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Mish(), nn.Linear(time_size, channels_out))
        self.block1 = ConvBlock(channels_in, channels_out, groups)
        self.block2 = ConvBlock(channels_out, channels_out, groups)
        same = channels_in == channels_out
        self.res_conv: nn.Module = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time_BE: Tensor) -> Tensor:
        """Return [B, C_out, H, W] for x [B, C_in, H, W]."""
        hidden = self.block1(x) + self.mlp(time_BE)[:, :, None, None]
        out: Tensor = self.block2(hidden) + self.res_conv(x)
        return out


class LinearAttention(nn.Module):
    """Attention whose cost grows linearly with H*W: softmax over positions, on the keys only, no scaling (paper)."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        hidden = heads * head_dim
        self.to_qkv = nn.Conv2d(channels, 3 * hidden, 1, bias=False)
        self.to_out = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H, W]."""
        batch, _, height, width = x.shape
        query, key, value = self.to_qkv(x).reshape(batch, 3, self.heads, -1, height * width).unbind(1)
        context = value @ key.softmax(dim=-1).transpose(-1, -2)
        out: Tensor = self.to_out((context @ query).reshape(batch, -1, height, width))
        return out


class Rezero(nn.Module):
    """A branch times one learned scalar ``g`` that starts at zero (paper)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.g = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``g * fn(x)``."""
        out: Tensor = self.fn(x) * self.g
        return out


class GatedAttention(nn.Module):
    """``x + g * attention(x)`` (paper)."""

    def __init__(self, channels: int, preset: Preset) -> None:
        super().__init__()
        self.fn = Rezero(LinearAttention(channels, preset.attention_heads, preset.attention_head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H, W]."""
        out: Tensor = x + self.fn(x)
        return out


class Downsample(nn.Module):
    """3x3 convolution of stride 2: halves an even grid (paper)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H/2, W/2]."""
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """4x4 transposed convolution of stride 2: doubles the grid (paper)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, 2H, 2W]."""
        out: Tensor = self.conv(x)
        return out


class ZeroConv2d(nn.Conv2d):
    """A convolution that `initialise_part` sets to zero, so that a residual branch starts at nothing (ours)."""


class Stage(nn.ModuleList):
    """One level of head or tail: two residual blocks and gated attention, then a change of grid, kept apart.

    A list rather than named attributes because the published state dicts number the four modules.
    """

    def __init__(self, channels_in: int, channels_out: int, resample: nn.Module, preset: Preset) -> None:
        super().__init__(
            [
                ResidualBlock(channels_in, channels_out, preset.width, preset.groups),
                ResidualBlock(channels_out, channels_out, preset.width, preset.groups),
                GatedAttention(channels_out, preset),
                resample,
            ]
        )

    def forward(self, x: Tensor, time_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stage's output before and after the change of grid."""
        before: Tensor = self[2](self[1](self[0](x, time_BE), time_BE))
        after: Tensor = self[3](before)
        return before, after
