"""Whole photographs belong to one client of a task, or to nobody when held out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tavit_flwr.data import load_client_data
from tavit_flwr.data.partition import client_shard, split_held_out
from tavit_flwr.data.photographs import HELD_OUT_PHOTOGRAPHS, bundled_photographs
from tavit_flwr.errors import ConfigError, DataError

_SEEDS = st.integers(0, 2**31)


def _names(count):
    return tuple(f"{index:03}.png" for index in range(count))


def _load(**changes):
    arguments = {
        "source": "bundled",
        "folder": None,
        "evaluation_folder": None,
        "held_out": 2,
        "halve_jpeg": True,
        "crop": 64,
        "seed": 0,
        "task": "denoise",
        "shard": 0,
        "num_shards": 1,
    }
    return load_client_data(**(arguments | changes))


def _write_folder(folder, count):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(np.full((64, 64, 3), index, np.uint8)).save(folder / f"{index}.png")
    return folder


@given(seed=_SEEDS, count=st.integers(1, 60), num_shards=st.integers(1, 12), task=st.text(max_size=8))
@settings(max_examples=60, deadline=None)
def test_shards_are_disjoint_complete_and_balanced(seed, count, num_shards, task):
    names = _names(count + num_shards)
    shards = [client_shard(names, seed=seed, task=task, shard=k, num_shards=num_shards) for k in range(num_shards)]
    assert sorted(name for shard in shards for name in shard) == list(names)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@given(seed=_SEEDS, count=st.integers(2, 60), data=st.data())
@settings(max_examples=60, deadline=None)
def test_held_out_photographs_are_never_trained_on(seed, count, data):
    held_out = data.draw(st.integers(1, count - 1))
    train, aside = split_held_out(_names(count), held_out, seed=seed)
    assert len(aside) == held_out
    assert sorted(train + aside) == list(_names(count))
    assert (train, aside) == split_held_out(_names(count), held_out, seed=seed)


def test_the_seed_decides_the_split_and_the_shards():
    names = _names(40)
    assert len({split_held_out(names, 3, seed=seed)[1] for seed in range(5)}) > 1
    assert len({client_shard(names, seed=seed, task="a", shard=0, num_shards=4) for seed in range(5)}) > 1
    assert len({client_shard(names, seed=0, task=task, shard=0, num_shards=4) for task in "abcde"}) > 1


def test_more_clients_than_photographs_is_refused():
    with pytest.raises(DataError, match="at least 4 training photographs for 4 clients; received 3; at task deblur"):
        client_shard(_names(3), seed=0, task="deblur", shard=0, num_shards=4)


@pytest.mark.parametrize(("shard", "num_shards"), [(-1, 2), (2, 2), (0, 0)])
def test_a_shard_outside_of_its_number_is_refused(shard, num_shards):
    with pytest.raises(ConfigError, match="a shard from 0"):
        client_shard(_names(9), seed=0, task="a", shard=shard, num_shards=num_shards)


def test_holding_out_none_or_all_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        split_held_out(_names(3), 0, seed=0)
    with pytest.raises(DataError, match=r"lower data\.held_out"):
        split_held_out(_names(3), 3, seed=0)


def test_bundled_photographs_all_load_and_two_are_held_out_for_every_task_and_client():
    photographs = bundled_photographs()
    shapes = {name: tuple(photographs.load(k).clean_CHW.shape) for k, name in enumerate(photographs.names)}
    assert len(shapes) == 8
    assert min(min(shape[1:]) for shape in shapes.values()) >= 200
    assert shapes["rocket"] == (3, 214, 320)
    assert shapes["chelsea"] == (3, 300, 451)
    seen = set()
    for task in ("denoise", "derain"):
        for shard in range(3):
            data = _load(task=task, shard=shard, num_shards=3)
            assert data.held_out.names == HELD_OUT_PHOTOGRAPHS
            assert len(data.train) == 2
            seen |= set(data.train.names)
    assert seen == set(photographs.names) - set(HELD_OUT_PHOTOGRAPHS)


def test_bundled_has_two_photographs_to_hold_out():
    assert _load(held_out=1).held_out.names == HELD_OUT_PHOTOGRAPHS[:1]
    assert not set(_load(held_out=1).train.names) & set(HELD_OUT_PHOTOGRAPHS)
    for held_out in (0, 3):
        with pytest.raises(ConfigError, match="1 to 2"):
            _load(held_out=held_out)


def test_a_folders_held_out_images_are_the_same_for_all_tasks_and_clients(tmp_path):
    folder = _write_folder(tmp_path / "photos", 9)
    loaded = [
        _load(source="folder", folder=folder, held_out=3, task=task, shard=shard, num_shards=2)
        for task in ("a", "b")
        for shard in (0, 1)
    ]
    assert len({data.held_out.names for data in loaded}) == 1
    assert all(not set(data.train.names) & set(loaded[0].held_out.names) for data in loaded)
    assert not set(loaded[0].train.names) & set(loaded[1].train.names)
    assert len(loaded[0].train) + len(loaded[1].train) == 6


def test_an_evaluation_folder_takes_the_place_of_held_out_images(tmp_path):
    folder, aside = _write_folder(tmp_path / "photos", 3), _write_folder(tmp_path / "aside", 2)
    data = _load(source="folder", folder=folder, evaluation_folder=aside, held_out=99)
    assert (len(data.train), len(data.held_out)) == (3, 2)
    bundled = _load(evaluation_folder=aside)
    assert bundled.held_out.names == ("0.png", "1.png")
    assert not set(bundled.train.names) & set(HELD_OUT_PHOTOGRAPHS)


def test_paired_folders_can_be_held_out_and_evaluated(tmp_path):
    for folder in ("train", "aside"):
        for side in ("lq", "gt"):
            _write_folder(tmp_path / folder / side, 4)
    data = _load(source="paired", folder=tmp_path / "train", held_out=1)
    assert (len(data.train), len(data.held_out)) == (3, 1)
    data = _load(source="paired", folder=tmp_path / "train", evaluation_folder=tmp_path / "aside")
    assert data.held_out.load(0).degraded_CHW is not None


def test_an_evaluation_folder_inside_the_training_folder_is_refused(tmp_path):
    folder = _write_folder(tmp_path / "photos", 3)
    inner = _write_folder(folder / "val", 2)
    for pair in ((folder, inner), (inner, folder), (folder, folder)):
        with pytest.raises(DataError, match="outside of the training folder"):
            _load(source="folder", folder=pair[0], evaluation_folder=pair[1])


def test_an_unknown_source_and_a_missing_folder_key_are_refused():
    with pytest.raises(ConfigError, match="bundled, folder, paired"):
        _load(source="web")
    with pytest.raises(ConfigError, match=r"data\.folder"):
        _load(source="folder")
