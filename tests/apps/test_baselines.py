"""Baselines do what their names say: which part moves, which is shared, and that the steps are as many."""

import functools
import json
import re

import pytest
import torch

from tavit_flwr.config import compose, conf_dir
from tavit_flwr.errors import ConfigError
from tavit_flwr.models import preset
from tavit_flwr.models.stored import load_parts
from tavit_flwr.server.check import check_experiment
from tavit_flwr.server.initial import initial_weights
from tavit_flwr.server.schedule import plan

pytestmark = pytest.mark.timeout(120)

SPLIT = ["multi", "single", "joint", "no-body", "fixed-body", "convolutional", "transformer", "permuted", "splitfed"]
WHOLE = ["end-to-end", "fedavg", "fedprox"]


@pytest.fixture
def baseline(tiny):
    """Compose a baseline at the size of the tiny experiment."""

    def make(name, *overrides):
        own = ["model=tiny", "data.crop=32", "data.batch_size=1", "evaluation.stride=32", "schedule=tiny"]
        return tiny(f"experiment={name}", *own, "clients=[denoise,deblock]", *overrides)

    return make


def moved(before, after):
    """Parts of which some tensor has changed, as ``part/owner``."""
    assert set(before) == set(after)
    return {name.rsplit("/", 1)[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("name", "moving"),
    [
        ("multi", {"body/natural"}),
        pytest.param("single", {"body/denoise", "body/deblock"}, marks=pytest.mark.long),
        ("joint", {"body/natural"}),
        pytest.param("convolutional", {"body/natural"}, marks=pytest.mark.long),
        pytest.param("fixed-body", set(), marks=pytest.mark.long),
        ("no-body", set()),
        ("permuted", {"body/natural"}),
    ],
)
def test_what_moves(baseline, fake_grid, run, tmp_path, name, moving):
    config = baseline(name)
    before = initial_weights(config).flat()
    checkpoint = run(config, tmp_path / "out", fake_grid(2))
    parts = ("tail",) if name == "permuted" else ("head", "tail")
    clients = {f"{part}/{task}" for part in parts for task in config.tasks}
    assert moved(before, checkpoint.weights) == clients | moving
    assert any(key.startswith("body/") for key in before) == (name != "no-body")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["steps"] == 2 * 2 * 3
    assert set(results["tasks"]) == {"denoise", "deblock"}
    load_parts(tmp_path / "out", "denoise")


@functools.cache
def client_steps(name, schedule):
    """Place and client-steps of each round."""
    config = compose([f"experiment={name}", f"schedule={schedule}"])
    assert config.federation.fraction == 1
    return [
        (one.cycle, one.ends_phase, one.half_cycle, one.progress, one.steps * len(config.clients))
        for one in plan(config.schedule)
    ]


@pytest.mark.parametrize("name", SPLIT + WHOLE)
@pytest.mark.parametrize("schedule", ["demo", "synergy"])
def test_all_baselines_make_the_same_client_steps_in_the_same_rounds(name, schedule):
    assert client_steps(name, schedule) == client_steps("multi", schedule)
    assert client_steps(name, schedule)[-1][-1] > 0


@pytest.mark.parametrize("path", sorted((conf_dir() / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_experiment_begins_with_its_command(path):
    """After Hydra's own line, which it reads at the very top only."""
    package, command = path.read_text().splitlines()[:2]
    assert package == "# @package _global_"
    named = re.search(r"\bexperiment=([\w-]+)", command)
    assert command.startswith(("# flwr run .", "# python -m simulations.run ", "# make "))
    assert named is None or named[1] == path.stem
    if named is None:  # what the command does without being told
        assert (path.stem, command) in {("demo", "# flwr run ."), ("federation", "# make federation")}


def test_no_body_gives_back_what_it_gets(baseline, fake_grid, run, tmp_path):
    parts = preset("tiny", body_kind="identity")
    config = baseline("no-body")
    assert initial_weights(config).bodies == {"natural": {}}
    run(config, tmp_path / "out", fake_grid(2))
    loaded = load_parts(tmp_path / "out", "deblock")
    assert loaded.preset == parts
    smashed = torch.rand(1, parts.body_dim, 8, 8)
    assert torch.equal(loaded.body(smashed), smashed)


def test_nothing_to_train_is_refused():
    config = compose("experiment=no-body schedule.every_phase=task-agnostic")
    with pytest.raises(ConfigError, match="identity has nothing to train"):
        check_experiment(config, simulated=True)


def test_a_resumed_run_without_a_body_equals_one_that_was_not_stopped(baseline, fake_grid, run, tmp_path):
    config = baseline("no-body")
    whole = run(config, tmp_path / "whole", fake_grid(2))
    run(config, tmp_path / "stopped", fake_grid(2), rounds=1)
    resumed = run(config, tmp_path / "stopped", fake_grid(2), resume=True)
    assert moved(whole.weights, resumed.weights) == set()


def test_phases_of_one_kind_draw_different_batches():
    plans = plan(compose("experiment=joint schedule=tiny").schedule)
    assert [(one.phase, one.round) for one in plans] == [("joint", 1), ("joint", 2)]
    usual = plan(compose("experiment=multi schedule=demo").schedule)
    assert [one.round for one in usual] == [1, 2, 1, 1, 2, 1]


def test_splitfed_averages_the_clients_of_its_task_and_alone_is_joint(baseline, fake_grid, run, tmp_path):
    assert set(compose("experiment=splitfed").clients) == {"denoise"}
    one = run(baseline("splitfed", "clients=[denoise]"), tmp_path / "one", fake_grid(1))
    joint = run(baseline("joint", "clients=[denoise]"), tmp_path / "joint", fake_grid(1))
    assert moved(one.weights, joint.weights) == set()
    two = run(baseline("splitfed", "clients=[denoise,denoise]"), tmp_path / "two", fake_grid(2))
    assert {key.split("/")[1] for key in two.weights} == {"denoise", "natural"}
    assert two.state.versions == {"p0000": 2, "p0001": 2}


@pytest.mark.long
@pytest.mark.parametrize("name", ["no-body", "permuted"])
def test_both_carriers_give_the_same(baseline, fake_grid, run, tmp_path, name):
    stream = run(baseline(name), tmp_path / "stream", fake_grid(2))
    messages = run(baseline(name, "wire.carrier=messages"), tmp_path / "messages", fake_grid(2))
    assert moved(stream.weights, messages.weights) == set()


@pytest.mark.parametrize("name", ["no-body", "permuted"])
def test_a_run_can_begin_with_the_weights_of_another(baseline, fake_grid, run, tmp_path, name):
    first = run(baseline(name), tmp_path / "first", fake_grid(2))
    given = baseline(name, f"initial_weights={tmp_path / 'first'}", "seed=5")
    assert moved(first.weights, initial_weights(given).flat()) == set()
