"""Typed configuration: the dataclasses, and one `compose` for the ServerApp, the simulations and the command line.

This is the only room that imports Hydra. Values come from the YAML groups under ``conf/``; an unknown key, a wrong
type or a value out of range is a `ConfigError` that names the nearest valid key.
"""

from tavit_flwr.config.compose import compose, conf_dir, from_json, to_dict, to_json
from tavit_flwr.config.overrides import override
from tavit_flwr.config.schema import (
    AUTO,
    BFLOAT16,
    DTYPES,
    FLOAT16,
    FLOAT32,
    INT8,
    MESSAGES,
    NONE,
    STREAM,
    ZSTD,
    ComputeConfig,
    DataConfig,
    DirectionsConfig,
    EvaluationConfig,
    FederationConfig,
    ModelConfig,
    OptimiserConfig,
    OptimisersConfig,
    PhaseConfig,
    ScheduleConfig,
    TaskConfig,
    TavitConfig,
    WireConfig,
    WireTypesConfig,
)
from tavit_flwr.config.sources import PAIRED, SOURCES, Source, TaskImages, images_of

__all__ = [
    "AUTO",
    "BFLOAT16",
    "DTYPES",
    "FLOAT16",
    "FLOAT32",
    "INT8",
    "MESSAGES",
    "NONE",
    "PAIRED",
    "SOURCES",
    "STREAM",
    "ZSTD",
    "ComputeConfig",
    "DataConfig",
    "DirectionsConfig",
    "EvaluationConfig",
    "FederationConfig",
    "ModelConfig",
    "OptimiserConfig",
    "OptimisersConfig",
    "PhaseConfig",
    "ScheduleConfig",
    "Source",
    "TaskConfig",
    "TaskImages",
    "TavitConfig",
    "WireConfig",
    "WireTypesConfig",
    "compose",
    "conf_dir",
    "from_json",
    "images_of",
    "override",
    "to_dict",
    "to_json",
]
