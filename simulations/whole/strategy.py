"""Flower's own strategies, one for each task, under the schedule and the records of the split runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, FedProx, Result, Strategy

from simulations.whole.weights import put, whole_model
from tavit_flwr.config import MESSAGES, TavitConfig, to_json
from tavit_flwr.data import labels_of
from tavit_flwr.errors import ConfigError, QuorumError
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.checkpoint import Checkpoint
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.server.record import FindPictures, RunRecord
from tavit_flwr.server.replies import Reply
from tavit_flwr.server.roster import Roster
from tavit_flwr.server.rounds import Round
from tavit_flwr.server.schedule import RoundPlan, plan
from tavit_flwr.server.selection import evaluators
from tavit_flwr.wire.probe import Probe
from tavit_flwr.wire.records import ARRAYS, CONFIG, METRICS, Order
from tavit_flwr.wire.weights import arrays_bytes

logger = logging.getLogger("flwr")


def flowers_own(config: TavitConfig) -> FedAvg:
    """Flower's strategy that ``federation.strategy`` names, for all clients of one task."""
    least = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    if config.federation.strategy == "fedprox":
        return FedProx(proximal_mu=config.federation.proximal_mu, **least)  # type: ignore[arg-type]
    return FedAvg(**least)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Nodes:
    """The part of a grid that FedAvg looks at when it chooses nodes."""

    nodes: Sequence[int]

    def get_node_ids(self) -> Sequence[int]:
        return self.nodes


