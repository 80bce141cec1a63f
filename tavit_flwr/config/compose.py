"""Compose the configuration from ``conf/`` and overrides, and explain what does not fit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from tavit_flwr.config.choices import nearest
from tavit_flwr.config.counts import counted, written_out
from tavit_flwr.config.deadlines import fill_deadlines
from tavit_flwr.config.explain import explain, nearest_key
from tavit_flwr.config.schema import TavitConfig
from tavit_flwr.config.shorthands import expand
from tavit_flwr.config.validate import validate
from tavit_flwr.errors import ConfigError


def to_dict(config: TavitConfig) -> dict[str, Any]:
    """Resolved configuration as plain values."""
    return json.loads(json.dumps(asdict(config)))  # type: ignore[no-any-return]


def to_json(config: TavitConfig) -> str:
    """Resolved configuration as one JSON object, for messages: its clients counted, since each client gets it."""
    return json.dumps(to_dict(config) | {"clients": counted(config.clients)}, sort_keys=True)


def from_json(text: str) -> TavitConfig:
    """Read what `to_json` wrote, checked like any other configuration."""
    return deepcopy(_from_json(text))


@lru_cache(maxsize=4)  # 80 ms, and all messages of a run say the same
def _from_json(text: str) -> TavitConfig:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError("a configuration as JSON", str(error)) from error
    if not isinstance(values, dict) or "${" in json.dumps(values):  # a resolved configuration asks nobody's environment
        raise ConfigError("a resolved configuration as one JSON object", "another value or an interpolation")
    config = _typed(OmegaConf.create(values), OmegaConf.structured(TavitConfig))
    config.clients = written_out(config.clients)
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
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:  # ValueError: a group set to null
        raise explain(error, words, folder) from error
    config = _typed(raw)  # Hydra merged it into the schema already
    config.clients = written_out(config.clients)
    _keep_used_tasks(config, folder)
    expand(config)
    fill_deadlines(config)
    validate(config)
    return config


def _typed(raw: DictConfig | ListConfig, *schema: DictConfig) -> TavitConfig:
    try:
        result = OmegaConf.to_object(OmegaConf.merge(*schema, raw) if schema else raw)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "")
        message = str(error).splitlines()[0]
        if isinstance(error, ConfigKeyError | ConfigAttributeError):
            raise ConfigError("a known configuration key", repr(key), hint=nearest_key(key)) from error
        raise ConfigError("a value of the key's type", message, f"configuration key '{key}'") from error
    if not isinstance(result, TavitConfig):
        raise ConfigError("a TavitConfig", type(result).__name__)
    return result


def _refuse_new_key(word: str) -> None:
    """Let ``+`` add options of a degradation or a preset, whose names are checked later, and nothing else."""
    if not word.startswith(("+", "~")):
        return
    key = word.lstrip("+~").partition("=")[0]
    free = key.startswith("model.overrides.") or (key.startswith("tasks.") and ".options." in key)
    if word.startswith("~") or not free:
        raise ConfigError("a known configuration key", repr(key), f"override '{word}'", nearest_key(key))


def _keep_used_tasks(config: TavitConfig, folder: Path) -> None:
    for task in config.clients:
        if task not in config.tasks:
            hint = nearest(task, config.tasks) or "add a file to conf/task/"
            if (folder / "task" / f"{task}.yaml").is_file():
                hint = f"the first line of conf/task/{task}.yaml must be '# @package tasks.{task}'"
            raise ConfigError(
                f"clients to name tasks among {sorted(config.tasks)}", repr(task), "configuration key 'clients'", hint
            )
    config.tasks = {task: config.tasks[task] for task in dict.fromkeys(config.clients)}
