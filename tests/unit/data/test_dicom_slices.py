"""CT slices: Hounsfield units, window, pairs, and what is said of files that are none."""

import sys

import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file

from tavit_flwr.data.client_data import load_client_data
from tavit_flwr.data.dicom import dicom_pairs
from tavit_flwr.data.held_out import held_out_pairs
from tavit_flwr.data.stream import BatchStream
from tavit_flwr.errors import DataError

WINDOW = (-160.0, 240.0)


@pytest.fixture
def pair(write_slice):
    def write(folder, name="001.dcm", low=None, full=None, **changes):
        write_slice(folder / "low_dose" / name, np.full((40, 48), 10.0) if low is None else low, **changes)
        write_slice(folder / "full_dose" / name, np.full((40, 48), 0.0) if full is None else full)

    return write


def test_a_slice_is_hounsfield_units_in_the_window_on_three_channels(tmp_path, pair):
    full = np.linspace(-1000, 1000, 40 * 48).reshape(40, 48).round()
    pair(tmp_path, "p1/001.dcm", full=full)
    pair(tmp_path, "p1/002.IMA")
    images = dicom_pairs(tmp_path, crop=32, window_hu=WINDOW)
    assert images.names == ("p1/001", "p1/002")
    sample = images.load(0)
    expected = torch.from_numpy(np.clip((full + 160) / 400, 0, 1)).float()
    assert sample.clean_CHW.dtype == torch.float32
    assert torch.allclose(sample.clean_CHW, expected.expand(3, -1, -1), atol=1e-6)
    assert torch.allclose(sample.degraded_CHW, torch.full((3, 40, 48), 170 / 400))
    assert len(torch.unique(sample.clean_CHW)) > 300  # a window of 400 values at slope 0.5 is more than 8 bits


def test_slices_reach_batches_and_evaluation_between_minus_one_and_one(tmp_path, pair):
    for patient in ("a", "b", "c"):
        pair(tmp_path, f"{patient}/1.dcm", full=np.full((40, 48), 240.0))
    data = load_client_data(
        source="dicom", folder=tmp_path, evaluation_folder=None, held_out=1, halve_jpeg=True, crop=32, seed=0,
        task="ct", shard=0, num_shards=1,
    )  # fmt: skip
    batch = BatchStream(data.train, None, crop=32, batch_size=2, seed=0, client="c").batch(1, "p", 1, 0)
    assert batch.clean_BCPP.shape == (2, 3, 32, 32)
    assert batch.clean_BCPP.unique().tolist() == [1.0]
    assert batch.degraded_BCPP.unique().tolist() == pytest.approx([-0.15])
    (held_out,) = held_out_pairs(data.held_out, None, seed=0, task="ct")
    assert held_out.clean_CHW.unique().tolist() == [1.0]
    assert held_out.degraded_CHW.unique().tolist() == pytest.approx([-0.15])


def test_a_scanners_own_file_is_read(tmp_path):
    source = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for side in ("low_dose", "full_dose"):
        (tmp_path / side).mkdir()
        source.save_as(tmp_path / side / "1.dcm")
    clean = dicom_pairs(tmp_path, crop=64, window_hu=(-1024.0, 1024.0)).load(0).clean_CHW
    values_hu = source.pixel_array.astype(np.float64) * source.RescaleSlope + source.RescaleIntercept
    assert torch.allclose(clean[0].double() * 2048 - 1024, torch.from_numpy(values_hu).clamp(-1024, 1024), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Modality": "MR"}, "modality MR"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME2"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"ImagePositionPatient": ["0", "0", "9"]}, "one place in the body"),
        ({"Rows": None}, "a DICOM image"),
    ],
)
def test_what_is_no_ct_slice_is_named_when_a_run_starts(tmp_path, changes, said, pair):
    pair(tmp_path, **changes)
    with pytest.raises(DataError, match=said) as caught:
        dicom_pairs(tmp_path, crop=32, window_hu=WINDOW).check()
    assert "low_dose/001.dcm" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"RescaleIntercept": None}, "Hounsfield"), ({"PixelData": b"short"}, "decode"), ({"PixelData": None}, "decode")],
)
def test_pixels_that_cannot_be_used_are_named_when_they_are_read(tmp_path, changes, said, pair):
    pair(tmp_path, **changes)
    with pytest.raises(DataError, match=said):
        dicom_pairs(tmp_path, crop=32, window_hu=WINDOW).load(0)


def test_files_that_do_not_fit_are_named(tmp_path, pair, write_slice):
    with pytest.raises(DataError, match=r"\.dcm"):
        dicom_pairs(tmp_path, crop=32, window_hu=WINDOW)
    pair(tmp_path)
    with pytest.raises(DataError, match="41x41"):
        dicom_pairs(tmp_path, crop=41, window_hu=WINDOW).check()
    (tmp_path / "low_dose" / "001.dcm").write_bytes(b"no DICOM at all")
    with pytest.raises(DataError, match="a DICOM image"):
        dicom_pairs(tmp_path, crop=32, window_hu=WINDOW).check()
    pair(tmp_path, low=np.zeros((40, 40)))
    with pytest.raises(DataError, match="equal size"):
        dicom_pairs(tmp_path, crop=32, window_hu=WINDOW).check()
    (tmp_path / "low_dose" / "001.dcm").unlink()
    write_slice(tmp_path / "low_dose" / "002.dcm", np.zeros((40, 48)))
    with pytest.raises(DataError, match="2 without"):
        dicom_pairs(tmp_path, crop=32, window_hu=WINDOW)


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"tavit-flwr\[dicom\]"):
        dicom_pairs(tmp_path, crop=32, window_hu=WINDOW)
