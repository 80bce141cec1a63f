"""Which carrier this client can use."""

from __future__ import annotations

import logging

from tavit_flwr.config import AUTO, MESSAGES, STREAM, WireConfig
from tavit_flwr.errors import SessionError
from tavit_flwr.wire.probe import Probe

logger = logging.getLogger("flwr")


def choose_carrier(wire: WireConfig, probe: Probe, *, require_tls: bool) -> tuple[str, str]:
    """Try the stream where it is wanted.

    Parameters
    ----------
    require_tls : bool
        Whether this node refuses a body service without TLS.

    Returns
    -------
    tuple of str
        `STREAM` or `MESSAGES`; and, with ``wire.carrier=auto``, why it is not the stream.

    Raises
    ------
    SessionError
        With ``wire.carrier=stream``, when the service cannot be reached from here: there is no silent fallback.
    """
    if wire.carrier == MESSAGES:
        return MESSAGES, ""
    if require_tls and not probe.certificate_pem:
        told = detailed = f"no TLS at {probe.address} (wire.insecure), which this node requires (require-tls)"
    else:
        told, detailed = probe.failure(wire.probe_timeout_s)
    if not told:
        return STREAM, ""
    if wire.carrier != AUTO:
        logger.error("%s", detailed)
        raise SessionError(
            f"the body service at {probe.address}", told, "enrolment",
            "open that address for clients (wire.listen, wire.advertise), or choose wire.carrier=messages or auto",
        )  # fmt: skip
    logger.warning("%s; frames travel in Flower messages in this run, slower by far (wire.carrier=auto)", detailed)
    return MESSAGES, told
