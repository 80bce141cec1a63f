"""The tree: short files, honest names and words, pinned dependencies, no address of a package index."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 249
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".ini", ".json", ".sh", ""}


def ignored():
    """Folders that .gitignore names."""
    lines = (ROOT / ".gitignore").read_text().split()
    return {line.rstrip("/") for line in lines if line.endswith("/")} | {".git"}


def files():
    """Every file that belongs to the project, with its path from the root."""
    skipped = ignored()
    found = []
    stack = [ROOT]
    while stack:
        for path in stack.pop().iterdir():
            if path.is_symlink() or path.name in skipped or path.name.endswith(".egg-info"):
                continue
            if path.is_dir():
                stack.append(path)
            else:
                found.append(path)
    assert len(found) > 100, "hardly any files: the checks would be empty"
    return sorted(found)


def texts():
    for path in files():
        if path.suffix in TEXT:
            yield path.relative_to(ROOT), path.read_text(errors="replace")


@pytest.mark.parametrize("folder", ["tavit_flwr", "simulations"])
def test_files_are_short(folder):
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert {str(path): length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_files_are_named_after_what_they_hold():
    vague = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    assert [str(path) for path in files() if path.name in vague] == []


def test_there_is_no_lock_file():
    locks = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "pylock.toml"}
    assert [str(path) for path in files() if path.name in locks] == []


def test_no_address_of_a_package_index_is_in_the_tree():
    """Where packages come from is the user's setting. The pattern is put together so as not to find itself."""
    words = ("index" + "-url", "index" + "_url", "find" + "-links", "trusted" + "-host", "--index" + " ")
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "download.pytorch" + ".org", "/simple" + "/")
    pattern = re.compile("|".join(re.escape(word) for word in (*words, *hosts)), re.IGNORECASE)
    found = [f"{path}: {match.group()}" for path, text in texts() for match in pattern.finditer(text)]
    assert found == []


def test_no_one_calls_it_what_it_is_not():
    """The cut gives no formal guarantee, so the claim appears in negations only."""
    claim = re.compile("privacy" + r"[\s-]+" + "preserving|" + "preserv(?:e|es|ing)" + r"\s+privacy", re.IGNORECASE)
    negations = 0
    for path, text in texts():
        for match in claim.finditer(text):
            before = text[: match.start()].rstrip("\"'`*_ \n\t").split()[-3:]
            denied = bool({"not", "never", "no"} & {word.lower() for word in before[-1:]})
            assert denied, f"{path}: ...{text[max(0, match.start() - 60) : match.end()]!r}"
            negations += 1
    assert negations, "README.md must say that it is not"


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for group in project["project"]["optional-dependencies"].values():
        named += group
    return [Requirement(line) for line in named]


def test_every_direct_dependency_is_pinned_to_a_version_it_allows():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line)
            name = canonicalize_name(pin.name)
            assert name not in pins, f"{name} is pinned twice"
            (specifier,) = pin.specifier
            assert specifier.operator == "==", line
            assert "*" not in specifier.version, line
            pins[name] = specifier.version
    direct = requirements()
    assert len(direct) > 15
    for requirement in direct:
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement} but {pins[name]}"
