"""The Flower ClientApp: the same in simulation and on a SuperNode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from tavit_flwr.client.evaluation import evaluate
from tavit_flwr.client.leftovers import forget_if_finished
from tavit_flwr.client.node import client_name, identify, slots
from tavit_flwr.client.training import train
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.config import from_json
from tavit_flwr.data import labels_of
from tavit_flwr.errors import ProtocolError, TavitError
from tavit_flwr.payloads import EVALUATE_METRICS, TRAIN_METRICS, set_metrics
from tavit_flwr.wire.records import ARRAYS, CONFIG, METRICS, Enrolment, Order, metrics_record

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
        except TavitError as error:
            logger.error("%s", error)
            return Message(error=Error(ERROR_CODE, error.told()), reply_to=message)
        except Exception as error:  # the border of this node: a traceback may name its files, so it stays here
            logger.exception("unexpected error")
            reason = f"unexpected {type(error).__name__}; this node's log has the traceback"
            return Message(error=Error(ERROR_CODE, reason), reply_to=message)

    return handle


@app.query()
@_told
def on_query(message: Message, context: Context) -> Message:
    """Enrol: say who this node is, or why it cannot take part."""
    config = from_json(str(message.content.config_records[CONFIG]["config"]))
    name = client_name(context.node_config)
    try:
        node = identify(context.node_config, config)
        enrolment = Enrolment(client=node.client, slots=slots())
        if node.task:
            workshop = Workshop.open(node, config)
            workshop.check_images()
            if node.shares_photographs:
                logger.warning("no data-dir: this node trains on the bundled photographs, as all such nodes do")
            enrolment = Enrolment(
                client=node.client,
                task=node.task,
                body=config.tasks[node.task].body,
                train_images=len(workshop.data.train),
                held_out_images=len(workshop.data.held_out),
                shared_held_out=node.shards > 1 or node.shares_photographs,
                slots=slots(),
            )
    except TavitError as error:
        logger.error("%s", error)
        enrolment = Enrolment(client=name, error=error.told())
    return Message(content=RecordDict({CONFIG: enrolment.to_record()}), reply_to=message)


@app.train()
@_told
def on_train(message: Message, context: Context) -> Message:
    """Run one session of many steps."""
    order, workshop = _order(message, context)
    arrays, metrics, moments = train(workshop, order, message.content.array_records[ARRAYS])
    if moments is not None:
        context.state["tavit"] = ConfigRecord({"moments": str(moments), "version": order.next_version})
    content = RecordDict({METRICS: metrics_record(metrics, TRAIN_METRICS)})
    if arrays is not None:
        content[ARRAYS] = arrays
    return Message(content=content, reply_to=message)


@app.evaluate()
@_told
def on_evaluate(message: Message, context: Context) -> Message:
    """Restore and score held-out images."""
    order, workshop = _order(message, context)
    metrics = evaluate(workshop, order, message.content.array_records[ARRAYS])
    if forget_if_finished(workshop, order):
        context.state.pop("tavit", None)
    allowed = EVALUATE_METRICS | set_metrics(labels_of(workshop.config, workshop.node.task))
    return Message(content=RecordDict({METRICS: metrics_record(metrics, allowed)}), reply_to=message)


def _order(message: Message, context: Context) -> tuple[Order, Workshop]:
    records = message.content.config_records
    if CONFIG not in records or ARRAYS not in message.content.array_records:
        raise ProtocolError(f"records '{CONFIG}' and '{ARRAYS}' in the message", str(sorted(message.content)))
    order = Order.from_record(records[CONFIG])
    config = from_json(order.config)
    return order, Workshop.open(identify(context.node_config, config), config)
