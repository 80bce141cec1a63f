"""Folders of clean images: what is found, how it is decoded, and what is said when it cannot be used."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from tavit_flwr.data import folders, images
from tavit_flwr.data.folders import image_folder
from tavit_flwr.errors import DataError


def _write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def _rgb(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _only(folder, **options):
    (sample,) = (image_folder(folder, crop=1, **options).load(0),)
    return sample.clean_CHW.permute(1, 2, 0).numpy()


def test_all_kinds_are_found_below_the_folder_in_order(tmp_path):
    for file in ("b.png", "sub/a.jpg", "a.tif", "c.BMP", "d.webp", "e.jpeg", "f.tiff"):
        _write(tmp_path / file, _rgb(8, 8))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._b.png").write_bytes(b"a hidden file of another system")
    images = image_folder(tmp_path, crop=4)
    assert images.names == ("a.tif", "b.png", "c.BMP", "d.webp", "e.jpeg", "f.tiff", "sub/a.jpg")
    assert all(images.load(index).clean_CHW.shape[0] == 3 for index in range(len(images)))


def test_png_pixels_come_unchanged(tmp_path):
    pixels = _rgb(6, 9)
    _write(tmp_path / "a.png", pixels)
    assert np.array_equal(_only(tmp_path), pixels)


def test_jpegs_are_halved_by_averaging_unless_told_not_to(tmp_path):
    _write(tmp_path / "a.jpg", _rgb(8, 12), quality=95)
    full = _only(tmp_path, halve_jpeg=False)
    half = _only(tmp_path)
    assert full.shape == (8, 12, 3)
    assert half.shape == (4, 6, 3)
    assert np.abs(half - full.reshape(4, 2, 6, 2, 3).mean((1, 3))).max() <= 1


def test_a_jpeg_is_known_by_its_content_not_its_name(tmp_path):
    _write(tmp_path / "a.png", _rgb(8, 12), format="JPEG")
    assert _only(tmp_path).shape == (4, 6, 3)


@pytest.mark.parametrize("file", ["a.png", "a.jpg", "a.tif"])
def test_exif_orientation_is_applied_also_to_the_checked_size(tmp_path, file):
    exif = Image.Exif()
    exif[0x0112] = 6
    _write(tmp_path / file, _rgb(6, 30), exif=exif)
    assert _only(tmp_path, halve_jpeg=False).shape == (30, 6, 3)
    with pytest.raises(DataError, match="received 6x30"):
        image_folder(tmp_path, crop=7, halve_jpeg=False).check()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_turned_grey_tiff_is_not_garbled(tmp_path, orientation):
    """Pillow maps such a file into memory with the sides of the turned image, unless it reads it as a stream."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = _rgb(6, 30)[..., 0]
    _write(tmp_path / "a.tif", grey, exif=exif)
    upright = {5: grey.T, 6: np.rot90(grey, -1), 7: np.rot90(grey, 2).T, 8: np.rot90(grey)}[orientation]
    assert np.array_equal(_only(tmp_path)[..., 0], upright)


def test_a_decoder_that_breaks_costs_one_image(tmp_path):
    """An EXIF tag that says more than its type can hold makes Pillow raise struct.error where the image is turned."""
    entries = struct.pack(">HHIHH", 0x112, 3, 1, 6, 0) + struct.pack(">HHII", 0x128, 4, 1, 100_000)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)
    _write(tmp_path / "a.jpg", _rgb(8, 12), exif=exif)
    with pytest.raises(DataError, match="decoded"):
        _only(tmp_path)


def test_grey_becomes_rgb(tmp_path):
    grey = _rgb(5, 5)[..., 0]
    _write(tmp_path / "a.png", grey)
    assert np.array_equal(_only(tmp_path), np.repeat(grey[..., None], 3, 2))


def test_alpha_is_dropped_and_colours_kept(tmp_path):
    pixels = np.concatenate([_rgb(5, 5), np.zeros((5, 5, 1), np.uint8)], 2)
    _write(tmp_path / "a.png", pixels)
    assert np.array_equal(_only(tmp_path), pixels[..., :3])


