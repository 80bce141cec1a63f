"""Who holds which photographs: whole ones, never parts, so that no scene is in two places."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tavit_flwr.errors import ConfigError, DataError
from tavit_flwr.seeding import generator


def split_held_out(names: Sequence[str], held_out: int, *, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Set photographs aside for evaluation, drawn from the seed.

    The draw does not know the task: the tasks share a body, so what one evaluates on no other may train on.

    Parameters
    ----------
    names : sequence of str
        All photographs, in an order that every client sees alike.
    held_out : int
        How many to set aside.
    seed : int
        The run's seed.

    Returns
    -------
    tuple of tuple of str
        Training and held-out names, each in the order of `names`.

    Raises
    ------
    ConfigError
        `held_out` is less than 1.
    DataError
        Nothing would be left to train on.
    """
    if held_out < 1:
        raise ConfigError("at least 1 held-out photograph", f"{held_out}", "configuration key 'data.held_out'")
    if held_out >= len(names):
        raise DataError(
            f"more than {held_out} photographs, to hold {held_out} out",
            f"{len(names)}",
            hint="add photographs, lower data.held_out, or give data.evaluation_folder",
        )
    order = torch.randperm(len(names), generator=generator(seed, "held-out-split")).tolist()
    aside = set(order[:held_out])
    train = tuple(name for position, name in enumerate(names) if position not in aside)
    return train, tuple(names[position] for position in sorted(aside))


def client_shard(names: Sequence[str], *, seed: int, task: str, shard: int, num_shards: int) -> tuple[str, ...]:
    """Give a client its share of the photographs; clients of one task hold disjoint ones.

    Photographs are shuffled from the seed and dealt in turn, so shares differ by at most one. Clients of different
    tasks may hold the same ones.

    Parameters
    ----------
    names : sequence of str
        The training photographs of the task.
    seed : int
        The run's seed.
    task : str
        The task's name.
    shard, num_shards : int
        Which of how many clients of this task.

    Raises
    ------
    ConfigError
        `shard` is not in ``[0, num_shards)``.
    DataError
        There are fewer photographs than clients.
    """
    if not 0 <= shard < num_shards:
        raise ConfigError(f"a shard from 0 to {num_shards - 1}", f"{shard}", f"task {task}")
    if num_shards > len(names):
        raise DataError(
            f"at least {num_shards} training photographs for {num_shards} clients",
            f"{len(names)}",
            f"task {task}",
            "add photographs or use fewer clients for this task: each client holds whole photographs of its own",
        )
    order = torch.randperm(len(names), generator=generator(seed, "shard", task)).tolist()
    return tuple(names[position] for position in sorted(order[shard::num_shards]))
