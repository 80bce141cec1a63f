"""An output folder is one run's at a time, and free again however that ended."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from tavit_flwr.errors import ConfigError
from tavit_flwr.server.output_folder import claimed

HOLDS = """
import pathlib, sys, time
from tavit_flwr.server.output_folder import claimed
with claimed(pathlib.Path(sys.argv[1])):
    print("claimed", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def another(tmp_path):
    """A process that has the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_run_is_told_who_has_the_folder_and_what_to_do(tmp_path, another):
    told = rf"process {another.pid} on .*{re.escape(str(tmp_path))}.*stop it, or choose another output_dir"
    with pytest.raises(ConfigError, match=told), claimed(tmp_path, wait_s=0):
        pass


def test_it_is_free_once_its_process_was_killed(tmp_path, another):
    os.kill(another.pid, signal.SIGKILL)
    another.wait()
    with claimed(tmp_path, wait_s=0):
        pass


def test_a_run_that_is_about_to_end_is_waited_for_and_the_log_says_so(tmp_path, another, caplog):
    threading.Timer(0.5, another.kill).start()
    began = time.monotonic()
    with claimed(tmp_path, wait_s=30):
        assert 0.4 < time.monotonic() - began < 20
    assert f"process {another.pid} on" in caplog.text
    assert caplog.text.count("waiting up to 30 s") == 1


def test_a_process_may_claim_what_it_has(tmp_path):
    with claimed(tmp_path), claimed(tmp_path, wait_s=0):
        pass


def test_a_folder_is_made_but_not_to_resume_in(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(ConfigError, match=r"missing.*correct output_dir"), claimed(missing, resume=True):
        pass
    assert not missing.exists()
    with claimed(missing):
        assert missing.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="output_dir"), claimed(tmp_path / "file" / "out"):
        pass
