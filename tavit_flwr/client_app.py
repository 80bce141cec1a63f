"""The Flower ClientApp: the same in simulation and on a SuperNode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from tavit_flwr.client.evaluation import Evaluation
from tavit_flwr.client.held import take_in
from tavit_flwr.client.jobs import Job, Result, by_stream
from tavit_flwr.client.leftovers import forget_if_finished
from tavit_flwr.client.lent import by_lent_body
from tavit_flwr.client.messages import by_message
from tavit_flwr.client.node import client_name, identify, slots
from tavit_flwr.client.reach import choose_carrier
from tavit_flwr.client.training import Training
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.config import LENT, MESSAGES, ZSTD, from_json
from tavit_flwr.data import labels_of
from tavit_flwr.errors import MissingWeightsError, ProtocolError, TavitError, UnreachableError
from tavit_flwr.payloads import EVALUATE_METRICS, TRAIN_METRICS, set_metrics
from tavit_flwr.wire.compression import codec
from tavit_flwr.wire.messages import FRAMES, frames_record
from tavit_flwr.wire.probe import Probe
from tavit_flwr.wire.records import (
    ARRAYS,
    CONFIG,
    METRICS,
    MISSING_WEIGHTS,
    UNREACHABLE,
    Enrolment,
    Order,
    metrics_record,
)

logger = logging.getLogger("flwr")

app = ClientApp()

#: Of replies that carry an error which this app raised on purpose; Flower's own codes are below 1000.
ERROR_CODE = 1001

Handler = Callable[[Message, Context], Message]


def _told(handler: Handler) -> Handler:
    """Turn errors into error replies that say what happened and name no file of this node."""

    @wraps(handler)
    def handle(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except MissingWeightsError as error:
            return Message(error=Error(MISSING_WEIGHTS, error.told()), reply_to=message)
        except TavitError as error:
            logger.error("%s", error)
            code = UNREACHABLE if isinstance(error, UnreachableError) else ERROR_CODE
            return Message(error=Error(code, error.told()), reply_to=message)
        except Exception as error:  # the border of this node: a traceback may name its files, so it stays here
            logger.exception("unexpected error")
            reason = f"unexpected {type(error).__name__}; this node's log has the traceback"
            return Message(error=Error(ERROR_CODE, reason), reply_to=message)

    return handle


@app.query()
@_told
def on_query(message: Message, context: Context) -> Message:
    """Enrol: say who this node is, or why it cannot take part."""
    record = message.content.config_records[CONFIG]
    config = from_json(str(record["config"]))
    name = client_name(context.node_config)
    try:
        node = identify(context.node_config, config)
        enrolment = Enrolment(client=node.client, slots=slots())
        if node.task:
            workshop = Workshop.open(node, config)
            workshop.check_images()
            if config.wire.compression == ZSTD:
                codec()
            if node.shares_photographs:
                logger.warning("no data-dir: this node trains on the bundled photographs, as all such nodes do")
            carrier, unreachable = choose_carrier(config.wire, Probe.from_record(record), require_tls=node.require_tls)
            enrolment = Enrolment(
                client=node.client,
                task=node.task,
                body=config.tasks[node.task].body,
                train_images=len(workshop.data.train),
                held_out_images=len(workshop.data.held_out),
                shared_held_out=node.shards > 1 or node.shares_photographs,
                carrier=carrier,
                unreachable=unreachable,
                slots=slots(),
            )
    except TavitError as error:
        logger.error("%s", error)
        enrolment = Enrolment(client=name, error=error.told())
    return Message(content=RecordDict({CONFIG: enrolment.to_record()}), reply_to=message)


@app.train()
@_told
def on_train(message: Message, context: Context) -> Message:
    """Run one session of many steps, or do what one message of it asks."""
    return _do(Training, TRAIN_METRICS, message, context)


@app.evaluate()
@_told
def on_evaluate(message: Message, context: Context) -> Message:
    """Restore and score held-out images, or do what one message of it asks."""
    return _do(Evaluation, EVALUATE_METRICS, message, context)


def _do(kind: type[Job], metrics: frozenset[str], message: Message, context: Context) -> Message:
    order, workshop, tensors = _order(message, context)
    allowed = metrics | set_metrics(labels_of(workshop.config, workshop.node.task)) if kind is Evaluation else metrics
    frames: list[bytes] = []
    result: Result | None
    if order.carrier == MESSAGES:
        frames, result = by_message(kind, workshop, order, message.content, tensors)
    elif order.carrier == LENT:
        result = by_lent_body(kind.begin(workshop, order, tensors), workshop, order, tensors)
    else:
        result = by_stream(kind.begin(workshop, order, tensors), workshop, order)
    if kind is Evaluation and result is not None and forget_if_finished(workshop, order):
        context.state.pop("tavit", None)
    content = RecordDict()
    if frames:
        content[FRAMES] = frames_record(frames)
    if result is not None:
        content[METRICS] = metrics_record(result.metrics, allowed)
        if result.arrays is not None:
            content[ARRAYS] = result.arrays
        if result.moments is not None:
            context.state["tavit"] = ConfigRecord({"moments": str(result.moments), "version": order.next_version})
    return Message(content=content, reply_to=message)


def _order(message: Message, context: Context) -> tuple[Order, Workshop, dict[str, Tensor]]:
    records = message.content.config_records
    if CONFIG not in records or (FRAMES in records and message.content.array_records):
        raise ProtocolError(
            f"records '{CONFIG}' and at most one of '{ARRAYS}' and '{FRAMES}' in the message",
            str(sorted(message.content)),
        )
    order = Order.from_record(records[CONFIG])
    config = from_json(order.config)
    workshop = Workshop.open(identify(context.node_config, config), config)
    return order, workshop, {} if FRAMES in records else take_in(workshop, order, message.content)
