"""The paper's experiment: every value of the record is in it and marked, and it runs to its end at toy size."""

import json

import numpy as np
import pytest
from PIL import Image

from tavit_flwr.config import compose, conf_dir
from tavit_flwr.errors import ConfigError

TEXT = (conf_dir() / "experiment" / "paper.yaml").read_text()


@pytest.fixture(scope="module")
def paper():
    return compose("experiment=paper data.folder=/data")


def test_every_value_says_whose_it_is():
    unmarked, above = [], ""
    for line in TEXT.splitlines()[4:]:
        value, _, comment = line.partition(" # ")
        key, _, rest = value.strip().partition(":")
        marked = "paper" in comment or "ours" in comment
        if value.strip() and not value.startswith(" "):
            above = comment if marked else ""  # a mark beside a group holds for what is in it
        folder_of_marked = key in ("folder", "evaluation_folder", "data_folder") and "${data.folder}" in rest
        if rest.strip() and not (marked or above or folder_of_marked or key in ("name", "# flwr run .")):
            unmarked.append(line)
    assert unmarked == []


def test_it_is_the_papers_as_far_as_the_record_goes(paper):
    assert sorted(paper.clients) == ["deblock", "deblock", "deblur", "denoise", "derain"]
    assert paper.schedule.cycles == 3
    assert [phase.kind for phase in paper.schedule.phases] == ["task-specific", "task-agnostic"]
    client = paper.optimiser.client
    assert (client.name, client.lr, client.beta1, client.beta2, client.decay) == ("adam", 3e-5, 0.5, 0.999, "none")
    assert (paper.model.preset, paper.model.overrides) == ("paper", {})
    assert (paper.data.crop, paper.evaluation.stride) == (64, 16)
    assert paper.federation.average == "uniform"
    assert paper.tasks["deblock"].options == {"qualities": [10, 50], "subsampling": "4:4:4"}
    assert paper.tasks["denoise"].options == {"sigma_255": 30.0}
    assert {task.body for task in paper.tasks.values()} == {"natural"}
    assert {name: task.source for name, task in paper.tasks.items()} == {
        "deblock": "voc", "denoise": None, "derain": "paired", "deblur": "paired",
    }  # fmt: skip


def test_without_the_folder_it_says_so():
    with pytest.raises(ConfigError, match=r"data\.folder"):
        compose("experiment=paper")


def _images(folder, count, start=0, **pairs):
    """Smooth images of 40x40; as pairs with the strength of their damage if folders are named."""
    rows, columns = np.mgrid[0:40, 0:40] / 40
    for index in range(start, start + count):
        clean = np.stack([128 + 90 * np.sin((index + 3) * rows + 5 * columns + c) for c in range(3)], -1)
        for side, strength in pairs.items() if pairs else [("", 0)]:
            path = folder / side / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((clean + strength).astype(np.uint8)).save(path)


def test_it_runs_to_its_end_at_toy_size(fake_grid, run, tmp_path, monkeypatch):
    data = tmp_path / "data"
    _images(data / "voc2012-sbd", 4)
    _images(data / "bsds500" / "images" / "train", 3, 10)
    _images(data / "bsds500" / "images" / "test", 2, 20)
    _images(data / "cbsd68", 1, 30)
    for name in ("rain1800", "rain12"):
        _images(data / "rain" / "train" / name, 2, 40, rain=20, norain=0)
    _images(data / "rain" / "test" / "rain100h", 1, 50, rain=30, norain=0)
    _images(data / "rain" / "test" / "rain100l", 2, 51, rain=5, norain=0)
    _images(data / "gopro" / "train" / "scene1", 2, 60, blur=3, sharp=0)
    _images(data / "gopro" / "test" / "scene2", 1, 70, blur=3, sharp=0)
    config = compose(
        ["experiment=paper", f"data.folder={data}", "model=tiny", "data.crop=32", "data.batch_size=2",
         "schedule.phases=[{kind: task-specific, steps: 1}, {kind: task-agnostic, steps: 1}]", "evaluation.stride=32",
         "tasks.deblock.source=folder", "wire.join_timeout_s=20", "wire.step_timeout_s=20", "compute.client_threads=1"]
    )  # fmt: skip
    run(config, tmp_path / "out", fake_grid(5))
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["event"] == "evaluate"]
    assert sorted({line["cycle"] for line in evaluations}) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert not any(line["left_out"] for line in lines)
    last = {line["task"]: line["sets"] for line in evaluations if line["cycle"] == 3.0}
    assert {task: {name: sets["images"] for name, sets in found.items()} for task, found in last.items()} == {
        "deblock": {"q10": 2, "q50": 2}, "denoise": {}, "derain": {"rain100h": 1, "rain100l": 2}, "deblur": {},
    }  # fmt: skip
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: task["images"] for name, task in results["tasks"].items()} == {
        "deblock": 4, "denoise": 1, "derain": 3, "deblur": 1,
    }  # fmt: skip
