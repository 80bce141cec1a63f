"""A whole federation in one process: the real ClientApp in threads, behind a stand-in for Flower's Grid."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image

from tavit_flwr import client_app
from tavit_flwr.config import TavitConfig, compose, to_dict
from tavit_flwr.server import waiting
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.checkpoint import check_same_experiment, latest
from tavit_flwr.server.initial import initial_arrays
from tavit_flwr.server.strategy import TAViT

#: ``(message, reply) -> reply``; None in place of a reply means that the SuperLink gives the node up.
Twist = Callable[[Message, Message], Message | None]


class FakeGrid(Grid):
    """Runs the ClientApp for each message in a thread of its own, and gives the replies back when they are pulled.

    Attributes
    ----------
    asked, answered : list of Message
        All that passed, in both directions.
    repeat : bool
        Every message is handled twice, and the second reply is given back.
    retry : type of exception
        A handler that it ends is run again.
    """

    def __init__(
        self,
        node_configs: list[dict],
        *,
        twists: dict[int, Twist] | None = None,
        silent: Callable[[Message], bool] = lambda _: False,
        shuffle: int | None = None,
        repeat: bool = False,
        retry: type[BaseException] | None = None,
    ) -> None:
        self.contexts = {
            100 + index: Context(1, 100 + index, config, RecordDict(), {}) for index, config in enumerate(node_configs)
        }
        self.twists = twists or {}
        self.silent = silent
        self.repeat = repeat
        self.retry = retry
        self.draws = None if shuffle is None else random.Random(shuffle)
        self.asked: list[Message] = []
        self.answered: list[Message] = []
        self._ready: dict[str, Message] = {}
        self._lock = threading.Lock()

    def set_run(self, run) -> None:
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def get_nodes(self):
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        ids = []
        for message in messages:
            ids.append(f"message-{len(self.asked)}")
            message.metadata.__dict__["_message_id"] = ids[-1]  # as Flower does when it sends
            self.asked.append(message)
        if self.draws:
            self.draws.shuffle(messages)
        for message in messages:
            threading.Thread(target=self._handle, args=(message,), daemon=True).start()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        with self._lock:
            found = [self._ready.pop(one) for one in list(message_ids) if one in self._ready]
        if self.draws:
            self.draws.shuffle(found)
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError("PatientGrid does this")

    def _run(self, message: Message, context: Context) -> Message:
        """Run the ClientApp; after being killed by `retry`, once more."""
        try:
            return client_app.app(message, context)
        except BaseException as error:
            if self.retry is None or not isinstance(error, self.retry):
                raise
            return client_app.app(message, context)

    def _handle(self, message: Message) -> None:
        node = message.metadata.dst_node_id
        reply = None
        if not self.silent(message):
            try:
                reply = self._run(message, self.contexts[node])
                if self.repeat:
                    reply = self._run(message, self.contexts[node])
            except Exception as error:  # as Flower's simulation does
                reply = Message(error=Error(1, f"{type(error)}:<'{error}'>"), reply_to=message)
            twist = self.twists.get(node - 100)
            reply = twist(message, reply) if twist else reply
        if reply is None:  # the SuperLink gives a node up in its own name
            reply = Message(error=Error(5, "Error: Node Unavailable"), reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = 1
        else:
            self.answered.append(reply)
        with self._lock:
            self._ready[message.metadata.message_id] = reply


@pytest.fixture
def fake_grid(tmp_path, monkeypatch):
    """Make a `FakeGrid` of simulated nodes, or of nodes with the given node configurations."""
    torch.set_num_threads(1)
    for name, value in (("_run_id", 1), ("_node_id", 1), ("_task_id", 1)):  # a message's sender: Flower sets it
        monkeypatch.setattr(TaskIdentity, name, value)
    monkeypatch.setenv("TAVIT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(waiting, "SETTLE_S", 0.01)
    lock, load = threading.Lock(), np.load

    def load_alone(*args, **options):  # numpy reads headers with CPython's parser, which 3.11 cannot do in two threads
        with lock:
            return load(*args, **options)

    monkeypatch.setattr(np, "load", load_alone)

    def make(num_nodes: int = 2, *, node_configs: list[dict] | None = None, **options) -> FakeGrid:
        configs = node_configs or [{"partition-id": i, "num-partitions": num_nodes} for i in range(num_nodes)]
        return FakeGrid(configs, **options)

    return make


def write_images(folder: Path, count: int = 5, side: int = 40, prefix: str = "image") -> Path:
    """Smooth colour images that differ from each other."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0:side, 0:side] / side
    for index in range(count):
        channels = [128 + 100 * np.sin(3 * rows * (index + 1) + 2 * columns * c + c) for c in range(3)]
        Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(folder / f"{prefix}{index}.png")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """One folder for all tests; who changes it makes an own one."""
    return write_images(tmp_path_factory.mktemp("photographs"))


