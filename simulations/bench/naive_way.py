"""Ours beside the naive way, deployed: one Flower message per exchange, as Flower's vertical-fl example does.

``python -m simulations.bench.naive_way`` deploys two SuperNodes on loopback, with TLS and keys, and measures in turns,
with preset ``small`` and 4 crops a step, task-specific:

* ``ours``: client-steps of a real ``flwr run``, as `simulations.bench.steps` counts them;
* ``naive``: the same split with two Flower messages a step, see ``simulations/naive``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from simulations.bench.cases import images, round_lines, train, words
from simulations.bench.record import Record, arguments, report
from simulations.bench.steps import add
from simulations.deployment import federation
from simulations.flower import ROOT, Flower
from tavit_flwr.errors import SessionError

NODES, BATCH, CROP = 2, 4, 64
STEPS = 100


def main(given: list[str] | None = None) -> list[Record]:
    """Measure, print a table, and write the JSON."""
    parser = arguments("naive_way", __doc__)
    parser.add_argument("--steps", type=int, default=5, help="of the naive way, after the first; two where it is quick")
    options = parser.parse_args(given)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = images(folder / "images")
        with federation(folder / "flwr", []) as running:
            for number in range(NODES):
                add(running, number, pictures)
            for repeat in range(1 if options.quick else 2):
                ours = words("small", NODES, pictures, f"data.batch_size={BATCH}", "federation.enrol_timeout_s=300")
                _, trained = train(
                    running.flower, ours, folder / f"run-{repeat}", rounds=1, steps=STEPS, nodes=None
                )  # fmt: skip
                (line,) = round_lines(trained, "task-specific")
                ours_s = line["round_session_s"] / (STEPS * NODES)
                for naive_s in naive(running.flower, 2 if options.quick else options.steps, folder):
                    rows.append({"naive_s": naive_s, "ours_s": ours_s, "ratio": naive_s / ours_s})
    record = Record.of(
        "naive_ratio/deployment", "s a client-step", [row["naive_s"] for row in rows], [row["ours_s"] for row in rows]
    )
    return report(options.output, [record], rows, "a deployed client-step, one Flower message per exchange and ours")


def naive(flower: Flower, steps: int, folder: Path) -> list[float]:
    """Seconds a client-step with one Flower message per exchange; the first step, which warms up, is left out."""
    measured = run_naive(flower, steps + 1, folder / "naive.json")
    return [seconds / measured["clients"] for seconds in measured["seconds"][1:]]


def run_naive(flower: Flower, steps: int, output: Path, nodes: int | None = None) -> dict[str, Any]:
    """Run the naive app and give what it wrote.

    Raises
    ------
    SessionError
        When it wrote nothing.
    """
    output.unlink(missing_ok=True)
    values: dict[str, str | int] = {"steps": steps, "batch": BATCH, "crop": CROP, "output": str(output)}
    options = ["--federation-config", f"num-supernodes={nodes} init-args-num-cpus={nodes}"] if nodes else []
    outcome = flower.run_app(ROOT / "simulations" / "naive", values, options)
    if not output.is_file():
        raise SessionError("a run of the naive app", outcome.log[-2000:], "flwr run")
    measured: dict[str, Any] = json.loads(output.read_text())
    return measured


if __name__ == "__main__":
    main()
