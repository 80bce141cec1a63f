"""Faults inside a client's process: what a test asks for, done to the real ClientApp before it handles a message."""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

from tavit_flwr import files
from tavit_flwr.client import evaluation, session
from tavit_flwr.client.evaluation import Evaluation
from tavit_flwr.data import BatchStream


def apply(fault: dict | None) -> None:
    """Make this process one with a fault: ``{"kind": ..., ...}``."""
    if fault:
        kinds = {"kill": _kill, "hold": _hold, "slow": _slow, "asleep": _asleep, "nan": _nan, "disk-full": _disk_full}
        kinds[fault["kind"]](fault)


def _at_each_batch(do) -> None:
    batch = BatchStream.batch

    def wrapped(self, cycle, phase, round_, step):
        do(phase, round_, step)
        return batch(self, cycle, phase, round_, step)

    BatchStream.batch = wrapped


def _kill(fault: dict) -> None:
    """Kill this process when it draws the batch of a step."""
    _at_each_batch(lambda phase, round_, step: os.kill(os.getpid(), signal.SIGKILL) if step == fault["step"] else None)


def _hold(fault: dict) -> None:
    """Stop at a step where a file ``<phase>.on`` is, write one with this pid, and wait until that is gone.

    The file may hold the number of the round to stop in. At ``evaluate.on`` it stops before an evaluation, at
    ``evaluating.on`` once the body has answered in one.
    """
    folder = Path(fault["folder"])

    def do(phase: str, round_: int, step: int) -> None:
        on = folder / f"{phase}.on"
        if step == fault["step"] and on.exists() and on.read_text() in ("", str(round_)):
            held = folder / f"{phase}.held"
            beside = folder / f"{phase}.beside"
            beside.write_text(str(os.getpid()))
            beside.rename(held)
            deadline = time.monotonic() + 200
            while held.exists() and time.monotonic() < deadline:
                time.sleep(0.02)

    _at_each_batch(do)
    begin = Evaluation.begin.__func__

    def wrapped(cls, workshop, order, tensors):
        do("evaluate", order.round, fault["step"])
        return begin(cls, workshop, order, tensors)

    Evaluation.begin = classmethod(wrapped)
    restore = evaluation.tail_restore

    def answered(*args):
        do("evaluating", 1, fault["step"])
        return restore(*args)

    evaluation.tail_restore = answered


def _slow(fault: dict) -> None:
    """Take so many times as long from one batch to the next as this machine does, up to a second."""
    last = [time.monotonic()]

    def do(phase: str, round_: int, step: int) -> None:
        if step:
            took_s = time.monotonic() - last[0]
            time.sleep(min((fault["factor"] - 1) * took_s, 1))
            print(f"slowed: {(time.monotonic() - last[0]) / took_s:.1f} times", flush=True)
        last[0] = time.monotonic()

    _at_each_batch(do)


def _asleep(fault: dict) -> None:
    """Sleep once, at a step."""
    _at_each_batch(lambda phase, round_, step: time.sleep(fault["seconds"]) if step == fault["step"] else None)


def _nan(fault: dict) -> None:
    """Send NaN in place of activations; the client's own check is not asked."""
    forward = session.head_forward

    def wrapped(*args, **options):
        made = forward(*args, **options)
        return replace(made, smashed=made.smashed * float("nan"))

    session.head_forward = wrapped


def _disk_full(fault: dict) -> None:
    """Let the kernel refuse files longer than a kilobyte while this project's own are written; the log is not one."""
    write = files.write_whole

    def wrapped(*args):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
        try:
            return write(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    files.write_whole = wrapped
