"""The limit: the same model, batches and steps in one process on the same cores. No split needs less work."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from simulations.bench.record import cores
from tavit_flwr.config import TavitConfig, images_of
from tavit_flwr.data import BatchStream, load_client_data
from tavit_flwr.degrade import degradation
from tavit_flwr.errors import SessionError
from tavit_flwr.models import build_parts
from tavit_flwr.split.optimisers import build_optimiser
from tavit_flwr.split.phases import PHASES
from tavit_flwr.split.precision import set_precision
from tavit_flwr.split.unsplit import UnsplitClient, unsplit_step

PHASE_NAMES = ("task-specific", "task-agnostic")
_SHORT_S, _LONG_S = 0.2, 1.0


@dataclass(frozen=True)
class Cost:
    """Seconds a client-step: on the wall, and of all cores."""

    wall_s: float
    cpu_s: float


class UnsplitLoop:
    """The experiment's clients in this process, one after another; the body steps on the cohort's mean."""

    def __init__(self, config: TavitConfig) -> None:
        self._clients: list[UnsplitClient] = []
        self._streams: list[BatchStream] = []
        body = None
        for index, task in enumerate(config.clients):
            parts = build_parts(config.model.preset, seed=config.seed, **config.model.overrides)
            for part in (parts.head, parts.body, parts.tail):
                set_precision(part, config.compute.autocast)
            body = body or parts.body
            optimiser = build_optimiser([*parts.head.parameters(), *parts.tail.parameters()], config.optimiser.client)
            self._clients.append(UnsplitClient(task, parts.head, parts.tail, optimiser))
            where = images_of(config, task)
            images = load_client_data(
                source=where.source, folder=where.folder, evaluation_folder=where.evaluation_folder,
                held_out=config.data.held_out, halve_jpeg=config.data.halve_jpeg, crop=config.data.crop,
                seed=config.seed, task=task, shard=0, num_shards=1,
            )  # fmt: skip
            settings = config.tasks[task]
            degrade = None if where.paired else degradation(settings.degradation, settings.options)
            stream = BatchStream(
                images.train, degrade, crop=config.data.crop, batch_size=config.data.batch_size, seed=config.seed,
                client=f"p{index}",
            )  # fmt: skip
            self._streams.append(stream)
        if body is None:
            raise SessionError("at least one client", "none", "configuration key 'clients'")
        self._body = body
        self._body_optimiser = build_optimiser(body.parameters(), config.optimiser.server)
        self._threads: dict[str, int] = {}

    def cost(self, phase: str, steps: int, warm_up: int = 1) -> Cost:
        """Measure `steps` steps of every client, after some to warm up."""
        torch.set_num_threads(self.threads(phase))
        for step in range(warm_up):
            self._step(phase, step)
        began, cpu_began = time.perf_counter(), time.process_time()
        for step in range(steps):
            self._step(phase, warm_up + step)
        count = max(1, steps * len(self._clients))
        return Cost((time.perf_counter() - began) / count, (time.process_time() - cpu_began) / count)

    def threads(self, phase: str) -> int:
        """All cores or one thread, whichever is faster: small tensors are not worth sharing out, long steps are."""
        if phase not in self._threads:
            found: dict[int, float] = {}
            for threads in dict.fromkeys((cores(), 1)):
                self._threads[phase] = threads
                self.cost(phase, 1, 0)  # the first steps import and allocate
                cost_s = self.cost(phase, 1, 0).wall_s
                if cost_s < _SHORT_S:
                    cost_s = min(self.cost(phase, 2, 0).wall_s for _ in range(3))
                found[threads] = cost_s
                if cost_s > _LONG_S:
                    break
            self._threads[phase] = min(found, key=lambda threads: found[threads])
        return self._threads[phase]

    def median_cost(self, phase: str, steps: int, blocks: int = 4) -> Cost:
        """Measure about `steps` steps of every client in blocks, and give the median block's."""
        self.cost(phase, 0)
        costs = [self.cost(phase, max(1, steps // blocks), 0) for _ in range(min(blocks, steps))]
        return Cost(
            *(statistics.median(values) for values in zip(*((one.wall_s, one.cpu_s) for one in costs), strict=True))
        )

    def batch_of_first(self, step: int) -> tuple[Tensor, Tensor]:
        """A batch of the first client."""
        batch = self._streams[0].batch(1, PHASE_NAMES[0], 1, step)
        return batch.degraded_BCPP, batch.clean_BCPP

    def _step(self, phase: str, step: int) -> None:
        batches = [stream.batch(1, phase, 1, step) for stream in self._streams]
        pairs = [(batch.degraded_BCPP, batch.clean_BCPP) for batch in batches]
        groups = [slice(None)] if PHASES[phase].body_moves else [slice(i, i + 1) for i in range(len(pairs))]
        for group in groups:
            unsplit_step(self._clients[group], self._body, self._body_optimiser, pairs[group], PHASES[phase], 0)
