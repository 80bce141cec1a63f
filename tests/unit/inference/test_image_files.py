"""Image files in and out: no bit, no alpha and no orientation is lost."""

import io

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from tavit_flwr.errors import DataError
from tavit_flwr.inference import decode
from tavit_flwr.inference.decode import read_picture
from tavit_flwr.inference.encode import write_picture
from tavit_flwr.inference.picture import Picture


def values(height, width, channels, bits, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    kind = np.uint16 if bits == 16 else np.uint8
    return np.random.default_rng(seed).integers(0, 2**bits, shape).astype(kind)


def oriented(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (300, 5), (512, 3), (513, 3)])  # blocks of 256 rows
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_what_is_written_is_read_bit_for_bit(tmp_path, size, bits, alpha, channels, suffix):
    colour = values(*size, channels, bits)
    picture = Picture(colour, values(*size, 0, bits, 1) if alpha else None)
    write_picture(tmp_path / f"a{suffix}", picture)
    read = read_picture(tmp_path / f"a{suffix}")
    assert read.colour_HWC.dtype == colour.dtype
    np.testing.assert_array_equal(read.colour_HWC, colour)
    assert (read.alpha_HW is not None) == alpha
    if alpha:
        np.testing.assert_array_equal(read.alpha_HW, picture.alpha_HW)


@pytest.mark.parametrize("channels", [1, 3])
def test_others_read_our_eight_bits(tmp_path, channels):
    colour = values(20, 30, channels, 8)
    write_picture(tmp_path / "a.png", Picture(colour))
    with Image.open(tmp_path / "a.png") as image:
        image.verify()
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image).reshape(colour.shape), colour)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [0, 3, 4])
def test_sixteen_bit_tiffs_of_others(tmp_path, byteorder, channels):
    data = values(11, 13, channels, 16)
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    photometric = "minisblack" if not channels else "rgb"
    tifffile.imwrite(tmp_path / "a.tif", data, byteorder=byteorder, photometric=photometric, **extra)
    read = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.colour_HWC, data.reshape(11, 13, -1)[:, :, :3])
    if channels == 4:
        np.testing.assert_array_equal(read.alpha_HW, data[:, :, 3])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(("photometric", "channels"), [("rgb", 3), ("minisblack", 1), ("miniswhite", 1)])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bit_tiffs_that_pillow_misreads(tmp_path, planar, photometric, channels, alpha, byteorder, compression):
    data = values(11, 13, channels + alpha, 16)
    stored = data[:, :, 0] if data.shape[2] == 1 else np.moveaxis(data, 2, 0) if planar == "separate" else data
    tifffile.imwrite(
        tmp_path / "a.tif", stored, byteorder=byteorder, photometric=photometric, compression=compression,
        planarconfig=planar if data.shape[2] > 1 else None, extrasamples=["unassalpha"] if alpha else None,
        extratags=[(274, 3, 1, 6, True)],
    )  # fmt: skip
    read = read_picture(tmp_path / "a.tif")
    colour = data[:, :, :channels]
    np.testing.assert_array_equal(
        read.colour_HWC, np.rot90(65535 - colour if photometric == "miniswhite" else colour, -1)
    )
    assert (read.alpha_HW is not None) == alpha
    if alpha:
        np.testing.assert_array_equal(read.alpha_HW, np.rot90(data[:, :, -1], -1))


@pytest.mark.parametrize(
    "twist",
    [
        {"dtype": np.float32}, {"dtype": np.uint32}, {"pages": 2}, {"extra": "unspecified"}, {"extra": "assocalpha"},
        {"signed": True},
    ],
    ids=["float", "32 bits", "pages", "two channels", "multiplied alpha", "signed"],
)  # fmt: skip
def test_tiffs_that_would_be_misread_are_refused(tmp_path, twist):
    data, settings = values(9, 9, 3, 16), {"photometric": "minisblack"}
    if "dtype" in twist:
        data = data[:, :, 0].astype(twist["dtype"]) * 70000
    elif "pages" in twist:
        data, settings = np.stack([data[:, :, 0]] * 2), {"photometric": "miniswhite"}
    elif "signed" in twist:
        data, settings = np.moveaxis(data, 2, 0).astype(np.int16), {"photometric": "rgb", "planarconfig": "separate"}
    else:
        data = data[:, :, :2]
        settings |= {"planarconfig": "contig", "extrasamples": [twist["extra"]]}
    tifffile.imwrite(tmp_path / "a.tif", data, **settings)
    with pytest.raises(DataError):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "grey", "deep", "deep grey", "planes"])
