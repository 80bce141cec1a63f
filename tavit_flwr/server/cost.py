"""What a run will cost: steps, arithmetic and bytes, computed from the configuration before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tavit_flwr.config import TavitConfig
from tavit_flwr.restoration import window_count
from tavit_flwr.server.initial import preset_of, step_shape
from tavit_flwr.server.part_costs import part_costs
from tavit_flwr.server.schedule import RoundPlan, plan
from tavit_flwr.server.scored_images import PHOTOGRAPH, ScoredImages, scored_images
from tavit_flwr.server.selection import sample_size
from tavit_flwr.split.phases import PHASES, Phase
from tavit_flwr.wire.dtypes import packed_bytes
from tavit_flwr.wire.limits import Limits

_FLOAT32 = 4


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
    chosen = len(taking_part(config, 0))
    evaluations = int(config.schedule.evaluate_first) + sum(one.ends_phase for one in plan(config.schedule))
    steps = client_flop = server_flop = up = down = 0
    plans = plan(config.schedule)
    for one in plans:
        phase, count = PHASES[one.phase], one.steps * chosen
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
    weights = _journeys(config, plans) * part_bytes + _loans(config, plans) * body_bytes
    limits = Limits.of(config.wire, "evaluate")
    window_bytes = sum(packed_bytes((1, *shape[1:]), one) for one in (limits.up, limits.down))
    windows = window_count(*PHOTOGRAPH, config.data.crop, config.evaluation.stride)
    scored = scored_images(config)
    known = {one.task for one in scored}
    return Cost(
        rounds=len(plans), client_steps=steps, crops=steps * batch, client_flop=client_flop, server_flop=server_flop,
        bytes_up=up, bytes_down=down, weight_bytes=weights,
        evaluations=evaluations, image_windows=windows,
        image_flop=windows * (head.flop + body.flop + tail.flop), image_bytes=windows * window_bytes,
        scored=tuple(scored), unknown=tuple(task for task in config.tasks if task not in known),
    )  # fmt: skip


def taking_part(config: TavitConfig, turn: int) -> list[int]:
    """Clients of the round of that turn: as many as `selection.select` takes, in an order that is not its own."""
    groups: dict[str, list[int]] = {}
    for client, task in enumerate(config.clients):
        groups.setdefault(task if config.federation.by_task else "", []).append(client)
    chosen: list[int] = []
    for group in groups.values():
        count = sample_size(len(group), config.federation)
        chosen += [group[(turn * count + place) % len(group)] for place in range(count)]
    return chosen


def _journeys(config: TavitConfig, plans: Sequence[RoundPlan]) -> int:
    """How often a head and tail travel: down where a client does not have that version, up where they moved."""
    clients = list(enumerate(config.clients))
    versions, held = dict.fromkeys(config.clients, 0), dict.fromkeys(range(len(clients)), -1)
    count = 0

    def send(to: Sequence[tuple[int, str]]) -> None:
        nonlocal count
        for client, task in to:
            count += held[client] != versions[task]
            held[client] = versions[task]

    evaluators = list({task: (client, task) for client, task in reversed(clients)}.values())  # one for each task
    if config.schedule.evaluate_first:
        send(evaluators)
    for one in plans:
        chosen = [clients[client] for client in taking_part(config, one.turn)]
        send(chosen)
        if PHASES[one.phase].client_moves:
            count += len(chosen)
            tasks = Counter(task for _, task in chosen)
            for task in tasks:
                versions[task] += 1
            held |= {client: versions[task] for client, task in chosen if tasks[task] == 1}
        if one.ends_phase:
            send(evaluators)
    return count


def _loans(config: TavitConfig, plans: Sequence[RoundPlan]) -> int:
    """How often a body is lent: each version once to each client that takes part while it is frozen."""
    version, count, held = 0, 0, dict.fromkeys(range(len(config.clients)), -1)
    for one in plans if config.schedule.lend_body else ():
        if PHASES[one.phase].body_moves:
            version += 1
            continue
        for client in taking_part(config, one.turn):
            count += held[client] != version
            held[client] = version
    return count


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
