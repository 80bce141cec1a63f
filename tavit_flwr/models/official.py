"""Import of the published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tavit_flwr.errors import ModelError
from tavit_flwr.models.parts import Parts

_TYPES = (torch.float32, torch.float16, torch.bfloat16)  # float32 holds each of their values


def load_official(parts: Parts, state_dicts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Fill parts with published state dicts; nothing is changed unless everything fits.

    Read a downloaded file with ``torch.load(path, map_location="cpu", weights_only=True)``.

    Parameters
    ----------
    parts : Parts
        Built from the ``paper`` preset; changed in place.
    state_dicts : mapping of str to mapping of str to Tensor
        Keys ``head``, ``body`` and ``tail``; tensors under their published names.

    Raises
    ------
    ModelError
        If a part or a tensor is missing, unexpected, of another shape, of a type that float32 cannot hold, or not
        finite: all of them are listed.
    """
    parts_by_name = {name: getattr(parts, name) for name in ("head", "body", "tail")}
    if set(state_dicts) != set(parts_by_name):
        raise ModelError("state dicts for head, body and tail", ", ".join(sorted(state_dicts)) or "none")
    found = [fault for name, part in parts_by_name.items() for fault in faults(name, part, state_dicts[name])]
    refuse_faults(found, f"preset {parts.preset.name!r}")
    with torch.no_grad():
        for name, part in parts_by_name.items():
            for key, parameter in part.named_parameters():
                parameter.copy_(state_dicts[name][key])


def refuse_faults(found: Sequence[str], where: str) -> None:
    """Raise one `ModelError` that lists everything that `faults` found."""
    if found:
        raise ModelError(
            "the published tensors, name by name and shape by shape",
            "; ".join(found),
            where,
            "build the parts from the 'paper' preset and give the state dict of each part as published",
        )


def faults(name: str, part: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """List what keeps a state dict from filling a part; `name` is how the part is called."""
    target = dict(part.named_parameters())
    found = [f"missing {name}/{key}" for key in target if key not in given]
    found += [f"unexpected {name}/{key}" for key in given if key not in target]
    for key, wanted in target.items():
        value = given.get(key)
        if key in given and not isinstance(value, Tensor):
            found.append(f"not a tensor {name}/{key}")
        elif value is not None and value.shape != wanted.shape:
            found.append(f"wrong shape {name}/{key} {list(value.shape)} instead of {list(wanted.shape)}")
        elif value is not None and value.dtype not in _TYPES:
            found.append(f"wrong type {name}/{key} {value.dtype}")
        elif value is not None and not bool(torch.isfinite(value).all()):
            found.append(f"not finite {name}/{key}")
    return found
