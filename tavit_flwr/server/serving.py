"""The server's side of a session, phase by phase: what is received, what the body does, what is answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from tavit_flwr.errors import SessionError
from tavit_flwr.payloads import (
    Acknowledged,
    Close,
    Features,
    GradFeatures,
    GradFeaturesAndSmashed,
    GradSmashed,
    Smashed,
)
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.channel import Channel
from tavit_flwr.server.cohort import Cohort
from tavit_flwr.server.gathering import FrozenPass, Work
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.split.phases import PHASES
from tavit_flwr.split.server_side import body_backward


def serve(session: Session, channel: Channel, work: Work) -> None:
    """Run a session to its end.

    Raises
    ------
    TavitError
        When the client leaves, sends something unusable or nothing in time, or its cohort ends.
    """
    work = _counted(session, work)
    if session.phase == EVALUATE:
        _serve_evaluation(session, channel, work)
    elif session.cohort is None:
        _serve_frozen(session, channel, work)
    elif PHASES[session.phase].client_moves:
        _serve_joint(session, session.cohort, channel)
    else:
        _serve_agnostic(session, session.cohort, channel)


def _serve_frozen(session: Session, channel: Channel, work: Work) -> None:
    """Task-specific: the body is a fixed function, each client at its own pace, or with those who wait as well."""
    run = partial(_alone, session.host) if session.gathering is None else session.gathering.run
    for step in range(session.steps):
        smashed = channel.smashed(step)
        with run(smashed, work) as (features, backward):
            channel.answer(Features(step, features))
            gradient = channel.receive(GradFeatures, step).grad_features
            channel.check_shape(gradient, smashed, step)
            grad_smashed = _there(backward(gradient), "a gradient of the smashed", session, step)
        channel.answer(GradSmashed(step, grad_smashed.contiguous()))
        session.steps_done = step + 1
    channel.finish(session.steps)


@contextmanager
def _alone(host: BodyHost, smashed: Tensor, work: Work) -> Iterator[FrozenPass]:
    body_pass = work(host.forward_frozen, smashed, input_gradient=True)
    yield body_pass.sent, partial(work, body_backward, body_pass)


def _serve_agnostic(session: Session, cohort: Cohort, channel: Channel) -> None:
    """Task-agnostic: one round trip a step, features of the next with the gradient of this one."""
    smashed = channel.smashed(0)
    result = cohort.take_turn(session.client, None, smashed)
    for step in range(session.steps):
        channel.answer(Features(step, _there(result.features, "features", session, step)))
        last = step + 1 == session.steps
        if last:
            gradient, smashed_next = channel.receive(GradFeatures, step).grad_features, None
        else:
            both = channel.receive(GradFeaturesAndSmashed, step)
            gradient, smashed_next = both.grad_features, both.smashed
            channel.check_smashed(smashed_next, step + 1)
            channel.check_shape(smashed_next, smashed, step + 1)
        channel.check_shape(gradient, smashed, step)
        result = cohort.take_turn(session.client, gradient, smashed_next)
        session.steps_done = step + 1
        if smashed_next is not None:
            smashed = smashed_next
    cohort.done(session.client)
    channel.answer(Acknowledged(session.steps - 1))
    channel.finish(session.steps)


def _serve_joint(session: Session, cohort: Cohort, channel: Channel) -> None:
    """Joint (FeSTA): the cohort steps together and every client gets its gradient back."""
    for step in range(session.steps):
        smashed = channel.smashed(step)
        forward = cohort.take_turn(session.client, None, smashed)
        channel.answer(Features(step, _there(forward.features, "features", session, step)))
        gradient = channel.receive(GradFeatures, step).grad_features
        channel.check_shape(gradient, smashed, step)
        backward = cohort.take_turn(session.client, gradient, None)
        grad_smashed = _there(backward.grad_smashed, "a gradient of the smashed", session, step)
        channel.answer(GradSmashed(step, grad_smashed.contiguous()))
        session.steps_done = step + 1
    cohort.done(session.client)
    channel.finish(session.steps)


def _serve_evaluation(session: Session, channel: Channel, work: Work) -> None:
    """Forward only, until the client closes."""
    while True:
        step = session.steps_done
        payload = channel.receive_one_of((Smashed, Close), step)
        if not isinstance(payload, Smashed):
            channel.answer(Acknowledged(step))
            return
        channel.check_smashed(payload.smashed, step)
        body_pass = work(session.host.forward_frozen, payload.smashed, input_gradient=False)
        channel.answer(Features(step, body_pass.sent))
        session.steps_done = step + 1


def _counted(session: Session, work: Work) -> Work:
    """Count the seconds of the work itself, without those in which it waits for a worker."""

    def run(function: Work, *args: object, **options: object) -> object:
        def timed() -> object:
            began = time.monotonic()
            try:
                return function(*args, **options)
            finally:
                session.alone_s += time.monotonic() - began

        return work(timed)

    return run


def _there(tensor: Tensor | None, what: str, session: Session, step: int) -> Tensor:
    if tensor is None:
        raise SessionError(f"{what} from the body", "none", f"{session.where}, step {step}")
    return tensor
