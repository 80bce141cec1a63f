"""Each wire type gives the same bits over both carriers, its own bytes, and no other type passes."""

import json

import pytest
import torch

from tavit_flwr.client import scratch as scratch_module
from tavit_flwr.config import DTYPES, OptimiserConfig, WireConfig

pytestmark = pytest.mark.timeout(120)

PHASES = ("task-specific", "task-agnostic", "joint")
STEPS = 4
#: Of float32's bytes, headers left out. int8 has a scale of 2 bytes for each token of D = 32 channels.
SHARE = {"float32": 1.0, "bfloat16": 0.5, "float16": 0.5, "int8": 0.25 + 2 / (4 * 32)}


def differing(one, other):
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.fixture
def federation(tiny, make_phases, run, tmp_path, fake_grid):
    def make(name, *overrides, phases=PHASES, **options):
        grid = fake_grid(1, **options)
        config = tiny("clients=[denoise]", make_phases(*phases), *overrides)
        return run(config, tmp_path / name, grid)

    return make


def results(folder):
    keys = ("event", "round", "task", "loss_first", "loss_last", "psnr_db", "ssim")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line.get(key) for key in keys} for line in lines]


VARIANTS = {dtype: [f"wire.dtype={dtype}"] for dtype in DTYPES[1:]} | {
    "feedback": ["wire.dtype=int8", "wire.error_feedback=true"],
    "mixed": ["wire.dtypes.task_specific.up=int8", "wire.dtypes.joint.down=float16",
              "wire.dtypes.task_agnostic.down=bfloat16", "wire.dtypes.evaluation.up=int8"],
    "zstd": ["wire.dtype=int8", "wire.error_feedback=true", "wire.compression=zstd"],
}  # fmt: skip


@pytest.mark.parametrize(
    "variant",
    [one if one in ("mixed", "zstd") else pytest.param(one, marks=pytest.mark.long) for one in VARIANTS],
)
def test_both_carriers_give_the_same_bits(federation, tmp_path, variant):
    if variant == "zstd":
        pytest.importorskip("zstandard")
    runs = [federation(carrier, f"wire.carrier={carrier}", *VARIANTS[variant]) for carrier in ("stream", "messages")]
    assert differing(runs[0].weights, runs[1].weights) == []
    assert differing(runs[0].moments["natural"], runs[1].moments["natural"]) == []
    assert results(tmp_path / "stream") == results(tmp_path / "messages")
    if variant == "zstd":  # it changes bytes and no value
        assert differing(federation("plain", *VARIANTS["feedback"]).weights, runs[0].weights) == []


class _Dying:
    """Kills each handler once, where all is written but the file that makes it count."""

    def __init__(self, monkeypatch):
        killed, note = set(), scratch_module.Scratch.note

        def dying(scratch, memory):
            if (scratch._folder, memory.count) not in killed:
                killed.add((scratch._folder, memory.count))
                raise KeyboardInterrupt
            note(scratch, memory)

        monkeypatch.setattr(scratch_module.Scratch, "note", dying)


def test_feedback_counts_once_what_is_sent_twice(federation, monkeypatch):
    overrides = ("wire.carrier=messages", *VARIANTS["feedback"])
    phases = ("task-specific", "task-agnostic")
    reference = federation("once", *overrides, phases=phases)
    handled = federation("handled", *overrides, phases=phases, repeat=True)
    assert differing(handled.weights, reference.weights) == []
    _Dying(monkeypatch)
    killed = federation("killed", *overrides, phases=phases, retry=KeyboardInterrupt)
    assert differing(killed.weights, reference.weights) == []


@pytest.mark.parametrize("phase", PHASES)
def test_bytes_and_weights_of_each_type(make_lab, phase):
    """The losses stay near float32's; the bytes are what the type says."""
    reference = make_lab(["denoise"], OptimiserConfig(lr=1e-3))
    reference.run_split(phase, STEPS)
    whole = sum(row["bytes"] for kinds in reference.clients[0].ledger.as_dict().values() for row in kinds.values())
    for dtype in DTYPES[1:]:
        lab = make_lab(["denoise"], OptimiserConfig(lr=1e-3))
        lab.run_split(phase, STEPS, wire=WireConfig(dtype=dtype))
        counted = sum(row["bytes"] for kinds in lab.clients[0].ledger.as_dict().values() for row in kinds.values())
        headers = 400 * 4 * STEPS
        assert SHARE[dtype] * (whole - headers) < counted < SHARE[dtype] * whole + headers
        assert lab.clients[0].losses != reference.clients[0].losses
        assert lab.clients[0].losses == pytest.approx(reference.clients[0].losses, rel=0.02)
