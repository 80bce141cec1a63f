"""Where the images of a task come from: the keys under ``data``, and those of the task that come before them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Literal, cast, get_args

from tavit_flwr.config.choices import one_of
from tavit_flwr.config.schema import TavitConfig
from tavit_flwr.errors import ConfigError

Source = Literal["bundled", "folder", "paired", "voc", "dicom"]

SOURCES: tuple[Source, ...] = get_args(Source)

PAIRED: tuple[Source, ...] = ("paired", "dicom")
"""Sources whose images come with their degraded versions, so that the task's degradation is not used."""


@dataclass(frozen=True)
class TaskImages:
    """Where one task's images come from.

    Attributes
    ----------
    source : str
        One of `SOURCES`.
    folder, evaluation_folder : Path or None
        Training and held-out images; None for bundled photographs, for a folder that each node brings, and where
        held-out images are set aside.
    """

    source: Source
    folder: Path | None
    evaluation_folder: Path | None

    @property
    def paired(self) -> bool:
        """Whether the degraded images come with the clean ones."""
        return self.source in PAIRED


def images_of(config: TavitConfig, task: str) -> TaskImages:
    """Tell where a task's images come from.

    Each of ``tasks.<task>.source``, ``.folder`` and ``.evaluation_folder`` comes before the key of that name under
    ``data``. A task whose source is another than ``data.source`` takes no folder from there: it would be of the wrong
    kind.

    Raises
    ------
    ConfigError
        The source is unknown, a folder is not absolute, or one is given for bundled photographs.
    """
    own, shared = config.tasks[task], config.data
    key = "data.source" if own.source is None else f"tasks.{task}.source"
    source = cast("Source", one_of(SOURCES, own.source or shared.source, f"configuration key '{key}'"))
    inherits = source == shared.source
    folder = own.folder or (shared.folder if inherits else None)
    if source == "bundled" and folder:
        raise ConfigError(
            "no folder, as the photographs are bundled", repr(folder), f"task '{task}'",
            f"set {key} to one of {', '.join(SOURCES[1:])}, or leave the folder out",
        )  # fmt: skip
    evaluation_folder = own.evaluation_folder or (shared.evaluation_folder if inherits else None)
    return TaskImages(source, _path(folder, "folder", task), _path(evaluation_folder, "evaluation_folder", task))


def check_images(config: TavitConfig) -> None:
    """Check where every task's images come from; folders are compared by name, none is looked at.

    Raises
    ------
    ConfigError
        As in `images_of`; or two tasks would learn the same pairs under two names; or one would train on what another
        of the same body is evaluated on.
    """
    images = {task: images_of(config, task) for task in config.tasks}
    for one, other in permutations(images, 2):
        mine, its = images[one], images[other]
        if mine.paired and its.paired and mine.folder is not None and mine.folder == its.folder:
            raise ConfigError(
                "a folder of its own for each task with pairs", f"'{mine.folder}' for both", f"tasks {one} and {other}",
                f"pairs hold one degradation: set tasks.{other}.folder, or name one of the two in clients",
            )  # fmt: skip
        if config.tasks[one].body == config.tasks[other].body and _trains_on_held_out(its, mine):
            raise ConfigError(
                "held-out images that no other task of the body trains on",
                f"'{its.folder}' and '{mine.evaluation_folder or mine.folder}', of which one holds the other",
                f"training images of task {other} and held-out images of task {one}",
                "keep evaluation folders apart from all training folders; one folder is either shared whole or not",
            )


def _trains_on_held_out(trained: TaskImages, held_out: TaskImages) -> bool:
    if trained.folder is None:
        return False
    if held_out.evaluation_folder is not None:
        return _overlap(trained.folder, held_out.evaluation_folder)
    if held_out.folder is None or not _overlap(trained.folder, held_out.folder):
        return False
    # Tasks that share a folder whole set aside the same images of it.
    same = (trained.source, trained.folder) == (held_out.source, held_out.folder)
    return not same or trained.evaluation_folder is not None


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _path(text: str | None, key: str, task: str) -> Path | None:
    if not text:
        return None
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise ConfigError(
            "an absolute folder", repr(text), f"configuration key 'data.{key}' or 'tasks.{task}.{key}'",
            "clients do not run in the folder that you called from",
        )  # fmt: skip
    return path
