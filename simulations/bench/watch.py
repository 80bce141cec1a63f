"""Processor time and memory of all that was started with one ``FLWR_HOME``, sampled from ``/proc`` while it runs."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from simulations.processes import processes_of

_TICKS = os.sysconf("SC_CLK_TCK")

#: A cluster's process is named by the first of these that its command line or title contains.
_KINDS = (
    "ray::ClientAppActor", "ray::", "flwr-simulation", "flower-simulation", "flwr-serverapp", "flwr-clientapp",
    "flower-superexec", "flower-superlink", "flower-supernode", "gcs_server", "raylet", "flwr",
)  # fmt: skip
#: Of these, those that run a client, and those that run the ServerApp, in simulation and deployed.
CLIENT_KINDS = ("ray::ClientAppActor", "flwr-clientapp")
SERVER_KINDS = ("flower-simulation", "flwr-simulation", "flwr-serverapp")


class Watch:
    """Samples while it is entered, about twice a second; a context manager.

    Parameters
    ----------
    home : Path
        The ``FLWR_HOME``.
    period_s : float
        Between samples.

    Attributes
    ----------
    peak_kib : dict
        Process id to its name and its peak resident memory, KiB, as the kernel keeps it.
    """

    def __init__(self, home: Path, period_s: float = 0.5) -> None:
        self._home = home
        self._period_s = period_s
        self._times: list[float] = []
        self._totals: list[float] = []
        self._cpu_s: dict[int, float] = {}
        self.peak_kib: dict[int, tuple[str, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def cpu_s(self, began: float, ended: float) -> float:
        """Processor seconds of all processes between two Unix times."""
        return self._at(ended) - self._at(began)

    def memory_mib(self, *kinds: str) -> float:
        """Sum over processes of these kinds, all if none is named, of the peaks of each; MiB."""
        return sum(peak for kind, peak in self.peak_kib.values() if not kinds or kind in kinds) / 1024

    def largest_mib(self, *kinds: str) -> float:
        """Peak of the largest process of these kinds, MiB; 0 where there was none."""
        return max((peak for kind, peak in self.peak_kib.values() if kind in kinds), default=0) / 1024

    def _at(self, moment: float) -> float:
        index = bisect_left(self._times, moment)
        if not 0 < index < len(self._times):
            return self._totals[min(index, len(self._times) - 1)]
        before, after = self._times[index - 1 : index + 1]
        share = (moment - before) / (after - before)
        return self._totals[index - 1] + share * (self._totals[index] - self._totals[index - 1])

    def _run(self) -> None:
        rescan, pids = 0.0, set[int]()
        while not self._stop.is_set():
            if time.monotonic() >= rescan:
                pids, rescan = family(self._home), time.monotonic() + 2
            for pid in pids:
                with suppress(OSError, IndexError, ValueError):
                    self._sample(pid)
            self._times.append(time.time())
            self._totals.append(sum(self._cpu_s.values()))
            self._stop.wait(self._period_s)

    def _sample(self, pid: int) -> None:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self._cpu_s[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
        status = Path(f"/proc/{pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0])
        self.peak_kib[pid] = (_kind(pid), peak)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def family(home: Path) -> set[int]:
    """Processes with this ``FLWR_HOME``, and all that descend from them: some overwrite their environment."""
    found = set(processes_of(home))
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return found - {os.getpid()}


def disk_mib(folder: Path) -> float:
    """Bytes of all files below a folder, MiB."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    return total / 2**20


def _kind(pid: int) -> str:
    title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    for kind in _KINDS:
        if kind in title:
            return kind
    return title.split(" ")[0].rpartition("/")[2] or "unnamed"
