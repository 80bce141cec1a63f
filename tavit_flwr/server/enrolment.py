"""Ask a node who it is, and read its answer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from tavit_flwr.config import AUTO, MESSAGES, STREAM, TavitConfig, to_json
from tavit_flwr.errors import ProtocolError, QuorumError
from tavit_flwr.wire.probe import Probe
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


def questions(nodes: Sequence[int], config: TavitConfig, probe: Probe) -> list[Message]:
    """Ask nodes who they are in this experiment, and what carries their frames."""
    asked = ConfigRecord({"config": to_json(config), **probe.to_values()})
    return [
        Message(content=RecordDict({CONFIG: asked}), message_type=MessageType.QUERY, dst_node_id=node) for node in nodes
    ]


def read_answer(node: int, reply: Message, config: TavitConfig) -> Participant | str:
    """Read what a node answered.

    Returns
    -------
    Participant or str
        Or else why it is left out, in words that name it; the empty string where the experiment has no place for it.
    """
    if reply.has_error():
        return f"node {node}: {reply.error.reason}"
    try:
        enrolment = Enrolment.from_record(reply.content.config_records[CONFIG])
    except (ProtocolError, KeyError) as error:
        return f"node {node}: {error}"
    problem = enrolment.error or (_misfit(enrolment, config) if enrolment.task else "")
    if problem:
        return f"node {node}, client {enrolment.client}: {problem}"
    if enrolment.unreachable:
        logger.warning(
            "node %s, client %s: frames travel in Flower messages, slower by far: %s; see wire.carrier",
            node, enrolment.client, enrolment.unreachable,
        )  # fmt: skip
    if enrolment.task:
        return Participant(node, enrolment)
    logger.info("node %s (%s) has no place in this experiment and idles", node, enrolment.client)
    return ""


def say_who(participants: Sequence[Participant], config: TavitConfig) -> None:
    """Log which tasks are there, and which of the experiment's are not."""
    tasks = Counter(participant.task for participant in participants)
    logger.info("%s clients: %s", len(participants), ", ".join(f"{task} x{count}" for task, count in tasks.items()))
    missing = [task for task in config.tasks if task not in tasks]
    if len(participants) < len(config.clients):
        logger.warning(
            "the experiment has %s clients, this federation offers %s nodes: %s",
            len(config.clients), len(participants),
            f"without {', '.join(missing)}" if missing else "every task is still there",
        )  # fmt: skip


def check_returned(before: Mapping[str, str], participants: Sequence[Participant]) -> None:
    """Compare who takes part in a resumed run with who did before it stopped.

    Parameters
    ----------
    before : mapping
        Client to task.
    participants : sequence of Participant
        Who is there now.

    Raises
    ------
    QuorumError
        When a task that was trained has nobody left: the run would not be the one that was stopped.
    """
    now = {one.client: one.task for one in participants}
    gone = sorted(set(before.values()) - set(now.values()))
    if gone:
        raise QuorumError(
            f"clients of the stopped run's tasks {sorted(set(before.values()))}", f"none of {gone}", "resume=true",
            "start their nodes and resume again, or start a new run in another output_dir",
        )  # fmt: skip
    missing, new = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys()) if before else []
    if missing or new:
        logger.warning(
            "resumed with other clients than the stopped run's: without %s, with %s besides",
            ", ".join(missing) or "nobody", ", ".join(new) or "nobody",
        )  # fmt: skip


def _misfit(enrolment: Enrolment, config: TavitConfig) -> str:
    task = config.tasks.get(enrolment.task)
    if task is None:
        return f"expected a task among {sorted(config.tasks)}; received {enrolment.task!r}"
    if enrolment.body != task.body:
        return f"expected body {task.body!r}; received {enrolment.body!r}"
    allowed = (STREAM, MESSAGES) if config.wire.carrier == AUTO else (config.wire.carrier,)
    return "" if enrolment.carrier in allowed else f"expected carrier {allowed}; received {enrolment.carrier!r}"
