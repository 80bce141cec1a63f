"""Who a node is: by its partition in simulation, by its operator's settings otherwise."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tavit_flwr.client.node import identify, slots, task_of, threads
from tavit_flwr.client.reach import choose_carrier
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.config import DataConfig, TaskConfig, TavitConfig, WireConfig, compose
from tavit_flwr.config.counts import places
from tavit_flwr.errors import CheckpointError, ConfigError, SessionError, TavitError
from tavit_flwr.server.roster import Roster
from tavit_flwr.server.selection import evaluators
from tavit_flwr.wire.probe import Probe
from tavit_flwr.wire.records import Order


@pytest.fixture(autouse=True)
def state(monkeypatch, tmp_path):
    monkeypatch.setenv("TAVIT_STATE_DIR", str(tmp_path / "state"))


def config(clients=("denoise", "deblock", "deblock", "derain"), **data):
    return TavitConfig(
        clients=list(clients), tasks={task: TaskConfig() for task in dict.fromkeys(clients)}, data=DataConfig(**data)
    )


@settings(max_examples=60)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
def test_every_task_comes_once_before_any_comes_twice(clients):
    order = places(clients)
    assert sorted(order) == list(range(len(clients)))
    tasks = [clients[index] for index in order]
    for count in range(1, len(tasks) + 1):
        seen = tasks[:count]
        if any(seen.count(task) > 1 for task in seen):
            assert set(seen) == set(clients)
    assert places(clients) == order


def test_partitions_become_clients(tmp_path):
    nodes = [identify({"partition-id": index, "num-partitions": 4}, config()) for index in range(4)]
    assert [node.task for node in nodes] == ["denoise", "deblock", "derain", "deblock"]
    assert [node.client for node in nodes] == ["p0000", "p0001", "p0002", "p0003"]
    assert [(node.shard, node.shards) for node in nodes] == [(0, 1), (0, 2), (0, 1), (1, 2)]
    assert {node.folder for node in nodes} == {None}
    assert {node.state_dir for node in nodes} == {tmp_path / "state"}


def test_a_folder_that_may_not_be_entered_is_told_by_its_key(monkeypatch, tmp_path):
    def refused(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(tmp_path), "is_dir", refused)
    with pytest.raises(ConfigError, match=r"may not enter.*'data-dir'") as told:
        identify({"task": "denoise", "data-dir": str(tmp_path)}, config())
    assert str(tmp_path) not in told.value.told()


def test_a_name_that_could_not_be_written_whole_is_not_kept(monkeypatch, tmp_path):
    """An empty file would make every such node the client without a name."""

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(CheckpointError, match="state-dir"):
            identify({"task": "denoise"}, config())
    assert not (tmp_path / "state" / "client-name").exists()
    assert identify({"task": "denoise"}, config()).client.startswith("n-")


def test_more_nodes_than_clients_idle():
    node = identify({"partition-id": 4, "num-partitions": 5}, config())
    assert node.task == ""
    with pytest.raises(ConfigError, match="p0004"):
        task_of(node, config())


def test_a_supernodes_settings_are_taken(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    settings_ = {"task": "deblock", "data-dir": str(folder), "state-dir": str(tmp_path / "own")}
    node = identify(settings_, config())
    assert (node.task, node.folder, node.state_dir) == ("deblock", folder, tmp_path / "own")
    assert (node.shard, node.shards) == (0, 1)
    assert node.client.startswith("n-")
    assert identify(settings_, config()).client == node.client  # kept on disk
    other = identify(settings_ | {"state-dir": str(tmp_path / "other")}, config())
    assert other.client != node.client


def test_an_unknown_task_is_named():
    with pytest.raises(ConfigError, match=r"deblock.*'sharpen'.*node configuration 'task'"):
        identify({"task": "sharpen"}, config())


def test_a_folder_that_is_not_there_is_told(tmp_path):
    for node_config in ({"task": "denoise"}, {"partition-id": 0}):
        with pytest.raises(ConfigError, match="data-dir") as told:
            identify(node_config | {"data-dir": str(tmp_path / "nothing")}, config())
        assert "nothing" not in told.value.told()


def test_a_file_in_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="data-dir"):
        identify({"task": "denoise", "data-dir": str(tmp_path / "file")}, config())


def test_a_node_without_images_of_its_own_is_told():
    with pytest.raises(ConfigError, match="data-dir"):
        identify({"task": "denoise"}, config(source="folder", folder="/the/servers"))


@pytest.mark.parametrize("node_config", [{}, {"num-partitions": 3}])
def test_a_node_that_says_nothing_is_told(node_config):
    with pytest.raises(ConfigError, match="'task' or 'partition-id'"):
        identify(node_config, config())


def test_a_state_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(TavitError, match="state-dir") as told:
        identify({"task": "denoise", "state-dir": str(tmp_path / "file" / "x")}, config())
    assert str(tmp_path) not in told.value.told()


def test_nothing_limits_clients_outside_ray():
    assert slots() == 0


def test_a_folder_source_without_a_folder_is_told_by_the_node():
    """The server cannot know: on a SuperNode the folder is the node's own."""
    config = compose("experiment=tiny data=folder")
    node = identify({"partition-id": 0, "num-partitions": 2}, config)
    with pytest.raises(ConfigError, match=r"data\.folder"):
        Workshop.open(node, config)


