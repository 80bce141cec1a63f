"""What can be known to be wrong with an experiment before anything of it starts."""

from __future__ import annotations

import logging
from collections import Counter
from math import prod

from flwr.app import ConfigRecord

from tavit_flwr.config import ZSTD, TavitConfig, images_of
from tavit_flwr.data.photographs import HELD_OUT_PHOTOGRAPHS, TRAINING_PHOTOGRAPHS
from tavit_flwr.degrade import degradation
from tavit_flwr.errors import ConfigError
from tavit_flwr.server.given_weights import find_given
from tavit_flwr.server.initial import preset_of, step_shape
from tavit_flwr.server.scalars import check_installed
from tavit_flwr.wire.compression import codec
from tavit_flwr.wire.frames import MAX_HEADER_BYTES

logger = logging.getLogger("flwr")


def check_experiment(config: TavitConfig, *, simulated: bool) -> None:
    """Check what the configuration names: degradations, architecture, frames, and in simulation folders and weights.

    It draws no weights and opens no image; milliseconds.

    Parameters
    ----------
    config : TavitConfig
        Composed, so its values are in range.
    simulated : bool
        Whether the clients surely run on this machine and share its folders; SuperNodes may have images of their own.

    Raises
    ------
    ConfigError, CheckpointError
        At the first thing that cannot work.
    """
    architecture = preset_of(config)
    kinds = [phase.kind for phase in config.schedule.phases]
    if architecture.body_kind == "identity" and "task-agnostic" in kinds:
        raise ConfigError(
            "no task-agnostic phase, as an identity has nothing to train", f"phases {kinds}",
            "configuration key 'schedule.phases'", "schedule.every_phase=task-specific",
        )  # fmt: skip
    if config.tensorboard:
        check_installed()
    for task in config.tasks:
        _check_degradation(config, task)
        if simulated:
            _check_simulated_images(config, task)
    _check_frames(config)
    if config.wire.compression == ZSTD:
        codec()
    if simulated and config.initial_weights and not config.resume:
        find_given(config)


def refuse_records(**records: ConfigRecord | None) -> None:
    """Refuse what a caller would send to nodes besides the orders, which hold the experiment's configuration.

    Raises
    ------
    ConfigError
        For a record that is not empty.
    """
    for name, record in records.items():
        if record:
            raise ConfigError(
                f"no '{name}'", f"keys {sorted(record)}", "TAViT.start", "set the experiment's own keys instead"
            )


def without_folder(config: TavitConfig) -> list[str]:
    """Tasks whose images each node must bring itself, since the experiment names no folder for them."""
    return [
        task for task in config.tasks if (images := images_of(config, task)).source != "bundled" and not images.folder
    ]


def warn_of_shared_photographs(config: TavitConfig) -> None:
    """Say which tasks' nodes would train on the same images, where nodes are deployed and bring none."""
    tasks = [task for task in config.tasks if images_of(config, task).source == "bundled"]
    if tasks:
        logger.warning(
            "%s: nodes without a data-dir all train on the same bundled photographs, and are scored on the same",
            ", ".join(tasks),
        )


def _check_degradation(config: TavitConfig, task: str) -> None:
    settings = config.tasks[task]
    if images_of(config, task).paired:
        return
    try:
        degradation(settings.degradation, settings.options)
    except ConfigError as error:
        where = f"{error.where}, task '{task}'" if error.where else f"task '{task}'"
        raise ConfigError(error.expected, error.received, where, error.hint) from error


def _check_simulated_images(config: TavitConfig, task: str) -> None:
    images, clients = images_of(config, task), Counter(config.clients)[task]
    if images.source == "bundled":
        if images.evaluation_folder is None and config.data.held_out > len(HELD_OUT_PHOTOGRAPHS):
            raise ConfigError(
                f"at most {len(HELD_OUT_PHOTOGRAPHS)}, as so many bundled photographs are kept for evaluation",
                str(config.data.held_out), "configuration key 'data.held_out'",
            )  # fmt: skip
        if clients > len(TRAINING_PHOTOGRAPHS):
            raise ConfigError(
                f"at most {len(TRAINING_PHOTOGRAPHS)} clients of one task, a bundled photograph each", str(clients),
                f"configuration key 'clients', task '{task}'", "use a folder of images",
            )  # fmt: skip
    elif images.folder is None:
        raise ConfigError(
            "a folder of images", "none", f"task '{task}', whose source is '{images.source}'",
            f"set data.folder or tasks.{task}.folder: simulated clients have no folders of their own",
        )  # fmt: skip
    for folder in (images.folder, images.evaluation_folder):
        if folder is not None and not folder.is_dir():
            raise ConfigError("an existing folder of images", repr(str(folder)), f"task '{task}'", "correct the path")


def _check_frames(config: TavitConfig) -> None:
    step = step_shape(config)
    largest = int(config.wire.max_frame_mib * 2**20)
    for tensors, key, batch in (
        (
            2,
            "data.batch_size",
            config.data.batch_size * config.wire.minibatches_per_message,
        ),  # a gradient travels with the next step's activations
        (1, "evaluation.batch_size", config.evaluation.batch_size),
    ):
        needed = tensors * 4 * batch * prod(step[1:]) + MAX_HEADER_BYTES
        if needed > largest:
            raise ConfigError(
                f"frames of at most {config.wire.max_frame_mib:g} MiB (wire.max_frame_mib)",
                f"{needed / 2**20:.1f} MiB with {key}={batch} and data.crop={config.data.crop}", f"key '{key}'",
                f"lower {key}, or raise wire.max_frame_mib",
            )  # fmt: skip
