"""Dataclasses of the configuration: names, types and defaults of every key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TaskConfig:
    """One restoration task: what makes its pairs, which body it subscribes to, and where its images come from."""

    degradation: str = "noise"
    options: dict[str, Any] = field(default_factory=dict)
    body: str = "natural"
    source: str | None = None  # None: as under data, also for the folders
    folder: str | None = None
    evaluation_folder: str | None = None
    test_sets: list[str] = field(default_factory=list)  # folders in it that are scored each for itself


@dataclass
class DataConfig:
    """Where images come from and how batches are cut from them."""

    source: str = "bundled"  # bundled | folder | paired | voc | dicom
    folder: str | None = None
    evaluation_folder: str | None = None
    held_out: int = 2
    halve_jpeg: bool = True
    window_hu: list[float] = field(default_factory=lambda: [-160.0, 240.0])
    crop: int = 64
    batch_size: int = 8
    fixed_batches: int = 0  # of a task-agnostic phase, gone through again and again; 0: every step draws its own


@dataclass
class ModelConfig:
    """A preset's name and named departures from it."""

    preset: str = "small"
    time_step: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass
class PhaseConfig:
    """One phase of a cycle: its kind, how many Flower rounds it lasts, and steps a round."""

    kind: str = "task-specific"  # task-specific | task-agnostic | joint
    rounds: int = 1
    steps: int = 10


@dataclass
class ScheduleConfig:
    """Cycles of phases (the paper: task-specific, then task-agnostic, three times)."""

    cycles: int = 3
    phases: list[PhaseConfig] = field(default_factory=list)
    evaluate_first: bool = True
    lend_body: bool = False  # to clients, for task-specific rounds; beyond the paper
    every_phase: str | None = None  # a kind: all phases become phases of it, with their rounds and steps

    @property
    def total_rounds(self) -> int:
        """Rounds of the whole run."""
        return self.cycles * sum(phase.rounds for phase in self.phases)


@dataclass
class OptimiserConfig:
    """One optimiser: ``adam`` or ``sgd``."""

    name: str = "adam"
    lr: float = 3e-5
    beta1: float = 0.5
    beta2: float = 0.999
    decay: str = "none"  # none | cosine, over the whole run


@dataclass
class OptimisersConfig:
    """The clients' optimiser (head and tail together) and the server's (each body)."""

    client: OptimiserConfig = field(default_factory=OptimiserConfig)
    server: OptimiserConfig = field(default_factory=OptimiserConfig)


#: Types in which the tensors of the cut travel.
FLOAT32, BFLOAT16, FLOAT16, INT8 = "float32", "bfloat16", "float16", "int8"
DTYPES = (FLOAT32, BFLOAT16, FLOAT16, INT8)

#: Compression of frames.
NONE, ZSTD = "none", "zstd"


@dataclass
class DirectionsConfig:
    """Wire types of one phase; None: as ``wire.dtype``."""

    up: str | None = None  # client to server
    down: str | None = None


@dataclass
class WireTypesConfig:
    """Wire types that differ from ``wire.dtype``, by phase and direction."""

    task_specific: DirectionsConfig = field(default_factory=DirectionsConfig)
    task_agnostic: DirectionsConfig = field(default_factory=DirectionsConfig)
    joint: DirectionsConfig = field(default_factory=DirectionsConfig)
    evaluation: DirectionsConfig = field(default_factory=lambda: DirectionsConfig(INT8, INT8))


#: What carries the frames of a session. `AUTO` is for each client the first that it can use.
STREAM, MESSAGES, AUTO = "stream", "messages", "auto"

#: In place of a carrier: the client has the body itself, and nothing has to be carried.
LENT = "lent"


@dataclass
class WireConfig:
    """How frames travel; the body service: where it listens, what it advertises; limits and deadlines."""

    carrier: str = STREAM  # stream | messages | auto
    listen: str = "127.0.0.1:0"
    advertise: str | None = None
    insecure: bool = False
    certificate: str | None = None
    private_key: str | None = None
    max_frame_mib: float = 256.0
    max_sessions: int = 256
    max_streams_per_client: int = 4
    idle_timeout_s: float = 30.0
    probe_timeout_s: float = 5.0
    minibatches_per_message: int = 1
    dtype: str = FLOAT32  # float32 | bfloat16 | float16 | int8
    dtypes: WireTypesConfig = field(default_factory=WireTypesConfig)
    error_feedback: bool = False  # of int8 gradients
    compression: str = NONE  # none | zstd
    join_timeout_s: float = 120.0
    step_timeout_s: float = 60.0
    session_timeout_s: float = 3600.0


@dataclass
class FederationConfig:
    """Who takes part: deadlines, quorum, cohort size, and how heads and tails are averaged."""

    strategy: str = "tavit"  # tavit | fedavg | fedprox: the last two average whole models, see simulations/whole
    proximal_mu: float = 0.0  # FedProx's
    average: str = "uniform"  # uniform | examples
    enrol_timeout_s: float = 120.0
    late_timeout_s: float = 20.0
    min_nodes: int = 1
    wait_for_nodes_s: float = 60.0
    round_timeout_s: float = 4200.0
    quorum: float = 0.5
    fraction: float = 1.0
    min_clients: int = 1  # of a round, where there are as many
    by_task: bool = False  # fraction and min_clients hold for the clients of each task
    cohort: str = "auto"  # auto: as many as can run at once | all: fail if they cannot


@dataclass
class EvaluationConfig:
    """Tiled restoration of whole held-out images."""

    stride: int = 16
    batch_size: int = 32
    every_variant: bool = False  # restore each image under every setting of its degradation
    pictures: bool = True


@dataclass
class ComputeConfig:
    """Devices and threads of torch in each process; 0 threads lets the code choose."""

    client_device: str = "auto"  # auto | cpu | cuda | cuda:<number>
    server_device: str = "auto"
    autocast: str = NONE  # none | bfloat16
    client_threads: int = 0
    server_threads: int = 0
    batch_waiting: bool = False  # frozen requests that wait at the same time run as one batch


@dataclass
class TavitConfig:
    """The whole experiment."""

    name: str = "demo"
    seed: int = 0
    output_dir: str = ""
    resume: bool = False
    keep_checkpoints: int = 3
    tensorboard: bool = False
    initial_weights: str = ""
    initial_fresh: list[str] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=lambda: ["natural"])
    body_per_task: bool = False  # a body for each task, named after it, instead of `bodies`
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimiser: OptimisersConfig = field(default_factory=OptimisersConfig)
    wire: WireConfig = field(default_factory=WireConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
