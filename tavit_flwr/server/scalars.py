"""The metric lines once more, as TensorBoard reads them; an extra."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tavit_flwr.errors import ConfigError

#: Of a line's numbers, those that say where it belongs.
_PLACES = frozenset({"round", "cycle", "time"})


def check_installed() -> None:
    """Refuse ``tensorboard=true`` where the package is missing.

    Raises
    ------
    ConfigError
        With the command that installs it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "the package tensorboard", "none", "configuration key 'tensorboard'",
            "pip install tensorboard where the ServerApp runs, or set tensorboard=false",
        )  # fmt: skip


class Scalars:
    """Writes every number of every metric line as a scalar, over rounds.

    ``psnr_db/denoise``, ``loss_mean/denoise``, ``psnr_db/deblock/q10`` for a test set, ``round_bytes_up`` for a round.

    Parameters
    ----------
    folder : Path
        Gets event files; those of the run so far are written anew.
    history : sequence of dict
        Lines of the run so far.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # its import takes seconds

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        self._rounds_written: set[tuple[str, int]] = set()
        for line in history:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one line, so that it can be seen at once."""
        for tag, value in named_scalars(line).items():
            if tag.startswith("round_"):  # the same in each task's line
                if (tag, line["round"]) in self._rounds_written:
                    continue
                self._rounds_written.add((tag, line["round"]))
            self._writer.add_scalar(tag, value, line["round"], walltime=line["time"])
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


def named_scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Name the numbers of a metric line as TensorBoard's tags."""
    scalars: dict[str, float] = {}
    for key, value in _numbers(line).items():
        scalars[key if key.startswith("round_") else f"{key}/{line['task']}"] = value
    for label, scores in line.get("sets", {}).items():
        scalars |= {f"{key}/{line['task']}/{label}": value for key, value in _numbers(scores).items()}
    return scalars


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if type(value) in (int, float) and key not in _PLACES}
