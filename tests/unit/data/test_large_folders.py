"""A data set of 100,000 files: what is opened and what is kept does not grow with it. No timing is asserted."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tavit_flwr.data import decode
from tavit_flwr.data.client_data import load_client_data
from tavit_flwr.data.images import CACHE_BYTES, HEADERS_CHECKED, LazyImages
from tavit_flwr.data.stream import BatchStream
from tavit_flwr.degrade import degradation

FILES = 100_000
PER_FOLDER = 1000


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """100,000 names of two files, 512x512 each: hard links, in folders of a thousand."""
    root = tmp_path_factory.mktemp("large")
    originals = []
    for index in range(2):
        path = root / f"original{index}.png"
        Image.fromarray(np.full((512, 512, 3), 90 * index, np.uint8)).save(path)
        originals.append(path)
    images = root / "images"
    for number in range(FILES // PER_FOLDER):
        folder = images / f"{number:03d}"
        folder.mkdir(parents=True)
        for index in range(PER_FOLDER):
            os.link(originals[index % 2], folder / f"{index:03d}.png")
    yield images
    shutil.rmtree(images)


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that PIL was asked to open."""
    names = []
    real = Image.open
    monkeypatch.setattr(decode.Image, "open", lambda path, *rest: names.append(str(path)) or real(path, *rest))
    return names


def _load(folder):
    return load_client_data(
        source="folder", folder=folder, evaluation_folder=None, held_out=8, halve_jpeg=True, crop=64, seed=0,
        task="denoise", shard=0, num_shards=2,
    )  # fmt: skip


def test_a_start_opens_few_files_and_keeps_none(large, opened):
    data = _load(large)
    assert len(data.train) == (FILES - 8) // 2
    assert len(data.held_out) == 8
    assert opened == []
    data.check()
    assert len(opened) == HEADERS_CHECKED + 8
    assert isinstance(data.train, LazyImages)
    assert data.train._cached_bytes == data.held_out._cached_bytes == 0


def test_training_opens_what_it_draws_and_keeps_a_bounded_number(large, opened):
    data = _load(large)
    stream = BatchStream(data.train, degradation("noise", {}), crop=64, batch_size=8, seed=0, client="c")
    at_start = len(opened)
    for step in range(60):
        stream.batch(1, "task-specific", 1, step)
    drawn = opened[at_start:]
    assert 400 < len(drawn) <= 480
    assert data.train._cached_bytes <= CACHE_BYTES
    assert len(data.train._cached) <= CACHE_BYTES // (512 * 512 * 3)
    assert len(data.train._cached) < len(drawn), "the bound was not reached: this test would show nothing"
