"""What Flower messages carry: orders to clients, and their replies, as records with fixed keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from tavit_flwr.config import STREAM
from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import ENROLMENT_FIELDS

#: Code of a client's error reply: it has no longer what it was sent before. Flower's own codes are below 1000.
MISSING_WEIGHTS = 1002

#: The same: it cannot connect to the body service.
UNREACHABLE = 1003

CONFIG = "config"
ARRAYS = "arrays"
BODY = "body"
METRICS = "metrics"


@dataclass(frozen=True)
class Order:
    """What the server asks of a client in a `train` or `evaluate` message.

    Attributes
    ----------
    config : str
        The resolved configuration as JSON.
    run_key : str
        Names the experiment's run; stays the same when it is resumed.
    address, token, certificate_pem
        Where the session is, what opens it, and whom to trust.
    carrier : str
        ``stream``, or ``messages`` where the session's frames travel in messages like this one.
    phase : str
        A phase's name, or ``evaluate``.
    cycle, round : int
        Of the schedule, from 1; `round` counts within the phase.
    steps : int
        Steps of the session.
    version : int
        Round whose moments the client should continue from; 0 for none.
    next_version : int
        Round that this session is.
    weights : str
        `content_key` of the head and tail to begin with; they come with the first message that names them, and are
        kept.
    body : str
        The same of the body, where this client is lent it for a round in which it is frozen; empty otherwise.
    alone : bool
        Whether no other client trains this task in the round, so that what the session ends with is the next version.
    pictures : bool
        Whether to leave pictures in the client's own folder.
    progress : float
        Share of the run's steps that earlier rounds have done; learning rates may depend on it.
    """

    config: str
    run_key: str
    address: str
    token: str
    certificate_pem: bytes
    carrier: str
    phase: str
    cycle: int
    round: int
    steps: int
    version: int
    next_version: int
    weights: str = ""
    body: str = ""
    alone: bool = False
    pictures: bool = False
    progress: float = 0.0

    def to_record(self) -> ConfigRecord:
        """As Flower carries it."""
        return ConfigRecord(asdict(self))

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Order:
        """Read an order.

        Raises
        ------
        ProtocolError
            When a key is missing or has another type, as when two versions of the app meet.
        """
        types: dict[str, type] = {"certificate_pem": bytes, "alone": bool, "pictures": bool, "progress": float}
        types |= dict.fromkeys(("cycle", "round", "steps", "version", "next_version"), int)
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = record.get(field.name)
            kind = types.get(field.name, str)
            if not isinstance(value, kind):
                raise ProtocolError(
                    f"'{field.name}' of type {kind.__name__} in the order",
                    type(value).__name__,
                    hint="run the same version of the app on the server and on every node",
                )
            values[field.name] = value
        return cls(**values)


@dataclass(frozen=True)
class Enrolment:
    """What a node tells of itself.

    Attributes
    ----------
    client : str
        Stable name of the client, across resumed runs.
    task, body : str
        What it trains and which body it subscribes to; empty when the experiment has no place for it.
    train_images, held_out_images : int
        How many it has.
    shared_held_out : bool
        Whether its held-out images are those of every client of its task; one of them then evaluates for all.
    carrier : str
        What carries the frames of its sessions: ``stream`` or ``messages``.
    unreachable : str
        Why the stream cannot, where it was tried.
    slots : int
        Clients that can run at once where it runs; 0 means that nothing limits them.
    error : str
        Why it cannot take part; empty when it can.
    """

    client: str
    task: str = ""
    body: str = ""
    train_images: int = 0
    held_out_images: int = 0
    shared_held_out: bool = False
    carrier: str = STREAM
    unreachable: str = ""
    slots: int = 0
    error: str = ""

    def to_record(self) -> ConfigRecord:
        """As Flower carries it; the keys are `ENROLMENT_FIELDS`."""
        return ConfigRecord({name.replace("_", "-"): value for name, value in asdict(self).items()})

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Enrolment:
        """Read an enrolment; `ProtocolError` when a key is missing or unknown."""
        if set(record) != ENROLMENT_FIELDS:
            raise ProtocolError(f"an enrolment with {sorted(ENROLMENT_FIELDS)}", str(sorted(record)))
        types: dict[str, type] = dict.fromkeys(("client", "task", "body", "carrier", "unreachable", "error"), str)
        types["shared-held-out"] = bool
        values: dict[str, Any] = {}
        for name, value in record.items():
            if not isinstance(value, types.get(name, int)):
                raise ProtocolError(f"'{name}' of type {types.get(name, int).__name__}", type(value).__name__)
            if isinstance(value, int) and value < 0:
                raise ProtocolError(f"'{name}' of at least 0", str(value))
            values[name.replace("-", "_")] = value
        return cls(**values)


def content_of(order: Order, records: Mapping[str, ArrayRecord]) -> RecordDict:
    """Assemble an order's message."""
    return RecordDict({CONFIG: order.to_record(), **records})


def metrics_record(values: dict[str, float], allowed: frozenset[str]) -> MetricRecord:
    """Metrics that may leave a client; `ProtocolError` for any other name."""
    unknown = sorted(set(values) - allowed)
    if unknown:
        raise ProtocolError(f"metrics among {sorted(allowed)}", str(unknown), hint="see tavit_flwr/payloads.py")
    return MetricRecord({name: float(value) for name, value in values.items()})
