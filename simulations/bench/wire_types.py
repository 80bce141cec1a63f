"""What each wire type loses: PSNR on held-out images beside float32, after as many steps, over several seeds.

``python -m simulations.bench.wire_types`` trains one client through both phases, with the real client and the real body
service of a run, TLS on. All types of a seed begin with the same weights and draw the same batches; held-out images
are scored over a float32 wire. ``evaluation`` rows take the weights that float32 has trained, and score them over wires
of other types; ``no features`` tells what the wire is worth at all: the tail gets zeros. Two models:

* ``small``: the preset;
* ``no skips``: the same with a permuting head, which gives the tail no skips, so that all that it knows of the image
  but the image itself has crossed the wire.

``bytes`` are those of a step in training, both phases together, and of a window in evaluation, headers included.
``lost_db`` is the mean over seeds of float32's PSNR less the type's, ``spread_db`` the standard deviation, ``each_db``
the seeds' own. A compressed wire loses nothing more, as a law holds, and is counted with the first seed alone. What
each type takes in time is in ``simulations/bench/protocol.py``.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from simulations.bench.cases import images, words
from simulations.bench.record import Record, arguments, cores, report
from tavit_flwr.client.evaluation import Evaluation
from tavit_flwr.client.jobs import Job, Result, by_stream
from tavit_flwr.client.node import Node
from tavit_flwr.client.training import Training
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.config import BFLOAT16, DTYPES, FLOAT16, FLOAT32, INT8, STREAM, DirectionsConfig, TavitConfig, compose
from tavit_flwr.payloads import PART_PREFIXES
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.server.cohort import Cohort, Member
from tavit_flwr.server.initial import build_hosts, initial_weights, load_weights
from tavit_flwr.server.schedule import RoundPlan, plan
from tavit_flwr.server.sessions import EVALUATE, Session
from tavit_flwr.split.phases import PHASES
from tavit_flwr.wire.records import Order
from tavit_flwr.wire.weights import arrays_to_tensors, parts_of

#: Overrides by name; those of one wire type that goes both ways come first, float32 before all.
TYPES = {kind: (f"wire.dtype={kind}",) for kind in DTYPES} | {
    "int8, error feedback": ("wire.dtype=int8", "wire.error_feedback=true"),
    "bfloat16, zstd": ("wire.dtype=bfloat16", "wire.compression=zstd"),
}
#: Overrides by name.
MODELS = {"small": (), "no skips": ("+model.overrides.head_kind=permuted",)}
#: Up and down in evaluation.
EVALUATED = (
    (FLOAT32, FLOAT32),
    (FLOAT16, FLOAT16),
    (BFLOAT16, BFLOAT16),
    (INT8, BFLOAT16),
    (BFLOAT16, INT8),
    (INT8, INT8),
)
#: What may be lost in training, dB.
GOALS = {BFLOAT16: 0.05, INT8: 0.1, "int8, error feedback": 0.1}
#: What may be lost in evaluation, dB.
EVALUATION_GOAL_DB = 0.01
CLIENT, TASK = "p0000", "denoise"


@dataclass(frozen=True)
class Trained:
    """What one type has made of one seed's weights."""

    pair: Pair
    bytes_a_step: float
    psnr_db: float


class Pair:
    """One client and one body service in this process, from a seed's first weights on.

    Parameters
    ----------
    config : TavitConfig
        Of one client.
    folder : Path
        For the client's private store.
    """

    def __init__(self, config: TavitConfig, folder: Path) -> None:
        self._config = config
        self._workshop = Workshop.open(Node(CLIENT, TASK, 0, 1, None, folder), config)
        weights, hosts = initial_weights(config), build_hosts(config, {})
        load_weights(hosts, weights, config)
        (self._host,) = hosts.values()
        self._tensors = parts_of(weights.heads[TASK], weights.tails[TASK])
        self._version = 0

    def train(self) -> float:
        """Go through the schedule, and give the bytes of a step."""
        steps = passed = 0.0
        for one in plan(self._config.schedule):
            result = self._session(Training, one, one.phase, self._config)
            if result.arrays is not None:
                self._tensors = arrays_to_tensors(result.arrays, PART_PREFIXES)
                self._version = one.index
            steps += one.steps
            passed += result.metrics["bytes-up"] + result.metrics["bytes-down"]
        return passed / steps

    def score(self, up: str, down: str) -> tuple[float, float]:
        """PSNR of the held-out images over wires of these types, dB, and the bytes of a window."""
        types = replace(self._config.wire.dtypes, evaluation=DirectionsConfig(up, down))
        config = replace(self._config, wire=replace(self._config.wire, dtypes=types))
        metrics = self._session(Evaluation, plan(config.schedule)[-1], EVALUATE, config).metrics
        return metrics["psnr-db"], (metrics["bytes-up"] + metrics["bytes-down"]) / metrics["windows"]

    def score_without_features(self) -> float:
        """PSNR where the tail gets zeros for features, dB."""
        hook = self._host.body.register_forward_hook(lambda _, __, features: torch.zeros_like(features))
        try:
            return self.score(FLOAT32, FLOAT32)[0]
        finally:
            hook.remove()

    def _session(self, kind: type[Job], one: RoundPlan, phase: str, config: TavitConfig) -> Result:
        workshop, wire = replace(self._workshop, config=config), config.wire
        moves = phase in PHASES and PHASES[phase].body_moves
        self._host.begin_phase(moves=moves, progress=one.progress)
        with BodyService(wire, threads=config.compute.server_threads) as service:
            cohort = None
            if moves:
                cohort = Cohort(
                    self._host, [Member(CLIENT, TASK)], input_gradient=PHASES[phase].client_moves,
                    step_path=(one.cycle, phase, one.round), join_timeout_s=wire.join_timeout_s,
                    step_timeout_s=wire.step_timeout_s, quorum=1.0, threads=service.cores,
                )  # fmt: skip
            session = Session(CLIENT, TASK, self._host, phase, one.steps, cohort)
            order = Order(
                config="", run_key="bench", address=service.address, token=service.open(session),
                certificate_pem=service.certificate.certificate_pem if service.certificate else b"", carrier=STREAM,
                phase=phase, cycle=one.cycle, round=one.round, steps=one.steps, version=self._version,
                next_version=one.index, progress=one.progress,
            )  # fmt: skip
            return by_stream(kind.begin(workshop, order, self._tensors), workshop, order)


