"""Starts processes quickly: imports everything once, then forks one for each job.

Jobs come as lines of JSON. A line goes back when a process starts and when it has gone. When the jobs end, so do all
processes that are left.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import faults
import torch
import torch._dynamo  # torch's optimisers import it at their first step, which takes seconds
from flwr.app import Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from grid import ProcessGrid, Starter

from tavit_flwr import client_app, server_app
from tavit_flwr.server import waiting


def client(job: dict) -> None:
    """Handle one message as a SuperNode's ClientApp does; the reply is a file that is whole or absent."""
    message, context = pickle.loads(Path(job["message"]).read_bytes())  # noqa: S301 - the test wrote it
    faults.apply(job["fault"])
    reply = client_app.app(message, context)
    beside = Path(job["reply"] + ".beside")
    beside.write_bytes(pickle.dumps((reply, context)))
    beside.rename(job["reply"])


def server(job: dict) -> None:
    """Run the ServerApp, with its clients in processes of their own."""
    waiting.SETTLE_S = 0.01
    grid = ProcessGrid(Path(job["folder"]), job["nodes"], forked_starter())
    server_app.app(grid, Context(1, 1, {}, RecordDict(), {"hydra": job["overrides"]}))


def forked_starter() -> Starter:
    """Another starter, without the imports: it ends when this process does, however that ends."""
    jobs_out, jobs_in = os.pipe()
    lines_out, lines_in = os.pipe()
    if not os.fork():
        os.close(jobs_in)
        os.close(lines_out)
        serve(jobs_out, lines_in)
        os._exit(0)
    os.close(jobs_out)
    os.close(lines_in)
    return Starter(os.fdopen(jobs_in, "w"), os.fdopen(lines_out))


def start(job: dict) -> int:
    """Fork a process for a job."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(job["environment"])
        torch.set_num_threads(1)
        for name in ("_run_id", "_node_id", "_task_id"):  # Flower sets them in a process of its own
            setattr(TaskIdentity, name, 1)
        {"client": client, "server": server}[job["kind"]](job)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve(jobs: int, lines: int) -> None:
    """Start what is asked for until there are no more jobs."""
    running: dict[int, str] = {}
    unread = b""
    try:
        os.write(lines, b"ready\n")
        while True:
            readable, _, _ = select.select([jobs], [], [], 0.02)
            if readable:
                data = os.read(jobs, 65536)
                if not data:
                    return
                *whole, unread = (unread + data).split(b"\n")
                for line in whole:
                    job = json.loads(line)
                    child = start(job)
                    running[child] = job["id"]
                    os.write(lines, f"started {job['id']} {child}\n".encode())
            for child in list(running):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    os.write(lines, f"gone {running.pop(child)} {os.waitstatus_to_exitcode(status)}\n".encode())
    finally:
        for child in running:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    serve(0, 1)
