"""Named architectures: what a head, a body and a tail look like."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tavit_flwr.errors import ConfigError

#: What a head and a body may be, see `Preset`.
HEAD_KINDS = ("unet", "permuted")
BODY_KINDS = ("transformer", "convolutional", "identity")


@dataclass(frozen=True)
class Preset:
    """One architecture; every number that shapes a head, a body or a tail.

    Parameters
    ----------
    name : str
        The preset's name.
    crop : int
        Side of the training crop, pixels. Fixes only the number of learned positions: any multiple of `scale` works
        as input.
    width : int
        Channels of the finest level, and size of the time embedding.
    multipliers : tuple of int
        Channels of each level, finest first, as multiples of `width`; each level halves the grid.
    body_layers, body_heads, body_ffn : int
        Encoder layers of the body, attention heads and feed-forward units of each.
    body_dropout : float
        Dropout inside the body, in ``[0, 1)``.
    attention_heads, attention_head_dim : int
        The linear attention in head and tail.
    groups : int
        Groups of every GroupNorm.
    global_residual : bool
        ``restored = degraded + tail output`` without tanh, the last convolution initialised at zero, so that training
        starts at the identity. Ours, not the paper's.
    use_finest_skip : bool
        Add the full-resolution skip before the last convolutions. Ours: the paper's tail leaves it unused.
    head_kind : str
        ``unet`` (paper); ``permuted``, a fixed patch embedding in random order, without skips: a baseline.
    body_kind : str
        ``transformer`` (paper); ``convolutional``, as many residual convolutions; ``identity``, no body at all. The
        last two are baselines.

    Raises
    ------
    ConfigError
        If a value has the wrong type or range, or two values do not divide as they must.
    """

    name: str
    crop: int = 64
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)
    body_layers: int = 8
    body_heads: int = 8
    body_ffn: int = 1024
    body_dropout: float = 0.1
    attention_heads: int = 4
    attention_head_dim: int = 32
    groups: int = 8
    global_residual: bool = False
    use_finest_skip: bool = False
    head_kind: str = "unet"
    body_kind: str = "transformer"

    def __post_init__(self) -> None:
        if not isinstance(self.multipliers, Sequence) or isinstance(self.multipliers, str):
            raise ConfigError("multipliers: a list of integers", repr(self.multipliers), self._where)
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        self._check_values()
        self._check_divisions()

    @property
    def _where(self) -> str:
        return f"preset {self.name!r}"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def body_dim(self) -> int:
        """Channels at the cut (D)."""
        return self.widths[-1]

    @property
    def scale(self) -> int:
        """Pixels along one side of a grid cell."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def grid(self) -> int:
        """Side of the grid at the cut (G) for the training crop."""
        return self.crop // self.scale

    def replaced(self, **overrides: Any) -> Preset:  # noqa: ANN401 - values come from configuration, checked here
        """Return a copy with some fields (all but ``name``) replaced; see `preset` for the errors."""
        known = [field.name for field in dataclasses.fields(self) if field.name != "name"]
        for key in overrides:
            if key not in known:
                raise ConfigError(f"a field out of {', '.join(known)}", repr(key), self._where, _nearest(key, known))
        return dataclasses.replace(self, **overrides)

    def _check_values(self) -> None:
        counts = ("crop", "width", "body_layers", "body_heads", "body_ffn", "attention_heads", "attention_head_dim")
        values: dict[str, Any] = {name: getattr(self, name) for name in (*counts, "groups")}
        values.update({f"multipliers[{i}]": value for i, value in enumerate(self.multipliers)})
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: an integer of at least 1", repr(value), self._where)
        for name in ("global_residual", "use_finest_skip"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: true or false", repr(getattr(self, name)), self._where)
        for key, kinds in (("head_kind", HEAD_KINDS), ("body_kind", BODY_KINDS)):
            if getattr(self, key) not in kinds:
                raise ConfigError(f"{key}: one of {', '.join(kinds)}", repr(getattr(self, key)), self._where)
        dropout: Any = self.body_dropout
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ConfigError("body_dropout: a number in [0, 1)", repr(dropout), self._where)

    def _check_divisions(self) -> None:
        if len(self.multipliers) < 2:
            raise ConfigError("multipliers: at least two levels", repr(self.multipliers), self._where)
        if self.width % 2 or self.width < 4:
            raise ConfigError("width: even and at least 4 (sines and cosines of the time step)", str(self.width))
        if self.crop % self.scale:
            raise ConfigError(f"crop: a multiple of {self.scale}", str(self.crop), self._where)
        for width in self.widths:
            if width % self.groups:
                raise ConfigError(f"every level's channels a multiple of groups={self.groups}", str(width), self._where)
        if self.body_dim % self.body_heads:
            raise ConfigError(
                f"channels at the cut a multiple of body_heads={self.body_heads}", str(self.body_dim), self._where
            )


#: ``paper`` is the published architecture (44,905,865 parameters); ``small`` and ``tiny`` are ours, for CPUs and tests.
PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        name="tiny",
        crop=32,
        width=8,
        body_layers=2,
        body_heads=2,
        body_ffn=32,
        attention_heads=2,
        attention_head_dim=8,
        groups=4,
        global_residual=True,
        use_finest_skip=True,
    ),
    "small": Preset(
        name="small",
        width=16,
        body_layers=4,
        body_heads=4,
        body_ffn=256,
        body_dropout=0.0,  # drawing the masks took longer than the rest of the body's step on a CPU
        attention_head_dim=8,
        global_residual=True,
        use_finest_skip=True,
    ),
    "paper": Preset(name="paper"),
}


def preset(name: str, /, **overrides: Any) -> Preset:  # noqa: ANN401 - values come from configuration, checked here
    """Look up a preset, with named departures from it.

    Parameters
    ----------
    name : str
        ``tiny``, ``small`` or ``paper``.
    **overrides
        Fields of `Preset` (all but ``name``) to replace.

    Returns
    -------
    Preset
        The preset; its name is kept, whatever is overridden.

    Raises
    ------
    ConfigError
        If the name or a field is unknown (the nearest known one is named) or a value is out of range.
    """
    if name not in PRESETS:
        raise ConfigError(f"a preset out of {', '.join(PRESETS)}", repr(name), hint=_nearest(name, list(PRESETS)))
    return PRESETS[name].replaced(**overrides)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else ""
