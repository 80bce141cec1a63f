"""Evaluation: the pixels, the numbers, the other methods, and what is left out."""

import io
import json
import math
import shutil
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tavit_flwr.data import LazyImages, Sample, held_out_pairs
from tavit_flwr.degrade import degradation
from tavit_flwr.errors import CheckpointError, ConfigError, DataError
from tavit_flwr.inference.classical import METHODS, denoise, estimated_sigma
from tavit_flwr.inference.evaluate import evaluate
from tavit_flwr.inference.restorer import Settings, load_restorer
from tavit_flwr.restoration import psnr_db, ssim


@pytest.fixture
def clean(tmp_path, make_images):
    return make_images(tmp_path / "clean", count=3, side=48)


def call(clean, run_folder, **options):
    return evaluate(
        clean, weights=run_folder, **{"task": "denoise", "settings": Settings(32)} | options,
        console=Console(file=io.StringIO()),
    )  # fmt: skip


def held_out(clean, task, degrade, seed):
    """The images of the federated evaluation."""
    names = sorted(path.name for path in clean.iterdir())
    images = LazyImages(
        names, lambda name: Sample(name, torch.from_numpy(np.array(Image.open(clean / name))).permute(2, 0, 1))
    )
    return list(held_out_pairs(images, degrade, seed=seed, task=task))


def near(value):
    """Equal but for the order of a sum over pixels, which depends on their layout in memory."""
    return pytest.approx(value, rel=1e-9)


def test_scores_are_those_of_the_federated_evaluation(clean, run_folder):
    found = call(clean, run_folder)
    pairs = held_out(clean, "denoise", degradation("noise", {"sigma_255": 30.0}), seed=3)
    restorer = load_restorer(run_folder, "denoise", Settings(32))
    assert [image.image for image in found.images] == [pair.name for pair in pairs]
    for image, pair in zip(found.images, pairs, strict=True):
        restored = restorer(pair.degraded_CHW)
        for scores, candidate in ((image.scores["input"], pair.degraded_CHW), (image.scores["restored"], restored)):
            assert scores.psnr_db == near(psnr_db(candidate, pair.clean_CHW))
            assert scores.ssim == near(ssim(candidate, pair.clean_CHW))
            assert scores.psnr_y_db == near(psnr_db(candidate, pair.clean_CHW, "y"))
            assert scores.ssim_y == near(ssim(candidate, pair.clean_CHW, "y"))
    means = found.means()
    assert means["restored"].psnr_db == pytest.approx(
        np.mean([image.scores["restored"].psnr_db for image in found.images])
    )
    assert 18 < means["input"].psnr_db < 20


def test_each_image_has_every_variant(clean, run_folder):
    found = call(clean, run_folder, task="deblock")
    assert found.variants == ["q10", "q50"]
    assert len(found.images) == 6
    assert found.means("q10")["input"].psnr_db < found.means("q50")["input"].psnr_db
    federated = held_out(clean, "deblock", degradation("jpeg", {"qualities": [10, 50]}), seed=3)
    by_name = {(image.image, image.variant): image for image in found.images}
    for pair in federated:
        wanted = psnr_db(pair.degraded_CHW, pair.clean_CHW)
        assert by_name[pair.name, pair.label].scores["input"].psnr_db == near(wanted)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(document["means"]) == {"all", "q10", "q50"}
    assert document["about"]["degradation"] == {
        "name": "jpeg", "options": {"qualities": [10, 50], "subsampling": "4:4:4"}, "seed": 3,
    }  # fmt: skip


def test_options_and_seed_change_the_degradation(clean, run_folder):
    usual = call(clean, run_folder, limit=1)
    assert call(clean, run_folder, limit=1).images[0].scores["input"] == usual.images[0].scores["input"]
    other = call(clean, run_folder, limit=1, seed=4)
    assert other.images[0].scores["input"].psnr_db != usual.images[0].scores["input"].psnr_db
    mild = call(clean, run_folder, limit=1, options={"sigma_255": 5.0})
    assert mild.means()["input"].psnr_db > usual.means()["input"].psnr_db + 10
    with pytest.raises(ConfigError, match="sigma_255"):
        call(clean, run_folder, options={"sigma": 5.0})


