"""The private store: moments on the node's own disk, never outside of its folder."""

import errno
import os
import stat

import pytest
import torch
from safetensors import SafetensorError

from tavit_flwr.client import store as module
from tavit_flwr.client.store import PrivateStore, default_state_dir
from tavit_flwr.errors import CheckpointError


def moments(version):
    return {"0/exp_avg": torch.full((2, 3), float(version)), "0/step": torch.tensor(float(version))}


def versions(store):
    return sorted(int(path.stem.removeprefix("moments-")) for path in store.folder.glob("*.safetensors"))


@pytest.fixture
def store(tmp_path):
    return PrivateStore(tmp_path / "state", "run", "p0000")


def test_moments_come_back(store):
    path = store.save(3, moments(3))
    assert path == store.path(3)
    back = store.load(3)
    assert back.keys() == moments(3).keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in moments(3).items())


def test_the_last_two_versions_are_kept(store):
    for version in (1, 2, 5):
        store.save(version, moments(version))
    assert versions(store) == [2, 5]


def test_exactly_the_version_asked_for_is_loaded(store):
    for version in (4, 5):
        store.save(version, moments(version))
    assert float(store.load(4)["0/step"]) == 4
    assert store.load(3) is None
    assert store.load(6) is None
    assert store.load(0) is None
    assert store.load(-1) is None


def test_what_was_just_saved_is_kept_beside_newer_versions(store):
    """Newer ones are left over from a run that was resumed from an earlier checkpoint."""
    for version in (7, 8, 3):
        store.save(version, moments(version))
    assert float(store.load(3)["0/step"]) == 3
    store.save(4, moments(4))
    assert float(store.load(3)["0/step"]) == 3
    assert float(store.load(4)["0/step"]) == 4


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", "..", "", "x" * 500, "\0", "ü"])
def test_names_from_the_network_never_leave_the_root(tmp_path, name):
    for store in (PrivateStore(tmp_path / "state", name, "c"), PrivateStore(tmp_path / "state", "r", name)):
        path = store.save(1, moments(1)).resolve()
        assert path.is_relative_to((tmp_path / "state").resolve())
        assert len(path.relative_to((tmp_path / "state").resolve()).parts) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_runs_and_clients_do_not_share(tmp_path):
    names = [("r", "a"), ("r", "b"), ("s", "a"), ("ra", "")]
    folders = {PrivateStore(tmp_path, run, client).folder for run, client in names}
    assert len(folders) == len(names)


def test_only_the_owner_may_look_inside(store):
    store.save(1, moments(1))
    assert stat.S_IMODE(store.folder.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error")])
def test_a_full_disk_is_told_and_the_version_before_stays(store, monkeypatch, error):
    """Safetensors reports a full disk as an error of its own."""
    store.save(1, moments(1))

    def full(*_):
        raise error

    monkeypatch.setattr(module, "write_tensors", full)
    with pytest.raises(CheckpointError, match="free space"):
        store.save(2, moments(2))
    assert float(store.load(1)["0/step"]) == 1
    assert store.load(2) is None


def test_a_write_that_is_cut_leaves_no_half_file(store, monkeypatch):
    store.save(1, moments(1))

    def cut(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(CheckpointError):
        store.save(2, moments(2))
    assert [path.name for path in store.folder.iterdir()] == ["moments-000001.safetensors"]


def test_what_a_killed_process_did_not_finish_goes_with_the_next_write(store, killed):
    store.save(1, moments(1))
    killed(lambda: store.save(2, moments(2)))
    assert len(list(store.folder.iterdir())) == 2
    store.save(3, moments(3), 1)
    assert sorted(path.name for path in store.folder.iterdir()) == [store.path(1).name, store.path(3).name]


def test_what_another_process_is_writing_stays(store):
    store.save(1, moments(1))
    others = store.folder / f".moments-000002.safetensors.{os.getppid()}.tmp"
    others.touch()
    store.save(3, moments(3))
    assert others.exists()


def test_a_damaged_file_is_told(store):
    path = store.save(1, moments(1))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="start afresh"):
        store.load(1)


def test_where_the_state_goes(monkeypatch, tmp_path):
    monkeypatch.setenv("TAVIT_STATE_DIR", str(tmp_path / "x"))
    assert default_state_dir() == tmp_path / "x"
    monkeypatch.delenv("TAVIT_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "y"))
    assert default_state_dir() == tmp_path / "y" / "tavit"
