"""Wire types: how much of a tensor comes back, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tavit_flwr.config import DTYPES
from tavit_flwr.errors import ProtocolError
from tavit_flwr.wire.dtypes import SCALE, WIRE_TYPES, names, pack, packed_bytes, unpack

#: Largest error of a value, as a share of the largest one that shares its scale (or of itself, without a scale).
ERROR = {"float32": 0.0, "bfloat16": 2**-8, "float16": 2**-11, "int8": 0.51 / 127}


def there_and_back(tensor, wire_type):
    return unpack("smashed", pack("smashed", tensor, wire_type), wire_type, "step 0")


def draw(shape=(2, 6, 3, 4), size=1.0, seed=0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_all_are_known():
    assert set(WIRE_TYPES) == set(DTYPES) == set(ERROR)


@pytest.mark.parametrize("wire_type", DTYPES)
@pytest.mark.parametrize("size", [1e-30, 1e-9, 1.0, 1e9, 1e30])
def test_what_comes_back_is_near_at_any_size(wire_type, size):
    tensor = draw(size=size)
    back = there_and_back(tensor, wire_type)
    assert back.dtype == torch.float32
    sharing = tensor.abs() if wire_type == "bfloat16" else tensor.abs().amax(1 if wire_type == "int8" else None, True)
    assert bool(((back - tensor).abs() <= ERROR[wire_type] * sharing).all())


@pytest.mark.parametrize("wire_type", DTYPES)
def test_zeros_and_the_smallest_numbers_do_no_harm(wire_type):
    assert torch.equal(there_and_back(torch.zeros(1, 3, 2, 2), wire_type), torch.zeros(1, 3, 2, 2))
    smallest = torch.full((1, 3, 2, 2), 1e-45)
    assert bool((there_and_back(smallest, wire_type).abs() <= 1e-40).all())
    largest = torch.full((1, 3, 2, 2), -3.2e38)
    assert there_and_back(largest, wire_type) == pytest.approx(largest, rel=0.01)


def test_a_small_token_keeps_its_detail_beside_a_large_one():
    tensor = draw((1, 8, 1, 2))
    tensor[..., 1] *= 1e-6
    back = there_and_back(tensor, "int8")
    assert torch.nn.functional.cosine_similarity(back[..., 1], tensor[..., 1]).min() > 0.999


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 5)] * 4), wire_type=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_bytes_and_names_are_foretold(shape, wire_type, seed):
    packed = pack("smashed", draw(shape, seed=seed), wire_type)
    assert set(packed) == names(frozenset({"smashed"}), wire_type)
    assert sum(one.numel() * one.dtype.itemsize for one in packed.values()) == packed_bytes(shape, wire_type)


def test_the_same_tensor_is_the_same_bits():
    for wire_type in DTYPES:
        one, two = (pack("smashed", draw(), wire_type) for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "broken",
    [
        {"smashed": torch.zeros(2, 6, 3, 4)},
        {"smashed": torch.zeros(6, 3, 4, dtype=torch.int8)},
        {f"smashed{SCALE}": torch.ones(2, 1, 3, 4)},
        {f"smashed{SCALE}": torch.ones(2, 6, 3, 4, dtype=torch.bfloat16)},
        {f"smashed{SCALE}": torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)},
        {f"smashed{SCALE}": -torch.ones(2, 1, 3, 4, dtype=torch.bfloat16)},
        {f"smashed{SCALE}": torch.full((2, 1, 3, 4), float("nan"), dtype=torch.bfloat16)},
        {f"smashed{SCALE}": torch.full((2, 1, 3, 4), 3.3e38, dtype=torch.bfloat16)},
    ],
)
def test_what_does_not_fit_is_refused(broken):
    with pytest.raises(ProtocolError):
        unpack("smashed", pack("smashed", draw(), "int8") | broken, "int8", "step 0")
