"""Answer a `train` order: one session of many steps."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from flwr.app import ArrayRecord
from torch import Tensor

from tavit_flwr.client.session import Batches, ClientSession
from tavit_flwr.client.store import PrivateStore
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.data import BatchStream
from tavit_flwr.split.optimisers import build_optimiser, learning_rate, load_moments, moments, set_learning_rate
from tavit_flwr.split.phases import phase_named
from tavit_flwr.wire.records import Order, parts_to_arrays

logger = logging.getLogger("flwr")


def train(
    workshop: Workshop, order: Order, arrays: ArrayRecord
) -> tuple[ArrayRecord | None, dict[str, float], Path | None]:
    """Run a session and keep its moments.

    Parameters
    ----------
    workshop : Workshop
        This client's images and architecture.
    order : Order
        The session.
    arrays : ArrayRecord
        Head and tail to begin from.

    Returns
    -------
    tuple
        Head and tail (None where they were frozen), metrics, and the file of the moments (None where none were kept).

    Raises
    ------
    TavitError
        From images, model, stream or store, with client, task, cycle and round.
    """
    began = time.monotonic()
    phase = phase_named(order.phase)
    head, tail = workshop.parts(arrays)
    store = PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client)
    optimiser, fresh = None, False
    if phase.client_moves:
        optimiser = build_optimiser([*head.parameters(), *tail.parameters()], workshop.config.optimiser.client)
        saved = store.load(order.version)
        fresh = order.version > 0 and saved is None
        if saved:
            load_moments(optimiser, saved)
        elif fresh:
            logger.warning(
                "%s: no moments of round %s in %s; starting with the averaged weights and fresh moments",
                workshop.where(order), order.version, store.folder,
            )  # fmt: skip
        set_learning_rate(optimiser, learning_rate(workshop.config.optimiser.client, order.progress))
    session = ClientSession(head, tail, optimiser, _batches(workshop, order), phase, workshop.where(order))
    with workshop.stream(order) as stream:
        outcome = session.run(stream, order.steps)
    path = store.save(order.next_version, moments(optimiser), order.version) if optimiser is not None else None
    metrics = {
        "loss-first": outcome.losses[0],
        "loss-last": outcome.losses[-1],
        "loss-mean": sum(outcome.losses) / len(outcome.losses),
        "steps": order.steps,
        "num-examples": outcome.examples,
        "bytes-up": stream.ledger.total("up"),
        "bytes-down": stream.ledger.total("down"),
        "fresh-moments": float(fresh),
        "compute-s": outcome.wall_s - stream.wait_s,
        "wait-s": stream.wait_s,
        "wall-s": time.monotonic() - began,
    }
    moved = parts_to_arrays(head.state_dict(), tail.state_dict()) if phase.client_moves else None
    return moved, metrics, path


def _batches(workshop: Workshop, order: Order) -> Batches:
    data = workshop.config.data
    stream = BatchStream(
        workshop.data.train,
        workshop.degrade,
        crop=data.crop,
        batch_size=data.batch_size,
        seed=workshop.config.seed,
        client=workshop.node.client,
    )

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = stream.batch(order.cycle, order.phase, order.round, step)
        return drawn.degraded_BCPP, drawn.clean_BCPP

    return batch