def test_given_pairs_are_matched_by_name_and_taken_as_they_are(tmp_path, clean, run_folder):
    degraded = tmp_path / "noisy"
    degraded.mkdir()
    rng = np.random.default_rng(0)
    for path in clean.iterdir():
        pixels = np.array(Image.open(path)).astype(int) + rng.integers(-30, 31, (48, 48, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(degraded / f"{path.stem}.tif")
    found = call(clean, run_folder, degraded=degraded)
    assert "degradation" not in found.about
    first = found.images[0]
    images = [torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) / 255 * 2 - 1
              for p in (degraded / f"{first.image}.tif", clean / f"{first.image}.png")]  # fmt: skip
    assert first.scores["input"].psnr_db == pytest.approx(psnr_db(*images), abs=1e-4)
    (degraded / "image0.tif").unlink()
    with pytest.raises(DataError, match=r"image0\.png"):
        call(clean, run_folder, degraded=degraded)


@pytest.fixture
def blurred_scenes(tmp_path):
    """Pairs in scenes, as GoPro has them."""
    rng = np.random.default_rng(0)
    for scene in ("one", "two"):
        sharp = rng.integers(40, 200, (24, 30, 3)).astype(np.uint8)
        for side, pixels in (("blur", sharp + 3), ("sharp", sharp), ("blur_gamma", sharp + 50)):
            (tmp_path / "pairs" / scene / side).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / "pairs" / scene / side / "000001.png")
    return tmp_path / "pairs"


def test_one_folder_of_pairs_is_read_as_for_training(blurred_scenes, run_folder):
    found = call(None, run_folder, pairs=blurred_scenes)
    assert [image.image for image in found.images] == ["one/000001", "two/000001"]
    assert found.means()["input"].psnr_db == pytest.approx(20 * np.log10(255 / 3), abs=1e-4)
    assert found.about["pairs"] == str(blurred_scenes)


@pytest.fixture
def trained_on(run_folder, tmp_path):
    """A copy of the run that says that it trained `denoise` on another source."""

    def change(source, by_task):
        shutil.copytree(run_folder, tmp_path / "other")
        path = tmp_path / "other" / "checkpoints" / "round-000002" / "state.json"
        state = json.loads(path.read_text())
        state["config"]["data" if not by_task else "tasks"]["source" if not by_task else "denoise"] = (
            source if not by_task else state["config"]["tasks"]["denoise"] | {"source": source}
        )
        path.write_text(json.dumps(state))
        return tmp_path / "other"

    return change


@pytest.mark.parametrize("by_task", [True, False])
@pytest.mark.parametrize("source", ["paired", "dicom"])
def test_a_task_learnt_from_pairs_is_not_scored_on_a_degradation_unless_told(clean, trained_on, source, by_task):
    weights = trained_on(source, by_task)
    with pytest.raises(ConfigError, match=rf"--pairs.*source is '{source}'.*denoise.*--synthetic.*'noise'"):
        call(clean, weights)
    found = call(clean, weights, synthetic=True, limit=1)
    assert found.about["degradation"]["name"] == "noise"


def test_slices_are_scored_in_the_window_of_the_run(tmp_path, trained_on, write_slice):
    pytest.importorskip("pydicom")
    weights = trained_on("dicom", True)
    for dose, values_hu in (("full_dose", 0.0), ("low_dose", 40.0)):
        write_slice(tmp_path / "slices" / dose / "1.dcm", np.full((24, 30), values_hu))
    found = call(None, weights, pairs=tmp_path / "slices")
    assert found.means()["input"].psnr_db == pytest.approx(20, abs=1e-3)  # a tenth of 400 Hounsfield units


