"""Where parts run: their weights, passes and moments on a device, all that is read, sent or kept on the CPU.

Tensors change places at a few borders and nowhere else. The functions of `client_side` and `server_side`, and
`BodyHost.backward_and_step`, take what they are given to the device of their part. What may cross the wire or be
written to disk leaves on the CPU: `HeadPass.sent`, `TailPass.sent`, `BodyPass.sent`, `body_backward`, `moments`,
`BodyHost.state`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from tavit_flwr.config.validate import check_device_name
from tavit_flwr.errors import ConfigError

CPU = torch.device("cpu")

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def choose_device(name: str, where: str) -> torch.device:
    """Find the device that a name stands for on this machine.

    A CUDA device is put in its reproducible mode (see `_reproducible`).

    Parameters
    ----------
    name : str
        ``auto`` takes the first CUDA device where torch sees one, and the CPU elsewhere.
    where : str
        The configuration key or option, for errors.

    Raises
    ------
    ConfigError
        The name is unknown, or names a CUDA device that torch does not see: there is no fallback.
    """
    check_device_name(name, where)
    seen = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not seen):
        return CPU
    index = int(name.partition(":")[2] or 0)
    if index >= seen:
        raise ConfigError(
            f"a CUDA device number {index} that torch can use", f"{seen} CUDA devices", f"{where}={name}",
            "set auto or cpu, install a CUDA build of torch, or give the client a GPU "
            "(in simulation: client-resources-num-gpus)",
        )  # fmt: skip
    _reproducible()
    return torch.device("cuda", index)


def device_of(part: nn.Module) -> torch.device:
    """Device of a part's weights, trained or fixed; the CPU for a part without any."""
    first = next(chain(part.parameters(), part.buffers()), None)
    return CPU if first is None else first.device


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute with that many threads of torch, which keeps their number per calling thread."""
    before = torch.get_num_threads()  # first: a new thread takes over the process's number when it first asks
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def _reproducible() -> None:
    """Ask CUDA for equal bits on equal hardware: float32 without TF32, deterministic kernels, no autotuning.

    torch warns by name where it has no deterministic kernel. Bits still differ from a CPU's and between kinds of GPU.
    """
    os.environ.setdefault(_CUBLAS, ":4096:8")  # read when the first CUDA context is made
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
