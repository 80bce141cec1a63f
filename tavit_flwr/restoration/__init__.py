"""Loss, PSNR and SSIM, and tiled restoration of whole images."""

from tavit_flwr.restoration.loss import mse
from tavit_flwr.restoration.metrics import capped_psnr_db, psnr_db, ssim
from tavit_flwr.restoration.tiling import (
    refuse_garbage,
    restore_tiled,
    restored_strips,
    window_count,
    window_origins,
)

__all__ = [
    "capped_psnr_db",
    "mse",
    "psnr_db",
    "refuse_garbage",
    "restore_tiled",
    "restored_strips",
    "ssim",
    "window_count",
    "window_origins",
]
