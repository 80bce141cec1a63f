"""Published checkpoints in and out."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tavit_flwr.errors import CheckpointError, ConfigError, ModelError
from tavit_flwr.inference.official_files import export_checkpoint, import_checkpoint, read_state_dict
from tavit_flwr.models import build_parts, load_official
from tavit_flwr.models.stored import describe, load_parts

PARTS = ("head", "body", "tail")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Files as one downloads them: state dicts of the paper's architecture."""
    folder = tmp_path_factory.mktemp("published")
    parts = build_parts("paper", seed=5)
    for part in PARTS:
        torch.save(getattr(parts, part).state_dict(), folder / f"{part}.pth")
    return folder


def bring(published, output, **options):
    head, tail = options.pop("head", published / "head.pth"), options.pop("tail", published / "tail.pth")
    body = options.pop("body", published / "body.pth")
    import_checkpoint({"denoise": head}, {"denoise": tail}, body, output, **options)


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    output = tmp_path_factory.mktemp("imported") / "weights"
    bring(published, output, time_step=7)
    return output


def changed(published, part, tmp_path, change):
    state = torch.load(published / f"{part}.pth", weights_only=True)
    result = change(state) or state
    tmp_path.mkdir(exist_ok=True)
    torch.save(result, tmp_path / f"{part}.pt")
    return tmp_path / f"{part}.pt"


def test_every_tensor_comes_in_under_its_name(published, imported):
    assert sorted(path.name for path in imported.iterdir()) == ["weights.json", "weights.safetensors"]
    assert json.loads((imported / "weights.json").read_text()) == {
        "preset": "paper", "overrides": {}, "time_step": 7, "tasks": {"denoise": "natural"},
    }  # fmt: skip
    parts = load_parts(imported, "denoise")
    assert parts.head.time_step == 7
    for part in PARTS:
        state = torch.load(published / f"{part}.pth", weights_only=True)
        own = getattr(parts, part).state_dict()
        assert list(own) == list(state)
        assert all(torch.equal(own[name], state[name]) for name in state)
    assert describe(imported).window == 64


def test_what_comes_in_goes_out_bit_for_bit(published, imported, tmp_path):
    assert export_checkpoint(imported, tmp_path / "out", task="denoise")
    parts = build_parts("paper")
    load_official(parts, {part: torch.load(tmp_path / "out" / f"{part}.pt", weights_only=True) for part in PARTS})
    for part in PARTS:
        before = torch.load(published / f"{part}.pth", weights_only=True)
        after = torch.load(tmp_path / "out" / f"{part}.pt", weights_only=True)
        assert list(after) == list(before)
        assert type(after) is dict
        for name, tensor in before.items():
            assert after[name].dtype == tensor.dtype
            assert torch.equal(after[name], tensor)
            assert torch.equal(getattr(parts, part).state_dict()[name], tensor)


def test_several_tasks_share_the_body(published, tmp_path):
    files = {"denoise": published / "head.pth", "derain": published / "head.pth"}
    tails = dict.fromkeys(files, published / "tail.pth")
    import_checkpoint(files, tails, published / "body.pth", tmp_path / "two", body_name="ct")
    stored = describe(tmp_path / "two")
    assert stored.bodies == {"denoise": "ct", "derain": "ct"}
    assert stored.owners("head") == stored.owners("tail") == ["denoise", "derain"]
    assert stored.owners("body") == ["ct"]
    with pytest.raises(CheckpointError, match="denoise, derain"):
        load_parts(tmp_path / "two", "deblur")


