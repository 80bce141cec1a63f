"""What many simulated clients take: wall time, memory and disk by their number, two of them at once.

``python -m simulations.bench.scale`` runs preset ``tiny`` in simulation with each number of clients, in turns: two
task-specific rounds of all, one task-agnostic round of as many as run at once, and evaluation. It gives

* ``client_round_ms``: the second task-specific round's wall time over its clients, each with its state from disk;
* ``memory_mib``: the peaks of the process that holds ServerApp and simulation and of the clients' actors, added up;
  every process's own peak is in the JSON;
* ``disk_mib``: what lies in Flower's home, the clients' states and the outputs at the end.
"""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulations.bench.cases import round_lines, words
from simulations.bench.record import Record, arguments, report
from simulations.bench.watch import CLIENT_KINDS, SERVER_KINDS, Watch, disk_mib
from simulations.flower import Flower, local_flower
from simulations.node_images import deal_images
from simulations.processes import unwind_when_ended
from tavit_flwr.config import override
from tavit_flwr.errors import SessionError

AT_ONCE = 2
STEPS, ROUNDS = 3, 2


def main(given: list[str] | None = None) -> list[Record]:
    """Measure in turns, print a table, and write the JSON."""
    parser = arguments("scale", __doc__)
    parser.add_argument(
        "--clients", nargs="+", type=int, default=[5, 10, 20, 100], help="10, 100, 10 where it is quick"
    )
    parser.add_argument("--repeats", type=int, default=3, help="one where it is quick")
    options = parser.parse_args(given)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        pictures = Path(name) / "images"
        deal_images([pictures], tile_px=96)  # as many as clients of one task, and one held out
        for repeat in range(1 if options.quick else options.repeats):
            for place, clients in enumerate([10, 100, 10] if options.quick else options.clients):
                rows.append(measured(Path(name) / f"{repeat}-{place}", clients, pictures))
    return report(options.output, records(rows), rows, f"simulated clients, {AT_ONCE} at once, preset tiny")


def records(rows: Sequence[dict[str, Any]]) -> list[Record]:
    """100 clients beside 10; where 10 were measured before and after, each of the two counts."""
    found = []
    for name, unit, key in (
        ("scale_time/100_vs_10", "ms a client-round", "client_round_ms"),
        ("scale_memory/100_vs_10", "MiB", "memory_mib"),
    ):
        many, few = ([row[key] for row in rows if row["clients"] == number] for number in (100, 10))
        if many and few:
            found.append(Record.of(name, unit, many * (len(few) // len(many)), few))
    return found


def measured(folder: Path, clients: int, pictures: Path) -> dict[str, Any]:
    """Run once with that many clients, on a Flower of its own."""
    with local_flower(folder / "flwr", {"TAVIT_STATE_DIR": f"{folder}/state"}) as flower, Watch(flower.home) as watch:
        began = time.time()
        lines = run(flower, clients, pictures, folder / "out")
        wall_s = time.time() - began
        used_mib = disk_mib(folder)
    line = round_lines(lines, "task-specific")[-1]  # processes are warm, and each client's state comes from its disk
    processes = sorted(watch.peak_kib.values(), key=lambda one: -one[1])
    return {
        "clients": clients, "client_round_ms": 1000 * line["round_wall_s"] / clients, "wall_s": wall_s,
        "memory_mib": watch.memory_mib(*SERVER_KINDS, *CLIENT_KINDS), "all_memory_mib": watch.memory_mib(),
        "driver_mib": watch.memory_mib(*SERVER_KINDS), "actors_mib": watch.memory_mib(*CLIENT_KINDS),
        "disk_mib": used_mib, "processes": [[kind, peak // 1024] for kind, peak in processes],
    }  # fmt: skip


def run(flower: Flower, clients: int, pictures: Path, output: Path) -> list[dict[str, Any]]:
    """Run the clients, and give the lines of training.

    Raises
    ------
    SessionError
        Unless every client took part in both task-specific rounds.
    """
    rounds = {"task-specific": ROUNDS, "task-agnostic": 1}
    phases = ",".join(f"{{kind:{kind},rounds:{number},steps:{STEPS}}}" for kind, number in rounds.items())
    given = words(
        "tiny", clients, pictures, override("output_dir", output), "schedule.cycles=1", "schedule.evaluate_first=false",
        f"schedule.phases=[{phases}]", f"federation.min_nodes={clients}", "federation.wait_for_nodes_s=120",
        "federation.enrol_timeout_s=600",
    )  # fmt: skip
    outcome = flower.run(shlex.join(given), clients, at_once=AT_ONCE)
    path = output / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    trained = [line for line in lines if line["event"] == "train"]
    took_part = sum(len(line["clients"]) for line in trained if line["phase"] == "task-specific")
    if not outcome.completed or took_part < ROUNDS * clients:
        raise SessionError(f"a run of {clients} clients", outcome.log[-3000:], "flwr run")
    return trained


if __name__ == "__main__":
    unwind_when_ended()
    main()
