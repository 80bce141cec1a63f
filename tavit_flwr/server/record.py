"""What a run leaves on disk: metric lines, results, and a checkpoint after each round."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from flwr.serverapp import Grid

from tavit_flwr.config import TavitConfig, to_dict
from tavit_flwr.files import write_whole
from tavit_flwr.server.aggregation import Weights
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.checkpoint import Checkpoint, RunState, save, save_state, set_aside
from tavit_flwr.server.cost import estimate
from tavit_flwr.server.output_folder import claimed
from tavit_flwr.server.page import Picture, read_pictures, render, stop_page
from tavit_flwr.server.provenance import now, provenance
from tavit_flwr.server.replies import Reply
from tavit_flwr.server.report import Report
from tavit_flwr.server.rounds import Round
from tavit_flwr.server.schedule import RoundPlan, plan

logger = logging.getLogger("flwr")

#: Finds the pictures that clients of a run, named by its key, leave on this machine.
FindPictures = Callable[[str], Sequence[Path]]


class RunRecord:
    """Keeps a run's state, in memory and in its output folder.

    A context: it keeps other runs out of the folder, counts the run's seconds and closes its files.

    Parameters
    ----------
    config : TavitConfig
        The experiment.
    output_dir : Path
        Gets everything.
    resume_from : Checkpoint, optional
        Whose state is continued.
    pictures : FindPictures, optional
        They are put into the page.

    Attributes
    ----------
    state : RunState
        Grows with the run.
    resumed : bool
        Whether another process began it.
    start : int
        Rounds that were done before.
    """

    def __init__(
        self,
        config: TavitConfig,
        output_dir: Path,
        resume_from: Checkpoint | None,
        pictures: FindPictures | None = None,
    ) -> None:
        self._config = config
        self.state = resume_from.state if resume_from else RunState(uuid.uuid4().hex, 0, to_dict(config))
        self.resumed = resume_from is not None
        self.start = self.state.round
        self._folder = output_dir
        self._held = ExitStack()
        self._checkpoints = output_dir / "checkpoints"
        self._page = output_dir / "report.html"
        self._find_pictures = pictures
        self._pictures: list[Picture] = []
        self._opened = False
        self._report = Report(output_dir, self.state.history, self.state.totals, tensorboard=config.tensorboard)
        self._clock = time.monotonic()
        self._round_began = 0.0

    def __enter__(self) -> Self:
        self._held.enter_context(claimed(self._folder))
        self._clock = time.monotonic()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._report.close()
        if error is not None and self._opened:
            with suppress(OSError):
                stop_page(self._page, f"{type(error).__name__}: {error}")
        self._held.close()

    def summary(self, rounds: int) -> None:
        """Log what is about to run, of so many rounds."""
        config = self._config
        schedule = ", ".join(f"{one.kind} {one.rounds}x{one.steps} steps" for one in config.schedule.phases)
        logger.info("\t├── experiment '%s', preset '%s', seed %s", config.name, config.model.preset, config.seed)
        logger.info("\t├── %s cycles of: %s", config.schedule.cycles, schedule)
        for line in estimate(config).lines():
            logger.info("\t├── %s", line)
        logger.info("\t├── rounds: %s of %s already done", self.start, rounds)
        logger.info("\t└── outputs: %s", self._folder)

    def open(self, grid: Grid) -> None:
        """Begin the files, when it is known that the run can begin; a new run sets earlier checkpoints aside."""
        aside = None if self.resumed else set_aside(self._checkpoints)
        if aside:
            logger.warning("checkpoints of an earlier run are now in %s", aside)
        self._report.open(_accepted(grid))
        made, self._opened = provenance(grid), True
        if self.state.provenance:
            self.state.provenance["resumed"] = f"{now()}, run {made.get('run', 'of another grid')}"
        else:
            self.state.provenance.update(made)
        self._look_for_pictures()
        self._write_page(final=False)

    def pending(self, plans: Sequence[RoundPlan]) -> RoundPlan | None:
        """What to evaluate before the first round: the weights drawn, or what a stopped run had trained last."""
        if self.start == 0 and self._config.schedule.evaluate_first:
            return RoundPlan(0, 0, "before training", 0, 0, True, 0.0)
        return plans[self.start - 1] if self.start and not self.state.evaluated else None

    def unfinished(self, plans: Sequence[RoundPlan]) -> RoundPlan | None:
        """The last round, when it lies inside a phase, so that nothing has evaluated it."""
        last = plans[self.state.round - 1] if self.state.round else None
        return last if last and not last.ends_phase else None

    def begin_round(self) -> None:
        """Note when the orders of a round or an evaluation are written."""
        self._round_began = time.monotonic()

    def trained(
        self,
        current: RoundPlan,
        opened: Round,
        usable: Sequence[Reply],
        weights: Weights,
        hosts: Mapping[str, BodyHost],
    ) -> None:
        """Report a round of training and write its checkpoint; its evaluation, if it has one, is still to come."""
        self._report.training(current, opened, usable, time.monotonic() - self._round_began)
        self.state.round, self.state.evaluated = current.index, not current.ends_phase
        self._count_wall()
        moments = {name: host.moments() for name, host in hosts.items()}
        save(self._checkpoints, Checkpoint(self.state, weights.flat(), moments), self._config.keep_checkpoints)
        self._write_page(final=False)

    def scored(self, current: RoundPlan, opened: Round, usable: Sequence[Reply]) -> dict[str, float]:
        """Report an evaluation, and give each task's PSNR in dB.

        It is added to its round's checkpoint, but for one inside a phase, which a resumed run must not know of.
        """
        psnr_db = self._report.evaluation(current, opened, usable, time.monotonic() - self._round_began)
        self.state.evaluated = True
        self._count_wall()
        if current.index and current.ends_phase:
            save_state(self._checkpoints, self.state)
        self._look_for_pictures()
        self._write_page(final=False)
        return psnr_db

    def finish(self) -> None:
        """Write the results."""
        self._count_wall()
        about = {name: getattr(self.state, name) for name in ("run_key", "participants", "provenance")}
        self._report.results({"rounds": self.state.round, "config": to_dict(self._config), **about})
        self._write_page(final=True)

    def _look_for_pictures(self) -> None:
        """Read the pictures that are there; a run does not end for want of them."""
        try:
            if self._find_pictures is not None:
                self._pictures = read_pictures(self._find_pictures(self.state.run_key))
        except OSError as error:
            logger.warning("no pictures on the page: %s", error)

    def _write_page(self, *, final: bool) -> None:
        """Write ``report.html`` anew; a run does not end for want of it."""
        state = self.state
        page = render(
            state.history, to_dict(self._config), rounds=state.round, rounds_planned=len(plan(self._config.schedule)),
            final=final, pictures=self._pictures, participants=state.participants, provenance=state.provenance,
        )  # fmt: skip
        try:
            write_whole(self._page, lambda beside: beside.write_text(page))
        except OSError as error:
            logger.warning("no page at %s: %s", self._page, error)

    def _count_wall(self) -> None:
        now = time.monotonic()
        self._report.count({"wall_s": now - self._clock})
        self._clock = now


def _accepted(grid: Grid) -> float:
    """Unix time at which Flower took the run; 0 where the grid does not tell."""
    try:
        return datetime.fromisoformat(grid.run.pending_at).timestamp()
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return 0.0
