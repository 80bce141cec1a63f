"""``tavit import-checkpoint`` and ``tavit export-checkpoint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tavit_flwr.commands.options import Task, Weights, errors_end_the_command, pairs_of


def import_command(
    head: Annotated[list[str], typer.Option(help="State dict of a task's head", metavar="TASK=FILE")],
    tail: Annotated[list[str], typer.Option(help="State dict of a task's tail", metavar="TASK=FILE")],
    body: Annotated[Path, typer.Option(help="State dict of the body they share", show_default=False)],
    output: Annotated[Path, typer.Option(help="A new folder", show_default=False)],
    body_name: Annotated[str, typer.Option(help="The body's name here")] = "natural",
    time_step: Annotated[int, typer.Option(min=0, help="Constant time step of the heads")] = 0,
) -> None:
    """Check published state dicts (.pt, .pth) tensor by tensor and write them as weights that tavit takes."""
    with errors_end_the_command():
        from tavit_flwr.inference.official_files import import_checkpoint

        heads, tails = (
            {task: Path(file) for task, file in pairs_of(words, name).items()}
            for words, name in ((head, "--head"), (tail, "--tail"))
        )
        import_checkpoint(heads, tails, body, output, body_name=body_name, time_step=time_step)
    typer.echo(f"imported {', '.join(heads)} into {output}")


def export_command(
    weights: Weights, task: Task, output: Annotated[Path, typer.Option(help="A new folder", show_default=False)]
) -> None:
    """Write head.pt, body.pt and tail.pt of one task under the published names."""
    with errors_end_the_command():
        from tavit_flwr.inference.official_files import export_checkpoint

        published = export_checkpoint(weights, output, task=task)
    typer.echo(f"exported {task} to {output}")
    if not published:
        typer.echo("these are not of the published architecture: published code cannot load them", err=True)
