"""One shared body with its optimiser: the only owner of the body's weights."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tavit_flwr.config import OptimiserConfig
from tavit_flwr.errors import ModelError, ProtocolError
from tavit_flwr.seeding import derive_seed
from tavit_flwr.split.devices import CPU
from tavit_flwr.split.finite import all_finite_together
from tavit_flwr.split.optimisers import build_optimiser, learning_rate, load_moments, moments, set_learning_rate
from tavit_flwr.split.phases import set_moving
from tavit_flwr.split.server_side import BodyPass, body_backward, body_forward, joined

#: Torch's generators belong to the whole process: bodies take turns with them.
_GENERATOR = threading.Lock()


class BodyHost:
    """Runs one body for clients, frozen or moving.

    Frozen, each request runs alone and in parallel with others: a batch of whoever happens to wait would change the
    last bits with the timing. Moving, the cohort's batch runs as one, in the cohort's fixed order, seeded dropout
    included.

    Parameters
    ----------
    name : str
        The body's name, as tasks subscribe to it.
    body : nn.Module
        Maps [B, D, G, G] to the same shape.
    optimiser : OptimiserConfig
        Made once; its moments live as long as the run.
    embedding : int
        D, checked before any work.
    seed : int
        The run's seed.
    device : torch.device
        Where the body runs; tensors come in and go out on the CPU.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        optimiser: OptimiserConfig,
        embedding: int,
        seed: int,
        device: torch.device = CPU,
    ) -> None:
        self.name = name
        self.body = body.to(device)
        self.steps = 0
        self._embedding = embedding
        self._seed = seed
        self._device = device
        self._settings = optimiser
        self._optimiser = build_optimiser(body.parameters(), optimiser)
        self._moving = threading.Lock()

    def check(self, smashed: Tensor, where: str) -> None:
        """Refuse activations that do not fit this body.

        Raises
        ------
        ProtocolError
            Before any work is done with them.
        """
        if smashed.shape[1] != self._embedding:
            raise ProtocolError(
                f"smashed activations with {self._embedding} channels for body '{self.name}'",
                f"shape {tuple(smashed.shape)}",
                where,
                "head and body must come from the same preset",
            )

    def begin_phase(self, *, moves: bool, progress: float = 0.0) -> None:
        """Put the body in the mode of the phase, at the learning rate of that place in the run."""
        set_moving(self.body, moves)
        set_learning_rate(self._optimiser, learning_rate(self._settings, progress))

    def forward_frozen(self, smashed: Tensor, *, input_gradient: bool) -> BodyPass:
        """Run one client's request through the frozen body."""
        return body_forward(self.body, smashed, input_gradient=input_gradient, moves=False)

    def forward_moving(
        self, smashed: Sequence[Tensor], *, input_gradient: bool, step_path: tuple[str | int, ...]
    ) -> BodyPass:
        """Run the cohort as one batch, with dropout drawn from the step's own name."""
        drawn_on = [self._device] if self._device.type == "cuda" else []
        with self._moving, _GENERATOR, torch.random.fork_rng(devices=drawn_on):
            torch.manual_seed(derive_seed(self._seed, "dropout", self.name, *step_path))
            return body_forward(self.body, joined(smashed), input_gradient=input_gradient, moves=True)

    def backward_and_step(
        self, body_pass: BodyPass, gradients: Sequence[Tensor], weights: Sequence[float]
    ) -> list[Tensor]:
        """Step the body on the weighted mean of the cohort's gradients.

        Parameters
        ----------
        body_pass : BodyPass
            Of the same cohort.
        gradients : sequence of Tensor
            d loss / d features of each client, in the cohort's order.
        weights : sequence of float
            See `cohort_weights`.

        Returns
        -------
        list of Tensor
            d own loss / d smashed for each client; empty where the forward pass did not ask for it.

        Raises
        ------
        ModelError
            When the body's gradient holds infinity or NaN; the body keeps its weights of before.
        """
        with self._moving:
            self._optimiser.zero_grad(set_to_none=True)
            grad_smashed = body_backward(body_pass, self._weighted(gradients, weights))
            if not all_finite_together([one.grad for one in self.body.parameters() if one.grad is not None]):
                raise ModelError("finite gradients of the body", "NaN or infinity", f"body '{self.name}'")
            self._optimiser.step()
            self.steps += 1
        if grad_smashed is None:
            return []
        pieces = torch.split(grad_smashed, [len(gradient) for gradient in gradients])
        return [piece if weight == 1 else piece / weight for piece, weight in zip(pieces, weights, strict=True)]

    def _weighted(self, gradients: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """One batch on the body's device: each client's gradient times its weight, written where it belongs."""
        if len(gradients) == 1 and weights[0] == 1:
            return gradients[0].to(self._device)
        batch = torch.empty((sum(map(len, gradients)), *gradients[0].shape[1:]), device=self._device)
        places = torch.split(batch, [len(one) for one in gradients])
        for rows, gradient, weight in zip(places, gradients, weights, strict=True):
            torch.mul(gradient.to(self._device), weight, out=rows)
        return batch

    def state(self) -> dict[str, Tensor]:
        """A copy of the body's weights on the CPU."""
        return {name: tensor.detach().clone().cpu() for name, tensor in self.body.state_dict().items()}

    def moments(self) -> dict[str, Tensor]:
        """A copy of the optimiser's moments on the CPU."""
        return moments(self._optimiser)

    def load(self, state: dict[str, Tensor] | None = None, saved_moments: dict[str, Tensor] | None = None) -> None:
        """Put weights and moments back."""
        if state is not None:
            self.body.load_state_dict(state)
        if saved_moments is not None:
            load_moments(self._optimiser, saved_moments)