def test_what_does_not_go_together_is_refused(tmp_path, clean, run_folder, blurred_scenes):
    other = tmp_path / "other"
    shutil.copytree(clean, other)
    for given in ({}, {"degraded": other}, {"clean": clean, "pairs": blurred_scenes}):
        with pytest.raises(ConfigError, match="--clean with --degraded, or --pairs"):
            call(given.pop("clean", None), run_folder, **given)
    with pytest.raises(ConfigError, match="two folders"):
        call(clean, run_folder, degraded=clean.parent / "other" / ".." / clean.name)
    for option, given in (
        ("option", {"options": {"sigma_255": 5.0}}),
        ("seed", {"seed": 0}),
        ("synthetic", {"synthetic": True}),
    ):
        with pytest.raises(ConfigError, match=f"no --{option} beside pairs"):
            call(clean, run_folder, degraded=other, **given)
        with pytest.raises(ConfigError, match=f"no --{option} beside pairs"):
            call(None, run_folder, pairs=blurred_scenes, **given)


def test_a_missing_folder_is_told_with_its_option(tmp_path, clean, run_folder):
    absent = tmp_path / "absent"
    for option, folders in (
        ("clean", (absent, {})), ("degraded", (clean, {"degraded": absent})), ("pairs", (None, {"pairs": absent})),
    ):  # fmt: skip
        with pytest.raises(DataError, match=f"received nothing.*absent; check --{option}$"):
            call(folders[0], run_folder, **folders[1])


def test_rounding_is_off_unless_asked_for(clean, run_folder):
    exact, rounded = (call(clean, run_folder, limit=1, rounding=on).means()["input"] for on in (False, True))
    assert exact.psnr_db != rounded.psnr_db
    assert exact.psnr_db == pytest.approx(rounded.psnr_db, abs=0.02)


def test_other_methods_see_the_same_pixels_and_denoise(clean, run_folder, monkeypatch):
    seen = []
    monkeypatch.setitem(METHODS, "tv", type(METHODS["tv"])("spy", lambda image, sigma: seen.append(sigma) or image))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = call(clean, run_folder, against=["wavelet", "nlm", "tv"], limit=2)
    means = found.means()
    assert seen == [30 / 255] * 2
    assert means["tv"].psnr_db == pytest.approx(means["input"].psnr_db, abs=1e-5)
    assert means["wavelet"].psnr_db > means["input"].psnr_db + 5
    assert means["nlm"].psnr_db > means["input"].psnr_db + 5
    assert found.about["sigma_255"] == 30
    assert means["wavelet"].seconds > 0


def test_the_noise_is_estimated_where_the_task_has_none(clean, run_folder, monkeypatch):
    seen = []
    monkeypatch.setitem(METHODS, "tv", type(METHODS["tv"])("spy", lambda image, sigma: seen.append(sigma) or image))
    assert call(clean, run_folder, task="deblock", against=["tv"], limit=1).about["sigma_255"] == "estimated"
    call(clean, run_folder, task="deblock", against=["tv"], limit=1, sigma_255=12.0)
    assert 0 < seen[0] < 0.1
    assert seen[-1] == 12 / 255


@pytest.mark.parametrize("sigma_255", [float("nan"), float("inf"), -1.0])
def test_noise_that_cannot_be_is_refused(clean, run_folder, sigma_255):
    with pytest.raises(ConfigError, match="--sigma-255"):
        call(clean, run_folder, against=["tv"], sigma_255=sigma_255)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_an_estimate_that_is_no_number_fails_its_image(clean, run_folder):
    """An image without any detail has none to estimate the noise from."""
    Image.new("RGB", (48, 48)).save(clean / "image0.png")
    found = call(clean, run_folder, task="deblock", against=["tv"], limit=2)
    assert [image.image for image in found.images] == ["image1.png"] * 2
    assert "finite standard deviation of the noise; received nan" in found.failures["image0.png-q10"]
    with pytest.raises(DataError, match="finite standard deviation"):
        denoise("tv", torch.rand(3, 8, 8), math.nan)


@pytest.mark.parametrize("name", list(METHODS))
def test_without_noise_there_is_nothing_to_do(name):
    image = torch.rand(3, 16, 16)
    assert torch.equal(denoise(name, image, 0.0), image)


