"""Malformed frames cost their sender the session and nobody else anything: not a bit, not memory, not the service."""

import copy
import itertools
import json
import os
import queue
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from safetensors.torch import save

from tavit_flwr.config import DTYPES, INT8, ZSTD, OptimiserConfig, WireConfig
from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import Close, Features, GradFeatures, GradFeaturesAndSmashed, Smashed
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.wire.compression import compress
from tavit_flwr.wire.credentials import SERVICE_NAME
from tavit_flwr.wire.dtypes import WIRE_TYPES, pack
from tavit_flwr.wire.frames import PROTOCOL_VERSION, decode, encode
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.stream_server import CLIENT_KEY, INSTANCE_KEY, METHOD, SERVICE, TOKEN_KEY, channel_options

pytestmark = pytest.mark.timeout(180)

SEED = 20260
GIB = 2**30
D, G = 32, 8  # of the preset tiny
FRAME_LIMIT = 3 * 2**14

#: Per phase; three phases, so 10,800 malformed frames behind valid tokens and 1,200 behind none.
VALID, REFUSED = 3600, 400
STEPS = 30
ATTACKERS = 8

#: Each phase under attack with a wire of its own.
WIRES = {
    "task-specific": WireConfig(),
    "task-agnostic": WireConfig(dtype=INT8, error_feedback=True),
    "joint": WireConfig(compression=ZSTD),
}


