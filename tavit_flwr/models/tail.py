"""The client's private tail: the body's features in, a restored crop out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from tavit_flwr.errors import ModelError
from tavit_flwr.models.blocks import ConvBlock, Stage, Upsample, ZeroConv2d
from tavit_flwr.models.permuted import restored_order
from tavit_flwr.models.presets import Preset


class Tail(nn.Module):
    """U-Net decoder that adds the skips (paper: 62 tensors, 5,610,629 parameters)."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        widths = preset.widths[::-1]
        self.ups = nn.ModuleList(Stage(before, after, Upsample(after), preset) for before, after in pairwise(widths))
        last = ZeroConv2d if preset.global_residual else nn.Conv2d
        finest = preset.widths[0]
        self.final_conv = nn.Sequential(ConvBlock(finest, finest, preset.groups), last(finest, 3, 1))

    def forward(self, features_BDGG: Tensor, local: Sequence[Tensor], degraded_BCPP: Tensor) -> Tensor:
        """Decode a batch.

        Parameters
        ----------
        features_BDGG : Tensor
            The body's output, [B, D, G, G].
        local : sequence of Tensor
            `HeadOutput.local` of the same batch: skips, finest first, then the time embedding [B, E]; of a permuting
            head the order of the tokens too, which is undone here.
        degraded_BCPP : Tensor
            The batch that the head saw, [B, 3, P, P] in [-1, 1]. Unused without `Preset.global_residual` (paper).

        Returns
        -------
        Tensor
            [B, 3, P, P]: in [-1, 1] by tanh (paper); ``degraded + residual``, unbounded, with a global residual
            (ours).

        Raises
        ------
        ModelError
            If the shapes do not fit each other, before any work.
        """
        self._check(features_BDGG, local, degraded_BCPP)
        if self.preset.head_kind == "permuted":
            *local, order_BT = local
            features_BDGG = restored_order(features_BDGG, order_BT)
        *skips, time_BE = local
        x = features_BDGG
        for stage in self.ups:
            _, x = stage(x + skips.pop(), time_BE)
        if self.preset.use_finest_skip:
            x = x + skips.pop()
        out: Tensor = self.final_conv(x)
        return degraded_BCPP + out if self.preset.global_residual else out.tanh()

    def _check(self, features: Tensor, local: Sequence[Tensor], degraded: Tensor) -> None:
        preset = self.preset
        batch, height, width = degraded.shape[0], degraded.shape[-2], degraded.shape[-1]
        expected = [[batch, channels, height >> level, width >> level] for level, channels in enumerate(preset.widths)]
        wanted = [expected[-1], *expected[0 if preset.use_finest_skip else 1 :], [batch, preset.width]]
        if preset.head_kind == "permuted":
            wanted.append([batch, expected[-1][2] * expected[-1][3]])
        got = [list(features.shape), *(list(tensor.shape) for tensor in local)]
        if list(degraded.shape) != [batch, 3, height, width] or got != wanted:
            raise ModelError(
                f"degraded [B, 3, P, P]; features, skips and time embedding {wanted}",
                f"degraded {list(degraded.shape)}; {got}",
                "tail",
                "give the tail `HeadOutput.local` of the same batch",
            )
