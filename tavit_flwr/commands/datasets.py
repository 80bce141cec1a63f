"""``tavit check-data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tavit_flwr.commands.options import errors_end_the_command


def check_data_command(
    recipe: Annotated[str | None, typer.Argument(help="Name of a data set; all are listed without it")] = None,
    folder: Annotated[Path | None, typer.Argument(help="Where it lies; its layout is told without it")] = None,
    part: Annotated[str | None, typer.Option(help="Check this part alone, e.g. test")] = None,
) -> None:
    """Check that a folder holds a data set whole: counts and sizes. Nothing is downloaded."""
    with errors_end_the_command():
        from tavit_flwr.data.complete import check_data, find_recipe
        from tavit_flwr.data.recipes import RECIPES

        if recipe is None or folder is None:
            for one in RECIPES if recipe is None else [find_recipe(recipe)]:
                typer.echo("\n".join([*one.lines(), ""]))
            return
        whole = True
        for finding in check_data(find_recipe(recipe), folder.expanduser(), part):
            typer.echo(f"{finding.part.name}: {finding.text}")
            whole = whole and not finding.problem
    if not whole:
        raise typer.Exit(1)