class WholeModels(Strategy):
    """Average head, body and tail among the clients of each task, and of no two tasks.

    Parameters
    ----------
    config : TavitConfig
        With ``body_per_task`` and joint phases only; its rounds and steps are those of the split runs.
    output_dir : Path
        Gets metrics, results and checkpoints, as of a split run.
    resume_from : Checkpoint, optional
        Of a stopped run.
    pictures : FindPictures, optional
        Where they lie on this machine, to be put into the page.

    Raises
    ------
    ConfigError
        When the configuration means something that whole models do not have.
    """

    def __init__(
        self,
        config: TavitConfig,
        output_dir: Path,
        resume_from: Checkpoint | None = None,
        pictures: FindPictures | None = None,
    ) -> None:
        kinds = sorted({phase.kind for phase in config.schedule.phases})
        for holds, expected, received in (
            (config.federation.strategy != "tavit", "federation.strategy=fedavg or fedprox", "tavit"),
            (config.body_per_task, "body_per_task=true", "false"),
            (kinds == ["joint"], "schedule.every_phase=joint", f"phases {kinds}"),
            (config.federation.fraction == 1, "federation.fraction=1", f"{config.federation.fraction}"),
        ):
            if not holds:
                raise ConfigError(expected, received, "whole models", "begin with experiment=fedavg")
        config.wire.carrier = MESSAGES  # there is no body service that clients would have to reach
        self.config = config
        self.plans = plan(config.schedule)
        self._averaging = {task: flowers_own(config) for task in config.tasks}
        self._record = RunRecord(config, output_dir, resume_from, pictures)
        self._participants: list[Participant] = []
        self._round = Round()
        self._weights: Weights

    def summary(self) -> None:
        """Log what is about to run."""
        logger.info("\t├── whole models, %s for each of %s", self.config.federation.strategy, list(self._averaging))
        logger.info("\t└── rounds: %s of %s already done", self._record.start, len(self.plans))

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
        """Run what is left of the schedule; parameters as in Flower's `Strategy.start`."""
        remaining = len(self.plans) - self._record.start
        rounds = remaining if num_rounds is None else min(num_rounds, remaining)
        timeout_s = self.config.federation.round_timeout_s if timeout is None else timeout
        self._weights = Weights.from_arrays(initial_arrays)
        with self._record:
            self._participants = Roster(grid, self.config, Probe("", b"", "")).gather()
            self._record.state.participants |= {one.client: one.task for one in self._participants}
            self._record.open(grid)
            if (pending := self._record.pending(self.plans)) is not None:
                self._score(pending, grid.send_and_receive(self._ask_for_scores(pending), timeout=timeout_s))
            result = super().start(grid, initial_arrays, rounds, timeout_s, train_config, evaluate_config, evaluate_fn)
            self._record.finish()
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let each task's strategy of Flower's write the messages to that task's clients."""
        current = self._plan(server_round)
        self._record.begin_round()
        self._round = Round()
        messages: list[Message] = []
        for task, strategy in self._averaging.items():
            nodes = [one.node_id for one in self._participants if one.task == task]
            if nodes:
                order = self._order(current, current.phase).to_record()
                model = whole_model(self._weights, task)
                messages += strategy.configure_train(server_round, model, order, cast("Grid", _Nodes(nodes)))
        return self._sent(messages)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let each task's strategy of Flower's average that task's replies; record the round.

        Raises
        ------
        QuorumError
            When nobody of a task answered with a model.
        ProtocolError
            When an average is not finite; the checkpoint before is whole.
        """
        current = self._plan(server_round)
        answers = self._answers(replies)
        for task, strategy in self._averaging.items():
            own = [message for one, message in answers if one.task == task]
            if not own and any(one.task == task for one in self._participants):
                raise QuorumError(
                    "a model from a client of each task", f"none of {task}", "; ".join(self._round.problems)
                )
            if own:
                self._round.bytes_up += sum(arrays_bytes(one.content.array_records[ARRAYS]) for one in own)
                put(self._weights, task, strategy.aggregate_train(server_round, own)[0])
        usable = self._usable(answers)
        self._record.state.versions |= {one.client: current.index for one, _ in answers}
        self._record.trained(current, self._round, usable, self._weights, {})
        return self._weights.to_arrays(), MetricRecord({"steps": sum(one.metrics["steps"] for one in usable)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """After every phase, ask clients to restore their held-out images."""
        current = self._plan(server_round)
        return self._ask_for_scores(current) if current.ends_phase else []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the scores task by task, as in a split run."""
        current = self._plan(server_round)
        return self._score(current, replies) if current.ends_phase else None

    def _plan(self, server_round: int) -> RoundPlan:
        return self.plans[self._record.start + server_round - 1]

    def _order(self, current: RoundPlan, phase: str) -> Order:
        return Order(
            config=to_json(self.config), run_key=self._record.state.run_key, address="", token="", certificate_pem=b"",
            carrier=MESSAGES, phase=phase, cycle=current.cycle, round=current.round, steps=current.steps,
            version=max(self._record.state.versions.values(), default=0), next_version=current.index,
            pictures=self.config.evaluation.pictures, progress=current.progress,
        )  # fmt: skip

    def _ask_for_scores(self, current: RoundPlan) -> list[Message]:
        self._round = Round(labels={task: labels_of(self.config, task) for task in self.config.tasks})
        self._record.begin_round()
        order = self._order(current, "evaluate").to_record()
        messages = []
        for one in evaluators(self._participants):
            content: Any = RecordDict({ARRAYS: whole_model(self._weights, one.task), CONFIG: order})
            messages.append(Message(content=content, message_type=MessageType.EVALUATE, dst_node_id=one.node_id))
        return self._sent(messages)

    def _sent(self, messages: list[Message]) -> list[Message]:
        self._round.bytes_down += sum(arrays_bytes(one.content.array_records[ARRAYS]) for one in messages)
        self._round.messages = messages
        return messages

    def _score(self, current: RoundPlan, replies: Iterable[Message]) -> MetricRecord | None:
        psnr_db = self._record.scored(current, self._round, self._usable(self._answers(replies)))
        return MetricRecord({f"{task}-psnr-db": value for task, value in psnr_db.items()}) if psnr_db else None

    def _answers(self, replies: Iterable[Message]) -> list[tuple[Participant, Message]]:
        """Replies with content, in the order of the clients' names, so that sums do not depend on who was first."""
        came = {message.metadata.src_node_id: message for message in replies}
        asked = {message.metadata.dst_node_id for message in self._round.messages}
        answers = []
        for one in sorted(self._participants, key=lambda one: one.client):
            message = came.get(one.node_id)
            if message is not None and not message.has_error():
                answers.append((one, message))
            elif one.node_id in asked:
                reason = "no reply before the deadline" if message is None else message.error.reason
                self._round.failed.add(one.client)
                self._round.problems.append(f"node {one.node_id}, client {one.client}: {reason}")
                logger.warning("left out: %s", self._round.problems[-1])
        return answers

    def _usable(self, answers: Sequence[tuple[Participant, Message]]) -> list[Reply]:
        numbers = [(one, message.content.metric_records[METRICS]) for one, message in answers]
        return [Reply(one, {key: float(str(value)) for key, value in its.items()}) for one, its in numbers]
