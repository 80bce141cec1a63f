"""A run's output folder with small weights that change an image."""

import pytest
import torch

from tavit_flwr.config import compose, to_dict
from tavit_flwr.server.checkpoint import Checkpoint, RunState, save
from tavit_flwr.server.initial import initial_weights


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """Preset `tiny` with tasks denoise and deblock; the last convolution is not zero, so tails do something."""
    folder = tmp_path_factory.mktemp("run")
    config = compose(["experiment=tiny", "clients=[denoise,deblock]", "seed=3"])
    weights = initial_weights(config)
    for task, tail in weights.tails.items():
        last = tail["final_conv.1.weight"]
        tail["final_conv.1.weight"] = torch.full_like(last, 0.05 if task == "denoise" else 0.02)
    for index in (1, 2):
        save(folder / "checkpoints", Checkpoint(RunState("key", index, to_dict(config)), weights.flat(), {}), 3)
    return folder
