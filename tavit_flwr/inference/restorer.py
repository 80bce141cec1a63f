"""A whole image through head, body and tail, window by window, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tavit_flwr.errors import ConfigError
from tavit_flwr.inference.memory import free_bytes
from tavit_flwr.inference.picture import Picture
from tavit_flwr.models import Parts
from tavit_flwr.models.stored import describe, parts_of
from tavit_flwr.restoration import restore_tiled, restored_strips, window_count, window_origins
from tavit_flwr.split.devices import CPU, choose_device
from tavit_flwr.split.phases import set_moving
from tavit_flwr.split.unsplit import unsplit_forward

#: Activations of the finest level alive at once, at most. Measured on the CPU: the process grew by 8 to 20 of them a
#: window (`paper` at 16 windows 8, `small` at 32 20, `tiny` at 256 21), oneDNN's buffers included.
_TENSORS_ALIVE = 24
_SHARE = 0.25  # of the free memory that a batch may take
_MOST_BYTES = 2**30
_MOST_WINDOWS = 32  # more windows a call were not faster on the CPU


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

    Raises
    ------
    ConfigError
        If a setting is out of range or the device is not there.
    """

    def __init__(self, parts: Parts, window: int, settings: Settings) -> None:
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

    def __call__(self, degraded_CHW: Tensor, advance: Callable[[int], None] = lambda windows: None) -> Tensor:
        """Restore [3, H, W] in [-1, 1]; `advance` is told of windows as they are done."""
        return restore_tiled(degraded_CHW, self._model(advance), self.window, self.settings.stride, self.batch_size)

    def picture(self, degraded: Picture, advance: Callable[[int], None] = lambda windows: None) -> Picture:
        """Restore a picture, strip by strip: beside the two pictures the memory grows with the width alone."""
        restored = degraded.blank()
        top = 0
        for strip_CNW in restored_strips(
            degraded.model_rows, *degraded.size, self._model(advance), self.window, self.settings.stride,
            self.batch_size,
        ):  # fmt: skip
            restored.set_rows(top, strip_CNW)
            top += strip_CNW.shape[1]
        return restored

    def windows(self, height: int, width: int) -> int:
        """How many windows an image has."""
        return window_count(height, width, self.window, self.settings.stride)

    def _model(self, advance: Callable[[int], None]) -> Callable[[Tensor], Tensor]:
        def model(degraded_BCPP: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
                restored = unsplit_forward(
                    self.parts.head, self.parts.body, self.parts.tail, degraded_BCPP.to(self.device)
                )
            restored_BCPP = restored.float().to(CPU)
            advance(len(degraded_BCPP))
            return restored_BCPP

        return model


def load_restorer(weights: Path, task: str, settings: Settings | None = None) -> Restorer:
    """Make a restorer of stored weights (see `tavit_flwr.models.stored.load_parts` for the two and the errors)."""
    stored = describe(weights)
    return Restorer(parts_of(stored, task), stored.window, settings or Settings())


def automatic_batch_size(parts: Parts, window: int, device: torch.device = CPU) -> int:
    """Windows a call: at most 32, and activations within a quarter of the free memory and 1 GiB."""
    window_bytes = _TENSORS_ALIVE * parts.preset.width * window**2 * 4
    budget = min(_MOST_BYTES, int(_SHARE * free_bytes(device)))
    return max(1, min(_MOST_WINDOWS, budget // window_bytes))
