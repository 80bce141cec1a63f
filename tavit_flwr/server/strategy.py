"""`TAViT`: the Flower strategy that coordinates split learning with one shared body per data domain."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from tavit_flwr.config import TavitConfig, to_dict, to_json
from tavit_flwr.errors import ConfigError, QuorumError
from tavit_flwr.server.aggregation import Weights, average
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.checkpoint import Checkpoint, RunState, save
from tavit_flwr.server.cost import estimate
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.server.initial import build_hosts, load_weights, step_shape
from tavit_flwr.server.replies import FROZEN, MOVED, SCORES, Reply, ReplyKind, check_quorum, sort_replies
from tavit_flwr.server.report import Report
from tavit_flwr.server.roster import Roster
from tavit_flwr.server.rounds import Round, RoundOpener
from tavit_flwr.server.schedule import RoundPlan, plan
from tavit_flwr.server.selection import check_cohort, select
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

    Raises
    ------
    ConfigError
        When the output folder is not absolute.
    """

    def __init__(self, config: TavitConfig, output_dir: Path, resume_from: Checkpoint | None = None) -> None:
        if not output_dir.is_absolute():
            raise ConfigError("an absolute folder", repr(str(output_dir)), "configuration key 'output_dir'")
        self.config = config
        self.plans = plan(config.schedule)
        self.state = resume_from.state if resume_from else RunState(uuid.uuid4().hex, 0, to_dict(config))
        self._start = self.state.round
        self._output_dir = output_dir
        self._report = Report(output_dir, self.state.history, self.state.totals)
        self._hosts = build_hosts(config, resume_from.moments if resume_from else {})
        self._participants: list[Participant] = []
        self._cohort = 0
        self._round = Round()
        self._round_began = 0.0
        self._clock = 0.0
        self._weights: Weights
        self._opener: RoundOpener
        self._roster: Roster

    def summary(self) -> None:
        """Log what is about to run."""
        schedule = ", ".join(f"{one.kind} {one.rounds}x{one.steps} steps" for one in self.config.schedule.phases)
        logger.info(
            "\t├── experiment '%s', preset '%s', seed %s", self.config.name, self.config.model.preset, self.config.seed
        )
        logger.info("\t├── %s cycles of: %s", self.config.schedule.cycles, schedule)
        for line in estimate(self.config).lines():
            logger.info("\t├── %s", line)
        logger.info("\t├── rounds: %s of %s already done", self._start, len(self.plans))
        logger.info("\t└── outputs: %s", self._output_dir)

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
            At most this many rounds; the schedule's remaining ones by default.
        timeout : float, optional
            Deadline of a round's replies, seconds; ``federation.round_timeout_s`` by default.

        Raises
        ------
        QuorumError
            When too few nodes enrol, or too few replies of a round can be used.
        ConfigError
            When the cohort cannot run at once and ``federation.cohort=all``.
        """
        remaining = len(self.plans) - self._start
        rounds = remaining if num_rounds is None else min(num_rounds, remaining)
        timeout_s = self.config.federation.round_timeout_s if timeout is None else timeout
        self._weights = Weights.from_arrays(initial_arrays)
        load_weights(self._hosts, self._weights, self.config)
        self._clock = time.monotonic()
        with BodyService(self.config.wire, self.config.compute.server_threads) as service:
            self._opener = RoundOpener(
                service, self._hosts, self.config, to_json(self.config), self.state.run_key, step_shape(self.config)
            )
            logger.info("body service at %s, %s", service.address, "TLS" if service.certificate else "NO TLS")
            if service.certificate is None:
                logger.warning("wire.insecure: tokens, features and gradients travel readable; anyone may listen in")
            patient = PatientGrid(grid, self._hopeless)
            self._roster = Roster(patient, self.config)
            self._take_in(self._roster.gather())
            if self.config.schedule.evaluate_first and self._start == 0:
                self._evaluate_first(patient, timeout_s)
            result = super().start(
                patient, initial_arrays, rounds, timeout_s, train_config, evaluate_config, evaluate_fn
            )
        self._count_wall()
        self._report.results(to_dict(self.config), self.state.round)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose the round's clients, open their sessions and write their orders."""
        current = self._plan(server_round)
        self._take_in(self._roster.refresh())
        chosen = select(self._participants, current, self._cohort, self.config)
        self._round_began = time.monotonic()
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
        """Average heads and tails task by task, and take the bodies over from the service.

        Raises
        ------
        QuorumError
            When fewer than ``federation.quorum`` of the round's clients gave a usable reply.
        """
        current = self._plan(server_round)
        phase = PHASES[current.phase]
        usable = self._sort(replies, MOVED if phase.client_moves else FROZEN)
        self._opener.service.end_round()
        check_quorum(self._round, usable, self.config.federation.quorum, current)
        returned = [reply.weights for reply in usable if reply.weights is not None]
        for task, (head, tail) in average(returned, self.config.federation.average).items():
            self._weights.heads[task], self._weights.tails[task] = head, tail
        for reply in usable if phase.client_moves else ():
            self.state.versions[reply.participant.client] = current.index
        if phase.body_moves:
            self._weights.bodies = {name: host.state() for name, host in self._hosts.items()}
        self._report.training(current, self._round, usable, time.monotonic() - self._round_began)
        return self._weights.to_arrays(), MetricRecord({"steps": sum(reply.metrics["steps"] for reply in usable)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """After every phase, ask all clients to restore their held-out images."""
        current = self._plan(server_round)
        if not current.ends_phase:
            self._round = Round()
            return []
        pictures = self.config.evaluation.pictures and current.index == len(self.plans)
        self._round, messages = self._opener.evaluate(current, self._participants, self._weights, pictures=pictures)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the clients' scores task by task, and write the round's checkpoint."""
        current = self._plan(server_round)
        self.state.round = current.index
        try:
            return self._score(current, replies)
        finally:  # the round's training is done, whatever became of its evaluation
            self._count_wall()
            moments = {name: host.moments() for name, host in self._hosts.items()}
            checkpoint = Checkpoint(self.state, self._weights.flat(), moments)
            save(self._output_dir / "checkpoints", checkpoint, self.config.keep_checkpoints)

    def _plan(self, server_round: int) -> RoundPlan:
        return self.plans[self._start + server_round - 1]

    def _take_in(self, participants: list[Participant]) -> None:
        if participants != self._participants:
            self._cohort = check_cohort(participants, self.config)
        self._participants = participants

    def _sort(self, replies: Iterable[Message], kind: ReplyKind) -> list[Reply]:
        """Sort replies; who did not answer for itself takes no part until it has said that it is there."""
        usable = sort_replies(self._round, replies, self._weights, kind)
        self._roster.doubt(self._round.lost)
        self._participants = [one for one in self._participants if one.node_id not in self._round.lost]
        return usable

    def _hopeless(self, nodes: Sequence[int]) -> bool:
        """A client whose session has ended early answers with an error, or not at all: it waits this long itself."""
        return self._round.hopeless(nodes, 2 * self.config.wire.step_timeout_s)

    def _evaluate_first(self, grid: Grid, timeout_s: float) -> None:
        before = RoundPlan(0, 0, "before training", 0, 0, True, 0.0)
        self._round, messages = self._opener.evaluate(before, self._participants, self._weights, pictures=False)
        self._score(before, grid.send_and_receive(messages, timeout=timeout_s))

    def _score(self, current: RoundPlan, replies: Iterable[Message]) -> MetricRecord | None:
        usable = self._sort(replies, SCORES)
        if not self._round.sessions:
            return None
        self._opener.service.end_round()
        if not usable:
            raise QuorumError(
                "scores from at least one client", "none", f"evaluation after {current.phase}",
                "; ".join(self._round.problems),
            )  # fmt: skip
        psnr_db = self._report.evaluation(current, self._round, usable)
        return MetricRecord({f"{task}-psnr-db": value for task, value in psnr_db.items()})

    def _count_wall(self) -> None:
        now = time.monotonic()
        self._report.count({"wall_s": now - self._clock})
        self._clock = now
