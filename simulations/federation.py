"""``make federation``: a SuperLink with TLS, five SuperNodes with keys and image folders of their own, and a run."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from simulations.deployment import Node, federation
from simulations.flower import RunOutcome
from simulations.folders import own_folder
from simulations.node_images import deal_images
from simulations.processes import unwind_when_ended
from simulations.verdict import problems_of
from tavit_flwr.config import compose, override

_DECORATION = re.compile(r"\x1b\[[0-9;]*m|^(INFO|WARNING|ERROR)\s*:\s?")
_OURS = re.compile(
    r"body service|clients?:|left out|cycle \d|loss \d|client-step|first step|PSNR \d|fresh|messages|Error:"
)


def main(arguments: list[str] | None = None) -> int:
    """Deploy on this machine, run, show what was reached, and stop everything.

    Returns
    -------
    int
        0 only when every node took part in every round and every task has results.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", default=[], help="Hydra overrides, e.g. seed=1 wire=messages")
    parser.add_argument("--output", type=Path, default=Path("outputs/federation"), help="replaced if this made it")
    options = parser.parse_intermixed_args(arguments)
    overrides = options.overrides
    if not any(word.startswith("experiment=") for word in overrides):
        overrides = ["experiment=federation", *overrides]
    config = compose(overrides)
    output = own_folder(options.output.resolve(), "federation")
    folders = [output / "images" / f"node-{number}-{task}" for number, task in enumerate(config.clients)]
    dealt = deal_images(folders)
    nodes = [
        Node(folder.name, {"task": task, "data-dir": str(folder), "state-dir": str(output / "state" / folder.name)})
        for folder, task in zip(folders, config.clients, strict=True)
    ]
    console = Console()
    for node, images in zip(nodes, dealt.values(), strict=True):
        console.print(f"{node.name}: task {node.config['task']}, {images} images of its own", highlight=False)
    with (output / "flwr.log").open("w") as log, federation(output / "flwr", nodes) as running:
        console.print(f"SuperLink at {running.address}, TLS, {len(nodes)} node keys registered", highlight=False)

        def show(line: str) -> None:
            log.write(line + "\n")
            text = _DECORATION.sub("", _DECORATION.sub("", line)).strip()
            if _OURS.search(text) and "MetricRecord" not in text:
                console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

        words = shlex.join([*overrides, override("output_dir", output)])
        began = time.time()
        outcome = running.flower.run(words, on_line=show)
    return report(console, outcome, output, len(nodes), began)


def report(console: Console, outcome: RunOutcome, output: Path, nodes: int, began: float) -> int:
    """Show the tables and what went wrong, if anything did; `began` is when ``flwr run`` was, seconds of the epoch."""
    problems = problems_of(output, outcome, nodes)
    if (output / "results.json").is_file():
        results = json.loads((output / "results.json").read_text())
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        console.print(_scores(results))
        console.print(_rounds(lines))
        console.print(_summary(results, output, began), soft_wrap=True, highlight=False)
    for problem in problems:
        console.print(f"[red]problem:[/red] {problem}")
    return 1 if problems else 0


def _scores(results: dict[str, Any]) -> Table:
    table = Table(title="held-out images of the nodes", title_justify="left")
    for column in ("task", "images", "input dB", "after dB", "gain", "SSIM before", "SSIM after"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, row in results["tasks"].items():
        table.add_row(
            task, str(row["images"]), f"{row['input_psnr_db']:.2f}", f"{row['psnr_db']:.2f}",
            f"{row['psnr_db'] - row['input_psnr_db']:+.2f}", f"{row['input_ssim']:.3f}", f"{row['ssim']:.3f}",
        )  # fmt: skip
    return table


def _rounds(lines: list[dict[str, Any]]) -> Table:
    table = Table(title="rounds of training", title_justify="left")
    for column in ("round", "phase", "clients", "seconds", "of them Flower's messages"):
        table.add_column(column, justify="right" if column != "phase" else "left")
    rounds: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        if line["event"] == "train":
            rounds.setdefault(line["round"], []).append(line)
    for number, own in rounds.items():
        wall_s = own[0]["round_wall_s"]
        messages_s = wall_s - own[0]["round_session_s"]
        clients = sum(len(line["clients"]) for line in own)
        table.add_row(str(number), own[0]["phase"], str(clients), f"{wall_s:.1f}", f"{messages_s:.1f}")
    return table


def _summary(results: dict[str, Any], output: Path, began: float) -> str:
    up, down = (results[f"step_bytes_{way}"] / max(1, results["steps"]) / 2**20 for way in ("up", "down"))
    first_s = results["first_step_time"] - began
    first = f"first step {first_s:.1f} s after `flwr run`; " if results["first_step_time"] else ""
    return (
        f"{results['steps']} client-steps in {results['wall_s']:.0f} s; {first}"
        f"{up:.2f} MiB up and {down:.2f} MiB down per client-step\n"
        f"results  {output / 'results.json'}\npage     {output / 'report.html'}\n"
        f"logs     {output / 'flwr'} and {output / 'flwr.log'}\n"
        f"images   {output / 'images'}"
    )


if __name__ == "__main__":
    unwind_when_ended()
    sys.exit(main())
