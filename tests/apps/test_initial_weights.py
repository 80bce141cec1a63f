"""Runs that start from weights of before and go on training."""

import logging
import shutil

import pytest
import torch

from tavit_flwr.errors import CheckpointError, ConfigError, ProtocolError
from tavit_flwr.files import write_tensors
from tavit_flwr.inference.official_files import export_checkpoint, import_checkpoint
from tavit_flwr.models import build_parts
from tavit_flwr.payloads import PART_PREFIXES
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.check import check_experiment
from tavit_flwr.server.checkpoint import latest
from tavit_flwr.server.initial import initial_weights
from tavit_flwr.wire.weights import arrays_to_tensors

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def first(fake_grid, tiny, tmp_path, run, make_phases):
    """A finished run of denoise and deblock."""
    run(tiny(make_phases("joint", steps=3)), tmp_path / "first", fake_grid(2))
    return tmp_path / "first"


def same(one, other, prefix):
    names = [name for name in one if name.startswith(prefix)]
    assert names
    return all(torch.equal(one[name], other[name]) for name in names)


def test_a_run_starts_from_another_runs_weights_and_goes_on_training(
    fake_grid, tiny, tmp_path, run, make_phases, first, caplog
):
    caplog.set_level(logging.INFO, "flwr")
    config = tiny(make_phases("task-specific", steps=2), f"initial_weights={first}", "seed=7")
    before = latest(first / "checkpoints").weights
    start = initial_weights(config).flat()
    assert set(start) == set(before)
    assert same(start, before, "")
    assert not same(initial_weights(tiny("seed=7")).flat(), before, "head/denoise/")
    grid = fake_grid(2)
    after = run(config, tmp_path / "second", grid).weights
    sent = [message for message in grid.asked if message.metadata.message_type.startswith("train")]
    assert sent
    given = {name: tensor for name, tensor in before.items() if not name.startswith("body/")}
    for message in sent:  # what the clients were given to begin with
        for name, values in arrays_to_tensors(message.content["arrays"], PART_PREFIXES).items():
            part, _, tensor = name.partition("/")
            assert any(torch.equal(given[f"{part}/{task}/{tensor}"], values) for task in ("denoise", "deblock"))
    assert same(after, before, "body/")
    for task in ("denoise", "deblock"):
        assert not same(after, before, f"head/{task}/")
        assert not same(after, before, f"tail/{task}/")
    assert "head of 'denoise' from" in caplog.text


def test_resuming_needs_the_given_weights_no_more(fake_grid, tiny, tmp_path, run, make_phases, first):
    config = tiny(make_phases("task-specific", rounds=2), f"initial_weights={first}")
    whole = run(config, tmp_path / "whole", fake_grid(2)).weights
    run(config, tmp_path / "halves", fake_grid(2), rounds=1)
    shutil.rmtree(first)
    resumed = run(config, tmp_path / "halves", fake_grid(2), resume=True).weights
    assert same(whole, resumed, "")


def test_what_is_not_given_must_be_named(tiny, first):
    with pytest.raises(CheckpointError, match=r"no head of 'derain', no tail of 'derain'.*deblock, denoise.*natural"):
        initial_weights(tiny("clients=[denoise,derain]", f"initial_weights={first}"))
    config = tiny("clients=[denoise,derain]", f"initial_weights={first}", "initial_fresh=[derain]")
    weights, drawn = initial_weights(config), initial_weights(tiny("clients=[denoise,derain]"))
    given = Weights.from_flat(latest(first / "checkpoints").weights)
    assert same(weights.heads["denoise"], given.heads["denoise"], "")
    assert same(weights.bodies["natural"], given.bodies["natural"], "")
    assert same(weights.heads["derain"], drawn.heads["derain"], "")
    fresh = initial_weights(tiny(f"initial_weights={first}", "initial_fresh=[natural]"))
    assert same(fresh.bodies["natural"], drawn.bodies["natural"], "")
    with pytest.raises(CheckpointError, match="no body of 'other'"):
        initial_weights(tiny(f"initial_weights={first}", "bodies=[other]", "tasks.denoise.body=other",
                             "tasks.deblock.body=other"))  # fmt: skip


def test_weights_of_another_architecture_or_time_step_are_refused(tiny, first):
    with pytest.raises(ConfigError, match=r"body_layers=2.*body_layers=3"):
        initial_weights(tiny(f"initial_weights={first}", "+model.overrides.body_layers=3"))
    with pytest.raises(ConfigError, match="time_step"):
        initial_weights(tiny(f"initial_weights={first}", "model.time_step=4"))


def test_damaged_and_missing_weights_are_refused_before_the_run(tiny, tmp_path, first):
    with pytest.raises(CheckpointError, match="nothing"):
        check_experiment(tiny(f"initial_weights={tmp_path / 'absent'}"), simulated=True)
    check_experiment(tiny(f"initial_weights={tmp_path / 'absent'}"), simulated=False)
    folder = max((first / "checkpoints").iterdir())
    weights = latest(first / "checkpoints").weights
    weights["body/natural/pos_embedding"][0] = float("nan")
    write_tensors(folder / "weights.safetensors", weights)
    with pytest.raises(ProtocolError, match="pos_embedding"):
        initial_weights(tiny(f"initial_weights={first}"))
    del weights["body/natural/pos_embedding"]
    write_tensors(folder / "weights.safetensors", weights)
    with pytest.raises(ProtocolError, match="pos_embedding"):
        initial_weights(tiny(f"initial_weights={first}"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("initial_weights=relative", "absolute"),
        ("initial_fresh=[denoise]", "without initial_weights"),
        ("initial_fresh=[denois]", "initial_fresh"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny, override, said):
    with pytest.raises(ConfigError, match=said):
        tiny(override)


def test_published_checkpoints_go_on_training_and_go_out_again(fake_grid, tiny, tmp_path, run, make_phases):
    """The paper's architecture on small crops: import, one step, export."""
    parts = build_parts("paper", seed=5)
    for part in ("head", "body", "tail"):
        torch.save(getattr(parts, part).state_dict(), tmp_path / f"{part}.pth")
    import_checkpoint(
        {"denoise": tmp_path / "head.pth"},
        {"denoise": tmp_path / "tail.pth"},
        tmp_path / "body.pth",
        tmp_path / "start",
    )
    config = tiny(
        "model=paper", "data.crop=16", "data.batch_size=1", "evaluation.stride=16", "clients=[denoise]",
        f"initial_weights={tmp_path / 'start'}", make_phases("task-specific", steps=1),
    )  # fmt: skip
    run(config, tmp_path / "run", fake_grid(1))
    assert export_checkpoint(tmp_path / "run", tmp_path / "out", task="denoise")
    for part, moved in (("head", True), ("body", False), ("tail", True)):
        before = torch.load(tmp_path / f"{part}.pth", weights_only=True)
        after = torch.load(tmp_path / "out" / f"{part}.pt", weights_only=True)
        assert list(after) == list(before)
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert bool(changed) == moved
        for name in changed:  # one step of Adam from where the published weights were
            assert (after[name] - before[name]).abs().max() < 0.01