@pytest.mark.parametrize("file", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, file):
    _write(tmp_path / file, np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16))
    assert _only(tmp_path)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_floating_point_images_are_refused(tmp_path):
    _write(tmp_path / "a.tif", np.zeros((5, 5), np.float32))
    with pytest.raises(DataError, match=r"floating-point.*a\.tif.*convert"):
        image_folder(tmp_path, crop=1).load(0)


def test_a_missing_folder_a_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="nothing"):
        image_folder(tmp_path / "absent", crop=4)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(DataError, match="a file"):
        image_folder(tmp_path / "file.txt", crop=4)
    with pytest.raises(DataError, match=r"\.png.*received none"):
        image_folder(tmp_path, crop=4)


def test_small_and_broken_images_are_named_at_the_start(tmp_path):
    _write(tmp_path / "a.png", _rgb(8, 8))
    _write(tmp_path / "sub/small.png", _rgb(8, 7))
    with pytest.raises(DataError, match=r"8x8.*7x8.*sub/small\.png.*remove"):
        image_folder(tmp_path, crop=8).check()
    (tmp_path / "sub/small.png").write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"sub/small\.png.*repair or remove") as caught:
        image_folder(tmp_path, crop=8).check()
    assert str(tmp_path) not in str(caught.value)


def test_a_truncated_image_is_named_when_it_is_loaded(tmp_path):
    _write(tmp_path / "a.png", _rgb(64, 64))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:4000])
    images = image_folder(tmp_path, crop=8)
    with pytest.raises(DataError, match=r"a\.png.*repair or remove"):
        images.load(0)


def test_several_that_cannot_be_used_are_told_together(tmp_path):
    for index in range(9):
        _write(tmp_path / f"{index}.png", _rgb(8, 8 if index < 2 else 7))
    with pytest.raises(DataError, match=r"7x8; at 2\.png, and 6 more of 9 images: 3\.png, .*6\.png;") as told:
        image_folder(tmp_path, crop=8).check()
    assert "png" not in told.value.told()


def test_up_to_a_number_all_headers_are_read_and_beyond_it_the_log_says_so(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "flwr")
    for index in range(9):
        _write(tmp_path / f"{index}.png", _rgb(8, 8))
    opened = []
    real = folders.image_size
    monkeypatch.setattr(folders, "image_size", lambda path, *a, **k: opened.append(path.name) or real(path, *a, **k))
    images_ = image_folder(tmp_path, crop=8)
    assert opened == []
    images_.check()
    assert opened == [f"{index}.png" for index in range(9)]
    assert caplog.text == ""
    opened.clear()
    monkeypatch.setattr(images, "HEADERS_CHECKED", 3)
    _write(tmp_path / "2.png", _rgb(4, 4))
    images_.check()
    assert opened == ["0.png", "4.png", "8.png"]
    assert "headers of 3 of 9 images were checked" in caplog.text
    with pytest.raises(DataError, match=r"4x4.*2\.png"):
        images_.load(2)


def test_decoded_images_are_kept_up_to_a_number_of_bytes(tmp_path):
    for index in range(3):
        _write(tmp_path / f"{index}.png", _rgb(8, 8, index))
    reads = []
    folder = image_folder(tmp_path, crop=8)

    def read(name):
        reads.append(name)
        return folder.load(folder.names.index(name))

    images = folders.LazyImages(folder.names, read, cache_bytes=2 * 3 * 8 * 8)
    for index in (0, 1, 0, 2, 0, 1):
        assert torch.equal(images.load(index).clean_CHW, folder.load(index).clean_CHW)
    assert reads == ["0.png", "1.png", "2.png", "1.png"]
    with pytest.raises(IndexError):
        images.load(3)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    _write(tmp_path / "elsewhere" / "a.png", _rgb(8, 8))
    folder = tmp_path / "set"
    (folder / "inner").mkdir(parents=True)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "inner" / "up").symlink_to(folder)
    (folder / "inner" / "itself").symlink_to(folder / "inner")
    assert image_folder(folder, crop=4).names == ("linked/a.png",)
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    assert image_folder(folder, crop=4).names == ("linked/a.png",)
