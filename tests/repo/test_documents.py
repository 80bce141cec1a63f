"""The documents name only what exists, and docs/configuration.md names all keys."""

import ast
import dataclasses
import importlib.util
import inspect
import itertools
import re
import shlex
import tomllib
import types
import typing
from pathlib import Path

from omegaconf import OmegaConf

from tavit_flwr.cli import app as command_line
from tavit_flwr.config import TavitConfig, compose, conf_dir
from tavit_flwr.degrade import DEGRADATIONS
from tavit_flwr.models import PRESETS

ROOT = Path(__file__).resolve().parents[2]

#: What runs make, not what the repository holds.
MADE = {
    "metrics.jsonl",
    "results.json",
    "job.json",
    "compare.md",
    "compare.csv",
    "compare.json",
    "report.html",
    "weights.safetensors",
    "weights.json",
    "state.json",
    "evaluation.json",
}
#: Its commands make the files that later ones name: tests/apps/test_tutorial.py
RUN_BY_A_TEST = {"tutorial.md"}
ANYWHERE = ("/", "~", "$", "http", "-")
FILE = re.compile(r"\.(py|md|toml|yaml|yml|json|jsonl|txt|safetensors)$")
SYMBOL = re.compile(r"^([\w./-]+\.py):([A-Za-z_][\w.]*)$")
KEY_WITH_VALUE = re.compile(r"^(\+?[a-z][a-z0-9_]*(?:\.[a-z0-9_<>-]+|\[\d*\])*)=(.*)$")
KEY_ALONE = re.compile(r"^[a-z_]+\.[a-z_.<>\[\]0-9]+$")


def words(document):
    return [word.rstrip(",;") for span in document.spans for word in span.split()]


def test_every_document_is_there(documents):
    assert len(documents) >= 6


def test_paths_exist(document):
    missing = []
    for word in words(document):
        path = SYMBOL.sub(r"\1", word)
        if path.startswith(ANYWHERE) or path in MADE or any(sign in path for sign in "<*={'\"("):
            continue
        if FILE.search(path) or "/" in path:
            made = path.split("/")[0] in {"outputs", "checkpoints", ".venv"}
            bare = "/" not in path and path in {"utils.py", "config.py", "defog.yaml"}  # refused, or to be written
            if not made and not bare and not (ROOT / path).exists():
                missing.append(path)
    assert missing == []


def test_links_lead_somewhere(document):
    missing = [
        link
        for link in document.links
        if not link.startswith(("http://", "https://")) and not (document.path.parent / link.split("#")[0]).exists()
    ]
    assert missing == []


def names_in(path):
    """Names that a file defines: functions, classes, assignments, and one level of members."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        for name in _defined(node):
            found.add(name)
            if isinstance(node, ast.ClassDef):
                found |= {f"{name}.{member}" for child in node.body for member in _defined(child)}
    return found


def _defined(node):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_named_functions_are_in_the_named_files(document):
    wrong = []
    for word in words(document):
        match = SYMBOL.match(word)
        if match and match.group(2) not in names_in(ROOT / match.group(1)):
            wrong.append(word)
    assert wrong == []


def test_the_architecture_names_functions(architecture):
    assert sum(bool(SYMBOL.match(word)) for word in words(architecture)) > 30


def test_make_targets_exist(document):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {match for command in document.commands for match in re.findall(r"^make ([a-z-]+)", command)}
    assert named <= targets


def test_modules_exist(document):
    for command in document.commands:
        for module in re.findall(r"python\S* -m ([\w.]+)", command):
            path = ROOT / module.replace(".", "/")
            here = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
            assert here or importlib.util.find_spec(module), command


def test_commands_of_tavit_exist(document):
    known = {command.name or command.callback.__name__ for command in command_line.registered_commands}
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"tavit"}
    named = {match for command in document.commands for match in re.findall(r"^tavit (\S+)", command)}
    assert named <= known


def leaves(kind, prefix=""):
    """Every key of the schema with its type; items of lists and dicts of dataclasses as ``[]`` and ``<task>``."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        arguments = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint, f"{name}.")
        elif arguments and dataclasses.is_dataclass(arguments[-1]):
            yield from leaves(arguments[-1], f"{name}[]." if typing.get_origin(hint) is list else f"{name}.<task>.")
        else:
            yield name, hint, field


def generic(key):
    """A key as docs/configuration.md writes it."""
    key = re.sub(r"\[\d*\]", "[]", key.lstrip("+"))
    return re.sub(r"^tasks\.[^.]+\.", "tasks.<task>.", key)


SCHEMA = {name: (hint, field) for name, hint, field in leaves(TavitConfig)}
INNER = {name[: match.start()] for name in SCHEMA for match in re.finditer(r"[.\[]", name)} - {"tasks.<task>"}
GROUPS = {
    folder.name: {path.stem for path in folder.glob("*.yaml")} for folder in conf_dir().iterdir() if folder.is_dir()
}


