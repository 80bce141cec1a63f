"""Recipes: the table holds together, the document tells it, and what a folder lacks is named."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tavit_flwr.cli import app
from tavit_flwr.data import complete
from tavit_flwr.data.complete import check_data, find_recipe
from tavit_flwr.data.recipes import RECIPES, Part, Recipe, part_at
from tavit_flwr.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def _write(path, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)


def _recipe(kind="images", count=2, sizes=((12, 8),), folder="images"):
    return Recipe("own", "nowhere", (), (Part("test", folder, kind, count, sizes),))


def _problem(recipe, folder):
    (finding,) = check_data(recipe, folder)
    return finding.problem


@pytest.fixture
def kodak(tmp_path):
    for index in range(24):
        _write(tmp_path / f"kodim{index + 1:02d}.png", (768, 512) if index % 4 else (512, 768))
    return tmp_path


def test_a_whole_data_set_passes_lying_or_standing(kodak):
    (finding,) = check_data(find_recipe("kodak24"), kodak)
    assert (finding.count, finding.headers, finding.problem) == (24, 24, "")
    result = CliRunner().invoke(app, ["check-data", "kodak24", str(kodak)])
    assert (result.exit_code, result.output) == (0, "test: ok: 24 images, 24 opened\n")


def test_what_is_missing_is_said_and_the_status_tells(kodak):
    (kodak / "kodim03.png").unlink()
    result = CliRunner().invoke(app, ["check-data", "kodak24", str(kodak)])
    assert result.exit_code == 1
    assert "WRONG: expected 24 images, received 23" in result.output


def test_a_folder_that_is_not_there_leaves_the_other_parts_to_be_checked(tmp_path):
    for index in range(200):
        _write(tmp_path / "images" / "test" / f"{index}.png", (481, 321))
    findings = {finding.part.name: finding for finding in check_data(find_recipe("bsds500"), tmp_path)}
    assert findings["test"].problem == ""
    assert "received nothing" in findings["train"].problem
    (alone,) = check_data(find_recipe("bsds500"), tmp_path, "test")
    assert alone == findings["test"]


def test_odd_sizes_and_broken_files_are_counted_and_the_first_is_named(tmp_path):
    _write(tmp_path / "images" / "a.png")
    _write(tmp_path / "images" / "b.png", (13, 8))
    assert "1 of 2 cannot be used, the first: expected 12x8 pixels, received 13x8, at b.png" in _problem(
        _recipe(), tmp_path
    )
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    assert "2 of 2 cannot be used" in _problem(_recipe(), tmp_path)


def test_pairs_are_counted_and_compared(tmp_path):
    recipe = _recipe("pairs", count=1)
    _write(tmp_path / "images" / "rain" / "rain-1.png")
    _write(tmp_path / "images" / "norain" / "norain-1.png")
    assert _problem(recipe, tmp_path) == ""
    _write(tmp_path / "images" / "rain" / "rain-2.png")
    assert "1 without: rain/rain-2.png" in _problem(recipe, tmp_path)
    _write(tmp_path / "images" / "norain" / "norain-2.png", (10, 8))
    problem = _problem(recipe, tmp_path)
    assert "expected 1 pairs, received 2" in problem
    assert "a pair of equal size" in problem


def test_an_empty_folder_is_never_whole(tmp_path):
    (tmp_path / "images").mkdir()
    assert "expected some images" in _problem(_recipe(count=None, sizes=()), tmp_path)


def test_of_a_large_part_some_headers_are_read(tmp_path, monkeypatch):
    for index in range(11):
        _write(tmp_path / "images" / f"{index:02d}.png")
    monkeypatch.setattr(complete, "HEADERS", 4)
    (finding,) = check_data(_recipe(count=11), tmp_path)
    assert (finding.count, finding.headers, finding.problem) == (11, 4, "")


def test_unknown_names_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'gopro'"):
        find_recipe("go-pro")
    with pytest.raises(ConfigError, match="train, val, test"):
        list(check_data(find_recipe("bsds500"), tmp_path, "tset"))
    result = CliRunner().invoke(app, ["check-data", "go-pro", str(tmp_path)])
    assert result.exit_code == 2


def test_the_list_names_every_recipe_with_where_it_comes_from():
    output = CliRunner().invoke(app, ["check-data"]).output
    for recipe in RECIPES:
        assert "\n    ".join((f"{recipe.name}: {recipe.page}", *recipe.addresses)) in output
    one = CliRunner().invoke(app, ["check-data", "gopro"]).output
    assert "2,103 pairs, 1280x720" in one
    assert "bsds500" not in one


def test_recipes_are_whole():
    names = [recipe.name for recipe in RECIPES]
    assert len(names) == len(set(names))
    for recipe in RECIPES:
        assert recipe.page
        assert recipe.addresses
        assert all(address.startswith(("https://", "http://")) for address in recipe.addresses)
        assert recipe.parts
        parts = [part.name for part in recipe.parts]
        assert len(parts) == len(set(parts))
        for part in recipe.parts:
            assert part.kind in complete._LISTERS
            assert not Path(part.folder).is_absolute()
            assert replace(part, sizes=()).size_text == "any size"


def test_the_document_tells_every_part_of_every_recipe():
    text = re.sub(r"\n {2,}", " ", (ROOT / "docs" / "datasets.md").read_text())
    for recipe in RECIPES:
        for part in recipe.parts:
            count = "any" if part.count is None else f"{part.count:,}"
            row = f"| `{recipe.name}` | {part.name} | {part.folder} | {count} {part.what} | {part.size_text} |"
            assert row in text, row
        for told in (recipe.page, *recipe.addresses):
            assert told in text, told


def test_a_folder_is_known_by_its_end():
    assert part_at(Path("/data/gopro/test")).count == 1111
    assert part_at(Path("/data/cbsd68")).count == 68
    assert part_at(Path("bsds500/images/val")).count == 100
    for other in ("/data/gopro", "/data/gopro/test/scene", "/gopro/tests", "/"):
        assert part_at(Path(other)) is None


def test_the_documents_lines_cut_the_pictures_of_rain800_apart(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "datasets.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    halves = np.concatenate([np.full((5, 7, 3), 40, np.uint8), np.full((5, 7, 3), 200, np.uint8)], axis=1)
    for part in ("train", "test"):
        for name in ("1.jpg", "2.png"):
            path = tmp_path / "published" / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(halves).save(path)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    for part in ("train", "test"):
        (finding,) = check_data(
            replace(find_recipe("rain800"), parts=(Part(part, part, "pairs", 2),)), tmp_path / "rain800"
        )
        assert finding.problem == ""
        for side, value in (("norain", 40), ("rain", 200)):
            half = np.asarray(Image.open(tmp_path / "rain800" / part / side / "2.png"))
            assert (half == value).all()
            assert half.shape == (5, 7, 3)
