"""Frames: what is written comes back, and nothing else is let in."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import (
    DOWN,
    UP,
    Acknowledged,
    Close,
    Features,
    GradFeatures,
    GradFeaturesAndSmashed,
    GradSmashed,
    Smashed,
)
from tavit_flwr.split.finite import all_finite
from tavit_flwr.wire.dtypes import pack
from tavit_flwr.wire.frames import MAX_HEADER_BYTES, PROTOCOL_VERSION, decode, encode
from tavit_flwr.wire.limits import Limits

KINDS = {Smashed: 1, Features: 1, GradFeatures: 1, GradFeaturesAndSmashed: 2, GradSmashed: 1, Close: 0, Acknowledged: 0}
HEADER = {"version": PROTOCOL_VERSION, "kind": "Smashed", "phase": "joint", "step": "3"}


def make(kind, shape=(1, 2, 3, 3), step=3):
    draws = torch.Generator().manual_seed(len(kind.__name__))
    return kind(step, *(torch.randn(shape, generator=draws) for _ in range(KINDS[kind])))


def blob(tensors=None, **changes):
    tensors = {"smashed": torch.ones(1, 2, 3, 3)} if tensors is None else tensors
    return save(tensors, metadata={**HEADER, **changes})


def refused(frame, expected=(Smashed,), limits=None):
    with pytest.raises(ProtocolError) as told:
        decode(frame, "joint", expected, 3, limits or Limits())
    return str(told.value)


def test_every_payload_is_covered():
    assert set(KINDS) == {*UP, *DOWN}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS, key=str)), shape=st.tuples(*[st.integers(1, 5)] * 4), step=st.integers(0, 9**9)
)
def test_round_trip_keeps_every_bit(kind, shape, step):
    payload = make(kind, shape, step)
    back = decode(encode(payload, "joint"), "joint", (kind,), step, Limits())
    assert type(back) is kind
    assert vars(back).keys() == vars(payload).keys()
    for name, value in vars(payload).items():
        assert torch.equal(getattr(back, name), value) if isinstance(value, torch.Tensor) else back.step == step


def test_tensors_that_are_not_contiguous_survive():
    tensor = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 5, 4, 3).transpose(1, 3)
    assert not tensor.is_contiguous()
    for value in (tensor, tensor[:, :, ::2], torch.ones(1, 1, 1, 1).expand(2, 3, 4, 4)):
        assert torch.equal(decode(encode(Smashed(0, value), "joint"), "joint", (Smashed,), 0, Limits()).smashed, value)


def test_float32_is_read_where_it_arrived():
    """Whoever decodes a frame is the last to use it."""
    frame = encode(make(GradFeaturesAndSmashed), "joint")
    begins = np.frombuffer(frame, np.uint8).ctypes.data
    payload = decode(frame, "joint", (GradFeaturesAndSmashed,), 3, Limits())
    del frame
    for tensor in (payload.grad_features, payload.smashed):
        assert begins <= tensor.data_ptr() < begins + 8 + MAX_HEADER_BYTES + 2 * tensor.nbytes
        copy = tensor.clone()
        tensor.add_(1)
        assert torch.equal(tensor, copy + 1)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(frame):
    refused(frame)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=0, max_size=200), st.integers(0, 2**64 - 1))
def test_random_headers_are_refused(rest, length):
    refused(length.to_bytes(8, "little") + rest)
    refused(len(rest).to_bytes(8, "little") + rest + b"\0" * 16)


VALID = encode(Smashed(3, torch.linspace(-1, 1, 18).reshape(1, 2, 3, 3)), "joint")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, len(VALID) * 8 - 1), min_size=1, max_size=4, unique=True))
def test_flipped_bits_are_refused_or_harmless(bits):
    frame = bytearray(VALID)
    for bit in bits:
        frame[bit // 8] ^= 1 << bit % 8
    try:
        payload = decode(bytes(frame), "joint", (Smashed,), 3, Limits())
    except ProtocolError:
        return
    assert isinstance(payload, Smashed)  # a bit of a value, or of a size that still fits
    assert payload.smashed.dtype == torch.float32
    assert payload.smashed.ndim == 4
    assert torch.isfinite(payload.smashed).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(VALID) - 1))
def test_truncated_frames_are_refused(length):
    refused(VALID[:length])


def test_a_longer_frame_is_refused():
    refused(VALID + b"\0" * 4)


def json_values(*keys):
    """Any JSON, with these keys in its objects."""
    leaves = st.none() | st.booleans() | st.integers(-2, 2**70) | st.text(max_size=8)

    def more(inner):
        return st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(keys), inner, max_size=4)

    return st.recursive(leaves, more, max_leaves=8)


@given(json_values("__metadata__", "smashed", "dtype", "shape", "data_offsets", "kind"))
@settings(max_examples=100, deadline=None)
def test_any_json_header_is_refused(value):
    text = json.dumps(value).encode()
    refused(len(text).to_bytes(8, "little") + text + b"\0" * 8)


@given(json_values("dtype", "shape", "data_offsets"))
@settings(max_examples=100, deadline=None)
def test_any_description_of_a_tensor_is_refused(value):
    text = json.dumps({"__metadata__": HEADER, "smashed": value}).encode()
    refused(len(text).to_bytes(8, "little") + text + b"\0" * 8)


def described(*tensors, data=72):
    """A frame whose header says of its tensors what it likes."""
    entries = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)} for name, dtype, shape, offsets in tensors
    }
    text = json.dumps({"__metadata__": HEADER | {"kind": "GradFeaturesAndSmashed"}} | entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(data)


WHOLE = ("smashed", "F32", [1, 1, 3, 3], (0, 36)), ("grad_features", "F32", [1, 1, 3, 3], (36, 72))


def test_a_header_may_list_tensors_in_any_order():
    payload = decode(described(*WHOLE[::-1]), "joint", (GradFeaturesAndSmashed,), 3, Limits())
    assert payload.smashed.shape == payload.grad_features.shape == (1, 1, 3, 3)


@pytest.mark.parametrize(
    ("tensors", "data"),
    [
        (WHOLE, 71),
        (WHOLE, 73),
        ((WHOLE[0], ("grad_features", "F32", [1, 1, 3, 3], (0, 36))), 36),  # one upon the other
        ((WHOLE[0], ("grad_features", "F32", [1, 1, 3, 3], (40, 76))), 76),  # a hole
        ((WHOLE[0], ("grad_features", "F32", [1, 1, 3, 3], (36, 71))), 72),
        ((WHOLE[0], ("grad_features", "F32", [1, 1, 3, 3], (72, 36))), 72),
        ((WHOLE[0], ("grad_features", "F32", [1, 1, -3, -3], (36, 72))), 72),
        ((WHOLE[0], ("grad_features", "F32", [True, True, 3, 3], (36, 72))), 72),
        ((WHOLE[0], ("grad_features", "F32", [1.0, 1, 3, 3], (36, 72))), 72),
        ((WHOLE[0], ("grad_features", "F32", [1, 1, 3, 2**62], (36, 36 + 12 * 2**62))), 72),
        ((WHOLE[0], ("grad_features", "F32", [1] * 70 + [9], (36, 72))), 72),
        ((WHOLE[0], ("grad_features", "F32", 9, (36, 72))), 72),
        ((WHOLE[0], ("grad_features", ["F32"], [1, 1, 3, 3], (36, 72))), 72),
        ((("smashed", "I8", [1, 1, 3, 3], (0, 9)), ("grad_features", "F32", [1, 1, 3, 3], (9, 45))), 45),  # not aligned
    ],
)
def test_a_header_that_does_not_account_for_each_byte_is_refused(tensors, data):
    refused(described(*tensors, data=data), (GradFeaturesAndSmashed,))


def test_a_header_of_one_gigabyte_is_refused_before_it_is_read():
    assert "header" in refused((2**30).to_bytes(8, "little") + b"{" * 100)
    padded = b"{" + b" " * 5000 + b"}"
    assert "4096" in refused(len(padded).to_bytes(8, "little") + padded)
    deep = b"[" * 4000
    refused(len(deep).to_bytes(8, "little") + deep)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (blob(version="1"), "equal versions"),
        (blob(kind="Pickle"), "Pickle"),
        (blob(kind="Close"), "Close"),
        (blob(phase="evaluate"), "evaluate"),
        (blob(step="4"), "step 3"),
        (blob(step="03"), "step 3"),
        (blob(extra="x"), "header"),
        (save({"smashed": torch.ones(1, 2, 3, 3)}), "header"),
        (blob({}), "smashed"),
        (blob({"smashed": torch.ones(1, 2, 3, 3), "image": torch.ones(1, 3, 8, 8)}), "image"),
        (blob({"grad_features": torch.ones(1, 2, 3, 3)}), "grad_features"),
        (blob({"smashed": torch.ones(1, 2, 3, 3, dtype=torch.float64)}), "F64"),
        (blob({"smashed": torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)}), "bfloat16"),
        (blob({"smashed": torch.ones(1, 2, 3, 3, dtype=torch.int64)}), "I64"),
        (blob({"smashed": torch.ones(2, 3, 3)}), "B, D, G, G"),
        (blob({"smashed": torch.ones(1, 1, 2, 3, 3)}), "B, D, G, G"),
        (blob({"smashed": torch.ones(())}), "B, D, G, G"),
        (blob({"smashed": torch.ones(0, 2, 3, 3)}), "non-empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "frame",  # headers have no fixed order
)
def test_what_does_not_belong_is_named(frame, says):
    assert says in refused(frame)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["smashed", "grad_features"])
def test_values_that_are_not_finite_are_refused(name, value):
    tensors = {"smashed": torch.ones(1, 2, 3, 3), "grad_features": torch.ones(1, 2, 3, 3)}
    tensors[name][0, 1, 2, 2] = value
    message = refused(encode(GradFeaturesAndSmashed(3, tensors["grad_features"], tensors["smashed"]), "joint"),
                      (GradFeaturesAndSmashed,))  # fmt: skip
    assert f"finite values in {name}" in message


def test_a_frame_above_the_limit_is_refused_and_one_at_it_is_not():
    assert "at most" in refused(VALID, limits=Limits(max_frame_bytes=len(VALID) - 1))
    decode(VALID, "joint", (Smashed,), 3, Limits(max_frame_bytes=len(VALID)))


def test_several_kinds_may_be_allowed():
    assert isinstance(decode(encode(Close(3), "joint"), "joint", (Smashed, Close), 3, Limits()), Close)
    assert "Smashed or Close" in refused(encode(make(Features), "joint"), (Smashed, Close))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_frames_are_what_safetensors_reads_and_equal_payloads_are_equal_bytes(dtype):
    limits = Limits(up=dtype)
    payload = make(GradFeaturesAndSmashed, (1, 3, 3, 5))
    frame = encode(payload, "joint", limits)
    assert frame == encode(payload, "joint", limits)
    expected = pack("smashed", payload.smashed, dtype) | pack("grad_features", payload.grad_features, dtype)
    loaded = load(frame)
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert (8 + int.from_bytes(frame[:8], "little")) % 8 == 0


def test_frames_leave_the_number_of_threads_alone(monkeypatch):
    """Setting it clears torch's cache of convolutions, at every frame."""
    monkeypatch.setattr(torch, "set_num_threads", lambda count: pytest.fail("the number of threads was set"))
    decode(encode(make(Smashed), "joint"), "joint", (Smashed,), 3, Limits())


def test_what_looks_at_values_never_adds_up_more_than_one_thread_does(monkeypatch):
    """Torch's helpers spin after so little work, and take the cores from those who compute."""
    sizes = []
    add_up = torch.Tensor.sum
    monkeypatch.setattr(torch.Tensor, "sum", lambda self, *rest: sizes.append(self.numel()) or add_up(self, *rest))
    assert all_finite(torch.ones(2, 512, 16, 16))
    assert max(sizes) < 32768 < sum(sizes)  # torch's grain
    assert not all_finite(torch.tensor([1.0] * 40_000 + [torch.nan]))
