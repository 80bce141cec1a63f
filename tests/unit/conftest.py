"""Processes that are killed while they write."""

import os
import signal
from collections.abc import Callable

import pytest


def killed_at_fsync(write: Callable[[], object]) -> int:
    """Do something in a process that dies, as by a power cut, when it first flushes a file; its process id."""
    child = os.fork()
    if not child:
        try:
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
            write()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return child


@pytest.fixture
def killed():
    return killed_at_fsync
