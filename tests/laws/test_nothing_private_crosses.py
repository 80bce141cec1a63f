"""Law 6: no image, label, skip or path crosses; what may cross is named in payloads.py."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from PIL import Image
from safetensors.torch import load

from tavit_flwr import payloads
from tavit_flwr.client import pictures
from tavit_flwr.client import store as store_module
from tavit_flwr.config import from_json, to_json
from tavit_flwr.errors import CheckpointError, ConfigError, DataError, QuorumError
from tavit_flwr.wire import encoder
from tavit_flwr.wire.dtypes import SCALE
from tavit_flwr.wire.frames import encode
from tavit_flwr.wire.weights import arrays_to_tensors

SECRET = "hospital-of-the-secret-marker"
#: A colour whose value on [-1, 1], [0, 1] and 0-255 is searched for in everything that crosses.
PIXEL = 201


@pytest.fixture
def frames(monkeypatch):
    """Every frame that either end makes."""
    made = []

    def recording(payload, phase, limits, pack):
        frame = encode(payload, phase, limits, pack)
        made.append((type(payload).__name__, frame))
        return frame

    monkeypatch.setattr(encoder, "encode", recording)
    return made


@pytest.fixture
def private_node(tmp_path):
    folder = tmp_path / SECRET
    folder.mkdir()
    draws = np.random.default_rng(0)
    for index in range(4):
        pixels = np.full((40, 40, 3), PIXEL, np.uint8)
        pixels[:4] = draws.integers(0, 255, (4, 40, 3))
        Image.fromarray(pixels).save(folder / f"{SECRET}-{index}.png")
    state = tmp_path / f"state-{SECRET}"
    return {"task": "denoise", "data-dir": str(folder), "state-dir": str(state)}, folder


def said(messages):
    """All text and numbers of messages, as one string, and their arrays."""
    words, arrays = [], {}
    for message in messages:
        if message.has_error():
            words.append(message.error.reason)
            continue
        for key, record in message.content.items():
            words.append(key)
            if isinstance(record, ArrayRecord):
                tensors = arrays_to_tensors(record, [""])
                arrays |= {name: tensor.numpy() for name, tensor in tensors.items()}
                words += [*record, *tensors]
            else:
                words += [f"{name}={value!r}" for name, value in record.items()]
    return "\n".join(words), arrays


def in_the_clear(values):
    """Whether a plain patch of the private images is among the values: eight equal ones in a row."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    for pixel in (PIXEL, PIXEL / 255, PIXEL / 255 * 2 - 1):
        near = np.isclose(flat, pixel, atol=1e-6)
        if near.size >= 8 and np.convolve(near, np.ones(8), "valid").max(initial=0) >= 8:
            return True
    return False


def run_privately(fake_grid, tiny, run, tmp_path, node, make_phases):
    # The experiment's own source is bundled: only the node knows of its folder.
    config = tiny(
        "clients=[denoise]", make_phases("task-specific", "task-agnostic", "joint"), "data.source=bundled",
        "data.folder=null", "evaluation.pictures=true", "schedule.evaluate_first=true",
    )  # fmt: skip
    grid = fake_grid(node_configs=[node])
    run(config, tmp_path / "out", grid)
    return grid


