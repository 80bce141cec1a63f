"""The server's end of the stream: gRPC, raw bytes, a caller checked before any frame is read."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from tavit_flwr.errors import CapacityError, ConfigError, ProtocolError, SessionError, TavitError
from tavit_flwr.wire.credentials import Certificate, session_token
from tavit_flwr.wire.exchange import Attachment

SERVICE = "tavit.BodyService"
METHOD = "Session"
PROBE = "Probe"
TOKEN_KEY = "tavit-token"
CLIENT_KEY = "tavit-client"
INSTANCE_KEY = "tavit-instance"
#: In the metadata that the server sends as soon as a stream is attached to its session.
ATTACHED = ("tavit-attached", "yes")

#: Calls beyond one for each session: streams that are being replaced, probes, and callers that are being refused.
_SPARE = 16

#: Trailing metadata has little room, and an error's text may quote what a client sent.
_MOST_DETAILS = 1000


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


@dataclass(frozen=True)
class Caller:
    """Who opens a stream, as its metadata say.

    Attributes
    ----------
    token : str
        The session's secret.
    client : str
        Name of the client that the token was given to.
    instance : str
        Drawn by the client at its first connection; who gives it again is the same one, come back.
    """

    token: str
    client: str
    instance: str


#: ``(caller, on_end) -> attachment``; raises `SessionError` to refuse, `CapacityError` where it may be tried again.
Admit = Callable[[Caller, Callable[[], object]], Attachment]


class StreamServer:
    """A gRPC server for sessions; listens from construction on, until `close`.

    Parameters
    ----------
    admit : callable
        See `Admit`.
    listen : str
        ``host:port``; port 0 takes a free one.
    certificate : Certificate or None
        None only where the configuration says so explicitly.
    max_frame_bytes, max_sessions : int
        Limits. The number of connections is twice that of the sessions, and some: all have to authenticate.
    idle_timeout_s : float
        How long a connection may take for its TLS handshake, and be without a call.
    answer_timeout_s : float
        Longest wait for a session's answer; sessions have shorter deadlines of their own.

    Raises
    ------
    ConfigError
        When the address cannot be listened on.
    """

    def __init__(
        self,
        admit: Admit,
        listen: str,
        certificate: Certificate | None,
        *,
        max_frame_bytes: int,
        max_sessions: int,
        idle_timeout_s: float,
        answer_timeout_s: float,
    ) -> None:
        self._admit = admit
        self._answer_timeout_s = answer_timeout_s
        calls = max_sessions + _SPARE
        options = [
            *channel_options(max_frame_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", 2 * calls),
            ("grpc.max_concurrent_streams", _SPARE),
            ("grpc.server_handshake_timeout_ms", int(idle_timeout_s * 1000)),
            ("grpc.max_connection_idle_ms", int(idle_timeout_s * 1000)),
        ]
        self._pool = ThreadPoolExecutor(max_workers=calls, thread_name_prefix="tavit-stream")
        self._server = grpc.server(self._pool, options=options, maximum_concurrent_rpcs=calls)
        self.probe_token = session_token()
        methods = {
            METHOD: grpc.stream_stream_rpc_method_handler(self._session, None, None),
            PROBE: grpc.stream_unary_rpc_method_handler(self._probe, None, None),  # answers before it reads anything
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
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
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        caller = Caller(*(metadata.get(key, "") for key in (TOKEN_KEY, CLIENT_KEY, INSTANCE_KEY)))
        try:
            attachment = self._admit(caller, context.cancel)
        except SessionError as error:
            full = isinstance(error, CapacityError)
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNAUTHENTICATED
            context.abort(code, str(error)[:_MOST_DETAILS])
            return
        context.add_callback(attachment.detach)  # wakes this thread where it waits for the answer
        try:
            attachment.check()
            context.send_initial_metadata((ATTACHED,))
            for frame in _until_cut(frames):
                attachment.offer(frame)
                answer = attachment.take(self._answer_timeout_s)
                if answer is None:
                    raise SessionError("an answer within wire.session_timeout_s", "none")
                yield answer
        except TavitError as error:
            code = grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, ProtocolError) else grpc.StatusCode.ABORTED
            context.abort(code, str(error)[:_MOST_DETAILS])
        finally:
            attachment.detach()

    def _probe(self, _: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        given = str(dict(context.invocation_metadata()).get(TOKEN_KEY, ""))
        if not hmac.compare_digest(given.encode(), self.probe_token.encode()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "expected this service's probe token")
        return b""

    def close(self, grace_s: float = 2.0) -> None:
        """Stop accepting, end open streams after `grace_s` seconds, free the port."""
        self._server.stop(grace_s).wait(grace_s + 5)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _until_cut(frames: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from frames
    except Exception:  # gRPC's request iterator raises a bare Exception on a cut stream
        return
