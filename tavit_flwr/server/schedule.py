"""The schedule: cycles of phases of rounds, flattened into one plan per Flower round."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tavit_flwr.config import ScheduleConfig


@dataclass(frozen=True)
class RoundPlan:
    """One Flower round.

    Attributes
    ----------
    index : int
        From 1, over the whole run; also the version of clients' moments.
    cycle : int
        From 1.
    phase : str
        Kind of phase.
    round : int
        From 1, within the cycle's phases of this kind.
    steps : int
        Steps of each session.
    ends_phase : bool
        Federated evaluation follows.
    half_cycle : float
        Place on the paper's axis at the end of the phase: 0.5, 1.0, 1.5, ... with two phases a cycle.
    progress : float
        Share of the run's steps that earlier rounds have done, in ``[0, 1)``.
    turn : int
        How many rounds of this kind came before, in the whole run.
    """

    index: int
    cycle: int
    phase: str
    round: int
    steps: int
    ends_phase: bool
    half_cycle: float
    progress: float = 0.0
    turn: int = 0


def plan(schedule: ScheduleConfig) -> list[RoundPlan]:
    """Every round of a run, in order."""
    rounds: list[RoundPlan] = []
    total = schedule.cycles * sum(phase.rounds * phase.steps for phase in schedule.phases)
    done = 0
    for cycle in range(1, schedule.cycles + 1):
        before: Counter[str] = Counter()  # so that two phases of one kind do not draw the same batches
        for position, phase in enumerate(schedule.phases, start=1):
            for number in range(1, phase.rounds + 1):
                rounds.append(
                    RoundPlan(
                        index=len(rounds) + 1,
                        cycle=cycle,
                        phase=phase.kind,
                        round=before[phase.kind] + number,
                        steps=phase.steps,
                        ends_phase=number == phase.rounds,
                        half_cycle=cycle - 1 + position / len(schedule.phases),
                        progress=done / total,
                        turn=sum(one.phase == phase.kind for one in rounds),
                    )
                )
                done += phase.steps
            before[phase.kind] += phase.rounds
    return rounds