class Malformed:
    """Draws, from a seed, what a client may send in place of a frame: of its first, or of the gradient that follows."""

    KINDS = (
        "random", "truncated", "longer", "flipped_length", "header_length", "header_of_a_gigabyte", "padded_header",
        "json", "entry", "shape", "dtype", "step", "phase", "version", "not_finite", "kind", "order",
    )  # fmt: skip

    def __init__(self, phase: str, seed: int, limits=None, *, later: bool = False):
        self.phase = phase
        self.limits = limits or Limits(max_frame_bytes=FRAME_LIMIT)
        self.draws = np.random.default_rng(seed)
        self.tensor = torch.linspace(-1, 1, D * G * G).reshape(1, D, G, G)
        first, gradient = Smashed(0, self.tensor), GradFeatures(0, self.tensor)
        if phase == "task-agnostic":
            gradient = GradFeaturesAndSmashed(0, self.tensor, self.tensor)
        self.before = [encode(first, phase, self.limits)] if later else []
        self.payload = gradient if later else first
        self.good = encode(self.payload, phase, self.limits)

    def frames(self, kind):
        """The frames, the last of which is malformed; those before it, if any, are not."""
        made = getattr(self, f"_{kind}")()
        return [*self.before, *(made if isinstance(made, list) else [made])]

    def _below(self, most):
        return int(self.draws.integers(0, most))

    def _one_of(self, *choices):
        return choices[self._below(len(choices))]

    def _blob(self, tensor=None, **header):
        whole = self._header() | header
        packed, names = {}, self._names()
        bad = self._one_of(*names)
        for name in names:
            one = self.tensor if tensor is None or name != bad else tensor
            typed = one.ndim == 4 and one.dtype == torch.float32  # else it is not what the session allows anyway
            packed |= pack(name, one.contiguous(), self.limits.up) if typed else {name: one}
        blob = save(packed, metadata=whole)
        return compress(blob) if self.limits.compression == ZSTD else blob

    def _header(self):
        kind = type(self.payload).__name__
        return {"version": PROTOCOL_VERSION, "kind": kind, "phase": self.phase, "step": "0"}

    def _names(self):
        return [name for name in vars(self.payload) if name != "step"]

    def _random(self):
        return self.draws.bytes(self._below(600))

    def _truncated(self):
        return self.good[: self._below(len(self.good))]

    def _longer(self):
        return self.good + self.draws.bytes(1 + self._below(300))

    def _flipped_length(self):
        bit = self._below(64)
        return bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(self.good))

    def _header_length(self):
        return int(self.draws.integers(0, 2**63)).to_bytes(8, "little") + self.good[8:]

    def _header_of_a_gigabyte(self):
        return (GIB + self._below(GIB)).to_bytes(8, "little") + b"{" * self._below(5000)

    def _padded_header(self):
        length = int.from_bytes(self.good[:8], "little")
        padding = 4096 + 8 * self._below(100)
        return (
            (length + padding).to_bytes(8, "little")
            + self.good[8 : 8 + length]
            + b" " * padding
            + self.good[8 + length :]
        )

    def _json(self):
        value = self._one_of(None, [], {}, 10**400, "x" * 3000, {"__metadata__": 1}, {"__metadata__": {}})
        text = json.dumps(value) if self._below(2) else "[" * (500 + self._below(3000))
        return len(text).to_bytes(8, "little") + text.encode() + self.draws.bytes(self._below(64))

    def _entry(self):
        huge = int(self.draws.integers(2**31, 2**62))
        dtype, shape, offsets = self._one_of(
            ("F32", [huge], [0, 8]),
            ("F32", [2, huge, huge, huge], [0, 4 * huge]),
            ("F32", [1, 1, 1, 2], [4, 12]),
            ("F99", [1, 1, 1, 2], [0, 8]),
            ("F32", [-1, 1, 1, 2], [0, 8]),
            ("F32", [1, 1, 1, 2], [8, 0]),
        )
        entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        text = json.dumps({"__metadata__": self._header()} | dict.fromkeys(self._names(), entry))
        return len(text).to_bytes(8, "little") + text.encode() + bytes(8)

    def _shape(self):
        return self._blob(torch.ones(self._one_of((1, D + 1, G, G), (1, D // 2, G, G), (D, G, G), (1, 1, D, G, G), ())))

    def _dtype(self):
        dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
        others = [one for one in dtypes if one != WIRE_TYPES[self.limits.up].dtype]
        return self._blob(self.tensor.to(self._one_of(*others)))

    def _step(self):
        return self._blob(step=self._one_of("1", str(10**9 + self._below(9)), "-1", "00", "0.0", "", "NaN", "9" * 2000))

    def _phase(self):
        others = {"task-specific", "task-agnostic", "joint", EVALUATE, "", "../../etc/passwd"} - {self.phase}
        return self._blob(phase=self._one_of(*sorted(others)))

    def _version(self):
        return self._blob(version=self._one_of("0", "1", "2.0", ""))

    def _not_finite(self):
        tensor = self.tensor.clone()
        tensor.view(-1)[self._below(tensor.numel())] = self._one_of(float("nan"), float("inf"), -float("inf"))
        return self._blob(tensor)

    def _kind(self):
        tensor = self.tensor
        made = (
            Smashed(1, tensor),
            GradFeatures(0, tensor),
            GradFeaturesAndSmashed(0, tensor, tensor.clone()),
            Features(0, tensor),
            Close(1),
        )
        others = [one for one in made if type(one) is not type(self.payload)]
        return encode(self._one_of(*others), self.phase, self.limits)

    def _order(self):
        return [self.good, self._blob(step="7")]

    def _too_large(self):
        shape = FRAME_LIMIT // (D * G * G) + 1, D, G, G
        return self._blob(torch.from_numpy(self.draws.standard_normal(shape, dtype=np.float32)))


class Raw:
    """A client with none of our code between it and gRPC: one TLS channel, a stream for each attempt."""

    def __init__(self, service):
        options = [*channel_options(2**22), ("grpc.ssl_target_name_override", SERVICE_NAME)]
        options.append(("grpc.use_local_subchannel_pool", 1))
        trusted = grpc.ssl_channel_credentials(root_certificates=service.certificate.certificate_pem)
        self.channel = grpc.secure_channel(service.address, trusted, options=options)
        self._call = self.channel.stream_stream(f"/{SERVICE}/{METHOD}")

    def send(self, frames, *metadata, at_once=False):
        """Open a stream with these frames and return the name of the status that it ends with.

        Each goes once the one before is answered, or all go `at_once`.
        """
        outbox, left = queue.SimpleQueue(), iter(frames)
        for frame in itertools.islice(left, None if at_once else 1):
            outbox.put(frame)
        try:
            for _ in self._call(iter(outbox.get, None), metadata=metadata, timeout=20):
                outbox.put(next(left, None))
        except grpc.RpcError as error:
            return error.code().name
        finally:
            outbox.put(None)
        return "OK"


def opening(service, session):
    """What lets a stream in."""
    return (TOKEN_KEY, service.open(session)), (CLIENT_KEY, session.client), (INSTANCE_KEY, "only")


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Attack:
    """Eight attackers on one body service, each with a channel and a generator of its own.

    Attributes
    ----------
    done : int
        Malformed frames that were answered with a status.
    codes : Counter
        ``(with a valid token, kind of frame, status)``.
    """

    def __init__(self, lab, phase, limits, rogues):
        self.lab, self.phase, self.limits, self.rogues = lab, phase, limits, rogues
        self.done = 0
        self.codes = Counter()
        self.resident = []
        self._other = BodyHost("other", copy.deepcopy(lab.body), OptimiserConfig(), D, SEED)
        self._other.begin_phase(moves=phase != "task-specific")
        self._lock = threading.Lock()
        self.errors = []

    def __call__(self, service, cohort):
        invited = [Session(name, "denoise", self.lab.host, self.phase, STEPS, cohort) for name in self.rogues]
        work = [(self._with_tokens, n, invited[n::ATTACKERS]) for n in range(ATTACKERS)]
        work += [(self._without, ATTACKERS + n, ()) for n in range(ATTACKERS)]
        threads = [threading.Thread(target=self._guarded, args=(service, *one)) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _guarded(self, service, attack, number, invited):
        raw = Raw(service)
        first, later = (
            Malformed(self.phase, SEED + number + 100 * later, self.limits, later=bool(later)) for later in (0, 1)
        )
        try:
            attack(service, raw, (first, later), invited)
        except BaseException as error:
            self.errors.append(error)
        finally:
            raw.channel.close()

    def _with_tokens(self, service, raw, made, invited):
        kinds = itertools.cycle(Malformed.KINDS)
        first, later = made
        for session in invited:  # members of the cohort that trains: they leave before its first turn
            kind = next(one for one in kinds if one != "order")
            self._count(True, kind, raw.send(first.frames(kind), *opening(service, session)))
        for attempt in range(VALID // ATTACKERS - len(invited)):
            kind = next(kinds) if attempt % 100 else "too_large"  # takes gRPC a quarter of a second
            now = later if attempt % 4 == 3 else first
            where, at_once = opening(service, self._session("rogue")), kind == "order" and now is first
            code = raw.send(now.frames(kind), *where, at_once=at_once)
            self._count(True, f"later {kind}" if now is later else kind, code)

    def _without(self, service, raw, made, invited):
        first, _ = made
        for attempt in range(REFUSED // ATTACKERS):
            kind = Malformed.KINDS[attempt % len(Malformed.KINDS)]
            metadata = [(TOKEN_KEY, first.draws.bytes(16).hex())] if attempt % 2 else []
            self._count(False, kind, raw.send(first.frames(kind), *metadata))

    def _session(self, name):
        """A session that hurts only its sender: the trained body is frozen, or it is another body's cohort of one."""
        if self.phase == "task-specific":
            return Session(name, "denoise", self.lab.host, self.phase, STEPS, shape=(1, D, G, G))
        cohort = Cohort(self._other, [Member(name, "denoise")], input_gradient=self.phase == "joint",
                        step_path=(1, self.phase, 1), join_timeout_s=20, step_timeout_s=20, quorum=1.0)  # fmt: skip
        return Session(name, "denoise", self._other, self.phase, STEPS, cohort, (1, D, G, G))

    def _count(self, valid, kind, code):
        with self._lock:
            self.done += 1
            self.codes[valid, kind, code] += 1
            if self.done % 50 == 0:
                self.resident.append(resident_bytes())

    def keeps_pace_with(self, batch):
        """A client's batches, each held back until the attack has come as far: every step is a step under attack."""

        def gated(step):
            deadline = time.monotonic() + 15
            while self.done < step * (VALID + REFUSED) // STEPS and not self.errors and time.monotonic() < deadline:
                time.sleep(0.001)
            return batch(step)

        return gated


@pytest.mark.parametrize(
    "phase", ["task-specific", *(pytest.param(one, marks=pytest.mark.long) for one in ("task-agnostic", "joint"))]
)
def test_training_under_attack_gives_the_same_bits(twin, phase):
    wire, tasks = WIRES[phase], ["denoise", "deblock"]
    if wire.compression == ZSTD:
        pytest.importorskip("zstandard")
    quiet, lab = twin(tasks, OptimiserConfig(lr=0.01))
    quiet.run_split(phase, STEPS, wire=wire)
    rogues = [] if phase == "task-specific" else [f"rogue-{n:02d}" for n in range(40)]
    attack = Attack(lab, phase, replace(Limits.of(wire, phase), max_frame_bytes=FRAME_LIMIT), rogues)
    for client in lab.clients:
        client.batch = attack.keeps_pace_with(client.batch)
    start = lab.weights()
    lab.run_split(phase, STEPS, invited=rogues, beside=attack, wire=wire, max_frame_mib=FRAME_LIMIT / 2**20)

    assert attack.errors == []
    assert attack.done == VALID + REFUSED
    for (valid, kind, code), _count in attack.codes.items():
        refused = "RESOURCE_EXHAUSTED" if kind == "too_large" else "INVALID_ARGUMENT"
        assert code == (refused if valid else "UNAUTHENTICATED"), (valid, kind, code)
    later = {f"later {kind}" for kind in Malformed.KINDS}
    assert {kind for _, kind, _ in attack.codes} == {*Malformed.KINDS, *later, "too_large"}

    reference, attacked = quiet.weights(), lab.weights()
    assert any(not torch.equal(start[name], attacked[name]) for name in start), "nothing was trained"
    assert [name for name in reference if not torch.equal(reference[name], attacked[name])] == []
    assert [client.losses for client in lab.clients] == [client.losses for client in quiet.clients]
    warm = len(attack.resident) // 4
    growth = max(attack.resident[warm:]) - max(attack.resident[:warm])
    assert growth < 64 * 2**20, f"{growth / 2**20:.0f} MiB more than after the first quarter of the attack"


def refuses(frame, phase, kind, limits):
    expected = GradFeatures if kind == "order" else Smashed  # the first of its two frames is good
    try:
        payload = decode(frame, phase, (expected,), 0, limits)
    except ProtocolError:
        return True
    return kind == "shape" and payload.smashed.ndim == 4  # well-formed: only the session knows the right size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_no_malformed_frame_passes_the_decoder(dtype, compression):
    """Nor does any cost memory: a header may claim a gigabyte, but nothing is set aside for it."""
    if compression == ZSTD:
        pytest.importorskip("zstandard")
    limits = Limits(max_frame_bytes=FRAME_LIMIT, up=dtype, compression=compression)
    passed = Counter()
    tracemalloc.start()
    try:
        for phase in ("task-specific", EVALUATE):
            made = Malformed(phase, SEED, limits)
            for kind in itertools.islice(itertools.cycle((*Malformed.KINDS, "too_large")), 1200):
                passed[kind] += not refuses(made.frames(kind)[-1], phase, kind, limits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert +passed == Counter()
    assert peak < 8 * 2**20
