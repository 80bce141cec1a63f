"""One round's sessions and replies: open them, send orders, and sort what comes back."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, Message, MessageType

from tavit_flwr.config import TavitConfig
from tavit_flwr.errors import ProtocolError
from tavit_flwr.payloads import EVALUATE_METRICS, TRAIN_METRICS
from tavit_flwr.server.aggregation import ClientWeights, Weights, check_state
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.server.roster import Participant, evaluators
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.split.phases import PHASES
from tavit_flwr.wire.records import ARRAYS, METRICS, Order, arrays_bytes, arrays_to_parts, content_of, parts_to_arrays

logger = logging.getLogger("flwr")


@dataclass
class Reply:
    """One client's usable reply."""

    participant: Participant
    metrics: dict[str, float]
    weights: ClientWeights | None


@dataclass
class Round:
    """The sessions of one round of training or evaluation.

    Attributes
    ----------
    sessions : dict
        Node id to its participant and session.
    cohorts : list of Cohort
        Where bodies move.
    bytes_up, bytes_down : int
        Weights that travelled in messages; sessions count their own frames.
    problems : list of str
        Who was left out and why.
    """

    sessions: dict[int, tuple[Participant, Session]] = field(default_factory=dict)
    cohorts: list[Cohort] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    problems: list[str] = field(default_factory=list)

    def total_bytes(self) -> tuple[int, int]:
        """Bytes up and down: frames of all sessions, and weights in messages."""
        ledgers = [session.ledger for _, session in self.sessions.values()]
        up = self.bytes_up + sum(ledger.total("up") for ledger in ledgers)
        return up, self.bytes_down + sum(ledger.total("down") for ledger in ledgers)


@dataclass(frozen=True)
class RoundOpener:
    """Opens rounds: what stays the same from one to the next.

    Attributes
    ----------
    service : BodyService
        Hosts the sessions.
    hosts : mapping
        Body name to host.
    config : TavitConfig
        The experiment.
    config_json : str
        The same, as it goes to clients.
    run_key : str
        Names the run for clients' private stores.
    shape : tuple of int
        [B, D, G, G] of every training step.
    """

    service: BodyService
    hosts: Mapping[str, BodyHost]
    config: TavitConfig
    config_json: str
    run_key: str
    shape: tuple[int, ...]

    def train(
        self, plan: RoundPlan, chosen: Sequence[Participant], weights: Weights, versions: Mapping[str, int]
    ) -> tuple[Round, list[Message]]:
        """Open one session per chosen client, one cohort per moving body, and write the orders."""
        phase = PHASES[plan.phase]
        opened = Round()
        cohorts: dict[str, Cohort] = {}
        for name, host in self.hosts.items():
            host.begin_phase(moves=phase.body_moves, progress=plan.progress)
            members = [Member(one.client, one.task) for one in chosen if one.enrolment.body == name]
            if phase.body_moves and members:
                cohorts[name] = Cohort(
                    host,
                    members,
                    input_gradient=phase.client_moves,
                    step_path=(plan.cycle, plan.phase, plan.round),
                    join_timeout_s=self.config.wire.join_timeout_s,
                    step_timeout_s=self.config.wire.step_timeout_s,
                    quorum=self.config.federation.quorum,
                )
        opened.cohorts = list(cohorts.values())
        messages = []
        for one in chosen:
            host = self.hosts[one.enrolment.body]
            session = Session(one.client, one.task, host, plan.phase, plan.steps, cohorts.get(host.name), self.shape)
            order = self._order(session, plan, versions.get(one.client, 0))
            messages.append(self._message(opened, one, session, order, weights, MessageType.TRAIN))
        return opened, messages

    def evaluate(
        self, plan: RoundPlan, participants: Sequence[Participant], weights: Weights, *, pictures: bool
    ) -> tuple[Round, list[Message]]:
        """Open one evaluation session per client that holds images out (see `evaluators`)."""
        opened = Round()
        for host in self.hosts.values():
            host.begin_phase(moves=False)
        messages = []
        for one in evaluators(participants):
            session = Session(one.client, one.task, self.hosts[one.enrolment.body], EVALUATE, 0)
            order = self._order(session, plan, 0, pictures=pictures)
            messages.append(self._message(opened, one, session, order, weights, MessageType.EVALUATE))
        return opened, messages

    def _order(self, session: Session, plan: RoundPlan, version: int, *, pictures: bool = False) -> Order:
        certificate = self.service.certificate
        return Order(
            config=self.config_json,
            run_key=self.run_key,
            address=self.service.address,
            token=self.service.open(session),
            certificate_pem=certificate.certificate_pem if certificate else b"",
            phase=session.phase,
            cycle=plan.cycle,
            round=plan.round,
            steps=session.steps,
            version=version,
            next_version=plan.index,
            pictures=pictures,
            progress=plan.progress,
        )

    @staticmethod
    def _message(
        opened: Round, one: Participant, session: Session, order: Order, weights: Weights, kind: str
    ) -> Message:
        opened.sessions[one.node_id] = (one, session)
        arrays = parts_to_arrays(weights.heads[one.task], weights.tails[one.task])
        opened.bytes_down += arrays_bytes(arrays)
        return Message(content=content_of(order=order, arrays=arrays), message_type=kind, dst_node_id=one.node_id)


