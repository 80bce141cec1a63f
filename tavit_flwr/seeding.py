"""Named random generators, all derived from the run's seed.

A draw is named by a path such as ``("batch", "denoise", 0, cycle, "task-specific", round, step)``. Equal seed and
equal path give equal draws, whatever process asks and in whatever order.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *path: str | int) -> int:
    """Hash a seed and a path of names into a 63-bit seed.

    Parameters
    ----------
    seed : int
        The run's seed.
    *path : str or int
        The name of the draw, from general to particular.

    Returns
    -------
    int
        A seed in ``[0, 2**63)``.
    """
    text = "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """Make a CPU generator for one named draw (see `derive_seed`)."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))
