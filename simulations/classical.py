"""Classical denoisers at the best of a grid of settings: the bar that a trained network has to clear.

``python -m simulations.classical /absolute/path/of/kodak24 --bm3d`` adds the task's noise as a client's evaluation does
and tries scikit-image's wavelet, non-local means and total-variation denoisers. They are told the true sigma. Settings
are searched on images that are scored, which favours them.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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


Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Candidate:
    """A method at one setting, on images [H, W, 3] in [0, 1]."""

    method: str
    setting: str
    run: Method


def candidates(sigma: float, bm3d: bool) -> Iterator[Candidate]:
    """Every method and setting that is tried, for noise of that standard deviation on [0, 1]."""
    for wavelet, rule, ycbcr in product(("db1", "db2", "sym4"), ("BayesShrink", "VisuShrink"), (True, False)):
        shrink: dict[str, Any] = {
            "wavelet": wavelet,
            "method": rule,
            "convert2ycbcr": ycbcr,
            "rescale_sigma": True,
            "channel_axis": -1,
        }
        for share in (0.9, 1.0, 1.1) if rule == "BayesShrink" else (0.25, 0.35, 0.5):
            options = shrink | {"sigma": sigma * share, "mode": "soft"}
            name = f"{wavelet} {rule} {'YCbCr' if ycbcr else 'RGB'} {share:g} sigma"
            yield Candidate("wavelet", name, partial(denoise_wavelet, **options))
            if ycbcr and rule == "BayesShrink" and share >= 0.9:
                yield Candidate("wavelet, cycle-spun", f"{name} 4x4 shifts", partial(_spun, options=options))
    for patch, distance, share in product((3, 5, 7), (6, 11), (0.3, 0.4, 0.5, 0.6)):
        options = {"patch_size": patch, "patch_distance": distance, "h": share * sigma, "sigma": sigma}
        name = f"patch {patch} distance {distance} h {share:g} sigma"
        yield Candidate("non-local means", name, partial(denoise_nl_means, fast_mode=True, channel_axis=-1, **options))
        if distance == 6 and patch == 5:  # an order of magnitude slower
            yield Candidate(
                "non-local means, exact", name, partial(denoise_nl_means, channel_axis=-1, fast_mode=False, **options)
            )
    for weight in (0.06, 0.08, 0.1, 0.12, 0.15):
        yield Candidate(
            "total variation", f"weight {weight:g}", partial(denoise_tv_chambolle, weight=weight, channel_axis=-1)
        )
    if bm3d:
        yield Candidate(
            "BM3D", "colour, true sigma", partial(importlib.import_module("bm3d").bm3d_rgb, sigma_psd=sigma)
        )


def _spun(image: Array, options: dict[str, Any]) -> Array:
    """Average the wavelet denoiser over shifts of the image, by scikit-image's own helper."""
    spun: Array = cycle_spin(image, denoise_wavelet, max_shifts=3, func_kw=options, channel_axis=-1, workers=1)
    return spun


def restore(candidate: Candidate, degraded_CHW: torch.Tensor) -> torch.Tensor:
    """Denoise one image [3, H, W] in [-1, 1]."""
    restored = candidate.run(((degraded_CHW + 1) / 2).permute(1, 2, 0).double().numpy())
    return torch.from_numpy(np.ascontiguousarray(restored)).permute(2, 0, 1) * 2 - 1


def mean_psnr_db(candidate: Candidate, pairs: Pairs) -> float:
    """Mean over images, without 8-bit rounding."""
    return statistics.fmean(psnr_db(restore(candidate, degraded), clean.double()) for degraded, clean in pairs)


def row(candidate: Candidate, pairs: Pairs) -> dict[str, Any]:
    """PSNR and SSIM, means over images, and the time an image takes."""
    began = time.perf_counter()
    restored = [(restore(candidate, degraded), clean.double()) for degraded, clean in pairs]
    seconds = (time.perf_counter() - began) / len(pairs)
    return {
        "method": candidate.method,
        "setting": candidate.setting,
        "psnr_db": statistics.fmean(psnr_db(*pair) for pair in restored),
        "ssim": statistics.fmean(ssim(*pair) for pair in restored),
        "images": len(pairs),
        "s_per_image": seconds,
    }


def main(arguments: list[str] | None = None) -> int:
    """Search on a part of the images, score the best of each method on all, and show them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="clean images, absolute")
    parser.add_argument("--sigma", type=float, default=30.0, help="on 0-255")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--search-every", type=int, default=4, help="search on every n-th image")
    parser.add_argument("--bm3d", action="store_true", help="also the package bm3d, about a minute an image")
    parser.add_argument("--only", default="", help="methods whose name holds this")
    parser.add_argument("--json", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    images = image_folder(options.folder, crop=1, halve_jpeg=False)
    noise = degradation("noise", {"sigma_255": options.sigma})
    held_out = held_out_pairs(images, noise, seed=options.seed, task="denoise")
    pairs = [(one.degraded_CHW, one.clean_CHW) for one in held_out]
    console = Console()
    best: dict[str, tuple[float, Candidate]] = {"input": (0.0, Candidate("input", "", lambda image: image))}
    for candidate in candidates(options.sigma / 255, options.bm3d):
        if options.only not in candidate.method:
            continue
        value = math.inf if candidate.method == "BM3D" else mean_psnr_db(candidate, pairs[:: options.search_every])
        console.print(f"{value:.3f} {candidate.method}: {candidate.setting}", highlight=False)
        if candidate.method not in best or value > best[candidate.method][0]:
            best[candidate.method] = value, candidate
    rows = [row(candidate, pairs) for _, candidate in best.values()]
    table = Table("method", "best setting", "PSNR dB", "SSIM", "s an image", title=f"{len(pairs)} images")
    for one in rows:
        scores = f"{one['psnr_db']:.2f}", f"{one['ssim']:.3f}", f"{one['s_per_image']:.1f}"
        table.add_row(one["method"], one["setting"], *scores)
    console.print(table)
    if options.json:
        write_json(options.json, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
