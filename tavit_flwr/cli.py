"""The command line: ``tavit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from omegaconf import OmegaConf

from tavit_flwr import __version__
from tavit_flwr.commands.checkpoints import export_command, import_command
from tavit_flwr.commands.evaluate import evaluate_command
from tavit_flwr.commands.restore import restore_command
from tavit_flwr.config import compose
from tavit_flwr.data.complete import check_data, find_recipe
from tavit_flwr.data.recipes import RECIPES
from tavit_flwr.errors import TavitError
from tavit_flwr.server.check import check_experiment, without_folder
from tavit_flwr.server.cost import estimate
from tavit_flwr.server.step_times import timed_lines

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Split learning of image restoration on Flower.")
app.command("restore")(restore_command)
app.command("evaluate")(evaluate_command)
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


@app.command("estimate")
def show_cost(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, e.g. experiment=paper")] = None,
    timed_steps: Annotated[int, typer.Option(help="Time as many steps of each phase here; 0 times none", min=0)] = 0,
) -> None:
    """Tell what a run would cost, before it starts: steps, arithmetic, bytes, and hours if steps are timed."""
    try:
        config = compose(overrides or [])
        check_experiment(config, simulated=False)
        for line in estimate(config).lines() + (timed_lines(config, timed_steps) if timed_steps else []):
            typer.echo(line)
    except TavitError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(2) from None


@app.command("check-data")
def check_a_data_set(
    recipe: Annotated[str | None, typer.Argument(help="Name of a data set; all are listed without it")] = None,
    folder: Annotated[Path | None, typer.Argument(help="Where it lies")] = None,
    part: Annotated[str | None, typer.Option(help="Check this part alone, e.g. test")] = None,
) -> None:
    """Check that a folder holds a data set whole: counts and sizes. Nothing is downloaded."""
    try:
        if recipe is None or folder is None:
            for one in RECIPES if recipe is None else [find_recipe(recipe)]:
                typer.echo(f"{one.name}: {one.page}")
                for piece in one.parts:
                    count = "any number of" if piece.count is None else f"{piece.count:,}"
                    typer.echo(f"    {piece.name:<6} {piece.folder:<14} {count} {piece.what}, {piece.size_text}")
                typer.echo(f"    {one.advice}\n" if one.advice else "")
            return
        whole = True
        for finding in check_data(find_recipe(recipe), folder.expanduser(), part):
            read = f"{finding.count:,} {finding.part.what}, {finding.headers:,} opened"
            typer.echo(f"{finding.part.name}: " + (f"WRONG: {finding.problem}" if finding.problem else f"ok: {read}"))
            whole = whole and not finding.problem
    except TavitError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(2) from None
    if not whole:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