def test_the_orientation_is_applied(tmp_path, orientation, kind):
    stored = values(3, 5, 1 if "grey" in kind else 3, 8 if kind in ("png", "grey") else 16)
    if kind == "png":
        (tmp_path / "a.png").write_bytes(oriented(Image.fromarray(stored), orientation).read())
    else:
        tifffile.imwrite(
            tmp_path / "a.tif", np.moveaxis(stored, 2, 0) if kind == "planes" else stored.squeeze(),
            photometric="minisblack" if "grey" in kind else "rgb",
            planarconfig="separate" if kind == "planes" else None, extratags=[(274, 3, 1, orientation, True)],
        )  # fmt: skip
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1), 7: np.rot90(stored, 2).swapaxes(0, 1), 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    read = read_picture(next(tmp_path.iterdir()))
    np.testing.assert_array_equal(read.colour_HWC, upright)


def test_palettes_bilevel_and_declared_transparency(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "p.png", transparency=0)
    read = read_picture(tmp_path / "p.png")
    assert read.colour_HWC[0, 0].tolist() == [10, 20, 30]
    assert read.colour_HWC[3, 3].tolist() == [40, 50, 60]
    assert read.alpha_HW[0].tolist() == [0, 255, 255, 255]
    Image.new("1", (4, 4), 1).save(tmp_path / "one.png")
    assert read_picture(tmp_path / "one.png").colour_HWC.tolist() == [[[255]] * 4] * 4


def test_the_colour_profile_is_kept(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", icc_profile=profile)
    read = read_picture(tmp_path / "a.png")
    assert read.profile == profile
    for name in ("b.png", "b.tif"):
        write_picture(tmp_path / name, read)
        assert read_picture(tmp_path / name).profile == profile
        with Image.open(tmp_path / name) as image:
            assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="decoded"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("tag", ["resolution unit", "artist"])
def test_a_file_whose_decoder_breaks_is_refused(tmp_path, write_broken_exif, tag):
    """Turning the image writes its EXIF anew, where Pillow trusts what it has read: struct.error, AttributeError."""
    with pytest.raises(DataError, match="decoded"):
        read_picture(write_broken_exif(tmp_path / "a.jpg", tag))


def test_a_truncated_file_is_refused(tmp_path):
    write_picture(tmp_path / "a.png", Picture(values(50, 50, 3, 8)))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="decoded"):
        read_picture(tmp_path / "a.png")


def test_more_pixels_than_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MOST_PIXELS", 99)
    for channels in (3, 1):  # Pillow's, and tifffile's
        write_picture(tmp_path / "a.tif", Picture(values(10, 10, channels, 16), values(10, 10, 0, 16)))
        with pytest.raises(DataError, match="99 pixels"):
            read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_to_the_model_and_back_change_nothing(bits, channels):
    picture = Picture(values(40, 6, channels, bits), values(40, 6, 0, bits))
    rows = picture.model_rows(torch.tensor([39, 0, 7]))
    assert rows.shape == (3, 3, 6)
    assert rows.min() >= -1
    assert rows.max() <= 1
    copy = picture.blank()
    for top in (0, 30):
        copy.set_rows(top, picture.model_rows(torch.arange(top, min(top + 30, 40))))
    np.testing.assert_array_equal(copy.colour_HWC, picture.colour_HWC)
    assert copy.alpha_HW is picture.alpha_HW


def test_values_beyond_the_range_are_clamped_and_grey_is_the_mean():
    picture = Picture(np.zeros((1, 3, 1), np.uint8))
    picture.set_rows(0, torch.tensor([[-3.0, 0.0, 9.0]] * 3).reshape(3, 1, 3))
    assert picture.colour_HWC[0, :, 0].tolist() == [0, 128, 255]
    picture.set_rows(0, torch.tensor([[1.0] * 3, [0.0] * 3, [-1.0] * 3]).reshape(3, 1, 3))
    assert picture.colour_HWC[0, 0, 0] == 128


def test_a_failed_write_leaves_the_file_of_before(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", Picture(values(4, 4, 3, 8)))
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr("tavit_flwr.inference.encode._filtered", lambda picture: iter([b"x", 1 / 0]))
    with pytest.raises(ZeroDivisionError):
        write_picture(tmp_path / "a.png", Picture(values(4, 4, 3, 8, 1)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before
