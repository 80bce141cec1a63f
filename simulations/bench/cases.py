"""What is measured: presets, tasks, thread counts, and the runs that measure their steps."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulations.bench.record import cores
from simulations.bench.unsplit import PHASE_NAMES
from simulations.flower import Flower, RunOutcome
from simulations.node_images import deal_images
from tavit_flwr.config import TavitConfig, compose, override
from tavit_flwr.errors import SessionError

#: Overrides by preset; batches as the experiments have them, `paper` with 4 crops, as many as a step of 2 MiB tensors.
PRESETS = {
    "tiny": ("experiment=tiny",),
    "small": ("experiment=demo",),
    "paper": ("experiment=demo", "model=paper", "optimiser=paper", "data.batch_size=4"),
}
TASKS = ("denoise", "deblock", "derain", "deblur")
#: Presets and SuperNodes that stand beside the naive way as well as beside the unsplit loop, in one run.
BESIDE_NAIVE, NODES_BESIDE_NAIVE = ("small", "tiny"), 2


def images(folder: Path) -> Path:
    """Make a folder of small photographs: a decoded crop costs both sides the same, and evaluation is short."""
    deal_images([folder])
    return folder


def words(preset: str, clients: int, folder: Path, *more: str) -> list[str]:
    """Overrides of an experiment with that many clients at once, with the cores shared out among them."""
    return [
        *PRESETS[preset], f"clients=[{','.join(TASKS[index % len(TASKS)] for index in range(clients))}]",
        "data.source=folder", override("data.folder", folder), "data.held_out=1",
        f"compute.client_threads={max(1, cores() // clients)}", f"compute.server_threads={cores()}",
        "evaluation.pictures=false", "wire.step_timeout_s=300", "wire.join_timeout_s=300", *more,
    ]  # fmt: skip


def config_of(given: Sequence[str]) -> TavitConfig:
    """Compose overrides; the window of evaluation is the crop."""
    return compose(list(given))


def train(
    flower: Flower, given: Sequence[str], output: Path, *, rounds: int, steps: int, nodes: int | None
) -> tuple[RunOutcome, list[dict[str, Any]]]:
    """Run both phases once, `rounds` rounds each, and give the lines of training.

    Parameters
    ----------
    nodes : int or None
        Simulated nodes; None where SuperNodes are deployed.

    Raises
    ------
    SessionError
        Unless every client took part in every round.
    """
    phases = ",".join(f"{{kind:{name},rounds:{rounds},steps:{steps}}}" for name in PHASE_NAMES)
    given = [*given, "schedule.cycles=1", f"schedule.phases=[{phases}]"]
    config = config_of(given)
    outcome = flower.run(
        shlex.join([
            *given, override("output_dir", output), "schedule.evaluate_first=false",
            f"evaluation.stride={config.data.crop}", "keep_checkpoints=1",
            f"federation.min_nodes={len(config.clients)}", "federation.wait_for_nodes_s=120",
        ]),
        nodes,
    )  # fmt: skip
    path = output / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    trained = [line for line in lines if line["event"] == "train"]
    took_part = sum(len(line["clients"]) for line in trained)
    if not outcome.completed or took_part < 2 * rounds * len(config.clients):
        raise SessionError("a run in which every client took part", outcome.log[-3000:], "flwr run")
    return outcome, trained


def round_lines(trained: Sequence[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    """One line a round of a phase; all tasks of a round tell the round's own times."""
    return list({line["round"]: line for line in trained if line["phase"] == phase}.values())
