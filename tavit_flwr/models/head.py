"""The client's private head: a degraded crop in, the activations at the cut out."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from tavit_flwr.errors import ConfigError, ModelError
from tavit_flwr.models.blocks import Downsample, GatedAttention, Mish, ResidualBlock, Stage, sinusoidal_embedding
from tavit_flwr.models.presets import Preset


class HeadOutput(NamedTuple):
    """What a head returns; every tensor hangs on the head's graph.

    Attributes
    ----------
    smashed : Tensor
        [B, D, G, G], the only tensor of the two that may leave the client.
    local : tuple of Tensor
        What the tail needs from the head, never sent: the skips the tail uses, finest first, then the time embedding
        [B, E]. The paper's tail does not use the finest skip, so it is not among them there. Each carries a gradient
        back to the head, the time embedding too: the head's `mlp` makes it and the tail's blocks use it. Of a
        permuting head also the order of the tokens, [B, T].
    """

    smashed: Tensor
    local: tuple[Tensor, ...]


class Head(nn.Module):
    """U-Net encoder (paper: 110 tensors, 22,341,892 parameters).

    Parameters
    ----------
    preset : Preset
        The architecture.
    time_step : int, default 0
        The constant time step. The embedding is a left-over of the diffusion U-Net; the released code draws a random
        step per sample, which makes its outputs irreproducible. We draw none (our choice).

    Raises
    ------
    ConfigError
        If the time step is not an integer of at least 0.
    """

    def __init__(self, preset: Preset, time_step: int = 0) -> None:
        super().__init__()
        if isinstance(time_step, bool) or not isinstance(time_step, int) or time_step < 0:
            raise ConfigError("time_step: an integer of at least 0", repr(time_step))
        self.preset = preset
        self.time_step = time_step
        size, groups = preset.width, preset.groups
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), Mish(), nn.Linear(4 * size, size))
        last = len(preset.widths) - 1
        self.downs = nn.ModuleList(
            Stage(before, width, nn.Identity() if level == last else Downsample(width), preset)
            for level, (before, width) in enumerate(zip((3, *preset.widths[:-1]), preset.widths, strict=True))
        )
        self.mid_block1 = ResidualBlock(preset.body_dim, preset.body_dim, size, groups)
        self.mid_attn = GatedAttention(preset.body_dim, preset)
        self.mid_block2 = ResidualBlock(preset.body_dim, preset.body_dim, size, groups)

    def forward(self, degraded_BCPP: Tensor) -> HeadOutput:
        """Encode a batch.

        Parameters
        ----------
        degraded_BCPP : Tensor
            [B, 3, P, P] in [-1, 1]; P may differ between height and width, both multiples of `Preset.scale`.

        Returns
        -------
        HeadOutput
            The activations at the cut, and what stays on the client for the tail.

        Raises
        ------
        ModelError
            If the shape does not fit, before any work.
        """
        check_batch(degraded_BCPP, self.preset.scale)
        time_BE = self.mlp(sinusoidal_embedding(self.time_step, len(degraded_BCPP), self.preset.width, degraded_BCPP))
        x, skips = degraded_BCPP, []
        for stage in self.downs:
            skip, x = stage(x, time_BE)
            skips.append(skip)
        smashed = self.mid_block2(self.mid_attn(self.mid_block1(x, time_BE)), time_BE)
        used = skips if self.preset.use_finest_skip else skips[1:]
        return HeadOutput(smashed, (*used, time_BE))


def check_batch(degraded: Tensor, scale: int) -> None:
    """Raise `ModelError` unless this is a batch of colour images whose sides are multiples of `scale`."""
    fits = degraded.dim() == 4 and degraded.shape[1] == 3 and min(degraded.shape) > 0
    if not fits or degraded.shape[2] % scale or degraded.shape[3] % scale:
        raise ModelError(f"a batch [B, 3, P, P] with sides multiples of {scale}", str(list(degraded.shape)), "head")