def main(given: list[str] | None = None) -> list[Record]:
    """Train and score, print a table, and write the JSON."""
    parser = arguments("wire_types", __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="one where it is quick")
    parser.add_argument("--steps", type=int, default=96, help="of each training, a multiple of 6; 6 where it is quick")
    parser.add_argument("--threads", type=int, default=cores(), help="of torch; one is best where others are at work")
    options = parser.parse_args(given)
    seeds, steps = (1, 6) if options.quick else (options.seeds, options.steps)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = images(folder / "images")
        threads = [f"compute.{side}_threads={options.threads}" for side in ("client", "server")]
        for model, overrides in MODELS.items():
            given = [*threads, *overrides, f"data.held_out={2 if options.quick else 8}"]
            trained = train(folder / model, model, experiment(pictures, steps, *given), seeds)
            plain = trained[FLOAT32]
            rows += [
                {"model": model, "measured": "training", "type": kind}
                | compared(
                    [(one.psnr_db, one.bytes_a_step) for one in found], plain, plain[0].bytes_a_step, GOALS.get(kind)
                )
                for kind, found in trained.items()
            ]
            rows += [{"model": model, "measured": "evaluation", **row} for row in evaluated(plain)]
    return report(options.output, [], rows, f"PSNR lost by wire type after {steps} steps, {seeds} seeds")


def train(folder: Path, model: str, given: Sequence[str], seeds: int) -> dict[str, list[Trained]]:
    """Train every seed with every type."""
    trained: dict[str, list[Trained]] = {}
    for seed in range(seeds):
        for kind, overrides in TYPES.items():
            if "zstd" in kind and seed:
                continue
            pair = Pair(compose([*given, f"seed={seed}", *overrides]), folder / f"{kind}-{seed}")
            bytes_a_step = pair.train()
            one = Trained(pair, bytes_a_step, pair.score(FLOAT32, FLOAT32)[0])
            trained.setdefault(kind, []).append(one)
            print(f"{model}, seed {seed}, {kind}: {one.psnr_db:.3f} dB", flush=True)
    return trained


def experiment(pictures: Path, steps: int, *more: str, preset: str = "small") -> list[str]:
    """Overrides of one client's run through both phases twice, a third of its steps task-agnostic."""
    own = steps // 6
    phases = f"{{kind:task-specific,rounds:2,steps:{own}}},{{kind:task-agnostic,rounds:1,steps:{own}}}"
    return words(
        preset, 1, pictures, "optimiser=decaying", "evaluation.stride=64", "schedule.cycles=2",
        f"schedule.phases=[{phases}]", *more,
    )  # fmt: skip


def evaluated(trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """Rows of evaluation: the same weights over each pair of types, and without features."""
    found = {f"{up} up, {down} down": [one.pair.score(up, down) for one in trained] for up, down in EVALUATED}
    plain_bytes = next(iter(found.values()))[0][1]
    rows = [
        {"type": kind} | compared(scores, trained, plain_bytes, EVALUATION_GOAL_DB) for kind, scores in found.items()
    ]
    nothing = [(one.pair.score_without_features(), 0.0) for one in trained]
    return [*rows, {"type": "no features"} | compared(nothing, trained, plain_bytes, None)]


def compared(
    found: Sequence[tuple[float, float]], plain: Sequence[Trained], plain_bytes: float, goal_db: float | None
) -> dict[str, Any]:
    """Compare PSNR and bytes of some seeds with float32's of the same seeds, or of more."""
    lost_db = [one.psnr_db - psnr_db for one, (psnr_db, _) in zip(plain, found, strict=False)]
    return {
        "bytes": found[0][1], "share": found[0][1] / plain_bytes,
        "psnr_db": statistics.mean(psnr_db for psnr_db, _ in found), "lost_db": statistics.mean(lost_db),
        "spread_db": statistics.stdev(lost_db) if len(lost_db) > 1 else 0.0,
        "each_db": lost_db, "goal": "" if goal_db is None else f"under {goal_db} dB",
    }  # fmt: skip


if __name__ == "__main__":
    main()
