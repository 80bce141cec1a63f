"""A grid whose nodes run the real ClientApp in processes of their own, one for each message."""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


class Starter:
    """The other end of `starter.py`'s pipes.

    Attributes
    ----------
    running : dict
        Job to pid.
    gone : dict
        Job to exit code, negative for a signal.
    """

    def __init__(self, jobs: TextIO, lines: TextIO) -> None:
        self.running: dict[str, int] = {}
        self.gone: dict[str, int] = {}
        self._jobs, self._lines = jobs, lines
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self, kind: str, log: Path, **job: object) -> str:
        """Start a process; returns the job's name at once."""
        name = f"j{next(self._numbers):04d}"
        environment = job.pop("environment", {})
        job = {"id": name, "kind": kind, "log": str(log), "environment": environment} | job
        self._jobs.write(json.dumps(job) + "\n")
        self._jobs.flush()
        return name

    def pid(self, job: str) -> int:
        """The pid of a job that has started or is about to."""
        with self._changed:
            assert self._changed.wait_for(lambda: job in self.running, 30)
            return self.running[job]

    def wait(self, job: str, timeout_s: float) -> int:
        """Wait for a job's end; its exit code."""
        with self._changed:
            assert self._changed.wait_for(lambda: job in self.gone, timeout_s), f"{job} runs on"
            return self.gone[job]

    def _listen(self) -> None:
        for line in self._lines:
            what, *rest = line.split()
            with self._changed:
                if what == "started":
                    self.running[rest[0]] = int(rest[1])
                elif what == "gone":
                    self.running.pop(rest[0], None)
                    self.gone[rest[0]] = int(rest[1])
                self._changed.notify_all()

    def close(self) -> None:
        """End it, and all that it started."""
        self._jobs.close()
        self._listener.join(20)
        self._lines.close()


def started_starter(marker: str) -> tuple[Starter, subprocess.Popen[str]]:
    """Start a starter in a process of its own; all processes have the marker in their environment."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "starter.py")],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]), "OMP_NUM_THREADS": "1", "TAVIT_TEST_MARKER": marker},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return Starter(process.stdin, process.stdout), process


class ProcessGrid(Grid):
    """Stands in for SuperLink and SuperNodes: carries messages, starts processes, and tells when one has died.

    Parameters
    ----------
    folder : Path
        For messages, logs and state.
    nodes : int
        How many; the first is node 100.
    starter : Starter
        Starts the clients.
    faults : dict
        Node to fault; see `faults.py`.
    route : callable
        ``(node, address) -> address``: what a node is told of where the body service is.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int,
        starter: Starter,
        faults: dict[int, dict] | None = None,
        route: Callable[[int, str], str] = lambda node, address: address,
    ) -> None:
        self.folder = folder
        self._messages = folder / f"messages-{uuid.uuid4().hex[:8]}"  # not those of a server that was killed
        self._messages.mkdir(parents=True)
        configs = [{"partition-id": index, "num-partitions": nodes} for index in range(nodes)]
        self.contexts = {
            100 + index: Context(1, 100 + index, config, RecordDict(), {}) for index, config in enumerate(configs)
        }
        self._starter = starter
        self._faults = faults or {}
        self._route = route
        self._asked: dict[str, Message] = {}
        self._jobs: dict[str, str] = {}

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = []
        for one in list(message_ids):
            path = self._messages / f"{one}.reply"
            gone = self._jobs[one] in self._starter.gone  # before the look at the file: it may be written in between
            if path.exists():
                reply, context = pickle.loads(path.read_bytes())  # noqa: S301 - our own process wrote it
                self.contexts[context.node_id] = context
                found.append(reply)
            elif gone:  # the words of Flower's SuperNode
                found.append(Message(error=Error(2, "ClientApp stopped responding."), reply_to=self._asked[one]))
        return found

    def _push(self, message: Message) -> str:
        node = message.metadata.dst_node_id
        name = f"m{len(self._asked):04d}"
        message.metadata.__dict__["_message_id"] = name  # as Flower does when it sends
        sent = copy.deepcopy(message)  # questions to several nodes share their content
        order = sent.content.config_records["config"]
        if "address" in order:
            order["address"] = self._route(node, str(order["address"]))
        path = self._messages / name
        path.write_bytes(pickle.dumps((sent, self.contexts[node])))
        self._asked[name] = message
        self._jobs[name] = self._starter.start(
            "client", self.folder / f"node-{node}.log", message=str(path), reply=f"{path}.reply",
            fault=self._faults.get(node), environment={"TAVIT_STATE_DIR": str(self.folder / "state")},
        )  # fmt: skip
        return name

    def set_run(self, run) -> None:
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **options):
        raise NotImplementedError

    def get_nodes(self):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError("PatientGrid does this")
