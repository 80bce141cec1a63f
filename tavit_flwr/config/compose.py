"""Compose the configuration from ``conf/`` and overrides, and explain what does not fit."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tavit_flwr.config.deadlines import fill_deadlines
from tavit_flwr.config.schema import TavitConfig
from tavit_flwr.config.validate import validate
from tavit_flwr.errors import ConfigError


def to_dict(config: TavitConfig) -> dict[str, Any]:
    """Resolved configuration as plain values."""
    return json.loads(to_json(config))  # type: ignore[no-any-return]


def to_json(config: TavitConfig) -> str:
    """Resolved configuration as one JSON object."""
    return json.dumps(OmegaConf.to_container(OmegaConf.structured(config)), sort_keys=True)


def from_json(text: str) -> TavitConfig:
    """Read what `to_json` wrote, checked like any other configuration."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError("a configuration as JSON", str(error)) from error
    if not isinstance(values, dict) or "${" in json.dumps(values):  # a resolved configuration asks nobody's environment
        raise ConfigError("a resolved configuration as one JSON object", "another value or an interpolation")
    config = _typed(OmegaConf.create(values))
    validate(config)
    return config


def conf_dir() -> Path:
    """Folder of the YAML groups: beside the package in a checkout or bundle, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package.parent / "conf", package / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise ConfigError("a folder conf/ with config.yaml", f"none beside or inside {package.name}/")


def compose(overrides: Sequence[str] | str = ()) -> TavitConfig:
    """Compose the configuration from ``conf/`` and Hydra overrides.

    Parameters
    ----------
    overrides : sequence of str, or one str
        Hydra overrides such as ``experiment=demo`` or ``schedule.cycles=2``. One string is split as a shell would.

    Returns
    -------
    TavitConfig
        Typed, resolved and validated.

    Raises
    ------
    ConfigError
        For an unknown group, key or task, a wrong type, or a value out of range.
    """
    from hydra import compose as hydra_compose  # here: clients read configurations and never compose one
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    try:
        words = shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
    except ValueError as error:
        raise ConfigError("overrides quoted as in a shell", str(error), repr(overrides)) from error
    for word in words:
        _refuse_new_key(word)
    folder = conf_dir()
    tasks = ",".join(sorted(path.stem for path in (folder / "task").glob("*.yaml")))
    ConfigStore.instance().store(name="schema", node=TavitConfig)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            raw = hydra_compose("config", overrides=[f"task=[{tasks}]", *words])
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group set to null
        raise _explain(error, words, folder) from error
    config = _typed(raw)
    _keep_used_tasks(config)
    fill_deadlines(config)
    validate(config)
    return config


def _typed(raw: object) -> TavitConfig:
    schema = OmegaConf.structured(TavitConfig)
    try:
        merged = OmegaConf.merge(schema, raw)
        result = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "")
        message = str(error).splitlines()[0]
        raise ConfigError(
            "a known key with a value of its type", message, f"configuration key '{key}'", _nearest(key)
        ) from error
    if not isinstance(result, TavitConfig):
        raise ConfigError("a TavitConfig", type(result).__name__)
    return result


def _all_keys(node: object, prefix: str = "") -> list[str]:
    keys: list[str] = []
    if isinstance(node, dict):
        for name, value in node.items():
            full = f"{prefix}{name}"
            keys += [full, *_all_keys(value, f"{full}.")]
    return keys


def _nearest(key: str) -> str:
    known = _all_keys(OmegaConf.to_container(OmegaConf.structured(TavitConfig)))
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not close:
        leaf = key.rsplit(".", 1)[-1]
        leaves = {name.rsplit(".", 1)[-1]: name for name in known}
        close = [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.5)]
    return f"did you mean '{close[0]}'?" if close else "known keys are in conf/ and tavit_flwr/config/schema.py"


def _refuse_new_key(word: str) -> None:
    """Let ``+`` add options of a degradation or a preset, whose names are checked later, and nothing else."""
    if not word.startswith(("+", "~")):
        return
    key = word.lstrip("+~").partition("=")[0]
    free = key.startswith("model.overrides.") or (key.startswith("tasks.") and ".options." in key)
    if word.startswith("~") or not free:
        raise ConfigError("a known configuration key", repr(key), f"override '{word}'", _nearest(key))


def _explain(error: Exception, words: Sequence[str], folder: Path) -> ConfigError:
    """Turn Hydra's error into one that names the nearest group choice or key."""
    text = " ".join(str(error).split())
    groups = {path.name: path for path in folder.iterdir() if path.is_dir()}
    for word in words:
        name, _, value = word.lstrip("+~").partition("=")
        if name in groups:
            options = sorted(path.stem for path in groups[name].glob("*.yaml"))
            if value not in options:
                close = difflib.get_close_matches(value, options, n=1, cutoff=0.4)
                hint = f"did you mean '{close[0]}'?" if close else ""
                return ConfigError(f"{name} to be one of {options}", repr(value), f"override '{word}'", hint)
        elif text.startswith(f"Error merging override {word}"):
            reason = str(error.__cause__).splitlines()[0]
            return ConfigError("a value of the key's type", repr(value), f"override '{word}'", reason)
        elif f"'{name.rsplit('.', 1)[-1]}'" in text or name in text:
            return ConfigError("a known configuration key", repr(name), f"override '{word}'", _nearest(name))
    return ConfigError("overrides that Hydra accepts", text, f"overrides {list(words)}")


def _keep_used_tasks(config: TavitConfig) -> None:
    for task in config.clients:
        if task not in config.tasks:
            close = difflib.get_close_matches(task, config.tasks, n=1, cutoff=0.4)
            raise ConfigError(
                f"clients to name tasks among {sorted(config.tasks)}",
                repr(task),
                "configuration key 'clients'",
                f"did you mean '{close[0]}'?" if close else "add a file to conf/task/",
            )
    config.tasks = {task: config.tasks[task] for task in dict.fromkeys(config.clients)}
