"""A deployed federation on this machine: a SuperLink with TLS, SuperNodes with keys, all stopped by pid."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from simulations.certificates import ServerFiles, make_node_key, make_server_files
from simulations.flower import Flower
from simulations.processes import end_all, free_port, processes_of, stop, wait_healthy
from tavit_flwr.errors import SessionError

#: The SuperLink's name in the home's ``config.toml``.
CONNECTION = "federation"

#: In the log of a SuperNode that the SuperLink has taken.
_CONNECTED = b"SuperNode ID:"

#: Seconds between a SuperNode's end and its next start.
_RESTART_S = 10


@dataclass(frozen=True)
class Node:
    """One SuperNode to be.

    Attributes
    ----------
    name : str
        Of its key, its log and its state folder.
    config : mapping
        As in ``--node-config``; ``state-dir`` is added if missing.
    environment : mapping
        For this SuperNode and the ClientApps that it starts.
    """

    name: str
    config: Mapping[str, str | int | float]
    environment: Mapping[str, str] = field(default_factory=dict)


class Federation:
    """A SuperLink and its SuperNodes; made by `federation`.

    Attributes
    ----------
    flower : Flower
        Runs apps on it.
    address : str
        Where the SuperLink listens.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.flower = Flower(home, {"OMP_NUM_THREADS": "1", **environment}, CONNECTION)
        self.address = f"127.0.0.1:{free_port()}"
        self._files: ServerFiles = make_server_files(home / "certificates")
        self._superlink: subprocess.Popen[bytes] | None = None
        self._nodes: dict[str, Node] = {}
        self._supernodes: dict[str, subprocess.Popen[bytes]] = {}
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{self.address}"\n'
            f'root-certificates = "{self._files.authority}"\n'
        )

    def start_superlink(self) -> None:
        """Start the SuperLink, or start it again on the same port with the same state.

        Raises
        ------
        SessionError
            When it does not answer within a minute.
        """
        host, _, port = self.address.rpartition(":")
        self._superlink = self._spawn(
            "superlink",
            [
                "flower-superlink", "--enable-supernode-auth", "--isolation", "subprocess",
                "--ssl-ca-certfile", str(self._files.authority), "--ssl-certfile", str(self._files.certificate),
                "--ssl-keyfile", str(self._files.key), "--host", host, "--port", port,
                "--control-api-address", f"127.0.0.1:{free_port()}", "--database", str(self.home / "state.db"),
            ],
        )  # fmt: skip
        wait_healthy(self._superlink, self.address, self.log("superlink"), trust=self._files.authority)

    def add(self, node: Node, *, register: bool = True) -> None:
        """Make a node's key, register it with the SuperLink, and start the SuperNode.

        Parameters
        ----------
        node : Node
            Its name is new.
        register : bool
            Without it the SuperNode is a stranger, whom the SuperLink turns away.

        Raises
        ------
        SessionError
            When the SuperLink does not register the key.
        """
        _, public = make_node_key(self.home / "keys", node.name)
        if register:
            self._register(public, f"node {node.name}")
        self._nodes[node.name] = node
        self.start(node.name)

    def _register(self, public: Path, where: str) -> None:
        answer = subprocess.run(
            ["flwr", "supernode", "register", str(public), CONNECTION],
            env=self.flower.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if answer.returncode:
            raise SessionError("a registered key", answer.stdout + answer.stderr, where)

    def start(self, name: str) -> None:
        """Start a SuperNode that was added, or start it again with the same key and state."""
        node = self._nodes[name]
        config = {"state-dir": str(self.home / "state" / name), **node.config}
        pairs = " ".join(f"{key}={_toml(value)}" for key, value in config.items())
        self._supernodes[name] = self._spawn(
            name,
            [
                "flower-supernode", "--superlink", self.address, "--root-certificates", str(self._files.authority),
                "--auth-supernode-private-key", str(self.home / "keys" / name), "--host", "127.0.0.1",
                "--port", str(free_port()), "--node-config", pairs,
            ],
            node.environment,
        )  # fmt: skip

    def restart(self, name: str, timeout_s: float = 120) -> None:
        """Start a killed SuperNode again and again until the SuperLink takes it, as a supervisor does.

        The SuperLink refuses a key until the heartbeat of the SuperNode that had it has run out: up to a minute.

        Raises
        ------
        SessionError
            When the SuperLink does not take it in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            said = self.log(name).stat().st_size
            self.start(name)
            while self._supernodes[name].poll() is None and time.monotonic() < deadline:
                if _CONNECTED in self.log(name).read_bytes()[said:]:
                    return
                time.sleep(0.2)
            time.sleep(_RESTART_S)
        raise SessionError("a SuperNode that the SuperLink takes", "none", f"node {name}", f"see {self.log(name)}")

    def kill(self, name: str) -> None:
        """End a SuperNode at once and without a word, but nothing that it started."""
        _kill(self._supernodes.pop(name))

    def stop(self, name: str) -> None:
        """Ask a SuperNode to end."""
        stop(self._supernodes.pop(name))

    def kill_superlink(self) -> None:
        """End the SuperLink at once and without a word, but not the ServerApp that it runs."""
        if self._superlink is not None:
            _kill(self._superlink)
        self._superlink = None

    def pids(self, name: str | None = None) -> list[int]:
        """Processes of the whole federation, or of one SuperNode and what it started."""
        every = processes_of(self.home)
        return [pid for pid in every if name is None or _group(pid) == self._supernodes[name].pid]

    def log(self, name: str) -> Path:
        """The file that gets what ``superlink`` or a SuperNode prints."""
        return self.home / f"{name}.log"

    def close(self) -> None:
        """Stop everything."""
        for process in self._supernodes.values():
            stop(process)
        if self._superlink is not None:
            stop(self._superlink)
        end_all(self.home)

    def _spawn(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with self.log(name).open("ab") as log:
            return subprocess.Popen(
                command, env=self.flower.env | dict(environment or {}), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip


@contextmanager
def federation(home: Path, nodes: Sequence[Node], environment: Mapping[str, str] | None = None) -> Iterator[Federation]:
    """Start a SuperLink and SuperNodes on loopback, and stop them and all they started at the end.

    What still runs in this home is ended first: a predecessor that was killed could not stop it.

    Parameters
    ----------
    home : Path
        ``FLWR_HOME``: certificates, keys, logs and the nodes' state.
    nodes : sequence of Node
        More can be added later.
    environment : mapping, optional
        For all processes. Each computes with one thread unless ``OMP_NUM_THREADS`` is given here.

    Raises
    ------
    SessionError
        When the SuperLink does not come up, or refuses a key.
    """
    end_all(home)
    running = Federation(home, environment or {})
    try:
        running.start_superlink()
        for node in nodes:
            running.add(node)
        yield running
    finally:
        running.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(15)


def _toml(value: str | float) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1
