"""Classical denoisers at the best of a grid of settings: the bar that a trained network has to clear.

``python -m simulations.classical /absolute/path/of/kodak24 --bm3d`` adds the task's noise as a client's evaluation does
and tries scikit-image's wavelet, non-local means and total-variation denoisers. They are told the true sigma. Settings
are chosen on the very images that are scored, which favours them.
"""

from __future__ import annotations

import argparse
import importlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from skimage.restoration import cycle_spin, denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from tavit_flwr.data import held_out_pairs
from tavit_flwr.data.folders import image_folder
from tavit_flwr.degrade import degradation
from tavit_flwr.files import write_json
from tavit_flwr.restoration import psnr_db, ssim

Array = npt.NDArray[Any]
Method = Callable[[Array], Array]


@dataclass(frozen=True)
class Score:
    """Means over all images of one method at one setting."""

    method: str
    setting: str
    psnr_db: float
    ssim: float
    s_per_image: float


def settings(sigma: float, bm3d: bool) -> Iterator[tuple[str, str, Method]]:
    """Every method and setting that is tried: name, setting, and the method on images [H, W, 3] in [0, 1]."""
    for wavelet, rule, ycbcr in product(("db1", "db2", "sym4"), ("BayesShrink", "VisuShrink"), (True, False)):
        shrink: dict[str, Any] = {
            "wavelet": wavelet,
            "method": rule,
            "convert2ycbcr": ycbcr,
            "rescale_sigma": True,
            "channel_axis": -1,
        }
        for share in (0.8, 0.9, 1.0) if rule == "BayesShrink" else (0.25, 0.35, 0.5):
            options = shrink | {"sigma": sigma * share, "mode": "soft"}
            name = f"{wavelet} {rule} {'YCbCr' if ycbcr else 'RGB'} {share:g} sigma"
            yield "wavelet", name, partial(denoise_wavelet, **options)
            if ycbcr and rule == "BayesShrink" and share >= 0.9:
                yield "wavelet, cycle-spun", f"{name} 4x4 shifts", partial(_spun, options=options)
    for patch, distance, share in product((3, 5, 7), (6, 11), (0.3, 0.4, 0.5, 0.6)):
        options = {"patch_size": patch, "patch_distance": distance, "h": share * sigma, "sigma": sigma}
        name = f"patch {patch} distance {distance} h {share:g} sigma"
        yield "non-local means", name, partial(denoise_nl_means, fast_mode=True, channel_axis=-1, **options)
    for weight in (0.06, 0.08, 0.1, 0.12, 0.15):
        yield "total variation", f"weight {weight:g}", partial(denoise_tv_chambolle, weight=weight, channel_axis=-1)
    if bm3d:
        yield "BM3D", "colour, true sigma", partial(importlib.import_module("bm3d").bm3d_rgb, sigma_psd=sigma)


def _spun(image: Array, options: dict[str, Any]) -> Array:
    """Average the wavelet denoiser over shifts of the image, by scikit-image's own helper."""
    spun: Array = cycle_spin(image, denoise_wavelet, max_shifts=3, func_kw=options, channel_axis=-1, workers=1)
    return spun


def score(method: str, setting: str, run: Method, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Score:
    """Denoise every image and take the means of PSNR and SSIM."""
    rows, seconds = [], 0.0
    for degraded, clean in pairs:
        began = time.perf_counter()
        restored = run(((degraded + 1) / 2).permute(1, 2, 0).double().numpy())
        seconds += time.perf_counter() - began
        result = torch.from_numpy(np.ascontiguousarray(restored)).permute(2, 0, 1) * 2 - 1
        rows.append((psnr_db(result, clean.double()), ssim(result, clean.double())))
    means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    return Score(method, setting, means[0], means[1], seconds / len(rows))


def main(arguments: list[str] | None = None) -> int:
    """Score all settings, show the best of each method, and write all of them if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="clean images, absolute")
    parser.add_argument("--sigma", type=float, default=30.0, help="on 0-255")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    parser.add_argument("--bm3d", action="store_true", help="also the package bm3d, which takes minutes an image")
    parser.add_argument("--only", default="", help="methods whose name holds this")
    parser.add_argument("--json", type=Path, help="file for all scores")
    options = parser.parse_args(arguments)
    images = image_folder(options.folder, crop=64, halve_jpeg=False)
    noise = degradation("noise", {"sigma_255": options.sigma})
    held_out = list(held_out_pairs(images, noise, seed=options.seed, task="denoise"))[:: options.every]
    pairs = [(one.degraded_CHW, one.clean_CHW) for one in held_out]
    console = Console()
    scores = [score("input", "", lambda image: image, pairs)]
    for method, setting, run in settings(options.sigma / 255, options.bm3d):
        if options.only in method:
            scores.append(score(method, setting, run, pairs))
            last = scores[-1]
            console.print(f"{last.psnr_db:.3f} {last.ssim:.4f} {method}: {setting}", highlight=False)
    best = [max((one for one in scores if one.method == name), key=lambda one: one.psnr_db) for name in _names(scores)]
    table = Table("method", "best setting", "PSNR dB", "SSIM", "s an image", title=f"{len(pairs)} images")
    for one in best:
        table.add_row(one.method, one.setting, f"{one.psnr_db:.2f}", f"{one.ssim:.3f}", f"{one.s_per_image:.1f}")
    console.print(table)
    if options.json:
        write_json(options.json, {"images": len(pairs), "scores": [asdict(one) for one in scores]})
    return 0


def _names(scores: list[Score]) -> list[str]:
    return list(dict.fromkeys(one.method for one in scores))


if __name__ == "__main__":
    raise SystemExit(main())
