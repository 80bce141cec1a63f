"""Pictures of held-out images that evaluation leaves in the node's own folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tavit_flwr.client.store import PrivateStore, default_state_dir, hashed
from tavit_flwr.files import write_whole

logger = logging.getLogger("flwr")

#: Of so many held-out images each evaluating client leaves pictures; ours.
MOST_PICTURES = 3


def picture_path(store: PrivateStore, task: str, number: int) -> Path:
    """Where the picture of a client's held-out image lies; `number` counts from 1."""
    return store.folder / "pictures" / f"{task}-{number}.png"


def pictures_here(run_key: str, state_dir: Path | None = None) -> list[Path]:
    """Pictures of one run whose clients keep their state on this machine, in the order of their names.

    Parameters
    ----------
    run_key : str
        The run.
    state_dir : Path, optional
        Where the clients keep their state; `default_state_dir` without it.
    """
    folder = (state_dir or default_state_dir()) / hashed(run_key)
    return sorted(folder.glob("*/pictures/*.png"), key=lambda path: (path.name, path))


def try_picture(path: Path, images_CHW: Sequence[Tensor]) -> None:
    """Save a picture, or say why not: the scores must not be lost with it."""
    try:
        save_picture(path, images_CHW)
    except OSError as error:
        logger.warning("no picture at %s: %s; free space or set evaluation.pictures=false", path, error)


def save_picture(path: Path, images_CHW: Sequence[Tensor], gap_px: int = 4) -> None:
    """Write images in [-1, 1] side by side with a white gap, as PNG: degraded, restored, clean."""
    height = images_CHW[0].shape[1]
    gap = torch.ones(3, height, gap_px)
    columns = [column for image in images_CHW for column in (image, gap)][:-1]
    pixels = ((torch.cat(columns, dim=2).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    write_whole(path, lambda beside: image.save(beside, "PNG"))
