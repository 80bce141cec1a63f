"""An operator's own certificate for the body service."""

import pytest
import torch
from torch import nn

from simulations.certificates import make_server_files
from tavit_flwr.config import OptimiserConfig, WireConfig
from tavit_flwr.config.schema import DirectionsConfig, WireTypesConfig
from tavit_flwr.errors import ConfigError
from tavit_flwr.payloads import Close, Features, Smashed
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.wire.credentials import SERVICE_NAME, certificate_name, ephemeral_certificate, own_certificate
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.stream_client import StreamClient

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def files(tmp_path):
    return make_server_files(tmp_path / "own")


def test_a_session_over_an_operators_certificate(files):
    """The client has never heard of its authority: it trusts this certificate because the order says so."""
    torch.set_num_threads(1)
    host = BodyHost("natural", nn.Conv2d(4, 4, 1), OptimiserConfig(name="sgd", lr=0.1), 4, seed=0)
    host.begin_phase(moves=False)
    exact = WireTypesConfig(evaluation=DirectionsConfig())
    wire = WireConfig(certificate=str(files.certificate), private_key=str(files.key), step_timeout_s=10, dtypes=exact)
    with BodyService(wire, threads=1) as service:
        assert service.certificate.certificate_pem == files.certificate.read_bytes()
        token = service.open(Session("a", "denoise", host, EVALUATE, 0))
        with StreamClient(
            service.address, token, service.certificate.certificate_pem, EVALUATE, Limits.of(wire, EVALUATE),
            client="a", first_timeout_s=10, step_timeout_s=10, session_timeout_s=30,
        ) as stream:  # fmt: skip
            sent = torch.ones(1, 4, 2, 2)
            stream.send(Smashed(0, sent))
            with torch.no_grad():
                assert torch.equal(stream.receive(Features, 0).features, host.body(sent))
            stream.hand_in(Close(1))


def test_names():
    assert certificate_name(ephemeral_certificate().certificate_pem) == SERVICE_NAME


def test_one_of_two_is_refused(files):
    with pytest.raises(ConfigError, match=r"both wire\.certificate and wire\.private_key"):
        BodyService(WireConfig(certificate=str(files.certificate)))


def test_files_that_do_not_fit_are_told(files, tmp_path):
    other = make_server_files(tmp_path / "other")
    with pytest.raises(ConfigError, match="another key"):
        own_certificate(files.certificate, other.key)
    with pytest.raises(ConfigError, match=r"wire\.certificate"):
        own_certificate(tmp_path / "nothing", files.key)
    with pytest.raises(ConfigError, match="PEM"):
        own_certificate(files.key, files.key)
    with pytest.raises(ConfigError, match="DNS name"):
        own_certificate(*_nameless(files))
    old = make_server_files(tmp_path / "old", days=0)
    with pytest.raises(ConfigError, match="valid now"):
        own_certificate(old.certificate, old.key)


def _nameless(files):
    """The authority's own certificate names no host; its key is gone, so another certificate's stands in."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signed = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    bare = (
        x509.CertificateBuilder()
        .subject_name(signed.subject)
        .issuer_name(signed.issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(signed.not_valid_before_utc)
        .not_valid_after(signed.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    path = files.certificate.with_name("bare.pem")
    path.write_bytes(bare.public_bytes(serialization.Encoding.PEM))
    return path, files.key
