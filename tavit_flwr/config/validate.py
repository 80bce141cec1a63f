"""Check what types cannot: choices, ranges, and keys that only make sense together."""

from __future__ import annotations

import math
import re

from omegaconf import OmegaConf

from tavit_flwr.config.choices import nearest, one_of
from tavit_flwr.config.schema import TavitConfig
from tavit_flwr.config.sources import SOURCES, check_images, images_of
from tavit_flwr.errors import ConfigError

_CHOICES = {
    "data.source": SOURCES,
    "federation.average": ("uniform", "examples"),
    "federation.cohort": ("auto", "all"),
    "optimiser.client.name": ("adam", "sgd"),
    "optimiser.client.decay": ("none", "cosine"),
    "optimiser.server.name": ("adam", "sgd"),
    "optimiser.server.decay": ("none", "cosine"),
}
_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,31}$")
_DEVICE = re.compile(r"^(auto|cpu|cuda(:\d{1,3})?)$")
_PHASE_KINDS = ("task-specific", "task-agnostic", "joint")


def validate(config: TavitConfig) -> None:
    """Check what types cannot: choices, ranges, and keys that only make sense together.

    Raises
    ------
    ConfigError
        At the first value that cannot work.
    """
    node = OmegaConf.structured(config)
    for key, choices in _CHOICES.items():
        one_of(choices, OmegaConf.select(node, key), f"configuration key '{key}'")
    positive: dict[str, float] = {
        "schedule.cycles": config.schedule.cycles,
        "data.crop": config.data.crop,
        "data.batch_size": config.data.batch_size,
        "evaluation.stride": config.evaluation.stride,
        "evaluation.batch_size": config.evaluation.batch_size,
        "optimiser.client.lr": config.optimiser.client.lr,
        "optimiser.server.lr": config.optimiser.server.lr,
        "wire.max_frame_mib": config.wire.max_frame_mib,
        "wire.max_sessions": config.wire.max_sessions,
        "wire.join_timeout_s": config.wire.join_timeout_s,
        "wire.step_timeout_s": config.wire.step_timeout_s,
        "wire.session_timeout_s": config.wire.session_timeout_s,
        "federation.round_timeout_s": config.federation.round_timeout_s,
        "federation.wait_for_nodes_s": config.federation.wait_for_nodes_s,
        "federation.enrol_timeout_s": config.federation.enrol_timeout_s,
        "federation.late_timeout_s": config.federation.late_timeout_s,
        "federation.min_nodes": config.federation.min_nodes,
        "keep_checkpoints": config.keep_checkpoints,
    }
    for index, phase in enumerate(config.schedule.phases):
        where = f"schedule.phases[{index}]"
        one_of(_PHASE_KINDS, phase.kind, f"configuration key '{where}.kind'")
        positive[f"{where}.rounds"] = phase.rounds
        positive[f"{where}.steps"] = phase.steps
    for key, value in positive.items():
        if not 0 < value < math.inf:
            raise ConfigError("a number above zero", repr(value), f"configuration key '{key}'")
    for key, value in {
        "federation.quorum": config.federation.quorum,
        "federation.fraction": config.federation.fraction,
    }.items():
        if not 0 < value <= 1:
            raise ConfigError("a fraction in (0, 1]", repr(value), f"configuration key '{key}'")
    window = config.data.window_hu
    if len(window) != 2 or not -math.inf < window[0] < window[1] < math.inf:
        raise ConfigError("a lowest and a highest value", repr(list(window)), "configuration key 'data.window_hu'")
    check_device_name(config.compute.client_device, "configuration key 'compute.client_device'")
    check_device_name(config.compute.server_device, "configuration key 'compute.server_device'")
    for name in (*config.tasks, *config.bodies):
        if not _NAME.match(name):
            raise ConfigError(
                "names of tasks and bodies in [a-z0-9_-], at most 32 long", repr(name), "group 'task' or key 'bodies'"
            )
    for name, task in config.tasks.items():
        if task.body not in config.bodies:
            raise ConfigError(
                f"a body among {list(config.bodies)}", repr(task.body), f"configuration key 'tasks.{name}.body'",
                nearest(task.body, config.bodies) or "a new body is first named in 'bodies'",
            )  # fmt: skip
    if config.evaluation.stride > config.data.crop:
        raise ConfigError(
            f"at most data.crop={config.data.crop}", repr(config.evaluation.stride),
            "configuration key 'evaluation.stride'", "windows further apart than their side leave gaps",
        )  # fmt: skip
    if not config.schedule.phases:
        raise ConfigError("at least one phase", "none", "configuration key 'schedule.phases'")
    for name in config.tasks:
        where, test_sets = f"configuration key 'tasks.{name}.test_sets'", config.tasks[name].test_sets
        if test_sets and images_of(config, name).evaluation_folder is None:
            raise ConfigError("an evaluation folder that holds the sets", "none", where)
        for test_set in test_sets:
            if not _NAME.match(test_set):
                raise ConfigError("names of folders in [a-z0-9_-], at most 32 long", repr(test_set), where)
    if not config.clients:
        raise ConfigError("at least one client", "none", "configuration key 'clients'", "name a task per client")
    check_images(config)


def check_device_name(name: str, where: str) -> None:
    """Raise `ConfigError` unless the name is ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``; asks no hardware."""
    if not _DEVICE.match(name):
        raise ConfigError("auto, cpu, cuda or cuda:<number>", repr(name), where)
