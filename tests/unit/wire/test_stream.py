"""The stream over real gRPC: who gets in, and that nothing waits for ever."""

import sys
import threading
import time

import grpc
import pytest
import torch
from torch import nn

from tavit_flwr.config import OptimiserConfig, WireConfig
from tavit_flwr.errors import ConfigError, ProtocolError, SessionError
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
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.wire.exchange import Exchange
from tavit_flwr.wire.frames import encode
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.stream_client import StreamClient
from tavit_flwr.wire.stream_server import Caller, StreamServer

pytestmark = pytest.mark.timeout(60)
D = 4


@pytest.fixture
def host():
    torch.set_num_threads(1)
    host = BodyHost("natural", nn.Conv2d(D, D, 1), OptimiserConfig(name="sgd", lr=0.1), D, seed=0)
    host.begin_phase(moves=False)
    return host


@pytest.fixture
def service():
    wire = WireConfig(join_timeout_s=5, step_timeout_s=5, session_timeout_s=20)
    with BodyService(wire, threads=1) as service:
        yield service


def connect(service, token, phase="task-specific", timeout_s=10.0, certificate=None, client=None):
    pem = service.certificate.certificate_pem if certificate is None and service.certificate else certificate or b""
    session = service._sessions.get(token)
    return open_stream(service.address, token, pem, phase, timeout_s, client or (session.client if session else "a"))


def open_stream(address, token="t", pem=b"", phase="joint", timeout_s=10.0, client="a"):
    return StreamClient(
        address, token, pem, phase, Limits.of(WireConfig(), phase), client=client, first_timeout_s=timeout_s,
        step_timeout_s=timeout_s, session_timeout_s=30,
    )  # fmt: skip


@pytest.fixture
def serve():
    """A server whose only session has the given logic, which gets the exchange."""
    servers = []

    def make(logic, step_timeout_s=20.0):
        exchange = Exchange()
        threading.Thread(target=logic, args=(exchange,), daemon=True).start()
        server = StreamServer(
            lambda caller, on_end: exchange.attach(on_end), "127.0.0.1:0", None, max_frame_bytes=2**24,
            max_sessions=4, idle_timeout_s=20, answer_timeout_s=step_timeout_s,
        )  # fmt: skip
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.close(0)


def smashed(size=(2, D, 3, 3)):
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def step(stream, number):
    stream.send(Smashed(number, smashed()))
    features = stream.receive(Features, number).features
    stream.send(GradFeatures(number, torch.ones_like(features)))
    return features, stream.receive(GradSmashed, number).grad_smashed


def whole_session(service, session):
    with connect(service, service.open(session), session.phase) as stream:
        answers = [step(stream, number) for number in range(session.steps)]
        stream.hand_in(Close(session.steps))
    return answers


def test_a_session_computes_what_the_body_computes(service, host):
    (features, grad), _ = whole_session(service, Session("a", "denoise", host, "task-specific", 2))
    leaf = smashed().requires_grad_(True)
    out = host.body(leaf)
    out.sum().backward()
    assert torch.equal(features, out.detach())
    assert torch.equal(grad, leaf.grad)


def test_a_client_may_come_as_late_as_its_round_lasts(host):
    """Under Ray it may have to wait for a place, on a slow node for its process."""
    with BodyService(WireConfig(step_timeout_s=0.5, session_timeout_s=20), threads=1) as service:
        session = Session("a", "denoise", host, "task-specific", 2)
        token = service.open(session)
        time.sleep(0.8)
        with connect(service, token) as stream:
            step(stream, 0)
            step(stream, 1)
            stream.hand_in(Close(2))
        assert session.steps_done == 2


@pytest.mark.parametrize("token", ["wrong", ""], ids=["wrong", "none"])
def test_without_the_token_nobody_gets_in(service, host, token):
    service.open(Session("a", "denoise", host, "task-specific", 1))
    with connect(service, token) as stream, pytest.raises(SessionError, match="UNAUTHENTICATED"):
        step(stream, 0)


def test_a_token_opens_one_session(service, host):
    session = Session("a", "denoise", host, "task-specific", 1)
    token = service.open(session)
    with connect(service, token) as first:
        first.send(Smashed(0, smashed()))
        first.receive(Features, 0)
        with connect(service, token) as second, pytest.raises(SessionError, match=r"UNAUTHENTICATED.*one session"):
            step(second, 0)
        first.send(GradFeatures(0, smashed()))  # the first is not disturbed
        first.receive(GradSmashed, 0)
        first.hand_in(Close(1))
    with connect(service, token) as third, pytest.raises(SessionError, match="UNAUTHENTICATED"):
        step(third, 0)


