"""Scores of each test set and of each setting of a degradation, from one evaluation of one state of the weights."""

import json

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from PIL import Image

from tavit_flwr.config import compose
from tavit_flwr.data import held_out_pairs, labels_of
from tavit_flwr.degrade import degradation
from tavit_flwr.errors import ConfigError, DataError
from tavit_flwr.payloads import EVALUATE_METRICS, set_metrics
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.server.replies import SCORES, sort_replies
from tavit_flwr.server.report import Report
from tavit_flwr.server.rounds import Round
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.wire.records import Enrolment


def _pairs(folder, count, strength):
    for index in range(count):
        clean = np.random.default_rng(index).integers(30, 200, (40, 40, 3), dtype=np.uint8)
        for side, pixels in (("rain", clean + np.uint8(strength)), ("norain", clean)):
            (folder / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / side / f"{side}-{index}.png")


@pytest.fixture
def rain(tmp_path):
    """Training pairs, and test pairs in two sets of two and three, beside a set that nobody asks for."""
    _pairs(tmp_path / "train", 4, 20)
    for name, count, strength in (("rain100h", 2, 50), ("rain100l", 3, 5), ("other", 1, 1)):
        _pairs(tmp_path / "test" / name, count, strength)
    return [
        "tasks.derain.source=paired", f"tasks.derain.folder={tmp_path / 'train'}",
        f"tasks.derain.evaluation_folder={tmp_path / 'test'}", "tasks.derain.test_sets=[rain100h, rain100l]",
    ]  # fmt: skip


def test_every_set_and_every_quality_has_its_scores(fake_grid, tiny, make_phases, run, tmp_path, rain):
    config = tiny(
        "clients=[deblock, derain]", *rain, "evaluation.every_variant=true", make_phases("task-specific", steps=1)
    )
    run(config, tmp_path / "out", fake_grid(2))
    tasks = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]
    counts = {name: {label: scores["images"] for label, scores in task["sets"].items()} for name, task in tasks.items()}
    assert counts == {"deblock": {"q10": 1, "q50": 1}, "derain": {"rain100h": 2, "rain100l": 3}}
    derain = tasks["derain"]
    assert derain["images"] == 5
    heavy, light = derain["sets"]["rain100h"], derain["sets"]["rain100l"]
    assert heavy["input_psnr_db"] == pytest.approx(20 * np.log10(255 / 50), abs=0.01)
    assert light["input_psnr_db"] == pytest.approx(20 * np.log10(255 / 5), abs=0.01)
    for key in ("psnr_db", "ssim", "psnr_y_db"):
        assert derain[key] == pytest.approx((2 * heavy[key] + 3 * light[key]) / 5)
    assert tasks["deblock"]["sets"]["q10"]["input_psnr_db"] < tasks["deblock"]["sets"]["q50"]["input_psnr_db"]


def test_a_set_without_images_keeps_its_client_out_and_names_no_folder(fake_grid, tiny, run, tmp_path, rain, caplog):
    config = tiny("clients=[deblock, derain]", *rain, "tasks.derain.test_sets=[rain100h, rain12]")
    run(config, tmp_path / "out", fake_grid(2), rounds=1)
    assert "images in the folders rain100h, rain12" in caplog.text
    with pytest.raises(DataError, match="none in rain12"):
        raise next(record.args[0] for record in caplog.records if "none in rain12" in str(record.args))


def test_labels_follow_from_the_configuration():
    config = compose(
        ["clients=[deblock, denoise, derain]", "tasks.deblock.folder=/a", "tasks.deblock.source=folder",
         "tasks.deblock.evaluation_folder=/b", "tasks.deblock.test_sets=[kodak, bsds]"]
    )  # fmt: skip
    assert labels_of(config, "deblock") == ("kodak-q10", "kodak-q50", "bsds-q10", "bsds-q50")
    assert labels_of(config, "denoise") == ()
    assert labels_of(config, "derain") == ("light", "heavy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tasks.denoise.test_sets=[a]"], "evaluation folder that holds the sets"),
        (["data=folder", "data.folder=/a", "data.evaluation_folder=/b", "tasks.denoise.test_sets=[../a]"], r"\.\./a"),
    ],
)
def test_sets_that_cannot_be_are_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        compose(["clients=[denoise]", *words])


class _Images:
    names = ("kodak/1", "2")

    def __len__(self):
        return 2

    def load(self, index):
        from tavit_flwr.data.images import Sample

        draws = torch.Generator().manual_seed(index)
        return Sample(self.names[index], torch.randint(256, (3, 24, 24), generator=draws, dtype=torch.uint8))


def test_every_variant_is_the_one_that_its_turn_would_give():
    degrade = degradation("jpeg", {"qualities": [5, 90]})
    options = {"seed": 0, "task": "deblock", "test_sets": ["kodak"]}
    in_turn = list(held_out_pairs(_Images(), degrade, **options))
    every = list(held_out_pairs(_Images(), degrade, every_variant=True, **options))
    assert [pair.label for pair in in_turn] == ["kodak-q5", "q90"]
    assert [pair.label for pair in every] == ["kodak-q5", "kodak-q90", "q5", "q90"]
    assert torch.equal(every[0].degraded_CHW, in_turn[0].degraded_CHW)
    assert torch.equal(every[3].degraded_CHW, in_turn[1].degraded_CHW)


def _sorted_reply(names):
    """Sort a reply that holds these metrics; the server expects sets q10 and q50."""
    person = Participant(101, Enrolment("p0001", "deblock", "natural"))
    opened = Round(labels={"deblock": ("q10", "q50")})
    opened.sessions[101] = (person, Session("p0001", "deblock", None, EVALUATE, 0))
    message = Message(content=RecordDict(), message_type=MessageType.EVALUATE, dst_node_id=101)
    values = MetricRecord(names)
    reply = Message(content=RecordDict({"metrics": values, "arrays": ArrayRecord()}), reply_to=message)
    return opened, sort_replies(opened, [reply], Weights({}, {}, {}), SCORES)


ALL = dict.fromkeys(EVALUATE_METRICS, 2.0)


@pytest.fixture
def sender(monkeypatch):
    from flwr.supercore.task_identity import TaskIdentity

    for name, value in (("_run_id", 1), ("_node_id", 1), ("_task_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)


@pytest.mark.parametrize("labels", [(), ("q10",), ("q10", "q50")])
def test_known_sets_are_taken_as_far_as_they_come(sender, tmp_path, labels):
    opened, usable = _sorted_reply(ALL | dict.fromkeys(set_metrics(labels), 2.0))
    assert len(usable) == 1
    report = Report(tmp_path / "out", [], {})
    report.open()
    report.evaluation(RoundPlan(1, 1, "joint", 1, 5, True, 0.5), opened, usable)
    assert set(report.history[0]["sets"]) == set(labels)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (dict.fromkeys(set_metrics(["secret-folder"]), 1.0), "unknown"),
        ({"images@q10": 1.0}, "missing"),
        (dict.fromkeys(set_metrics(["q10"]), 1.0) | {"images@q10": 0.0}, "above zero"),
        ({"psnr-db@q10": 1.0}, "unknown"),
    ],
)
def test_odd_sets_cost_the_node_that_sent_them(sender, names, said):
    opened, usable = _sorted_reply(ALL | names)
    assert usable == []
    assert said in opened.problems[0]
