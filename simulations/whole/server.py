"""The ServerApp of whole models: as that of the package, with another strategy."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from simulations.whole.strategy import WholeModels
from tavit_flwr.client.pictures import pictures_here
from tavit_flwr.config import compose
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.check import check_experiment
from tavit_flwr.server.checkpoint import to_resume
from tavit_flwr.server.initial import initial_arrays
from tavit_flwr.server.output_folder import claimed
from tavit_flwr.server_app import output_folder, simulated

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that ``--run-config "hydra='...'"`` names."""
    config = compose(str(context.run_config.get("hydra", "")))
    check_experiment(config, simulated=simulated(grid))
    folder = output_folder(config)
    with claimed(folder, resume=config.resume):
        checkpoint = to_resume(folder, config) if config.resume else None
        arrays = Weights.from_flat(checkpoint.weights).to_arrays() if checkpoint else initial_arrays(config)
        pictures = pictures_here if simulated(grid) else None
        WholeModels(config, folder, checkpoint, pictures).start(grid=grid, initial_arrays=arrays)
