"""Moments that nobody needs are found and deleted; nothing else ever is."""

import os
import time

import pytest
import torch
from typer.testing import CliRunner

from tavit_flwr.cli import app
from tavit_flwr.client.leftovers import find_leftovers
from tavit_flwr.client.scratch import Memory, Scratch
from tavit_flwr.client.store import PrivateStore

DAY_S = 86400


def save(root, run, client="p0000", days=0.0):
    store = PrivateStore(root, run, client)
    for version in (1, 2):
        path = store.save(version, {"0/exp_avg": torch.zeros(64, 64)}, version - 1)
        os.utime(path, (time.time() - days * DAY_S,) * 2)
    return store


@pytest.fixture
def tavit(tmp_path):
    return lambda *words: CliRunner().invoke(app, ["clean-state", str(tmp_path / "state"), *words])


def test_every_store_is_found_with_its_size_and_age(tmp_path):
    stores = [save(tmp_path, "r", "a"), save(tmp_path, "r", "b"), save(tmp_path, "s", "a", days=3)]
    found = {one.folder: one for one in find_leftovers(tmp_path)}
    assert set(found) == {store.folder for store in stores}
    assert all(one.size_bytes > 2 * 64 * 64 * 4 for one in found.values())
    assert found[stores[2].folder].last_used_s == pytest.approx(time.time() - 3 * DAY_S, abs=60)


def test_what_a_session_by_messages_left_goes_with_the_moments(tmp_path):
    store = save(tmp_path, "r")
    scratch = Scratch(store.folder, "token")
    scratch.begin()
    scratch.commit(Memory(), [b"reply"], {"head/weight": torch.zeros(4)})
    (found,) = find_leftovers(tmp_path)
    found.remove()
    assert not store.folder.parent.exists()


def test_all_that_is_kept_under_keys_goes_with_the_moments(tmp_path):
    store = save(tmp_path, "r")
    for kind in ("arrays", "body", "pass0", "pass12"):
        store.keep(kind, "key", {"a": torch.zeros(4)}, beside="key")
    (found,) = find_leftovers(tmp_path)
    assert len(found.files) == 6
    found.remove()
    assert not store.folder.parent.exists()


def test_what_a_killed_process_did_not_finish_goes_with_the_moments(tmp_path, killed):
    store = save(tmp_path, "r")
    killed(lambda: store.save(3, {"0/exp_avg": torch.zeros(64, 64)}))
    (found,) = find_leftovers(tmp_path)
    assert len(found.files) == 3
    found.remove()
    assert not store.folder.parent.exists()


def test_what_is_not_a_stores_is_never_found(tmp_path):
    folder = save(tmp_path / "state", "r").folder
    (folder / "notes.safetensors").touch()
    (folder / "moments-1.safetensors").touch()
    (folder / "arrays-1.safetensors").touch()
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "moments-000001.safetensors").touch()
    (folder.parent / ("1" * 16)).symlink_to(target)
    (folder / "moments-000009.safetensors").symlink_to(target / "moments-000001.safetensors")
    other = tmp_path / "state" / "photographs" / "holiday"
    other.mkdir(parents=True)
    (other / "moments-000001.safetensors").touch()
    (found,) = find_leftovers(tmp_path / "state")
    assert found.folder == folder
    assert [file.name for file in found.files] == ["moments-000001.safetensors", "moments-000002.safetensors"]


def test_only_old_ones_go_and_only_when_asked(tmp_path, tavit):
    new, old = save(tmp_path / "state", "new"), save(tmp_path / "state", "old", days=31)
    listed = tavit()
    assert listed.exit_code == 0
    assert str(old.folder) in listed.output.replace("\n", "")
    assert str(new.folder) not in listed.output.replace("\n", "")
    assert "found 1 stores" in listed.output
    assert old.path(2).is_file()
    assert "deleted 1 stores" in tavit("--delete").output
    assert not old.folder.parent.exists()
    assert new.path(1).is_file()
    assert "found 1 stores" in tavit("--older-than-days", "0").output


def test_pictures_stay(tmp_path, tavit):
    store = save(tmp_path / "state", "r")
    (store.folder / "pictures").mkdir()
    (store.folder / "pictures" / "a.png").touch()
    tavit("--older-than-days", "0", "--delete")
    assert [path.name for path in store.folder.iterdir()] == ["pictures"]


def test_a_folder_that_is_not_there_holds_nothing(tavit):
    answer = tavit("--delete")
    assert answer.exit_code == 0
    assert "deleted 0 stores" in answer.output
