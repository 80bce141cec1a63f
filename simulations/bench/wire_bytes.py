"""Bytes a step by carrier and wire type, both directions; counted, not timed.

``python -m simulations.bench.wire_bytes`` does steps of each phase with each wire type, and counts

* ``frame_bytes``: what either carrier brings: the tensors in the type of the wire and their headers;
* ``stream_bytes``: what crosses the sockets of the stream, with TLS and gRPC's framing;
* ``message_bytes``: the same frames in Flower's records, one in each message, and the order that comes along with each
  of the server's. Flower's own envelope, its polling and its TLS come on top.
"""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from simulations.bench.record import Record, arguments, report
from simulations.bench.rig import Server, server
from simulations.bench.unsplit import PHASE_NAMES
from tavit_flwr.config import BFLOAT16, DTYPES, FLOAT32, INT8, MESSAGES, NONE, ZSTD, TavitConfig, compose, to_json
from tavit_flwr.payloads import (
    Close,
    Features,
    GradFeatures,
    GradFeaturesAndSmashed,
    GradSmashed,
    Smashed,
)
from tavit_flwr.server.initial import step_shape
from tavit_flwr.wire.credentials import session_token
from tavit_flwr.wire.ledger import Ledger
from tavit_flwr.wire.messages import FRAMES
from tavit_flwr.wire.records import Order
from tavit_flwr.wire.stream_client import StreamClient

PRESETS = ("tiny", "small", "paper")
STEPS = 4


def main(given: list[str] | None = None) -> list[Record]:
    """Count, print a table, and write the JSON."""
    options = arguments("wire_bytes", __doc__).parse_args(given)
    torch.set_num_threads(1)
    kinds = [(kind, compression) for compression in (NONE, ZSTD) for kind in DTYPES]
    if options.quick:
        kinds = [(kind, NONE) for kind in (FLOAT32, BFLOAT16, INT8)]
    rows: list[dict[str, Any]] = []
    for preset in PRESETS[-1:] if options.quick else PRESETS:
        for kind, compression in kinds:
            words = [f"model={preset}", "+model.overrides.body_layers=1", f"wire.dtype={kind}"]  # layers cross nothing
            config = compose([*words, f"wire.compression={compression}", "data.batch_size=4"])
            with server(config, timed=False) as one:
                for phase in PHASE_NAMES:
                    row = {"preset": preset, "phase": phase, "type": kind, "compression": compression}
                    rows.append(row | counted(one, phase, step_shape(config)))
    plain = {
        row["type"]: row["frame_bytes"] for row in reversed(rows)
        if row["phase"] == PHASE_NAMES[0] and row["compression"] == NONE and row["preset"] == PRESETS[-1]
    }  # fmt: skip
    records = [
        Record.of(f"bytes_ratio/{kind}", "bytes a client-step", [plain[kind]], [plain[FLOAT32]])
        for kind in (BFLOAT16, INT8)
    ]
    return report(options.output, records, rows, "bytes a client-step of 4 crops, both directions")


def counted(one: Server, phase: str, shape: tuple[int, ...]) -> dict[str, float]:
    """Bytes a step by what carries them. Connecting and the farewell are spread over the steps."""
    with proxy() as (route, passed), one.open(phase, STEPS, route) as stream:
        if phase == "task-specific":
            _specific(stream, shape)
        else:
            _agnostic(stream, shape)
        stream.hand_in(Close(STEPS))
        one.close_session()
        frames = stream.ledger.total("up") + stream.ledger.total("down")
        found = {"frame": frames, "stream": sum(passed), "message": message_bytes(one.config, phase, stream.ledger)}
        return {f"{carrier}_bytes": size / STEPS for carrier, size in found.items()}


def message_bytes(config: TavitConfig, phase: str, ledger: Ledger) -> int:
    """Size of the records in which Flower messages carry these frames."""
    order = Order(
        to_json(config), uuid.uuid4().hex, "", session_token(), b"", MESSAGES, phase, 1, 1, STEPS, 1, 2, "0" * 64
    ).to_record()  # fmt: skip
    along = {"up": 0, "down": sum(len(key) + _bytes(value) for key, value in order.items())}
    return sum(
        row["bytes"] + row["frames"] * (len(FRAMES) + along[direction])
        for direction, kinds in ledger.as_dict().items()
        for row in kinds.values()
    )


def _bytes(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else 8


def _specific(stream: StreamClient, shape: tuple[int, ...]) -> None:
    for step in range(STEPS):
        stream.send(Smashed(step, torch.randn(shape)))
        stream.receive(Features, step)
        stream.send(GradFeatures(step, torch.randn(shape)))
        stream.receive(GradSmashed, step)


def _agnostic(stream: StreamClient, shape: tuple[int, ...]) -> None:
    stream.send(Smashed(0, torch.randn(shape)))
    for step in range(STEPS - 1):
        stream.receive(Features, step)
        stream.send(GradFeaturesAndSmashed(step, torch.randn(shape), torch.randn(shape)))
    stream.receive(Features, STEPS - 1)
    stream.hand_in(GradFeatures(STEPS - 1, torch.randn(shape)))


Route = tuple[Any, list[int]]


@contextmanager
def proxy() -> Iterator[Route]:
    """Count what passes between a client and an address; gives how to put it before one, and the sizes."""
    passed: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def route(address: str) -> str:
        host, _, port = address.rpartition(":")
        threading.Thread(target=accept, args=((host, int(port)),), daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def accept(target: tuple[str, int]) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(target)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

    def copy(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 18):
                passed.append(len(data))
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with listener:
        yield route, passed


if __name__ == "__main__":
    main()