def test_a_token_is_refused_to_another_client_even_before_its_own_comes(service, host):
    token = service.open(Session("a", "denoise", host, "task-specific", 1))
    service.open(Session("b", "denoise", host, "task-specific", 1))
    with connect(service, token, client="b") as stream, pytest.raises(SessionError, match=r"UNAUTHENTICATED.*own"):
        step(stream, 0)


def test_without_an_instance_nobody_gets_in(service, host):
    token = service.open(Session("a", "denoise", host, "task-specific", 1))
    with connect(service, token) as stream:
        stream._caller = Caller(token, "a", "")
        with pytest.raises(SessionError, match="UNAUTHENTICATED"):
            step(stream, 0)


def test_a_second_session_is_refused_also_after_the_end_of_the_first(service, host):
    token = service.open(Session("a", "denoise", host, "task-specific", 1))
    with connect(service, token) as first:
        step(first, 0)
        first.hand_in(Close(1))
        with connect(service, token) as second, pytest.raises(SessionError, match=r"UNAUTHENTICATED.*one session"):
            step(second, 0)


def test_the_same_instance_replaces_its_older_stream(service, host):
    """As after a half-open connection: the client has come back, and the server has not noticed that it left."""
    session = Session("a", "denoise", host, "task-specific", 1)
    token = service.open(session)
    with connect(service, token) as older, connect(service, token) as newer:
        newer._caller = older._caller
        older.send(Smashed(0, smashed()))
        features = older.receive(Features, 0).features
        newer.send(Smashed(0, smashed()))  # again: its answer may have been lost
        assert torch.equal(newer.receive(Features, 0).features, features)
        newer.send(GradFeatures(0, torch.ones_like(features)))
        newer.receive(GradSmashed, 0)
        with pytest.raises(grpc.RpcError, match="CANCELLED"):  # by the service
            next(older._link.answers)
        newer.hand_in(Close(1))
    assert session.error == ""
    assert session.ledger.as_dict()["up"]["Smashed, resent"]["frames"] == 1


def test_a_token_dies_with_its_round(service, host):
    token = service.open(Session("a", "denoise", host, "task-specific", 1))
    service.end_round()
    with connect(service, token) as stream, pytest.raises(SessionError, match="UNAUTHENTICATED"):
        step(stream, 0)


def test_the_certificate_of_another_server_is_not_trusted(service, host):
    from tavit_flwr.wire.credentials import ephemeral_certificate

    token = service.open(Session("a", "denoise", host, "task-specific", 1))
    other = ephemeral_certificate().certificate_pem
    with connect(service, token, timeout_s=1, certificate=other) as stream, pytest.raises(SessionError):
        step(stream, 0)


def test_a_client_without_tls_is_not_answered(service, host):
    token = service.open(Session("a", "denoise", host, "task-specific", 1))
    with open_stream(service.address, token, phase="task-specific", timeout_s=1) as stream, pytest.raises(SessionError):
        step(stream, 0)


def test_insecure_works_where_it_was_chosen(host):
    with BodyService(WireConfig(insecure=True), threads=1) as service:
        assert service.certificate is None
        assert len(whole_session(service, Session("a", "denoise", host, "task-specific", 1))) == 1


def test_a_client_that_stops_sending_is_ended_and_others_are_served(host):
    wire = WireConfig(join_timeout_s=5, step_timeout_s=0.4, session_timeout_s=20)
    with BodyService(wire, threads=1) as service:
        lazy = Session("lazy", "denoise", host, "task-specific", 5)
        with connect(service, service.open(lazy)) as stream:
            stream.send(Smashed(0, smashed()))
            stream.receive(Features, 0)
            began = time.monotonic()
            whole_session(service, Session("b", "denoise", host, "task-specific", 3))
            with pytest.raises(SessionError):
                stream.receive(GradSmashed, 0)
            assert time.monotonic() - began < 3
        whole_session(service, Session("c", "denoise", host, "task-specific", 3))
        assert "GradFeatures of step 0 from client lazy" in lazy.error
        assert "within 0.4 s" in lazy.error


