"""Import of the published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

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
    targets = {name: dict(getattr(parts, name).named_parameters()) for name in ("head", "body", "tail")}
    if set(state_dicts) != set(targets):
        raise ModelError("state dicts for head, body and tail", ", ".join(sorted(state_dicts)) or "none")
    faults = [fault for name in targets for fault in _compare(name, targets[name], state_dicts[name])]
    if faults:
        raise ModelError(
            "the published tensors, name by name and shape by shape",
            "; ".join(faults),
            f"preset {parts.preset.name!r}",
            "build the parts from the 'paper' preset and give the state dict of each part as published",
        )
    with torch.no_grad():
        for name, target in targets.items():
            for key, parameter in target.items():
                parameter.copy_(state_dicts[name][key])


def _compare(part: str, target: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    faults = [f"missing {part}/{key}" for key in target if key not in given]
    faults += [f"unexpected {part}/{key}" for key in given if key not in target]
    for key, wanted in target.items():
        value = given.get(key)
        if key in given and not isinstance(value, Tensor):
            faults.append(f"not a tensor {part}/{key}")
        elif value is not None and value.shape != wanted.shape:
            faults.append(f"wrong shape {part}/{key} {list(value.shape)} instead of {list(wanted.shape)}")
        elif value is not None and value.dtype not in _TYPES:
            faults.append(f"wrong type {part}/{key} {value.dtype}")
        elif value is not None and not bool(torch.isfinite(value).all()):
            faults.append(f"not finite {part}/{key}")
    return faults
