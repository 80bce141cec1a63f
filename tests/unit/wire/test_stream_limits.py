"""Limits of the stream: sessions, streams of one client, idle connections; and a session over IPv6."""

import queue
import socket
import ssl
import threading
import time

import grpc
import pytest
import torch
from torch import nn

from tavit_flwr.config import OptimiserConfig, WireConfig
from tavit_flwr.errors import SessionError, UnreachableError
from tavit_flwr.payloads import Close, Features, GradFeatures, GradSmashed, Smashed
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.sessions import Session
from tavit_flwr.wire.credentials import SERVICE_NAME
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.link import Door
from tavit_flwr.wire.stream_client import StreamClient
from tavit_flwr.wire.stream_server import CLIENT_KEY, INSTANCE_KEY, METHOD, PROBE, SERVICE, TOKEN_KEY

pytestmark = pytest.mark.timeout(60)
SMASHED = torch.ones(1, 1, 2, 2)


@pytest.fixture
def host():
    torch.set_num_threads(1)
    host = BodyHost("natural", nn.Conv2d(1, 1, 1), OptimiserConfig(), 1, seed=0)
    host.begin_phase(moves=False)
    return host


def session_of(host, client):
    return Session(client, "denoise", host, "task-specific", 1)


def connect(service, session, timeout_s=10.0):
    return StreamClient(
        service.address, service.open(session), service.certificate.certificate_pem, session.phase, Limits(),
        client=session.client, first_timeout_s=timeout_s, step_timeout_s=timeout_s, session_timeout_s=30,
    )  # fmt: skip


def begin(stream):
    stream.send(Smashed(0, SMASHED))
    return stream.receive(Features, 0)


def finish(stream):
    stream.send(GradFeatures(0, SMASHED))
    stream.receive(GradSmashed, 0)
    stream.hand_in(Close(1))


class Call:
    """A stream with none of our client's code around it."""

    def __init__(self, service, metadata):
        self._frames = queue.SimpleQueue()
        self._channel = Door(service.address, service.certificate.certificate_pem, 2**20).channel()
        self._call = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")(
            iter(self._frames.get, None), metadata=metadata
        )

    def attached(self):
        return bool(self._call.initial_metadata())

    def ended_with(self):
        return self._call.code(), self._call.details()

    def close(self):
        self._frames.put(None)
        self._call.cancel()
        self._channel.close()


def test_a_client_waits_for_a_session_to_end_where_there_are_too_many(host):
    """Longer than it may have streams: none of the refused ones counts."""
    with (
        BodyService(WireConfig(max_sessions=1), threads=1) as service,
        connect(service, session_of(host, "a")) as first,
        connect(service, session_of(host, "b")) as second,
    ):
        begin(first)
        waits = threading.Thread(target=begin, args=(second,))
        waits.start()
        time.sleep(1)  # five attempts
        assert waits.is_alive()
        finish(first)
        waits.join(10)
        assert not waits.is_alive()
        finish(second)


def test_a_client_that_finds_no_room_says_what_there_is_too_little_of(host):
    with BodyService(WireConfig(max_sessions=1), threads=1) as service, connect(service, session_of(host, "a")) as one:
        begin(one)
        with (
            connect(service, session_of(host, "b"), timeout_s=0.5) as other,
            pytest.raises(SessionError, match=r"at most 1 sessions.*raise wire\.max_sessions") as told,
        ):
            begin(other)
        assert not isinstance(told.value, UnreachableError)
        finish(one)


def test_streams_of_one_client_are_bounded_and_those_that_ended_do_not_count(host):
    with BodyService(WireConfig(max_streams_per_client=1), threads=1) as service:
        token = service.open(session_of(host, "a"))
        metadata = ((TOKEN_KEY, token), (CLIENT_KEY, "a"), (INSTANCE_KEY, "only"))
        first = Call(service, metadata)
        assert first.attached()
        for _ in range(6):
            refused = Call(service, metadata)
            assert not refused.attached()
            code, details = refused.ended_with()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "at most 1 streams" in details
            refused.close()
        first.close()
        deadline = time.monotonic() + 10
        while not (again := Call(service, metadata)).attached() and time.monotonic() < deadline:
            again.close()
        assert again.attached()
        again.close()


def seconds_until_closed(connection):
    began = time.monotonic()
    connection.settimeout(20)
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began


def test_connections_without_a_call_are_closed_and_quiet_sessions_are_not(host):
    idle_s = 1.0
    with BodyService(WireConfig(idle_timeout_s=idle_s), threads=1) as service:
        where = (service.address.rpartition(":")[0], int(service.address.rpartition(":")[2]))
        trusted = ssl.create_default_context(cadata=service.certificate.certificate_pem.decode())
        trusted.set_alpn_protocols(["h2"])
        states = []
        channel = Door(service.address, service.certificate.certificate_pem, 2**20).channel()
        with (
            channel,
            connect(service, session_of(host, "a")) as quiet,
            socket.create_connection(where) as silent,
            trusted.wrap_socket(socket.create_connection(where), server_hostname=SERVICE_NAME) as shaken,
        ):
            begin(quiet)
            channel.subscribe(states.append, try_to_connect=True)
            assert seconds_until_closed(silent) < 10 * idle_s  # no handshake
            assert seconds_until_closed(shaken) < 10 * idle_s  # a handshake, and nothing after it
            deadline = time.monotonic() + 10 * idle_s
            while grpc.ChannelConnectivity.IDLE not in states[1:] and time.monotonic() < deadline:
                time.sleep(0.05)
            assert grpc.ChannelConnectivity.READY in states
            assert states[-1] is grpc.ChannelConnectivity.IDLE  # connected, and without a call
            finish(quiet)


def test_a_session_over_ipv6(host):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    with BodyService(WireConfig(listen="[::1]:0"), threads=1) as service:
        assert service.address.startswith("[::1]:")
        assert service.probe().failure(5) == ("", "")
        session = session_of(host, "a")
        with connect(service, session) as stream:
            begin(stream)
            finish(stream)
        assert session.steps_done == 1


@pytest.mark.parametrize(("right", "code"), [(True, grpc.StatusCode.OK), (False, grpc.StatusCode.UNAUTHENTICATED)])
def test_a_client_s_try_is_answered_before_anything_is_read(right, code):
    """So nobody without a token holds a call open, or has the service keep what he sends."""
    with BodyService(WireConfig()) as service:
        nothing = queue.SimpleQueue()
        channel = Door(service.address, service.certificate.certificate_pem, 2**20).channel()
        token = service.probe().token if right else "wrong"
        call = channel.stream_unary(f"/{SERVICE}/{PROBE}").future(
            iter(nothing.get, None), metadata=((TOKEN_KEY, token),), timeout=10
        )
        assert call.code() == code
        nothing.put(None)
        channel.close()
