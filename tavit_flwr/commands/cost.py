"""``tavit estimate``."""

from __future__ import annotations

from typing import Annotated

import typer

from tavit_flwr.commands.options import errors_end_the_command


def estimate_command(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, e.g. experiment=paper")] = None,
    timed_steps: Annotated[int, typer.Option(help="Time as many steps of each phase here; 0 times none", min=0)] = 0,
) -> None:
    """Tell what a run would cost, before it starts: steps, arithmetic, bytes, and hours if steps are timed."""
    with errors_end_the_command():
        from tavit_flwr.config import compose
        from tavit_flwr.server.check import check_experiment
        from tavit_flwr.server.cost import estimate
        from tavit_flwr.server.step_times import timed_lines

        config = compose(overrides or [])
        check_experiment(config, simulated=False)
        for line in estimate(config).lines() + (timed_lines(config, timed_steps) if timed_steps else []):
            typer.echo(line)
