"""One direction of one session as frames, with what int8 has rounded away of gradients carried on to the next."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tavit_flwr.config import INT8
from tavit_flwr.payloads import Payload
from tavit_flwr.split.finite import all_finite
from tavit_flwr.wire.dtypes import pack, unpack
from tavit_flwr.wire.frames import encode
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
        return encode(payload, self._phase, self._limits, self._pack)

    def _pack(self, name: str, tensor: Tensor, wire_type: str) -> dict[str, Tensor]:
        if not (self._limits.error_feedback and wire_type == INT8 and name.startswith(_GRADIENT)):
            return pack(name, tensor, wire_type)
        before = self.residuals.get(name)
        if before is not None and before.shape == tensor.shape:
            tensor = tensor + before
        packed = pack(name, tensor, wire_type)
        if all_finite(tensor):
            self.residuals[name] = tensor - unpack(name, packed, wire_type, name)
        return packed
