"""Copies of tensors that a step makes beyond the unsplit one, counted: around the parts, in frames, by each carrier."""

import tracemalloc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tavit_flwr.client.evaluation import SplitRestorer
from tavit_flwr.config import DTYPES, DirectionsConfig, WireConfig, WireTypesConfig
from tavit_flwr.payloads import Close, Smashed
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.split.client_side import head_forward, tail_restore
from tavit_flwr.split.phases import set_moving
from tavit_flwr.wire.frames import decode, encode
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.stream_client import StreamClient

PHASES = ("task-specific", "task-agnostic", "joint")
STEPS = 3
#: D, G, G of the preset tiny.
GRID = (32, 8, 8)
#: Tensors that cross in a step; the first activations of a task-agnostic phase are the last step's lack.
CROSSING = {"task-specific": 4, "task-agnostic": 3, "joint": 4}


class Copies(TorchDispatchMode):
    """Copies of tensors of the cut, around the parts and within them."""

    NAMES = ("clone", "_to_copy", "copy_", "cat", "mul.out")  # the last weights a gradient as it writes it into a batch

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        name, out = function._schema.name.removeprefix("aten::"), function._overloadname == "out"
        named = f"{name}.out" in self.NAMES if out else name in self.NAMES
        self.count += named and isinstance(result, torch.Tensor) and tuple(result.shape[-3:]) == GRID
        return result


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("clients", "dtype"), [*((1, dtype) for dtype in DTYPES), (2, "float32"), (2, "int8")])
def test_tensors_are_copied_no_more_than_the_protocol_needs(make_lab, watching, phase, clients, dtype):
    """Beyond the unsplit step: one conversion for each tensor and end where the wire has a type of its own.

    Both join the activations and gradients of a cohort; that of one costs the unsplit step a copy each way, and the
    body's owner none. Gradients are joined client by client.

    The copy into a frame's bytes is none of torch's: see below.
    """
    tasks = ["denoise", "deblock"][:clients]
    with Copies() as unsplit:
        make_lab(tasks).run_unsplit(phase, STEPS)
    watch = watching(Copies)
    make_lab(tasks).run_split(phase, STEPS, wire=WireConfig(dtype=dtype))
    kept = 0 if phase == "task-agnostic" else clients  # a skip's gradient, until its head's comes
    joined = 0 if clients == 1 else 1 + clients
    extra = kept + (0 if phase == "task-specific" else joined - 2)
    conversions = 0 if dtype == "float32" else clients * CROSSING[phase]
    assert watch.count("client") + watch.count("server") == unsplit.count + STEPS * (extra + 2 * conversions)


@pytest.mark.parametrize("dtype", DTYPES)
def test_evaluation_copies_nothing_but_what_the_wire_converts(make_lab, watching, dtype):
    """Batches of windows of the split restorer, beside the same parts in one process."""
    lab, windows = make_lab(["denoise"]), [torch.rand(count, 3, 32, 32) for count in (3, 3, 1)]
    with Copies() as unsplit:
        expected = unsplit_restored(lab, windows)
    watch = watching(Copies)
    with Copies() as client:
        restored = split_restored(lab, windows, dtype)
    if dtype == "float32":
        assert all(torch.equal(one, other) for one, other in zip(restored, expected, strict=True))
    conversions = 0 if dtype == "float32" else 2 * 2 * len(windows)  # of activations and features, at both ends
    assert client.count + watch.count("server") == unsplit.count + conversions


def unsplit_restored(lab, windows):
    (client,) = lab.clients
    set_moving(client.head, False)
    lab.host.begin_phase(moves=False)
    passes = [head_forward(client.head, one, moves=False) for one in windows]
    with torch.no_grad():
        features = [lab.body(one.sent) for one in passes]
    return [tail_restore(client.tail, *three) for three in zip(features, passes, windows, strict=True)]


def split_restored(lab, windows, dtype):
    (client,), directions = lab.clients, DirectionsConfig(dtype, dtype)
    wire = WireConfig(dtypes=WireTypesConfig(evaluation=directions))
    lab.host.begin_phase(moves=False)
    with (
        BodyService(wire, threads=1) as service,
        StreamClient(
            service.address, service.open(Session("c0", "denoise", lab.host, EVALUATE, 0)),
            service.certificate.certificate_pem, EVALUATE, Limits.of(wire, EVALUATE), client="c0",
            first_timeout_s=20, step_timeout_s=20, session_timeout_s=60,
        ) as stream,
    ):  # fmt: skip
        restorer = SplitRestorer(client.head, client.tail, stream)
        restored = [restorer(one) for one in windows]
        stream.hand_in(Close(restorer.batches))
    return restored


@pytest.mark.parametrize("phase", PHASES)
def test_by_messages_an_answer_is_converted_once_more_where_a_step_has_two(
    tiny, make_phases, run, fake_grid, tmp_path, watching, phase
):
    """As its handler begins the step again; what is converted beside float32 is what the wire converts."""
    counts = {}
    for dtype in ("float32", "bfloat16"):
        config = tiny(
            "clients=[denoise]", make_phases(phase, steps=STEPS), "wire.carrier=messages", f"wire.dtype={dtype}"
        )
        watch = watching(Copies)
        run(config, tmp_path / dtype, fake_grid(1))
        counts[dtype] = (watch.count("client"), watch.count("server"))
    again = 0 if phase == "task-agnostic" else STEPS
    client, server = (some - none for some, none in zip(counts["bfloat16"], counts["float32"], strict=True))
    assert (client, server) == (STEPS * CROSSING[phase] + again, STEPS * CROSSING[phase])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_frame_is_one_copy_of_its_tensors_and_reading_it_makes_none_but_theirs(dtype):
    """Bytes that Python has set aside at most; what torch has is counted above."""
    limits, payload = Limits(up=dtype), Smashed(0, torch.ones(4, 64, 32, 32))
    frame, writing, reading = set_aside(payload, limits)
    assert len(frame) <= writing < 1.1 * len(frame)
    assert reading < 0.1 * len(frame)


def test_compression_copies_what_is_packed_twice_and_what_is_unpacked_once_more():
    """Written: the frame, its packed data, and these behind the header. Read: the data, and these behind the header."""
    payload = Smashed(0, torch.rand(4, 64, 32, 32, generator=torch.Generator().manual_seed(0)))
    plain = len(encode(payload, "joint"))
    frame, writing, reading = set_aside(payload, Limits(compression="zstd"))
    assert 0.5 * plain < len(frame) < plain
    assert writing < 1.1 * (plain + 2 * len(frame))
    assert reading < 1.1 * 2 * plain


def set_aside(payload, limits):
    """A frame, and the most bytes that Python has set aside at once as it writes it and as it reads it."""
    encode(payload, "joint", limits)
    tracemalloc.start()
    try:
        frame = encode(payload, "joint", limits)
        _, writing = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        decode(frame, "joint", (Smashed,), 0, limits)
        _, reading = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return frame, writing, reading - before
