"""Mirrored borders agree with numpy's, for any margin."""

import numpy as np
import pytest
import torch

from tavit_flwr.degrade.borders import reflect_window, reflected


@pytest.mark.parametrize(("size", "margin"), [(5, 2), (5, 4), (5, 17), (2, 7), (1, 3)])
def test_positions_are_numpys_reflection(size, margin):
    expected = np.pad(np.arange(size), margin, mode="reflect")
    assert reflected(-margin, size + margin, size).tolist() == expected.tolist()


def test_a_window_reaches_over_the_border():
    image = torch.arange(3 * 4 * 5).view(3, 4, 5)
    expected = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")[:, 0:3, 3:7]
    assert np.array_equal(reflect_window(image, -2, 1, 3, 4).numpy(), expected)
