"""`TAViT`: the Flower strategy that coordinates split learning with one shared body per data domain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from tavit_flwr.config import TavitConfig, to_json
from tavit_flwr.errors import ConfigError, QuorumError
from tavit_flwr.server.aggregation import Averages, Weights, check_state
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.check import refuse_records
from tavit_flwr.server.checkpoint import Checkpoint
from tavit_flwr.server.enrolment import Participant, check_returned
from tavit_flwr.server.initial import build_hosts, load_weights, step_shape
from tavit_flwr.server.record import FindPictures, RunRecord
from tavit_flwr.server.replies import FROZEN, MOVED, SCORES, Reply, ReplyKind, check_quorum, sort_replies
from tavit_flwr.server.roster import Roster
from tavit_flwr.server.rounds import Round, RoundOpener
from tavit_flwr.server.schedule import RoundPlan, plan
from tavit_flwr.server.selection import check_cohort, evaluators, select, substitutes
from tavit_flwr.server.waiting import PatientGrid
from tavit_flwr.split.phases import PHASES

logger = logging.getLogger("flwr")


class TAViT(Strategy):
    """Alternate task-specific and task-agnostic phases over a federation (Kim, Kim, Ye, IEEE TIP 2023).

    An ordinary Flower strategy: ``TAViT(config).start(grid=grid, initial_arrays=initial_arrays(config))``. While it
    runs, the ServerApp's process hosts the body service; each `train` message is one session of many steps over it.
    Heads and tails are averaged task by task, bodies are stepped by their cohorts.

    Parameters
    ----------
    config : TavitConfig
        The experiment.
    output_dir : Path
        Gets metric lines, results and checkpoints; absolute, because a ServerApp does not run where it was started.
    resume_from : Checkpoint, optional
        Continue after this checkpoint's round; pass its weights as `initial_arrays`.
    pictures : FindPictures, optional
        Where simulated clients' pictures lie on this machine, to be put into the page.

    Raises
    ------
    ConfigError
        When the output folder is not absolute.
    """

    def __init__(
        self,
        config: TavitConfig,
        output_dir: Path,
        resume_from: Checkpoint | None = None,
        pictures: FindPictures | None = None,
    ) -> None:
        if not output_dir.is_absolute():
            raise ConfigError("an absolute folder", repr(str(output_dir)), "configuration key 'output_dir'")
        self.config = config
        self.plans = plan(config.schedule)
        self._record = RunRecord(config, output_dir, resume_from, pictures)
        self.state = self._record.state
        self._hosts = build_hosts(config, resume_from.moments if resume_from else {})
        self._participants: list[Participant] = []
        self._cohort = 0
        self._round = Round()
        self._evaluate: Callable[[Iterable[Message]], Iterable[Message]]
        self._weights: Weights
        self._opener: RoundOpener
        self._roster: Roster

    def summary(self) -> None:
        """Log what is about to run."""
        self._record.summary(len(self.plans))

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the schedule; parameters as in Flower's `Strategy.start`.

        Parameters
        ----------
        num_rounds : int, optional
            At most this many rounds; the schedule's remaining ones by default. A run that stops inside a phase is
            evaluated at its end; resumed, it goes on as if it had not been.
        timeout : float, optional
            Deadline of a round's replies, seconds; ``federation.round_timeout_s`` by default.

        Raises
        ------
        QuorumError
            When too few nodes enrol, or too few replies of a round can be used.
        ConfigError
            When the cohort cannot run at once and ``federation.cohort=all``, or for a `train_config` or
            `evaluate_config`: orders hold the experiment's configuration.
        """
        refuse_records(train_config=train_config, evaluate_config=evaluate_config)
        remaining = len(self.plans) - self._record.start
        rounds = remaining if num_rounds is None else min(num_rounds, remaining)
        timeout_s = self.config.federation.round_timeout_s if timeout is None else timeout
        self._weights = Weights.from_arrays(initial_arrays)
        load_weights(self._hosts, self._weights, self.config)
        with BodyService(self.config.wire, self.config.compute.server_threads) as service, self._record:
            self._opener = RoundOpener(
                service, self._hosts, self.config, to_json(self.config), self.state, step_shape(self.config)
            )
            logger.info("%s", service.describe())
            if self.config.wire.insecure:
                logger.warning("wire.insecure: tokens, features and gradients travel readable; anyone may listen in")
            patient = PatientGrid(
                grid, service, self._hopeless, lambda key, node: self._round.followed.update({key: node}),
                lambda node: self._round.resupply(node), lambda: self._round.at_once,
            )  # fmt: skip
            self._evaluate = partial(patient.send_and_receive, timeout=timeout_s)
            self._roster = Roster(patient, self.config, service.probe())
            self._take_in(self._roster.gather())
            self._record.open(patient)
            self._evaluate_now(self._record.pending(self.plans))
            result = super().start(
                patient, initial_arrays, rounds, timeout_s, train_config, evaluate_config, evaluate_fn
            )
            self._evaluate_now(self._record.unfinished(self.plans))
            self._record.finish()
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose the round's clients, open their sessions and write their orders."""
        current = self._plan(server_round)
        self._take_in(self._roster.refresh())
        chosen = select(self._participants, current, self._cohort, self.config)
        self._record.begin_round()
        self._round, messages = self._opener.train(current, chosen, self._weights, self.state.versions)
        self._round.problems += self._roster.absent
        logger.info(
            "cycle %s/%s, %s, round %s: %s clients x %s steps",
            current.cycle, self.config.schedule.cycles, current.phase, current.round, len(chosen), current.steps,
        )  # fmt: skip
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average heads and tails task by task, take the bodies over from the service, and write the checkpoint.

        Raises
        ------
        QuorumError
            When fewer than ``federation.quorum`` of the round's clients gave a usable reply.
        ProtocolError
            When a body's weights are no longer finite; the checkpoint before is whole.
        """
        current = self._plan(server_round)
        phase = PHASES[current.phase]
        taking_part = [(one.task, one.client) for one, _ in self._round.sessions.values()]
        averages = Averages(taking_part, self.config.federation.average)
        usable = self._sort(replies, MOVED if phase.client_moves else FROZEN, averages)
        self._opener.service.end_round()
        check_quorum(self._round, usable, self.config.federation.quorum, current)
        for task, (head, tail) in averages.result().items():
            self._weights.heads[task], self._weights.tails[task] = head, tail
        for reply in usable if phase.client_moves else ():
            self.state.versions[reply.participant.client] = current.index
        if phase.body_moves:
            bodies = {name: host.state() for name, host in self._hosts.items()}
            for name, state in bodies.items():
                check_state(state, self._weights.bodies[name], f"body '{name}' after round {current.index}")
            self._weights.bodies = bodies
        self._record.trained(current, self._round, usable, self._weights, self._hosts)
        return self._weights.to_arrays(), MetricRecord({"steps": sum(reply.metrics["steps"] for reply in usable)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """After every phase, ask clients to restore their held-out images."""
        current = self._plan(server_round)
        self._round = Round()
        self._record.begin_round()
        return self._ask_for_scores(current, evaluators(self._participants)) if current.ends_phase else []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the clients' scores task by task, and add them to the round's checkpoint."""
        current = self._plan(server_round)
        return self._score(current, replies) if current.ends_phase else None

    def _plan(self, server_round: int) -> RoundPlan:
        return self.plans[self._record.start + server_round - 1]

    def _take_in(self, participants: list[Participant]) -> None:
        if participants != self._participants:
            self._cohort = check_cohort(participants, self.config)
        if self._record.resumed and not self._participants:
            check_returned(self.state.participants, participants)
        self._participants = participants
        self.state.participants |= {one.client: one.task for one in participants}

    def _sort(self, replies: Iterable[Message], kind: ReplyKind, averages: Averages | None = None) -> list[Reply]:
        """Sort replies; who did not answer for itself takes no part until it has said that it is there."""
        usable = sort_replies(self._round, replies, self._weights, kind, averages)
        self._roster.doubt(self._round.lost)
        self._participants = [one for one in self._participants if one.node_id not in self._round.lost]
        return usable

    def _hopeless(self, nodes: Sequence[int]) -> bool:
        """A client whose session has ended early answers with an error, or not at all: it waits this long itself."""
        return self._round.hopeless(nodes, 2 * self.config.wire.step_timeout_s)

    def _evaluate_now(self, current: RoundPlan | None) -> None:
        """Evaluate outside of Flower's loop."""
        if current:
            self._record.begin_round()
            self._score(current, self._evaluate(self._ask_for_scores(current, evaluators(self._participants))))

    def _ask_for_scores(self, current: RoundPlan, chosen: Sequence[Participant]) -> list[Message]:
        self._round, messages = self._opener.evaluate(current, chosen, self._weights)
        return messages

    def _score(self, current: RoundPlan, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the scores; where a task has none, ask the next client that holds the same images."""
        opened, usable = self._round, self._sort(replies, SCORES)
        while others := substitutes(self._participants, opened.sessions, {one.participant.task for one in usable}):
            logger.warning("asked for scores instead: %s", ", ".join(one.client for one in others))
            messages = self._ask_for_scores(current, others)
            usable += self._sort(self._evaluate(messages), SCORES)
            opened.absorb(self._round)
        self._opener.service.end_round()
        if opened.sessions and not usable:
            raise QuorumError(
                "scores from at least one client", "none", f"evaluation after {current.phase}",
                "; ".join(opened.problems) + "; run again with resume=true when they are back",
            )  # fmt: skip
        psnr_db = self._record.scored(current, opened, usable)
        return MetricRecord({f"{task}-psnr-db": value for task, value in psnr_db.items()}) if usable else None
