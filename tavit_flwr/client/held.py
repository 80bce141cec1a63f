"""The weights that an order is about: brought by its message, or kept from an earlier one."""

from __future__ import annotations

import logging

from flwr.app import RecordDict
from torch import Tensor

from tavit_flwr.client.store import PrivateStore
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.errors import CheckpointError, MissingWeightsError, ProtocolError
from tavit_flwr.wire.records import ARRAYS, BODY, Order
from tavit_flwr.wire.weights import arrays_to_tensors, content_key

logger = logging.getLogger("flwr")

_PREFIXES = {ARRAYS: ("head/", "tail/"), BODY: ("body/",)}


def take_in(workshop: Workshop, order: Order, content: RecordDict) -> dict[str, Tensor]:
    """Give the order's ``head/...`` and ``tail/...``, and ``body/...`` where it is lent; keep them on this node's disk.

    Raises
    ------
    MissingWeightsError
        When the message brings none and this node has lost them; the server then sends them.
    ProtocolError
        When the message brings others than the order names.
    """
    tensors: dict[str, Tensor] = {}
    for kind, key in ((ARRAYS, order.weights), (BODY, order.body)):
        if key:
            tensors |= _take_in(workshop, order, content, kind, key)
    return tensors


def keep(workshop: Workshop, order: Order, kind: str, tensors: dict[str, Tensor], key: str) -> None:
    """Keep weights for later orders, beside those of this one, which the server may name again.

    Where the disk is full, it says so and goes on, as they can be sent again.
    """
    store = PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client)
    try:
        store.keep(kind, key, tensors, beside=order.weights if kind == ARRAYS else order.body)
    except CheckpointError as error:
        logger.warning("%s; they will be sent again for the next order", error)


def _take_in(workshop: Workshop, order: Order, content: RecordDict, kind: str, key: str) -> dict[str, Tensor]:
    where = workshop.where(order)
    arrays = content.array_records.get(kind)
    if arrays is not None:
        tensors = arrays_to_tensors(arrays, _PREFIXES[kind])
        if content_key(tensors) != key:
            raise ProtocolError("the weights that the order names", "others", where)
        keep(workshop, order, kind, tensors, key)
        return tensors
    kept = PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client).kept(kind, key)
    if kept is None or content_key(kept) != key:
        logger.warning("%s: weights that were sent before are not in this node's store; asking for them again", where)
        raise MissingWeightsError("weights that were sent before in this node's store", "none", where)
    return kept
