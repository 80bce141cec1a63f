"""Processes and ports of a Flower that was started here."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from tavit_flwr.errors import SessionError


def unwind_when_ended() -> None:
    """Let SIGTERM raise `SystemExit` in this process, so that what it started is stopped, as after Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def stop(process: subprocess.Popen[bytes], grace_s: float = 15) -> None:
    """End a process."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(grace_s)


def end_all(home: Path, grace_s: float = 10) -> None:
    """Kill what was started with this ``FLWR_HOME`` and is still there: an interrupted run leaves Ray behind.

    Found by environment, because Flower and Ray start processes in sessions of their own. Linux only.
    """
    deadline = time.monotonic() + grace_s
    while (left := processes_of(home)) and time.monotonic() < deadline:
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def processes_of(home: Path) -> list[int]:
    """Pids, other than this one, that were started with this ``FLWR_HOME``, whoever is their parent."""
    marker = f"FLWR_HOME={home}\0".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker in (entry / "environ").read_bytes() + b"\0" and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def wait_healthy(
    process: subprocess.Popen[bytes], address: str, log: Path, timeout_s: float = 60, trust: Path | None = None
) -> None:
    """Wait until a SuperLink answers.

    Parameters
    ----------
    process : subprocess.Popen
        The SuperLink; waiting ends when it does.
    address : str
        ``host:port``.
    log : Path
        Its end goes into the error.
    trust : Path, optional
        Certificate authority; asked over HTTPS then.

    Raises
    ------
    SessionError
        When it has gone, or does not answer in time.
    """
    context = ssl.create_default_context(cafile=trust) if trust else None
    scheme = "https" if trust else "http"
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{scheme}://{address}/health", timeout=2, context=context) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SessionError("a SuperLink that answers", log.read_text()[-2000:], f"address {address}", "see its log")