def test_a_server_that_never_answers_is_given_up(serve):
    server = serve(lambda exchange: exchange.receive(20, "anything"))
    began = time.monotonic()
    with open_stream(server.address, timeout_s=0.3) as stream:
        stream.send(Smashed(0, smashed()))
        with pytest.raises(SessionError, match=r"Features of step 0 within 0.3 s.*step_timeout_s"):
            stream.receive(Features, 0)
    assert time.monotonic() - began < 3


def test_a_server_that_is_not_there_is_given_up_with_its_address_and_the_keys(service):
    address = service.address
    service.close()
    began = time.monotonic()
    with open_stream(address, timeout_s=0.3) as stream:
        keys = r"wire\.listen.*wire\.advertise.*wire\.carrier"
        with pytest.raises(SessionError, match=rf"{address} within 0.3 s.*UNAVAILABLE.*{keys}"):
            stream.send(Smashed(0, smashed()))
    assert time.monotonic() - began < 3


def test_what_grpc_says_of_a_lost_connection_stays_on_this_machine(service, caplog):
    """It may name a proxy of this network."""
    address = service.address
    service.close()
    with open_stream(address, timeout_s=0.3) as stream, pytest.raises(SessionError) as caught:
        stream.send(Smashed(0, smashed()))
    assert "failed to connect" not in caught.value.told()
    assert "failed to connect" in caplog.text


def test_the_end_of_the_service_reaches_the_client(service, host):
    token = service.open(Session("a", "denoise", host, "task-specific", 2))
    with connect(service, token, timeout_s=1) as stream:
        stream.send(Smashed(0, smashed()))
        stream.receive(Features, 0)
        service._server.close(0)
        with pytest.raises(SessionError):
            stream.receive(GradSmashed, 0)


@pytest.mark.parametrize(
    "payload",
    [
        Smashed(1, smashed()),
        Close(0),
        GradFeatures(0, smashed()),
        Smashed(0, smashed((2, D + 1, 3, 3))),
        Smashed(0, smashed() * float("nan")),
    ],
    ids=["wrong step", "early end", "wrong kind", "wrong channels", "nan"],
)
def test_a_bad_first_frame_ends_its_session_and_nothing_else(service, host, payload):
    bad = Session("bad", "denoise", host, "task-specific", 2)
    good = Session("good", "denoise", host, "task-specific", 2)
    with connect(service, service.open(good)) as other:
        step(other, 0)
        with connect(service, service.open(bad)) as stream:
            stream.send(payload)
            with pytest.raises(SessionError, match="INVALID_ARGUMENT"):
                stream.receive(Features, 0)
        step(other, 1)
        other.hand_in(Close(2))
    assert bad.error
    assert not good.error


def test_a_gradient_of_another_shape_is_refused(service, host):
    with connect(service, service.open(Session("a", "denoise", host, "task-specific", 2))) as stream:
        stream.send(Smashed(0, smashed()))
        stream.receive(Features, 0)
        stream.send(GradFeatures(0, smashed((1, D, 3, 3))))
        with pytest.raises(SessionError, match=r"INVALID_ARGUMENT.*shape"):
            stream.receive(GradSmashed, 0)


def test_a_frame_above_the_limit_is_refused(host):
    with BodyService(WireConfig(max_frame_mib=0.01), threads=1) as service:
        session = Session("a", "denoise", host, "task-specific", 1)
        with connect(service, service.open(session)) as stream:
            stream.send(Smashed(0, smashed((2, D, 40, 40))))
            with pytest.raises(SessionError):
                stream.receive(Features, 0)


def test_one_frame_too_many_is_refused(service, host):
    session = Session("a", "denoise", host, "task-specific", 1)
    with connect(service, service.open(session)) as stream:
        step(stream, 0)
        stream.send(Smashed(1, smashed()))
        with pytest.raises(SessionError, match=r"INVALID_ARGUMENT.*Close"):
            stream.receive(Features, 1)


def test_evaluation_runs_forward_only_until_the_client_closes(service, host):
    session = Session("a", "denoise", host, EVALUATE, 0)
    with connect(service, service.open(session), EVALUATE) as stream:
        for number, size in enumerate([(3, D, 3, 3), (1, D, 3, 3)]):
            stream.send(Smashed(number, smashed(size)))
            assert stream.receive(Features, number).features.shape == size
        stream.hand_in(Close(2))
        assert session.steps_done == 2
    with connect(service, service.open(Session("b", "denoise", host, EVALUATE, 0)), EVALUATE) as stream:
        stream.send(GradFeatures(0, smashed()))
        with pytest.raises(SessionError, match="INVALID_ARGUMENT"):
            stream.receive(GradSmashed, 0)


