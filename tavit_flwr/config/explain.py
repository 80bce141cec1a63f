"""Turn what Hydra says of overrides and files into one error that names the place and the nearest valid word."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from tavit_flwr.config.choices import nearest
from tavit_flwr.config.overrides import override
from tavit_flwr.config.schema import TavitConfig
from tavit_flwr.errors import ConfigError

_IN_FILE = re.compile(r"^In '([^']+)': (.*)$", re.DOTALL)
_NO_CHOICE = re.compile(r"Could not find '([^'/]+)/([^']*)'")
_FULL_KEY = re.compile(r"^\s*full_key: (.*)$", re.MULTILINE)
_HEADERS = {"task": "# @package tasks.{name}", "experiment": "# @package _global_"}


def explain(error: Exception, words: Sequence[str], folder: Path) -> ConfigError:
    """Explain why a composition failed.

    Parameters
    ----------
    error : Exception
        Of Hydra, OmegaConf or the YAML reader.
    words : sequence of str
        The overrides.
    folder : Path
        Of the YAML groups.
    """
    if isinstance(error, yaml.MarkedYAMLError):
        return _broken_file(error, folder)
    text = str(error)
    if no_choice := _NO_CHOICE.search(text):
        return _no_choice(no_choice.group(1), no_choice.group(2), words, folder)
    if in_file := _IN_FILE.match(text):
        return _misfit_file(in_file.group(1), in_file.group(2), folder)
    for before, word in zip(("", *words), words, strict=False):
        if "=" in before and "=" not in word:
            key, _, value = before.partition("=")
            hint = f"values with spaces are quoted: {_quoted(key, f'{value} {word}')}"
            return ConfigError("overrides of the form key=value", repr(word), "overrides", hint)
        if (told := _misfit_override(error, text, word, folder)) is not None:
            return told
    return ConfigError("overrides that Hydra accepts", " ".join(text.split()), f"overrides {list(words)}")


def nearest_key(key: str) -> str:
    """Name the known key that comes nearest, a task's and a phase's too; or say where the known ones are."""
    task = re.match(r"tasks\.([^.]+)\.", key)
    generic = re.sub(r"\[\d*\]", "[]", re.sub(r"^tasks\.[^.]+\.", "tasks.<task>.", key))
    known = [name for name in _known_keys(TavitConfig) if name != generic]
    same_leaf = [name for name in known if _leaf(name) == _leaf(generic)]
    close = nearest(generic, same_leaf, 0.0) or nearest(generic, known, 0.6)
    if not close:
        leaves = {_leaf(name): name for name in known}
        found = re.findall(r"'(.*)'", nearest(_leaf(generic), leaves))
        close = f"did you mean '{leaves[found[0]]}'?" if found else "known keys are in docs/configuration.md"
    return close.replace("<task>", task.group(1) if task else "<task>")


def _leaf(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _known_keys(kind: type, prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        inner = [one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)]
        yield name
        if inner:
            level = {list: "[]", dict: ".<task>"}.get(typing.get_origin(hint), "")
            yield from _known_keys(typing.cast("type", inner[0]), f"{name}{level}.")


def _misfit_override(error: Exception, text: str, word: str, folder: Path) -> ConfigError | None:
    """Explain the error by one override; None if it is not to blame."""
    name, equals, value = word.lstrip("+~").partition("=")
    where, cause = f"override '{word}'", error.__cause__
    if not equals or not name:
        return ConfigError("overrides of the form key=value", repr(word), where)
    if text.startswith(f"Error merging override {word}"):
        return ConfigError("a value of the key's type", repr(value), where, str(cause).splitlines()[0])
    if text.startswith(f"Ambiguous value for argument '{word}'") or getattr(error, "override", None) == word:
        hint = f"a list is written {name}=[...]; other values with such signs are quoted: {_quoted(name, value)}"
        return ConfigError("a value that Hydra can read", repr(value), where, hint)
    if text.startswith(f"Could not override '{name}'"):
        return _unknown_key(name, str(getattr(cause, "full_key", "") or ""), where, folder)
    if (folder / name).is_dir() and isinstance(error, ValueError) and value not in _choices(folder / name):
        return ConfigError(f"one of {_choices(folder / name)}", repr(value), where)
    return None


def _unknown_key(name: str, found: str, where: str, folder: Path) -> ConfigError:
    """Explain an unknown key; `found` is where OmegaConf stopped, which may lie inside of the value."""
    name = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", name)
    key = name if name.startswith(found) else f"{name}[].{found}"
    task, tasks = re.match(r"tasks\.([^.]+)", key), _choices(folder / "task")
    hint = nearest(task.group(1), tasks) if task and task.group(1) not in tasks else ""
    return ConfigError("a known configuration key", repr(key), where, hint or nearest_key(key))


def _no_choice(group: str, choice: str, words: Sequence[str], folder: Path) -> ConfigError:
    word = f"{group}={choice}"
    chosen = next((one.partition("=")[2] for one in words if one.startswith("experiment=")), "demo")
    where = f"override '{word}'" if word in words else f"conf/experiment/{chosen}.yaml, override /{group}"
    choices = _choices(folder / group)
    return ConfigError(f"{group} to be one of {choices}", repr(choice), where, nearest(choice, choices))


def _misfit_file(file: str, text: str, folder: Path) -> ConfigError:
    group, _, name = file.partition("/")
    where = f"conf/{file}.yaml"
    header = _HEADERS.get(group, "").format(name=name)
    keys = _FULL_KEY.findall(text)
    key = keys[-1] if keys else ""
    lines = (folder / f"{file}.yaml").read_text().splitlines() if (folder / f"{file}.yaml").is_file() else []
    if header and header not in lines:
        return ConfigError(f"the line '{header}' at the top", repr(lines[0]) if lines else "nothing", where, "add it")
    if unknown := re.match(r"Could not override '([^']+)'", text):
        groups = sorted(path.name for path in folder.iterdir() if path.is_dir())
        return ConfigError(f"groups among {groups}", repr(unknown.group(1)), where, nearest(unknown.group(1), groups))
    reason = text.split("\n", 1)[1].splitlines()[0] if "\n" in text else text
    if "ConfigKeyError" in text or "ConfigAttributeError" in text:
        return ConfigError("known configuration keys", repr(key), where, nearest_key(key))
    return ConfigError("values of their keys' types", reason, f"{where}, key '{key}'")


def _broken_file(error: yaml.MarkedYAMLError, folder: Path) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    where = "conf/"
    if mark is not None:
        path = Path(mark.name)
        name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
        where = f"conf/{name}, line {mark.line + 1}"
    return ConfigError("YAML", error.problem or "another text", where, "look at that line and the one before it")


def _choices(group: Path) -> list[str]:
    return sorted(path.stem for path in group.glob("*.yaml"))


def _quoted(name: str, value: str) -> str:
    """An override as it is typed: quoted for the shell, and for Hydra inside of that."""
    return f'"{override(name, value)}"'