def test_all_faults_are_listed_in_one_error_and_nothing_is_written(published, tmp_path):
    def break_head(state):
        state["wrong.name"] = state.pop("mlp.0.weight")
        state["mlp.0.bias"] = torch.zeros(3)
        state["mlp.2.bias"] = state["mlp.2.bias"].double()
        state["mid_attn.fn.g"][0] = float("nan")

    def break_tail(state):
        del state["final_conv.1.bias"]

    head, tail = changed(published, "head", tmp_path, break_head), changed(published, "tail", tmp_path, break_tail)
    with pytest.raises(ModelError) as told:
        bring(published, tmp_path / "out", head=head, tail=tail)
    for fault in (
        "missing head/denoise/mlp.0.weight", "unexpected head/denoise/wrong.name",
        "wrong shape head/denoise/mlp.0.bias [3] instead of [512]", "wrong type head/denoise/mlp.2.bias torch.float64",
        "not finite head/denoise/mid_attn.fn.g", "missing tail/denoise/final_conv.1.bias",
    ):  # fmt: skip
        assert fault in str(told.value)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_faults_of_every_task_are_listed(published, tmp_path):
    broken = {
        task: changed(published, "tail", tmp_path / task, lambda state, name=name: state.pop(name) is None)
        for task, name in (("denoise", "final_conv.1.bias"), ("derain", "final_conv.1.weight"))
    }
    with pytest.raises(ModelError) as told:
        import_checkpoint(
            dict.fromkeys(broken, published / "head.pth"), broken, published / "body.pth", tmp_path / "out"
        )
    assert told.value.received == "missing tail/denoise/final_conv.1.bias; missing tail/derain/final_conv.1.weight"


def test_a_state_dict_is_taken_out_of_its_envelope(published, tmp_path):
    wanted = torch.load(published / "tail.pth", weights_only=True)
    torch.save({"state_dict": wanted, "epoch": 3}, tmp_path / "tail.pt")
    assert list(read_state_dict(tmp_path / "tail.pt")) == list(wanted)
    torch.save({"params": wanted, "optimizer": {}}, tmp_path / "tail.pt")
    with pytest.raises(CheckpointError, match=r"no tensor under params, optimizer.*inside alone"):
        read_state_dict(tmp_path / "tail.pt")


def test_half_precision_and_the_wrapper_of_parallel_training_come_in(published, tmp_path):
    half = changed(published, "head", tmp_path, lambda state: {f"module.{k}": v.half() for k, v in state.items()})
    bring(published, tmp_path / "out", head=half)
    wanted = torch.load(published / "head.pth", weights_only=True)
    got = load_parts(tmp_path / "out", "denoise").head.state_dict()
    assert all(torch.equal(got[name], wanted[name].half().float()) for name in wanted)


class Harmful:
    """What a hostile file holds: unpickled, it would leave a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("kind", ["code", "module", "text", "absent", "folder", "list", "empty"])
def test_what_is_no_state_dict_is_refused_and_runs_nothing(tmp_path, kind):
    path = tmp_path / "part.pt"
    if kind == "code":
        torch.save({"weight": Harmful(tmp_path / "trace")}, path)
    elif kind == "module":
        torch.save(nn.Linear(2, 2), path)
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "folder":
        path.mkdir()
    elif kind in ("list", "empty"):
        torch.save([torch.zeros(2)] if kind == "list" else {}, path)
    with pytest.raises(CheckpointError, match="state dict"):
        read_state_dict(path)
    assert not (tmp_path / "trace").exists()


def test_names_and_outputs_are_checked_before_files_are_read(tmp_path):
    files = {"denoise": tmp_path / "absent.pt"}
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckpointError, match="does not exist yet"):
        import_checkpoint(files, files, tmp_path / "absent.pt", tmp_path / "there")
    for heads, tails in (({}, {}), (files, {}), (files, {"derain": tmp_path})):
        with pytest.raises(ConfigError, match="a head and a tail"):
            import_checkpoint(heads, tails, tmp_path, tmp_path / "out")
    for name in ("a/b", "../up", "Upper", ""):
        with pytest.raises(ConfigError, match="names"):
            import_checkpoint({name: tmp_path}, {name: tmp_path}, tmp_path, tmp_path / "out")


def test_other_architectures_go_out_but_are_not_the_published_one(run_folder, tmp_path):
    assert not export_checkpoint(run_folder, tmp_path / "out", task="deblock")
    own = load_file(run_folder / "checkpoints" / "round-000002" / "weights.safetensors")
    state = torch.load(tmp_path / "out" / "head.pt", weights_only=True)
    assert all(torch.equal(state[name], own[f"head/deblock/{name}"]) for name in state)
    with pytest.raises(CheckpointError, match="does not exist yet"):
        export_checkpoint(run_folder, tmp_path / "out", task="deblock")
