"""A session without a wire: the server has lent the frozen body, and this client runs it itself."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import Tensor, nn

from tavit_flwr.client.jobs import Job, Result
from tavit_flwr.client.workshop import Workshop, below
from tavit_flwr.errors import ProtocolError
from tavit_flwr.models import build_body
from tavit_flwr.payloads import Features, GradFeatures, GradSmashed, Payload, Smashed
from tavit_flwr.split.phases import set_moving
from tavit_flwr.split.precision import set_precision
from tavit_flwr.split.server_side import BodyPass, body_backward, body_forward
from tavit_flwr.wire.ledger import Ledger
from tavit_flwr.wire.records import Order


class LentBody:
    """Answers payloads as the server would in a task-specific session, with the same arithmetic; see `Carrier`.

    Parameters
    ----------
    body : nn.Module
        Frozen, on this client's device.
    """

    def __init__(self, body: nn.Module) -> None:
        self.ledger = Ledger()
        self.wait_s = 0.0
        self._body = body
        self._pass: BodyPass | None = None
        self._answer: Tensor | None = None

    def send(self, payload: Payload) -> None:
        """Run the body forward, or backward to its input."""
        if isinstance(payload, Smashed):
            self._pass = body_forward(self._body, payload.smashed, input_gradient=True, moves=False)
            self._answer = self._pass.sent
        elif isinstance(payload, GradFeatures) and self._pass is not None:
            self._answer = body_backward(self._pass, payload.grad_features)
            self._pass = None
        else:
            raise ProtocolError("activations, then their gradient", type(payload).__name__, "lent body")

    def receive(self, expected: type, step: int) -> Payload:
        """Give what the body made of the payload last sent."""
        answer, self._answer = self._answer, None
        if answer is None or expected not in (Features, GradSmashed):
            raise ProtocolError("one answer to each payload", f"{expected.__name__} of step {step}", "lent body")
        return Features(step, answer) if expected is Features else GradSmashed(step, answer.contiguous())

    def hand_in(self, payload: Payload) -> None:
        """Nobody has to know."""


def by_lent_body(job: Job, workshop: Workshop, order: Order, tensors: Mapping[str, Tensor]) -> Result:
    """Do a training job with the order's own ``body/...``."""
    body = build_body(workshop.architecture)
    body.load_state_dict(below("body/", tensors))
    set_precision(body, workshop.config.compute.autocast)
    set_moving(body, False)
    carrier = LentBody(body.to(workshop.device))
    began = time.monotonic()
    job.run(carrier)
    wall_s = time.monotonic() - began
    return job.conclude(carrier, compute_s=wall_s, wall_s=wall_s)
