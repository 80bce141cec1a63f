"""Weights on disk: which folder counts, and what is wrong with those that do not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tavit_flwr.errors import CheckpointError
from tavit_flwr.models import build_parts
from tavit_flwr.models.stored import describe, load_parts


def write_round(folder, seed=0, **changes):
    """One checkpoint of preset `tiny` with the tasks denoise and derain."""
    folder.mkdir(parents=True)
    parts = build_parts("tiny", seed=seed)
    owners = {"head": ("denoise", "derain"), "body": ("natural",), "tail": ("denoise", "derain")}
    flat = {
        f"{part}/{owner}/{name}": tensor.detach().clone()
        for part, names in owners.items()
        for owner in names
        for name, tensor in getattr(parts, part).state_dict().items()
    }
    save_file(flat, folder / "weights.safetensors")
    config = {
        "model": {"preset": "tiny", "overrides": {}, "time_step": 2}, "data": {"crop": 16},
        "tasks": {task: {"body": "natural"} for task in ("denoise", "derain", "deblur")},
    } | changes  # fmt: skip
    (folder / "state.json").write_text(json.dumps({"config": config}))
    return folder


def change(folder, make):
    flat = load_file(folder / "weights.safetensors")
    make(flat)
    save_file(flat, folder / "weights.safetensors")


def test_the_newest_whole_checkpoint_of_a_run_counts(tmp_path):
    for index in (1, 2, 10):
        write_round(tmp_path / "checkpoints" / f"round-{index:06d}", seed=index)
    (tmp_path / "checkpoints" / "round-000011").mkdir()
    (tmp_path / "checkpoints" / ".round-000012.1.tmp").mkdir()
    newest = tmp_path / "checkpoints" / "round-000010"
    for path in (tmp_path, tmp_path / "checkpoints", newest):
        stored = describe(path)
        assert stored.folder == newest
        assert (stored.time_step, stored.window, stored.preset.name) == (2, 16, "tiny")
        assert stored.bodies == {"denoise": "natural", "derain": "natural"}  # no head of deblur is stored
    assert describe(tmp_path / "checkpoints" / "round-000001").folder.name == "round-000001"
    parts = load_parts(tmp_path, "derain")
    wanted = build_parts("tiny", seed=10)
    for part in ("head", "body", "tail"):
        module = getattr(parts, part)
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        for name, tensor in getattr(wanted, part).state_dict().items():
            assert torch.equal(module.state_dict()[name], tensor)


def test_a_wrong_task_names_those_there_are(tmp_path):
    write_round(tmp_path / "round-000001")
    for task in ("deblur", "denoiser"):
        with pytest.raises(CheckpointError, match="denoise, derain"):
            load_parts(tmp_path, task)


@pytest.mark.parametrize("part", ["body", "tail"])
def test_a_missing_part_is_named_with_the_tasks_there_are(tmp_path, part):
    folder = write_round(tmp_path / "round-000001")

    def without(flat):
        for name in [name for name in flat if name.startswith(f"{part}/")]:
            del flat[name]

    change(folder, without)
    with pytest.raises(CheckpointError, match=f"a {part} of .*tasks: denoise, derain"):
        load_parts(folder, "denoise")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda flat: flat.pop("body/natural/pos_embedding"), "pos_embedding"),
        (lambda flat: flat.update({"body/natural/pos_embedding": torch.zeros(3)}), "pos_embedding"),
        (lambda flat: flat["body/natural/pos_embedding"].fill_(float("inf")), "NaN or infinity"),
    ],
    ids=["missing", "shape", "infinite"],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, make, said):
    folder = write_round(tmp_path / "round-000001")
    change(folder, make)
    with pytest.raises(CheckpointError, match=said):
        load_parts(folder, "denoise")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("weights.safetensors", "no safetensors"),
        ("state.json", "{"),
        ("state.json", "[]"),
        ("state.json", "{}"),
        ("state.json", '{"config": {"model": {"preset": "huge", "overrides": {}}}}'),
    ],
)
def test_damaged_files_are_errors(tmp_path, file, text):
    folder = write_round(tmp_path / "round-000001")
    (folder / file).write_text(text)
    with pytest.raises(CheckpointError, match="readable checkpoint"):
        load_parts(folder, "denoise")


def test_folders_without_weights(tmp_path):
    (tmp_path / "file").write_text("")
    for path, said in ((tmp_path / "absent", "nothing"), (tmp_path / "file", "a file"), (tmp_path, "no whole one")):
        with pytest.raises(CheckpointError, match=said):
            describe(path)
