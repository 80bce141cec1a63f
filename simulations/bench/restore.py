"""What tiling costs: time a window of a restoration beside the bare model's forward pass, on the same cores.

``python -m simulations.bench.restore`` first finds the batch size at which the model alone is fastest. Then it measures
in turns, for the same number of windows and that batch size,

* ``model``: head, body and tail on batches of windows that lie ready;
* ``restore``: what ``tavit restore`` does with a picture of 768x512 pixels at stride 16, from its bytes to restored
  bytes, stopped after some batches;

and, unless it is quick, the restoration once more at the batch size that ``tavit restore`` chooses by itself. Weights
are random.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from simulations.bench.record import Record, arguments, cores, report
from tavit_flwr.inference.picture import Picture
from tavit_flwr.inference.restorer import Restorer, Settings, automatic_batch_size
from tavit_flwr.models import Parts, build_parts
from tavit_flwr.split.phases import set_moving
from tavit_flwr.split.unsplit import unsplit_forward

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
QUICK_BATCH_SIZES = (4, 16)


class _EnoughError(Exception):
    """Ends a restoration after some windows."""


def model_s(parts: Parts, window: int, batch_size: int, batches: int) -> float:
    """Seconds a window of the model alone."""
    windows_BCPP = torch.rand(batch_size, 3, window, window) * 2 - 1
    began = time.perf_counter()
    with torch.no_grad():
        for _ in range(batches):
            unsplit_forward(parts.head, parts.body, parts.tail, windows_BCPP)
    return (time.perf_counter() - began) / (batches * batch_size)


def restore_s(parts: Parts, window: int, batch_size: int, batches: int, picture: Picture, stride: int) -> float:
    """Seconds a window of a restoration."""
    restorer = Restorer(parts, window, Settings(stride=stride, batch_size=batch_size, device="cpu"))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done >= batches * batch_size:
            raise _EnoughError

    began = time.perf_counter()
    with contextlib.suppress(_EnoughError):
        restorer.picture(picture, advance)
    return (time.perf_counter() - began) / done


def best_batch_size(parts: Parts, window: int, sizes: Sequence[int], repeats: int) -> tuple[int, dict[int, float]]:
    """The batch size at which the model alone takes least time a window, and that time for each, the best of some."""
    model_s(parts, window, sizes[0], 1)
    found = dict.fromkeys(sizes, np.inf)
    for _ in range(repeats):
        for size in sizes:
            found[size] = min(found[size], model_s(parts, window, size, max(1, 8 // size)))
    return min(found, key=lambda size: found[size]), {size: float(value) for size, value in found.items()}


def main(given: list[str] | None = None) -> list[Record]:
    """Measure in turns, print a table, and write the JSON."""
    parser = arguments("restore", __doc__)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--windows", type=int, default=64, help="of each measurement, at least; 16 where it is quick")
    parser.add_argument("--repeats", type=int, default=7, help="three where it is quick")
    parser.add_argument("--threads", type=int, default=cores())
    options = parser.parse_args(given)
    windows, repeats = (16, 3) if options.quick else (options.windows, options.repeats)
    sizes = QUICK_BATCH_SIZES if options.quick else BATCH_SIZES
    torch.set_num_threads(options.threads)
    parts = build_parts(options.preset)
    for part in (parts.head, parts.body, parts.tail):
        set_moving(part, False)
    window = parts.preset.crop
    shape = (options.height, options.width, 3)
    picture = Picture(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))
    best, by_size = best_batch_size(parts, window, sizes, 1 if options.quick else repeats)
    own = automatic_batch_size(parts, window)
    rows: list[dict[str, Any]] = []
    batches, own_batches = (-(-windows // size) for size in (best, own))
    for _ in range(repeats):
        alone_s = model_s(parts, window, best, batches)
        restored_s = restore_s(parts, window, best, batches, picture, options.stride)
        alone_s = (alone_s + model_s(parts, window, best, batches)) / 2  # before and after
        row: dict[str, Any] = {
            "preset": options.preset, "batch_size": best, "model_ms": 1000 * alone_s,
            "restore_ms": 1000 * restored_s, "ratio": restored_s / alone_s,
        }  # fmt: skip
        if not options.quick:
            own_s = restore_s(parts, window, own, own_batches, picture, options.stride)
            row |= {"own_batch_size": own, "own_ms": 1000 * own_s, "own_ratio": own_s / alone_s}
        rows.append(row)
    shown = ", ".join(f"{size}: {1000 * value:.1f}" for size, value in by_size.items())
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"model alone, best ms a window by batch size: {shown}; peak memory {peak_mib:.0f} MiB")
    found = []
    if options.preset == "paper":
        pairs = [row["restore_ms"] for row in rows], [row["model_ms"] for row in rows]
        found.append(Record.of("restore_ratio/paper", "ms a window", *pairs))
    return report(options.output, found, rows, f"{options.width}x{options.height}, stride {options.stride}")


if __name__ == "__main__":
    main()
