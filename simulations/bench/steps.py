"""What splitting costs: a client-step of a real run beside the unsplit loop's, on the same cores.

``python -m simulations.bench.steps`` measures, in turns, for each preset and number of clients at once

* ``unsplit``: one process, clients one after another, torch on all cores or on one, whichever is faster; before and
  after each run;
* ``simulation``: a ``flwr run`` in simulation, TLS on, the cores shared out among the clients;
* ``deployment``: the same on a SuperLink and SuperNodes on loopback, TLS and keys on; two of them, small or tiny, are
  in `simulations.bench.naive_way`.

A client-step is the time from the start of the round's first session to the end of its last one, connecting included,
over steps and clients. In simulation the first round of each phase warms the processes up; a deployed client is a new
process each round. What a round costs besides is told apart: ``round_s``. ``cpu`` is a ratio of processor time, of all
processes and the whole round: a deployed round starts processes, which a few steps do not pay for.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulations.bench.cases import (
    BESIDE_NAIVE,
    NODES_BESIDE_NAIVE,
    TASKS,
    config_of,
    images,
    round_lines,
    train,
    words,
)
from simulations.bench.record import Record, arguments, cores, report
from simulations.bench.unsplit import PHASE_NAMES, Cost, UnsplitLoop
from simulations.bench.watch import CLIENT_KINDS, SERVER_KINDS, Watch
from simulations.deployment import Federation, Node, federation
from simulations.flower import Flower, local_flower
from simulations.processes import unwind_when_ended

CLIENTS = (1, 2, 4)
#: Quick cases: those with a goal, and a few beside them.
QUICK = {
    "simulation": [("tiny", 2), ("small", 2), ("paper", 2), ("small", 4)],
    "deployment": [("small", 1)],
}


@dataclass(frozen=True)
class Plan:
    """How much is measured: seconds of a round of the unsplit loop, the fewest steps of one, rounds a run, runs."""

    round_s: float
    steps: int
    rounds: int
    repeats: int


def main(given: list[str] | None = None) -> list[Record]:
    """Measure, print a table, and write the JSON."""
    parser = arguments("steps", __doc__)
    parser.add_argument("--carriers", nargs="+", default=list(QUICK), choices=list(QUICK))
    parser.add_argument("--presets", nargs="+", default=["tiny", "small", "paper"])
    parser.add_argument("--clients", nargs="+", type=int, default=list(CLIENTS), choices=CLIENTS)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case; one where it is quick")
    parser.add_argument(
        "--environment",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of the Flower processes, not of the unsplit one",
    )
    options = parser.parse_args(given)
    full = Plan(12, 4, 3, options.repeats)
    plans = {"simulation": Plan(1.5, 2, 2, 1), "deployment": Plan(8, 4, 2, 1)} if options.quick else {}
    environment = dict(pair.split("=", 1) for pair in options.environment)
    rows: list[dict[str, Any]] = []
    for carrier in options.carriers:
        every = [
            (preset, clients) for clients in CLIENTS for preset in ("tiny", "small", "paper")
            if not (carrier == "deployment" and clients == NODES_BESIDE_NAIVE and preset in BESIDE_NAIVE)
        ]  # fmt: skip
        cases = [
            case for case in (QUICK[carrier] if options.quick else every)
            if case[0] in options.presets and case[1] in options.clients
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as name:
            measure = simulated if carrier == "simulation" else deployed
            measure(Path(name), cases, plans.get(carrier, full), environment, rows)
    return report(options.output, records(rows), rows, "a client-step, split and unsplit")


def simulated(
    folder: Path, cases: Sequence[tuple[str, int]], plan: Plan, environment: dict[str, str], rows: list[dict[str, Any]]
) -> None:
    """Measure the cases in simulation."""
    pictures = images(folder / "images")
    with local_flower(folder / "flwr", {"TAVIT_STATE_DIR": f"{folder}/state", **environment}) as flower:
        for preset, clients in cases:
            given = words(preset, clients, pictures)
            rows += _case("simulation", preset, clients, given, flower, folder, plan)


def deployed(
    folder: Path, cases: Sequence[tuple[str, int]], plan: Plan, environment: dict[str, str], rows: list[dict[str, Any]]
) -> None:
    """Measure the cases on SuperNodes, more of them as more are needed."""
    pictures = images(folder / "images")
    with federation(folder / "flwr", [], {"OMP_NUM_THREADS": str(cores()), **environment}) as running:
        started = 0
        for preset, clients in sorted(cases, key=lambda case: case[1]):
            while started < clients:
                add(running, started, pictures)
                started += 1
            given = words(preset, clients, pictures, "federation.enrol_timeout_s=300")
            rows += _case("deployment", preset, clients, given, running.flower, folder, plan)


def add(running: Federation, number: int, pictures: Path) -> None:
    """Add a SuperNode for the task of that number."""
    task = TASKS[number % len(TASKS)]
    running.add(Node(f"node-{number}", {"task": task, "data-dir": str(pictures)}))


def _case(
    carrier: str, preset: str, clients: int, given: list[str], flower: Flower, folder: Path, plan: Plan
) -> list[dict[str, Any]]:
    loop = UnsplitLoop(config_of(given))
    slowest_s = max(loop.cost(phase, 1, 0).wall_s for phase in PHASE_NAMES)
    steps = int(min(200, max(plan.steps, plan.round_s / (slowest_s * clients))))
    warm_up = carrier == "simulation"
    rows = []
    before = [loop.median_cost(phase, steps) for phase in PHASE_NAMES]
    for repeat in range(plan.repeats):
        output = folder / f"{carrier}-{preset}-{clients}-{repeat}"
        with Watch(flower.home) as watch:
            _, trained = train(
                flower, given, output, rounds=plan.rounds + warm_up, steps=steps,
                nodes=clients if carrier == "simulation" else None,
            )  # fmt: skip
        after = [loop.median_cost(phase, steps) for phase in PHASE_NAMES]
        for place, phase in enumerate(PHASE_NAMES):
            baseline = _mean(before[place], after[place])
            for line in round_lines(trained, phase)[int(warm_up) :]:
                case = {"carrier": carrier, "preset": preset, "clients": clients, "phase": phase, "steps": steps}
                case["unsplit_threads"] = loop.threads(phase)
                case |= {"client_mib": watch.largest_mib(*CLIENT_KINDS), "server_mib": watch.largest_mib(*SERVER_KINDS)}
                rows.append(case | _row(line, baseline, steps * clients, watch.cpu_s))
        before = after
    return rows


def _row(
    line: dict[str, Any], baseline: Cost, client_steps: int, cpu_s: Callable[[float, float], float]
) -> dict[str, float]:
    session_s, wall_s = line["round_session_s"], line["round_wall_s"]
    split_s = session_s / client_steps
    split_cpu_s = cpu_s(line["time"] - wall_s, line["time"]) / client_steps
    return {
        "split_ms": 1000 * split_s, "unsplit_ms": 1000 * baseline.wall_s, "ratio": split_s / baseline.wall_s,
        "split_cpu_ms": 1000 * split_cpu_s, "unsplit_cpu_ms": 1000 * baseline.cpu_s,
        "cpu": split_cpu_s / baseline.cpu_s, "round_s": wall_s - session_s,
    }  # fmt: skip


def _mean(one: Cost, other: Cost) -> Cost:
    return Cost((one.wall_s + other.wall_s) / 2, (one.cpu_s + other.cpu_s) / 2)


def records(rows: Sequence[dict[str, Any]]) -> list[Record]:
    """One a case: of both phases together, round by round, as many steps of either."""
    found = []
    for case in dict.fromkeys((row["carrier"], row["preset"], row["clients"]) for row in rows):
        own = [row for row in rows if (row["carrier"], row["preset"], row["clients"]) == case]
        by_phase = [[row for row in own if row["phase"] == phase] for phase in PHASE_NAMES]
        pairs = list(zip(*by_phase, strict=True))
        split = [statistics.mean(row["split_ms"] for row in pair) for pair in pairs]
        unsplit = [statistics.mean(row["unsplit_ms"] for row in pair) for pair in pairs]
        found.append(Record.of("step_ratio/{}/{}/{}".format(*case), "ms a client-step", split, unsplit))
    return found


if __name__ == "__main__":
    unwind_when_ended()
    main()
