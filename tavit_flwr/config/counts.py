"""Lists of clients: with counts, as ``denoise*1000`` for so many in a row, and the order in which nodes take them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from tavit_flwr.errors import ConfigError

#: A list that came over the network is not written out without bound; Flower's simulation ends far below.
MOST_CLIENTS = 100_000

_COUNTED = re.compile(r"^([^*]*)\*([0-9]{1,9})$")


def written_out(clients: Sequence[str]) -> list[str]:
    """One entry a client.

    Raises
    ------
    ConfigError
        For a count that is no number above zero, or more than `MOST_CLIENTS` altogether.
    """
    where, result = "configuration key 'clients'", list[str]()
    for entry in clients:
        match = _COUNTED.match(entry)
        if ("*" in entry and match is None) or (match is not None and not int(match.group(2))):
            raise ConfigError("a task, or a task and how many as in denoise*1000", repr(entry), where)
        task, count = (match.group(1), int(match.group(2))) if match else (entry, 1)
        if len(result) + count > MOST_CLIENTS:
            raise ConfigError(f"at most {MOST_CLIENTS:,} clients", f"{len(result) + count:,} and more", where)
        result += [task] * count
    return result


def counted(clients: Sequence[str]) -> list[str]:
    """Undo `written_out`: one entry for each row of clients of one task."""
    rows = [(task, len(list(row))) for task, row in groupby(clients)]
    return [task if count == 1 else f"{task}*{count}" for task, count in rows]


def places(clients: Sequence[str]) -> list[int]:
    """Order in which partitions take the experiment's clients: every task once before any task twice.

    With fewer nodes than clients, as many tasks as possible are then present.
    """
    seen: dict[str, int] = {}
    rank: list[tuple[int, int]] = []
    for index, task in enumerate(clients):
        rank.append((seen.get(task, 0), index))
        seen[task] = seen.get(task, 0) + 1
    return [index for _, index in sorted(rank)]
