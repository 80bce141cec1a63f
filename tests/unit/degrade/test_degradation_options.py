"""Names and options of degradations are checked before any work."""

import pytest

from tavit_flwr.degrade import DEGRADATIONS, degradation
from tavit_flwr.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nois", {}, "did you mean 'noise'"),
        ("blur", {}, "did you mean 'motion_blur'"),
        ("noise", {"sigma": 30}, "did you mean 'sigma_255'"),
        ("noise", {"sigma_255": "30"}, "type float"),
        ("noise", {"sigma_255": True}, "type float"),
        ("noise", {"sigma_255": -1}, "at least 0"),
        ("noise", {"sigma_255": float("nan")}, "at least 0"),
        ("jpeg", {"qualities": 10}, "a list"),
        ("jpeg", {"qualities": "10"}, "a list"),
        ("jpeg", {"qualities": [10.5]}, "type int"),
        ("jpeg", {"qualities": [True]}, "type int"),
        ("jpeg", {"qualities": [0]}, "1 to 100"),
        ("jpeg", {"qualities": []}, "1 to 100"),
        ("jpeg", {"subsampling": "4:1:1"}, "4:4:4, 4:2:0"),
        ("rain", {"mix": ["havy"]}, "did you mean 'heavy'"),
        ("rain", {"mix": [1]}, "type str"),
        ("rain", {"mix": []}, "at least one"),
        ("motion_blur", {"length_px": [5]}, "two lengths"),
        ("motion_blur", {"length_px": [9, 5]}, "two lengths"),
        ("motion_blur", {"max_turn_deg": 400}, "0 to 360"),
        ("missing_pixels", {"missing": 1.5}, "0 to 1"),
        ("missing_pixels", {"missing": float("nan")}, "0 to 1"),
        ("low_resolution", {"scale": 1}, "2 to 16"),
        ("low_resolution", {"scale": 2.5}, "type int"),
    ],
)
def test_a_wrong_name_or_option_is_refused_with_what_was_expected(name, options, said):
    with pytest.raises(ConfigError, match=said):
        degradation(name, options)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_has_defaults_and_carries_its_name(name):
    assert degradation(name, {}).name == name


def test_variants_follow_the_options():
    assert degradation("jpeg", {"qualities": [30, 70, 90]}).variants == ("q30", "q70", "q90")
    assert degradation("rain", {"mix": ["heavy"]}).variants == ("heavy",)


def test_margins_follow_the_options():
    assert degradation("noise", {}).margin_px == 0
    assert degradation("rain", {}).margin_px == 0
    assert degradation("missing_pixels", {}).margin_px == 0
    assert degradation("low_resolution", {"scale": 3}).margin_px == 12
    assert degradation("jpeg", {}).margin_px == 0
    assert degradation("jpeg", {"subsampling": "4:2:0"}).margin_px == 16
    assert degradation("motion_blur", {"length_px": [5, 21]}).margin_px == 11
