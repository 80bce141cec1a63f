"""A head that learns nothing: fixed patch embedding, tokens in random order. A baseline after p-FeSTA; ours in detail.

Park and Ye, "Multi-Task Distributed Learning using Vision Transformer with Random Patch Permutation", IEEE TMI 2023.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tavit_flwr.models.head import HeadOutput, check_batch
from tavit_flwr.models.presets import Preset
from tavit_flwr.seeding import generator


class PermutedHead(nn.Module):
    """Embeds each patch of one grid cell by a fixed random projection, and shuffles the tokens of each image.

    The permutation of an image is a function of the head's key and of the image's values, so that a repeated step finds
    it again; it stays on the client, where the tail undoes it. No skip is given: the tail gets zeros in their place.

    Attributes
    ----------
    weight : Tensor
        [D, 3, S, S], S being `Preset.scale`; a buffer, like the key: neither is ever trained.
    key : Tensor
        [1], a whole number: the seed of all permutations.
    """

    weight: Tensor
    key: Tensor

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.register_buffer("weight", torch.zeros(preset.body_dim, 3, preset.scale, preset.scale))
        self.register_buffer("key", torch.zeros(1))

    def forward(self, degraded_BCPP: Tensor) -> HeadOutput:
        """Embed and permute a batch, [B, 3, P, P]; `ModelError` if the shape does not fit.

        Returns
        -------
        HeadOutput
            The tokens in their new order; locally zeros for skips and time embedding, and the order, [B, T].
        """
        check_batch(degraded_BCPP, self.preset.scale)
        grid_BDGG = F.conv2d(degraded_BCPP, self.weight, stride=self.preset.scale)
        order_BT = self.orders(degraded_BCPP, grid_BDGG.shape[2] * grid_BDGG.shape[3])
        batch, _, height, width = degraded_BCPP.shape
        skips = [
            degraded_BCPP.new_zeros(batch, channels, height >> level, width >> level)
            for level, channels in enumerate(self.preset.widths)
        ]
        used = skips if self.preset.use_finest_skip else skips[1:]
        time_BE = degraded_BCPP.new_zeros(batch, self.preset.width)
        return HeadOutput(reordered(grid_BDGG, order_BT), (*used, time_BE, order_BT))

    def orders(self, degraded_BCPP: Tensor, tokens: int) -> Tensor:
        """Draw each image's permutation, [B, T] in floating point, as everything that a tail gets."""
        if degraded_BCPP.is_meta:  # when operations are counted
            return degraded_BCPP.new_zeros(len(degraded_BCPP), tokens)
        digests = [hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).hexdigest() for image in degraded_BCPP]
        seed = int(self.key.item())
        drawn = [torch.randperm(tokens, generator=generator(seed, "permutation", digest)) for digest in digests]
        return torch.stack(drawn).to(degraded_BCPP)


def reordered(grid_BDGG: Tensor, order_BT: Tensor) -> Tensor:
    """Put token ``order[t]`` in place ``t``, row by row."""
    index = order_BT.long().unsqueeze(1).expand(-1, grid_BDGG.shape[1], -1)
    return grid_BDGG.flatten(2).gather(2, index).reshape(grid_BDGG.shape)


def restored_order(grid_BDGG: Tensor, order_BT: Tensor) -> Tensor:
    """Undo `reordered`."""
    return reordered(grid_BDGG, order_BT.long().argsort(dim=1))
