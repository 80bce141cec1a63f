"""A private Flower on this machine: own home, own ports, own SuperLink, all stopped by pid at the end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from simulations.folders import app_alone
from simulations.places import federation_config
from simulations.processes import end_all, free_port, stop, wait_healthy
from tavit_flwr.errors import SessionError
from tavit_flwr.server.provenance import COMMIT, commit_of

ROOT = Path(__file__).resolve().parent.parent

#: A Ray of the run's own: left to itself, Ray joins any cluster that someone started on this machine.
_NO_CLUSTER = "local"
#: What Ray says when its processes take longer than its own 30 s to start, which nothing can set.
_RAY_LATE = "The current node timed out during startup"
_RUN_ID = re.compile(r"run (\d{6,})")


@dataclass(frozen=True)
class RunOutcome:
    """How one ``flwr run`` ended.

    Attributes
    ----------
    run_id : int
        Flower's.
    status : str
        As ``flwr list`` tells it. Says nothing of clients that were left out.
    log : str
        All that ``flwr run --stream`` printed.
    """

    run_id: int
    status: str
    log: str

    @property
    def completed(self) -> bool:
        """Whether Flower calls the run completed."""
        return self.status == "finished:completed"


class Flower:
    """Runs apps on a SuperLink that `local_flower` or `simulations.deployment.federation` started.

    Parameters
    ----------
    home : Path
        ``FLWR_HOME`` of everything started here.
    environment : mapping
        Added to this process's.
    connection : str, optional
        Name of the SuperLink in the home's ``config.toml``; Flower's default if None.
    """

    def __init__(self, home: Path, environment: Mapping[str, str], connection: str | None = None) -> None:
        self.home = home
        self._connection = connection
        self.env = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": os.environ.get("RAY_ADDRESS") or _NO_CLUSTER,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            COMMIT: commit_of(ROOT),
            **environment,
        }

    def run(
        self,
        overrides: str,
        clients: int | None = None,
        *,
        at_once: int | None = None,
        app: Path | None = None,
        timeout_s: float = 1800,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> RunOutcome:
        """Run this project and wait for its end; where Ray did not come up on a busy machine, once more.

        Parameters
        ----------
        overrides : str
            Hydra overrides, as in ``flwr run . --run-config "hydra='...'"``.
        clients : int, optional
            Simulated nodes, which share this machine's GPUs; None keeps Flower's default federation.
        at_once : int, optional
            So many of them run at the same time; all by default.
        app : Path, optional
            Another app that takes the same overrides.
        timeout_s : float
            After which the run is stopped.
        on_line : callable
            Sees every line of the log as it comes.

        Raises
        ------
        SessionError
            When Flower does not accept the run, or it takes longer than `timeout_s`.
        """
        gpus, cluster = torch.cuda.device_count(), self.env["RAY_ADDRESS"] != _NO_CLUSTER
        simulated = federation_config(clients, at_once, gpus, cluster=cluster) if clients is not None else ""
        options = ["--federation-config", simulated] if simulated else []
        with app_alone(ROOT, self.home) if app is None else nullcontext(app) as folder:
            outcome = self.run_app(folder, {"hydra": overrides}, options, timeout_s=timeout_s, on_line=on_line)
            if not outcome.completed and _RAY_LATE in outcome.log:
                on_line("Ray did not start within 30 s: this machine is busy. The run is started once more.")
                outcome = self.run_app(folder, {"hydra": overrides}, options, timeout_s=timeout_s, on_line=on_line)
            return outcome

    def run_app(
        self,
        app: Path,
        run_config: Mapping[str, str | int],
        options: Sequence[str] = (),
        *,
        timeout_s: float = 1800,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> RunOutcome:
        """Run any app with a run configuration; otherwise as `run`."""
        values = self.home / f"run-config-{uuid.uuid4().hex[:8]}.toml"  # a file: Flower's parser knows no escapes
        values.write_text("".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in run_config.items()))
        command = ["flwr", "run", str(app), *self._at(), "--stream", "--run-config", str(values), *options]
        lines: list[str] = []
        deadline = time.monotonic() + timeout_s
        with subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            timer = threading.Timer(timeout_s, process.kill)
            timer.start()
            try:
                for line in process.stdout or ():
                    lines.append(line)
                    on_line(line.rstrip("\n"))
            except BaseException:
                process.kill()  # interrupted: do not wait for a run that nobody watches
                raise
            finally:
                timer.cancel()
        log = "".join(lines)
        match = _RUN_ID.search(log)
        if match is None:
            raise SessionError("a run that Flower accepts", log[-2000:], "flwr run")
        run_id = int(match.group(1))
        if time.monotonic() > deadline:
            stopping = ["flwr", "stop", str(run_id), *self._at()]
            subprocess.run(stopping, env=self.env, capture_output=True, timeout=60, check=False)
            raise SessionError(f"the run's end within {timeout_s:g} s", log[-2000:], f"run {run_id}")
        return RunOutcome(run_id, self.status(run_id, deadline), log)

    def status(self, run_id: int, deadline: float) -> str:
        """Ask ``flwr list`` how a run ended, waiting for its end until `deadline`."""
        command = ["flwr", "list", *self._at(), "--run-id", str(run_id), "--format", "json"]
        pause_s = 0.0
        while True:
            text = ""
            with suppress(subprocess.TimeoutExpired):  # a crowded machine: ask again until the deadline
                text = subprocess.run(
                    command, env=self.env, capture_output=True, text=True, timeout=60, check=False
                ).stdout
            runs = json.loads(text or "{}").get("runs") or []
            status = str(runs[0].get("status", "unknown")) if runs else "unknown"
            if status.startswith("finished") or time.monotonic() > deadline:
                return status
            pause_s = min(pause_s + 0.5, 8)  # what a killed SuperLink ran is called failed a minute later
            time.sleep(pause_s)

    def _at(self) -> list[str]:
        return [self._connection] if self._connection else []


@contextmanager
def local_flower(home: Path, environment: Mapping[str, str] | None = None) -> Iterator[Flower]:
    """Start a SuperLink in simulation mode, and stop it and all it started at the end.

    What still runs in this home is ended first: a predecessor that was killed could not stop it, and it would write
    into the same output folder.

    Parameters
    ----------
    home : Path
        For ``FLWR_HOME``; made if missing.
    environment : mapping, optional
        For the SuperLink, the ServerApp and the simulated clients.

    Raises
    ------
    SessionError
        When the SuperLink does not come up within a minute.
    """
    home.mkdir(parents=True, exist_ok=True)
    end_all(home)
    port, control_port = free_port(), free_port()
    ports = {"FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port), "FLWR_LOCAL_CONTROL_API_PORT": str(control_port)}
    flower = Flower(home, ports | dict(environment or {}))
    command = [
        "flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess",
        "--host", "127.0.0.1", "--port", str(port), "--control-api-address", f"127.0.0.1:{control_port}",
        "--database", str(home / "state.db"),
    ]  # fmt: skip
    with (home / "superlink.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=flower.env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_healthy(process, f"127.0.0.1:{port}", home / "superlink.log")
        yield flower
    finally:
        stop(process)
        end_all(home)
