"""The body service: sessions of many steps between clients and the bodies that this process owns."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from tavit_flwr.config import MESSAGES, STREAM, WireConfig
from tavit_flwr.errors import CapacityError, ConfigError, SessionError, TavitError
from tavit_flwr.server.channel import Channel
from tavit_flwr.server.serving import serve
from tavit_flwr.server.sessions import Session
from tavit_flwr.split.devices import torch_threads
from tavit_flwr.wire.credentials import Certificate, ephemeral_certificate, own_certificate, session_token
from tavit_flwr.wire.exchange import Attachment
from tavit_flwr.wire.limits import Limits, max_frame_bytes
from tavit_flwr.wire.probe import Probe
from tavit_flwr.wire.stream_server import Caller, StreamServer

logger = logging.getLogger("flwr")

R = TypeVar("R")


class BodyService:
    """Hosts sessions, each in a thread of its own from its first frame to its end; a context manager.

    Parameters
    ----------
    wire : WireConfig
        Address, limits, deadlines.
    threads : int
        Threads for torch in this process; 0 takes every core.

    Attributes
    ----------
    cores : int
        That number.
    at_once : int
        Sessions that share them where the body is frozen; 0: all that are registered.
    """

    def __init__(self, wire: WireConfig, threads: int = 0) -> None:
        self._wire = wire
        self.max_frame_bytes = max_frame_bytes(wire)
        self._sessions: dict[str, Session] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self.cores = threads or os.cpu_count() or 1
        self.at_once = 0
        self._workers = ThreadPoolExecutor(self.cores, thread_name_prefix="tavit-body")
        streams = wire.carrier != MESSAGES
        self.certificate = _certificate(wire) if streams and not wire.insecure else None
        self._server = (
            StreamServer(
                self._admit,
                wire.listen,
                self.certificate,
                max_frame_bytes=self.max_frame_bytes,
                max_sessions=wire.max_sessions,
                idle_timeout_s=wire.idle_timeout_s,
                answer_timeout_s=wire.session_timeout_s,
            )
            if streams
            else None
        )

    @property
    def address(self) -> str:
        """What clients connect to: the advertised address, or the one listened on; empty where there is no stream."""
        return (self._wire.advertise or self._server.address) if self._server is not None else ""

    def probe(self) -> Probe:
        """What a client needs to try the stream."""
        token = self._server.probe_token if self._server is not None else ""
        return Probe(self.address, self.certificate.certificate_pem if self.certificate else b"", token)

    def describe(self) -> str:
        """How sessions travel, in words."""
        if self._server is None:
            return "the frames of all sessions travel in Flower messages"
        return f"body service at {self.address}, {'TLS' if self.certificate else 'NO TLS'}"

    def open(self, session: Session) -> str:
        """Register a session and return its token."""
        token = session_token()
        with self._lock:
            self._sessions[token] = session
        return token

    def find(self, token: str) -> Session | None:
        """The session that a token was made for; None after its round."""
        with self._lock:
            return self._sessions.get(token)

    def attach(self, token: str, on_answer: Callable[[], object]) -> Attachment:
        """Attach messages to their session.

        Raises
        ------
        SessionError
            When its round has ended.
        """
        with self._lock:
            session = self._sessions.get(token)
            if session is None:
                raise SessionError("an open session", "one whose round has ended")
            return self._attach(token, session, partial(session.exchange.attach, lambda: None, on_answer))

    def end_round(self) -> None:
        """End what is left of the round: tokens, sessions, cohorts; nothing of it touches a body afterwards.

        Raises
        ------
        SessionError
            When a session's work on a body does not end within ``wire.step_timeout_s``.
        """
        with self._lock:
            sessions, threads = list(self._sessions.values()), dict(self._threads)
            self._sessions.clear()
            self._threads.clear()
        for session in sessions:
            over = SessionError("an open round", "a round that has ended", session.where)
            session.exchange.end(over)
            if session.cohort is not None:
                session.cohort.close(over)
        deadline = time.monotonic() + self._wire.step_timeout_s
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if stuck := [thread.name for thread in threads.values() if thread.is_alive()]:
            raise SessionError(
                f"all sessions to end within {self._wire.step_timeout_s:g} s of their round", f"{stuck} at work",
                "body service", "a body takes longer for one step: raise wire.step_timeout_s",
            )  # fmt: skip

    def close(self) -> None:
        """End all sessions, free the port and the threads."""
        try:
            self.end_round()
        finally:
            if self._server is not None:
                self._server.close()
            self._workers.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> BodyService:
        return self

    def __exit__(self, *_: object) -> None:
        """Close, whatever happened."""
        self.close()

    def _admit(self, caller: Caller, on_end: Callable[[], object]) -> Attachment:
        """Attach a stream to its session.

        Raises
        ------
        SessionError
            For an unknown or expired token, another client's token, or a second session with the same token.
        CapacityError
            When there are too many sessions, or streams of this one.
        """
        with self._lock:
            session = self._sessions.get(caller.token)
            if session is None or session.carrier != STREAM:
                raise SessionError("the token of an open session", "an unknown or expired token")
            if session.client != caller.client:
                raise SessionError("a token of this client's own", "another client's")
            if not session.instance:
                session.instance = caller.instance
            if not caller.instance or session.instance != caller.instance:
                raise SessionError("one session per token", "a second one", session.where)
            most = self._wire.max_streams_per_client
            return self._attach(caller.token, session, partial(session.exchange.attach, on_end, most=most))

    def _attach(self, token: str, session: Session, attach: Callable[[], Attachment]) -> Attachment:
        """Attach a transport and start the session's thread, if this has not been done; called with the lock held."""
        attachment = attach()  # first: the session's deadlines count from now
        try:
            self._begin(token, session)
        except BaseException:
            attachment.detach()
            raise
        return attachment

    def _begin(self, token: str, session: Session) -> None:
        if token not in self._threads:
            if sum(thread.is_alive() for thread in self._threads.values()) >= self._wire.max_sessions:
                raise CapacityError(
                    f"at most {self._wire.max_sessions} sessions at once", "another", session.where,
                    "raise wire.max_sessions",
                )  # fmt: skip
            name = f"tavit-session-{session.client}"
            (thread := threading.Thread(target=self._run, args=(session,), name=name, daemon=True)).start()
            self._threads[token] = thread

    def _run(self, session: Session) -> None:
        wire = self._wire
        channel = Channel(
            session,
            Limits.of(wire, session.phase),
            step_timeout_s=wire.step_timeout_s,
            session_timeout_s=wire.session_timeout_s,
        )
        failure: TavitError | None = None
        try:
            with torch_threads(1):  # what is heavy sets its own number
                serve(session, channel, self._work)
        except TavitError as error:
            failure = error
        except Exception as error:  # the border of a session: whatever goes wrong in it, the others go on
            logger.exception("session of %s", session.where)
            failure = SessionError("a session without errors of the server", type(error).__name__, session.where)
        if failure is not None:
            session.error = str(failure)
        if session.cohort is not None:
            session.cohort.leave(session.client, session.error or "its session ended early")
        session.exchange.end(failure)

    def _work(self, function: Callable[..., R], *args: object, **options: object) -> R:
        """Run a frozen request beside the others.

        The cores are shared out among those of the round's sessions that can be at work at once, not among those that
        happen to be: how many threads add up a sum can change its last bits.
        """
        threads = max(1, self.cores // max(1, self.at_once or len(self._sessions)))

        def run() -> R:
            if torch.get_num_threads() != threads:  # else it would clear torch's cache of convolutions
                torch.set_num_threads(threads)
            return function(*args, **options)

        return self._workers.submit(run).result()


def _certificate(wire: WireConfig) -> Certificate:
    if not (wire.certificate or wire.private_key):
        return ephemeral_certificate()
    if not (wire.certificate and wire.private_key):
        raise ConfigError("both wire.certificate and wire.private_key, or neither", "one of them", "configuration")
    return own_certificate(Path(wire.certificate), Path(wire.private_key))
