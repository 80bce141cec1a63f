"""The rooms of ARCHITECTURE.md, as import-linter holds them, and as the document shows them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def layers():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = settings["contracts"]
    assert contract["type"] == "layers"
    assert contract["containers"] == ["tavit_flwr"]
    assert "ignore_imports" not in contract
    return contract["layers"]


def test_the_contract_is_kept():
    command = [
        sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--config", str(ROOT / "pyproject.toml"), "--no-cache",
    ]  # fmt: skip
    # The tree under test, wherever another copy of the package may be installed.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    outcome = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", outcome.stdout), outcome.stdout


def test_every_module_of_the_package_is_in_a_layer(layers):
    named = {name.strip() for line in layers for name in line.split("|")}
    package = ROOT / "tavit_flwr"
    present = {path.stem for path in package.glob("*.py") if path.stem != "__init__"}
    present |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert present == named


def test_the_document_shows_the_same_layers(layers):
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.split("\n## Rooms\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
    assert block.splitlines() == layers


def test_the_package_never_imports_what_lies_outside_of_it():
    outside = re.compile(r"^\s*(?:from|import)\s+(?:simulations|tests)\b", re.MULTILINE)
    assert [str(path) for path in (ROOT / "tavit_flwr").rglob("*.py") if outside.search(path.read_text())] == []