def test_the_client_checks_what_the_server_sends(serve):
    def logic(exchange):
        exchange.receive(20, "anything")
        exchange.answer(b"not a frame")

    with open_stream(serve(logic).address) as stream:
        stream.send(Smashed(0, smashed()))
        with pytest.raises(ProtocolError):
            stream.receive(Features, 0)


def test_a_port_in_use_is_told(service):
    with pytest.raises(ConfigError, match=r"wire\.listen"):
        BodyService(WireConfig(listen=service.address), threads=1)


def test_the_advertised_address_is_what_clients_hear():
    with BodyService(WireConfig(advertise="203.0.113.5:9000"), threads=1) as service:
        assert service.address == "203.0.113.5:9000"


def test_a_cohort_member_with_another_grid_is_ended_and_the_others_go_on(service, host):
    """A frame that does not fit costs its sender the session, and nobody else."""
    host.begin_phase(moves=True)
    members = [Member(name, "denoise") for name in ("a", "b", "odd")]
    cohort = Cohort(host, members, input_gradient=False, step_path=(1, "task-agnostic", 1), join_timeout_s=5,
                    step_timeout_s=5, quorum=0.5)  # fmt: skip
    outcome = {}

    def client(name):
        session = Session(name, "denoise", host, "task-agnostic", 2, cohort)
        try:
            with connect(service, service.open(session), "task-agnostic") as stream:
                stream.send(Smashed(0, smashed()))
                features = stream.receive(Features, 0).features
                following = smashed((2, D, 5, 5)) if name == "odd" else smashed()
                stream.send(GradFeaturesAndSmashed(0, features, following))
                features = stream.receive(Features, 1).features
                stream.send(GradFeatures(1, features))
                stream.receive(Acknowledged, 1)
                stream.hand_in(Close(2))
                outcome[name] = "done"
        except SessionError as error:
            outcome[name] = str(error)

    threads = [threading.Thread(target=client, args=(member.client,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (outcome["a"], outcome["b"]) == ("done", "done")
    assert "INVALID_ARGUMENT" in outcome["odd"]


def test_a_client_that_never_reads_is_ended(serve):
    """Frames that nobody takes fill the stream's window; the session must not hold its threads for ever."""
    ended = threading.Event()

    def logic(exchange):
        try:
            for number in range(1000):
                exchange.receive(0.5, "a frame")
                exchange.answer(encode(Features(number, torch.zeros(1, 1, 512, 512)), "joint"))
        except SessionError as error:
            exchange.end(error)
            ended.set()

    server = serve(logic)
    with open_stream(server.address) as stream:
        for number in range(200):
            stream.send(Smashed(number, smashed()))
        assert ended.wait(15), "the server still waits for the client to read"
    deadline = time.monotonic() + 15
    while any(_in_a_call(one) for one in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread still waits for the client to read"
        time.sleep(0.05)


def _in_a_call(thread):
    if not thread.name.startswith("tavit-stream"):
        return False
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        if frame.f_code.co_name == "_session":
            return True
        frame = frame.f_back
    return False


def test_a_client_that_gives_up_says_so_and_its_cohort_goes_on(service, host):
    host.begin_phase(moves=True)
    cohort = Cohort(host, [Member(name, "denoise") for name in "ab"], input_gradient=False,
                    step_path=(1, "task-agnostic", 1), join_timeout_s=30, step_timeout_s=30, quorum=0.5)  # fmt: skip
    streams = {
        name: connect(
            service, service.open(Session(name, "denoise", host, "task-agnostic", 1, cohort)), "task-agnostic"
        )
        for name in "ab"
    }
    with streams["a"] as stays:
        with pytest.raises(ZeroDivisionError), streams["b"] as leaves:  # noqa: PT012
            for stream in (stays, leaves):
                stream.send(Smashed(0, smashed()))
            for stream in (stays, leaves):
                stream.receive(Features, 0)
            raise ZeroDivisionError
        stays.send(GradFeatures(0, smashed()))
        began = time.monotonic()
        stays.receive(Acknowledged, 0)
        assert time.monotonic() - began < 10, "the cohort waited for one that had left"
        stays.hand_in(Close(1))
    assert "Close" in cohort.left["b"]
