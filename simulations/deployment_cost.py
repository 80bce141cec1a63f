"""What a deployed step costs: ours beside the unsplit loop and beside one Flower message per exchange.

``python -m simulations.deployment_cost`` deploys two SuperNodes on loopback, with TLS and keys, one thread a process,
and measures in turns, on the same cores, with preset ``small`` and the demo's batches:

* ``unsplit``: one process, torch on all cores, clients one after another;
* ``deployed``: sessions of a real ``flwr run``; a client-step is the longest session over steps and clients, connecting
  included. What Flower's messages add to the round is told apart;
* ``naive``: the same split with one Flower message per exchange, see ``simulations/naive``.
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
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from simulations.deployment import Federation, Node, federation
from simulations.flower import ROOT
from simulations.node_images import deal_images
from simulations.overhead import PHASE_NAMES, UnsplitLoop
from tavit_flwr.config import compose
from tavit_flwr.errors import SessionError
from tavit_flwr.files import write_json

TASKS = ("denoise", "deblock")
BATCH, CROP = 4, 64


def main(arguments: list[str] | None = None) -> int:
    """Measure in turns, print tables, and write the JSON to ``--output``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=[], help="Hydra overrides, e.g. wire=messages")
    parser.add_argument("--steps", type=int, default=100, help="steps of each client in each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--naive-steps", type=int, default=3, help="0 leaves the naive way out")
    parser.add_argument("--output", type=Path, default=Path("outputs/deployment-cost.json"))
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(os.cpu_count() or 1)
    words = ["experiment=demo", f"clients=[{','.join(TASKS)}]", f"data.batch_size={BATCH}", *options.overrides]
    loop = UnsplitLoop(compose(words))
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / "images" / task for task in TASKS]
        deal_images(folders)
        nodes = [
            Node(task, {"task": task, "data-dir": str(folder), "state-dir": f"{name}/state/{task}"})
            for task, folder in zip(TASKS, folders, strict=True)
        ]
        with federation(Path(name) / "flwr", nodes) as running:
            for repeat in range(options.repeats):
                unsplit = {phase: loop.cost_s(phase, max(10, options.steps // 4)) for phase in PHASE_NAMES}
                rounds += deployed(running, words, options.steps, Path(name) / f"run-{repeat}", unsplit)
            naive_s = naive(running, options.naive_steps, Path(name)) if options.naive_steps else None
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}", "steps": options.steps, "rounds": rounds,
        "naive_client_step_s": naive_s,
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, result)
    show(Console(), result)
    return 0


def deployed(
    running: Federation, words: Sequence[str], steps: int, output: Path, unsplit: dict[str, float]
) -> list[dict[str, Any]]:
    """Run both phases once; one row a phase.

    Raises
    ------
    SessionError
        When not every client took part.
    """
    phases = ",".join(f"{{kind:{name},rounds:1,steps:{steps}}}" for name in PHASE_NAMES)
    began = time.time()
    outcome = running.flower.run(
        shlex.join([
            *words, f"output_dir='{output}'", "federation.min_nodes=2", "schedule.cycles=1",
            "schedule.evaluate_first=false", f"schedule.phases=[{phases}]", "evaluation.stride=64",
            "evaluation.pictures=false", "data.held_out=1",
        ])
    )  # fmt: skip
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "train"]
    if not outcome.completed or len(trained) < 2 * len(TASKS) or any(line["left_out"] for line in trained):
        raise SessionError("a run in which every client took part", outcome.log[-2000:], "flwr run")
    results = json.loads((output / "results.json").read_text())
    rows = []
    for phase in PHASE_NAMES:
        own = [line for line in trained if line["phase"] == phase]
        session_s, wall_s = own[0]["round_session_s"], own[0]["round_wall_s"]
        rows.append(
            {
                "phase": phase, "client_step_s": session_s / (steps * len(TASKS)), "unsplit_s": unsplit[phase],
                "messages_s": wall_s - session_s, "first_step_s": results["first_step_time"] - began,
                "step_bytes": results["step_bytes"] / results["steps"],
            }
        )  # fmt: skip
    return rows


def naive(running: Federation, steps: int, folder: Path) -> float:
    """Seconds per client-step with one Flower message per exchange; the first step, which warms up, is left out."""
    output = folder / "naive.json"
    words: dict[str, str | int] = {"steps": steps + 1, "batch": BATCH, "crop": CROP, "output": str(output)}
    outcome = running.flower.run_app(ROOT / "simulations" / "naive", words)
    if not output.is_file():
        raise SessionError("a run of the naive app", outcome.log[-2000:], "flwr run")
    measured = json.loads(output.read_text())
    return float(statistics.median(measured["seconds"][1:]) / measured["clients"])


def show(console: Console, result: dict[str, Any]) -> None:
    """Print what was measured."""
    title = f"wall time per client-step, deployed, {result['machine']}, {result['date']}, {result['steps']} steps"
    table = Table(title=title, title_justify="left")
    for column in ("phase", "deployed ms", "unsplit ms", "ratio (median)", "ratios", "Flower's messages, s a round"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in PHASE_NAMES:
        own = [row for row in result["rounds"] if row["phase"] == phase]
        ratios = [row["client_step_s"] / row["unsplit_s"] for row in own]
        times_ms = [1000 * statistics.median(row[key] for row in own) for key in ("client_step_s", "unsplit_s")]
        table.add_row(
            phase, *(f"{time_ms:.1f}" for time_ms in times_ms),
            f"{statistics.median(ratios):.2f}", ", ".join(f"{ratio:.2f}" for ratio in ratios),
            f"{statistics.median(row['messages_s'] for row in own):.1f}",
        )  # fmt: skip
    console.print(table)
    first_s = statistics.median(row["first_step_s"] for row in result["rounds"])
    step_mib = statistics.median(row["step_bytes"] for row in result["rounds"]) / 2**20
    console.print(
        f"from `flwr run` to the first step {first_s:.1f} s; {step_mib:.2f} MiB per client-step, both directions"
    )
    if result["naive_client_step_s"]:
        ours = [row["client_step_s"] for row in result["rounds"] if row["phase"] == PHASE_NAMES[0]]
        naive_s = result["naive_client_step_s"]
        ratio = naive_s / statistics.median(ours)
        console.print(f"one Flower message per exchange: {naive_s:.1f} s per client-step, {ratio:.0f} times ours")


if __name__ == "__main__":
    sys.exit(main())