def test_bm3d_is_called_with_colours_and_the_noise(monkeypatch):
    def bm3d_rgb(image, sigma_psd):
        assert image.shape == (5, 7, 3)
        assert image.dtype == np.float64
        calls.append(sigma_psd)
        return image[::-1] + 0.25

    calls = []
    monkeypatch.setitem(sys.modules, "bm3d", types.SimpleNamespace(bm3d_rgb=bm3d_rgb))
    image = torch.rand(3, 5, 7)
    restored = denoise("bm3d", image, 30 / 255)
    assert calls == [30 / 255]
    torch.testing.assert_close(restored, (image.flip(1) + 0.25).clamp(0, 1))


def test_an_estimate_is_near_the_truth():
    noise = torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(0)) * 0.1
    assert estimated_sigma(0.5 + noise) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_lifts_a_noisy_image(name):
    if METHODS[name].needs:
        pytest.importorskip(METHODS[name].needs)
    ramp = torch.linspace(0.2, 0.8, 64).expand(3, 64, 64).contiguous()
    noisy = (ramp + 0.1 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    restored = denoise(name, noisy, 0.1)
    assert restored.shape == noisy.shape
    assert restored.dtype == torch.float32
    assert psnr_db(restored * 2 - 1, ramp * 2 - 1) > psnr_db(noisy * 2 - 1, ramp * 2 - 1) + 6


def test_a_missing_extra_or_unknown_method_is_told_before_any_work(clean, run_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(ConfigError, match=r"tavit-flwr\[bm3d\]"):
        call(clean, run_folder, against=["bm3d"])
    with pytest.raises(ConfigError, match="wavelet, nlm, tv, bm3d"):
        call(clean, run_folder, against=["bm4d"])


def test_one_bad_image_costs_only_itself(clean, run_folder):
    (clean / "image1.png").write_bytes(b"no image")
    found = call(clean, run_folder)
    assert len(found.images) == 2
    assert "decoded" in found.failures["image1.png"]
    for name in ("image0.png", "image2.png"):
        (clean / name).write_bytes(b"no image")
    with pytest.raises(DataError, match="none"):
        call(clean, run_folder)


def test_images_too_small_for_ssim_and_equal_images(tmp_path, run_folder, make_images):
    clean = make_images(tmp_path / "dots", count=1, side=6)
    shutil.copytree(clean, tmp_path / "same")
    found = call(clean, run_folder, degraded=tmp_path / "same")
    assert found.means()["input"].psnr_db == 100
    assert found.means()["input"].ssim is None
    json.dumps(found.to_dict(), allow_nan=False)
    rows = [line.split("│")[1:-1] for line in shown(found).splitlines() if "input" in line]
    assert [[cell.strip() for cell in row[-5:]] for row in rows] == [["100.00", "-", "100.00", "-", "0.00"]] * 2


def shown(found):
    console = Console(file=io.StringIO(), width=80)
    for table in found.tables():
        console.print(table)
    return console.file.getvalue()


def test_tables_show_rgb_and_luma_of_each_image_and_where_it_comes_from(clean, run_folder):
    found = call(clean, run_folder, task="deblock", limit=1)
    text = shown(found)
    for image in found.images:
        for scores in image.scores.values():
            for value in (
                f"{scores.psnr_db:.2f}",
                f"{scores.psnr_y_db:.2f}",
                f"{scores.ssim:.4f}",
                f"{scores.ssim_y:.4f}",
            ):
                assert value in text
    assert "degraded by jpeg" in text
    assert "seed 3" in " ".join(text.split())
    assert text.count("PSNR Y") == text.count("SSIM Y") == 2


def test_pictures_show_input_output_and_clean(tmp_path, clean, run_folder):
    call(clean, run_folder, task="deblock", limit=1, pictures=tmp_path / "pictures")
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["image0.png-q10.png", "image0.png-q50.png"]
    pixels = np.array(Image.open(tmp_path / "pictures" / names[0]))
    assert pixels.shape == (48, 3 * 48 + 8, 3)
    np.testing.assert_array_equal(pixels[:, -48:], np.array(Image.open(clean / "image0.png")))


def test_unknown_tasks_and_empty_folders(tmp_path, clean, run_folder):
    with pytest.raises(CheckpointError, match="deblock, denoise"):
        call(clean, run_folder, task="derain")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        call(tmp_path / "empty", run_folder)
    with pytest.raises(DataError):
        call(tmp_path / "absent", run_folder)