def test_only_the_named_things_cross(fake_grid, tiny, run, tmp_path, frames, private_node, make_phases):
    node, _ = private_node
    grid = run_privately(fake_grid, tiny, run, tmp_path, node, make_phases)
    words, arrays = said([*grid.asked, *grid.answered])
    assert SECRET not in words
    assert SECRET.encode() not in b"".join(frame for _, frame in frames)
    assert "\n".join(sorted(node)) not in words

    enrolments = [reply for reply in grid.answered if reply.metadata.message_type.startswith("query")]
    trained = [reply for reply in grid.answered if reply.metadata.message_type.startswith("train")]
    evaluated = [reply for reply in grid.answered if reply.metadata.message_type.startswith("evaluate")]
    assert len(trained) == 3
    assert len(evaluated) == 4
    for reply in enrolments:
        assert list(reply.content) == ["config"]
        assert set(reply.content["config"]) == payloads.ENROLMENT_FIELDS
    for replies, allowed, records in (
        (trained, payloads.TRAIN_METRICS, {"metrics", "arrays"}),
        (evaluated, payloads.EVALUATE_METRICS, {"metrics"}),
    ):
        for reply in replies:
            assert set(reply.content) <= records
            assert isinstance(reply.content["metrics"], MetricRecord)
            assert set(reply.content["metrics"]) <= allowed
            assert all(isinstance(value, float) for value in reply.content["metrics"].values())
    assert all(name.startswith(payloads.PART_PREFIXES) for name in arrays)
    assert not any(in_the_clear(array) for array in arrays.values())


def test_frames_carry_only_the_tensors_of_the_cut(fake_grid, tiny, run, tmp_path, frames, private_node, make_phases):
    run_privately(fake_grid, tiny, run, tmp_path, private_node[0], make_phases)
    kinds = {kind.__name__: kind for kind in (*payloads.UP, *payloads.DOWN)}
    assert {kind for kind, _ in frames} == set(kinds)
    width = tiny().data.crop
    for kind, frame in frames:
        tensors = load(frame)
        fields = {field.name for field in dataclasses.fields(kinds[kind])} - {"step"}
        assert {name.removesuffix(SCALE) for name in tensors} == fields
        header = json.loads(frame[8 : 8 + int.from_bytes(frame[:8], "little")])
        assert set(header["__metadata__"]) == {"version", "kind", "phase", "step"}
        for tensor in tensors.values():
            assert tensor.shape[1] != 3, "an image?"
            assert tensor.shape[-1] < width, "an image or the finest skip?"
            assert not in_the_clear(tensor.float().numpy())


def test_the_list_of_what_may_cross_is_the_papers():
    """To send anything else, change this test, payloads.py and the documentation."""
    fields = {kind.__name__: {field.name for field in dataclasses.fields(kind)} - {"step"} for kind in payloads.UP}
    assert fields == {
        "Smashed": {"smashed"},
        "GradFeatures": {"grad_features"},
        "GradFeaturesAndSmashed": {"grad_features", "smashed"},
        "Close": set(),
    }
    everything = payloads.TRAIN_METRICS | payloads.EVALUATE_METRICS | payloads.ENROLMENT_FIELDS
    assert not {name for name in everything if "path" in name or "file" in name or "folder" in name}


def broken_file(folder):
    (folder / f"{SECRET}-broken.png").write_bytes(b"not an image")


def cut_file(folder):
    """Its header is whole, so that only decoding it fails."""
    whole = (folder / f"{SECRET}-0.png").read_bytes()
    for path in folder.iterdir():
        path.write_bytes(whole[: len(whole) // 2])


def small_file(folder):
    Image.new("RGB", (8, 8)).save(folder / f"{SECRET}-small.png")


def no_files(folder):
    for path in folder.iterdir():
        path.unlink()


def no_folder(folder):
    no_files(folder)
    folder.rmdir()


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (broken_file, "DataError"),
        (cut_file, "DataError"),
        (small_file, "DataError"),
        (no_files, "DataError"),
        (no_folder, "ConfigError"),
    ],
)
def test_errors_about_images_name_no_file(
    fake_grid, tiny, run, tmp_path, frames, private_node, make_phases, spoil, kind, caplog
):
    node, folder = private_node
    spoil(folder)
    grid = fake_grid(node_configs=[node])
    config = tiny("clients=[denoise]", make_phases("task-specific"), "data.source=bundled", "data.folder=null")
    with pytest.raises(Exception, match=kind):
        run(config, tmp_path / "out", grid)
    words, _ = said(grid.answered)
    assert kind in words
    assert SECRET not in words
    assert str(tmp_path) not in words


