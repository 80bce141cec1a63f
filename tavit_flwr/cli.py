"""The command line: ``tavit``."""

from __future__ import annotations

from typing import Annotated

import typer
from omegaconf import OmegaConf

from tavit_flwr import __version__
from tavit_flwr.commands.checkpoints import export_command, import_command
from tavit_flwr.commands.clean_state import clean_state_command
from tavit_flwr.commands.cost import estimate_command
from tavit_flwr.commands.datasets import check_data_command
from tavit_flwr.commands.evaluate import evaluate_command
from tavit_flwr.commands.restore import restore_command
from tavit_flwr.config import compose
from tavit_flwr.errors import TavitError
from tavit_flwr.server.check import check_experiment, without_folder

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Split learning of image restoration on Flower.")
app.command("restore")(restore_command)
app.command("evaluate")(evaluate_command)
app.command("estimate")(estimate_command)
app.command("check-data")(check_data_command)
app.command("clean-state")(clean_state_command)
app.command("import-checkpoint")(import_command)
app.command("export-checkpoint")(export_command)


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
    """Compose the configuration with overrides, check it, and print it as YAML: what a run would use."""
    try:
        config = compose(overrides or [])
        check_experiment(config, simulated=False)
    except TavitError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(OmegaConf.to_yaml(OmegaConf.structured(config)).rstrip())
    if bring := without_folder(config):
        typer.echo(
            f"note: no folder for {', '.join(bring)}; a simulation needs one, SuperNodes bring data-dir", err=True
        )


if __name__ == "__main__":
    app()
