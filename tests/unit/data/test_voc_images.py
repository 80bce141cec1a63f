"""VOC 2012 with SBD: which images are in it, and what is said without torchvision or without the files."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavit_flwr.data.client_data import load_client_data
from tavit_flwr.data.voc import voc_sbd
from tavit_flwr.errors import DataError


@pytest.fixture
def torchvision(monkeypatch):
    """torchvision's own two classes, without its compiled part, which may not fit the torch that is installed."""
    spec = importlib.util.find_spec("torchvision")
    root = Path(spec.origin).parent
    for name, path in (("torchvision", root), ("torchvision.datasets", root / "datasets")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, name, package)
    datasets = sys.modules["torchvision.datasets"]
    monkeypatch.setattr(sys.modules["torchvision"], "datasets", datasets, raising=False)
    for file, name in (("voc", "VOCSegmentation"), ("sbd", "SBDataset")):
        setattr(datasets, name, getattr(importlib.import_module(f"torchvision.datasets.{file}"), name))
    yield
    for name in [one for one in sys.modules if one.startswith("torchvision.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def folder(tmp_path):
    """Six images: two of VOC's training set, one of its validation set, three of SBD alone, one of them validation."""
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    lists = {
        voc / "ImageSets" / "Segmentation" / "train.txt": ["a", "b"],
        voc / "ImageSets" / "Segmentation" / "val.txt": ["c"],
        tmp_path / "sbd" / "train.txt": ["b", "d", "c"],
        tmp_path / "sbd" / "val.txt": ["e"],
    }
    for path, names in lists.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    (voc / "JPEGImages").mkdir()
    for value, name in enumerate("abcdef"):
        Image.fromarray(np.full((80, 80, 3), 20 * value, np.uint8)).save(voc / "JPEGImages" / f"{name}.jpg")
    return tmp_path


def test_vocs_validation_images_are_left_out_and_sbds_are_in(folder, torchvision):
    images = voc_sbd(folder, crop=64, halve_jpeg=False)
    assert images.names == ("a.jpg", "b.jpg", "d.jpg", "e.jpg")
    assert int(images.load(2).clean_CHW[0, 0, 0]) == pytest.approx(60, abs=2)


def test_two_clients_of_a_task_hold_two_disjoint_halves(folder, torchvision):
    test_images = folder / "test"
    test_images.mkdir()
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(test_images / "t.png")
    halves = [
        load_client_data(
            source="voc", folder=folder, evaluation_folder=None, held_out=1, halve_jpeg=False, crop=64, seed=0,
            task="deblock", shard=shard, num_shards=2,
        )
        for shard in (0, 1)
    ]  # fmt: skip
    first, second = (set(half.train.names) for half in halves)
    assert not first & second
    assert len(first | second) == 3
    assert halves[0].held_out.names == halves[1].held_out.names


def test_missing_lists_are_an_error_and_nothing_is_downloaded(folder, torchvision, monkeypatch):
    (folder / "sbd" / "val.txt").unlink()
    with pytest.raises(DataError, match="nothing is downloaded for you"):
        voc_sbd(folder, crop=64, halve_jpeg=False)
    with pytest.raises(DataError, match=r"VOCdevkit/VOC2012"):
        voc_sbd(folder / "elsewhere", crop=64, halve_jpeg=False)


def test_without_torchvision_it_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match="a torchvision that can be imported"):
        voc_sbd(folder, crop=64, halve_jpeg=False)


def test_small_images_are_named(folder, torchvision):
    with pytest.raises(DataError, match="64x64"):
        voc_sbd(folder, crop=64, halve_jpeg=True).check()
