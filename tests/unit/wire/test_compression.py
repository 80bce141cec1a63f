"""Compressed frames: they come back, and none of them is a bomb."""

import tracemalloc

import pytest
import torch

from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import Close, Smashed
from tavit_flwr.wire.frames import decode, encode, identity
from tavit_flwr.wire.limits import Limits

zstandard = pytest.importorskip("zstandard")
ZSTD = Limits(compression="zstd")
TENSOR = torch.linspace(-1, 1, 288).reshape(1, 2, 12, 12)


def frame(limits=ZSTD, tensor=TENSOR):
    return encode(Smashed(0, tensor), "joint", limits)


def with_data(data, good=None):
    good = good or frame()
    return good[: 8 + int.from_bytes(good[:8], "little")] + data


def plain_data(tensor=TENSOR):
    good = frame(Limits(), tensor)
    return good[8 + int.from_bytes(good[:8], "little") :]


def refused(one, limits=ZSTD):
    with pytest.raises(ProtocolError) as told:
        decode(one, "joint", (Smashed,), 0, limits)
    return str(told.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_compression_changes_no_value(dtype):
    tensor = TENSOR.expand(4, -1, -1, -1).contiguous()
    limits, plain = Limits(up=dtype, compression="zstd"), Limits(up=dtype)
    packed = frame(limits, tensor)
    assert identity(packed) == ("Smashed", "0")
    assert len(packed) < len(frame(plain, tensor))
    one, two = (decode(frame(which, tensor), "joint", (Smashed,), 0, which).smashed for which in (limits, plain))
    assert torch.equal(one, two)


def test_frames_without_tensors_are_left_alone():
    assert encode(Close(3), "joint", ZSTD) == encode(Close(3), "joint")
    assert decode(encode(Close(3), "joint", ZSTD), "joint", (Close,), 3, ZSTD) == Close(3)


def test_what_is_not_compressed_is_refused_and_the_other_way_round():
    refused(frame(Limits()))
    refused(frame(), Limits())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zstd",
        zstandard.compress(plain_data())[:-3],
        zstandard.compress(plain_data()) + b"more",
        zstandard.compress(plain_data()) * 2,
        zstandard.compress(plain_data() + b"more"),
        zstandard.compress(plain_data()[:-4]),
        zstandard.ZstdCompressor(write_content_size=False).compress(plain_data()),
    ],
)
def test_other_data_than_the_header_says_are_refused(data):
    refused(with_data(data))


def test_a_bomb_is_refused_before_it_takes_memory():
    bomb = zstandard.compress(bytes(2**30))
    assert len(bomb) < 2**17
    claims = frame().replace(b'"data_offsets":[0,1152]', b'"data_offsets":[0,%d]' % 2**30)
    length = int.from_bytes(frame()[:8], "little") + len(str(2**30)) - 4
    tracemalloc.start()
    try:
        refused(with_data(bomb))
        assert "at most" in refused(length.to_bytes(8, "little") + claims[8 : 8 + length] + bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
