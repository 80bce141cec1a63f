"""What a run will cost: steps, arithmetic and bytes, computed from the configuration before anything is trained."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tavit_flwr.config import TavitConfig
from tavit_flwr.config.counts import places
from tavit_flwr.restoration import window_count
from tavit_flwr.server.enrolment import Participant
from tavit_flwr.server.initial import preset_of, step_shape
from tavit_flwr.server.part_costs import part_costs
from tavit_flwr.server.schedule import RoundPlan, plan
from tavit_flwr.server.scored_images import PHOTOGRAPH, ScoredImages, scored_images
from tavit_flwr.server.selection import evaluators, select
from tavit_flwr.split.phases import PHASES, Phase
from tavit_flwr.wire.dtypes import packed_bytes
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.records import Enrolment

_FLOAT32 = 4
#: A round and who takes part in it.
_Round = tuple[RoundPlan, list[Participant]]


@dataclass(frozen=True)
class Cost:
    """What a run will cost if every client that it names takes part in every round.

    Attributes
    ----------
    rounds, client_steps, crops : int
        Over the whole run; a client-step is one batch of one client.
    client_flop, server_flop : int
        Arithmetic of training.
    bytes_up, bytes_down : int
        Tensors of the cut in training, in the types of the wire, without the headers of their frames and uncompressed.
    weight_bytes : int
        Heads and tails in Flower messages, both ways, each version once to each client, without headers.
    evaluations : int
        How often held-out images are restored.
    image_windows : int
        Windows of one image of `PHOTOGRAPH`'s size.
    image_flop, image_bytes : int
        Arithmetic, and tensors of the cut both ways, to restore it once.
    scored : tuple of ScoredImages
        What each evaluation restores, as far as that is known.
    unknown : tuple of str
        Tasks of which it is not.
    """

    rounds: int
    client_steps: int
    crops: int
    client_flop: int
    server_flop: int
    bytes_up: int
    bytes_down: int
    weight_bytes: int
    evaluations: int
    image_windows: int
    image_flop: int
    image_bytes: int
    scored: tuple[ScoredImages, ...]
    unknown: tuple[str, ...]

    @property
    def evaluation_windows(self) -> int:
        """Windows of all evaluations together, without those of unknown tasks."""
        return self.evaluations * sum(one.windows for one in self.scored)

    @property
    def evaluation_flop(self) -> int:
        """Arithmetic of all evaluations."""
        return self.evaluation_windows * self.image_flop // self.image_windows

    @property
    def evaluation_bytes(self) -> int:
        """Tensors of the cut of all evaluations, both ways."""
        return self.evaluation_windows * self.image_bytes // self.image_windows

    def lines(self) -> list[str]:
        """As people read it."""
        width, height = PHOTOGRAPH
        images = ", ".join(f"{one.task} {one.count:,} {one.note}".strip() for one in self.scored) or "unknown"
        unknown = f"; besides what is not known here: {', '.join(self.unknown)}" if self.unknown else ""
        return [
            f"{self.rounds:,} rounds, {self.client_steps:,} client-steps, {self.crops:,} crops",
            f"arithmetic of training: {_flop(self.client_flop)} on clients, {_flop(self.server_flop)} on the server",
            f"over the wire in training: {_bytes(self.bytes_up)} up, {_bytes(self.bytes_down)} down; "
            f"weights in messages: {_bytes(self.weight_bytes)}",
            f"an image of {width}x{height} in an evaluation: "
            f"{self.image_windows:,} windows, {_flop(self.image_flop)}, {_bytes(self.image_bytes)}",
            f"evaluation: {self.evaluations:,} times the images of {images}; in all {self.evaluation_windows:,} "
            f"windows, {_flop(self.evaluation_flop)}, {_bytes(self.evaluation_bytes)} over the wire{unknown}",
        ]


def estimate(config: TavitConfig) -> Cost:
    """Compute a run's cost; trains nothing, lists held-out images.

    A backward pass is counted as one forward pass for a part's input and one for its weights, as is usual. Of a frozen
    head neither is computed, of a frozen tail or body only the first.
    """
    head, body, tail = part_costs(preset_of(config), config.data.crop)
    shape = step_shape(config)
    batch = shape[0]
    part_bytes, body_bytes = (head.parameters + tail.parameters) * _FLOAT32, body.parameters * _FLOAT32
    rounds = simulated_rounds(config)
    evaluations = int(config.schedule.evaluate_first) + sum(one.ends_phase for one, _ in rounds)
    steps = client_flop = server_flop = up = down = 0
    for one, chosen in rounds:
        phase, count = PHASES[one.phase], one.steps * len(chosen)
        steps += count
        client_flop += count * batch * (_head_passes(phase) * head.flop + _passes(phase.client_moves) * tail.flop)
        of_body = count * batch * _passes(phase.body_moves) * body.flop
        if config.schedule.lend_body and not phase.body_moves:
            client_flop += of_body
            continue
        server_flop += of_body
        limits = Limits.of(config.wire, one.phase)
        up += count * 2 * packed_bytes(shape, limits.up)
        down += count * (2 if phase.client_moves else 1) * packed_bytes(shape, limits.down)
    client_flop -= _kept_passes(config, rounds) * batch * head.flop
    journeys = _journeys(config, rounds, evaluators(_simulated(config)))
    weights = journeys * part_bytes + _loans(config, rounds) * body_bytes
    limits = Limits.of(config.wire, "evaluate")
    window_bytes = sum(packed_bytes((1, *shape[1:]), one) for one in (limits.up, limits.down))
    windows = window_count(*PHOTOGRAPH, config.data.crop, config.evaluation.stride)
    scored = scored_images(config)
    known = {one.task for one in scored}
    return Cost(
        rounds=len(rounds), client_steps=steps, crops=steps * batch, client_flop=client_flop, server_flop=server_flop,
        bytes_up=up, bytes_down=down, weight_bytes=weights,
        evaluations=evaluations, image_windows=windows,
        image_flop=windows * (head.flop + body.flop + tail.flop), image_bytes=windows * window_bytes,
        scored=tuple(scored), unknown=tuple(task for task in config.tasks if task not in known),
    )  # fmt: skip


def simulated_rounds(config: TavitConfig) -> list[_Round]:
    """All rounds of a run, each with those who take part."""
    everyone = _simulated(config)
    return [(one, select(everyone, one, 0, config)) for one in plan(config.schedule)]


def _simulated(config: TavitConfig) -> list[Participant]:
    """Who enrols where as many nodes are simulated as there are clients, and all images are at hand."""
    return [
        Participant(
            node, Enrolment(f"p{node:04d}", task := config.clients[index], config.tasks[task].body, 1, 1, True)
        )
        for node, index in enumerate(places(config.clients))
    ]  # fmt: skip


def _journeys(config: TavitConfig, rounds: Sequence[_Round], evaluating: Sequence[Participant]) -> int:
    """How often a head and tail travel: down where a client does not have that version, up where they moved."""
    versions, held, count = Counter[str](), dict[str, int](), 0

    def send(to: Sequence[Participant]) -> None:
        nonlocal count
        for one in to:
            count += held.get(one.client) != versions[one.task]
            held[one.client] = versions[one.task]

    if config.schedule.evaluate_first:
        send(evaluating)
    for each, chosen in rounds:
        send(chosen)
        if PHASES[each.phase].client_moves:
            count += len(chosen)
            tasks = Counter(one.task for one in chosen)
            versions.update(tasks.keys())
            held |= {one.client: versions[one.task] for one in chosen if tasks[one.task] == 1}
        if each.ends_phase:
            send(evaluating)
    return count


def _loans(config: TavitConfig, rounds: Sequence[_Round]) -> int:
    """How often a body is lent: each version once to each client that takes part while it is frozen."""
    version, lent = 0, set[tuple[str, int]]()
    for each, chosen in rounds if config.schedule.lend_body else ():
        if PHASES[each.phase].body_moves:
            version += 1
        else:
            lent |= {(one.client, version) for one in chosen}
    return len(lent)


def _kept_passes(config: TavitConfig, rounds: Sequence[_Round]) -> int:
    """Client-steps that find the pass of their frozen head, as their batch has come since heads moved last."""
    period = math.lcm(config.data.fixed_batches, config.wire.minibatches_per_message)
    moved, steps, computed = 0, Counter[tuple[str, int, int]](), Counter[tuple[str, int, int]]()
    for each, chosen in rounds if period else ():
        if PHASES[each.phase].client_moves:
            moved += 1
        else:
            phases = [(one.client, each.cycle, moved) for one in chosen]
            steps.update(dict.fromkeys(phases, each.steps))
            computed |= dict.fromkeys(phases, min(each.steps, period))
    return steps.total() - computed.total()


def _passes(moves: bool) -> int:
    """Count the forward passes that a step of tail or body is worth: forward, backward to the input, to the weights."""
    return 3 if moves else 2


def _head_passes(phase: Phase) -> int:
    return 3 if phase.client_moves else 1


def _flop(amount: float) -> str:
    return _scaled(amount, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def _bytes(amount: float) -> str:
    return _scaled(amount, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _scaled(amount: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    while amount >= base and power + 1 < len(units):
        amount, power = amount / base, power + 1
    return f"{amount:.3g} {units[power]}" if amount < 1000 else f"{amount:,.0f} {units[power]}"
