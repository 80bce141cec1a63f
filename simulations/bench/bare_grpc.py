"""An echo over Python's gRPC with TLS, and nothing of this project: what a stream of such messages takes at least."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import SimpleQueue

import grpc

from tavit_flwr.wire.credentials import SERVICE_NAME, Certificate, ephemeral_certificate
from tavit_flwr.wire.stream_server import channel_options

_MOST_BYTES = 2**24


@contextmanager
def grpc_echo() -> Iterator[Callable[[bytes], bytes]]:
    """Start a process that gives back each message of a stream; what this gives sends one and waits for it."""
    certificate, context = ephemeral_certificate(), get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, certificate), daemon=True)
    process.start()
    messages: SimpleQueue[bytes | None] = SimpleQueue()
    credentials = grpc.ssl_channel_credentials(certificate.certificate_pem)
    options = [*channel_options(_MOST_BYTES), ("grpc.ssl_target_name_override", SERVICE_NAME)]
    try:
        with grpc.secure_channel(f"127.0.0.1:{here.recv()}", credentials, options) as channel:
            answers = channel.stream_stream("/bare/echo", None, None)(iter(messages.get, None), timeout=600)

            def exchange(message: bytes) -> bytes:
                messages.put(message)
                return bytes(next(answers))

            yield exchange
            messages.put(None)
    finally:
        process.kill()
        process.join(10)


def _serve(pipe: Connection, certificate: Certificate) -> None:
    server = grpc.server(ThreadPoolExecutor(2), options=channel_options(_MOST_BYTES))
    handler = grpc.stream_stream_rpc_method_handler(lambda messages, _: messages, None, None)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", {"echo": handler}),))
    pair = (certificate.key_pem, certificate.certificate_pem)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    pipe.send(port)
    server.wait_for_termination()
