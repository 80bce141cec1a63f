"""The command line: ``tavit``."""

from __future__ import annotations

from typing import Annotated

import typer
from omegaconf import OmegaConf

from tavit_flwr import __version__
from tavit_flwr.config import compose
from tavit_flwr.errors import TavitError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Split learning of image restoration on Flower.")


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and end.")] = False) -> None:
    """Show the version, or go on to a command."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command("config")
def show_config(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, e.g. experiment=tiny")] = None,
) -> None:
    """Compose the configuration with overrides and print it as YAML: what a run would use."""
    try:
        config = compose(overrides or [])
    except TavitError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(OmegaConf.to_yaml(OmegaConf.structured(config)).rstrip())
