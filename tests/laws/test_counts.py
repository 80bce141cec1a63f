"""What a step costs, counted: passes each way, optimiser steps, arithmetic, copies, frames and bytes. Never timed."""

from collections import Counter

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tavit_flwr.config import DTYPES, WireConfig
from tavit_flwr.models import preset
from tavit_flwr.server.part_costs import part_costs

PHASES = ("task-specific", "task-agnostic", "joint")
STEPS = 3
#: Crops of a step of the lab's clients.
BATCH = 2
#: D, G, G of the preset tiny.
GRID = (32, 8, 8)
#: Tensors that cross in a step, up and down; the first activations of a task-agnostic phase are the last step's lack.
CROSSING = {"task-specific": (2, 2), "task-agnostic": (2, 1), "joint": (2, 2)}


class Arithmetic(TorchDispatchMode):
    """FLOP of convolutions and matrix products; torch's fused attention on the CPU is not among them."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if (formula := flop_registry.get(function._overloadpacket)) is not None:
            self.count += formula(*arguments, **(options or {}), out_val=result)
        return result


@pytest.mark.parametrize(
    ("phase", "passes", "optimiser_steps"),
    [
        ("task-specific", {"head": STEPS, "body": STEPS, "tail": STEPS}, STEPS),
        ("task-agnostic", {"head": STEPS, "body": STEPS, "tail": STEPS}, STEPS),
        ("joint", {"head": STEPS, "body": STEPS, "tail": STEPS}, 2 * STEPS),
    ],
)
def test_each_part_runs_once_a_step(make_lab, phase, passes, optimiser_steps):
    lab = make_lab(["denoise"])
    parts = {lab.clients[0].head: "head", lab.clients[0].tail: "tail", lab.body: "body"}
    counted, stepped = Counter(), Counter()
    hooks = [
        register_module_forward_hook(lambda part, *_: counted.update([parts[part]] if part in parts else [])),
        register_optimizer_step_post_hook(lambda optimiser, *_: stepped.update(["step"])),
    ]
    try:
        lab.run_split(phase, STEPS)
    finally:
        for hook in hooks:
            hook.remove()
    assert counted == passes
    assert stepped["step"] == optimiser_steps


@pytest.mark.parametrize(
    ("phase", "ours"),  # the client's tail and, where it moves, head; the server's body
    [("task-specific", 2 + 1), ("task-agnostic", 1 + 1), ("joint", 2 + 1)],
)
@pytest.mark.parametrize("clients", [1, 2])
def test_each_part_runs_backward_once_a_step(make_lab, monkeypatch, phase, ours, clients):
    calls = Counter()
    for name in ("backward", "grad"):
        run = getattr(torch.autograd, name)
        monkeypatch.setattr(
            torch.autograd, name, lambda *rest, run=run, **options: calls.update(["ran"]) or run(*rest, **options)
        )
    make_lab(["denoise", "deblock"][:clients]).run_split(phase, STEPS)
    shared = 0 if phase == "task-specific" else clients - 1  # a moving body runs once for all
    assert calls["ran"] == (ours * clients - shared) * STEPS


def test_two_clients_share_one_pass_of_a_moving_body(make_lab):
    lab, passes = make_lab(["denoise", "deblock"]), Counter()
    lab.body.register_forward_hook(lambda *_: passes.update(["body"]))
    lab.run_split("task-agnostic", STEPS)
    assert passes["body"] == STEPS


@pytest.mark.parametrize("phase", PHASES)
def test_no_gradient_is_computed_that_nobody_uses(make_lab, watching, phase):
    """A backward pass costs a forward for a part's input and one for its weights; frozen parts have the first only."""
    watch = watching(Arithmetic)
    make_lab(["denoise"]).run_split(phase, STEPS)
    head, body, tail = (STEPS * BATCH * part.flop for part in part_costs(preset("tiny"), preset("tiny").crop))
    client, server = watch.count("client"), watch.count("server")
    if phase == "task-agnostic":  # the head never, the tail for its input
        assert head + 2 * tail <= client < 1.01 * (head + 2 * tail)
    else:  # all but the gradient of the image
        assert 2.9 * (head + tail) < client < 3 * (head + tail)
    if phase == "task-specific":  # for the input alone; torch has no formula for attention as frozen parts compute it
        tokens, width = (preset("tiny").crop // preset("tiny").scale) ** 2, preset("tiny").body_dim
        attention = STEPS * BATCH * preset("tiny").body_layers * 4 * tokens**2 * width
        assert server == 2 * (body - attention)
    else:
        assert server == 3 * body


def test_batches_that_come_again_need_no_second_pass_of_a_frozen_head(make_lab):
    """With ``data.fixed_batches``: as many passes as there are batches, and the same weights."""
    labs = [make_lab(["denoise"]) for _ in range(2)]
    for lab, period, passes in zip(labs, (0, 2), (6, 2), strict=True):
        counted, draw = Counter(), lab.clients[0].batch
        lab.clients[0].batch = lambda step, draw=draw: draw(step % 2)
        lab.clients[0].head.register_forward_hook(lambda *_, counted=counted: counted.update(["head"]))
        lab.run_split("task-agnostic", 6, period=period)
        assert counted["head"] == passes
    anew, again = (lab.weights() for lab in labs)
    assert [name for name in anew if not torch.equal(anew[name], again[name])] == []
    assert labs[0].clients[0].losses == labs[1].clients[0].losses


#: Bytes of a step's tensors of [2, 32, 8, 8], each, by type.
TENSOR_BYTES = {"float32": 4 * 4096, "bfloat16": 2 * 4096, "float16": 2 * 4096 + 2, "int8": 4096 + 2 * 128}
KINDS = ("Smashed", "Features", "GradFeatures", "GradSmashed", "GradFeaturesAndSmashed", "Close", "Acknowledged")
#: Bytes of a frame that are no tensor's, in a phase with a long name; 8 fewer in the joint one.
HEADER_BYTES = {
    dtype: dict(zip(KINDS, sizes, strict=True))
    for dtype, sizes in {
        "float32": (168, 168, 176, 176, 264, 96, 104),
        "bfloat16": (168, 168, 176, 176, 264, 96, 104),
        "float16": (240, 248, 256, 256, 424, 96, 104),
        "int8": (240, 240, 256, 256, 416, 96, 104),
    }.items()
}
#: Frames of a session.
_MOVING = {
    "up": {"Smashed": STEPS, "GradFeatures": STEPS, "Close": 1},
    "down": {"Features": STEPS, "GradSmashed": STEPS, "Acknowledged": 1},
}
FRAMES = {
    "task-specific": _MOVING,
    "joint": _MOVING,
    "task-agnostic": {
        "up": {"Smashed": 1, "GradFeaturesAndSmashed": STEPS - 1, "GradFeatures": 1, "Close": 1},
        "down": {"Features": STEPS, "Acknowledged": 2},
    },
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_of_a_session(make_lab, phase, dtype):
    lab = make_lab(["denoise"])
    lab.run_split(phase, STEPS, wire=WireConfig(dtype=dtype))
    for way, tensors in zip(("up", "down"), CROSSING[phase], strict=True):
        rows = lab.clients[0].ledger.as_dict()[way]
        headers = sum(
            row["frames"] * (HEADER_BYTES[dtype][kind] - 8 * (phase == "joint")) for kind, row in rows.items()
        )
        assert sum(row["bytes"] for row in rows.values()) == headers + STEPS * tensors * TENSOR_BYTES[dtype]
        assert {kind: row["frames"] for kind, row in rows.items()} == FRAMES[phase][way]
