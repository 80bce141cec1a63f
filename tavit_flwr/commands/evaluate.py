"""``tavit evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from tavit_flwr.commands.options import (
    BatchSize,
    Bf16,
    Device,
    Stride,
    Task,
    Threads,
    Weights,
    errors_end_the_command,
    pairs_of,
    settings_of,
)
from tavit_flwr.errors import ConfigError
from tavit_flwr.files import write_json


def evaluate_command(
    weights: Weights,
    task: Task,
    clean: Annotated[
        Path | None, typer.Option(help="Folder of clean images, degraded by the task's operator", show_default=False)
    ] = None,
    degraded: Annotated[
        Path | None, typer.Option(help="Beside --clean: degraded images of the same names", show_default=False)
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Instead: one folder of pairs, laid out as for training", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the task's degradation, e.g. sigma_255=15", metavar="NAME=VALUE")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the degradation; else the run's", show_default=False)] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Degrade clean images though the run learnt the task from pairs")
    ] = False,
    rounding: Annotated[bool, typer.Option(help="Round to 8 bits before scoring; the paper does not")] = False,
    against: Annotated[str, typer.Option(help="Other methods, of wavelet,nlm,tv,bm3d")] = "",
    sigma_255: Annotated[
        float | None, typer.Option(help="Noise that they are told; else the task's, or an estimate", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first images", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for evaluation.json", show_default=False)] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Degraded, restored, clean side by side there")] = False,
    stride: Stride = 16,
    batch_size: BatchSize = 0,
    bf16: Bf16 = False,
    threads: Threads = 0,
    device: Device = "auto",
) -> None:
    """Score restored images against clean ones: PSNR and SSIM, on RGB and on luma, of each image and in the mean.

    Exit status: 0 if all were scored, 1 if some failed (one line each), 2 if nothing could be begun.
    """
    with errors_end_the_command():
        if pictures and output is None:
            raise ConfigError("--output with --pictures", "none", hint="say where the pictures shall go")
        from tavit_flwr.inference.evaluate import evaluate

        found = evaluate(
            clean, weights=weights, task=task, degraded=degraded, pairs=pairs, seed=seed, synthetic=synthetic,
            rounding=rounding, sigma_255=sigma_255,
            options={name: yaml.safe_load(value) for name, value in pairs_of(option or [], "--option").items()},
            against=[name.strip() for name in against.split(",") if name.strip()], limit=limit,
            settings=settings_of(stride, batch_size, bf16, threads, device),
            pictures=output / "pictures" if output and pictures else None,
        )  # fmt: skip
    console = Console()
    for table in found.tables():
        console.print(table)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "evaluation.json", found.to_dict())
    if found.failures:
        raise typer.Exit(1)
