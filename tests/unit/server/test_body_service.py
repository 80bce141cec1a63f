"""The end of a round is the end of everything in it: no session of an old round touches a body again."""

import threading
import time

import pytest
import torch
from torch import nn

from tavit_flwr.config import OptimiserConfig, WireConfig
from tavit_flwr.errors import SessionError
from tavit_flwr.payloads import Features, GradFeatures, GradFeaturesAndSmashed, Smashed
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.server.sessions import Session
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.stream_client import StreamClient

pytestmark = pytest.mark.timeout(60)
D = 4


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(D, D, 1)
        self.hold, self.inside, self.running = threading.Event(), threading.Event(), 0
        self.hold.set()

    def forward(self, smashed):
        self.running += 1
        self.inside.set()
        self.hold.wait(20)
        out = self.mix(smashed)
        self.running -= 1
        return out


@pytest.fixture
def host():
    torch.set_num_threads(1)
    return BodyHost("natural", Body(), OptimiserConfig(name="sgd", lr=0.1), D, seed=0)


@pytest.fixture
def service():
    with BodyService(WireConfig(join_timeout_s=10, step_timeout_s=10), threads=1) as service:
        yield service


def connect(service, session, timeout_s=10.0):
    return StreamClient(
        service.address, service.open(session), service.certificate.certificate_pem, session.phase, Limits(),
        client=session.client, first_timeout_s=timeout_s, step_timeout_s=timeout_s, session_timeout_s=30,
    )  # fmt: skip


def smashed():
    return torch.randn(2, D, 3, 3, generator=torch.Generator().manual_seed(0))


def cohort_of(host, *clients):
    host.begin_phase(moves=True)
    return Cohort(host, [Member(one, "denoise") for one in clients], input_gradient=False,
                  step_path=(1, "task-agnostic", 1), join_timeout_s=10, step_timeout_s=10, quorum=0.5)  # fmt: skip


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_session_that_is_open_when_its_round_ends_moves_the_body_no_more(service, host):
    session = Session("a", "denoise", host, "task-agnostic", 5, cohort_of(host, "a"))
    with connect(service, session) as stream:
        stream.send(Smashed(0, smashed()))
        stream.receive(Features, 0)
        service.end_round()
        taken, steps = host.state(), host.steps
        stream.send(GradFeaturesAndSmashed(0, smashed(), smashed()))
        with pytest.raises(SessionError):
            stream.receive(Features, 1)
    assert host.steps == steps
    assert same(host.state(), taken)
    assert "round that has ended" in session.error


def test_a_frozen_straggler_leaves_nothing_in_a_phase_that_moves_the_body(service, host):
    host.begin_phase(moves=False)
    with connect(service, Session("a", "denoise", host, "task-specific", 5)) as stream:
        stream.send(Smashed(0, smashed()))
        stream.receive(Features, 0)
        service.end_round()
        host.begin_phase(moves=True)
        stream.send(GradFeatures(0, smashed()))
        with pytest.raises(SessionError):
            stream.receive(Features, 1)
    assert all(parameter.grad is None for parameter in host.body.parameters())


def test_a_frozen_pass_collects_no_gradient_of_the_body_even_when_the_phase_has_changed(host):
    host.begin_phase(moves=True)  # the straggler's forward pass runs when the body moves again
    body_pass = host.forward_frozen(smashed(), input_gradient=True)
    from tavit_flwr.split.server_side import body_backward

    assert body_backward(body_pass, torch.ones(2, D, 3, 3)) is not None
    assert all(parameter.grad is None for parameter in host.body.parameters())


@pytest.mark.parametrize("phase", ["task-specific", "task-agnostic"])
def test_the_end_of_a_round_waits_for_work_that_has_begun(service, host, phase):
    cohort = cohort_of(host, "a") if phase == "task-agnostic" else None
    host.begin_phase(moves=cohort is not None)
    host.body.hold.clear()
    with connect(service, Session("a", "denoise", host, phase, 2, cohort)) as stream:
        stream.send(Smashed(0, smashed()))
        assert host.body.inside.wait(10)
        threading.Timer(0.3, host.body.hold.set).start()
        began = time.monotonic()
        service.end_round()
        assert time.monotonic() - began > 0.2
        assert host.body.running == 0


def test_work_that_does_not_end_is_told(host):
    host.begin_phase(moves=False)
    host.body.hold.clear()
    service = BodyService(WireConfig(step_timeout_s=0.3), threads=1)
    try:
        with connect(service, Session("a", "denoise", host, "task-specific", 2)) as stream:
            stream.send(Smashed(0, smashed()))
            assert host.body.inside.wait(10)
            with pytest.raises(SessionError, match=r"tavit-session-a.*wire\.step_timeout_s"):
                service.end_round()
    finally:
        host.body.hold.set()
        service.close()


def test_members_that_wait_for_others_are_told_at_once(service, host):
    cohort = cohort_of(host, "a", "b")
    session = Session("a", "denoise", host, "task-agnostic", 2, cohort)
    with connect(service, session) as stream:
        stream.send(Smashed(0, smashed()))
        while not cohort._turn.arrived:
            time.sleep(0.01)
        began = time.monotonic()
        service.end_round()
        assert time.monotonic() - began < 5
        with pytest.raises(SessionError):
            stream.receive(Features, 0)
    with pytest.raises(SessionError, match="round that has ended"):
        cohort.take_turn("b", None, smashed())


def test_no_thread_is_left(host):
    host.begin_phase(moves=False)
    session = Session("a", "denoise", host, "task-specific", 2)
    with BodyService(WireConfig(), threads=1) as service, connect(service, session) as stream:
        stream.send(Smashed(0, smashed()))
        stream.receive(Features, 0)
    left = [one.name for one in threading.enumerate() if one.name.startswith(("tavit-session", "tavit-watchdog"))]
    assert left == []


@pytest.mark.parametrize(
    ("cores", "opened", "at_once", "threads"),
    [(4, 1, 0, 4), (4, 2, 0, 2), (4, 3, 0, 1), (2, 5, 0, 1), (4, 5, 2, 2), (4, 5, 1, 4)],
)
def test_sessions_of_a_round_share_the_cores(host, monkeypatch, cores, opened, at_once, threads):
    """However many wait: the number of threads may change the last bits of a result."""
    seen = []
    monkeypatch.setattr(host.body, "forward", lambda tensor: seen.append(torch.get_num_threads()) or 1 * tensor)
    host.begin_phase(moves=False)
    sessions = [Session(f"c{index}", "denoise", host, "task-specific", 2) for index in range(opened)]
    with BodyService(WireConfig(), threads=cores) as service:
        service.at_once = at_once
        for session in sessions[1:]:
            service.open(session)
        with connect(service, sessions[0]) as stream:
            stream.send(Smashed(0, smashed()))
            stream.receive(Features, 0)
    assert seen == [threads]


def test_frames_are_read_on_one_thread(host, monkeypatch):
    """Helpers of torch's that spin after so little work take the cores from those who compute."""
    seen = []
    monkeypatch.setattr(host, "check", lambda *_: seen.append(torch.get_num_threads()))
    host.begin_phase(moves=False)
    torch.set_num_threads(3)
    session = Session("a", "denoise", host, "task-specific", 2)
    with BodyService(WireConfig(), threads=3) as service, connect(service, session) as stream:
        stream.send(Smashed(0, smashed()))
        stream.receive(Features, 0)
    torch.set_num_threads(1)
    assert seen == [1]
