"""The paper preset against reference outputs of the published architecture (weights and inputs by formula)."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tavit_flwr.models import build_parts, load_official

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
NAMES = ("features", "body_out", "restored", "grad_body_out", "grad_features")

# Case 0: loss, and every 128th of the 2048 stored values of each array.
LOSS = 0.5034670829772949
STORED = {
    "features": [
        0.2212328,
        -0.09856524,
        0.1322471,
        0.5584608,
        0.2830429,
        0.01771466,
        -0.2704188,
        -0.459981,
        0.2270477,
        0.5953554,
        0.3036446,
        0.02510513,
        -0.3115155,
        -0.1148985,
        0.5081279,
        0.6083582,
    ],
    "body_out": [
        -0.321565,
        -0.5055681,
        0.9515089,
        1.422662,
        -0.2650398,
        -0.2826079,
        -0.6884254,
        -1.998803,
        -0.2666861,
        2.259207,
        1.678314,
        -0.5650805,
        -1.804051,
        -0.5554363,
        0.8998215,
        0.7255256,
    ],
    "restored": [
        -0.1549081,
        -0.1549228,
        -0.1544261,
        -0.1553385,
        -0.1544077,
        -0.1548891,
        -0.7529519,
        -0.7530442,
        -0.7531682,
        -0.7532793,
        -0.7532607,
        0.9129285,
        0.9128893,
        0.912918,
        0.9128197,
        0.9129195,
    ],
    "grad_body_out": [
        -8.309711e-07,
        5.613347e-07,
        -3.494522e-08,
        -4.469141e-07,
        7.705449e-07,
        -9.189271e-07,
        7.071486e-07,
        -2.684887e-07,
        -1.913318e-07,
        6.619382e-07,
        -9.050428e-07,
        8.020409e-07,
        -5.181749e-07,
        3.862435e-08,
        4.974077e-07,
        -7.955588e-07,
    ],
    "grad_features": [
        -2.407421e-06,
        9.803733e-07,
        -4.04878e-07,
        -1.242372e-06,
        2.922957e-06,
        -2.308134e-06,
        1.872773e-06,
        -1.122284e-06,
        -9.584834e-07,
        1.942571e-06,
        -2.453052e-06,
        2.945907e-06,
        -1.331558e-06,
        -1.906516e-07,
        8.775793e-07,
        -2.528801e-06,
    ],
}


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
    flat = tensor.detach().numpy().ravel()
    return flat[:: max(1, flat.size // 2048)][:2048]


def compute(parts, batch, phase, time_step, dtype):
    parts.head.time_step = time_step
    head, body, tail = (part.to(dtype).eval() for part in (parts.head, parts.body, parts.tail))
    x = formula_input(batch, phase).to(dtype)
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


def test_case_0_in_float32_matches_the_numbers_stored_here(official):
    loss, arrays = compute(official, 1, 0.0, 0, torch.float32)
    assert loss == pytest.approx(LOSS, rel=1e-5)
    for name, wanted in STORED.items():
        assert relative(arrays[name][::128], np.array(wanted)) < 1e-3, name


@pytest.mark.parametrize("case", [0, 1])
def test_every_reference_array_within_1e_4(official, case):
    # In float64: what is left is the reference's own float32 rounding, up to 9e-5 in the gradient through the body.
    # In float32 ours rounds too, and the same comparison reads up to 2.4e-4 there, depending on the thread count.
    path = SHARED / "official_golden.npz"
    if not path.exists():
        pytest.skip(f"reference outputs not found at {path}")
    with np.load(path) as golden:
        wanted = {key.split("/")[1]: golden[key] for key in golden.files if key.startswith(f"case{case}/")}
    batch, phase, time_step = int(wanted["batch"]), float(wanted["phase"]), int(wanted["t"])
    loss, arrays = compute(official, batch, phase, time_step, torch.float64)
    assert loss == pytest.approx(float(wanted["loss"]), rel=1e-6)
    for name in NAMES:
        assert relative(arrays[name], wanted[name]) < 1e-4, name


def test_names_shapes_and_order_are_the_published_ones():
    path = SHARED / "official_state_dicts.json"
    if not path.exists():
        pytest.skip(f"published names not found at {path}")
    published = json.loads(path.read_text())["tensors"]
    parts = build_parts("paper")
    for part, tensors in published.items():
        built = {key: list(value.shape) for key, value in getattr(parts, part).state_dict().items()}
        assert list(built.items()) == list(tensors.items())
