"""Who this node is: its place in the experiment, its images, its folder for private state."""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from flwr.app import UserConfig

from tavit_flwr.client.store import default_state_dir
from tavit_flwr.config import TaskConfig, TavitConfig, images_of
from tavit_flwr.config.choices import nearest
from tavit_flwr.config.counts import places
from tavit_flwr.errors import CheckpointError, ConfigError
from tavit_flwr.files import write_bytes

#: What a node configuration may hold: Flower's own keys in simulation, an operator's otherwise.
KEYS = frozenset(
    {
        "partition-id", "num-partitions", "task", "body", "data-dir", "evaluation-dir", "state-dir", "threads",
        "require-tls",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A client's identity and resources on this node.

    Attributes
    ----------
    client : str
        Stable across resumed runs: the partition in simulation, a random name kept in the state folder otherwise.
    task : str
        Name of the task; empty when the experiment has no place for this node.
    shard, shards : int
        Which share of the task's images is this client's.
    folder : Path or None
        The node's own images; None means the experiment's source.
    state_dir : Path
        For moments and pictures.
    evaluation_folder : Path or None
        The node's own held-out images; None means that some of `folder` are set aside.
    threads : int
        For torch, as the node's operator sets them; 0 leaves it to the experiment.
    require_tls : bool
        Whether to refuse a body service without TLS, even where the experiment chooses that.
    deployed : bool
        Whether a SuperNode's operator set this node up: folders that the experiment names are not this node's then.
    """

    client: str
    task: str
    shard: int
    shards: int
    folder: Path | None
    state_dir: Path
    evaluation_folder: Path | None = None
    threads: int = 0
    require_tls: bool = False
    deployed: bool = False

    @property
    def shares_photographs(self) -> bool:
        """Whether this node, set up without images of its own, takes the bundled ones like every other such node."""
        return self.deployed and self.folder is None


def identify(node_config: UserConfig, config: TavitConfig) -> Node:
    """Read a node's identity from its node configuration.

    Parameters
    ----------
    node_config : UserConfig
        ``partition-id`` in simulation; otherwise what a SuperNode's operator sets, see `KEYS`.
    config : TavitConfig
        The experiment.

    Raises
    ------
    ConfigError
        For an unknown key or task, a data folder that does not exist, or a node without partition and task.
    """
    _check_keys(node_config)
    state_dir = Path(str(node_config["state-dir"])) if "state-dir" in node_config else default_state_dir()
    folder, evaluation_folder = _folder(node_config, "data-dir"), _folder(node_config, "evaluation-dir")
    if "task" in node_config:
        task = str(node_config["task"])
        if task not in config.tasks:
            raise ConfigError(
                f"a task among {sorted(config.tasks)}",
                repr(task),
                "node configuration 'task'",
                nearest(task, config.tasks),
            )
        _check_body(node_config, config.tasks[task].body)
        if folder is None and images_of(config, task).source != "bundled":
            raise ConfigError("a folder of this node's own", "none", "node configuration 'data-dir'")
        return Node(
            _kept_name(state_dir),
            task,
            0,
            1,
            folder,
            state_dir,
            evaluation_folder,
            _threads(node_config),
            _require_tls(node_config),
            deployed=True,
        )
    if "partition-id" not in node_config:
        raise ConfigError("'task' or 'partition-id'", f"{sorted(node_config)}", "node configuration")
    partition = int(str(node_config["partition-id"]))
    client = client_name(node_config)
    order = places(config.clients)
    if partition >= len(order):
        return Node(client, "", 0, 1, folder, state_dir)
    index = order[partition]
    task = config.clients[index]
    same = [other for other, name in enumerate(config.clients) if name == task]
    return Node(client, task, same.index(index), len(same), folder, state_dir)


def _check_keys(node_config: UserConfig) -> None:
    for key in node_config:
        if key not in KEYS:
            raise ConfigError(f"keys among {sorted(KEYS)}", repr(key), "node configuration", nearest(key, KEYS))


def _folder(node_config: UserConfig, key: str) -> Path | None:
    if key not in node_config:
        return None
    folder = Path(str(node_config[key]))
    try:
        found = "" if folder.is_dir() else "no such folder"
    except PermissionError:
        found = "a folder that this process may not enter"
    if found:
        raise ConfigError("a folder of images", found, f"node configuration '{key}'", "mount or correct it")
    return folder


def _check_body(node_config: UserConfig, body: str) -> None:
    """The node's operator may say which body its images are for; the experiment must then mean the same."""
    if str(node_config.get("body", body)) != body:
        raise ConfigError(
            f"the body of this node's task, '{body}'", repr(str(node_config["body"])), "node configuration 'body'"
        )


def _threads(node_config: UserConfig) -> int:
    value = node_config.get("threads", 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError("a whole number, 0 or more", repr(value), "node configuration 'threads'")
    return value


def _require_tls(node_config: UserConfig) -> bool:
    value = node_config.get("require-tls", False)
    if not isinstance(value, bool):
        raise ConfigError("true or false", repr(value), "node configuration 'require-tls'")
    return value


def client_name(node_config: UserConfig) -> str:
    """Name of a simulated client; ``unnamed`` outside simulation, before its state folder has been read."""
    return f"p{int(str(node_config['partition-id'])):04d}" if "partition-id" in node_config else "unnamed"


def task_of(node: Node, config: TavitConfig) -> TaskConfig:
    """The node's task; `ConfigError` when it has none."""
    if node.task not in config.tasks:
        raise ConfigError("a node with a task in this experiment", "none", f"client {node.client}")
    return config.tasks[node.task]


def slots() -> int:
    """How many clients can run at once where this one runs; 0 when nothing limits them.

    In simulation every client runs in a Ray actor with a fixed share of the cluster; outside Ray each node is a
    machine of its own.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0
    cluster = ray.cluster_resources()
    assigned = ray.get_runtime_context().get_assigned_resources()
    shares = [
        int(cluster.get(name, 0) // share) for name, share in assigned.items() if share and name in ("CPU", "GPU")
    ]
    return min(shares, default=0)


def threads(node: Node, configured: int) -> int:
    """Threads for torch on this client.

    The node's operator decides, then the experiment, then Ray's share, then ``OMP_NUM_THREADS``, which is how several
    processes on one machine are kept from fighting; a client that is told nothing takes every core.
    """
    if node.threads or configured:
        return node.threads or configured
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else os.cpu_count() or 1


def _kept_name(state_dir: Path) -> str:
    """A random name for this node, made once and kept in its state folder."""
    path = state_dir / "client-name"
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.is_file():
            write_bytes(path, f"n-{uuid.uuid4().hex[:12]}\n".encode())
        return path.read_text().strip()
    except OSError as error:
        raise CheckpointError(
            "a state folder that can be written", str(error), str(state_dir), "set the node configuration's state-dir"
        ) from error
