"""What degradations do to images, and where their randomness comes from."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tavit_flwr.data.photographs import bundled_photographs
from tavit_flwr.degrade import DEGRADATIONS, degradation
from tavit_flwr.degrade.blur import motion_kernel
from tavit_flwr.errors import DataError
from tavit_flwr.seeding import generator


def _photograph(height=160, width=200):
    images = bundled_photographs()
    clean_CHW = images.load(images.names.index("coffee")).clean_CHW.float() / 255
    return clean_CHW[:, 100 : 100 + height, 150 : 150 + width]


def _psnr_db(a, b):
    return float(-10 * torch.log10(((a - b) ** 2).mean()))


@pytest.fixture(params=DEGRADATIONS)
def degrade(request):
    return degradation(request.param, {})


def test_output_has_shape_type_and_range_and_differs_from_the_input(degrade):
    clean = _photograph(70, 90)[None].repeat(2, 1, 1, 1)
    before = clean.clone()
    degraded = degrade(clean, generator(0))
    assert degraded.shape == clean.shape
    assert degraded.dtype == torch.float32
    assert 0 <= degraded.min() <= degraded.max() <= 1
    assert not torch.equal(degraded, clean)
    assert torch.equal(clean, before)


def test_equal_generators_give_equal_bits_and_the_global_generator_is_left_alone(degrade):
    clean = torch.rand(2, 3, 40, 40, generator=generator(1))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = degrade(clean, generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(degrade(clean, generator(5)), first)


def test_different_generators_give_different_images(degrade):
    if degrade.name == "low_resolution":
        pytest.skip("draws nothing")
    clean = torch.rand(4, 3, 40, 40, generator=generator(1))
    assert any(not torch.equal(degrade(clean, generator(5)), degrade(clean, generator(k))) for k in range(6, 12))


def test_an_image_does_not_depend_on_the_batch_size(degrade):
    clean = torch.rand(5, 3, 40, 40, generator=generator(1))
    assert torch.equal(degrade(clean, generator(5))[:2], degrade(clean[:2], generator(5)))


def test_the_generator_moves_on_by_one_draw_per_image_whatever_the_degradation(degrade):
    used, counted = generator(5), generator(5)
    degrade(torch.rand(2, 3, 40, 40, generator=generator(1)), used)
    for _ in range(2):
        torch.randint(2**63 - 1, (1,), generator=counted)
    assert torch.equal(used.get_state(), counted.get_state())


def test_a_named_variant_leaves_the_other_draws_alone():
    degrade = degradation("rain", {"mix": ["light", "light"]})
    clean = torch.zeros(1, 3, 40, 40)
    assert torch.equal(degrade(clean, generator(3), [0]), degrade(clean, generator(3), [1]))
    assert torch.equal(degrade(clean, generator(3)), degrade(clean, generator(3), [1]))


def test_every_variant_is_drawn():
    degrade = degradation("jpeg", {})
    clean = _photograph(32, 32)[None]
    low, high = degrade(clean, generator(0), [0]), degrade(clean, generator(0), [1])
    drawn = degrade(clean.repeat(20, 1, 1, 1), generator(0))
    is_low = [torch.equal(one, low[0]) for one in drawn]
    is_high = [torch.equal(one, high[0]) for one in drawn]
    assert any(is_low)
    assert any(is_high)
    assert all(a != b for a, b in zip(is_low, is_high, strict=True))


@pytest.mark.parametrize(
    ("clean", "said"),
    [
        (torch.zeros(3, 8, 8), "shape"),
        (torch.zeros(1, 1, 8, 8), "shape"),
        (torch.zeros(0, 3, 8, 8), "shape"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "float32"),
    ],
)
def test_wrong_images_are_refused(degrade, clean, said):
    with pytest.raises(DataError, match=said):
        degrade(clean, generator(0))


def test_variants_must_be_one_per_image():
    with pytest.raises(DataError, match="one per image"):
        degradation("noise", {})(torch.zeros(2, 3, 8, 8), generator(0), [0])


def test_noise_has_the_asked_deviation_and_is_clipped():
    grey = torch.full((1, 3, 200, 200), 0.5)
    residual = degradation("noise", {"sigma_255": 30})(grey, generator(0)) - grey
    assert float(residual.std()) * 255 == pytest.approx(30, rel=0.01)
    black = degradation("noise", {})(torch.zeros(1, 3, 50, 50), generator(0))
    assert black.min() == 0


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_jpeg_is_the_codec_with_the_asked_quality_and_subsampling(subsampling):
    clean = (_photograph(40, 56) * 255).round()
    buffer = io.BytesIO()
    Image.fromarray(clean.byte().permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=23, subsampling=subsampling)
    expected = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255
    degrade = degradation("jpeg", {"qualities": [23], "subsampling": subsampling})
    assert torch.equal(degrade(clean[None] / 255, generator(0))[0], expected)


@pytest.mark.parametrize(
    ("name", "variant", "low_db", "high_db"),
    [("noise", 0, 18.3, 20.5), ("rain", 0, 22, 29), ("rain", 1, 11.5, 18), ("motion_blur", 0, 20, 30)],
)
def test_inputs_read_like_published_ones(name, variant, low_db, high_db):
    clean = _photograph(256, 256)[None].repeat(6, 1, 1, 1)
    degraded = degradation(name, {})(clean, generator(0), [variant] * 6)
    mean_db = sum(_psnr_db(a, b) for a, b in zip(degraded, clean, strict=True)) / 6
    assert low_db < mean_db < high_db


def test_rain_only_brightens_equally_in_all_channels_and_stays_off_white():
    black = degradation("rain", {})(torch.zeros(1, 3, 64, 64), generator(0), [1])
    assert black.max() > 0.2
    assert torch.equal(black[:, 0], black[:, 2])
    assert torch.equal(degradation("rain", {})(torch.ones(1, 3, 64, 64), generator(0)), torch.ones(1, 3, 64, 64))


def test_rain_is_as_dense_at_the_border_as_inside():
    black = torch.zeros(40, 3, 64, 64)
    streaks = degradation("rain", {})(black, generator(0), [1] * 40).mean((0, 1))
    border = torch.cat(
        [streaks[:4].flatten(), streaks[-4:].flatten(), streaks[:, :4].flatten(), streaks[:, -4:].flatten()]
    )
    assert float(border.mean() / streaks[16:48, 16:48].mean()) == pytest.approx(1, abs=0.1)


def test_a_straight_kernel_lies_along_its_direction():
    along, across = motion_kernel(9, 0, 0, 6), motion_kernel(9, 90, 0, 6)
    assert along.shape == (13, 13)
    assert float(along[6].sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(along, across.T, atol=1e-5)
    assert int((along[6] > 1e-6).sum()) in (9, 10, 11)


@pytest.mark.parametrize("turn_deg", [-60, 0, 35, 360])
def test_a_kernel_keeps_brightness_and_place(turn_deg):
    kernel = motion_kernel(15, 30, turn_deg, 8).double()
    offset = torch.arange(-8, 9, dtype=torch.float64)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    assert float((kernel.sum(0) * offset).sum()) == pytest.approx(0, abs=1e-4)
    assert float((kernel.sum(1) * offset).sum()) == pytest.approx(0, abs=1e-4)


def test_a_crop_blurred_with_its_margin_equals_the_crop_of_the_blurred_image():
    degrade = degradation("motion_blur", {})
    margin = degrade.margin_px
    clean = _photograph(100, 100)[None]
    whole = degrade(clean, generator(4))
    window = clean[..., 20 - margin : 52 + margin, 30 - margin : 62 + margin]
    crop = degrade(window, generator(4))[..., margin:-margin, margin:-margin]
    assert torch.allclose(crop, whole[..., 20:52, 30:62], atol=1e-6)


def test_the_asked_share_of_pixels_is_missing_in_all_channels_and_no_other_changes():
    clean = _photograph(120, 120)[None]
    degraded = degradation("missing_pixels", {"missing": 0.3})(clean, generator(0))
    lost = (degraded != clean).any(1)
    assert float(lost.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(degraded, torch.where(lost[:, None], torch.tensor(0.5), clean))
    assert torch.equal(degradation("missing_pixels", {"missing": 0.0})(clean, generator(0)), clean)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_resolution_is_pillows_bicubic_down_and_up(scale):
    side = 20 * scale
    clean = (_photograph(side, side)[0] * 255).round()
    one_channel = Image.fromarray(clean.numpy(), mode="F")
    small = np.clip(np.array(one_channel.resize((20, 20), Image.Resampling.BICUBIC)), 0, 255)
    expected = np.array(Image.fromarray(small, mode="F").resize((side, side), Image.Resampling.BICUBIC)).clip(0, 255)
    degraded = degradation("low_resolution", {"scale": scale})(clean[None, None].repeat(1, 3, 1, 1) / 255, generator(0))
    assert np.abs(degraded[0, 0].numpy() * 255 - expected).max() < 0.01


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_crop_at_low_resolution_with_its_margin_equals_the_crop_of_the_image(scale):
    degrade = degradation("low_resolution", {"scale": scale})
    margin, top, left = degrade.margin_px, 6 * scale, 8 * scale
    clean = _photograph(130, 131)[None]
    whole = degrade(clean, generator(4))
    window = clean[..., top - margin : top + 32 + margin, left - margin : left + 32 + margin]
    crop = degrade(window, generator(4))[..., margin:-margin, margin:-margin]
    assert torch.allclose(crop, whole[..., top : top + 32, left : left + 32], atol=1e-5)
