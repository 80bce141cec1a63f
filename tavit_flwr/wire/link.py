"""One connection of a client to the body service: a channel, a call, and a queue of frames to send."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from tavit_flwr.wire.credentials import certificate_name
from tavit_flwr.wire.stream_server import (
    ATTACHED,
    CLIENT_KEY,
    INSTANCE_KEY,
    METHOD,
    SERVICE,
    TOKEN_KEY,
    Caller,
    channel_options,
)


@dataclass(frozen=True)
class Door:
    """Where a session is, what opens it, and whom to trust.

    Attributes
    ----------
    address : str
        ``host:port`` that the service advertises.
    certificate_pem : bytes
        What to trust, from the Flower message; empty means no TLS, which the server must have chosen explicitly.
    max_frame_bytes : int
        Largest frame.
    """

    address: str
    certificate_pem: bytes
    max_frame_bytes: int

    def channel(self) -> grpc.Channel:
        """Make a channel with a TCP connection of its own, so that a new one does not inherit a dead one's."""
        options: list[tuple[str, str | int]] = [*channel_options(self.max_frame_bytes)]
        options.append(("grpc.use_local_subchannel_pool", 1))
        if not self.certificate_pem:
            return grpc.insecure_channel(self.address, options=options)
        credentials = grpc.ssl_channel_credentials(root_certificates=self.certificate_pem)
        options.append(("grpc.ssl_target_name_override", certificate_name(self.certificate_pem)))
        return grpc.secure_channel(self.address, credentials, options=options)


class Link:
    """An open call; frames go in by `put` and come out of `answers`, which raises ``grpc.RpcError`` when it is cut."""

    def __init__(self, door: Door, caller: Caller, timeout_s: float) -> None:
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._channel = door.channel()
        metadata = ((TOKEN_KEY, caller.token), (CLIENT_KEY, caller.client), (INSTANCE_KEY, caller.instance))
        self._call = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")(
            iter(self._outbox.get, None), metadata=metadata, timeout=timeout_s
        )
        self.answers: Iterator[bytes] = iter(self._call)

    def wait_attached(self) -> None:
        """Wait until the service has attached this call to its session.

        Raises
        ------
        grpc.RpcError
            When it cannot be reached, or refuses.
        """
        metadata = self._call.initial_metadata()  # comes in any case, empty where the call has failed
        if ATTACHED not in [tuple(item) for item in metadata or ()]:
            next(self.answers, None)  # raises why

    def put(self, frame: bytes) -> None:
        """Queue a frame; returns at once."""
        self._outbox.put(frame)

    def farewell(self, frame: bytes, timeout_s: float) -> None:
        """Send a last frame and wait a moment until the service has ended the call."""
        ended = threading.Event()
        if self._call.add_callback(ended.set):
            self._outbox.put(frame)
            ended.wait(timeout_s)

    def cancel(self) -> None:
        """End the call from any thread."""
        self._call.cancel()

    def close(self) -> None:
        """Free the call, its thread and its connection."""
        self._outbox.put(None)
        self._call.cancel()
        self._channel.close()
