"""The commands that need trained weights: exit status, and one line for what went wrong."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from tavit_flwr.cli import app
from tavit_flwr.config import to_dict
from tavit_flwr.models import build_parts
from tavit_flwr.models.stored import describe
from tavit_flwr.server.checkpoint import Checkpoint, RunState, save
from tavit_flwr.server.initial import initial_weights


@pytest.fixture
def images(tmp_path, make_images):
    """The test's own, to be damaged."""
    return make_images(tmp_path / "photographs")


@pytest.fixture
def weights(tmp_path, tiny):
    """A run's output folder."""
    config = tiny()
    checkpoint = Checkpoint(RunState("key", 1, to_dict(config)), initial_weights(config).flat(), {})
    save(tmp_path / "run" / "checkpoints", checkpoint, 3)
    return tmp_path / "run"


@pytest.fixture
def tavit():
    """Call a command; `(exit status, standard output, standard error)`."""

    def call(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


def test_restore(tavit, weights, images, tmp_path):
    words = ("restore", "--weights", weights, "--task", "denoise", images, "--output", tmp_path / "out", "--stride", 32)
    assert tavit(*words)[0] == 0
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert tavit(*words)[0] == 1  # they exist
    assert tavit(*words, "--overwrite", "--bf16", "--batch-size", 2, "--device", "cpu")[0] == 0
    (images / "broken.png").write_text("no image")
    status, _, errors = tavit(*words, "--overwrite")
    assert status == 1
    assert [line for line in errors.splitlines() if line.startswith("failed:") and "broken.png" in line]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "derain"), "deblock, denoise"),
        (("--weights", "absent"), "CheckpointError"),
        (("--stride", 99), "stride"),
        (("--device", "tpu"), "ConfigError"),
    ],
)
def test_what_cannot_begin_is_one_line_and_status_2(tavit, weights, images, tmp_path, words, said):
    usual = {"--task": "denoise", "--weights": weights, "--stride": 32}
    given = [word for pair in (usual | {words[0]: words[1]}).items() for word in pair]
    for command in (("restore", images, "--output", tmp_path / "out"), ("evaluate", "--clean", images)):
        status, _, errors = tavit(*command, *given)
        assert status == 2
        assert said in errors
        assert len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_evaluate(tavit, weights, images, tmp_path):
    words = ("evaluate", "--weights", weights, "--task", "denoise", "--clean", images, "--stride", 32, "--limit", 2)
    status, output, _ = tavit(*words, "--output", tmp_path / "out", "--pictures", "--option", "sigma_255=5")
    assert status == 0
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert document["about"]["degradation"]["options"] == {"sigma_255": 5}
    assert f"{document['means']['all']['restored']['psnr_db']:.2f}" in output
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2
    for wrong, said in (
        (("--pictures",), "--output"),
        (("--option", "sigma_255"), "NAME=VALUE"),
        (("--option", "sigma=5"), "sigma_255"),
        (("--against", "bm5d"), "wavelet"),
    ):
        status, _, errors = tavit(*words, *wrong)
        assert status == 2
        assert said in errors
    (images / "image1.png").write_text("no image")
    assert tavit(*words)[0] == 1


def test_evaluate_on_pairs(tavit, weights, images, tmp_path):
    shutil.copytree(images, tmp_path / "pairs" / "clean")
    shutil.copytree(images, tmp_path / "pairs" / "degraded")
    words = ("evaluate", "--weights", weights, "--task", "denoise", "--stride", 32)
    status, output, _ = tavit(*words, "--pairs", tmp_path / "pairs")
    assert status == 0
    assert "given pairs" in output
    for wrong, said in (
        (("--pairs", tmp_path / "pairs", "--seed", 3), "no --seed beside pairs"),
        (("--pairs", tmp_path / "absent"), "check --pairs"),
        ((), "--clean"),
    ):
        status, _, errors = tavit(*words, *wrong)
        assert status == 2
        assert said in errors


def test_import_and_export(tavit, weights, tmp_path):
    parts = build_parts("paper")
    for part in ("head", "body", "tail"):
        torch.save(getattr(parts, part).state_dict(), tmp_path / f"{part}.pt")
    words = (
        "import-checkpoint", "--body", tmp_path / "body.pt", "--head", f"denoise={tmp_path / 'head.pt'}",
        "--tail", f"denoise={tmp_path / 'tail.pt'}", "--output", tmp_path / "in",
    )  # fmt: skip
    status, output, _ = tavit(*words)
    assert status == 0
    assert "imported denoise" in output
    assert describe(tmp_path / "in").bodies == {"denoise": "natural"}
    assert tavit(*words)[0] == 2  # it exists
    wrong = (*words[:-1], tmp_path / "other", "--head", "derain")
    status, _, errors = tavit(*wrong)
    assert status == 2
    assert "NAME=VALUE" in errors
    assert (
        tavit("export-checkpoint", "--weights", tmp_path / "in", "--task", "denoise", "--output", tmp_path / "o")[0]
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["body.pt", "head.pt", "tail.pt"]
    status, _, errors = tavit(
        "export-checkpoint", "--weights", weights, "--task", "denoise", "--output", tmp_path / "p"
    )
    assert status == 0
    assert "published code cannot load" in errors
