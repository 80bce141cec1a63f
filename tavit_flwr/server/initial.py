"""The run's first weights, and the hosts that bodies live in."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord
from torch import Tensor, nn

from tavit_flwr.config import TavitConfig
from tavit_flwr.errors import ConfigError, ModelError
from tavit_flwr.models import Preset, build_body, build_head, build_tail, initialise_part, preset
from tavit_flwr.server.aggregation import State, Weights, check_state
from tavit_flwr.server.body_host import BodyHost
from tavit_flwr.server.given_weights import with_given
from tavit_flwr.split.devices import choose_device
from tavit_flwr.split.precision import set_precision


def preset_of(config: TavitConfig) -> Preset:
    """The architecture that a configuration asks for; `ConfigError` when its crops do not fit."""
    architecture = preset(config.model.preset, **config.model.overrides)
    if config.data.crop % architecture.scale:
        raise ConfigError(
            f"a multiple of {architecture.scale}", repr(config.data.crop), "configuration key 'data.crop'",
            f"preset '{architecture.name}' halves each side {architecture.scale.bit_length() - 1} times",
        )  # fmt: skip
    return architecture


def step_shape(config: TavitConfig) -> tuple[int, int, int, int]:
    """[B, D, G, G] of every training step's tensors."""
    architecture = preset_of(config)
    grid = config.data.crop // architecture.scale
    return config.data.batch_size, architecture.body_dim, grid, grid


def initial_weights(config: TavitConfig) -> Weights:
    """Draw every body, head and tail from the run's seed, but for those that ``initial_weights`` gives.

    Each part is named in its draw (``body``/domain, ``head``/task, ``tail``/task), so adding a task changes no other.

    Raises
    ------
    TavitError
        When given weights cannot be used, see `tavit_flwr.server.given_weights`.
    """
    architecture = preset_of(config)
    bodies = {name: _drawn(build_body(architecture), config.seed, "body", name) for name in body_names(config)}
    heads = {
        task: _drawn(build_head(architecture, config.model.time_step), config.seed, "head", task)
        for task in config.tasks
    }
    tails = {task: _drawn(build_tail(architecture), config.seed, "tail", task) for task in config.tasks}
    drawn = Weights(bodies, heads, tails)
    return with_given(drawn, config) if config.initial_weights else drawn


def initial_arrays(config: TavitConfig) -> ArrayRecord:
    """`initial_weights` as the argument of a strategy's `start`."""
    return initial_weights(config).to_arrays()


def body_names(config: TavitConfig) -> list[str]:
    """Bodies that the experiment's tasks subscribe to."""
    return sorted({task.body for task in config.tasks.values()})


def build_hosts(config: TavitConfig, moments: Mapping[str, dict[str, Tensor]]) -> dict[str, BodyHost]:
    """One host per body on the server's device, with the moments of a resumed run."""
    architecture = preset_of(config)
    device = choose_device(config.compute.server_device, "compute.server_device")
    hosts = {}
    for name in body_names(config):
        body = build_body(architecture)
        set_precision(body, config.compute.autocast)
        host = BodyHost(name, body, config.optimiser.server, architecture.body_dim, config.seed, device)
        if name in moments:
            host.load(saved_moments=moments[name])
        hosts[name] = host
    return hosts


def load_weights(hosts: Mapping[str, BodyHost], weights: Weights, config: TavitConfig) -> None:
    """Check a run's weights against its configuration, and load the bodies.

    Raises
    ------
    ModelError
        When a body, head or tail is missing.
    ProtocolError
        When tensors do not fit.
    """
    architecture = preset_of(config)
    like = {
        "body": build_body(architecture).state_dict(),
        "head": build_head(architecture, config.model.time_step).state_dict(),
        "tail": build_tail(architecture).state_dict(),
    }
    if not like["body"]:
        weights.bodies = {name: {} for name in hosts}  # a body without weights leaves no names in the arrays
    expected = {"body": set(hosts), "head": set(config.tasks), "tail": set(config.tasks)}
    given = {"body": weights.bodies, "head": weights.heads, "tail": weights.tails}
    for part, owners in expected.items():
        if set(given[part]) != owners:
            raise ModelError(f"a {part} for each of {sorted(owners)}", f"{sorted(given[part])}", "initial arrays")
        for owner, state in given[part].items():
            check_state(state, like[part], f"initial arrays, {part} of '{owner}'")
    for name, host in hosts.items():
        host.load(weights.bodies[name])


def _drawn(part: nn.Module, seed: int, *path: str) -> State:
    initialise_part(part, seed, *path)
    return {name: tensor.detach() for name, tensor in part.state_dict().items()}