_composed = lru_cache(maxsize=64)(compose)  # 0.4 s, and many runs are of one experiment


@pytest.fixture
def tiny(images):
    """Compose the smallest experiment over a folder of small images."""

    def make(*overrides: str) -> TavitConfig:
        return deepcopy(
            _composed(
                (
                    "experiment=tiny", "data.source=folder", f"data.folder={images}", "data.held_out=1",
                    "compute.client_threads=1", "compute.server_threads=1", "wire.join_timeout_s=20",
                    "wire.step_timeout_s=20", "wire.session_timeout_s=60", "schedule.evaluate_first=false",
                    "evaluation.pictures=false", "federation.wait_for_nodes_s=1", "federation.late_timeout_s=5",
                    *overrides,
                )
            )
        )  # fmt: skip

    return make


def phases(*kinds: str, steps: int = 2, rounds: int = 1) -> str:
    """Override of the schedule."""
    return "schedule.phases=[" + ",".join(f"{{kind: {k}, rounds: {rounds}, steps: {steps}}}" for k in kinds) + "]"


def run_experiment(config: TavitConfig, out: Path, grid: Grid, rounds: int | None = None, resume: bool = False):
    """Do what `server_app.main` does, and return the last checkpoint."""
    if resume:
        checkpoint = latest(out / "checkpoints")
        check_same_experiment(checkpoint.state.config, to_dict(config))
        strategy, arrays = TAViT(config, out, checkpoint), Weights.from_flat(checkpoint.weights).to_arrays()
    else:
        strategy, arrays = TAViT(config, out), initial_arrays(config)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds)
    return latest(out / "checkpoints")


@pytest.fixture(scope="session")
def run():
    return run_experiment


@pytest.fixture(scope="session")
def make_images():
    return write_images


@pytest.fixture
def make_phases():
    return phases


def write_ct_slice(path: Path, values_hu: np.ndarray, **changes) -> None:
    """Write Hounsfield units as CT scanners do: 16 bits with slope and intercept."""
    import pydicom  # with the extra `dicom`
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.Modality, one.PhotometricInterpretation, one.SamplesPerPixel = "CT", "MONOCHROME2", 1
    one.Rows, one.Columns = values_hu.shape
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.RescaleSlope, one.RescaleIntercept = "0.5", "-1024"
    one.ImagePositionPatient = ["0", "0", "7.5"]
    one.PixelData = np.round((values_hu + 1024) * 2).astype("<u2").tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(one, name)
        else:
            setattr(one, name, value)
    one.save_as(path, enforce_file_format=True)


@pytest.fixture
def write_slice():
    return write_ct_slice


class Proxy:
    """A TCP proxy that a test can cut; while it is `refusing`, new connections are cut at once."""

    def __init__(self, target: str, host: str = "127.0.0.1") -> None:
        behind, _, port = target.rpartition(":")
        self._target = behind, int(port)
        self._listener = socket.create_server((host, 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self.refusing = False
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                self._reset(near)
                continue
            far = socket.create_connection(self._target)
            with self._lock:
                self._pairs.append((near, far))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _reset(end: socket.socket) -> None:
        with contextlib.closing(end), contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Cut every connection at once, without a farewell."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                self._reset(end)

    def close(self) -> None:
        """Cut, and stop listening."""
        self._listener.close()
        self.cut()


def _proxies() -> Iterator[Callable[..., Proxy]]:
    """Make proxies to addresses; all are closed at the end."""
    made: list[Proxy] = []

    def make(target: str, host: str = "127.0.0.1") -> Proxy:
        made.append(Proxy(target, host))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


make_proxy = pytest.fixture(name="make_proxy")(_proxies)
make_proxies = pytest.fixture(name="make_proxies", scope="module")(_proxies)
