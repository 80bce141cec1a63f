"""What is told before a run starts, by `tavit config` too."""

import pytest
from flwr.app import ConfigRecord
from omegaconf import OmegaConf
from typer.testing import CliRunner

from tavit_flwr.cli import app
from tavit_flwr.config import compose
from tavit_flwr.errors import ConfigError
from tavit_flwr.server.check import check_experiment, refuse_records, warn_of_shared_photographs, without_folder
from tavit_flwr.server_app import simulated


def check(*overrides, simulated=True):
    check_experiment(compose(["experiment=tiny", *overrides]), simulated=simulated)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tasks.deblock.degradation=jpg"], r"'jpg'.*task 'deblock'.*did you mean 'jpeg'"),
        (["+tasks.denoise.options.sigma=3"], r"'sigma'.*task 'denoise'.*did you mean 'sigma_255'"),
        (["tasks.denoise.options.sigma_255=much"], r"'much'.*'sigma_255' of degradation 'noise', task 'denoise'"),
        (["model.preset=smal"], r"'smal'.*did you mean 'small'"),
        (["+model.overrides.wdth=8"], r"'wdth'.*did you mean 'width'"),
        (["+model.overrides.width=9"], r"width"),
        (["data.crop=34"], r"multiple of 4.*34.*data\.crop"),
        (["data.batch_size=65536"], r"256 MiB.*data\.batch_size=65536.*lower data\.batch_size"),
        (["evaluation.batch_size=65536"], r"256 MiB.*evaluation\.batch_size=65536"),
        (["wire.max_frame_mib=0.01"], r"0\.01 MiB.*wire\.max_frame_mib"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("simulated", [True, False])
def test_what_cannot_work_is_told_before_anything_starts(overrides, says, simulated):
    with pytest.raises(ConfigError, match=says):
        check(*overrides, simulated=simulated)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data=folder"], r"folder of images.*none.*task 'denoise'.*data\.folder or tasks\.denoise\.folder"),
        (["data=folder", "data.folder=/nowhere/at/all"], r"existing folder.*'/nowhere/at/all'.*task 'denoise'"),
        (["data.evaluation_folder=/nowhere/at/all"], r"existing folder.*'/nowhere/at/all'"),
        (["data.held_out=3"], r"at most 2.*3.*data\.held_out"),
        (["clients=[denoise,denoise,denoise,denoise,denoise,denoise,denoise]"], r"at most 6 clients.*'denoise'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_in_simulation_the_images_are_known_too(overrides, says):
    check(*overrides, simulated=False)  # SuperNodes may have images of their own
    with pytest.raises(ConfigError, match=says):
        check(*overrides)


def test_what_fits_passes(tmp_path):
    check()
    check("model=paper", "schedule=paper", "data.crop=64")
    check("data=folder", f"data.folder={tmp_path}")
    # The degradation of pairs is not used, and what is not used cannot be wrong.
    check(
        "clients=[denoise]", "data=paired", f"data.folder={tmp_path}", "tasks.denoise.degradation=none",
    )  # fmt: skip


def test_the_largest_frame_that_fits_is_allowed():
    """Two tensors of 4 crops at 8x8x32 floats, and a header."""
    check("data.batch_size=4", "evaluation.batch_size=8", f"wire.max_frame_mib={(8 * 8 * 8 * 32 * 4 + 4096) / 2**20}")
    with pytest.raises(ConfigError):
        check(
            "data.batch_size=5", "evaluation.batch_size=8", f"wire.max_frame_mib={(8 * 8 * 8 * 32 * 4 + 4096) / 2**20}"
        )


def test_tasks_without_a_folder_are_named():
    assert without_folder(compose("experiment=tiny data=folder tasks.denoise.folder=/a")) == ["deblock"]
    assert without_folder(compose("experiment=tiny")) == []


def test_nodes_that_would_train_on_the_same_images_are_told(caplog):
    warn_of_shared_photographs(compose("experiment=tiny data=folder data.folder=/a"))
    assert caplog.text == ""
    warn_of_shared_photographs(compose("experiment=tiny tasks.denoise.source=folder tasks.denoise.folder=/a"))
    assert "deblock: nodes without a data-dir all train on the same bundled photographs" in caplog.text


def test_flowers_simulation_is_known_by_its_grid():
    """The name that this relies on; when Flower changes it, the check of folders moves to the nodes' enrolment."""
    from flwr.superlink.grid.inmemory_grid import InMemoryGrid

    assert simulated(InMemoryGrid.__new__(InMemoryGrid))
    assert not simulated(object())


@pytest.fixture
def tavit():
    return lambda *words: CliRunner().invoke(app, ["config", "experiment=tiny", *words])


def test_the_command_prints_what_a_run_would_use(tavit):
    answer = tavit("schedule.cycles=5")
    assert answer.exit_code == 0
    assert OmegaConf.create(answer.stdout).schedule.cycles == 5
    assert answer.stderr == ""


def test_the_command_refuses_what_a_run_would_refuse(tavit):
    answer = tavit("tasks.denoise.degradation=nois")
    assert answer.exit_code == 2
    assert "did you mean 'noise'" in answer.stderr
    assert "Traceback" not in answer.output


def test_the_command_says_which_images_nodes_must_bring(tavit):
    answer = tavit("data=folder")
    assert answer.exit_code == 0
    assert "no folder for denoise, deblock" in answer.stderr
    assert OmegaConf.create(answer.stdout).data.source == "folder"


def test_records_that_no_order_would_carry_are_refused():
    refuse_records(train_config=None, evaluate_config=ConfigRecord())
    with pytest.raises(ConfigError, match=r"no 'train_config'.*'lr'.*own keys"):
        refuse_records(train_config=ConfigRecord({"lr": 0.1}), evaluate_config=None)
