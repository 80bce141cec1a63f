"""Ledger, deadlines, credentials and records."""

import dataclasses
import threading
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from cryptography import x509
from flwr.app import Array, ArrayRecord, ConfigRecord

from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import ENROLMENT_FIELDS, EVALUATE_METRICS, TRAIN_METRICS
from tavit_flwr.wire.credentials import SERVICE_NAME, ephemeral_certificate, session_token
from tavit_flwr.wire.deadlines import Watchdog
from tavit_flwr.wire.ledger import Ledger
from tavit_flwr.wire.records import Enrolment, Order, content_of, metrics_record
from tavit_flwr.wire.weights import arrays_bytes, arrays_to_parts, parts_to_arrays, tensors_to_arrays


def test_the_ledger_counts_by_direction_and_kind():
    ledger = Ledger()
    for size in (10, 20):
        ledger.add("up", "Smashed", size)
    ledger.add("down", "Features", 7)
    assert ledger.total("up") == 30
    assert ledger.total("down") == 7
    assert ledger.as_dict() == {"up": {"Smashed": {"bytes": 30, "frames": 2}},
                                "down": {"Features": {"bytes": 7, "frames": 1}}}  # fmt: skip


def test_the_ledger_loses_nothing_between_threads():
    ledger = Ledger()
    threads = [threading.Thread(target=lambda: [ledger.add("up", "Smashed", 1) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.total("up") == 2000


class Expired:
    def __init__(self):
        self.calls = []
        self.event = threading.Event()

    def __call__(self, name):
        self.calls.append(name)
        self.event.set()


def test_the_watchdog_fires_once_and_names_the_wait():
    expired = Expired()
    watchdog = Watchdog(expired)
    with watchdog.within(0.02, "a frame"):
        assert expired.event.wait(5)
        threading.Event().wait(0.05)
    assert expired.calls == ["a frame"]
    assert watchdog.expired == "a frame"
    watchdog.close()


def test_the_watchdog_is_quiet_when_the_wait_ends_in_time():
    expired = Expired()
    watchdog = Watchdog(expired)
    for _ in range(3):
        with watchdog.within(0.05, "a frame"):
            pass
    assert not expired.event.wait(0.15)
    assert watchdog.expired == ""
    with pytest.raises(KeyError), watchdog.within(0.05, "another"):
        raise KeyError
    assert not expired.event.wait(0.1)
    watchdog.close()


def test_a_later_deadline_replaces_an_earlier_one():
    expired = Expired()
    watchdog = Watchdog(expired)
    with watchdog.within(60, "long"):
        pass
    with watchdog.within(0.02, "short"):
        assert expired.event.wait(5)
    assert expired.calls == ["short"]
    watchdog.close()


def test_closing_ends_the_thread():
    before = threading.active_count()
    watchdog = Watchdog(lambda _: None)
    watchdog.close()
    assert threading.active_count() == before


def test_the_key_is_not_shown():
    certificate = ephemeral_certificate()
    assert "PRIVATE" not in repr(certificate)
    assert b"PRIVATE KEY" in certificate.key_pem
    assert b"PRIVATE" not in certificate.certificate_pem


def test_the_certificate_names_the_service_and_is_valid_now():
    one, other = ephemeral_certificate(days=2), ephemeral_certificate()
    read = x509.load_pem_x509_certificate(one.certificate_pem)
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVICE_NAME]
    assert read.not_valid_before_utc < datetime.now(UTC) < read.not_valid_after_utc
    assert (read.not_valid_after_utc - datetime.now(UTC)).days <= 2
    assert one.key_pem != other.key_pem


def test_tokens_are_long_and_differ():
    tokens = {session_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43


ORDER = Order(
    config="{}", run_key="k", address="127.0.0.1:1", token="t", certificate_pem=b"pem", carrier="stream",
    phase="joint", cycle=1,
    round=2, steps=3, version=4, next_version=5, pictures=True, progress=0.25,
)  # fmt: skip
ENROLMENT = Enrolment("p0000", "denoise", "natural", train_images=7, held_out_images=2, slots=4)


def test_orders_and_enrolments_come_back():
    assert Order.from_record(ORDER.to_record()) == ORDER
    assert Enrolment.from_record(ENROLMENT.to_record()) == ENROLMENT
    assert Enrolment.from_record(Enrolment("x", error="broken").to_record()).error == "broken"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Order)])
