"""The body service: sessions of many steps between clients and the bodies that this process owns."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import torch

from tavit_flwr.config import WireConfig
from tavit_flwr.errors import SessionError, TavitError
from tavit_flwr.payloads import (
    Acknowledged,
    Close,
    Features,
    GradFeatures,
    GradFeaturesAndSmashed,
    GradSmashed,
    Smashed,
)
from tavit_flwr.server.channel import Channel
from tavit_flwr.server.cohort import Cohort
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.split.phases import PHASES
from tavit_flwr.split.server_side import body_backward
from tavit_flwr.wire.credentials import Certificate, ephemeral_certificate, session_token
from tavit_flwr.wire.frames import Limits
from tavit_flwr.wire.stream_server import Connection, StreamHandlers, StreamServer


class BodyService:
    """Hosts sessions over the stream; a context manager.

    Parameters
    ----------
    wire : WireConfig
        Address, limits, deadlines.
    threads : int
        Threads for torch in this process; 0 takes every core.
    """

    def __init__(self, wire: WireConfig, threads: int = 0) -> None:
        self._wire = wire
        self._limits = Limits(max_frame_bytes=int(wire.max_frame_mib * 2**20))
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._cores = threads or os.cpu_count() or 1
        # Frozen requests run side by side, a core each; torch keeps the number of threads per calling thread.
        self._workers: Executor = ThreadPoolExecutor(
            self._cores, thread_name_prefix="tavit-body", initializer=lambda: torch.set_num_threads(1)
        )
        self.certificate: Certificate | None = None if wire.insecure else ephemeral_certificate()
        self._server = StreamServer(
            StreamHandlers(self._admit, self._serve),
            wire.listen,
            self.certificate,
            max_frame_bytes=self._limits.max_frame_bytes,
            max_sessions=wire.max_sessions,
            step_timeout_s=wire.step_timeout_s,
        )

    @property
    def address(self) -> str:
        """What clients connect to: the advertised address, or the one listened on."""
        return self._wire.advertise or self._server.address

    def open(self, session: Session) -> str:
        """Register a session and return its token."""
        token = session_token()
        with self._lock:
            self._sessions[token] = session
        return token

    def end_round(self) -> None:
        """Forget every token: a token dies with its round."""
        with self._lock:
            self._sessions.clear()

    def close(self) -> None:
        """End all sessions, free the port and the threads."""
        self.end_round()
        self._server.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> BodyService:
        return self

    def __exit__(self, *_: object) -> None:
        """Close, whatever happened."""
        self.close()

    def _admit(self, token: str) -> Session:
        with self._lock:
            session = self._sessions.get(token)
            if session is None:
                raise SessionError("the token of an open session", "an unknown or expired token")
            if session.used:
                raise SessionError("one session per token", "a second one", session.where)
            session.used = True
            return session

    def _serve(self, session: Session, connection: Connection) -> Iterator[bytes]:
        channel = Channel(session, connection, self._limits)
        if session.cohort is not None:
            torch.set_num_threads(self._cores)  # of this thread, which may run the cohort's batch
        try:
            if session.phase == EVALUATE:
                yield from self._serve_evaluation(session, channel)
            elif session.cohort is None:
                yield from self._serve_frozen(session, channel)
            elif PHASES[session.phase].client_moves:
                yield from self._serve_joint(session, session.cohort, channel)
            else:
                yield from self._serve_agnostic(session, session.cohort, channel)
        except TavitError as error:
            session.error = str(error)
            raise
        finally:
            if session.cohort is not None:
                session.cohort.leave(session.client, session.error or "its stream was cut")

    def _serve_frozen(self, session: Session, channel: Channel) -> Iterator[bytes]:
        """Task-specific: the body is a fixed function, each client at its own pace."""
        for step in range(session.steps):
            smashed = channel.smashed(step)
            body_pass = self._workers.submit(session.host.forward_frozen, smashed, input_gradient=True).result()
            yield channel.pack(Features(step, body_pass.sent))
            gradient = channel.receive(GradFeatures, step).grad_features
            channel.check_shape(gradient, smashed, step)
            grad_smashed = self._workers.submit(body_backward, body_pass, gradient).result()
            if grad_smashed is None:
                raise SessionError("a gradient of the smashed activations", "none", session.where)
            yield channel.pack(GradSmashed(step, grad_smashed.contiguous()))
            session.steps_done = step + 1
        yield channel.finish(session.steps)

    def _serve_agnostic(self, session: Session, cohort: Cohort, channel: Channel) -> Iterator[bytes]:
        """Task-agnostic: one round trip a step, features of the next with the gradient of this one."""
        smashed = channel.smashed(0)
        result = cohort.take_turn(session.client, None, smashed)
        for step in range(session.steps):
            yield channel.pack(_features(step, result.features, session))
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
        yield channel.finish(session.steps)

    def _serve_joint(self, session: Session, cohort: Cohort, channel: Channel) -> Iterator[bytes]:
        """Joint (FeSTA): the cohort steps together and every client gets its gradient back."""
        for step in range(session.steps):
            smashed = channel.smashed(step)
            forward = cohort.take_turn(session.client, None, smashed)
            yield channel.pack(_features(step, forward.features, session))
            gradient = channel.receive(GradFeatures, step).grad_features
            channel.check_shape(gradient, smashed, step)
            backward = cohort.take_turn(session.client, gradient, None)
            if backward.grad_smashed is None:
                raise SessionError("a gradient of the smashed activations", "none", session.where)
            yield channel.pack(GradSmashed(step, backward.grad_smashed.contiguous()))
            session.steps_done = step + 1
        cohort.done(session.client)
        yield channel.finish(session.steps)

    def _serve_evaluation(self, session: Session, channel: Channel) -> Iterator[bytes]:
        """Forward only, until the client closes."""
        step = 0
        while True:
            payload = channel.receive_one_of((Smashed, Close), step)
            if not isinstance(payload, Smashed):
                yield channel.pack(Acknowledged(step))
                return
            channel.check_smashed(payload.smashed, step)
            body_pass = self._workers.submit(
                session.host.forward_frozen, payload.smashed, input_gradient=False
            ).result()
            yield channel.pack(Features(step, body_pass.sent))
            step += 1
            session.steps_done = step


def _features(step: int, features: torch.Tensor | None, session: Session) -> Features:
    if features is None:
        raise SessionError("features from the cohort's turn", "none", f"{session.where}, step {step}")
    return Features(step, features)