def test_a_state_folder_that_cannot_be_written_is_not_named(fake_grid, tiny, run, tmp_path, make_phases):
    (tmp_path / SECRET).write_text("a file where a folder should be")
    node = {"task": "denoise", "state-dir": str(tmp_path / SECRET / "state")}
    grid = fake_grid(node_configs=[node])
    config = tiny("clients=[denoise]", make_phases("task-specific"), "data.source=bundled", "data.folder=null")
    with pytest.raises(Exception, match="state"):
        run(config, tmp_path / "out", grid)
    words, _ = said(grid.answered)
    assert SECRET not in words
    assert str(tmp_path) not in words


def test_a_full_disk_names_no_folder(fake_grid, tiny, run, tmp_path, private_node, make_phases, monkeypatch):
    """Moments and pictures are written on the node's own disk, below a folder that is its own business."""

    def full(path, *_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(store_module, "write_tensors", full)
    monkeypatch.setattr(pictures.Image.Image, "save", lambda _, path, *__: full(path))
    node, _ = private_node
    grid = fake_grid(node_configs=[node])
    config = tiny(
        "clients=[denoise]", make_phases("task-agnostic", "task-specific"), "data.source=bundled", "data.folder=null",
        "evaluation.pictures=true",
    )  # fmt: skip
    with pytest.raises(Exception, match="client"):
        run(config, tmp_path / "out", grid)
    words, _ = said(grid.answered)
    assert SECRET not in words
    assert "CheckpointError" in words


def test_pictures_that_cannot_be_written_name_no_folder(
    fake_grid, tiny, run, tmp_path, private_node, make_phases, monkeypatch
):
    def full(_, path, *args, **kwargs):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pictures.Image.Image, "save", full)
    node, _ = private_node
    grid = fake_grid(node_configs=[node])
    config = tiny(
        "clients=[denoise]", make_phases("task-specific"), "data.source=bundled", "data.folder=null",
        "evaluation.pictures=true",
    )  # fmt: skip
    with contextlib.suppress(QuorumError):  # whether the scores are kept without the picture is another matter
        run(config, tmp_path / "out", grid)
    words, _ = said(grid.answered)
    assert SECRET not in words


def test_a_clients_environment_is_not_read_for_the_server(tiny, monkeypatch):
    """The server writes the configuration; it must not make a client resolve `${oc.env:...}` and tell."""
    monkeypatch.setenv("TAVIT_TEST_PASSWORD", SECRET)
    sent = json.loads(to_json(tiny()))
    for group, key in (("data", "source"), ("federation", "average"), ("data", "folder")):
        config = json.loads(json.dumps(sent))
        config[group][key] = "${oc.env:TAVIT_TEST_PASSWORD}"
        for sent_text in (json.dumps(config), json.dumps(config).replace("$", "\\u0024")):
            try:
                text = repr(from_json(sent_text))
            except Exception as error:
                text = repr(error)
            assert SECRET not in text


def test_errors_of_this_nodes_files_keep_what_they_found():
    for kind in (DataError, CheckpointError):
        error = kind("images", f"{SECRET}.png", f"/home/{SECRET}", "look there")
        assert SECRET not in error.told()
        assert "look there" in error.told()
        assert SECRET in str(error)
    assert "key 'x'" in ConfigError("a", "b", "key 'x'").told()


def test_orders_name_no_key(fake_grid, tiny, run, tmp_path, frames, private_node, make_phases):
    """The service's private key stays where it was made."""
    grid = run_privately(fake_grid, tiny, run, tmp_path, private_node[0], make_phases)
    orders = [m.content["config"] for m in grid.asked if "certificate_pem" in m.content["config"]]
    assert orders
    for order in orders:
        assert isinstance(order, ConfigRecord)
        assert b"PRIVATE KEY" not in order["certificate_pem"]
        assert b"BEGIN CERTIFICATE" in order["certificate_pem"]
    tokens = [order["token"] for order in orders]
    assert len(set(tokens)) == len(tokens)
