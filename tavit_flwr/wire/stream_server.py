"""The server's end of the stream: gRPC, raw bytes, a token checked before any frame is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import grpc

from tavit_flwr.errors import ConfigError, ProtocolError, SessionError, TavitError
from tavit_flwr.wire.credentials import Certificate
from tavit_flwr.wire.deadlines import Watchdog

SERVICE = "tavit.BodyService"
METHOD = "Session"
TOKEN_KEY = "tavit-token"


def channel_options(max_frame_bytes: int) -> list[tuple[str, int]]:
    """Options of both ends: frame size, and keep-alive pings that notice a dead peer in half a minute."""
    return [
        ("grpc.max_receive_message_length", max_frame_bytes),
        ("grpc.max_send_message_length", max_frame_bytes),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]


class Connection:
    """One accepted stream, as the session's logic sees it.

    Parameters
    ----------
    frames : iterator of bytes
        Frames from the client.
    cancel : callable
        Ends the call.
    step_timeout_s : float
        How long `receive` waits.
    """

    def __init__(self, frames: Iterator[bytes], cancel: Callable[[], Any], step_timeout_s: float) -> None:
        self._frames = frames
        self._step_timeout_s = step_timeout_s
        self._watchdog = Watchdog(lambda _: cancel())

    def receive(self, waiting_for: str) -> bytes:
        """Wait for the next frame.

        Raises
        ------
        SessionError
            When the client has gone, or sends nothing within the deadline.
        """
        try:
            with self._watchdog.within(self._step_timeout_s, waiting_for):
                return next(self._frames)
        except (StopIteration, grpc.RpcError) as error:
            if self._watchdog.expired:
                raise SessionError(f"{waiting_for} within {self._step_timeout_s:g} s", "nothing") from error
            raise SessionError(waiting_for, "the end of the stream") from error
        except Exception as error:  # gRPC's request iterator raises a bare Exception on a cut stream
            raise SessionError(waiting_for, f"a cut stream ({error})") from error

    def sending(self) -> AbstractContextManager[None]:
        """Bound the time that a frame may take to leave: a client that never reads must not hold a thread."""
        return self._watchdog.within(self._step_timeout_s, "the client to read")

    def close(self) -> None:
        """End the watchdog."""
        self._watchdog.close()


@dataclass(frozen=True)
class StreamHandlers:
    """What the body service plugs into the stream.

    Attributes
    ----------
    admit : callable
        ``token -> session``; raises `SessionError` to refuse. The session is handed to `serve`.
    serve : callable
        ``(session, connection) -> frames to send``.
    """

    admit: Callable[[str], Any]
    serve: Callable[[Any, Connection], Iterator[bytes]]


class StreamServer:
    """A gRPC server for sessions; listens from construction on, until `close`.

    Parameters
    ----------
    handlers : StreamHandlers
        Admission and the session's logic.
    listen : str
        ``host:port``; port 0 takes a free one.
    certificate : Certificate or None
        None only where the configuration says so explicitly.
    max_frame_bytes, max_sessions, step_timeout_s
        Limits.

    Raises
    ------
    ConfigError
        When the address cannot be listened on.
    """

    def __init__(
        self,
        handlers: StreamHandlers,
        listen: str,
        certificate: Certificate | None,
        *,
        max_frame_bytes: int,
        max_sessions: int,
        step_timeout_s: float,
    ) -> None:
        self._handlers = handlers
        self._step_timeout_s = step_timeout_s
        self._pool = ThreadPoolExecutor(max_workers=max_sessions, thread_name_prefix="tavit-session")
        self._server = grpc.server(
            self._pool, options=[*channel_options(max_frame_bytes), ("grpc.so_reuseport", 0)],
            maximum_concurrent_rpcs=max_sessions,
        )  # fmt: skip
        method = grpc.stream_stream_rpc_method_handler(self._session, None, None)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
        host, _, _ = listen.rpartition(":")
        try:
            if certificate is None:
                self.port = self._server.add_insecure_port(listen)
            else:
                pair = (certificate.key_pem, certificate.certificate_pem)
                self.port = self._server.add_secure_port(listen, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise ConfigError(
                "an address to listen on", repr(listen), "configuration key 'wire.listen'", "choose a free port"
            ) from error
        self.address = f"{host}:{self.port}"
        self._server.start()

    def _session(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        token = str(dict(context.invocation_metadata()).get(TOKEN_KEY, ""))
        try:
            session = self._handlers.admit(token)
        except SessionError as error:
            time.sleep(0.05)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            return
        connection = Connection(frames, context.cancel, self._step_timeout_s)
        try:
            for frame in self._handlers.serve(session, connection):
                with connection.sending():
                    yield frame
        except TavitError as error:
            code = grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, ProtocolError) else grpc.StatusCode.ABORTED
            context.abort(code, str(error))
        finally:
            connection.close()

    def close(self, grace_s: float = 2.0) -> None:
        """Stop accepting, end open sessions after `grace_s` seconds, free the port."""
        self._server.stop(grace_s).wait(grace_s + 5)
        self._pool.shutdown(wait=False, cancel_futures=True)
