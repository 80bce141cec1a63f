"""Tiled restoration against a slow, direct implementation."""

import pytest
import torch

from tavit_flwr.errors import ConfigError, DataError, ModelError
from tavit_flwr.restoration import restore_tiled, restored_strips, tiling, window_count, window_origins


def bounce(index, size):
    """Reflect an index into 0 .. size-1, one bounce at a time."""
    while size > 1 and not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index if size > 1 else 0


def slow(image, model, window, stride):
    _, height, width = image.shape
    total, count = torch.zeros_like(image), torch.zeros(height, width)
    for top in range(0, height + 1, stride):
        for left in range(0, width + 1, stride):
            tile = torch.zeros(1, image.shape[0], window, window)
            for i in range(window):
                for j in range(window):
                    tile[0, :, i, j] = image[:, bounce(top + i, height), bounce(left + j, width)]
            out = model(tile)[0]
            for i in range(min(window, height - top)):
                for j in range(min(window, width - left)):
                    total[:, top + i, left + j] += out[:, i, j]
                    count[top + i, left + j] += 1
    return (total / count).clamp(-1, 1)


def positional(windows):
    """A model whose output depends on the place inside the window and on its neighbours."""
    ramp = torch.linspace(0.5, 1.5, windows.shape[-1])
    return (windows + 0.3 * windows.roll(1, -1)) * ramp + 0.1 * ramp[:, None]


@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [
        (1, 1, 8, 2),
        (1, 5, 8, 4),
        (2, 3, 8, 8),
        (8, 8, 8, 4),
        (9, 17, 8, 3),
        (16, 11, 8, 8),
        (7, 20, 4, 1),
        (3, 3, 1, 1),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 5, 1000])
@pytest.mark.parametrize("held_rows", [0, 3, 128])
def test_equals_the_slow_implementation(monkeypatch, height, width, window, stride, batch_size, held_rows):
    monkeypatch.setattr(tiling, "_HELD_ROWS", held_rows)
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    restored = restore_tiled(image, positional, window, stride, batch_size)
    torch.testing.assert_close(restored, slow(image, positional, window, stride))


def test_rows_are_handed_on_in_a_few_strips_whatever_the_batch():
    """Each one is a copy from the model's device."""
    image = torch.rand(3, 700, 20, generator=torch.Generator().manual_seed(0))
    strips = list(restored_strips(lambda rows: image[:, rows], 700, 20, lambda windows: windows, 8, 4, batch_size=3))
    torch.testing.assert_close(torch.cat(strips, dim=1), image)
    assert [strip.shape[1] for strip in strips] == [132] * 5 + [40]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_output_that_is_not_finite_is_refused(value):
    def model(windows):
        restored = windows.clone()
        restored[0, 1, 2, 3] = value
        return restored

    image = torch.zeros(3, 9, 9)
    with pytest.raises(ModelError, match="NaN or infinity"):
        restore_tiled(image, model, 8, 4)
    strips = list(restored_strips(lambda rows: image[:, rows], 9, 9, model, 8, 4))
    assert torch.cat(strips, dim=1)[1, 2, 3].isnan(), "nobody has to wait to find out later"


def test_counts_of_the_paper():
    assert window_count(481, 321) == 651
    assert window_count(720, 1280) == 3726


@pytest.mark.parametrize("length", range(1, 40))
@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 3), (1, 1)])
def test_windows_cover_every_pixel(length, window, stride):
    covered = {o + i for o in window_origins(length, window, stride) for i in range(window)}
    assert covered >= set(range(length))


def test_the_model_sees_at_most_batch_size_windows_without_gradient_and_as_many_as_counted():
    sizes = []

    def model(windows):
        assert not torch.is_grad_enabled()
        assert windows.shape[1:] == (3, 8, 8)
        sizes.append(len(windows))
        return windows

    image = torch.rand(3, 20, 13)
    before = image.clone()
    torch.testing.assert_close(restore_tiled(image, model, 8, 4, batch_size=7), image)
    assert torch.equal(image, before)
    assert max(sizes) == 7
    assert sum(sizes) == window_count(20, 13, 8, 4)


def test_output_is_clamped_after_averaging():
    assert restore_tiled(torch.zeros(3, 9, 9), lambda w: w + 3, 8, 4).eq(1).all()
    means = iter([3.0, -2.0])  # two windows over the last pixel: 0.5 when averaged first, 0 when clamped first
    restored = restore_tiled(torch.zeros(3, 1, 5), lambda w: w + next(means), 8, 4, batch_size=1)
    assert restored[0, 0].tolist() == [1.0, 1.0, 1.0, 1.0, 0.5]


def test_errors():
    image = torch.zeros(3, 9, 9)
    for window, stride in [(8, 0), (8, 9), (0, 0)]:
        with pytest.raises(ConfigError, match="stride"):
            restore_tiled(image, positional, window, stride)
    with pytest.raises(ConfigError, match="batch_size"):
        restore_tiled(image, positional, 8, 4, batch_size=0)
    for bad in (image[0], image[:, :0], image.to(torch.uint8)):
        with pytest.raises(DataError, match="floating-point"):
            restore_tiled(bad, positional, 8, 4)
    with pytest.raises(DataError, match="at least 1"):
        window_origins(0, 8, 4)
    with pytest.raises(ModelError, match="restored windows"):
        restore_tiled(image, lambda windows: windows[:1], 8, 4)