def known_key(key):
    name = generic(key)
    free = name.startswith("model.overrides.") or name.startswith("tasks.<task>.options.")
    return free or name in SCHEMA or name in INNER


def unknown_keys(command):
    """Words of a command line that name a key or choice which does not exist."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    sections = {name.split(".")[0].split("[")[0] for name in SCHEMA if "." in name}
    for word in re.split(r"[\s\"']+", command):
        match = KEY_WITH_VALUE.match(word)
        if word in ("group=name", *(f"{key}=" for key in settings)):
            continue
        if match and match.group(1) in GROUPS:
            known = set(match.group(2).split(",")) <= GROUPS[match.group(1)]  # several in a sweep
        elif match:
            known = known_key(match.group(1))
        else:
            key_alone = KEY_ALONE.match(word) and word.split(".")[0] in sections and not FILE.search(word)
            known = not key_alone or known_key(word)
        if not known:
            yield word


def test_configuration_keys_exist(document):
    """`group.key` alone, `key=value`, and `group=choice`; what has a parenthesis is Python, and
    most commands of tavit take none."""
    if document.path.name in RUN_BY_A_TEST:
        return
    others = re.compile(r"\(|^tavit (?!config|estimate)")
    assert [word for command in document.commands if not others.search(command) for word in unknown_keys(command)] == []


def overrides_in(document):
    for command in () if document.path.name in RUN_BY_A_TEST else document.commands:
        if command.startswith("flwr run"):
            given = shlex.split(command)
            for flag, value in itertools.pairwise(given):
                if flag == "--run-config":
                    (text,) = shlex.split(value)
                    assert text.startswith("hydra=")
                    yield text.removeprefix("hydra=")
        elif command.startswith("tavit config"):
            yield command.removeprefix("tavit config")


def test_documented_overrides_compose(document):
    for overrides in overrides_in(document):
        compose(overrides)


def test_some_overrides_are_documented(documents):
    assert sum(1 for document in documents for _ in overrides_in(document)) > 5


def type_name(hint):
    if isinstance(hint, types.UnionType):
        return " or ".join("null" if one is type(None) else type_name(one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return f"list of {type_name(typing.get_args(hint)[0])}"
    return "mapping" if typing.get_origin(hint) is dict else hint.__name__


def shown(value):
    if isinstance(value, str):
        return value or "''"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(one) for one in value)}]"
    return str(value)


def test_documented_keys_are_the_schemas(configuration):
    keys = [row[0] for row in configuration.table("key", "type", "default", "meaning")]
    assert len(keys) == len(set(keys))
    assert sorted(keys) == sorted(SCHEMA)


def test_documented_types_and_defaults_are_true(configuration):
    composed = OmegaConf.structured(compose())
    wrong = []
    for key, kind, default, meaning in configuration.table("key", "type", "default", "meaning"):
        hint, field = SCHEMA[key]
        if "<task>" in key or "[]" in key:
            value = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        else:
            value = OmegaConf.to_container(composed)
            for part in key.split("."):
                value = value[part]
        if (kind, default) != (type_name(hint), shown(value)) or not meaning:
            wrong.append((key, kind, default, type_name(hint), shown(value)))
    assert wrong == []


def test_documented_groups_are_the_folders(configuration):
    rows = {row[0]: set(row[1].split(", ")) for row in configuration.table("group", "choices", "what it sets")}
    assert rows == GROUPS


def test_documented_presets_are_true(configuration):
    names = ("tiny", "small", "paper")
    assert set(names) == set(PRESETS)
    rows = {row[0]: row[1:4] for row in configuration.table("field", *names, "meaning")}
    fields = [field.name for field in dataclasses.fields(PRESETS["paper"]) if field.name != "name"]
    assert rows == {field: [shown(getattr(PRESETS[name], field)) for name in names] for field in fields}


def test_documented_degradations_are_true(configuration):
    rows = [tuple(row[:3]) for row in configuration.table("name", "option", "default", "meaning")]
    expected = [
        (name, option, shown(parameter.default))
        for name, factory in DEGRADATIONS.items()
        for option, parameter in inspect.signature(factory).parameters.items()
    ]
    assert rows == expected


def test_the_deadlines_are_all_in_the_architecture(architecture):
    table = architecture.table("key", "bounds", "enforced in")
    keys = {row[0] for row in table} - {"fixed"}
    assert keys == {key for key in SCHEMA if key.endswith("_s")}


def test_every_law_has_its_file_in_the_architecture(architecture):
    rows = architecture.table("law", "held by")
    named = {path for row in rows for path in row[1].split(", ")}
    laws = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "laws").glob("test_*.py")}
    laws |= {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "repo").glob("test_*.py")}
    assert laws <= named
    assert all((ROOT / path).is_file() for path in named)


def test_the_readme_shows_the_demos_output():
    text = (ROOT / "README.md").read_text()
    block = re.search(r"^<!-- demo-output -->\n```(?:text)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert block
    for task in dict.fromkeys(compose().clients):
        assert re.search(rf"\b{task}\b", block.group(1))
