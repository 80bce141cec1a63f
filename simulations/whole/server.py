"""The ServerApp of whole models: as that of the package, with another strategy."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from simulations.whole.strategy import WholeModels
from tavit_flwr.config import compose, to_dict
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.check import check_experiment
from tavit_flwr.server.checkpoint import check_same_experiment, latest
from tavit_flwr.server.initial import initial_arrays
from tavit_flwr.server_app import output_folder, simulated

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that ``--run-config "hydra='...'"`` names."""
    config = compose(str(context.run_config.get("hydra", "")))
    check_experiment(config, simulated=simulated(grid))
    folder = output_folder(config)
    if config.resume:
        checkpoint = latest(folder / "checkpoints")
        check_same_experiment(checkpoint.state.config, to_dict(config))
        strategy = WholeModels(config, folder, checkpoint)
        arrays = Weights.from_flat(checkpoint.weights).to_arrays()
    else:
        strategy, arrays = WholeModels(config, folder), initial_arrays(config)
    strategy.start(grid=grid, initial_arrays=arrays)
