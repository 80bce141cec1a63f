"""One direction of one session as frames, with what int8 has rounded away of gradients carried on to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from tavit_flwr.config import INT8
from tavit_flwr.payloads import Payload
from tavit_flwr.split.finite import all_finite
from tavit_flwr.wire.dtypes import pack, unpack
from tavit_flwr.wire.frames import encode, wire_type
from tavit_flwr.wire.limits import Limits

_GRADIENT = "grad_"


class Encoder:
    """Writes a session's payloads; each once, so that a frame that is sent again is the same bytes.

    With error feedback, what int8 loses of a gradient is added to the gradient of the next step before that is rounded
    in its turn. The sum over steps of what arrives then differs from the true one by the last step's rounding alone.

    Parameters
    ----------
    phase : str
        The session's phase, or ``evaluate``.
    limits : Limits
        Of its frames.
    residuals : mapping, optional
        Of the same session, where it goes on in another process.

    Attributes
    ----------
    residuals : dict
        Name of a gradient to what the last frame with it lost, [B, D, G, G]; empty without error feedback.
    """

    def __init__(self, phase: str, limits: Limits, residuals: Mapping[str, Tensor] | None = None) -> None:
        self._phase = phase
        self._limits = limits
        self.residuals: dict[str, Tensor] = dict(residuals or {})

    def __call__(self, payload: Payload) -> bytes:
        """Write one payload as a frame."""
        if self._limits.error_feedback and wire_type(type(payload).__name__, self._limits) == INT8:
            payload = self._corrected(payload)
        return encode(payload, self._phase, self._limits)

    def _corrected(self, payload: Payload) -> Payload:
        changed: dict[str, Any] = {}
        for name in (field.name for field in fields(payload) if field.name.startswith(_GRADIENT)):
            gradient: Tensor = getattr(payload, name)
            before = self.residuals.get(name)
            if before is not None and before.shape == gradient.shape:
                gradient = gradient + before
            if all_finite(gradient):
                self.residuals[name] = gradient - unpack(name, pack(name, gradient, INT8), INT8, name)
            changed[name] = gradient
        return replace(payload, **changed)
