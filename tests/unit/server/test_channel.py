"""Activations that fit neither the body nor the session's batches are refused before any work."""

import pytest
import torch

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import Smashed
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.channel import Channel
from tavit_flwr.server.sessions import Session
from tavit_flwr.wire.frames import encode
from tavit_flwr.wire.limits import Limits


def receive(shape, session_shape=(2, 8, 4, 4)):
    host = BodyHost("natural", torch.nn.Conv2d(8, 8, 1), OptimiserConfig(), embedding=8, seed=0)
    session = Session("p0001", "denoise", host, "joint", 1, shape=session_shape)
    session.exchange.attach(lambda: None).offer(encode(Smashed(0, torch.zeros(shape)), "joint"))
    return Channel(session, Limits(), step_timeout_s=1, session_timeout_s=1).smashed(0)


def test_the_session_s_shape_passes():
    assert receive((2, 8, 4, 4)).shape == (2, 8, 4, 4)


def test_a_head_that_does_not_fit_the_body_is_told_which():
    with pytest.raises(ProtocolError, match=r"8 channels for body 'natural'.*client p0001, task denoise.*same preset"):
        receive((2, 16, 4, 4))


@pytest.mark.parametrize("shape", [(3, 8, 4, 4), (2, 8, 5, 4), (2, 8, 4, 2)])
def test_another_batch_or_grid_is_refused_in_training(shape):
    with pytest.raises(ProtocolError, match=r"shape \(2, 8, 4, 4\)"):
        receive(shape)


def test_evaluation_takes_any_batch():
    assert receive((5, 8, 6, 4), session_shape=None).shape == (5, 8, 6, 4)
