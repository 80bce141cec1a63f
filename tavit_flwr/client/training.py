"""Answer a `train` order: one session of many steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import gcd
from typing import Any, Self

import torch
from torch import Tensor

from tavit_flwr.client.frozen_passes import FrozenPasses
from tavit_flwr.client.held import keep
from tavit_flwr.client.jobs import Result
from tavit_flwr.client.session import Batches, ClientSession, SessionOutcome
from tavit_flwr.client.store import PrivateStore, hashed
from tavit_flwr.client.workshop import Workshop, above, below
from tavit_flwr.data import BatchStream
from tavit_flwr.split.optimisers import build_optimiser, learning_rate, load_moments, moments, set_learning_rate
from tavit_flwr.split.phases import phase_named
from tavit_flwr.wire.carrier import Carrier
from tavit_flwr.wire.records import ARRAYS, Order
from tavit_flwr.wire.weights import content_key, parts_of, parts_to_arrays

logger = logging.getLogger("flwr")


class Training:
    """A training session: parts, optimiser and batches in one phase; see `Job`.

    Parameters
    ----------
    workshop : Workshop
        This client's images and architecture.
    order : Order
        The session.
    tensors : mapping
        ``head/...``, ``tail/...`` and, where they move, ``moments/...``.
    notes : mapping
        Whether the moments are fresh although the server knew of some; and the steps done so far.
    """

    def __init__(
        self, workshop: Workshop, order: Order, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]
    ) -> None:
        self._workshop = workshop
        self._order = order
        self._fresh = bool(notes["fresh"])
        self._phase = phase_named(order.phase)
        self._head, self._tail = workshop.parts(tensors)
        self._optimiser = None
        if self._phase.client_moves:
            settings = workshop.config.optimiser.client
            self._optimiser = build_optimiser([*self._head.parameters(), *self._tail.parameters()], settings)
            if saved := below("moments/", tensors):
                load_moments(self._optimiser, saved)
            set_learning_rate(self._optimiser, learning_rate(settings, order.progress))
        self._outcome = SessionOutcome(list(notes["losses"]), list(notes["examples"]), int(notes["done"]))
        self._done_before = self._outcome.done

    @classmethod
    def begin(cls, workshop: Workshop, order: Order, tensors: Mapping[str, Tensor]) -> Self:
        """Begin with the order's parts and this node's own moments."""
        saved = _store(workshop, order).load(order.version) if phase_named(order.phase).client_moves else {}
        fresh = order.version > 0 and saved is None
        if fresh:
            logger.warning(
                "%s: no moments of round %s in %s; starting with the averaged weights and fresh moments",
                workshop.where(order), order.version, _store(workshop, order).folder,
            )  # fmt: skip
        notes = {"fresh": fresh, "losses": [], "examples": [], "done": 0}
        return cls(workshop, order, {**tensors, **above("moments/", saved or {})}, notes)

    @property
    def cursor(self) -> int:
        """The step under way."""
        return self._outcome.done

    @property
    def changed(self) -> bool:
        """Whether a step has moved the parts."""
        return self._optimiser is not None and self._outcome.done > self._done_before

    def run(self, carrier: Carrier) -> None:
        """Do the steps that are left."""
        session = ClientSession(
            self._head, self._tail, self._optimiser, batches_of(self._workshop, self._order), self._phase,
            self._workshop.where(self._order), passes_of(self._workshop, self._order),
        )  # fmt: skip
        session.run(carrier, self._order.steps, self._outcome)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, and moments where the parts move."""
        kept = above("head/", self._head.state_dict()) | above("tail/", self._tail.state_dict())
        return kept if self._optimiser is None else kept | above("moments/", moments(self._optimiser))

    def notes(self) -> dict[str, Any]:
        """The steps done so far."""
        done = self._outcome.done
        losses, examples = self._outcome.losses[:done], self._outcome.examples[:done]
        return {"fresh": self._fresh, "losses": losses, "examples": examples, "done": done}

    def conclude(self, carrier: Carrier, *, compute_s: float, wall_s: float) -> Result:
        """Keep the moments in the private store; give metrics, and the parts if they moved."""
        path, arrays = None, None
        if self._optimiser is not None:
            store = _store(self._workshop, self._order)
            path = store.save(self._order.next_version, moments(self._optimiser), self._order.version)
            head, tail = self._head.state_dict(), self._tail.state_dict()
            arrays = parts_to_arrays(head, tail)
            if self._order.alone:
                parts = above("", parts_of(head, tail))
                keep(self._workshop, self._order, ARRAYS, parts, content_key(parts))
        losses = self._outcome.losses
        metrics = {
            "loss-first": losses[0],
            "loss-last": losses[-1],
            "loss-mean": sum(losses) / len(losses),
            "steps": self._order.steps,
            "num-examples": sum(self._outcome.examples),
            "bytes-up": carrier.ledger.total("up"),
            "bytes-down": carrier.ledger.total("down"),
            "fresh-moments": float(self._fresh),
            "compute-s": compute_s,
            "wait-s": carrier.wait_s,
            "wall-s": wall_s,
        }
        return Result(metrics, arrays, path)


def _store(workshop: Workshop, order: Order) -> PrivateStore:
    return PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client)


def batches_of(workshop: Workshop, order: Order) -> Batches:
    """Draw a session's minibatches: each is a function of client, cycle, phase, round and step.

    With ``data.fixed_batches``, in phases in which head and tail are frozen, rounds and steps go through the same few.
    """
    data = workshop.config.data
    stream = BatchStream(
        workshop.data.train,
        workshop.degrade,
        crop=data.crop,
        batch_size=data.batch_size,
        seed=workshop.config.seed,
        client=workshop.node.client,
    )

    together = workshop.config.wire.minibatches_per_message
    fixed = data.fixed_batches if period(workshop, order) else 0

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = [
            stream.batch(order.cycle, order.phase, 0 if fixed else order.round, minibatch % (fixed or minibatch + 1))
            for minibatch in range(step * together, (step + 1) * together)
        ]
        return torch.cat([one.degraded_BCPP for one in drawn]), torch.cat([one.clean_BCPP for one in drawn])

    return batch


def period(workshop: Workshop, order: Order) -> int:
    """Steps after which an order's batches begin again; 0 where each is drawn anew."""
    fixed = workshop.config.data.fixed_batches
    if not fixed or phase_named(order.phase).client_moves:
        return 0
    return fixed // gcd(fixed, workshop.config.wire.minibatches_per_message)


def passes_of(workshop: Workshop, order: Order) -> FrozenPasses | None:
    """What this client keeps of its frozen head's passes; None where each batch is drawn anew.

    Other weights, another phase, or images that came or went, call for others.
    """
    if not (steps := period(workshop, order)):
        return None
    images = hashed("\n".join(workshop.data.train.names))
    key = f"{order.weights} {order.cycle} {order.phase} {images}"
    return FrozenPasses(steps, _store(workshop, order), key, workshop.device)
