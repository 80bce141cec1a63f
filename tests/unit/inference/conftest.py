"""A run's output folder with small weights that change an image."""

import struct

import pytest
import torch
from PIL import Image

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


@pytest.fixture
def write_broken_exif():
    """Write a JPEG that is to be turned, with one more EXIF tag whose value has another type than the tag's own."""

    def write(path, tag):
        entry, data = {
            "resolution unit": (struct.pack(">HHII", 0x128, 4, 1, 100_000), b""),  # too large for its 16 bits
            "artist": (struct.pack(">HHII", 0x13B, 12, 1, 38), struct.pack(">d", 1.5)),  # a number for a text
        }[tag]
        turned = struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)
        exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + turned + entry + bytes(4) + data
        Image.new("RGB", (8, 6), (10, 200, 30)).save(path, "JPEG", exif=exif)
        return path

    return write
