"""``compute.batch_waiting``: fewer passes of a frozen body, the same training but for the last bits."""

import threading
import time

import pytest
import torch

from tavit_flwr.errors import SessionError

TASKS = ["denoise", "deblock", "derain"]
STEPS = 6
#: Crops of a step of the lab's clients.
BATCH = 2


@pytest.fixture
def slow(twin):
    """Two labs; the first one's body takes its time, so that others come to wait, and counts the rows of its passes."""
    split, unsplit = twin(TASKS)
    rows = []
    split.body.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])) or time.sleep(0.02))
    return split, unsplit, rows


def test_with_it_those_who_wait_share_passes_and_every_weight_is_the_unsplit_one(slow):
    split, unsplit, rows = slow
    start = split.weights()
    split.run_split("task-specific", STEPS, gathers=True)
    unsplit.run_unsplit("task-specific", STEPS)
    ours, reference = split.weights(), unsplit.weights()
    moved = [name for name in start if not torch.equal(start[name], ours[name])]
    assert moved
    assert all(float((ours[name] - reference[name]).norm() / reference[name].norm()) < 1e-5 for name in moved)
    assert sum(rows) == BATCH * STEPS * len(TASKS)
    assert max(rows) > BATCH
    assert all(torch.equal(start[name], ours[name]) for name in start if name.startswith("body/"))


def test_without_it_each_runs_alone_with_the_unsplit_bits(slow):
    split, unsplit, rows = slow
    split.run_split("task-specific", STEPS)
    unsplit.run_unsplit("task-specific", STEPS)
    ours, reference = split.weights(), unsplit.weights()
    assert [name for name in ours if not torch.equal(ours[name], reference[name])] == []
    assert rows == [BATCH] * STEPS * len(TASKS)


def test_a_client_that_leaves_in_the_middle_does_not_stop_the_others(slow):
    split, _, _ = slow
    leaver, draw = split.clients[1], split.clients[1].batch
    left = threading.Event()

    def batch(step):
        if step == 2:
            left.set()
            raise SessionError("a client that goes on", "one that leaves")
        return draw(step)

    leaver.batch = batch
    with pytest.raises(SessionError, match="one that leaves"):
        split.run_split("task-specific", STEPS, gathers=True)
    assert left.is_set()
    assert [len(one.losses) for one in (split.clients[0], split.clients[2])] == [STEPS, STEPS]
