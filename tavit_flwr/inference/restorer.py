"""A whole image through head, body and tail, window by window, on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tavit_flwr.errors import ConfigError
from tavit_flwr.inference.memory import free_bytes, is_lack_of_memory
from tavit_flwr.inference.picture import Picture
from tavit_flwr.inference.transfer import downloaded, upload
from tavit_flwr.models import Parts
from tavit_flwr.models.stored import describe, parts_of
from tavit_flwr.restoration import refuse_garbage, restored_strips, window_count, window_origins
from tavit_flwr.split.devices import CPU, choose_device
from tavit_flwr.split.phases import set_moving
from tavit_flwr.split.unsplit import unsplit_forward

#: Activations of the finest level alive at once, at most. Measured on the CPU: the process grew by 8 to 20 of them a
#: window (`paper` at 16 windows 8, `small` at 32 20, `tiny` at 256 21), oneDNN's buffers included.
_TENSORS_ALIVE = 24
_SHARE = 0.25  # of the free memory that a batch may take
_MOST_BYTES_ON_CPU = 2**30
_MOST_WINDOWS_ON_CPU, _MOST_WINDOWS = 32, 256  # more a call were not faster; on an H200 64 were 7 % slower

logger = logging.getLogger("tavit")


@dataclass(frozen=True)
class Settings:
    """How images are restored.

    Attributes
    ----------
    stride : int
        Distance between windows, pixels. The paper's is 16.
    batch_size : int
        Windows a call of the model; 0 lets `automatic_batch_size` choose.
    bf16 : bool
        Let torch compute in bfloat16 where it deems that safe: less exact, and faster on hardware that has it.
    threads : int
        Threads of torch; 0 leaves its choice.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
    """

    stride: int = 16
    batch_size: int = 0
    bf16: bool = False
    threads: int = 0
    device: str = "auto"


class Restorer:
    """Restores images of any size with one task's parts.

    Parameters
    ----------
    parts : Parts
        Put into eval mode, frozen and moved to the device.
    window : int
        Side of a window, pixels.
    settings : Settings
        The rest. `threads` is set for the whole process.
    say : callable
        Told, once, that windows a call are fewer than planned, for want of memory.

    Raises
    ------
    ConfigError
        If a setting is out of range or the device is not there.
    """

    def __init__(
        self, parts: Parts, window: int, settings: Settings, say: Callable[[str], None] = logger.warning
    ) -> None:
        window_origins(1, window, settings.stride)
        for name, value in (("batch-size", settings.batch_size), ("threads", settings.threads)):
            if value < 0:
                raise ConfigError(f"{name}: at least 0", str(value))
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.device = choose_device(settings.device, "--device")
        for part in (parts.head, parts.body, parts.tail):
            set_moving(part, False)
            part.to(self.device)
        self.parts = parts
        self.settings = settings
        self.window = window
        self.batch_size = settings.batch_size or automatic_batch_size(parts, window, self.device)
        self._say = say
        self._said = False

    def __call__(self, degraded_CHW: Tensor, advance: Callable[[int], None] = lambda windows: None) -> Tensor:
        """Restore [3, H, W] in [-1, 1]; `advance` is told of windows as they are begun."""
        _, height, width = degraded_CHW.shape
        strips = self._strips(lambda rows: degraded_CHW[:, rows], height, width, advance)
        return torch.cat(list(strips), dim=1)

    def picture(self, degraded: Picture, advance: Callable[[int], None] = lambda windows: None) -> Picture:
        """Restore a picture, strip by strip: beside the two pictures the memory grows with the width alone."""
        restored = degraded.blank()
        top = 0
        for strip_CNW in self._strips(degraded.model_rows, *degraded.size, advance):
            restored.set_rows(top, strip_CNW)
            top += strip_CNW.shape[1]
        return restored

    def windows(self, height: int, width: int) -> int:
        """How many windows an image has."""
        return window_count(height, width, self.window, self.settings.stride)

    def _strips(
        self, read: Callable[[Tensor], Tensor], height: int, width: int, advance: Callable[[int], None]
    ) -> Iterator[Tensor]:
        """Restore strips of an image, which is cut into windows and averaged on the device; they leave on the CPU.

        While one is copied and used, a GPU works on the next.
        """

        def model(degraded_BCPP: Tensor) -> Tensor:
            restored_BCPP = self._restored(degraded_BCPP)
            advance(len(degraded_BCPP))
            return restored_BCPP

        strips = restored_strips(
            lambda rows: upload(read(rows), self.device), height, width, model, self.window, self.settings.stride,
            self.batch_size,
        )  # fmt: skip
        for strip_CNW in downloaded(strips):
            refuse_garbage(strip_CNW)
            yield strip_CNW

    def _restored(self, degraded_BCPP: Tensor) -> Tensor:
        """Restore windows, in smaller and smaller calls where the memory does not suffice."""
        pieces: list[Tensor] = []
        while (done := sum(map(len, pieces))) < len(degraded_BCPP):
            try:
                pieces.append(self._forward(degraded_BCPP[done : done + self.batch_size]))
                continue
            except (RuntimeError, MemoryError) as error:
                if self.batch_size == 1 or not is_lack_of_memory(error):
                    raise
            self._halve()  # here the error no longer holds the activations
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _forward(self, degraded_BCPP: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            restored = unsplit_forward(self.parts.head, self.parts.body, self.parts.tail, degraded_BCPP)
        return restored.float()

    def _halve(self) -> None:
        if not self._said:
            self._say(f"not enough memory for {self.batch_size} windows a call: going on with fewer")
        self._said = True
        self.batch_size //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def load_restorer(
    weights: Path, task: str, settings: Settings | None = None, say: Callable[[str], None] = logger.warning
) -> Restorer:
    """Make a restorer of stored weights (see `tavit_flwr.models.stored.load_parts` for the two and the errors)."""
    stored = describe(weights)
    return Restorer(parts_of(stored, task), stored.window, settings or Settings(), say)


def automatic_batch_size(parts: Parts, window: int, device: torch.device = CPU) -> int:
    """Windows a call, whose activations fit a quarter of the free memory: on the CPU at most 32 and 1 GiB, else 64."""
    window_bytes = _TENSORS_ALIVE * parts.preset.width * window**2 * 4
    most, budget = _MOST_WINDOWS, int(_SHARE * free_bytes(device))
    if device == CPU:
        most, budget = _MOST_WINDOWS_ON_CPU, min(_MOST_BYTES_ON_CPU, budget)
    return max(1, min(most, budget // window_bytes))
