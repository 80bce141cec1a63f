"""The only things that may cross between a client and the server.

Images, labels, skips, time embeddings and paths have no place here, so there is no way to send them. The four tensors
of the cut travel as the dataclasses below; everything else that leaves a client is named in `ENROLMENT_FIELDS`,
`TRAIN_METRICS`, `EVALUATE_METRICS` or `set_metrics`, and heads and tails travel as named in `PART_PREFIXES`.

Shapes: B batch, D embedding, G grid side (height and width may differ).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Smashed:
    """Up: activations at the head's cut, [B, D, G, G]."""

    step: int
    smashed: Tensor


@dataclass(frozen=True)
class Features:
    """Down: the body's output, [B, D, G, G]."""

    step: int
    features: Tensor


@dataclass(frozen=True)
class GradFeatures:
    """Up: gradient of the loss with respect to the body's output, [B, D, G, G]."""

    step: int
    grad_features: Tensor


@dataclass(frozen=True)
class GradFeaturesAndSmashed:
    """Up: the gradient of this step with the activations of the next one (task-agnostic: one round trip a step)."""

    step: int
    grad_features: Tensor
    smashed: Tensor


@dataclass(frozen=True)
class GradSmashed:
    """Down: gradient with respect to the smashed activations, [B, D, G, G]."""

    step: int
    grad_smashed: Tensor


@dataclass(frozen=True)
class Close:
    """Up: the client has done `step` steps and wants to leave."""

    step: int


@dataclass(frozen=True)
class Acknowledged:
    """Down: every frame up to `step` has arrived and been used."""

    step: int


Payload = Smashed | Features | GradFeatures | GradFeaturesAndSmashed | GradSmashed | Close | Acknowledged

UP: tuple[type, ...] = (Smashed, GradFeatures, GradFeaturesAndSmashed, Close)
DOWN: tuple[type, ...] = (Features, GradSmashed, Acknowledged)

#: Names of the weights that travel between client and server in Flower messages begin with one of these.
PART_PREFIXES = ("head/", "tail/")

#: What a node tells of itself when it enrols.
ENROLMENT_FIELDS = frozenset(
    {"client", "task", "body", "train-images", "held-out-images", "shared-held-out", "slots", "error"}
    | {"carrier", "unreachable"}
)

#: Numbers that a node reports after a training session.
TRAIN_METRICS = frozenset(
    {"loss-first", "loss-last", "loss-mean", "steps", "num-examples", "bytes-up", "bytes-down", "fresh-moments"}
    | {"compute-s", "wait-s", "wall-s"}
)

#: Numbers of an evaluation that are told for each set of held-out images too.
SET_METRICS = frozenset({"psnr-db", "ssim", "input-psnr-db", "input-ssim", "psnr-y-db", "ssim-y", "images"})

#: Numbers that a node reports after evaluation.
EVALUATE_METRICS = SET_METRICS | {"windows", "bytes-up", "bytes-down", "wall-s"}


def set_metric(name: str, label: str) -> str:
    """Name a metric of one set of held-out images; labels come from the server's configuration."""
    return f"{name}@{label}"


def set_metrics(labels: Iterable[str]) -> frozenset[str]:
    """All `SET_METRICS` of all sets."""
    return frozenset(set_metric(name, label) for label in labels for name in SET_METRICS)
