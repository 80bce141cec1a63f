"""The quick check says the same as the slow one."""

import pytest
import torch

from tavit_flwr.split.finite import all_finite, all_finite_together


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 1, 17, 4999, 9999])
def test_one_bad_value_is_found_anywhere(bad, at):
    tensor = torch.randn(10000, generator=torch.Generator().manual_seed(0))
    assert all_finite(tensor)
    tensor[at] = bad
    assert not all_finite(tensor)


def test_infinities_that_cancel_are_found():
    assert not all_finite(torch.tensor([float("inf"), -float("inf"), 1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_values_whose_sum_is_not_are_finite(dtype):
    largest = torch.finfo(dtype).max
    assert all_finite(torch.full((1000,), largest, dtype=dtype))
    assert all_finite(torch.tensor([largest, largest, -largest, -largest], dtype=dtype))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_bad_value_is_found_in_any_of_many(bad, which):
    tensors = [torch.randn(shape) for shape in ((3, 4), (5,), (40_000,))]
    assert all_finite_together(tensors)
    tensors[which].view(-1)[-1] = bad
    assert not all_finite_together(tensors)


def test_finite_values_whose_norm_is_not_are_finite():
    assert all_finite_together([torch.full((4,), 3e38), torch.ones(2)])
    assert all_finite_together([])
