"""The paper preset against reference outputs of the published architecture (weights and inputs by formula)."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tavit_flwr.models import build_parts, load_official
from tavit_flwr.split.devices import choose_device

DEVICE = choose_device(os.environ.get("TAVIT_TEST_DEVICE", "cpu"), "TAVIT_TEST_DEVICE")
HERE = Path(__file__).parent
NAMES = ("features", "body_out", "restored", "grad_body_out", "grad_features")


def formula_weight(part, key, shape):
    count = int(np.prod(shape))
    values = 0.03 * np.sin(12.9898 * np.arange(count) + zlib.crc32(f"{part}/{key}".encode()) % 1000)
    if len(shape) == 1:
        values += 0.5 if key.endswith(".g") else 1.0 if key.endswith("weight") else 0.0
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def formula_input(batch, phase):
    values = 0.9 * np.sin(0.0173 * np.arange(batch * 3 * 64 * 64) + phase)
    return torch.from_numpy(values.astype(np.float32)).reshape(batch, 3, 64, 64)


def sample(tensor):
    flat = tensor.detach().cpu().numpy().ravel()
    return flat[:: max(1, flat.size // 2048)][:2048]


def compute(parts, batch, phase, time_step, dtype):
    parts.head.time_step = time_step
    head, body, tail = (part.to(DEVICE, dtype).eval() for part in (parts.head, parts.body, parts.tail))
    x = formula_input(batch, phase).to(DEVICE, dtype)
    with torch.no_grad():
        smashed, local = head(x)
    smashed.requires_grad_()
    body_out = body(smashed)
    restored = tail(body_out, local, x)
    loss = (restored - 0.25 * x).square().mean()
    grad_body_out, grad_features = torch.autograd.grad(loss, [body_out, smashed])
    arrays = (smashed, body_out, restored, grad_body_out, grad_features)
    return loss.item(), {name: sample(array) for name, array in zip(NAMES, arrays, strict=True)}


def relative(got, wanted):
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


@pytest.fixture(scope="module")
def official():
    parts = build_parts("paper")
    state_dicts = {
        part: {key: formula_weight(part, key, value.shape) for key, value in getattr(parts, part).state_dict().items()}
        for part in ("head", "body", "tail")
    }
    load_official(parts, state_dicts)
    return parts


@pytest.fixture
def two_threads():
    """The reference was computed with several threads; oneDNN takes other kernels for one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [0, 1])
def test_every_reference_array_within_1e_4(official, case, dtype, two_threads):
    """In float32 bit for bit on the reference's kind of processor; other kernels' rounding grows to 7e-4 in gradients.

    In float64 what is left is the reference's own rounding.
    """
    with np.load(HERE / "official_golden.npz", allow_pickle=False) as golden:
        wanted = {key.split("/")[1]: golden[key] for key in golden.files if key.startswith(f"case{case}/")}
    batch, phase, time_step = int(wanted["batch"]), float(wanted["phase"]), int(wanted["t"])
    loss, arrays = compute(official, batch, phase, time_step, dtype)
    assert loss == pytest.approx(float(wanted["loss"]), rel=1e-6)
    same_kernels = DEVICE.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    most = 1e-4 if same_kernels or dtype == torch.float64 else 1e-3
    far = {name: distance for name in NAMES if not (distance := relative(arrays[name], wanted[name])) < most}
    assert far == {}


def test_names_shapes_and_order_are_the_published_ones():
    published = json.loads((HERE / "official_state_dicts.json").read_text())["tensors"]
    parts = build_parts("paper")
    for part, tensors in published.items():
        built = {key: list(value.shape) for key, value in getattr(parts, part).state_dict().items()}
        assert list(built.items()) == list(tensors.items())
