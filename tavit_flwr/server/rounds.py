"""One round's sessions: open them, and write the orders."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Message, MessageType

from tavit_flwr.config import LENT, TavitConfig
from tavit_flwr.data import labels_of
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.checkpoint import RunState
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.server.gathering import Gathering
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.server.selection import at_once
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.server.supply import Supply
from tavit_flwr.split.phases import PHASES
from tavit_flwr.wire.records import Order, content_of


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
    failed : set of str
        Clients of whole models that gave no usable reply; of sessions the replies tell.
    messages : list of Message
        The orders that were sent.
    asked : dict
        Their numbers, and their nodes.
    followed : dict
        The same of messages that followed upon frames.
    lost : set of int
        Nodes to be asked again who they are: silent, given up by the SuperLink, or cut off from the body service.
    ended : dict
        Node id to the time at which its session was first seen to have ended early.
    labels : dict
        Task to the sets of held-out images that its scores may be told apart by.
    supply : Supply or None
        The weights that its orders are about.
    alone : set of str
        Clients that are the only ones to train their task in this round.
    """

    sessions: dict[int, tuple[Participant, Session]] = field(default_factory=dict)
    cohorts: list[Cohort] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    problems: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    messages: list[Message] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)
    followed: dict[str, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    ended: dict[int, float] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    supply: Supply | None = None
    alone: set[str] = field(default_factory=set)

    @property
    def at_once(self) -> int:
        """How many of its clients can be at work at once."""
        return at_once([participant for participant, _ in self.sessions.values()])

    def resupply(self, node: int) -> dict[str, ArrayRecord]:
        """Weights for a node that has lost what it was sent before."""
        return self.supply.everything(self.sessions[node][0]) if self.supply is not None else {}

    def sender(self, reply: Message) -> int:
        """The node that was asked; the SuperLink answers in its own name for a node that it has given up."""
        source = reply.metadata.src_node_id
        if source in self.sessions:
            return source
        if len(self.asked) < len(self.messages):  # they have no numbers before they are sent
            self.asked = {message.metadata.message_id: message.metadata.dst_node_id for message in self.messages}
        number = reply.metadata.reply_to_message_id
        return self.asked.get(number, self.followed.get(number, source))

    def hopeless(self, nodes: Sequence[int], grace_s: float) -> bool:
        """Whether none of these nodes is worth waiting for: their sessions ended early, at least `grace_s` ago."""
        now = time.monotonic()
        for node in nodes:
            _, session = self.sessions[node]
            if session.error or (session.cohort is not None and session.client in session.cohort.left):
                self.ended.setdefault(node, now)
        return all(now - self.ended.get(node, now) >= grace_s for node in nodes)

    def absorb(self, other: Round) -> None:
        """Take over what another round of the same evaluation held."""
        self.sessions |= other.sessions
        self.bytes_up += other.bytes_up
        self.bytes_down += other.bytes_down + (other.supply.bytes if other.supply is not None else 0)
        self.problems += other.problems

    def frame_bytes(self) -> tuple[int, int]:
        """Bytes up and down of all sessions' frames: what the steps themselves cost."""
        ledgers = [session.ledger for _, session in self.sessions.values()]
        return sum(ledger.total("up") for ledger in ledgers), sum(ledger.total("down") for ledger in ledgers)

    def total_bytes(self) -> tuple[int, int]:
        """Bytes up and down: frames of all sessions, and weights in messages."""
        up, down = self.frame_bytes()
        return up + self.bytes_up, down + self.bytes_down + (self.supply.bytes if self.supply is not None else 0)


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
    state : RunState
        Names the run for clients' private stores, and knows which weights they have.
    shape : tuple of int
        [B, D, G, G] of every minibatch.
    """

    service: BodyService
    hosts: Mapping[str, BodyHost]
    config: TavitConfig
    config_json: str
    state: RunState
    shape: tuple[int, ...]

    def train(
        self, plan: RoundPlan, chosen: Sequence[Participant], weights: Weights, versions: Mapping[str, int]
    ) -> tuple[Round, list[Message]]:
        """Open one session per chosen client, one cohort per moving body, and write the orders."""
        phase = PHASES[plan.phase]
        together = self.config.wire.minibatches_per_message
        steps, shape = plan.steps // together, (self.shape[0] * together, *self.shape[1:])
        lends = self.config.schedule.lend_body and not phase.body_moves
        opened = Round(supply=Supply(weights, self.state.held, lends=lends))
        if phase.client_moves:
            counts = Counter(one.task for one in chosen)
            opened.alone = {one.client for one in chosen if counts[one.task] == 1}
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
                    threads=self.service.cores,
                )
        opened.cohorts = list(cohorts.values())
        gatherings: dict[str, Gathering] = {}
        if self.config.compute.batch_waiting and not phase.body_moves:
            gatherings = {one.name: Gathering(one, self.config.wire.step_timeout_s) for one in self.hosts.values()}
        messages = []
        for one in chosen:
            host = self.hosts[one.enrolment.body]
            session = Session(
                one.client, one.task, host, plan.phase, steps, cohorts.get(host.name), shape,
                carrier=LENT if lends else one.enrolment.carrier, gathering=gatherings.get(host.name),
            )  # fmt: skip
            if lends:  # the service sees nothing of it
                session.steps_done = steps
            order = self._order(opened, one, session, plan, versions.get(one.client, 0))
            messages.append(_message(opened, one, session, order, MessageType.TRAIN))
        self.service.at_once = len(gatherings) or opened.at_once
        return opened, messages

    def evaluate(self, plan: RoundPlan, chosen: Sequence[Participant], weights: Weights) -> tuple[Round, list[Message]]:
        """Open one evaluation session for each of these clients."""
        labels = {task: labels_of(self.config, task) for task in self.config.tasks}
        opened = Round(labels=labels, supply=Supply(weights, self.state.held))
        for host in self.hosts.values():
            host.begin_phase(moves=False)
        messages = []
        for one in chosen:
            host = self.hosts[one.enrolment.body]
            session = Session(one.client, one.task, host, EVALUATE, 0, carrier=one.enrolment.carrier)
            order = self._order(opened, one, session, plan, 0, pictures=self.config.evaluation.pictures)
            messages.append(_message(opened, one, session, order, MessageType.EVALUATE))
        self.service.at_once = opened.at_once
        return opened, messages

    def _order(
        self,
        opened: Round,
        one: Participant,
        session: Session,
        plan: RoundPlan,
        version: int,
        *,
        pictures: bool = False,
    ) -> Order:
        certificate, supply = self.service.certificate, opened.supply
        return Order(
            config=self.config_json,
            run_key=self.state.run_key,
            address=self.service.address,
            token=self.service.open(session),
            certificate_pem=certificate.certificate_pem if certificate else b"",
            carrier=session.carrier,
            phase=session.phase,
            cycle=plan.cycle,
            round=plan.round,
            steps=session.steps,
            version=version,
            next_version=plan.index,
            weights=supply.parts_key(one) if supply is not None else "",
            body=supply.body_key(one) if supply is not None else "",
            alone=session.client in opened.alone,
            pictures=pictures,
            progress=plan.progress,
        )


def _message(opened: Round, one: Participant, session: Session, order: Order, kind: str) -> Message:
    opened.sessions[one.node_id] = (one, session)
    records = opened.supply.missing(one) if opened.supply is not None else {}
    message = Message(content=content_of(order, records), message_type=kind, dst_node_id=one.node_id)
    opened.messages.append(message)
    return message
