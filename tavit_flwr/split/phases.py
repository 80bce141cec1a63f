"""Which part moves in which phase: the one table behind training, tests and documentation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tavit_flwr.errors import ConfigError


@dataclass(frozen=True)
class Phase:
    """One kind of training phase.

    Attributes
    ----------
    name : str
        As it appears in configuration, messages and reports.
    client_moves : bool
        Whether heads and tails are trained.
    body_moves : bool
        Whether bodies are trained; if so the cohort steps together.
    """

    name: str
    client_moves: bool
    body_moves: bool


#: Task-specific and task-agnostic are the paper's two half cycles; joint is FeSTA's (NeurIPS 2021, Algorithm 1).
PHASES: dict[str, Phase] = {
    phase.name: phase
    for phase in (
        Phase("task-specific", client_moves=True, body_moves=False),
        Phase("task-agnostic", client_moves=False, body_moves=True),
        Phase("joint", client_moves=True, body_moves=True),
    )
}


def phase_named(name: str) -> Phase:
    """Look a phase up by name; `ConfigError` names the known ones."""
    if name not in PHASES:
        raise ConfigError(f"a phase among {sorted(PHASES)}", repr(name))
    return PHASES[name]


def set_moving(part: nn.Module, moves: bool) -> None:
    """Put a part in train mode with parameter gradients, or in eval mode without any.

    Dropout is active only in a part that moves, so a frozen part is a fixed function.
    """
    part.train(moves)
    part.requires_grad_(moves)
