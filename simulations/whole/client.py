"""A client that trains a whole model on its own images: the unsplit loop between two averages."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn
from torch.optim import Optimizer

from tavit_flwr.client.evaluation import Evaluation
from tavit_flwr.client.leftovers import forget_if_finished
from tavit_flwr.client.node import identify
from tavit_flwr.client.store import PrivateStore
from tavit_flwr.client.training import batches_of
from tavit_flwr.client.workshop import Workshop, above, below
from tavit_flwr.client_app import on_query
from tavit_flwr.config import from_json
from tavit_flwr.data import labels_of
from tavit_flwr.errors import ModelError
from tavit_flwr.models import build_body
from tavit_flwr.payloads import EVALUATE_METRICS, TRAIN_METRICS, Features, Payload, Smashed, set_metrics
from tavit_flwr.seeding import derive_seed
from tavit_flwr.split.optimisers import build_optimiser, learning_rate, load_moments, moments, set_learning_rate
from tavit_flwr.split.phases import PHASES, set_moving
from tavit_flwr.split.unsplit import UnsplitClient, unsplit_step
from tavit_flwr.wire.ledger import Ledger
from tavit_flwr.wire.records import ARRAYS, CONFIG, METRICS, Order, metrics_record

app = ClientApp()
app.query()(on_query)


@app.train()
def on_train(message: Message, context: Context) -> Message:
    """Do a round's steps on the whole model, and give all of it back."""
    order, workshop, tensors = _opened(message, context)
    mu = float(str(message.content.config_records[CONFIG].get("proximal-mu", 0.0)))  # FedProx puts it there
    tensors, metrics = train(workshop, order, tensors, mu)
    content = {ARRAYS: ArrayRecord(torch_state_dict=tensors), METRICS: metrics_record(metrics, TRAIN_METRICS)}
    return Message(content=RecordDict(content), reply_to=message)  # type: ignore[arg-type]


@app.evaluate()
def on_evaluate(message: Message, context: Context) -> Message:
    """Score held-out images, as a split client does."""
    order, workshop, tensors = _opened(message, context)
    metrics = evaluate(workshop, order, tensors)
    forget_if_finished(workshop, order)
    allowed = EVALUATE_METRICS | set_metrics(labels_of(workshop.config, workshop.node.task))
    return Message(content=RecordDict({METRICS: metrics_record(metrics, allowed)}), reply_to=message)


def train(
    workshop: Workshop, order: Order, tensors: Mapping[str, Tensor], proximal_mu: float = 0.0
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Step head, body and tail together, with the batches and the optimisers of a joint phase.

    Parameters
    ----------
    workshop : Workshop
        This client's images and architecture.
    order : Order
        The round.
    tensors : mapping
        ``head/...``, ``body/...`` and ``tail/...`` to begin from.
    proximal_mu : float
        FedProx's pull towards them; 0 for none.

    Returns
    -------
    tuple
        The same names after the steps, on the CPU; and metrics.
    """
    began = time.monotonic()
    settings = workshop.config.optimiser
    head, tail = workshop.parts(tensors)
    body = _body(workshop, tensors)
    client = UnsplitClient(
        workshop.node.task, head, tail, build_optimiser([*head.parameters(), *tail.parameters()], settings.client)
    )
    body_optimiser = build_optimiser(body.parameters(), settings.server)
    store = PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client)
    saved = store.load(order.version)
    optimisers = {"client/": (client.optimiser, settings.client), "body/": (body_optimiser, settings.server)}
    for prefix, (optimiser, setting) in optimisers.items():
        load_moments(optimiser, below(prefix, saved or {}))
        set_learning_rate(optimiser, learning_rate(setting, order.progress))
        if proximal_mu:
            pull_back(optimiser, proximal_mu)
    batches, losses = batches_of(workshop, order), []
    for step in range(order.steps):
        degraded, clean = (images.to(workshop.device) for images in batches(step))
        draws = workshop.config.tasks[workshop.node.task].body, order.cycle, order.phase, order.round, step
        seed = derive_seed(workshop.config.seed, "dropout", *draws)
        (loss,) = unsplit_step([client], body, body_optimiser, [(degraded, clean)], PHASES["joint"], seed)
        losses.append(float(loss))
        if not math.isfinite(losses[-1]):
            raise ModelError("a finite loss", f"{losses[-1]}", f"{workshop.where(order)}, step {step}")
    kept = [above(prefix, moments(optimiser)) for prefix, (optimiser, _) in optimisers.items()]
    store.save(order.next_version, kept[0] | kept[1], order.version)
    wall_s = time.monotonic() - began
    metrics = {
        "loss-first": losses[0], "loss-last": losses[-1], "loss-mean": sum(losses) / len(losses),
        "steps": order.steps, "num-examples": order.steps * workshop.config.data.batch_size,
        "bytes-up": 0, "bytes-down": 0, "fresh-moments": float(order.version > 0 and saved is None),
        "compute-s": wall_s, "wait-s": 0.0, "wall-s": wall_s,
    }  # fmt: skip
    parts = (("head/", head), ("body/", body), ("tail/", tail))
    return {name: value for prefix, part in parts for name, value in above(prefix, part.state_dict()).items()}, metrics


def pull_back(optimiser: Optimizer, mu: float) -> None:
    """Add the gradient of FedProx's ``mu / 2 * |w - w0|^2`` before each step; ``w0`` are the weights of now.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    start = [parameter.detach().clone() for parameter in parameters]

    def pull(*_: object) -> None:
        for parameter, before in zip(parameters, start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - before, alpha=mu)

    optimiser.register_step_pre_hook(pull)


def evaluate(workshop: Workshop, order: Order, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Restore and score held-out images through the same code as a split client, the body being here."""
    began = time.monotonic()
    job, carrier = Evaluation.begin(workshop, order, tensors), OwnBody(_body(workshop, tensors))
    job.run(carrier)
    wall_s = time.monotonic() - began
    return job.conclude(carrier, compute_s=wall_s, wall_s=wall_s).metrics


class OwnBody:
    """In place of a stream: answers evaluation's requests with a body of this process. A `Carrier`."""

    def __init__(self, body: nn.Module) -> None:
        set_moving(body, False)
        self._body = body
        self._features = torch.empty(0)
        self.ledger = Ledger()
        self.wait_s = 0.0

    def send(self, payload: Payload) -> None:
        """Run the body on smashed activations."""
        if not isinstance(payload, Smashed):
            raise ModelError("smashed activations", type(payload).__name__)
        with torch.no_grad():
            device = next((weight.device for weight in self._body.parameters()), payload.smashed.device)
            self._features = self._body(payload.smashed.to(device))

    def receive(self, expected: type, step: int) -> Payload:
        """Give the features."""
        return Features(step, self._features)

    def hand_in(self, payload: Payload) -> None:
        """Nothing is open that would have to end."""


def _body(workshop: Workshop, tensors: Mapping[str, Tensor]) -> nn.Module:
    body: nn.Module = build_body(workshop.architecture)
    body.load_state_dict(below("body/", tensors))
    return body.to(workshop.device)


def _opened(message: Message, context: Context) -> tuple[Order, Workshop, dict[str, Tensor]]:
    order = Order.from_record(message.content.config_records[CONFIG])
    config = from_json(order.config)
    tensors: dict[str, Any] = message.content.array_records[ARRAYS].to_torch_state_dict()
    return order, Workshop.open(identify(context.node_config, config), config), tensors
