"""``tavit restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tavit_flwr.commands.options import (
    BatchSize,
    Bf16,
    Device,
    Stride,
    Task,
    Threads,
    Weights,
    errors_end_the_command,
    settings_of,
)


def restore_command(
    inputs: Annotated[list[str], typer.Argument(help="Images, folders or patterns", metavar="INPUT...")],
    weights: Weights,
    task: Task,
    output: Annotated[Path, typer.Option(help="Folder of the results", show_default=False)],
    stride: Stride = 16,
    batch_size: BatchSize = 0,
    bf16: Bf16 = False,
    threads: Threads = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist")] = False,
) -> None:
    """Restore image files: PNG, JPEG, TIFF, BMP, WebP; 8 or 16 bits; any size. Inputs are never overwritten.

    Exit status: 0 if all were restored, 1 if some failed (one line each), 2 if nothing could be begun.
    """
    with errors_end_the_command():
        from tavit_flwr.inference.restore import restore

        settings = settings_of(stride, batch_size, bf16, threads, device)
        failures = restore(inputs, output, weights=weights, task=task, settings=settings, overwrite=overwrite)
    if failures:
        raise typer.Exit(1)
