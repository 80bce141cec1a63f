"""Keys that stand for several others: one word turns any experiment into a baseline of it."""

from __future__ import annotations

from tavit_flwr.config.schema import TavitConfig


def expand(config: TavitConfig) -> None:
    """Write out ``body_per_task`` and ``schedule.every_phase``; the tasks are those that are used."""
    if config.body_per_task:
        config.bodies = list(config.tasks)
        for name, task in config.tasks.items():
            task.body = name
    if config.schedule.every_phase is not None:
        for phase in config.schedule.phases:
            phase.kind = config.schedule.every_phase
