"""Answer an `evaluate` order: restore whole held-out images through the split model, and score them here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Self

from torch import Tensor

from tavit_flwr.client.jobs import Result
from tavit_flwr.client.pictures import MOST_PICTURES, picture_path, try_picture
from tavit_flwr.client.store import PrivateStore
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.data import held_out_pairs, labels_of
from tavit_flwr.errors import DataError
from tavit_flwr.models import AnyHead, Tail
from tavit_flwr.payloads import Close, Features, Smashed, set_metric
from tavit_flwr.restoration import capped_psnr_db, restore_tiled, ssim
from tavit_flwr.split.client_side import head_forward, tail_restore
from tavit_flwr.split.phases import set_moving
from tavit_flwr.wire.carrier import AsksAhead, Carrier
from tavit_flwr.wire.records import Order


class SplitRestorer:
    """Restores window batches: head here, body across the wire, tail here.

    While the body has one batch, the tail restores the one before and the head runs on the next: a
    `tavit_flwr.restoration.tiling.LooksAhead`.

    Parameters
    ----------
    head, tail : nn.Module
        Frozen parts.
    carrier : Carrier
        An evaluation session.
    batches, windows : int
        Done before in the same session.
    """

    def __init__(self, head: AnyHead, tail: Tail, carrier: Carrier, batches: int = 0, windows: int = 0) -> None:
        set_moving(head, False)
        set_moving(tail, False)
        self._head = head
        self._tail = tail
        self._carrier = carrier
        self._unsent: deque[Smashed] = deque()
        self._at_work = False
        self.batches = batches
        self.windows = windows

    def __call__(self, degraded_BCPP: Tensor) -> Tensor:
        """Restore [B, C, P, P] windows in [-1, 1]."""
        return self.begin(degraded_BCPP)()

    def begin(self, degraded_BCPP: Tensor) -> Callable[[], Tensor]:
        """Run the head, and send what it gives once the body has answered what was sent before."""
        step, head_pass = self.batches, head_forward(self._head, degraded_BCPP, moves=False)
        self._unsent.append(Smashed(step, head_pass.sent))
        self._send()
        self.batches += 1
        self.windows += len(degraded_BCPP)
        return lambda: tail_restore(self._tail, self._features(step), head_pass, degraded_BCPP)

    def _send(self) -> None:
        if self._unsent and not self._at_work:
            self._carrier.send(self._unsent.popleft())
            self._at_work = True

    def _features(self, step: int) -> Tensor:
        answer = self._carrier.receive(Features, step)
        if not isinstance(answer, Features):
            raise DataError("features", type(answer).__name__)
        self._at_work = False
        self._send()
        return answer.features


class Evaluation:
    """Scores this client's held-out images, each whole; see `Job`.

    Leaves pictures of the first ones in this node's own folder, if the order asks for them.

    Parameters
    ----------
    workshop : Workshop
        This client's images and architecture.
    order : Order
        The session.
    tensors : mapping
        ``head/...`` and ``tail/...``.
    notes : mapping
        Scores of the images restored so far, and how many batches and windows these took.
    """

    def __init__(
        self, workshop: Workshop, order: Order, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]
    ) -> None:
        self._workshop = workshop
        self._order = order
        self._tensors = dict(tensors)
        self._rows: list[dict[str, float]] = list(notes["rows"])
        self._labels: list[str] = list(notes["labels"])
        self._batches, self._windows = int(notes["batches"]), int(notes["windows"])

    @classmethod
    def begin(cls, workshop: Workshop, order: Order, tensors: Mapping[str, Tensor]) -> Self:
        """Begin with the first image."""
        return cls(workshop, order, tensors, {"rows": [], "labels": [], "batches": 0, "windows": 0})

    @property
    def cursor(self) -> int:
        """The first batch of windows of the image under way."""
        return self._batches

    @property
    def changed(self) -> bool:
        """The parts are frozen."""
        return False

    def run(self, carrier: Carrier) -> None:
        """Restore and score the images that are left.

        Where a carrier can take many requests at once, it gets all those of an image first.
        """
        head, tail = self._workshop.parts(self._tensors)
        settings, crop = self._workshop.config.evaluation, self._workshop.config.data.crop
        restorer = SplitRestorer(head, tail, carrier, self._batches, self._windows)
        pairs = held_out_pairs(
            self._workshop.data.held_out, self._workshop.degrade, seed=self._workshop.config.seed,
            task=self._workshop.node.task, test_sets=self._workshop.config.tasks[self._workshop.node.task].test_sets,
            every_variant=settings.every_variant,
        )  # fmt: skip
        for pair in islice(pairs, len(self._rows), None):
            if isinstance(carrier, AsksAhead):
                ahead = _Ahead(head, carrier, self._batches)
                restore_tiled(pair.degraded_CHW, ahead, crop, settings.stride, settings.batch_size)
                carrier.settle()
            restored = restore_tiled(pair.degraded_CHW, restorer, crop, settings.stride, settings.batch_size)
            if self._order.pictures and len(self._rows) < MOST_PICTURES:
                self._leave_picture([pair.degraded_CHW, restored, pair.clean_CHW])
            self._rows.append(score(pair.degraded_CHW, restored, pair.clean_CHW))
            self._labels.append(pair.label)
            self._batches, self._windows = restorer.batches, restorer.windows
        carrier.hand_in(Close(self._batches))

    def tensors(self) -> dict[str, Tensor]:
        """The parts, which do not change."""
        return self._tensors

    def notes(self) -> dict[str, Any]:
        """The images restored so far."""
        done = {"batches": self._batches, "windows": self._windows}
        return {"rows": self._rows, "labels": self._labels} | done

    def conclude(self, carrier: Carrier, *, compute_s: float, wall_s: float) -> Result:
        """Means over images of the scores of the restored and of the degraded image (see `score`).

        PSNR and SSIM are those of RGB as the paper reports them, and of Y as deraining papers do; the same for each set
        of images, where there are several.
        """
        known = labels_of(self._workshop.config, self._workshop.node.task)
        spent = {
            "windows": self._windows,
            "bytes-up": carrier.ledger.total("up"),
            "bytes-down": carrier.ledger.total("down"),
            "wall-s": wall_s,
        }
        return Result(scores_by_set(self._rows, self._labels, known) | spent)

    def _leave_picture(self, images_CHW: Sequence[Tensor]) -> None:
        node = self._workshop.node
        store = PrivateStore(node.state_dir, self._order.run_key, node.client)
        try_picture(picture_path(store, node.task, len(self._rows) + 1), images_CHW)


class _Ahead:
    """In place of a restorer: sends what it would send, waits for nothing, restores nothing."""

    def __init__(self, head: AnyHead, carrier: AsksAhead, batches: int) -> None:
        set_moving(head, False)
        self._head = head
        self._carrier = carrier
        self._batches = batches

    def __call__(self, degraded_BCPP: Tensor) -> Tensor:
        """Ask for the features of one batch of windows, unless this has been done."""
        if not self._carrier.knows(Features, self._batches):
            self._carrier.ask(Smashed(self._batches, head_forward(self._head, degraded_BCPP, moves=False).sent))
        self._batches += 1
        return degraded_BCPP


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
    """Scores of one image under the names of `EVALUATE_METRICS`; PSNR is at most 100 dB, so that means exist."""
    return {
        "psnr-db": capped_psnr_db(restored_CHW, clean_CHW),
        "ssim": ssim(restored_CHW, clean_CHW),
        "input-psnr-db": capped_psnr_db(degraded_CHW, clean_CHW),
        "input-ssim": ssim(degraded_CHW, clean_CHW),
        "psnr-y-db": capped_psnr_db(restored_CHW, clean_CHW, channel="y"),
        "ssim-y": ssim(restored_CHW, clean_CHW, channel="y"),
    }
