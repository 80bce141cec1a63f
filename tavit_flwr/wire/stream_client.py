"""The client's end of the stream."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from types import TracebackType

import grpc

from tavit_flwr.errors import SessionError
from tavit_flwr.payloads import Acknowledged, Close, Payload
from tavit_flwr.wire.credentials import SERVICE_NAME
from tavit_flwr.wire.deadlines import Watchdog
from tavit_flwr.wire.frames import Limits, decode, encode
from tavit_flwr.wire.ledger import Ledger
from tavit_flwr.wire.stream_server import METHOD, SERVICE, TOKEN_KEY, channel_options


class StreamClient:
    """One session's stream to the body service: a context manager.

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
        Frame size and dtype.
    first_timeout_s, step_timeout_s, session_timeout_s : float
        Deadlines of the first answer (the cohort has to gather), of every other one, and of the whole session.
    """

    def __init__(
        self,
        address: str,
        token: str,
        certificate_pem: bytes,
        phase: str,
        limits: Limits,
        *,
        first_timeout_s: float,
        step_timeout_s: float,
        session_timeout_s: float,
    ) -> None:
        self._phase = phase
        self._limits = limits
        self._timeout_s = first_timeout_s
        self._step_timeout_s = step_timeout_s
        self.ledger = Ledger()
        self.wait_s = 0.0
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        options = channel_options(limits.max_frame_bytes)
        if certificate_pem:
            credentials = grpc.ssl_channel_credentials(root_certificates=certificate_pem)
            options_tls = [*options, ("grpc.ssl_target_name_override", SERVICE_NAME)]
            self._channel = grpc.secure_channel(address, credentials, options=options_tls)
        else:
            self._channel = grpc.insecure_channel(address, options=options)
        call = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")
        self._call = call(
            iter(self._outbox.get, None), metadata=((TOKEN_KEY, token),), timeout=session_timeout_s,
            wait_for_ready=True,
        )  # fmt: skip
        self._answers: Iterator[bytes] = iter(self._call)
        self._watchdog = Watchdog(lambda _: self._call.cancel())

    def send(self, payload: Payload) -> None:
        """Queue one frame; returns at once."""
        frame = encode(payload, self._phase)
        self.ledger.add("up", type(payload).__name__, len(frame))
        self._outbox.put(frame)

    def receive(self, expected: type, step: int) -> Payload:
        """Wait for the answer to a step.

        Raises
        ------
        SessionError
            When the service refuses, has gone, or does not answer within the deadline.
        ProtocolError
            When the answer is not the expected frame.
        """
        started = time.monotonic()
        waiting_for = f"{expected.__name__} of step {step}"
        try:
            with self._watchdog.within(self._timeout_s, waiting_for):
                frame = next(self._answers)
        except StopIteration:
            raise SessionError(waiting_for, "the end of the stream", f"phase {self._phase}") from None
        except grpc.RpcError as error:
            raise self._explain(error, waiting_for) from error
        self.wait_s += time.monotonic() - started
        self._timeout_s = self._step_timeout_s
        self.ledger.add("down", expected.__name__, len(frame))
        return decode(frame, self._phase, (expected,), step, self._limits)

    def finish(self, step: int) -> None:
        """Tell the service that `step` steps are done, and wait until it has said that everything arrived."""
        self.send(Close(step))
        self.receive(Acknowledged, step)

    def _explain(self, error: grpc.RpcError, waiting_for: str) -> SessionError:
        if self._watchdog.expired:
            return SessionError(
                f"{waiting_for} within {self._timeout_s:g} s",
                "nothing",
                f"phase {self._phase}",
                "see wire.join_timeout_s, wire.step_timeout_s and the server's log",
            )
        code = error.code().name if hasattr(error, "code") else type(error).__name__
        details = error.details() if hasattr(error, "details") else str(error)
        return SessionError(waiting_for, f"{code}: {details}", f"phase {self._phase}")

    def __enter__(self) -> StreamClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream and the channel whatever happened."""
        self._outbox.put(None)
        self._call.cancel()
        self._watchdog.close()
        self._channel.close()
