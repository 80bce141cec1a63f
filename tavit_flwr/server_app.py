"""The Flower ServerApp: compose the configuration, make or resume the strategy, start it."""

from __future__ import annotations

from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from tavit_flwr.config import TavitConfig, compose, to_dict
from tavit_flwr.errors import ConfigError
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.check import check_experiment, warn_of_shared_photographs
from tavit_flwr.server.checkpoint import check_same_experiment, latest
from tavit_flwr.server.initial import initial_arrays
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
    if config.resume:
        checkpoint = latest(output_dir / "checkpoints")
        check_same_experiment(checkpoint.state.config, to_dict(config))
        strategy = TAViT(config, output_dir, checkpoint)
        arrays = Weights.from_flat(checkpoint.weights).to_arrays()
    else:
        strategy = TAViT(config, output_dir)
        arrays = initial_arrays(config)
    strategy.start(grid=grid, initial_arrays=arrays)


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
