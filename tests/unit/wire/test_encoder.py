"""A session's encoder: error feedback, and types by direction."""

import torch

from tavit_flwr.config import WireConfig, WireTypesConfig
from tavit_flwr.config.schema import DirectionsConfig
from tavit_flwr.payloads import Features, GradFeatures, GradFeaturesAndSmashed, GradSmashed, Smashed
from tavit_flwr.wire.encoder import Encoder
from tavit_flwr.wire.frames import decode
from tavit_flwr.wire.limits import Limits

INT8 = Limits(up="int8", down="int8", error_feedback=True)
STEPS = 12


def gradients():
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(1, 8, 2, 2, generator=draws) * 1e-6 for _ in range(STEPS)]


def arrived(limits, kind, values):
    encode = Encoder("joint", limits)
    return [decode(encode(kind(step, one)), "joint", (kind,), step, limits) for step, one in enumerate(values)]


def drift(limits):
    sent = gradients()
    came = [one.grad_features for one in arrived(limits, GradFeatures, sent)]
    return float((sum(came) - sum(sent)).abs().max()), max(float(one.abs().max()) for one in sent)


def test_with_feedback_what_is_lost_in_a_step_comes_with_the_next():
    with_it, largest = drift(INT8)
    without, _ = drift(Limits(up="int8"))
    assert with_it < 0.75 * largest / 127  # one rounding, not twelve
    assert with_it < without / 2


def test_only_int8_gradients_have_feedback():
    values = gradients()[:2]
    for kind, limits in ((Smashed, INT8), (Features, INT8), (GradFeatures, Limits(error_feedback=True))):
        encode = Encoder("joint", limits)
        for step, one in enumerate(values):
            encode(kind(step, one))
        assert encode.residuals == {}
    encode = Encoder("joint", INT8)
    encode(GradFeaturesAndSmashed(0, values[0], values[1]))
    encode(GradSmashed(0, values[0]))
    assert set(encode.residuals) == {"grad_features", "grad_smashed"}


def test_one_that_goes_on_elsewhere_writes_the_same_bytes():
    values = gradients()
    whole, first = Encoder("joint", INT8), Encoder("joint", INT8)
    frames = [whole(GradFeatures(step, one)) for step, one in enumerate(values)]
    for step in range(5):
        first(GradFeatures(step, values[step]))
    second = Encoder("joint", INT8, {name: one.clone() for name, one in first.residuals.items()})
    assert [second(GradFeatures(step, values[step])) for step in range(5, STEPS)] == frames[5:]


def test_types_are_chosen_by_phase_and_direction():
    wire = WireConfig(
        dtype="bfloat16",
        dtypes=WireTypesConfig(
            task_agnostic=DirectionsConfig(up="int8"), evaluation=DirectionsConfig(up="float16", down="float32")
        ),
    )
    chosen = {phase: Limits.of(wire, phase) for phase in ("task-specific", "task-agnostic", "joint", "evaluate")}
    assert {phase: (one.up, one.down) for phase, one in chosen.items()} == {
        "task-specific": ("bfloat16", "bfloat16"),
        "task-agnostic": ("int8", "bfloat16"),
        "joint": ("bfloat16", "bfloat16"),
        "evaluate": ("float16", "float32"),
    }
