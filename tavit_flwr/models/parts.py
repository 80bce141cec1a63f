"""Construction of heads, bodies and tails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tavit_flwr.models.body import Body
from tavit_flwr.models.head import Head
from tavit_flwr.models.initialise import initialise_part
from tavit_flwr.models.other_bodies import ConvolutionalBody, IdentityBody
from tavit_flwr.models.permuted import PermutedHead
from tavit_flwr.models.presets import Preset
from tavit_flwr.models.presets import preset as find_preset
from tavit_flwr.models.tail import Tail

_Part = TypeVar("_Part", bound=nn.Module)

#: A head of any kind, see `Preset`.
AnyHead = Head | PermutedHead

#: A body of any kind, see `Preset`.
AnyBody = Body | ConvolutionalBody | IdentityBody


@dataclass
class Parts:
    """A head, a body and a tail of one preset."""

    head: AnyHead
    body: AnyBody
    tail: Tail
    preset: Preset


def head_of(preset: Preset, time_step: int = 0) -> AnyHead:
    """Construct the kind of head that a preset asks for, with weights of torch's own."""
    return PermutedHead(preset) if preset.head_kind == "permuted" else Head(preset, time_step)


def build_head(preset: Preset, time_step: int = 0) -> AnyHead:
    """Build a head whose weights are all NaN until `initialise_part` or a state dict sets them.

    Cheap: nothing is drawn. NaN, so that a forgotten initialisation cannot pass for a trained or random model.

    Parameters
    ----------
    preset : Preset
        The architecture.
    time_step : int, default 0
        See `Head`.

    Returns
    -------
    Head or PermutedHead
        In train mode, on the CPU, float32.
    """
    return _without_weights(lambda: head_of(preset, time_step))


def body_of(preset: Preset) -> AnyBody:
    """Construct the kind of body that a preset asks for, with weights of torch's own."""
    match preset.body_kind:
        case "identity":
            return IdentityBody(preset)
        case "convolutional":
            return ConvolutionalBody(preset)
        case _:
            return Body(preset)


def build_body(preset: Preset) -> AnyBody:
    """Build a body whose weights are all NaN until set (see `build_head`)."""
    return _without_weights(lambda: body_of(preset))


def build_tail(preset: Preset) -> Tail:
    """Build a tail whose weights are all NaN until set (see `build_head`)."""
    return _without_weights(lambda: Tail(preset))


def build_parts(
    preset: str | Preset = "paper",
    time_step: int = 0,
    seed: int = 0,
    **overrides: Any,  # noqa: ANN401 - values come from configuration, checked by Preset
) -> Parts:
    """Build and initialise all three parts.

    Parameters
    ----------
    preset : str or Preset, default "paper"
        ``tiny``, ``small``, ``paper``, or an architecture of your own.
    time_step : int, default 0
        See `Head`.
    seed : int, default 0
        The parts are initialised under the paths ``head``, ``body`` and ``tail``.
    **overrides
        Fields of `Preset` to replace.

    Returns
    -------
    Parts
        In train mode, on the CPU, float32.

    Raises
    ------
    ConfigError
        If the preset or a field is unknown or out of range.
    """
    start = preset if isinstance(preset, Preset) else find_preset(preset)
    chosen = start.replaced(**overrides)
    parts = Parts(build_head(chosen, time_step), build_body(chosen), build_tail(chosen), chosen)
    initialise_part(parts.head, seed, "head")
    initialise_part(parts.body, seed, "body")
    initialise_part(parts.tail, seed, "tail")
    return parts


def _without_weights(make: Callable[[], _Part]) -> _Part:
    """Construct on the meta device, so that no module draws weights of its own, and fill with NaN.

    Not with ``to_empty``: on meta tensors it imports sympy, which takes a second of every process of a client.
    """
    with torch.device("meta"), _NothingDrawn():
        part = make()
    part._apply(_full_of_nan)  # type: ignore[no-untyped-call]
    return part


class _NothingDrawn(TorchFunctionMode):
    """Skips torch's initialisation: even on the meta device, drawing nothing, it is most of a construction's time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as torch has it
        named = dict(kwargs or {})
        if func in _DRAWING:
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


_DRAWING = frozenset({nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.uniform_, Tensor.normal_})


def _full_of_nan(like: Tensor) -> Tensor:
    return torch.full(like.shape, float("nan"), dtype=like.dtype, device="cpu")
