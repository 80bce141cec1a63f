"""The head and the tail that an order is about: brought by its message, or kept from an earlier one."""

from __future__ import annotations

import logging

from flwr.app import ArrayRecord
from torch import Tensor

from tavit_flwr.client.store import PrivateStore
from tavit_flwr.client.workshop import Workshop, above, below
from tavit_flwr.errors import CheckpointError, MissingWeightsError, ProtocolError
from tavit_flwr.wire.records import Order, arrays_to_parts, content_key

logger = logging.getLogger("flwr")


def take_in(workshop: Workshop, order: Order, arrays: ArrayRecord | None) -> dict[str, Tensor]:
    """Give the order's ``head/...`` and ``tail/...``, and keep them on this node's disk.

    Raises
    ------
    MissingWeightsError
        When the message brings none and this node has lost them; the server then sends them.
    ProtocolError
        When the message brings others than the order names.
    """
    where = workshop.where(order)
    if arrays is not None:
        head, tail = arrays_to_parts(arrays)
        if content_key(head, tail) != order.weights:
            raise ProtocolError("the weights that the order names", "others", where)
        tensors = above("head/", head) | above("tail/", tail)
        keep(workshop, order, tensors, order.weights)
        return tensors
    kept = PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client).load_weights(order.weights)
    if kept is None or content_key(below("head/", kept), below("tail/", kept)) != order.weights:
        logger.warning("%s: the head and tail sent before are not in this node's store; asking for them again", where)
        raise MissingWeightsError("the head and tail sent before in this node's store", "none", where)
    return kept


def keep(workshop: Workshop, order: Order, tensors: dict[str, Tensor], key: str) -> None:
    """Keep head and tail for later orders; where the disk is full, say so and go on, as they can be sent again."""
    store = PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client)
    try:
        store.save_weights(key, tensors)
    except CheckpointError as error:
        logger.warning("%s; head and tail will be sent again for the next order", error)
