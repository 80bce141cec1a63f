"""Who takes part in a round: seeded selection, cohorts that can run at once, and who evaluates."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from tavit_flwr.config import TavitConfig
from tavit_flwr.errors import ConfigError
from tavit_flwr.seeding import generator
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.split.phases import PHASES

logger = logging.getLogger("flwr")


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