@dataclass(frozen=True)
class _Kind:
    """What a usable reply holds: its metrics, the one that must be above zero, and whether weights come with it."""

    metrics: frozenset[str]
    counted: str
    weights: bool


#: What replies hold in rounds where clients' parts move, where they are frozen, and in evaluation.
MOVED = _Kind(TRAIN_METRICS, "num-examples", weights=True)
FROZEN = _Kind(TRAIN_METRICS, "num-examples", weights=False)
SCORES = _Kind(EVALUATE_METRICS, "images", weights=False)


def sort_replies(opened: Round, replies: Iterable[Message], weights: Weights, kind: _Kind) -> list[Reply]:
    """Keep the replies that can be used, and write down why the others cannot.

    Nothing raises here: a client that answers with an error, with NaN, with odd tensors, or not at all is left out by
    name, and the round goes on without it.
    """
    usable: list[Reply] = []
    silent = dict(opened.sessions)
    for message in replies:
        node = message.metadata.src_node_id
        if node not in silent:
            opened.problems.append(f"node {node}: a reply that nobody asked for")
            continue
        participant, session = silent.pop(node)
        who = f"node {node}, {session.where}"
        if message.has_error():
            opened.problems.append(f"{who}: {message.error.reason}")
            continue
        try:
            usable.append(_read(opened, message, participant, weights, who, kind))
        except Exception as error:  # whatever a node can put into a reply costs that node and nobody else
            opened.problems.append(f"{who}: {type(error).__name__}: {error}")
    for node, (_, session) in sorted(silent.items()):
        opened.problems.append(f"node {node}, {session.where}: no reply before the deadline")
    for problem in opened.problems:
        logger.warning("left out: %s", problem)
    return sorted(usable, key=lambda reply: reply.participant.client)


def _read(opened: Round, message: Message, participant: Participant, weights: Weights, who: str, kind: _Kind) -> Reply:
    content: Any = message.content
    metrics = {name: _number(name, value, who) for name, value in content[METRICS].items()}
    if set(metrics) != kind.metrics:
        missing, unknown = sorted(kind.metrics - set(metrics)), sorted(set(metrics) - kind.metrics)
        raise ProtocolError("all the known metrics and no other", f"missing {missing}, unknown {unknown}", who)
    if metrics[kind.counted] <= 0:
        raise ProtocolError(f"'{kind.counted}' above zero", str(metrics[kind.counted]), who)
    if not kind.weights:
        return Reply(participant, metrics, None)
    arrays: ArrayRecord = content[ARRAYS]
    opened.bytes_up += arrays_bytes(arrays)
    head, tail = arrays_to_parts(arrays)
    check_state(head, weights.heads[participant.task], f"{who}, head")
    check_state(tail, weights.tails[participant.task], f"{who}, tail")
    examples = metrics[kind.counted]
    return Reply(participant, metrics, ClientWeights(participant.client, participant.task, examples, head, tail))


def _number(name: str, value: object, who: str) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ProtocolError(f"a finite number for metric '{name}'", repr(value), who)
    return float(value)
