"""What is said of overrides and files that do not fit: where, and which valid word is nearest."""

import shutil
import sys

import pytest

from tavit_flwr.config import compose, conf_dir
from tavit_flwr.config.explain import nearest_key
from tavit_flwr.config.overrides import override
from tavit_flwr.errors import ConfigError

TASK = "# @package tasks.defog\n"
EXPERIMENT = "# @package _global_\n"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("schedule.cycls", "schedule.cycles"),
        ("shedule.cycles", "schedule.cycles"),
        ("tasks.defog.degredation", "tasks.defog.degradation"),
        ("schedule.phases[3].stps", "schedule.phases[].steps"),
        ("optimiser.beta1", "optimiser.client.beta1"),
        ("held_out", "data.held_out"),
        ("quorm", "federation.quorum"),
    ],
)
def test_the_nearest_key_is_named(key, near):
    assert nearest_key(key).startswith("did you mean 'optimiser." if "optimiser" in near else f"did you mean '{near}'?")
    assert nearest_key(key).endswith(f"{near.rsplit('.', 1)[-1]}'?")


def test_a_key_is_never_offered_in_place_of_itself():
    assert "'output_dir'" not in nearest_key("output_dir")
    assert "'schedule.cycles'" not in nearest_key("schedule.cycles")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["output_dir=/a,b"], r"can read.*'/a,b'.*\"output_dir='/a,b'\""),
        (["output_dir=/a(b)/c"], r"\"output_dir='/a\(b\)/c'\""),
        (["data.folder=/x=y"], r"'data\.folder=/x=y'.*\"data\.folder='/x=y'\""),
        ("seed=1 output_dir=/a b/c", r"'b/c'.*values with spaces are quoted: \"output_dir='/a b/c'\""),
        (["seed"], r"key=value.*'seed'"),
        (["=3"], r"key=value.*'=3'"),
        (["data=null"], r"'bundled', .*'null'"),
        (["clients=denoise"], r"'denoise'.*clients=denoise.*str is not a"),
        (["schedule.phases=[{kind: joint, stps: 3}]"], r"'schedule\.phases\[\]\.stps'.*'schedule\.phases\[\]\.steps'"),
        (["tasks.denois.body=natural"], r"'tasks\.denois\.body'.*did you mean 'denoise'"),
    ],
)
def test_an_override_that_does_not_fit_is_explained(overrides, says):
    with pytest.raises(ConfigError, match=says) as told:
        compose(overrides)
    assert "hydra.cc" not in str(told.value)


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """Write files beside those of conf/, and compose with them."""
    folder = shutil.copytree(conf_dir(), tmp_path / "conf")
    monkeypatch.setattr(sys.modules["tavit_flwr.config.compose"], "conf_dir", lambda: folder)

    def make(file, text, *overrides):
        (folder / file).write_text(text)
        return compose(overrides)

    return make


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TASK + "degredation: noise\n", r"'tasks\.defog\.degredation'.*defog\.yaml.*'tasks\.defog\.degradation'"),
        ("degradation: noise\n", r"line '# @package tasks\.defog' at the top.*'degradation: noise'.*defog\.yaml"),
        ("# @package task.defog\ndegradation: noise\n", r"line '# @package tasks\.defog'"),
        ("# @package tasks.dehaze\n", r"'defog'.*first line of conf/task/defog\.yaml.*'# @package tasks\.defog'"),
        (TASK + "options: 3\n", r"int to Dict.*defog\.yaml, key 'tasks\.defog\.options'"),
        (TASK + "options: {a: 1\n", r"YAML.*'}'.*conf/task/defog\.yaml, line 3"),
        (TASK + "body: natral\n", r"'natral'.*tasks\.defog\.body.*did you mean 'natural'"),
    ],
)
def test_a_task_file_that_does_not_fit_is_explained(conf, text, says):
    with pytest.raises(ConfigError, match=says):
        conf("task/defog.yaml", text, "clients=[defog]")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (EXPERIMENT + "defaults: [override /model: tny]\n", r"model to be.*'tny'.*x\.yaml.*did you mean 'tiny'"),
        (EXPERIMENT + "defaults: [override /modl: tiny]\n", r"groups among.*'modl'.*x\.yaml.*did you mean 'model'"),
        ("defaults: [override /model: tiny]\n", r"line '# @package _global_' at the top.*x\.yaml"),
        ("name: x\n", r"line '# @package _global_' at the top"),
        (EXPERIMENT + "schedule: {cycls: 3}\n", r"'schedule\.cycls'.*x\.yaml.*'schedule\.cycles'"),
        (EXPERIMENT + "schedule: {cycles: many}\n", r"'many'.*x\.yaml, key 'schedule\.cycles'"),
        (EXPERIMENT + "name: ${nme}\n", r"'nme' not found.*'name'"),
    ],
)
def test_an_experiment_file_that_does_not_fit_is_explained(conf, text, says):
    with pytest.raises(ConfigError, match=says):
        conf("experiment/x.yaml", text, "experiment=x")


def test_a_task_of_ones_own_composes(conf):
    config = conf("task/defog.yaml", f"{TASK}degradation: noise\noptions: {{sigma_255: 15.0}}\n", "clients=[defog]")
    assert config.tasks["defog"].options == {"sigma_255": 15.0}


@pytest.mark.parametrize(
    "path",
    ["/a b/c", "/a,b", "/a(b)=c", "/a'b", '/a"b', "/a\\b", "/a\\", "/a\\'b", "/${HOME}", "/[a]{b}", "/ü 日", "/a#b"],
)
def test_an_override_that_a_program_wrote_says_what_was_meant(path):
    assert compose(["experiment=tiny", override("output_dir", path)]).output_dir == path
