"""Paired folders: which files belong together, and what is said when they do not."""

import numpy as np
import pytest
from PIL import Image

from tavit_flwr.data.pairs import PAIR_FOLDERS, paired_folder
from tavit_flwr.errors import DataError


def _write(path, value, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


@pytest.mark.parametrize(("degraded", "clean"), PAIR_FOLDERS)
def test_known_folder_names_are_matched_by_stem(tmp_path, degraded, clean):
    for index, name in enumerate(("b", "a")):
        _write(tmp_path / degraded / f"{name}.png", 10 + index)
        _write(tmp_path / clean / f"{name}.bmp", 200 + index)
    images = paired_folder(tmp_path, crop=8)
    assert images.names == ("a", "b")
    sample = images.load(0)
    assert int(sample.degraded_CHW[0, 0, 0]) == 11
    assert int(sample.clean_CHW[0, 0, 0]) == 201


def test_pairs_may_lie_in_scenes_and_in_subfolders(tmp_path):
    for scene in ("one", "two"):
        _write(tmp_path / scene / "blur" / "1.png", 10)
        _write(tmp_path / scene / "sharp" / "1.png", 20)
        _write(tmp_path / scene / "blur_gamma" / "1.png", 30)
    _write(tmp_path / "blur" / "deep" / "1.png", 10)
    _write(tmp_path / "sharp" / "deep" / "1.png", 20)
    images = paired_folder(tmp_path, crop=8)
    assert images.names == ("deep/1", "one/1", "two/1")
    assert int(images.load(2).degraded_CHW[0, 0, 0]) == 10


def test_jpeg_pairs_keep_their_size(tmp_path):
    _write(tmp_path / "lq" / "a.jpg", 10, (8, 12))
    _write(tmp_path / "gt" / "a.jpg", 20, (8, 12))
    assert paired_folder(tmp_path, crop=8).load(0).clean_CHW.shape == (3, 8, 12)


def test_an_image_without_partner_is_named(tmp_path):
    for file in ("lq/a.png", "gt/a.png", "lq/b.png", "gt/c.png"):
        _write(tmp_path / file, 0)
    with pytest.raises(DataError, match=r"2 without: gt/c\.png, lq/b\.png"):
        paired_folder(tmp_path, crop=8)


def test_two_images_of_one_stem_are_named(tmp_path):
    for file in ("lq/a.png", "lq/a.bmp", "gt/a.png"):
        _write(tmp_path / file, 0)
    with pytest.raises(DataError, match=r"lq/a\.bmp and lq/a\.png"):
        paired_folder(tmp_path, crop=8)


def test_unequal_sizes_are_named(tmp_path):
    _write(tmp_path / "lq" / "a.png", 0, (9, 8))
    _write(tmp_path / "gt" / "a.png", 0, (8, 8))
    with pytest.raises(DataError, match=r"8x9 and 8x8 pixels.*lq/a\.png and gt/a\.png"):
        paired_folder(tmp_path, crop=8).check()


def test_small_pairs_are_named(tmp_path):
    for side in ("lq", "gt"):
        _write(tmp_path / side / "a.png", 0, (8, 8))
    with pytest.raises(DataError, match=r"at least 9x9.*gt/a\.png"):
        paired_folder(tmp_path, crop=9).check()


def test_no_known_folders_and_several_are_refused(tmp_path):
    _write(tmp_path / "left" / "a.png", 0)
    with pytest.raises(DataError, match=r"lq/ \+ gt/.*none"):
        paired_folder(tmp_path, crop=8)
    for side in ("lq", "gt", "blur", "sharp"):
        _write(tmp_path / side / "a.png", 0)
    with pytest.raises(DataError, match="several"):
        paired_folder(tmp_path, crop=8)


def test_a_sides_own_name_before_the_stem_is_no_difference(tmp_path):
    _write(tmp_path / "rain" / "rain-001.png", 10)
    _write(tmp_path / "norain" / "norain-001.png", 20)
    images = paired_folder(tmp_path, crop=8)
    assert images.names == ("001",)
    assert int(images.load(0).clean_CHW[0, 0, 0]) == 20


def test_one_clean_image_may_have_several_numbered_degraded_ones(tmp_path):
    for number in (1, 2, 14):
        _write(tmp_path / "rain" / f"901_{number}.jpg", number)
    _write(tmp_path / "rain" / "7_3.png", 40)
    for name in ("901.jpg", "7_3.png"):
        _write(tmp_path / "norain" / name, 200)
    images = paired_folder(tmp_path, crop=8)
    assert images.names == ("7_3", "901_1", "901_14", "901_2")
    assert [int(images.load(index).degraded_CHW[0, 0, 0]) for index in range(4)] == [40, 1, 14, 2]


def test_a_clean_image_that_no_numbered_one_uses_is_named(tmp_path):
    for file in ("rain/901_1.png", "norain/901.png", "norain/902.png", "rain/903_1.png"):
        _write(tmp_path / file, 0)
    with pytest.raises(DataError, match=r"2 without: norain/902\.png, rain/903_1\.png"):
        paired_folder(tmp_path, crop=8)
