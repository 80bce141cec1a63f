"""FedAvg, FedProx and the centralised loop: whole models through Flower's strategies, real client code in threads."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Error, Message
from flwr.serverapp.strategy import FedAvg, FedProx

from simulations.flower import ROOT
from simulations.whole.client import app, pull_back, train
from simulations.whole.strategy import WholeModels, flowers_own
from tavit_flwr import client_app
from tavit_flwr.client.node import identify
from tavit_flwr.client.training import batches_of
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.config import compose, to_json
from tavit_flwr.errors import ConfigError, QuorumError
from tavit_flwr.models import build_body
from tavit_flwr.models.stored import load_parts
from tavit_flwr.restoration import mse
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.checkpoint import latest
from tavit_flwr.server.initial import initial_arrays, initial_weights, preset_of
from tavit_flwr.server_app import main as split_main
from tavit_flwr.split.unsplit import unsplit_forward
from tavit_flwr.wire.records import Order

pytestmark = pytest.mark.timeout(120)

ONE_ROUND = "schedule.phases=[{rounds: 1, steps: 3}]"


def exact(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.fixture
def make(tiny):
    """Compose a baseline at the size of the tiny experiment, without dropout and with plain gradient descent."""
    small = ["model=tiny", "data.crop=32", "data.batch_size=2", "evaluation.stride=32", "schedule=tiny"]
    plain = ["optimiser=sgd", "+model.overrides.body_dropout=0.0"]
    return lambda name, *words: tiny(f"experiment={name}", *small, *plain, *words)


@pytest.fixture
def run_whole(fake_grid, monkeypatch, tmp_path):
    """Do what the ServerApp does, and give the last checkpoint."""

    def run(config, out="out", rounds=None, resume=False, twists=None):
        grid = fake_grid(len(config.clients), twists=twists)

        def send_and_receive(messages, timeout=None):
            waiting, replies = set(grid.push_messages(messages)), []
            while waiting:
                time.sleep(0.01)
                came = grid.pull_messages(list(waiting))
                waiting -= {reply.metadata.reply_to_message_id for reply in came}
                replies += came
            return replies

        grid.send_and_receive = send_and_receive
        saved = latest(tmp_path / out / "checkpoints") if resume else None
        arrays = Weights.from_flat(saved.weights).to_arrays() if saved else initial_arrays(config)
        with monkeypatch.context() as patch:
            patch.setattr(client_app, "app", app)
            WholeModels(config, tmp_path / out, saved).start(grid, arrays, rounds)
        return latest(tmp_path / out / "checkpoints")

    return run


def workshop_of(config, partition):
    return Workshop.open(identify({"partition-id": partition, "num-partitions": len(config.clients)}, config), config)


def order_of(config, run_key):
    return Order(
        config=to_json(config), run_key=run_key, address="", token="", certificate_pem=b"", carrier="messages",
        phase="joint", cycle=1, round=1, steps=3, version=0, next_version=1,
    )  # fmt: skip


def model_of(weights, task):
    """A task's tensors under the names that travel."""
    flat = weights if isinstance(weights, dict) else weights.flat()
    return {name.replace(f"/{task}/", "/"): value for name, value in flat.items() if f"/{task}/" in name}


def test_end_to_end_is_the_plain_loop_over_one_tasks_images(make, run_whole):
    config = make("end-to-end", "clients=[denoise,deblock]", ONE_ROUND)
    begun, checkpoint = initial_weights(config), run_whole(config)
    for partition, task in enumerate(config.tasks):
        workshop = workshop_of(config, partition)
        head, tail = workshop.parts(model_of(begun, task))
        body = build_body(preset_of(config))
        body.load_state_dict(begun.bodies[task])
        optimiser = torch.optim.SGD([*head.parameters(), *body.parameters(), *tail.parameters()], lr=0.01)
        batches = batches_of(workshop, order_of(config, "loop"))
        for step in range(3):
            degraded, clean = batches(step)
            optimiser.zero_grad()
            mse(unsplit_forward(head, body, tail, degraded), clean).backward()
            optimiser.step()
        after = model_of(checkpoint.weights, task)
        for prefix, part in (("head/", head), ("body/", body), ("tail/", tail)):
            for name, value in part.state_dict().items():
                exact(after[prefix + name], value)


def test_end_to_end_equals_a_split_joint_run_with_a_body_for_each_task(make, run_whole, run, fake_grid, tmp_path):
    words = ["clients=[denoise,deblock]", "optimiser=fast"]
    whole = run_whole(make("end-to-end", *words))
    split = run(make("joint", "body_per_task=true", *words), tmp_path / "split", fake_grid(2))
    assert whole.weights.keys() == split.weights.keys()
    lines = [[line for line in one.state.history if line["event"] == "train"] for one in (whole, split)]
    assert len(lines[0]) == 4
    for mine, its in zip(*lines, strict=True):
        assert (mine["task"], mine["clients"], mine["cycle"]) == (its["task"], its["clients"], its["cycle"])
        assert mine["loss_mean"] == pytest.approx(its["loss_mean"], rel=1e-4)


