"""What an order asks of a client, so that it can be done in one go or be interrupted at any request and go on later."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from flwr.app import ArrayRecord
from torch import Tensor

from tavit_flwr.client.workshop import Workshop
from tavit_flwr.wire.carrier import Carrier
from tavit_flwr.wire.records import Order


@dataclass(frozen=True)
class Result:
    """What a finished job leaves.

    Attributes
    ----------
    metrics : dict
        For the reply.
    arrays : ArrayRecord or None
        Head and tail where they moved.
    moments : Path or None
        The file of the optimiser's moments, where some were kept.
    """

    metrics: dict[str, float]
    arrays: ArrayRecord | None = None
    moments: Path | None = None


class Job(Protocol):
    """A session's work on the client's side.

    ``Job(workshop, order, tensors, notes)`` goes on where `tensors` and `notes` were taken; nothing else is remembered.
    """

    def __init__(
        self, workshop: Workshop, order: Order, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]
    ) -> None: ...

    @classmethod
    def begin(cls, workshop: Workshop, order: Order, tensors: Mapping[str, Tensor]) -> Self:
        """Begin with the parts that an order brings: ``head/...`` and ``tail/...``."""

    @property
    def cursor(self) -> int:
        """The step that is under way: answers of earlier ones are not needed again."""

    @property
    def changed(self) -> bool:
        """Whether the tensors are others than those that it was made with."""

    def run(self, carrier: Carrier) -> None:
        """Do the rest of the work."""

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments as of the step under way, on the CPU."""

    def notes(self) -> dict[str, Any]:
        """Everything else, as JSON can hold it."""

    def conclude(self, carrier: Carrier, *, compute_s: float, wall_s: float) -> Result:
        """Keep what is to be kept on this node, and give the rest."""


def by_stream(job: Job, workshop: Workshop, order: Order) -> Result:
    """Do a job in one go, over the stream.

    Raises
    ------
    TavitError
        From images, model, stream or store, with client, task, cycle and round.
    """
    began = time.monotonic()
    with workshop.stream(order) as stream:
        job.run(stream)
    wall_s = time.monotonic() - began
    return job.conclude(stream, compute_s=wall_s - stream.wait_s, wall_s=wall_s)
