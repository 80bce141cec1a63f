"""What every order needs: this client's parts, its images, its stream."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tavit_flwr.client.node import Node, task_of, threads
from tavit_flwr.config import TavitConfig, images_of
from tavit_flwr.data import ClientData, load_client_data
from tavit_flwr.degrade import Degrade, degradation
from tavit_flwr.errors import DataError, SessionError
from tavit_flwr.models import AnyHead, Preset, Tail, build_head, build_tail, preset
from tavit_flwr.split.devices import choose_device
from tavit_flwr.split.precision import set_precision
from tavit_flwr.wire.limits import Limits
from tavit_flwr.wire.records import Order
from tavit_flwr.wire.stream_client import StreamClient

logger = logging.getLogger("flwr")


@dataclass(frozen=True)
class Workshop:
    """A client's images and architecture for one experiment.

    Attributes
    ----------
    node : Node
        Who.
    config : TavitConfig
        The experiment.
    architecture : Preset
        Of head and tail.
    data : ClientData
        Training and held-out images.
    degrade : Degrade or None
        Makes the degraded image; None where the images are pairs.
    device : torch.device
        Where head and tail run; images and degradations stay on the CPU.
    """

    node: Node
    config: TavitConfig
    architecture: Preset
    data: ClientData
    degrade: Degrade | None
    device: torch.device

    @classmethod
    def open(cls, node: Node, config: TavitConfig) -> Workshop:
        """Check the node's task, images and architecture; errors are the user's to read."""
        torch.set_num_threads(threads(node, config.compute.client_threads))
        task, data = task_of(node, config), config.data
        where = images_of(config, node.task)
        own_images = node.folder is not None and where.source == "bundled"
        with _told_by_key(node):
            images = load_client_data(
                source="folder" if own_images else where.source,
                folder=node.folder if node.deployed else node.folder or where.folder,
                evaluation_folder=node.evaluation_folder if node.deployed else where.evaluation_folder,
                held_out=data.held_out,
                halve_jpeg=data.halve_jpeg,
                crop=data.crop,
                test_sets=task.test_sets,
                window_hu=(data.window_hu[0], data.window_hu[1]),
                seed=config.seed,
                task=node.task,
                shard=node.shard,
                num_shards=node.shards,
            )
        degrade = None if where.paired else degradation(task.degradation, task.options)
        architecture = preset(config.model.preset, **config.model.overrides)
        device = choose_device(config.compute.client_device, "compute.client_device")
        return cls(node, config, architecture, images, degrade, device)

    def check_images(self) -> None:
        """Read the headers of this client's images, see `tavit_flwr.data.ClientData.check`."""
        with _told_by_key(self.node):
            self.data.check()

    def parts(self, tensors: Mapping[str, Tensor]) -> tuple[AnyHead, Tail]:
        """Build this client's head and tail, fill them from ``head/...`` and ``tail/...``, put them on its device."""
        head = build_head(self.architecture, self.config.model.time_step)
        tail = build_tail(self.architecture)
        head.load_state_dict(below("head/", tensors))
        tail.load_state_dict(below("tail/", tensors))
        for part in (head, tail):
            set_precision(part, self.config.compute.autocast)
        return head.to(self.device), tail.to(self.device)

    def limits(self, order: Order) -> Limits:
        """Of the frames of the order's session."""
        return Limits.of(self.config.wire, order.phase)

    def stream(self, order: Order) -> StreamClient:
        """Connect to the order's session.

        The client waits twice as long as the server: while a cohort waits for a late member, the punctual ones must
        not give up.

        Raises
        ------
        SessionError
            When the order brings no certificate though the experiment or this node does not allow to go without TLS.
        """
        wire = self.config.wire
        if not order.certificate_pem:
            if self.node.require_tls or not wire.insecure:
                raise SessionError(
                    "a certificate of the body service", "none", self.where(order),
                    "only wire.insecure=true goes without TLS, and only to nodes without require-tls",
                )  # fmt: skip
            logger.warning("no TLS to %s: token, features and gradients travel readable", order.address)
        return StreamClient(
            order.address,
            order.token,
            order.certificate_pem,
            order.phase,
            self.limits(order),
            client=self.node.client,
            first_timeout_s=wire.join_timeout_s + 2 * wire.step_timeout_s,
            step_timeout_s=2 * wire.step_timeout_s,
            session_timeout_s=wire.session_timeout_s,
            connect_timeout_s=wire.step_timeout_s,
        )

    def where(self, order: Order) -> str:
        """Client, task, cycle, phase and round, for error messages."""
        return (
            f"client {self.node.client}, task {self.node.task}, cycle {order.cycle}, {order.phase}, round {order.round}"
        )


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def above(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with a prefix before their names, on the CPU."""
    return {f"{prefix}{name}": tensor.detach().cpu() for name, tensor in tensors.items()}


@contextmanager
def _told_by_key(node: Node) -> Iterator[None]:
    """Name the keys of the node configuration in errors about its images: what is told never names a folder."""
    try:
        yield
    except DataError as error:
        folders = {"'data-dir'": node.folder, "'evaluation-dir'": node.evaluation_folder}
        keys = " or ".join(key for key, folder in folders.items() if folder is not None)
        if not node.deployed or not keys:
            raise
        expected = f"{error.expected}, in the folder of node configuration {keys}"
        raise DataError(expected, error.received, error.where, error.hint) from error
