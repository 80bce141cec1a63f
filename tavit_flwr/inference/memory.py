"""How much memory this process may still take, and whether it asked for more."""

from __future__ import annotations

from pathlib import Path

import torch

_GROUP = Path("/sys/fs/cgroup")
_LACKS = ("out of memory", "can't allocate memory", "not enough memory")  # what torch says on CUDA, Linux, Windows
_UNKNOWN = 4 * 2**30  # where the system does not say


def free_bytes(device: torch.device) -> int:
    """Memory of a device that is free now; on the CPU what the machine and a container's limit leave."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    within = _container()
    return _machine() if within is None else min(_machine(), within)


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of this machine."""
    return isinstance(error, MemoryError) or any(said in str(error).lower() for said in _LACKS)


def _machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _UNKNOWN
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), _UNKNOWN)


def _container() -> int | None:
    """What a cgroup's limit leaves; None without one."""
    try:
        limit, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None
