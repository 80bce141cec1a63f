"""Sort a round's replies: which can be used, and why the others cannot."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message

from tavit_flwr.errors import ProtocolError, QuorumError
from tavit_flwr.payloads import EVALUATE_METRICS, TRAIN_METRICS, set_metric, set_metrics
from tavit_flwr.server.aggregation import Averages, ClientWeights, Weights, check_state
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.server.rounds import Round
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.server.sessions import Session
from tavit_flwr.wire.records import ARRAYS, METRICS, UNREACHABLE
from tavit_flwr.wire.weights import arrays_bytes, arrays_to_parts

logger = logging.getLogger("flwr")


@dataclass
class Reply:
    """One client's usable reply."""

    participant: Participant
    metrics: dict[str, float]


@dataclass(frozen=True)
class ReplyKind:
    """What a usable reply holds: its metrics, the one that must be above zero, and whether weights come with it."""

    metrics: frozenset[str]
    counted: str
    weights: bool


#: What replies hold in rounds where clients' parts move, where they are frozen, and in evaluation.
MOVED = ReplyKind(TRAIN_METRICS, "num-examples", weights=True)
FROZEN = ReplyKind(TRAIN_METRICS, "num-examples", weights=False)
SCORES = ReplyKind(EVALUATE_METRICS, "images", weights=False)


def sort_replies(
    opened: Round, replies: Iterable[Message], weights: Weights, kind: ReplyKind, averages: Averages | None = None
) -> list[Reply]:
    """Keep the replies that can be used, and write down why the others cannot; weights go into the averages.

    Replies are worked off as they come. Nothing raises here: a client that answers with an error, with NaN, with odd
    tensors, or not at all is left out by name, and the round goes on without it.
    """
    usable: list[Reply] = []
    silent = dict(opened.sessions)
    problems: list[str] = []

    def left_out(one: Participant) -> None:
        if averages is not None:
            averages.leave_out(one.task, one.client)

    for message in replies:
        node = opened.sender(message)
        if node not in silent:
            problems.append(f"node {node}: a reply that nobody asked for")
            continue
        participant, session = silent.pop(node)
        who = f"node {node}, {session.where}"
        if message.has_error():
            problems.append(f"{who}: {message.error.reason}")
            if node != message.metadata.src_node_id or message.error.code == UNREACHABLE:
                opened.lost.add(node)
            left_out(participant)
            continue
        try:
            _check_steps(session, who)
            reply, returned = _read(opened, message, participant, weights, who, kind)
        except Exception as error:  # whatever a node can put into a reply costs that node and nobody else
            problems.append(f"{who}: {type(error).__name__}: {error}")
            left_out(participant)
            continue
        usable.append(reply)
        if averages is not None and returned is not None:
            averages.add(returned)
    for node, (_, session) in silent.items():
        problems.append(f"node {node}, {session.where}: no reply before the deadline")
        opened.lost.add(node)
    opened.problems += sorted(problems)  # the same, whoever answers first
    for problem in opened.problems:
        logger.warning("left out: %s", problem)
    return sorted(usable, key=lambda reply: reply.participant.client)


def check_quorum(opened: Round, usable: Sequence[Reply], quorum: float, plan: RoundPlan) -> None:
    """Raise `QuorumError` when too few of a round's clients gave a usable reply."""
    least = max(1, math.ceil(quorum * len(opened.sessions) - 1e-9))
    if len(usable) < least:
        raise QuorumError(
            f"usable replies from at least {least} of {len(opened.sessions)} clients", f"{len(usable)}",
            f"cycle {plan.cycle}, {plan.phase}, round {plan.round}",
            "; ".join(opened.problems) + "; run again with resume=true when they are back",
        )  # fmt: skip


def _read(
    opened: Round, message: Message, participant: Participant, weights: Weights, who: str, kind: ReplyKind
) -> tuple[Reply, ClientWeights | None]:
    content: Any = message.content
    metrics = {name: _number(name, value, who) for name, value in content[METRICS].items()}
    told = [one for one in opened.labels.get(participant.task, ()) if set_metric("images", one) in metrics]
    expected = kind.metrics | set_metrics(told)
    if set(metrics) != expected:
        missing, unknown = sorted(expected - set(metrics)), sorted(set(metrics) - expected)
        raise ProtocolError("all the known metrics and no other", f"missing {missing}, unknown {unknown}", who)
    for counted in (kind.counted, *(set_metric("images", one) for one in told)):
        if metrics[counted] <= 0:
            raise ProtocolError(f"'{counted}' above zero", str(metrics[counted]), who)
    if not kind.weights:
        return Reply(participant, metrics), None
    arrays: ArrayRecord = content[ARRAYS]
    opened.bytes_up += arrays_bytes(arrays)
    head, tail = arrays_to_parts(arrays)
    check_state(head, weights.heads[participant.task], f"{who}, head")
    check_state(tail, weights.tails[participant.task], f"{who}, tail")
    if opened.supply is not None and participant.client in opened.alone:
        opened.supply.kept(participant, head, tail)
    returned = ClientWeights(participant.client, participant.task, metrics[kind.counted], head, tail)
    return Reply(participant, metrics), returned


def _check_steps(session: Session, who: str) -> None:
    """A client may say that it is done; the body service knows."""
    if session.steps_done < session.steps:
        raise ProtocolError(f"{session.steps} steps", f"{session.steps_done} that the body service saw", who)


def _number(name: str, value: object, who: str) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ProtocolError(f"a finite number for metric '{name}'", repr(value), who)
    return float(value)
