"""The Flower ServerApp: compose the configuration, make or resume the strategy, start it."""

from __future__ import annotations

from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from tavit_flwr.client.pictures import pictures_here
from tavit_flwr.config import TavitConfig, compose
from tavit_flwr.errors import ConfigError
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.check import check_experiment, warn_of_shared_photographs
from tavit_flwr.server.checkpoint import to_resume
from tavit_flwr.server.initial import initial_arrays
from tavit_flwr.server.output_folder import claimed
from tavit_flwr.server.strategy import TAViT

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that ``--run-config "hydra='...'"`` names."""
    config = compose(str(context.run_config.get("hydra", "")))
    if config.federation.strategy != "tavit":
        raise ConfigError(
            "federation.strategy=tavit, as this app splits models", repr(config.federation.strategy),
            "configuration key 'federation.strategy'", "whole models are run by python -m simulations.run",
        )  # fmt: skip
    check_experiment(config, simulated=simulated(grid))
    if not simulated(grid):
        warn_of_shared_photographs(config)
    if config.compute.server_threads:
        torch.set_num_threads(config.compute.server_threads)
    output_dir = output_folder(config)
    with claimed(output_dir, resume=config.resume):
        checkpoint = to_resume(output_dir, config) if config.resume else None
        arrays = Weights.from_flat(checkpoint.weights).to_arrays() if checkpoint else initial_arrays(config)
        pictures = pictures_here if simulated(grid) else None
        TAViT(config, output_dir, checkpoint, pictures).start(grid=grid, initial_arrays=arrays)


def simulated(grid: Grid) -> bool:
    """Whether Flower's simulation runs the clients on this machine: a class's name, as nothing public tells."""
    return type(grid).__name__ == "InMemoryGrid"


def output_folder(config: TavitConfig) -> Path:
    """Where results go: ``output_dir``, or ``tavit-outputs/<name>`` in the home folder.

    A ServerApp runs in a folder of Flower's, so the folder must be absolute.
    """
    if config.output_dir:
        return Path(config.output_dir).expanduser()
    return Path.home() / "tavit-outputs" / config.name