def test_an_order_without_a_key_or_with_another_type_is_refused(name):
    missing = ConfigRecord({key: value for key, value in dataclasses.asdict(ORDER).items() if key != name})
    with pytest.raises(ProtocolError, match=name):
        Order.from_record(missing)
    other = ConfigRecord(dataclasses.asdict(ORDER) | {name: [0.5]})
    with pytest.raises(ProtocolError, match="same version"):
        Order.from_record(other)


@pytest.mark.parametrize("name", sorted(ENROLMENT_FIELDS))
def test_an_enrolment_without_a_key_or_with_another_type_is_refused(name):
    values = dict(ENROLMENT.to_record())
    with pytest.raises(ProtocolError):
        Enrolment.from_record(ConfigRecord({key: value for key, value in values.items() if key != name}))
    with pytest.raises(ProtocolError, match=name):
        Enrolment.from_record(ConfigRecord(values | {name: 0.5}))


def test_an_enrolment_with_another_key_is_refused():
    with pytest.raises(ProtocolError, match="data-dir"):
        Enrolment.from_record(ConfigRecord(dict(ENROLMENT.to_record()) | {"data-dir": "/x"}))


def test_the_enrolments_keys_are_the_named_ones():
    assert set(ENROLMENT.to_record()) == ENROLMENT_FIELDS


@pytest.mark.parametrize("allowed", [TRAIN_METRICS, EVALUATE_METRICS])
def test_only_named_metrics_leave(allowed):
    assert set(metrics_record(dict.fromkeys(allowed, 1.0), allowed)) == allowed
    with pytest.raises(ProtocolError, match=r"\['file'\].*payloads"):
        metrics_record({"file": 1.0}, allowed)


def test_parts_come_back():
    head, tail = {"a.weight": torch.randn(2, 3)}, {"a.weight": torch.randn(4), "b": torch.randn(())}
    arrays = parts_to_arrays(head, tail)
    assert arrays_bytes(arrays) >= 4 * (6 + 4 + 1)
    back = arrays_to_parts(arrays)
    for ours, theirs in zip(back, (head, tail), strict=True):
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    back[0]["a.weight"].add_(1)  # its own, writable memory
    assert torch.equal(arrays_to_parts(arrays)[0]["a.weight"], head["a.weight"])


@pytest.mark.parametrize(
    ("name", "tensor"), [("body/x", torch.ones(1)), ("x", torch.ones(1)), ("head/x", torch.ones(1).double())]
)
def test_tensors_of_another_name_or_type_are_refused(name, tensor):
    with pytest.raises(ProtocolError, match=name):
        arrays_to_parts(tensors_to_arrays({name: tensor}))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "one array"),
        ({"head/x": np.ones(1, np.float32)}, "one array"),
        ({"safetensors": np.ones(9, np.uint8), "more": np.ones(1, np.uint8)}, "one array"),
        ({"safetensors": np.ones(9, np.float32)}, "as bytes"),
        ({"safetensors": np.ones((3, 3), np.uint8)}, "as bytes"),
        ({"safetensors": np.ones(0, np.uint8)}, "expected safetensors"),
        ({"safetensors": np.full(9, 255, np.uint8)}, "expected safetensors"),  # a header longer than there is memory
    ],
)
def test_records_that_hold_no_weights_are_refused(arrays, said):
    with pytest.raises(ProtocolError, match=said):
        arrays_to_parts(ArrayRecord({name: Array(values) for name, values in arrays.items()}))


def test_weights_are_one_array_however_many_tensors_they_are():
    """A SuperLink stores and hands out each array by itself."""
    assert len(tensors_to_arrays({f"head/{number}": torch.ones(2) for number in range(200)})) == 1


def test_contents_hold_what_they_are_given():
    assert set(content_of(ORDER, {})) == {"config"}
    assert set(content_of(ORDER, {"arrays": parts_to_arrays({}, {})})) == {"config", "arrays"}
