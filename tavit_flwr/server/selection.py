"""Who takes part in a round: seeded selection, cohorts that can run at once, and who evaluates."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache

from tavit_flwr.config import STREAM, FederationConfig, TavitConfig
from tavit_flwr.config.counts import places
from tavit_flwr.errors import ConfigError
from tavit_flwr.seeding import derive_seed
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.split.phases import PHASES

logger = logging.getLogger("flwr")


def check_cohort(participants: Sequence[Participant], config: TavitConfig) -> int:
    """Find how many clients can run at once, 0 for all of a round, and refuse or announce a cohort that is too large.

    Raises
    ------
    ConfigError
        When ``federation.cohort=all`` asks for more clients at once than there are slots, or more sessions are needed
        at once than ``wire.max_sessions`` allows.
    """
    size = sum(_sizes(_groups(participants, config.federation), config.federation).values())
    sessions = max(size, len(evaluators(participants)))
    slots = at_once(participants)
    if min(sessions, slots) > config.wire.max_sessions:
        raise ConfigError(
            f"at most {config.wire.max_sessions} sessions at once",
            f"{size} clients in a round, {len(evaluators(participants))} that evaluate",
            "configuration key 'wire.max_sessions'",
            f"set wire.max_sessions={min(sessions, slots)} or more, or sample fewer with federation.fraction",
        )  # fmt: skip
    limits = [participant.enrolment.slots for participant in participants if participant.enrolment.slots]
    together = any(PHASES[phase.kind].body_moves for phase in config.schedule.phases)
    streams = sum(participant.enrolment.carrier == STREAM for participant in participants)
    # those by messages need a slot in turn, and hold none
    needed = min(size, streams + (streams < len(participants)))
    if not limits or not together or needed <= min(limits):
        return 0
    hint = (
        f'--federation-config "num-supernodes={len(participants)} client-resources-num-cpus=1 '
        f'init-args-num-cpus={size}" lets all run at once'
    )
    if config.federation.cohort == "all":
        raise ConfigError(
            f"{size} clients at once in phases where the body moves", f"{min(limits)} slots", "federation.cohort=all",
            hint,
        )  # fmt: skip
    logger.warning(
        "only %s of %s clients can run at once: in phases where the body moves, they take turns by rounds; %s",
        min(limits), size, hint,
    )  # fmt: skip
    turns = config.schedule.cycles * sum(one.rounds for one in config.schedule.phases if PHASES[one.kind].body_moves)
    if turns * min(limits) < len(participants):
        logger.warning(
            "%s of %s clients never step a body in this run: more rounds of fewer steps give all of them a turn",
            len(participants) - turns * min(limits), len(participants),
        )  # fmt: skip
    return min(limits)


def select(participants: Sequence[Participant], plan: RoundPlan, cohort: int, config: TavitConfig) -> list[Participant]:
    """Choose who takes part in a round.

    Where not all can, rounds of one kind rotate through one seeded order over the whole run; in it every task comes
    once before any comes twice. With ``federation.by_task`` each task has an order of its own.

    Parameters
    ----------
    participants : sequence of Participant
        Those that are there; the order of the others stays when some come or go.
    plan : RoundPlan
        The round.
    cohort : int
        Most clients at once where the body moves; 0 for no limit.
    config : TavitConfig
        For ``federation.fraction``, ``min_clients`` and ``by_task``.

    Returns
    -------
    list of Participant
        Sorted by client name.
    """
    most = cohort if cohort and PHASES[plan.phase].body_moves else len(participants)
    groups = _groups(participants, config.federation)
    sizes = _sizes(groups, config.federation)
    if sum(sizes.values()) > most:
        groups, sizes = {"": list(participants)}, {"": most}
    chosen: list[Participant] = []
    for name, group in groups.items():
        order, count = _rotation(group, plan.phase, config.seed), sizes[name]
        start = plan.turn * count if count < len(order) else 0
        chosen += [order[(start + offset) % len(order)] for offset in range(count)]
    return sorted(chosen, key=lambda participant: participant.client)


def _groups(participants: Sequence[Participant], federation: FederationConfig) -> dict[str, list[Participant]]:
    """Those that are sampled together: all, or task by task."""
    groups: dict[str, list[Participant]] = {}
    for one in participants:
        groups.setdefault(one.task if federation.by_task else "", []).append(one)
    return groups


def _sizes(groups: Mapping[str, Sequence[Participant]], federation: FederationConfig) -> dict[str, int]:
    least, fraction = max(1, federation.min_clients), federation.fraction
    return {name: min(len(group), max(least, round(fraction * len(group)))) for name, group in groups.items()}


def _rotation(participants: Sequence[Participant], phase: str, seed: int) -> list[Participant]:
    return [participants[place] for place in _order(tuple((one.client, one.task) for one in participants), phase, seed)]


@lru_cache(maxsize=64)  # the same in each round, for as long as nobody comes or goes
def _order(clients: tuple[tuple[str, str], ...], phase: str, seed: int) -> tuple[int, ...]:
    """Order of clients and their tasks, drawn; every task once before any twice."""
    drawn = sorted(range(len(clients)), key=lambda place: derive_seed(seed, "select", phase, clients[place][0]))
    turns = places([clients[place][1] for place in drawn])
    return tuple(drawn[turn] for turn in turns)


def at_once(participants: Sequence[Participant]) -> int:
    """How many of these can be at work at once: all of them, or as many as there are slots where they run."""
    slots = [participant.enrolment.slots for participant in participants]
    return min(len(slots), *slots) if slots and all(slots) else len(slots)


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


def substitutes(
    participants: Sequence[Participant], asked: Container[int], scored: Container[str]
) -> list[Participant]:
    """For each task without scores, the next client that holds the same images and has not been asked."""
    others = [one for one in participants if one.enrolment.shared_held_out and one.enrolment.held_out_images]
    waiting = [one for one in others if one.node_id not in asked and one.task not in scored]
    return list({one.task: one for one in reversed(waiting)}.values())
