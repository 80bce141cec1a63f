"""The one place that initialises weights.

Every tensor is drawn from a generator of its own, named by the caller's path and the tensor's name: nothing depends on
the order of construction, and torch's global generator is neither read nor moved. The record is silent on the paper's
initialisation; the distributions are PyTorch's defaults except where said.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tavit_flwr.errors import ModelError
from tavit_flwr.models.blocks import Rezero, ZeroConv2d
from tavit_flwr.models.body import Body
from tavit_flwr.models.permuted import PermutedHead
from tavit_flwr.seeding import generator

_POSITION_STD = 0.02  # ours, the usual value for Vision Transformers


def initialise_part(part: nn.Module, seed: int, *path: str | int) -> None:
    """Set every weight of a part in place.

    Convolutions and linear layers: uniform within ``1/sqrt(fan_in)``, weight and bias; the fixed projection of a
    `PermutedHead` likewise. Attention's projection in: Xavier uniform; attention's biases 0. Norms: 1 and 0. Gates and
    `ZeroConv2d`: 0. Positions: normal, std 0.02.
    With a `ZeroConv2d` at the end of a tail no gradient passes it in the very first step: the step moves that
    convolution only, and everything learns from the second step on.

    Parameters
    ----------
    part : nn.Module
        A head, body or tail.
    seed : int
        The run's seed.
    *path : str or int
        Names the part, for example ``"head", "denoise"``. Equal seed and path give equal weights.

    Raises
    ------
    ModelError
        If the part holds a parameter that no rule covers.
    """
    covered: set[str] = set()
    for prefix, module in part.named_modules():
        start = f"{prefix}." if prefix else ""
        for name, value in _draw(module, start, seed, path).items():
            with torch.no_grad():
                getattr(module, name).copy_(value)
            covered.add(start + name)
    missing = [name for name, _ in part.named_parameters() if name not in covered]
    if missing:
        raise ModelError("a rule for every parameter", f"none for {', '.join(missing)}", "initialise_part")


def _draw(module: nn.Module, prefix: str, seed: int, path: tuple[str | int, ...]) -> dict[str, Tensor]:
    """Values for the parameters that `module` itself owns (not its children); `prefix` is its name and a dot."""

    def uniform(name: str, shape: torch.Size, bound: float) -> Tensor:
        return torch.empty(shape).uniform_(-bound, bound, generator=generator(seed, "init", *path, prefix + name))

    values: dict[str, Tensor] = {}
    if isinstance(module, ZeroConv2d | Rezero):
        values = {name: torch.zeros(value.shape) for name, value in module.named_parameters(recurse=False)}
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        bound = 1.0 / math.sqrt(module.weight[0].numel())
        values = {name: uniform(name, value.shape, bound) for name, value in module.named_parameters(recurse=False)}
        if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):  # attention's projection out
            values["bias"] = torch.zeros(module.bias.shape)
    elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
        values = {"weight": torch.ones(module.weight.shape), "bias": torch.zeros(module.bias.shape)}
    elif isinstance(module, nn.MultiheadAttention):
        weight, bias = module.get_parameter("in_proj_weight"), module.get_parameter("in_proj_bias")
        bound = math.sqrt(6.0 / sum(weight.shape))
        values = {
            "in_proj_weight": uniform("in_proj_weight", weight.shape, bound),
            "in_proj_bias": torch.zeros(bias.shape),
        }
    elif isinstance(module, PermutedHead):
        draws = generator(seed, "init", *path, prefix + "key")
        values = {
            "weight": uniform("weight", module.weight.shape, 1.0 / math.sqrt(module.weight[0].numel())),
            "key": torch.randint(2**24, (1,), generator=draws).float(),
        }
    elif isinstance(module, Body):
        draws = generator(seed, "init", *path, prefix + "pos_embedding")
        shape = module.pos_embedding.shape
        values = {"pos_embedding": torch.empty(shape).normal_(0.0, _POSITION_STD, generator=draws)}
    return values
