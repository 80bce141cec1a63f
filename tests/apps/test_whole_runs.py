"""Whole runs of the strategy and the real ClientApp: what is left behind, and who is left out."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from tavit_flwr import client_app
from tavit_flwr.errors import ConfigError, ModelError, ProtocolError, QuorumError
from tavit_flwr.payloads import PART_PREFIXES
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.checkpoint import latest
from tavit_flwr.server.initial import initial_arrays, initial_weights
from tavit_flwr.server.strategy import TAViT
from tavit_flwr.server.waiting import AHEAD
from tavit_flwr.wire.weights import arrays_to_tensors, tensors_to_arrays

pytestmark = pytest.mark.timeout(120)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def raising(message, reply):
    return Message(error=client_app.Error(1001, "ModelError: expected a finite loss"), reply_to=message)


def with_nan(message, reply):
    if reply.has_content() and "arrays" in reply.content:
        tensors = arrays_to_tensors(reply.content["arrays"], PART_PREFIXES)
        next(iter(tensors.values())).fill_(float("nan"))
        reply.content["arrays"] = tensors_to_arrays(tensors)
    return reply


def without_metric(name):
    def twist(message, reply):
        if reply.has_content() and "metrics" in reply.content:
            reply.content["metrics"].pop(name, None)
        return reply

    return twist


def with_metric(name, value, only=None):
    def twist(message, reply):
        if reply.has_content() and "metrics" in reply.content and only in (None, message.metadata.message_type):
            reply.content["metrics"][name] = value
        return reply

    return twist


def test_a_tiny_run_leaves_what_it_promises(fake_grid, tiny, tmp_path, run, caplog):
    caplog.set_level(logging.INFO, "flwr")
    out = tmp_path / "out"
    grid = fake_grid(2)
    checkpoint = run(tiny("schedule.evaluate_first=true", "evaluation.pictures=true", "tensorboard=true"), out, grid)
    results = json.loads((out / "results.json").read_text())
    assert set(results["tasks"]) == {"denoise", "deblock"}
    for scores in results["tasks"].values():
        assert {"psnr_db", "ssim", "input_psnr_db", "input_ssim", "images", "before"} <= set(scores)
        assert scores["images"] == 1
        assert 0 < scores["psnr_db"] < 100
    assert results["rounds"] == 2
    assert results["steps"] == 2 * 2 * 3
    assert results["body_steps"] == 3
    assert results["wall_s"] > 0
    assert results["config"]["name"] == "tiny"
    events = [(line["event"], line["round"], line["phase"], line["cycle"], line["task"]) for line in lines(out)]
    assert sorted(events) == sorted(
        [("evaluate", 0, "before training", 0.0, task) for task in ("denoise", "deblock")]
        + [("train", 1, "task-specific", 0.5, task) for task in ("denoise", "deblock")]
        + [("evaluate", 1, "task-specific", 0.5, task) for task in ("denoise", "deblock")]
        + [("train", 2, "task-agnostic", 1.0, task) for task in ("denoise", "deblock")]
        + [("evaluate", 2, "task-agnostic", 1.0, task) for task in ("denoise", "deblock")]
    )
    for line in lines(out):
        if line["event"] == "train":
            assert 0 < line["body_s"] <= line["server_s"] <= line["compute_s"] + line["wait_s"]
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["round-000001", "round-000002"]
    assert checkpoint.state.round == 2
    assert checkpoint.state.versions == {"p0000": 1, "p0001": 1}
    assert checkpoint.moments["natural"]
    start = initial_weights(tiny()).flat()
    assert {name.split("/")[0] for name in start if not torch.equal(start[name], checkpoint.weights[name])} == {
        "head", "tail", "body",
    }  # fmt: skip
    pictures = list((tmp_path / "state").rglob("pictures/*.png"))
    assert {path.name for path in pictures} == {"denoise-1.png", "deblock-1.png"}
    assert list((tmp_path / "state").rglob("moments-*")) == []  # nobody will ask for them
    assert all("tavit" not in context.state for context in grid.contexts.values())
    assert results["bytes_up"] > 0
    assert results["bytes_down"] > 0


def test_a_stopped_run_keeps_its_moments(fake_grid, tiny, tmp_path, run, make_phases):
    grid = fake_grid(2)
    run(tiny(make_phases("task-specific", "joint")), tmp_path / "out", grid, rounds=1)
    assert len(list((tmp_path / "state").rglob("moments-000001.safetensors"))) == 2
    assert all(Path(context.state["tavit"]["moments"]).is_file() for context in grid.contexts.values())


def test_more_clients_than_orders_go_out_ahead_step_one_body_together(fake_grid, tiny, make_phases, tmp_path, run):
    """Deployed, nothing limits who is at work at once: all have to be sent their orders before any can go on."""
    config = tiny("clients=[denoise*3,deblock*3]", make_phases("joint", steps=1), "federation.quorum=1")
    run(config, tmp_path / "out", fake_grid(6))
    trained = [line for line in lines(tmp_path / "out") if line["event"] == "train"]
    assert sum(len(line["clients"]) for line in trained) == 6 > AHEAD
    assert not any(line["left_out"] for line in trained)


def test_the_server_shares_its_cores_among_those_at_work(fake_grid, tiny, make_phases, tmp_path, run, monkeypatch):
    """All three that train; of the two that share their held-out images, the one that evaluates, and the third."""
    told = []
    noted = property(lambda _: told[-1], lambda _, count: told.append(count))
    monkeypatch.setattr(BodyService, "at_once", noted, raising=False)
    run(tiny("clients=[denoise*2,deblock]", make_phases("task-specific", steps=1)), tmp_path / "out", fake_grid(3))
    assert told == [0, 3, 2]


def test_loss_falls(fake_grid, tiny, tmp_path, run, make_phases):
    run(tiny(make_phases("task-specific", steps=30), "clients=[denoise]"), tmp_path / "out", fake_grid(1))
    line = lines(tmp_path / "out")[0]
    assert line["loss_last"] < 0.7 * line["loss_first"]


@pytest.mark.parametrize("kind", ["task-specific", "joint"])
@pytest.mark.parametrize(
    ("twist", "said"),
    [(raising, "finite loss"), (with_nan, "NaN"), (lambda *_: None, "Node Unavailable")],
    ids=["error", "nan", "gone"],
)
def test_one_bad_client_is_left_out_by_name(fake_grid, tiny, tmp_path, run, make_phases, caplog, kind, twist, said):
    config = tiny(make_phases(kind), "clients=[denoise,denoise,deblock]")
    grid = fake_grid(3, twists={2: lambda message, reply: twist(message, reply) if is_train(message) else reply})
    checkpoint = run(config, tmp_path / "out", grid)
    problem = next(r.getMessage() for r in caplog.records if r.name == "flwr" and "left out" in r.getMessage())
    left_out = next(line for line in lines(tmp_path / "out") if line["event"] == "train")["left_out"]
    assert len(left_out) == 1
    for text in (problem, left_out[0]):
        assert "node 102" in text
        assert "task denoise" in text
        assert said in text
    trained = {line["task"]: line["clients"] for line in lines(tmp_path / "out") if line["event"] == "train"}
    assert trained == {"denoise": ["p0000"], "deblock": ["p0001"]}
    assert "p0002" not in checkpoint.state.versions
    alone = next(reply for reply in grid.answered if reply.metadata.src_node_id == 100 and "arrays" in reply.content)
    for name, sent in arrays_to_tensors(alone.content["arrays"], PART_PREFIXES).items():
        part, _, tensor = name.partition("/")
        assert torch.equal(checkpoint.weights[f"{part}/denoise/{tensor}"], sent), name


def is_train(message):
    return message.metadata.message_type.startswith("train")


def test_a_member_that_never_comes_does_not_stop_the_cohort(fake_grid, tiny, tmp_path, run, make_phases, caplog):
    config = tiny(make_phases("task-agnostic"), "clients=[denoise,deblock,derain]", "wire.join_timeout_s=2")
    grid = fake_grid(3, silent=lambda message: message.metadata.dst_node_id == 101 and is_train(message))
    run(config, tmp_path / "out", grid)
    trained = {line["task"] for line in lines(tmp_path / "out") if line["event"] == "train"}
    assert trained == {"denoise", "derain"}
    assert "node 101, client p0001, task deblock, task-agnostic: Error: Node Unavailable" in caplog.text


@pytest.mark.parametrize("kind", ["task-specific", "task-agnostic"])
def test_below_the_quorum_the_run_stops(fake_grid, tiny, tmp_path, run, make_phases, kind):
    config = tiny(make_phases(kind), "clients=[denoise,deblock,derain]", "federation.quorum=0.6")
    twist = {1: raising, 2: raising}
    grid = fake_grid(3, twists={n: lambda m, r, t=t: t(m, r) if is_train(m) else r for n, t in twist.items()})
    with pytest.raises(QuorumError, match=r"node 101.*node 102.*resume=true"):
        run(config, tmp_path / "out", grid)


def test_a_body_that_is_not_finite_any_more_is_never_saved(fake_grid, tiny, tmp_path, run, make_phases, monkeypatch):
    config = tiny(make_phases("task-specific", "joint", steps=1))
    state = BodyHost.state
    monkeypatch.setattr(BodyHost, "state", lambda host: {name: one / 0 for name, one in state(host).items()})
    with pytest.raises(ProtocolError, match=r"finite values in .*body 'natural' after round 2"):
        run(config, tmp_path / "out", fake_grid(2))
    assert latest(tmp_path / "out" / "checkpoints").state.round == 1


@pytest.mark.parametrize("metric", ["steps", "loss-first", "wait-s"])
def test_a_reply_without_a_needed_metric_is_left_out(fake_grid, tiny, tmp_path, run, make_phases, caplog, metric):
    config = tiny(make_phases("task-specific"))
    run(config, tmp_path / "out", fake_grid(2, twists={1: without_metric(metric)}))
    assert {line["task"] for line in lines(tmp_path / "out") if line["event"] == "train"} == {"denoise"}
    assert metric in caplog.text


@pytest.mark.parametrize(
    "twist",
    [without_metric("images"), without_metric("psnr-y-db"), with_metric("images", 0.0, "evaluate")],
    ids=["no images", "no psnr-y", "zero images"],
)
def test_an_odd_evaluation_reply_is_left_out(fake_grid, tiny, tmp_path, run, make_phases, caplog, twist):
    run(tiny(make_phases("task-specific")), tmp_path / "out", fake_grid(2, twists={1: twist}))
    assert {line["task"] for line in lines(tmp_path / "out") if line["event"] == "evaluate"} == {"denoise"}
    assert "left out: node 101" in caplog.text


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize(("kind", "name"), [("evaluate", "psnr-db"), ("train", "loss-mean")])
def test_a_metric_that_json_cannot_hold_does_not_end_the_run(
    fake_grid, tiny, tmp_path, run, make_phases, kind, name, value
):
    grid = fake_grid(2, twists={1: with_metric(name, value, kind)})
    run(tiny(make_phases("task-specific")), tmp_path / "out", grid)
    assert {line["task"] for line in lines(tmp_path / "out") if line["event"] == kind} >= {"denoise"}
    json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)


def test_identical_pairs_do_not_end_the_run(fake_grid, tiny, tmp_path, run, make_phases, make_images):
    """PSNR of two equal images is infinite; JSON has no such number."""
    for side in ("degraded", "clean"):
        make_images(tmp_path / "pairs" / side)
    config = tiny(
        make_phases("task-specific"), "tasks.deblock.source=paired", f"tasks.deblock.folder={tmp_path / 'pairs'}"
    )
    run(config, tmp_path / "out", fake_grid(2))
    results = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["tasks"]["deblock"]["input_psnr_db"] == 100
    assert results["tasks"]["denoise"]["input_psnr_db"] < 40


def replace_arrays(make):
    def twist(message, reply):
        if reply.has_content() and is_train(message):
            make(reply.content)
        return reply

    return twist


def _metrics_as_arrays(content):
    metrics = content["metrics"]
    del content["arrays"]
    content["arrays"] = type(metrics)(dict(metrics))


def _empty_array(content):
    name = next(iter(content["arrays"]))
    old = content["arrays"][name]
    content["arrays"][name] = Array(old.dtype, old.shape, old.stype, b"")


def _zip_array(content):
    name = next(iter(content["arrays"]))
    old = content["arrays"][name]
    content["arrays"][name] = Array(old.dtype, old.shape, old.stype, b"PK\x03\x04 not a zip")


def _no_arrays(content):
    del content["arrays"]


def _arrays_as_metrics(content):
    arrays = content["arrays"]
    del content["metrics"]
    content["metrics"] = ArrayRecord(dict(arrays))


@pytest.mark.parametrize("make", [_metrics_as_arrays, _empty_array, _zip_array, _no_arrays, _arrays_as_metrics])
def test_malformed_records_only_cost_their_sender(fake_grid, tiny, tmp_path, run, make_phases, caplog, make):
    grid = fake_grid(2, twists={1: replace_arrays(make)})
    run(tiny(make_phases("task-specific")), tmp_path / "out", grid)
    assert {line["task"] for line in lines(tmp_path / "out") if line["event"] == "train"} == {"denoise"}
    assert "left out: node 101" in caplog.text


@pytest.mark.parametrize(("key", "value"), [("body", "other"), ("task", "derain"), ("slots", -3)])
def test_an_enrolment_that_does_not_fit_the_experiment_is_left_out(
    fake_grid, tiny, tmp_path, run, make_phases, caplog, key, value
):
    def twist(message, reply):
        if message.metadata.message_type.startswith("query"):
            reply.content["config"][key] = value
        return reply

    run(tiny(make_phases("task-specific")), tmp_path / "out", fake_grid(2, twists={1: twist}))
    assert {line["task"] for line in lines(tmp_path / "out")} == {"denoise"}
    assert "left out: node 101" in caplog.text


def test_cohort_all_refuses_too_few_slots(fake_grid, tiny, tmp_path, run, monkeypatch):
    monkeypatch.setattr(client_app, "slots", lambda: 2)
    config = tiny("clients=[denoise,deblock,derain]", "federation.cohort=all")
    with pytest.raises(ConfigError, match=r"init-args-num-cpus=3"):
        run(config, tmp_path / "out", fake_grid(3))


def test_cohort_auto_says_so_and_rotates(fake_grid, tiny, tmp_path, run, make_phases, monkeypatch, caplog):
    monkeypatch.setattr(client_app, "slots", lambda: 2)
    config = tiny(make_phases("task-agnostic", rounds=3), "clients=[denoise,deblock,derain]")
    run(config, tmp_path / "out", fake_grid(3))
    assert "only 2 of 3 clients can run at once" in caplog.text
    clients = {}
    for line in lines(tmp_path / "out"):
        if line["event"] == "train":
            clients.setdefault(line["round"], []).extend(line["clients"])
    assert {index: len(names) for index, names in clients.items()} == {1: 2, 2: 2, 3: 2}
    counts = sorted(name for names in clients.values() for name in names)
    assert counts == ["p0000", "p0000", "p0001", "p0001", "p0002", "p0002"]


def test_a_node_without_a_place_idles(fake_grid, tiny, tmp_path, run, make_phases):
    grid = fake_grid(3)
    run(tiny(make_phases("task-specific")), tmp_path / "out", grid)
    assert {m.metadata.dst_node_id for m in grid.asked if is_train(m)} == {100, 101}


# What users get wrong. Each case makes a data folder and the settings that go with it.


def missing(folder, write):
    return "folder", "check data.folder"


def empty(folder, write):
    folder.mkdir()
    return "folder", "put images there"


def small(folder, write):
    write(folder, side=20)
    return "folder", "lower data.crop"


def lonely(folder, write):
    write(folder / "degraded", 5)
    write(folder / "clean", 4)
    return "paired", "add the partners"


def unequal(folder, write):
    write(folder / "degraded", side=48)
    write(folder / "clean", side=40)
    return "paired", "make both equally large"


@pytest.mark.parametrize("mistake", [missing, empty, small, lonely, unequal])
def test_unusable_images_are_told_before_the_first_round(fake_grid, tiny, tmp_path, run, make_images, mistake):
    source, advice = mistake(tmp_path / "private", make_images)
    # Two clients of one task: pairs hold one degradation.
    given = f"data.source={source}", f"data.folder={tmp_path / 'private'}"
    config = tiny("clients=[denoise,denoise]", *given)
    with pytest.raises(QuorumError, match=advice) as told:
        run(config, tmp_path / "out", fake_grid(2))
    assert "node 100" in str(told.value)
    assert "node 101" in str(told.value)
    assert str(tmp_path) not in str(told.value)


@pytest.mark.parametrize("mistake", [empty, small])
def test_one_node_with_unusable_images_is_left_out(
    fake_grid, tiny, tmp_path, run, make_images, make_phases, images, caplog, mistake
):
    _, advice = mistake(tmp_path / "private", make_images)
    good = {"task": "denoise", "data-dir": str(images), "state-dir": str(tmp_path / "a")}
    bad = {"task": "deblock", "data-dir": str(tmp_path / "private"), "state-dir": str(tmp_path / "b")}
    run(tiny(make_phases("task-specific")), tmp_path / "out", fake_grid(node_configs=[good, bad]))
    assert {line["task"] for line in lines(tmp_path / "out")} == {"denoise"}
    assert advice in caplog.text
    assert "in the folder of node configuration 'data-dir'" in caplog.text
    assert latest(tmp_path / "out" / "checkpoints").state.round == 1


def test_arrays_of_another_preset_are_refused(fake_grid, tiny, tmp_path):
    with pytest.raises((ProtocolError, ModelError)):
        TAViT(tiny(), tmp_path / "out").start(fake_grid(2), initial_arrays(tiny("clients=[denoise]")))


def test_a_relative_output_folder_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="absolute"):
        TAViT(tiny(), Path("out"))


def test_a_train_config_is_refused_before_a_node_is_asked(fake_grid, tiny, tmp_path):
    grid = fake_grid(2)
    with pytest.raises(ConfigError, match="train_config"):
        TAViT(tiny(), tmp_path / "out").start(grid, initial_arrays(tiny()), train_config=ConfigRecord({"lr": 0.1}))
    assert grid.asked == []


def test_without_tls_the_server_warns_at_every_start(fake_grid, tiny, tmp_path, run, make_phases, caplog):
    config = tiny(make_phases("task-specific"), "wire.insecure=true", "clients=[denoise]")
    run(config, tmp_path / "out", fake_grid(1))
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any("wire.insecure" in record.getMessage() for record in warned)
    run(tiny(make_phases("task-specific"), "clients=[denoise]"), tmp_path / "other", fake_grid(1))
    assert caplog.text.count("wire.insecure") == 1


def test_no_client_goes_without_tls_because_an_order_says_so(fake_grid, tiny, tmp_path, run, make_phases, monkeypatch):
    """Whoever can change an order cannot switch TLS off with it: the configuration must agree."""
    monkeypatch.setattr(
        BodyService, "certificate", property(lambda self: None, lambda self, value: None), raising=False
    )
    with pytest.raises(QuorumError, match=r"a certificate of the body service.*wire.insecure=true"):
        run(tiny(make_phases("task-specific"), "clients=[denoise]"), tmp_path / "out", fake_grid(1))