@pytest.mark.parametrize(
    ("node_config", "told"),
    [
        ({"task": "denoise", "data-dirr": "x"}, r"'data-dirr'.*'data-dir'"),
        ({"task": "denois"}, r"'denois'.*'denoise'"),
        ({"task": "denoise", "body": "ct"}, r"'natural'.*'ct'.*node configuration 'body'"),
        ({"task": "denoise", "threads": -1}, "node configuration 'threads'"),
        ({"task": "denoise", "threads": "two"}, "node configuration 'threads'"),
        ({"task": "denoise", "evaluation-dir": "/nowhere/at/all"}, "node configuration 'evaluation-dir'"),
    ],
)
def test_a_wrong_setting_is_named(node_config, told):
    with pytest.raises(TavitError, match=told) as error:
        identify(node_config, config())
    assert "/nowhere" not in error.value.told()


def test_operators_say_body_threads_and_held_out_images(tmp_path):
    folders = [tmp_path / name for name in ("images", "aside")]
    for folder in folders:
        folder.mkdir()
    node = identify(
        {
            "task": "denoise",
            "body": "natural",
            "threads": 3,
            "data-dir": str(folders[0]),
            "evaluation-dir": str(folders[1]),
        },
        config(),
    )
    assert (node.folder, node.evaluation_folder, node.threads, node.deployed) == (*folders, 3, True)
    assert not identify({"partition-id": 0}, config()).deployed


def test_the_nearest_word_on_threads_counts(monkeypatch):
    operators, plain = (identify({"task": "denoise", "threads": n}, config()) for n in (3, 0))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads(operators, 2) == 3
    assert threads(plain, 2) == 2
    assert threads(plain, 0) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert threads(plain, 0) == 7


def test_folders_that_the_experiment_names_are_not_a_deployed_nodes(tmp_path):
    """A path that comes over the network is not opened."""
    for name in ("own", "named"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / name / "a.png")
        Image.new("RGB", (64, 64)).save(tmp_path / name / "b.png")
    named = str(tmp_path / "named")
    experiment = compose(
        ["experiment=tiny", "data=folder", f"data.folder={tmp_path}/elsewhere", f"data.evaluation_folder={named}"]
    )
    own = {"task": "denoise", "data-dir": str(tmp_path / "own"), "state-dir": str(tmp_path / "state")}
    workshop = Workshop.open(
        identify(own, experiment),
        dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, held_out=1)),
    )
    assert len(workshop.data.held_out) == 1  # set aside from its own
    assert len(workshop.data.train) == 1


def test_nodes_without_images_of_their_own_say_that_they_share_the_bundled_ones(fake_grid, images, tmp_path, caplog):
    own = {"task": "deblock", "data-dir": str(images), "state-dir": str(tmp_path / "c")}
    none = [{"task": "denoise", "state-dir": str(tmp_path / name)} for name in "ab"]
    grid = fake_grid(node_configs=[*none, own])
    config = compose("experiment=tiny data.held_out=1 wire=messages")
    participants = Roster(grid, config, Probe("", b"", "")).gather()
    shared = {one.node_id: one.enrolment.shared_held_out for one in participants}
    assert shared == {100: True, 101: True, 102: False}
    assert sorted(one.task for one in evaluators(participants)) == ["deblock", "denoise"]
    assert caplog.text.count("no data-dir: this node trains on the bundled photographs") == 2


@pytest.mark.parametrize(
    ("value", "required"), [({}, False), ({"require-tls": True}, True), ({"require-tls": False}, False)]
)
def test_a_node_may_require_tls(value, required):
    assert identify({"task": "denoise"} | value, config()).require_tls is required


def test_anything_but_true_or_false_is_refused():
    with pytest.raises(ConfigError, match="'yes'; at node configuration 'require-tls'"):
        identify({"task": "denoise", "require-tls": "yes"}, config())


@pytest.mark.parametrize("carrier", ["stream", "auto", "messages"])
def test_a_node_that_requires_tls_takes_no_stream_without_it(carrier):
    wire, probe = WireConfig(carrier=carrier, insecure=True), Probe("203.0.113.5:9443", b"", "")
    if carrier == "stream":
        with pytest.raises(SessionError, match=r"no TLS at 203\.0\.113\.5:9443.*require-tls"):
            choose_carrier(wire, probe, require_tls=True)
    else:
        assert choose_carrier(wire, probe, require_tls=True)[0] == "messages"


def order_without_tls():
    return Order("{}", "run", "127.0.0.1:1", "token", b"", "stream", "joint", 1, 1, 1, 0, 1)


def test_a_session_without_tls_is_refused_or_warned_of(caplog):
    settings = compose(["experiment=tiny", "wire.insecure=true"])
    node = identify({"task": "denoise"}, settings)
    with Workshop.open(node, settings).stream(order_without_tls()):
        assert "no TLS to 127.0.0.1:1: token, features and gradients travel readable" in caplog.text
    strict = Workshop.open(dataclasses.replace(node, require_tls=True), settings)
    with pytest.raises(SessionError, match="without require-tls"):
        strict.stream(order_without_tls())
