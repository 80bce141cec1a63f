"""Restoring files: whose outputs, which failures, never an input."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tavit_flwr.errors import CheckpointError, ConfigError, DataError
from tavit_flwr.inference.decode import read_picture
from tavit_flwr.inference.encode import write_picture
from tavit_flwr.inference.inputs import plan
from tavit_flwr.inference.picture import Picture
from tavit_flwr.inference.restore import restore
from tavit_flwr.inference.restorer import Restorer, Settings, automatic_batch_size, load_restorer
from tavit_flwr.inference.transfer import downloaded
from tavit_flwr.models import build_parts
from tavit_flwr.models.stored import load_parts
from tavit_flwr.restoration import restore_tiled, window_count
from tavit_flwr.split.unsplit import unsplit_forward


def write(path, height=40, width=33, channels=3, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, channels) if channels > 1 else (height, width)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)).save(path)
    return path


def call(inputs, output, run_folder, **options):
    text = io.StringIO()
    settings = options.pop("settings", Settings(stride=32))
    failures = restore(
        [str(one) for one in inputs], output, weights=run_folder, task=options.pop("task", "denoise"),
        settings=settings, console=Console(file=text, width=40), **options,
    )  # fmt: skip
    return failures, text.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (70, 33)])
def test_files_are_restored_as_the_parts_and_the_tiling_say(tmp_path, run_folder, size):
    source = write(tmp_path / "in" / "a.png", *size)
    failures, text = call([source], tmp_path / "out", run_folder, settings=Settings(stride=8, batch_size=5))
    assert failures == 0
    assert "restored 1 of 1" in text
    parts = load_parts(run_folder, "denoise")
    image = torch.from_numpy(np.array(Image.open(source))).permute(2, 0, 1) / 255 * 2 - 1
    wanted = restore_tiled(image, lambda w: unsplit_forward(parts.head, parts.body, parts.tail, w), 32, 8, 5)
    got = np.array(Image.open(tmp_path / "out" / "a.png"))
    np.testing.assert_array_equal(got, ((wanted + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8))
    assert not np.array_equal(got, np.array(Image.open(source)))


def test_strips_of_a_picture_equal_the_whole_image(run_folder):
    colour = np.random.default_rng(0).integers(0, 65536, (100, 37, 3)).astype(np.uint16)
    picture = Picture(colour)
    seen = []
    for batch_size in (1, 4, 64):
        restorer = load_restorer(run_folder, "denoise", Settings(stride=16, batch_size=batch_size))
        strips = restorer.picture(picture, seen.append)
        whole = restorer(picture.model_rows(torch.arange(100)))
        expected = picture.blank()
        expected.set_rows(0, whole)
        np.testing.assert_array_equal(strips.colour_HWC, expected.colour_HWC)
    assert sum(seen) == 3 * window_count(100, 37, 32, 16) == 3 * restorer.windows(100, 37)


def test_strips_come_to_the_cpu_in_order_each_once_its_successor_is_under_way():
    def strips():
        for number in range(3):
            begun.append(number)
            yield torch.tensor(number)

    begun = []
    assert [(int(strip), max(begun)) for strip in downloaded(strips())] == [(0, 1), (1, 2), (2, 2)]
    assert list(downloaded([])) == []


def test_tasks_have_parts_of_their_own(tmp_path, run_folder):
    source = write(tmp_path / "in" / "a.png")
    call([source], tmp_path / "denoise", run_folder)
    call([source], tmp_path / "deblock", run_folder, task="deblock")
    assert (tmp_path / "denoise" / "a.png").read_bytes() != (tmp_path / "deblock" / "a.png").read_bytes()


def test_alpha_bits_and_kind_are_kept(tmp_path, run_folder):
    alpha = write(tmp_path / "in" / "alpha.png", channels=4)
    write(tmp_path / "in" / "grey.jpg", channels=1)
    import tifffile

    deep = np.random.default_rng(0).integers(0, 65536, (20, 20, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in" / "deep.tiff", deep, photometric="rgb")
    failures, _ = call([tmp_path / "in"], tmp_path / "out", run_folder)
    assert failures == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["alpha.png", "deep.tiff", "grey.png"]
    np.testing.assert_array_equal(
        np.array(Image.open(tmp_path / "out" / "alpha.png"))[:, :, 3], np.array(Image.open(alpha))[:, :, 3]
    )
    read = read_picture(tmp_path / "out" / "deep.tiff")
    assert read.colour_HWC.dtype == np.uint16
    assert len(np.unique(read.colour_HWC % 257)) > 100  # truly 16 bits
    assert read_picture(tmp_path / "out" / "grey.png").colour_HWC.shape[2] == 1


def test_one_line_for_each_failure_and_the_others_go_on(tmp_path, run_folder):
    write(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    write(tmp_path / "in" / "c.png")
    failures, text = call([tmp_path / "in"], tmp_path / "out", run_folder)
    assert failures == 1
    assert [line for line in text.splitlines() if "failed" in line and "b.png" in line and "decoded" in line]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    assert "restored 2 of 3" in text


def test_a_file_that_breaks_its_decoder_does_not_end_the_others(tmp_path, run_folder, write_broken_exif):
    write(tmp_path / "in" / "a.png")
    write_broken_exif(tmp_path / "in" / "b.jpg", "resolution unit")
    write_broken_exif(tmp_path / "in" / "c.jpg", "artist")
    write(tmp_path / "in" / "d.png")
    failures, text = call([tmp_path / "in"], tmp_path / "out", run_folder)
    assert failures == 2
    assert [line.split("/")[-1][:5] for line in text.splitlines() if line.startswith("failed:")] == ["b.jpg", "c.jpg"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "d.png"]


def test_an_image_whose_result_is_not_finite_fails_alone(tmp_path, run_folder, monkeypatch):
    for name, grey in (("a", 10), ("b", 250), ("c", 10)):
        Image.new("RGB", (40, 40), (grey,) * 3).save(tmp_path / f"{name}.png")
    monkeypatch.setattr(
        "tavit_flwr.inference.restorer.unsplit_forward",
        lambda head, body, tail, windows: windows.masked_fill(windows > 0.9, float("nan")),
    )
    failures, text = call([tmp_path / "*.png"], tmp_path / "out", run_folder)
    assert failures == 1
    assert [line for line in text.splitlines() if "b.png" in line and "NaN or infinity" in line]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_a_lack_of_memory_halves_the_batch_and_is_said_once(tmp_path, run_folder, monkeypatch):
    source = write(tmp_path / "in" / "a.png", 100, 90)
    call([source], tmp_path / "whole", run_folder, settings=Settings(stride=32, batch_size=3))
    sizes = []

    def forward(head, body, tail, windows):
        if len(windows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        sizes.append(len(windows))
        return unsplit_forward(head, body, tail, windows)

    monkeypatch.setattr("tavit_flwr.inference.restorer.unsplit_forward", forward)
    failures, text = call([source], tmp_path / "halved", run_folder, settings=Settings(stride=32, batch_size=14))
    assert failures == 0
    assert max(sizes) == 3
    assert sum(sizes) == window_count(100, 90, 32, 32)
    assert [line for line in text.splitlines() if "not enough" in line] == [
        "not enough memory for 14 windows a call: going on with fewer"
    ]
    halved, whole = (np.array(Image.open(tmp_path / name / "a.png")).astype(int) for name in ("halved", "whole"))
    assert np.abs(halved - whole).max() <= 1


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), ValueError()]
)
def test_a_single_window_without_memory_and_other_errors_are_not_tried_again(run_folder, monkeypatch, error):
    def forward(*_):
        calls.append(1)
        raise error

    calls = []
    monkeypatch.setattr("tavit_flwr.inference.restorer.unsplit_forward", forward)
    with pytest.raises(type(error)):
        load_restorer(run_folder, "denoise", Settings(stride=32, batch_size=2))(torch.zeros(3, 40, 40))
    assert len(calls) == (1 if isinstance(error, ValueError) else 2)


def test_the_bar_shows_images_and_windows_on_a_terminal(tmp_path, run_folder):
    for name in ("a", "b"):
        write(tmp_path / "in" / f"{name}.png")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    restore(
        [str(tmp_path / "in")], tmp_path / "out", weights=run_folder, task="denoise",
        settings=Settings(stride=16, batch_size=2), console=console,
    )  # fmt: skip
    shown = screen.getvalue()
    windows = window_count(40, 33, 32, 16)
    assert "images" in shown
    assert "1/2" in shown
    assert re.search(rf"windows .* \d+/{windows}", shown)
    assert shown.rstrip().endswith(f"restored 2 of 2 images into {tmp_path / 'out'}")
    assert "windows" not in call([tmp_path / "in"], tmp_path / "again", run_folder)[1], "a file would be full of bars"


def test_an_input_is_never_overwritten(tmp_path, run_folder):
    source = write(tmp_path / "a.png")
    before = source.read_bytes()
    link = tmp_path / "linked"
    link.symlink_to(tmp_path)
    for output in (tmp_path, link):
        failures, text = call([source], output, run_folder, overwrite=True)
        assert failures == 1
        assert "replace an input" in text
    hard = tmp_path / "out" / "a.png"
    hard.parent.mkdir()
    os.link(source, hard)
    failures, _ = call([source], tmp_path / "out", run_folder, overwrite=True)
    assert failures == 1
    assert source.read_bytes() == before


def test_results_are_replaced_only_when_told(tmp_path, run_folder):
    source = write(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("precious")
    failures, text = call([source], tmp_path / "out", run_folder)
    assert failures == 1
    assert "--overwrite" in text
    assert (tmp_path / "out" / "a.png").read_text() == "precious"
    failures, _ = call([source], tmp_path / "out", run_folder, overwrite=True)
    assert failures == 0
    assert read_picture(tmp_path / "out" / "a.png").size == (40, 33)


def test_files_folders_and_patterns(tmp_path):
    for name in ("a.png", "sub/b.jpg", "sub/deep/c.tif", ".hidden.png", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")

    def targets(*inputs):
        jobs = plan([str(tmp_path / one) for one in inputs], tmp_path / "out", overwrite=False)
        assert not any(job.refused for job in jobs)
        return [str(job.target.relative_to(tmp_path / "out")) for job in jobs]

    assert targets("in") == ["a.png", "sub/b.png", "sub/deep/c.tif"]
    assert targets("in/sub/*.jpg") == ["b.png"]
    assert targets("in/**/*.tif") == ["sub/deep/c.tif"]
    assert targets("in/a.png", "in") == ["a.png", "sub/b.png", "sub/deep/c.tif"]
    for nothing in ("in/*.bmp", "absent", "in/sub/deep/*.png"):
        with pytest.raises(DataError):
            targets(nothing)


def test_two_inputs_of_one_target_are_not_mixed(tmp_path):
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(b"")
    jobs = plan([str(tmp_path)], tmp_path / "out", overwrite=True)
    assert [bool(job.refused) for job in jobs] == [False, True]
    assert "a.jpg" in jobs[1].refused


def test_results_inside_the_input_folder_are_not_restored_again(tmp_path, run_folder):
    write(tmp_path / "a.png")
    assert call([tmp_path], tmp_path / "restored", run_folder)[0] == 0
    failures, text = call([tmp_path], tmp_path / "restored", run_folder, overwrite=True)
    assert failures == 0
    assert "of 1 images" in text


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"task": "derain"}, CheckpointError, "deblock, denoise"),
        ({"settings": Settings(stride=33)}, ConfigError, "stride"),
        ({"settings": Settings(batch_size=-1)}, ConfigError, "batch-size"),
        ({"settings": Settings(device="cuda:7")}, ConfigError, "CUDA"),
        ({"settings": Settings(device="gpu")}, ConfigError, "cuda"),
    ],
)
def test_what_cannot_begin_says_why_and_writes_nothing(tmp_path, run_folder, change, error, said):
    source = write(tmp_path / "in" / "a.png")
    with pytest.raises(error, match=said):
        call([source], tmp_path / "out", run_folder, **change)
    assert not (tmp_path / "out").exists()


def test_bf16_is_near_and_not_equal(run_folder):
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact, near = (load_restorer(run_folder, "denoise", Settings(32, bf16=bf16))(image) for bf16 in (False, True))
    assert not torch.equal(exact, near)
    torch.testing.assert_close(exact, near, atol=0.05, rtol=0)
    assert near.dtype == torch.float32


def test_the_batch_fits_the_memory_that_is_free(monkeypatch):
    parts = build_parts("tiny")
    assert automatic_batch_size(parts, 32) == 32
    window = 24 * 8 * 32 * 32 * 4
    for free, on_cpu, on_gpu in ((0, 1, 1), (window * 4 * 5, 5, 5), (2**40, 32, 256)):
        monkeypatch.setattr("tavit_flwr.inference.restorer.free_bytes", lambda device, free=free: free)
        assert automatic_batch_size(parts, 32) == on_cpu
        assert automatic_batch_size(parts, 32, torch.device("cuda", 0)) == on_gpu
    assert Restorer(parts, 32, Settings(batch_size=9)).batch_size == 9


_PEAK = """
import json, multiprocessing, resource, sys, torch
from pathlib import Path
from tavit_flwr.inference.restore import restore_file
from tavit_flwr.inference.restorer import Settings, load_restorer
torch.set_num_threads(1)
restorer = load_restorer(Path(sys.argv[1]), "denoise", Settings(stride=32, batch_size=16, device="cpu"))
restorer._forward = lambda windows: windows  # the model's own memory is that of a batch
def peak_mib(name):  # of a process of its own, which begins with what this one has loaded
    source = Path(name)
    restore_file(source, source.with_suffix(".out" + source.suffix), restorer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    print(json.dumps(pool.map(peak_mib, sys.argv[2:], chunksize=1)))
"""


def test_memory_does_not_grow_with_the_image_but_for_its_own_pixels(tmp_path, run_folder):
    """Beside a picture's bytes, read and written, what decoding needs; a float image alone would take twelve a pixel.

    The bounds are those of docs/restoring.md, and a block of Pillow's memory.
    """
    small_height, height, width = 500, 6000, 1000  # the smaller one fills the strips and the batch
    names = []
    for suffix in (".png", ".tif"):
        for rows in (small_height, height):
            colour = np.full((rows, width, 3), 200, np.uint8 if suffix == ".png" else np.uint16)
            names.append(tmp_path / f"{rows}{suffix}")
            write_picture(names[-1], Picture(colour, colour[:, :, 0] if suffix == ".tif" else None))
    command = [sys.executable, "-c", _PEAK, str(run_folder), *map(str, names)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True, env=environment)
    small, large, small_deep, large_deep = json.loads(done.stdout)
    mpixels = (height - small_height) * width / 2**20
    assert large - small < 8 * mpixels + 16
    assert large_deep - small_deep < 26 * mpixels + 16
