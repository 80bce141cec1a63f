"""Check what types cannot: choices, ranges, and keys that only make sense together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

from tavit_flwr.config.choices import nearest, one_of
from tavit_flwr.config.schema import AUTO, BFLOAT16, DTYPES, INT8, MESSAGES, NONE, STREAM, ZSTD, TavitConfig
from tavit_flwr.config.sources import SOURCES, check_images, images_of
from tavit_flwr.errors import ConfigError

#: Names of tasks and bodies.
NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,31}$")
_RUN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_DEVICE = re.compile(r"^(auto|cpu|cuda(:\d{1,3})?)$")
_ADDRESS = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})$")
_EVERYWHERE = ("0.0.0.0", "[::]")
_PHASE_KINDS = ("task-specific", "task-agnostic", "joint")

_CHOICES = {
    "data.source": SOURCES,
    "federation.strategy": ("tavit", "fedavg", "fedprox"),
    "federation.average": ("uniform", "examples"),
    "federation.cohort": ("auto", "all"),
    "optimiser.client.name": ("adam", "sgd"),
    "optimiser.client.decay": ("none", "cosine"),
    "optimiser.server.name": ("adam", "sgd"),
    "optimiser.server.decay": ("none", "cosine"),
    "wire.carrier": (STREAM, MESSAGES, AUTO),
    "compute.autocast": (NONE, BFLOAT16),
    "wire.dtype": DTYPES,
    "wire.compression": (NONE, ZSTD),
}
_ABOVE_ZERO = (
    "schedule.cycles", "data.crop", "data.batch_size", "data.held_out", "evaluation.stride", "evaluation.batch_size",
    "optimiser.client.lr", "optimiser.server.lr", "wire.max_frame_mib", "wire.max_sessions",
    "wire.max_streams_per_client", "wire.idle_timeout_s", "wire.probe_timeout_s", "wire.minibatches_per_message",
    "wire.join_timeout_s", "wire.step_timeout_s", "wire.session_timeout_s", "federation.round_timeout_s",
    "federation.wait_for_nodes_s", "federation.enrol_timeout_s", "federation.late_timeout_s", "federation.min_nodes",
    "federation.min_clients",
    "keep_checkpoints",
)  # fmt: skip
_ZERO_OR_MORE = (
    "model.time_step",
    "data.fixed_batches",
    "federation.proximal_mu",
    "compute.client_threads",
    "compute.server_threads",
)
_FRACTIONS = ("federation.quorum", "federation.fraction")
_BETAS = tuple(f"optimiser.{side}.beta{number}" for side in ("client", "server") for number in (1, 2))

_RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    (_ABOVE_ZERO, "a number above zero", lambda value: 0 < value < math.inf),
    (_ZERO_OR_MORE, "zero or more", lambda value: value >= 0),
    (_FRACTIONS, "a fraction in (0, 1]", lambda value: 0 < value <= 1),
    (_BETAS, "a number in [0, 1)", lambda value: 0 <= value < 1),
)


def validate(config: TavitConfig) -> None:
    """Check what types cannot: choices, ranges, and keys that only make sense together.

    Nothing outside of the configuration is looked at, so a configuration that came over the network can be checked.

    Raises
    ------
    ConfigError
        At the first value that cannot work.
    """
    _check_values(config)
    _check_schedule(config)
    _check_wire_types(config)
    _check_names(config)
    _check_addresses(config)
    _check_initial(config)
    check_device_name(config.compute.client_device, "configuration key 'compute.client_device'")
    check_device_name(config.compute.server_device, "configuration key 'compute.server_device'")
    window = config.data.window_hu
    if len(window) != 2 or not -math.inf < window[0] < window[1] < math.inf:
        raise ConfigError("a lowest and a highest value", repr(list(window)), "configuration key 'data.window_hu'")
    if config.evaluation.stride > config.data.crop:
        raise ConfigError(
            f"at most data.crop={config.data.crop}", repr(config.evaluation.stride),
            "configuration key 'evaluation.stride'", "windows further apart than their side leave gaps",
        )  # fmt: skip
    check_images(config)
    _check_test_sets(config)


def check_device_name(name: str, where: str) -> None:
    """Raise `ConfigError` unless the name is ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``; asks no hardware."""
    if not _DEVICE.match(name):
        raise ConfigError("auto, cpu, cuda or cuda:<number>", repr(name), where)


def _check_values(config: TavitConfig) -> None:
    for key, choices in _CHOICES.items():
        one_of(choices, _value(config, key), f"configuration key '{key}'")
    for keys, expected, fits in _RANGES:
        for key in keys:
            value = _value(config, key)
            if not fits(value):
                raise ConfigError(expected, repr(value), f"configuration key '{key}'")


def _value(config: TavitConfig, key: str) -> Any:  # noqa: ANN401 - whatever the key's type is
    return reduce(getattr, key.split("."), config)


def _check_schedule(config: TavitConfig) -> None:
    if not config.schedule.phases:
        raise ConfigError("at least one phase", "none", "configuration key 'schedule.phases'")
    if config.schedule.every_phase is not None:
        one_of(_PHASE_KINDS, config.schedule.every_phase, "configuration key 'schedule.every_phase'")
    for index, phase in enumerate(config.schedule.phases):
        where = f"configuration key 'schedule.phases[{index}]"
        one_of(_PHASE_KINDS, phase.kind, f"{where}.kind'")
        for name, count in (("rounds", phase.rounds), ("steps", phase.steps)):
            if count < 1:
                raise ConfigError("a number above zero", repr(count), f"{where}.{name}'")
        if phase.steps % config.wire.minibatches_per_message:
            raise ConfigError(
                f"a multiple of wire.minibatches_per_message={config.wire.minibatches_per_message}", repr(phase.steps),
                f"{where}.steps'",
            )  # fmt: skip
    if config.wire.minibatches_per_message > 1 and config.wire.carrier != MESSAGES:
        raise ConfigError(
            "1 unless wire.carrier=messages", repr(config.wire.minibatches_per_message),
            "configuration key 'wire.minibatches_per_message'", "it is a larger batch; see data.batch_size",
        )  # fmt: skip


def _check_wire_types(config: TavitConfig) -> None:
    wire = config.wire
    own = {f"wire.dtypes.{phase}.{way}": name for phase, ways in vars(wire.dtypes).items()
           for way, name in vars(ways).items()}  # fmt: skip
    for key, name in own.items():
        if name is not None:
            one_of(DTYPES, name, f"configuration key '{key}'")
    in_training = [name for key, name in own.items() if not key.startswith("wire.dtypes.evaluation.")]
    if wire.error_feedback and INT8 not in (wire.dtype, *in_training):
        raise ConfigError(
            "int8 somewhere in wire.dtype or wire.dtypes of a phase", "none", "configuration key 'wire.error_feedback'",
            "only int8 gradients have it",
        )  # fmt: skip


def _check_names(config: TavitConfig) -> None:
    if not _RUN_NAME.match(config.name):
        raise ConfigError(
            "letters, digits, '.', '_' and '-', at most 64 and a letter or digit first", repr(config.name),
            "configuration key 'name'", "the default output folder ends in it; output_dir may be any other",
        )  # fmt: skip
    if not config.clients:
        raise ConfigError("at least one client", "none", "configuration key 'clients'", "name a task per client")
    for name in (*config.tasks, *config.bodies):
        if not NAME.match(name):
            raise ConfigError(
                "names of tasks and bodies in [a-z0-9_-], at most 32 long", repr(name), "group 'task' or key 'bodies'"
            )
    for name, task in config.tasks.items():
        if task.body not in config.bodies:
            raise ConfigError(
                f"a body among {list(config.bodies)}", repr(task.body), f"configuration key 'tasks.{name}.body'",
                nearest(task.body, config.bodies) or "a new body is first named in 'bodies'",
            )  # fmt: skip


def _check_addresses(config: TavitConfig) -> None:
    if config.output_dir and not Path(config.output_dir).expanduser().is_absolute():
        raise ConfigError(
            "an absolute folder", repr(config.output_dir), "configuration key 'output_dir'",
            "a ServerApp does not run in the folder that you called from",
        )  # fmt: skip
    wire = config.wire
    for key, address, least in (("wire.listen", wire.listen, 0), ("wire.advertise", wire.advertise, 1)):
        match = None if address is None else _ADDRESS.match(address)
        if address is not None and (match is None or not least <= int(match.group(2)) <= 65535):
            raise ConfigError(
                "host:port", repr(address), f"configuration key '{key}'",
                f"as in 127.0.0.1:{9092 * least}, or [::1]:{9092 * least}",
            )  # fmt: skip
    if wire.advertise is None and wire.listen.rpartition(":")[0] in _EVERYWHERE:
        raise ConfigError(
            "the address that clients connect to", f"none, and wire.listen={wire.listen}",
            "configuration key 'wire.advertise'", "as in wire.advertise=server.example.org:9092",
        )  # fmt: skip


def _check_initial(config: TavitConfig) -> None:
    if config.initial_weights and not Path(config.initial_weights).expanduser().is_absolute():
        raise ConfigError(
            "an absolute folder", repr(config.initial_weights), "configuration key 'initial_weights'",
            "a ServerApp does not run in the folder that you called from",
        )  # fmt: skip
    known = {*config.tasks, *(task.body for task in config.tasks.values())} if config.initial_weights else set()
    for name in config.initial_fresh:
        if name not in known:
            raise ConfigError(
                f"tasks and bodies out of {sorted(known)}", repr(name), "configuration key 'initial_fresh'",
                "" if config.initial_weights else "without initial_weights all are fresh",
            )  # fmt: skip


def _check_test_sets(config: TavitConfig) -> None:
    for name, task in config.tasks.items():
        where = f"configuration key 'tasks.{name}.test_sets'"
        if task.test_sets and images_of(config, name).evaluation_folder is None:
            raise ConfigError("an evaluation folder that holds the sets", "none", where)
        for test_set in task.test_sets:
            if not NAME.match(test_set):
                raise ConfigError("names of folders in [a-z0-9_-], at most 32 long", repr(test_set), where)
