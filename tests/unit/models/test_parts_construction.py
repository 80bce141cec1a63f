"""Presets, construction, initialisation and import of state dicts."""

import math

import pytest
import torch

from tavit_flwr.errors import ConfigError, ModelError
from tavit_flwr.models import (
    PRESETS,
    Preset,
    build_body,
    build_head,
    build_parts,
    build_tail,
    initialise_part,
    load_official,
    preset,
)

NAMES = ("head", "body", "tail")


def weights(parts):
    return {f"{n}/{k}": v for n in NAMES for k, v in getattr(parts, n).state_dict().items()}


def test_paper_counts():
    parts = build_parts("paper")
    counts = [sum(p.numel() for p in getattr(parts, name).parameters()) for name in NAMES]
    assert counts == [22_341_892, 16_953_344, 5_610_629]
    assert [len(getattr(parts, name).state_dict()) for name in NAMES] == [110, 97, 62]


@pytest.mark.parametrize("name", list(PRESETS))
def test_no_parameter_hides_outside_the_state_dict_and_all_are_set(name):
    parts = build_parts(name, crop=32)
    for part in NAMES:
        module = getattr(parts, part)
        assert [k for k, _ in module.named_parameters()] == list(module.state_dict())
        assert all(v.isfinite().all() and v.device.type == "cpu" for v in module.state_dict().values())


def test_unknown_names_point_to_the_nearest():
    with pytest.raises(ConfigError, match="'small'"):
        preset("smal")
    with pytest.raises(ConfigError, match="'body_layers'"):
        preset("tiny", body_layer=2)
    with pytest.raises(ConfigError, match="'width'"):
        build_parts("tiny", widht=2)
    with pytest.raises(ConfigError):
        preset("tiny", name="mine")


@pytest.mark.parametrize(
    "overrides",
    [
        {"crop": 30},
        {"width": 9},
        {"width": 10},
        {"width": 2},
        {"multipliers": (1,)},
        {"multipliers": 3},
        {"multipliers": (1, 0)},
        {"multipliers": (1, 1.5)},
        {"body_layers": 0},
        {"body_heads": 5},
        {"body_dropout": 1.0},
        {"body_dropout": "0.1"},
        {"attention_heads": True},
        {"global_residual": 1},
    ],
)
def test_values_out_of_range_are_refused(overrides):
    with pytest.raises(ConfigError):
        preset("tiny", **overrides)


@pytest.mark.parametrize("time_step", [-1, 0.5, True])
def test_time_step_out_of_range_is_refused(time_step):
    with pytest.raises(ConfigError, match="time_step"):
        build_head(PRESETS["tiny"], time_step)


def test_overrides_reach_the_parts_and_lists_become_tuples():
    parts = build_parts("tiny", multipliers=[1, 2], body_layers=1)
    assert parts.preset.multipliers == (1, 2)
    assert (parts.preset.body_dim, parts.preset.scale, parts.preset.grid) == (16, 2, 16)
    assert len(parts.body.transformer.layers) == 1
    own = Preset(name="mine", crop=16, width=8)
    assert build_parts(own, body_layers=1).preset == Preset(name="mine", crop=16, width=8, body_layers=1)


def test_unset_weights_are_nan():
    chosen = PRESETS["tiny"]
    for part in (build_head(chosen), build_body(chosen), build_tail(chosen)):
        assert all(p.isnan().all() and p.requires_grad for p in part.parameters())


def test_same_seed_and_path_same_weights_whatever_the_order_and_the_global_generator():
    chosen = PRESETS["tiny"]
    first, second, other_task, other_seed = (build_head(chosen) for _ in range(4))
    torch.manual_seed(1)
    initialise_part(first, 3, "head", "denoise")
    torch.manual_seed(2)
    initialise_part(other_task, 3, "head", "derain")
    initialise_part(other_seed, 4, "head", "denoise")
    initialise_part(second, 3, "head", "denoise")
    key = "downs.0.0.block1.block.0.weight"
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    assert not torch.equal(first.state_dict()[key], other_task.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other_seed.state_dict()[key])


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build_parts("tiny")
    assert torch.equal(before, torch.get_rng_state())


def test_layers_of_the_body_start_different():
    state = build_parts("tiny").body.state_dict()
    for key in ("self_attn.in_proj_weight", "linear1.weight"):
        assert not torch.equal(state[f"transformer.layers.0.{key}"], state[f"transformer.layers.1.{key}"])


def test_initial_values_follow_the_stated_rules():
    parts = build_parts("tiny")
    state = weights(parts)
    assert all(not v.any() for k, v in state.items() if k.endswith(".g"))
    assert all((v == 1).all() for k, v in state.items() if ".norm" in k and k.endswith("weight"))
    assert not state["tail/final_conv.1.weight"].any()
    assert not state["tail/final_conv.1.bias"].any()
    assert not state["body/transformer.layers.0.self_attn.in_proj_bias"].any()
    assert not state["body/transformer.layers.0.self_attn.out_proj.bias"].any()
    assert state["body/pos_embedding"].std().item() == pytest.approx(0.02, rel=0.1)
    for key, fan_in in [
        ("head/downs.1.0.block1.block.0.weight", 8 * 9),
        ("tail/ups.0.3.conv.weight", 16 * 16),
        ("body/transformer.layers.0.linear2.weight", 32),
    ]:
        assert 0.9 / math.sqrt(fan_in) < state[key].abs().max().item() <= 1 / math.sqrt(fan_in)
    assert build_parts("tiny", global_residual=False).tail.final_conv[1].weight.any()


def test_a_frozen_part_can_be_initialised_and_an_unknown_parameter_is_refused():
    body = build_body(PRESETS["tiny"]).requires_grad_(False)
    initialise_part(body, 0, "body")
    assert not any(p.isnan().any() or p.requires_grad for p in body.parameters())
    stranger = torch.nn.Module()
    stranger.weight = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ModelError, match="weight"):
        initialise_part(stranger, 0)


def test_load_official_lists_every_fault_and_changes_nothing():
    parts, source = build_parts("tiny", seed=1), build_parts("tiny", seed=2)
    before = {key: value.clone() for key, value in weights(parts).items()}
    given = {name: dict(getattr(source, name).state_dict()) for name in NAMES}
    del given["tail"]["final_conv.1.bias"]
    given["head"]["extra"] = torch.zeros(1)
    given["body"]["pos_embedding"] = torch.zeros(3, 1, 32)
    given["head"]["mlp.0.bias"] = None
    with pytest.raises(ModelError) as caught:
        load_official(parts, given)
    for fault in (
        "missing tail/final_conv.1.bias",
        "unexpected head/extra",
        "wrong shape body/pos_embedding [3, 1, 32] instead of [64, 1, 32]",
        "mlp.0.bias",
    ):
        assert fault in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in weights(parts).items())


def test_load_official_wants_all_three_parts_and_fills_them():
    parts, source = build_parts("tiny", seed=1), build_parts("tiny", seed=2)
    given = {name: getattr(source, name).state_dict() for name in NAMES}
    with pytest.raises(ModelError, match="head, body and tail"):
        load_official(parts, {"head": given["head"]})
    load_official(parts, given)
    assert all(torch.equal(value, weights(source)[key]) for key, value in weights(parts).items())
