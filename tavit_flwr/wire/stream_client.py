"""The client's end of the stream: one session over as many connections as it takes."""

from __future__ import annotations

import logging
import secrets
import time
from types import TracebackType

import grpc

from tavit_flwr.errors import SessionError, UnreachableError
from tavit_flwr.payloads import Acknowledged, Close, Payload
from tavit_flwr.wire.deadlines import Watchdog
from tavit_flwr.wire.encoder import Encoder
from tavit_flwr.wire.frames import decode
from tavit_flwr.wire.ledger import Ledger
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.link import Door, Link
from tavit_flwr.wire.stream_server import Caller

logger = logging.getLogger("flwr")

#: What another connection cannot mend: the service has refused, or ended the session, or the frame is at fault.
_FINAL = frozenset(
    {"UNAUTHENTICATED", "INVALID_ARGUMENT", "ABORTED", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"}
)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_FAREWELL_S = 1.0


class StreamClient:
    """One session's stream to the body service: a context manager.

    When the stream is cut, it connects again with the same token and the same instance, and sends the last frame again
    if that has no answer yet; the service then answers as if nothing had happened.

    Parameters
    ----------
    address : str
        ``host:port`` that the service advertises.
    token : str
        The session's secret, from the Flower message.
    certificate_pem : bytes
        What to trust, from the Flower message; empty means no TLS, which the server must have chosen explicitly.
    phase : str
        The session's phase, or ``evaluate``.
    limits : Limits
        Frame size, types and compression.
    client : str
        This client's name.
    first_timeout_s, step_timeout_s, session_timeout_s : float
        Deadlines of the first answer (the cohort has to gather), of every other one, and of the whole session.
    connect_timeout_s : float, optional
        Deadline of connecting, at first and after a cut; the step's deadline by default.
    """

    def __init__(
        self,
        address: str,
        token: str,
        certificate_pem: bytes,
        phase: str,
        limits: Limits,
        *,
        client: str,
        first_timeout_s: float,
        step_timeout_s: float,
        session_timeout_s: float,
        connect_timeout_s: float | None = None,
    ) -> None:
        self._door = Door(address, certificate_pem, limits.max_frame_bytes)
        self._caller = Caller(token, client, secrets.token_urlsafe(16))
        self._phase = phase
        self._encode = Encoder(phase, limits)
        self._limits = limits
        self._timeout_s = first_timeout_s
        self._step_timeout_s = step_timeout_s
        self._connect_timeout_s = step_timeout_s if connect_timeout_s is None else connect_timeout_s
        self._session_timeout_s = session_timeout_s
        self._session_ends = time.monotonic() + session_timeout_s
        self.ledger = Ledger()
        self.wait_s = 0.0
        self._link: Link | None = None
        self._unanswered: tuple[str, bytes] | None = None
        self._watchdog = Watchdog(lambda _: self._cancel())

    def send(self, payload: Payload) -> None:
        """Queue one frame; connects first where there is no connection yet."""
        if self._link is None:
            self._link = self._connect(f"a session of phase {self._phase}")
        kind, frame = type(payload).__name__, self._encode(payload)
        self._unanswered = kind, frame
        self.ledger.add("up", kind, len(frame))
        self._link.put(frame)

    def receive(self, expected: type, step: int) -> Payload:
        """Wait for the answer to a step, over another connection where this one is cut.

        Raises
        ------
        SessionError
            When the service refuses, has gone, or does not answer within the deadline.
        ProtocolError
            When the answer is not the expected frame.
        """
        started = time.monotonic()
        waiting_for = f"{expected.__name__} of step {step}"
        frame = None
        while frame is None:
            frame = self._next(started + self._timeout_s - time.monotonic(), waiting_for)
        self.wait_s += time.monotonic() - started
        self._timeout_s = self._step_timeout_s
        self._unanswered = None
        self.ledger.add("down", expected.__name__, len(frame))
        return decode(frame, self._phase, (expected,), step, self._limits)

    def hand_in(self, payload: Payload) -> None:
        """Send one frame and wait until the service has said that it arrived."""
        self.send(payload)
        self.receive(Acknowledged, payload.step)

    def _next(self, remaining_s: float, waiting_for: str) -> bytes | None:
        """Wait for a frame; None after a cut that has been mended."""
        if self._link is None:
            raise SessionError(waiting_for, "a call of receive() before any of send()")
        try:
            with self._watchdog.within(max(0.0, remaining_s), waiting_for):
                return next(self._link.answers)
        except (StopIteration, grpc.RpcError) as error:
            code = _code(error)
            if self._watchdog.expired or code in _FINAL:
                raise self._explain(error, waiting_for) from error
            logger.warning("the stream of a session was cut (%s); connecting again", code)
        self._link.close()
        self._link = self._connect(waiting_for)
        if self._unanswered is not None:
            kind, frame = self._unanswered
            self.ledger.add("up", f"{kind}, resent", len(frame))
            self._link.put(frame)
        return None

    def _connect(self, waiting_for: str) -> Link:
        """Connect, again and again until the deadline."""
        gives_up = min(time.monotonic() + self._connect_timeout_s, self._session_ends)
        pause_s = _FIRST_PAUSE_S
        while True:
            link = Link(self._door, self._caller, max(0.0, self._session_ends - time.monotonic()))
            self._link = link
            try:
                with self._watchdog.within(max(0.0, gives_up - time.monotonic()), waiting_for):
                    link.wait_attached()
                return link
            except grpc.RpcError as error:
                link.close()
                if _code(error) in _FINAL - {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}:
                    raise self._explain(error, waiting_for) from error
                if time.monotonic() + pause_s >= gives_up:
                    full = _code(error) == "RESOURCE_EXHAUSTED"
                    raise (self._explain(error, waiting_for) if full else self._unreachable(error)) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _cancel(self) -> None:
        if self._link is not None:
            self._link.cancel()

    def _unreachable(self, error: grpc.RpcError) -> UnreachableError:
        return UnreachableError(
            f"the body service at {self._door.address} within {self._connect_timeout_s:g} s",
            "no connection" if self._watchdog.expired else _why(error),
            f"phase {self._phase}",
            "open that address for clients (wire.listen, wire.advertise), or choose wire.carrier=messages",
        )

    def _explain(self, error: Exception, waiting_for: str) -> SessionError:
        if self._watchdog.expired:
            return SessionError(
                f"{waiting_for} within {self._timeout_s:g} s",
                "nothing",
                f"phase {self._phase}",
                "see wire.join_timeout_s, wire.step_timeout_s and the server's log",
            )
        return SessionError(waiting_for, _why(error), f"phase {self._phase}")

    def __enter__(self) -> StreamClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream and the channel whatever happened; before its time, with a farewell.

        The farewell spares the others of a cohort the wait for a client that would not come back.
        """
        if self._link is not None:
            if error is not None:
                self._link.farewell(self._encode(Close(0)), _FAREWELL_S)
            self._link.close()
        self._watchdog.close()


def _code(error: Exception) -> str:
    if isinstance(error, StopIteration):
        return "the end of the stream"
    return str(error.code().name) if hasattr(error, "code") else type(error).__name__


def _why(error: Exception) -> str:
    """What the server may read: its own words, and of a lost connection the status alone.

    What gRPC says of that may name addresses of this network, so it stays in this machine's log.
    """
    code, details = _code(error), str(error.details() if hasattr(error, "details") else error)
    if code != "UNAVAILABLE":
        return f"{code}: {details}"
    logger.warning("the body service: %s", details)
    return code
