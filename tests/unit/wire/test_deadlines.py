"""The watchdog: it bites in time, and sleeps through waits that end before."""

import threading
import time

import pytest

from tavit_flwr.wire.deadlines import Watchdog

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def watchdog():
    bitten = threading.Event()
    watchdog = Watchdog(lambda _: bitten.set())
    watchdog.bitten = bitten
    yield watchdog
    watchdog.close()


def test_a_wait_that_takes_too_long_is_named(watchdog):
    with watchdog.within(0.05, "an answer"):
        assert watchdog.bitten.wait(10)
    assert watchdog.expired == "an answer"


def test_a_shorter_deadline_after_a_longer_one_is_kept(watchdog):
    with watchdog.within(60, "the first"):
        pass
    with watchdog.within(0.05, "the second"):
        assert watchdog.bitten.wait(10)


def test_a_longer_deadline_after_a_shorter_one_is_kept(watchdog):
    with watchdog.within(0.1, "the first"):
        pass
    began = time.monotonic()
    with watchdog.within(0.5, "the second"):
        assert watchdog.bitten.wait(10)
    assert time.monotonic() - began > 0.45


def test_waits_that_end_in_time_do_not_wake_it(watchdog):
    with watchdog.within(60, "a wait"):
        time.sleep(0.05)
    looks = []
    wait = watchdog._changed.wait
    watchdog._changed.wait = lambda timeout=None: looks.append(timeout) or wait(timeout)
    for _ in range(100):
        with watchdog.within(60, "a wait"):
            pass
    time.sleep(0.05)
    assert looks == []