def test_fedavg_is_the_mean_of_what_the_clients_of_a_task_trained(make, run_whole):
    config = make("fedavg", "clients=[denoise,denoise,deblock]", ONE_ROUND)
    begun, checkpoint = initial_weights(config), run_whole(config)
    for task, partitions in {"denoise": (0, 2), "deblock": (1,)}.items():  # every task once before any twice
        begin = model_of(begun, task)
        trained = [train(workshop_of(config, one), order_of(config, f"own {one}"), begin)[0] for one in partitions]
        after = model_of(checkpoint.weights, task)
        for name, value in after.items():
            exact(value, sum(one[name] for one in trained) / len(trained))
        assert not torch.equal(after["body/pos_embedding"], begin["body/pos_embedding"])
    assert len(partitions) < 2 or not torch.equal(trained[0]["body/pos_embedding"], trained[1]["body/pos_embedding"])


def test_fedprox_pulls_the_weights_back_to_where_the_round_began(make):
    start = torch.tensor([1.0, -2.0], requires_grad=True)
    optimiser = torch.optim.SGD([start], lr=1.0)
    pull_back(optimiser, 0.5)
    for expected in ([0.0, -3.0], [-0.5, -3.5]):  # a gradient of 1, then of 1 less half of the way gone
        start.grad = torch.ones(2)
        optimiser.step()
        exact(start.detach(), torch.tensor(expected))

    config = make("fedprox", "clients=[denoise]", ONE_ROUND, "federation.proximal_mu=50")
    begin, workshop = model_of(initial_weights(config), "denoise"), workshop_of(config, 0)
    free, held = (train(workshop, order_of(config, f"mu {mu}"), begin, mu)[0] for mu in (0.0, 50.0))

    def way(model):
        return sum(float((model[name] - value).norm()) for name, value in begin.items())

    assert 0 < way(held) < 0.9 * way(free)


def test_the_strategies_are_flowers_own_and_mu_reaches_the_clients(make, run_whole, tmp_path):
    assert type(flowers_own(compose("experiment=fedavg"))) is FedAvg
    strategy = flowers_own(compose("experiment=fedprox federation.proximal_mu=0.25"))
    assert type(strategy) is FedProx
    words = ["clients=[denoise,denoise]", ONE_ROUND]
    free = run_whole(make("fedprox", *words, "federation.proximal_mu=0"), "free")
    same = run_whole(make("fedavg", *words), "same")
    held = run_whole(make("fedprox", *words, "federation.proximal_mu=50"), "held")
    assert all(torch.equal(value, same.weights[name]) for name, value in free.weights.items())
    assert any(not torch.equal(value, held.weights[name]) for name, value in free.weights.items())


def test_a_run_leaves_what_split_runs_leave_and_goes_on_after_a_stop(make, run_whole, tmp_path):
    config = make("fedavg", "clients=[denoise,denoise]", "optimiser=fast", "schedule.evaluate_first=true")
    whole = run_whole(config, "whole")
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert results["steps"] == 2 * 2 * 3
    assert results["bytes_up"] > 0
    assert set(results["tasks"]) == {"denoise"}
    assert (tmp_path / "whole" / "report.html").is_file()
    load_parts(tmp_path / "whole", "denoise")
    run_whole(config, "stopped", rounds=1)
    resumed = run_whole(config, "stopped", resume=True)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


def test_a_client_that_fails_is_left_out_and_a_task_without_a_model_ends_the_run(make, run_whole):
    def failing(message, reply):
        training = message.metadata.message_type == "train"
        return Message(error=Error(1, "no images today"), reply_to=message) if training else reply

    both = make("fedavg", "clients=[denoise,denoise]", ONE_ROUND)
    checkpoint = run_whole(both, twists={1: failing})
    (line,) = [line for line in checkpoint.state.history if line["event"] == "train"]
    assert line["clients"] == ["p0000"]
    assert "no images today" in line["left_out"][0]
    with pytest.raises(QuorumError, match="no images today"):
        run_whole(make("fedavg", "clients=[denoise]", ONE_ROUND), "alone", twists={0: failing})


@pytest.mark.parametrize(
    "word", ["federation.strategy=tavit", "body_per_task=false", "schedule.every_phase=null", "federation.fraction=0.5"]
)
def test_what_whole_models_do_not_have_is_refused(make, tmp_path, word):
    with pytest.raises(ConfigError, match="experiment=fedavg"):
        WholeModels(make("fedavg", word), tmp_path)


def test_the_app_that_splits_does_not_run_them():
    with pytest.raises(ConfigError, match=r"simulations\.run"):
        split_main(None, SimpleNamespace(run_config={"hydra": "experiment=fedavg"}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "naive"])
def test_flower_accepts_the_other_apps(name, tmp_path):
    shutil.copytree(ROOT / "simulations" / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [Path(sys.executable).parent / "flwr", "build", "--app", str(tmp_path / name)]
    env = os.environ | {"FLWR_HOME": str(tmp_path / "home"), "FLWR_TELEMETRY_ENABLED": "0"}
    answer = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
