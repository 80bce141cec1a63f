"""Answer an `evaluate` order: restore whole held-out images through the split model, and score them here."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from flwr.app import ArrayRecord
from PIL import Image
from torch import Tensor

from tavit_flwr.client.store import PrivateStore
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.data import held_out_pairs, labels_of
from tavit_flwr.errors import DataError
from tavit_flwr.models import Head, Tail
from tavit_flwr.payloads import Features, Smashed, set_metric
from tavit_flwr.restoration import psnr_db, restore_tiled, ssim
from tavit_flwr.restoration.metrics import MOST_DB, Channel
from tavit_flwr.split.client_side import head_forward, tail_restore
from tavit_flwr.split.phases import set_moving
from tavit_flwr.wire.carrier import Carrier
from tavit_flwr.wire.records import Order

logger = logging.getLogger("flwr")


class SplitRestorer:
    """Restores window batches: head here, body across the wire, tail here.

    Parameters
    ----------
    head, tail : nn.Module
        Frozen parts.
    carrier : Carrier
        An evaluation session.
    """

    def __init__(self, head: Head, tail: Tail, carrier: Carrier) -> None:
        set_moving(head, False)
        set_moving(tail, False)
        self._head = head
        self._tail = tail
        self._carrier = carrier
        self.batches = 0
        self.windows = 0

    def __call__(self, degraded_BCPP: Tensor) -> Tensor:
        """Restore [B, C, P, P] windows in [-1, 1]."""
        head_pass = head_forward(self._head, degraded_BCPP, moves=False)
        self._carrier.send(Smashed(self.batches, head_pass.sent))
        answer = self._carrier.receive(Features, self.batches)
        if not isinstance(answer, Features):
            raise DataError("features", type(answer).__name__)
        self.batches += 1
        self.windows += len(degraded_BCPP)
        return tail_restore(self._tail, answer.features, head_pass, degraded_BCPP)


def evaluate(workshop: Workshop, order: Order, arrays: ArrayRecord) -> dict[str, float]:
    """Score this client's held-out images, each whole, and leave a picture in its own folder if asked.

    Returns
    -------
    dict
        Means over images of PSNR (dB) and SSIM, RGB as the paper reports them and Y as deraining papers do, of the
        restored and of the degraded image; the same of each set of images, where there are several.

    Raises
    ------
    TavitError
        From images, model or stream.
    """
    began = time.monotonic()
    head, tail = workshop.parts(arrays)
    settings = workshop.config.evaluation
    rows: list[dict[str, float]] = []
    labels: list[str] = []
    with workshop.stream(order) as stream:
        restorer = SplitRestorer(head, tail, stream)
        for pair in held_out_pairs(
            workshop.data.held_out, workshop.degrade, seed=workshop.config.seed, task=workshop.node.task,
            test_sets=workshop.config.tasks[workshop.node.task].test_sets, every_variant=settings.every_variant,
        ):  # fmt: skip
            restored = restore_tiled(
                pair.degraded_CHW, restorer, workshop.config.data.crop, settings.stride, settings.batch_size
            )
            rows.append(score(pair.degraded_CHW, restored, pair.clean_CHW))
            labels.append(pair.label)
            if order.pictures and len(rows) == 1:
                folder = PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client).folder
                path = folder / "pictures" / f"{workshop.node.task}-{workshop.node.client}.png"
                _try_picture(path, [pair.degraded_CHW, restored, pair.clean_CHW])
        stream.finish(restorer.batches)
    return scores_by_set(rows, labels, labels_of(workshop.config, workshop.node.task)) | {
        "windows": restorer.windows,
        "bytes-up": stream.ledger.total("up"),
        "bytes-down": stream.ledger.total("down"),
        "wall-s": time.monotonic() - began,
    }


def scores_by_set(rows: Sequence[Mapping[str, float]], labels: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """Mean of the scores of all images, and of each known set that has any."""

    def mean(chosen: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {key: sum(row[key] for row in chosen) / len(chosen) for key in chosen[0]} | {"images": len(chosen)}

    scores = mean(rows)
    for label in known:
        if own := [row for row, its in zip(rows, labels, strict=True) if its == label]:
            scores |= {set_metric(key, label): value for key, value in mean(own).items()}
    return scores


def score(degraded_CHW: Tensor, restored_CHW: Tensor, clean_CHW: Tensor) -> dict[str, float]:
    """Scores of one image under the names of `EVALUATE_METRICS`; PSNR is capped at `MOST_DB`, so that means exist."""
    return {
        "psnr-db": _capped_db(restored_CHW, clean_CHW),
        "ssim": ssim(restored_CHW, clean_CHW),
        "input-psnr-db": _capped_db(degraded_CHW, clean_CHW),
        "input-ssim": ssim(degraded_CHW, clean_CHW),
        "psnr-y-db": _capped_db(restored_CHW, clean_CHW, channel="y"),
        "ssim-y": ssim(restored_CHW, clean_CHW, channel="y"),
    }


def _capped_db(image_CHW: Tensor, clean_CHW: Tensor, channel: Channel = "rgb") -> float:
    return min(MOST_DB, psnr_db(image_CHW, clean_CHW, channel=channel))


def save_picture(path: Path, images_CHW: list[Tensor], gap_px: int = 4) -> None:
    """Write images in [-1, 1] side by side with a white gap, as PNG: degraded, restored, clean."""
    height = images_CHW[0].shape[1]
    gap = torch.ones(3, height, gap_px)
    columns = [column for image in images_CHW for column in (image, gap)][:-1]
    pixels = ((torch.cat(columns, dim=2).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(path)


def _try_picture(path: Path, images_CHW: list[Tensor]) -> None:
    """Save a picture, or say why not: the scores must not be lost with it."""
    try:
        save_picture(path, images_CHW)
    except OSError as error:
        logger.warning("no picture at %s: %s; free space or set evaluation.pictures=false", path, error)
