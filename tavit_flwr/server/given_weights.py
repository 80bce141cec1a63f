"""A run that starts from weights of before: a run's, or imported ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from tavit_flwr.config import TavitConfig
from tavit_flwr.errors import CheckpointError, ConfigError
from tavit_flwr.models import Preset, preset
from tavit_flwr.models.stored import Part, StoredWeights, describe
from tavit_flwr.server.aggregation import State, Weights, check_state

logger = logging.getLogger("flwr")

_KEY = "configuration key 'initial_weights'"


def find_given(config: TavitConfig) -> StoredWeights:
    """Find the weights that ``initial_weights`` names and check that the run can start from them; reads no tensor.

    Raises
    ------
    CheckpointError
        If there are none, or a task or body of the run is not among them and not in ``initial_fresh`` either.
    ConfigError
        If they are of another architecture or time step.
    """
    stored = describe(Path(config.initial_weights).expanduser())
    own = preset(config.model.preset, **config.model.overrides)
    if stored.preset != own:
        raise ConfigError(f"the stored architecture, {_shown(stored.preset, own)}", _shown(own, stored.preset), _KEY)
    if stored.time_step != config.model.time_step:
        raise ConfigError(f"the stored model.time_step={stored.time_step}", str(config.model.time_step), _KEY)
    missing = [f"{part} of '{owner}'" for part, owner in _wanted(config) if owner not in stored.owners(part)]
    if missing:
        raise CheckpointError(
            "weights for all tasks and bodies that are not in initial_fresh",
            f"no {', no '.join(missing)}; {stored.there()}", str(stored.folder),
            "what shall be drawn from the seed must be named in initial_fresh",
        )  # fmt: skip
    return stored


def with_given(drawn: Weights, config: TavitConfig) -> Weights:
    """Replace drawn parts by the stored ones that the run takes, tensor by tensor checked.

    Raises
    ------
    TavitError
        As `find_given`; and where tensors are missing, of another shape, or not finite.
    """
    stored = find_given(config)
    result = Weights(dict(drawn.bodies), dict(drawn.heads), dict(drawn.tails))
    groups: Mapping[Part, dict[str, State]] = {"body": result.bodies, "head": result.heads, "tail": result.tails}
    for part, owner in _wanted(config):
        state = stored.state(part, owner)
        check_state(state, groups[part][owner], f"{part} of '{owner}' in {stored.folder}")
        groups[part][owner] = state
        logger.info("initial weights: %s of '%s' from %s", part, owner, stored.folder)
    for name in config.initial_fresh:
        logger.info("initial weights: '%s' drawn from the seed", name)
    return result


def _wanted(config: TavitConfig) -> list[tuple[Part, str]]:
    """Parts that come from the stored weights, with their owners."""
    identity = preset(config.model.preset, **config.model.overrides).body_kind == "identity"
    bodies = [] if identity else sorted({task.body for task in config.tasks.values()})
    wanted: list[tuple[Part, str]] = [("body", name) for name in bodies]
    for task in config.tasks:
        wanted += [("head", task), ("tail", task)]
    return [(part, owner) for part, owner in wanted if owner not in config.initial_fresh]


def _shown(one: Preset, other: Preset) -> str:
    """Fields of an architecture in which it differs from another."""
    return ", ".join(
        f"{field.name}={getattr(one, field.name)}"
        for field in fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    )
