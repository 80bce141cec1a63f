"""Where images come from: the keys under ``data``, a task's own, and what must not meet."""

from pathlib import Path

import pytest

from tavit_flwr.config import TaskImages, compose, images_of
from tavit_flwr.errors import ConfigError

BOTH = ["experiment=tiny", "clients=[denoise,derain]"]


def images(*overrides, task="derain"):
    return images_of(compose([*BOTH, *overrides]), task)


def test_tasks_share_what_data_says():
    shared = ["data=folder", "data.folder=/a", "data.evaluation_folder=/b"]
    assert images() == TaskImages("bundled", None, None)
    for task in ("denoise", "derain"):
        assert images(*shared, task=task) == TaskImages("folder", Path("/a"), Path("/b"))


def test_a_tasks_own_keys_come_first_each_for_itself():
    shared = ["data=folder", "data.folder=/a", "data.evaluation_folder=/b"]
    own = [*shared, "tasks.derain.folder=/c"]
    assert images(*own) == TaskImages("folder", Path("/c"), Path("/b"))
    assert images(*own, task="denoise") == TaskImages("folder", Path("/a"), Path("/b"))
    own = [*shared, "tasks.derain.evaluation_folder=/c"]
    assert images(*own) == TaskImages("folder", Path("/a"), Path("/c"))


def test_a_task_of_another_source_takes_no_folder_of_the_wrong_kind():
    own = ["data=folder", "data.folder=/a", "data.evaluation_folder=/b", "tasks.derain.source=paired"]
    assert images(*own) == TaskImages("paired", None, None)
    assert images(*own).paired
    assert not images(*own, task="denoise").paired
    assert images(*own, "tasks.derain.folder=/c") == TaskImages("paired", Path("/c"), None)


def test_the_home_folder_may_be_short():
    assert images("data=folder", "data.folder='~/a'").folder == Path.home() / "a"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tasks.derain.source=pared"], r"'pared'.*tasks\.derain\.source.*did you mean 'paired'"),
        (["data.folder=/a"], r"no folder.*'/a'.*data\.source"),
        (["tasks.derain.folder=/a"], r"no folder.*'/a'.*task 'derain'.*data\.source"),
        (["tasks.derain.source=bundled", "tasks.derain.folder=/a"], r"no folder.*tasks\.derain\.source"),
        (["data=folder", "data.folder=images"], r"absolute folder.*'images'.*'data\.folder'"),
        (["data.evaluation_folder=../images"], r"absolute folder.*'\.\./images'.*'data\.evaluation_folder'"),
        (["tasks.derain.source=paired", "tasks.derain.folder=./a"], r"'\./a'.*'tasks\.derain\.folder'"),
        (["data=paired", "data.folder=/a"], r"'/a' for both.*denoise and derain.*tasks\.derain\.folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides, says):
    with pytest.raises(ConfigError, match=says):
        compose([*BOTH, *overrides])


APART = ["data=folder", "data.folder=/a"]


@pytest.mark.parametrize(
    "overrides",
    [
        [*APART, "tasks.derain.folder=/c", "tasks.denoise.evaluation_folder=/c/test"],
        [*APART, "tasks.derain.folder=/c", "tasks.denoise.evaluation_folder=/c"],
        [*APART, "tasks.derain.folder=/a/b"],  # each sets aside images of its own
        [*APART, "tasks.derain.evaluation_folder=/c"],  # derain would train on what denoise sets aside
        [*APART, "tasks.derain.source=paired", "tasks.derain.folder=/a"],
    ],
)
def test_no_task_trains_on_what_another_of_its_body_is_evaluated_on(overrides):
    with pytest.raises(ConfigError, match="held-out images that no other task of the body trains on"):
        compose([*BOTH, *overrides])
    compose(["experiment=tiny", "clients=[derain]", *[word for word in overrides if "denoise" not in word]])


def test_folders_that_are_shared_whole_or_lie_apart_are_fine():
    compose([*BOTH, *APART])
    compose([*BOTH, *APART, "data.evaluation_folder=/b"])
    compose([*BOTH, *APART, "tasks.derain.folder=/ab", "tasks.derain.evaluation_folder=/c"])
    compose([*BOTH, "data=paired"])  # each SuperNode has a folder of its own
