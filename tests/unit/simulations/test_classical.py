"""The search over classical denoisers."""

import json

import pytest

from simulations.classical import candidates, main


def test_the_best_setting_of_a_method_beats_its_input(images, tmp_path):
    assert main([str(images), "--only", "total", "--search-every", "2", "--json", str(tmp_path / "rows.json")]) == 0
    noisy, best = json.loads((tmp_path / "rows.json").read_text())
    assert (noisy["method"], best["method"]) == ("input", "total variation")
    assert noisy["images"] == best["images"] == 5
    assert noisy["psnr_db"] == pytest.approx(18.9, abs=0.7)
    assert best["psnr_db"] > noisy["psnr_db"] + 4


def test_settings_have_names_of_their_own():
    names = [(one.method, one.setting) for one in candidates(30 / 255, bm3d=False)]
    assert len(set(names)) == len(names) > 50
