"""What splitting costs: the demo's wall time per client-step beside the unsplit loop's, on the same cores.

``python -m simulations.overhead`` measures, in turns, the same model, batches and number of client-steps as

* ``unsplit``: one process, torch on all cores, clients one after another; the body steps on the cohort's mean;
* ``demo``: a real ``flwr run`` in simulation, the experiment's clients at once, TLS on.

The demo is charged for the whole round as its ServerApp sees it: messages, set-up of clients, averaging and all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from simulations.flower import Flower, local_flower
from tavit_flwr.config import TavitConfig, compose, images_of, override
from tavit_flwr.data import BatchStream, load_client_data
from tavit_flwr.degrade import degradation
from tavit_flwr.errors import SessionError
from tavit_flwr.files import write_json
from tavit_flwr.models import build_parts
from tavit_flwr.split.optimisers import build_optimiser
from tavit_flwr.split.phases import PHASES
from tavit_flwr.split.unsplit import UnsplitClient, unsplit_step

PHASE_NAMES = ("task-specific", "task-agnostic")
Costs = dict[str, float]


class UnsplitLoop:
    """The experiment's clients in this process, with data of their own as in the demo."""

    def __init__(self, config: TavitConfig) -> None:
        self._clients: list[UnsplitClient] = []
        self._streams: list[BatchStream] = []
        body = None
        for index, task in enumerate(config.clients):
            parts = build_parts(config.model.preset, seed=config.seed, **config.model.overrides)
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

    def cost_s(self, phase: str, steps: int) -> float:
        """Wall seconds per client-step over `steps` steps of every client, after two to warm up."""
        for step in range(2):
            self._step(phase, step)
        began = time.perf_counter()
        for step in range(steps):
            self._step(phase, step + 2)
        return (time.perf_counter() - began) / (steps * len(self._clients))

    def _step(self, phase: str, step: int) -> None:
        batches = [stream.batch(1, phase, 1, step) for stream in self._streams]
        pairs = [(batch.degraded_BCPP, batch.clean_BCPP) for batch in batches]
        groups = [slice(None)] if PHASES[phase].body_moves else [slice(i, i + 1) for i in range(len(pairs))]
        for group in groups:
            unsplit_step(self._clients[group], self._body, self._body_optimiser, pairs[group], PHASES[phase], 0)


def demo_costs(flower: Flower, overrides: list[str], config: TavitConfig, steps: int, output: Path) -> Costs:
    """Wall seconds per client-step of one `flwr run`, by phase; errors unless every client took part."""
    phases = ",".join(f"{{kind:{name},rounds:1,steps:{steps}}}" for name in PHASE_NAMES)
    words = [
        *overrides, override("output_dir", output), "schedule.cycles=1", "schedule.evaluate_first=false",
        f"schedule.phases=[{phases}]", f"evaluation.stride={config.data.crop}", "evaluation.pictures=false",
    ]  # fmt: skip
    clients = len(config.clients)
    outcome = flower.run(shlex.join(words), clients)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "train"]
    if not outcome.completed or any(line["left_out"] for line in trained):
        raise SessionError("a run in which every client took part", outcome.log[-2000:], "flwr run")
    return {line["phase"]: line["round_wall_s"] / (steps * clients) for line in trained}


def main(arguments: list[str] | None = None) -> int:
    """Measure in turns and print a table; the JSON goes to ``--output``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=[], help="Hydra overrides; default experiment=demo")
    parser.add_argument("--steps", type=int, default=100, help="steps of every client in each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs/overhead.json"))
    options = parser.parse_args(arguments)
    config = compose(options.overrides)
    torch.set_num_threads(os.cpu_count() or 1)
    loop = UnsplitLoop(config)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in PHASE_NAMES}
    with (
        tempfile.TemporaryDirectory() as folder,
        local_flower(Path(folder) / "flwr", {"TAVIT_STATE_DIR": f"{folder}/state"}) as flower,
    ):
        for repeat in range(options.repeats):
            unsplit = {name: loop.cost_s(name, max(10, options.steps // 4)) for name in PHASE_NAMES}
            split = demo_costs(flower, options.overrides, config, options.steps, Path(folder) / f"run-{repeat}")
            for name in PHASE_NAMES:
                rows[name].append((split[name], unsplit[name]))
    return _report(rows, options.output, options.steps)


def _report(rows: dict[str, list[tuple[float, float]]], output: Path, steps: int) -> int:
    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    table = Table(title=f"wall time per client-step, {machine}, {datetime.now(UTC):%Y-%m-%d}, {steps} steps a session")
    for column in ("phase", "demo ms", "unsplit ms", "ratio (median)", "ratios"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    result = {}
    for name, pairs in rows.items():
        ratios = [split / unsplit for split, unsplit in pairs]
        split_ms, unsplit_ms = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        table.add_row(name, f"{split_ms:.1f}", f"{unsplit_ms:.1f}", f"{statistics.median(ratios):.2f}", shown)
        result[name] = {"demo_ms": split_ms, "unsplit_ms": unsplit_ms, "ratios": ratios}
    Console().print(table)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, {"machine": machine, "steps": steps, "phases": result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
