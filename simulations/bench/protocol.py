"""What the protocol takes: four tensors of 2 MiB, two round trips, loopback, TLS on, beyond all computing.

``python -m simulations.bench.protocol`` measures in turns, each with a server in a process of its own,

* ``raw``: as many bytes through plain TCP sockets, unencrypted;
* ``gRPC alone``: an echo of messages as large as the tensors are as float32 and as bfloat16, by Python's gRPC with TLS;
* each wire type, int8 also with error feedback: steps of the task-specific phase through a real body service whose body
  is the identity, with tensors of normal random numbers, which hardly shrink; in full also bfloat16 with zstd.

The milliseconds are those of a step less those that the identity took.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from simulations.bench.bare_grpc import grpc_echo
from simulations.bench.record import Record, arguments, report
from simulations.bench.rig import Server, server
from tavit_flwr.config import BFLOAT16, DTYPES, FLOAT32, INT8, ZSTD, compose
from tavit_flwr.payloads import Close, Features, GradFeatures, GradSmashed, Smashed

SHAPE = (4, 512, 16, 16)
BYTES = 4 * 4 * 512 * 16 * 16
RECORDED = (FLOAT32, BFLOAT16)
#: Bytes of a message by name.
ALONE = {"gRPC alone, as float32": BYTES, "gRPC alone, as bfloat16": BYTES // 2}
#: Overrides by name.
KINDS = {kind: [f"wire.dtype={kind}"] for kind in DTYPES} | {
    "int8, error feedback": [f"wire.dtype={INT8}", "wire.error_feedback=true"],
    "bfloat16, zstd": [f"wire.dtype={BFLOAT16}", f"wire.compression={ZSTD}"],
}


def main(given: list[str] | None = None) -> list[Record]:
    """Measure in turns, print a table, and write the JSON."""
    parser = arguments("protocol", __doc__)
    parser.add_argument("--steps", type=int, default=60, help="of each measurement; 20 where it is quick")
    parser.add_argument("--repeats", type=int, default=9, help="five where it is quick")
    parser.add_argument("overrides", nargs="*", default=[], help="Hydra overrides, e.g. wire.insecure=true")
    options = parser.parse_args(given)
    steps, repeats = (20, 5) if options.quick else (options.steps, options.repeats)
    kinds = {kind: KINDS[kind] for kind in (RECORDED if options.quick else KINDS)}
    taken: dict[str, list[float]] = {kind: [] for kind in ("raw", *ALONE, *kinds)}
    with ExitStack() as stack:
        raw = stack.enter_context(echo())
        exchange = stack.enter_context(grpc_echo())
        servers = {
            kind: stack.enter_context(
                server(compose(["model=paper", "+model.overrides.body_kind=identity", *words, *options.overrides]))
            )
            for kind, words in kinds.items()
        }  # fmt: skip
        for repeat in range(repeats + 1):
            measured = {"raw": raw_step_ms(raw, steps)}
            measured |= {kind: alone_step_ms(exchange, size, steps) for kind, size in ALONE.items()}
            measured |= {kind: step_ms(one, steps) for kind, one in servers.items()}
            if repeat:  # the first warms up
                for kind, value in measured.items():
                    taken[kind].append(value)
    rows: list[dict[str, Any]] = [
        {"carrier": kind, "ms_a_step": value} for kind, values in taken.items() for value in values
    ]
    records = [Record.of(f"protocol_ms/{kind}", "ms a step", taken[kind], taken["raw"]) for kind in RECORDED]
    return report(options.output, records, rows, "the protocol's own time, four tensors of 2 MiB as float32")


def step_ms(one: Server, steps: int) -> float:
    """Milliseconds a step over the stream, without those of the body; the first two steps are left out."""
    tensor = torch.randn(SHAPE)
    began = 0.0
    with one.open("task-specific", steps + 2) as stream:
        for step in range(steps + 2):
            if step == 2:
                began = time.perf_counter()
            stream.send(Smashed(step, tensor))
            stream.receive(Features, step)
            stream.send(GradFeatures(step, tensor))
            stream.receive(GradSmashed, step)
        wall_s = time.perf_counter() - began
        stream.hand_in(Close(steps + 2))
    counted = one.close_session()
    return 1000 * (wall_s / steps - counted["body"] / (steps + 2))


def alone_step_ms(exchange: Callable[[bytes], bytes], size: int, steps: int) -> float:
    """Milliseconds a step, two round trips, of messages of `size` bytes."""
    message = bytes(size)
    began = time.perf_counter()
    for _ in range(2 * steps):
        exchange(message)
    return 1000 * (time.perf_counter() - began) / steps


@contextmanager
def echo() -> Iterator[socket.socket]:
    """Connect to a process that gives back what it gets, 2 MiB at a time."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_echo, args=(there,), daemon=True)
    process.start()
    try:
        with socket.create_connection(("127.0.0.1", here.recv())) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection
    finally:
        process.join(10)
        process.kill()


def raw_step_ms(connection: socket.socket, steps: int) -> float:
    """Milliseconds a step through plain sockets."""
    buffer = bytearray(BYTES)
    began = time.perf_counter()
    for _ in range(2 * steps):
        connection.sendall(buffer)
        _fill(connection, buffer)
    return 1000 * (time.perf_counter() - began) / steps


def _echo(pipe: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname()[1])
        connection, _ = listener.accept()
    buffer = bytearray(BYTES)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while _fill(connection, buffer):
            connection.sendall(buffer)


def _fill(connection: socket.socket, buffer: bytearray) -> bool:
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


if __name__ == "__main__":
    main()
