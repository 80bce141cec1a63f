"""Loss, PSNR and SSIM."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from tavit_flwr.errors import ConfigError, DataError, ModelError
from tavit_flwr.restoration import capped_psnr_db, mse, psnr_db, ssim


def pair(height=24, width=17):
    draws = torch.Generator().manual_seed(0)
    clean = torch.rand(3, height, width, generator=draws) * 2 - 1
    return clean + 0.3 * torch.randn(clean.shape, generator=draws), clean


def to_255(image):
    return (image.double().clamp(-1, 1).permute(1, 2, 0).numpy() + 1) * 127.5


def luma(rgb):
    return 16 + (65.481 * rgb[..., 0] + 128.553 * rgb[..., 1] + 24.966 * rgb[..., 2]) / 255


def slow_ssim(x, y):
    def blur(a):
        return gaussian_filter(a, 1.5, radius=5, mode="reflect")

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    field = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return field[5:-5, 5:-5].mean()


def test_mse_is_the_mean_over_all_elements():
    restored = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    loss = mse(restored, torch.zeros(2, 2))
    loss.backward()
    assert loss.item() == 7.5
    torch.testing.assert_close(restored.grad, restored.detach() / 2)
    with pytest.raises(ModelError, match="shape"):
        mse(restored, torch.zeros(2, 1))


def test_psnr_of_known_error():
    clean = torch.zeros(3, 2, 2)
    assert psnr_db(clean + 0.1, clean) == pytest.approx(10 * math.log10(255**2 / 12.75**2), abs=1e-5)
    assert psnr_db(clean, clean) == math.inf
    assert math.isnan(psnr_db(clean * math.nan, clean))


def test_a_capped_psnr_is_a_number_or_an_error():
    clean = torch.zeros(3, 2, 2)
    assert capped_psnr_db(clean, clean) == 100
    assert capped_psnr_db(clean + 0.1, clean) == psnr_db(clean + 0.1, clean)
    for images in ((clean * math.nan, clean), (clean, clean * math.nan)):
        with pytest.raises(DataError, match="NaN"):
            capped_psnr_db(*images)


def test_psnr_agrees_with_scikit_image_and_clamps():
    restored, clean = pair()
    wanted = peak_signal_noise_ratio(to_255(clean), to_255(restored), data_range=255)
    assert psnr_db(restored, clean) == pytest.approx(wanted)
    wanted_y = peak_signal_noise_ratio(luma(to_255(clean)), luma(to_255(restored)), data_range=255)
    assert psnr_db(restored, clean, "y") == pytest.approx(wanted_y)


def test_ssim_against_its_formula():
    restored, clean = pair()
    x, y = to_255(restored), to_255(clean)
    assert ssim(restored, clean) == pytest.approx(np.mean([slow_ssim(x[..., c], y[..., c]) for c in range(3)]))
    assert ssim(restored, clean, "y") == pytest.approx(slow_ssim(luma(x), luma(y)))
    assert ssim(clean, clean) == pytest.approx(1.0)


def test_rounding_is_off_unless_asked_for():
    clean = torch.zeros(3, 12, 12)  # 127.5
    restored = clean + 0.2 / 127.5  # 127.7
    assert psnr_db(restored, clean) == pytest.approx(20 * math.log10(255 / 0.2), abs=1e-3)
    assert psnr_db(restored, clean, rounding=True) == math.inf  # both round to 128
    assert ssim(restored, clean) < 1
    assert ssim(restored, clean, rounding=True) == 1


def test_what_cannot_be_measured_is_refused():
    clean = torch.zeros(3, 11, 11)
    assert ssim(clean, clean) == 1
    with pytest.raises(DataError, match="11x11"):
        ssim(clean[:, :10], clean[:, :10])
    for restored, target in [(clean[:, :5], clean), (clean[:1], clean[:1]), (clean[0], clean[0])]:
        with pytest.raises(DataError):
            psnr_db(restored, target)
    with pytest.raises(ConfigError, match="channel"):
        psnr_db(clean, clean, "ycbcr")
