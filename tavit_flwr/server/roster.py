"""Who takes part: enrolment with a deadline, seeded selection, and cohorts that can run at once."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from tavit_flwr.config import TavitConfig, to_json
from tavit_flwr.errors import ConfigError, ProtocolError, QuorumError
from tavit_flwr.seeding import generator
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.split.phases import PHASES
from tavit_flwr.wire.records import CONFIG, Enrolment

logger = logging.getLogger("flwr")


@dataclass(frozen=True)
class Participant:
    """A node that enrolled."""

    node_id: int
    enrolment: Enrolment

    @property
    def client(self) -> str:
        """Stable name of the client."""
        return self.enrolment.client

    @property
    def task(self) -> str:
        """What it trains."""
        return self.enrolment.task


def wait_for_nodes(grid: Grid, least: int, timeout_s: float, settle_s: float = 1.0) -> list[int]:
    """Wait until `least` nodes are connected and no more have come for a moment.

    Raises
    ------
    QuorumError
        When fewer are there at the deadline.
    """
    deadline = time.monotonic() + timeout_s
    nodes: list[int] = []
    while True:
        before, nodes = nodes, sorted(grid.get_node_ids())
        if len(nodes) >= least and nodes == before:
            return nodes
        if time.monotonic() > deadline:
            if len(nodes) >= least:
                return nodes
            raise QuorumError(
                f"at least {least} nodes within {timeout_s:g} s", f"{len(nodes)}", "before the first round",
                "start more SuperNodes, or see federation.min_nodes and federation.wait_for_nodes_s",
            )  # fmt: skip
        time.sleep(settle_s if nodes else 0.2)


def enrol(grid: Grid, nodes: Sequence[int], config: TavitConfig) -> list[Participant]:
    """Ask every node who it is.

    Nodes that answer with an error, or not at all, are reported and left out.

    Raises
    ------
    QuorumError
        When fewer than ``federation.min_nodes`` can take part.
    """
    order = ConfigRecord({"config": to_json(config)})
    messages = [
        Message(content=RecordDict({CONFIG: order}), message_type=MessageType.QUERY, dst_node_id=node) for node in nodes
    ]
    replies = list(grid.send_and_receive(messages, timeout=config.federation.enrol_timeout_s))
    participants, problems = [], []
    for reply in replies:
        node = reply.metadata.src_node_id
        if reply.has_error():
            problems.append(f"node {node}: {reply.error.reason}")
            continue
        try:
            enrolment = Enrolment.from_record(reply.content.config_records[CONFIG])
        except (ProtocolError, KeyError) as error:
            problems.append(f"node {node}: {error}")
            continue
        if enrolment.error:
            problems.append(f"node {node}, client {enrolment.client}: {enrolment.error}")
        elif enrolment.task and _misfit(enrolment, config):
            problems.append(f"node {node}, client {enrolment.client}: {_misfit(enrolment, config)}")
        elif enrolment.task:
            participants.append(Participant(node, enrolment))
        else:
            logger.info("node %s (%s) has no place in this experiment and idles", node, enrolment.client)
    silent = set(nodes) - {reply.metadata.src_node_id for reply in replies}
    problems += [f"node {node}: no answer within {config.federation.enrol_timeout_s:g} s" for node in sorted(silent)]
    for problem in problems:
        logger.warning("left out: %s", problem)
    if len(participants) < config.federation.min_nodes:
        raise QuorumError(
            f"at least {config.federation.min_nodes} nodes that can take part", f"{len(participants)}", "enrolment",
            "; ".join(problems) or "start more nodes",
        )  # fmt: skip
    participants.sort(key=lambda participant: participant.client)
    _check_names(participants)
    _say_who(participants, config)
    return participants


def _misfit(enrolment: Enrolment, config: TavitConfig) -> str:
    task = config.tasks.get(enrolment.task)
    if task is None:
        return f"expected a task among {sorted(config.tasks)}; received {enrolment.task!r}"
    return "" if enrolment.body == task.body else f"expected body {task.body!r}; received {enrolment.body!r}"


def check_cohort(participants: Sequence[Participant], config: TavitConfig) -> int:
    """Find how many clients can run at once, 0 for all of them, and refuse or announce a cohort that is too large.

    Raises
    ------
    ConfigError
        When ``federation.cohort=all`` asks for more clients at once than there are slots.
    """
    limits = [participant.enrolment.slots for participant in participants if participant.enrolment.slots]
    together = any(PHASES[phase.kind].body_moves for phase in config.schedule.phases)
    if not limits or not together or len(participants) <= min(limits):
        return 0
    hint = (
        f'--federation-config "num-supernodes={len(participants)} client-resources-num-cpus=1 '
        f'init-args-num-cpus={len(participants)}" lets all run at once'
    )
    if config.federation.cohort == "all":
        raise ConfigError(
            f"{len(participants)} clients at once in phases where the body moves", f"{min(limits)} slots",
            "federation.cohort=all", hint,
        )  # fmt: skip
    logger.warning(
        "only %s of %s clients can run at once: in phases where the body moves, they take turns by rounds; %s",
        min(limits), len(participants), hint,
    )  # fmt: skip
    return min(limits)


def select(participants: Sequence[Participant], plan: RoundPlan, cohort: int, config: TavitConfig) -> list[Participant]:
    """Choose who takes part in a round, seeded by the run's seed and the round's name.

    Parameters
    ----------
    participants : sequence of Participant
        Sorted by client name.
    plan : RoundPlan
        The round.
    cohort : int
        Most clients at once where the body moves; 0 for no limit. Rounds then rotate through a seeded order.
    config : TavitConfig
        For ``federation.fraction``.
    """
    draws = generator(config.seed, "select", plan.cycle, plan.phase)
    order = [participants[int(index)] for index in torch.randperm(len(participants), generator=draws)]
    count = max(1, round(config.federation.fraction * len(order)))
    limited = bool(cohort) and PHASES[plan.phase].body_moves
    if limited:
        count = min(count, cohort)
    start = (plan.round - 1) * count if count < len(order) else 0
    chosen = [order[(start + offset) % len(order)] for offset in range(count)]
    return sorted(chosen, key=lambda participant: participant.client)


def evaluators(participants: Sequence[Participant]) -> list[Participant]:
    """Clients that hold images out; of those of a task that share the same ones, only the first."""
    chosen: list[Participant] = []
    shared: set[str] = set()
    for one in participants:
        if one.enrolment.held_out_images and not (one.enrolment.shared_held_out and one.task in shared):
            chosen.append(one)
            if one.enrolment.shared_held_out:
                shared.add(one.task)
    return chosen


def _check_names(participants: Sequence[Participant]) -> None:
    twice = [name for name, count in Counter(one.client for one in participants).items() if count > 1]
    if twice:
        raise ConfigError(
            "a name of its own for every client", f"{twice} more than once", "enrolment",
            "give every SuperNode on one machine its own state-dir",
        )  # fmt: skip


def _say_who(participants: Sequence[Participant], config: TavitConfig) -> None:
    tasks = Counter(participant.task for participant in participants)
    logger.info("%s clients: %s", len(participants), ", ".join(f"{task} x{count}" for task, count in tasks.items()))
    missing = [task for task in config.tasks if task not in tasks]
    if len(participants) < len(config.clients):
        logger.warning(
            "the experiment has %s clients, this federation offers %s nodes: %s",
            len(config.clients), len(participants),
            f"without {', '.join(missing)}" if missing else "every task is still there",
        )  # fmt: skip
