"""A cut stream changes nothing: the same bits, each gradient applied once, every frame counted."""

import threading

import pytest
import torch

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.errors import SessionError
from tavit_flwr.wire.exchange import Attachment
from tavit_flwr.wire.frames import identity
from tavit_flwr.wire.link import Link

pytestmark = pytest.mark.timeout(120)

STEPS = 3
UP = {
    "task-specific": [("Smashed", "1"), ("GradFeatures", "1"), ("Close", "3")],
    "task-agnostic": [("Smashed", "0"), ("GradFeaturesAndSmashed", "1"), ("GradFeatures", "2"), ("Close", "3")],
    "joint": [("Smashed", "1"), ("GradFeatures", "1"), ("Close", "3")],
}
MOMENTS = ("before it leaves", "when it has arrived", "when its answer leaves")


class Cuts:
    """Cuts everyone's stream once at each kind of frame, at one moment of its way."""

    def __init__(self, monkeypatch, make_proxy, phase, moment):
        self.left = {(*name, moment) for name in UP[phase]}
        self.make_proxy, self.proxy = make_proxy, None
        self._lock = threading.Lock()
        put, offer, take = Link.put, Attachment.offer, Attachment.take

        def cutting_put(link, frame):
            self.at(frame, MOMENTS[0])
            put(link, frame)

        def cutting_offer(attachment, frame):
            attachment.test_request = frame
            offer(attachment, frame)
            self.at(frame, MOMENTS[1])

        def cutting_take(attachment, timeout_s=0.0):
            answer = take(attachment, timeout_s)
            self.at(attachment.test_request, MOMENTS[2])
            return answer

        monkeypatch.setattr(Link, "put", cutting_put)
        monkeypatch.setattr(Attachment, "offer", cutting_offer)
        monkeypatch.setattr(Attachment, "take", cutting_take)

    def at(self, frame, moment):
        with self._lock:
            key = (*(identity(frame) or ("", "")), moment)
            if key in self.left:
                self.left.remove(key)
                self.proxy.cut()

    def route(self, address, client):
        with self._lock:
            self.proxy = self.proxy or self.make_proxy(address)
            return self.proxy.address


def frames(ledger, way):
    return {kind: row["frames"] for kind, row in ledger.as_dict()[way].items()}


def once(counted):
    return {kind: count for kind, count in counted.items() if "resent" not in kind}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("phase", list(UP))
def test_a_cut_at_every_kind_of_frame_changes_no_bit(twin, monkeypatch, make_proxy, phase, moment):
    whole, cut = twin(["denoise", "deblock"], OptimiserConfig(name="adam", lr=1e-3))
    whole.run_split(phase, STEPS)
    cuts = Cuts(monkeypatch, make_proxy, phase, moment)
    cut.run_split(phase, STEPS, route=cuts.route)
    assert cuts.left == set(), "some cuts were never made"
    ours, reference = cut.weights(), whole.weights()
    assert [name for name in reference if not torch.equal(ours[name], reference[name])] == []
    assert [client.losses for client in cut.clients] == [client.losses for client in whole.clients]
    assert cut.host.steps == whole.host.steps
    assert all(session.error == "" for session in cut.sessions)
    up = [frames(client.ledger, "up") for client in cut.clients]
    down = [frames(session.ledger, "down") for session in cut.sessions]
    assert [once(counted) for counted in up] == [frames(client.ledger, "up") for client in whole.clients]
    assert [once(counted) for counted in down] == [frames(session.ledger, "down") for session in whole.sessions]
    assert any(kind.endswith(", resent") for counted in up for kind in counted)
    again = any(kind.endswith(", resent") for counted in down for kind in counted)
    assert again or moment != MOMENTS[2]


def test_a_stream_that_stays_cut_costs_its_client_the_session_and_its_cohort_nothing_else(make_lab, make_proxy):
    lab = make_lab(["denoise", "deblock"])
    stays, lost = lab.clients
    batch, proxies = lost.batch, []

    def losing(step):
        if step == 2:
            proxies[0].refusing = True
            proxies[0].cut()
        return batch(step)

    def route(address, client):
        if client is not lost:
            return address
        proxies.append(make_proxy(address))
        return proxies[0].address

    lost.batch = losing
    with pytest.raises(SessionError, match=r"the body service at 127\.0\.0\.1.*wire\.advertise"):
        lab.run_split("task-agnostic", 4, route=route, quorum=0.5, step_timeout_s=1.0)
    assert len(stays.losses) == lab.host.steps == 4
    assert lab.sessions[lab.clients.index(lost)].error
