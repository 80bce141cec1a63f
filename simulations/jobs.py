"""One job: a real ``flwr run`` in a folder of its own, what it was made of, and what became of it."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulations.flower import ROOT, RunOutcome, local_flower
from simulations.verdict import ended, gain_db, problems_of, shortcomings
from tavit_flwr.config import TavitConfig, compose, override, to_dict
from tavit_flwr.errors import ConfigError, TavitError
from tavit_flwr.files import write_json
from tavit_flwr.server.check import check_experiment
from tavit_flwr.server.page import stop_page
from tavit_flwr.server.provenance import commit_of

#: Keys that do not change what a job computes.
INCIDENTAL = ("output_dir", "resume", "keep_checkpoints", "tensorboard")

#: The app of the experiments that do not split the model.
WHOLE = ROOT / "simulations" / "whole"

#: As many simulated clients run at once, at most, unless the experiment's cohort needs all.
AT_ONCE = 8

FINISHED, FAILED, RUNNING = "finished", "failed", "running"

#: One for jobs, one for the ServerApps that they start.
_LOCKS = (".job-lock", ".lock")


@dataclass
class Job:
    """One experiment and its folder.

    Attributes
    ----------
    words : list of str
        Hydra overrides without ``output_dir`` and ``resume``.
    config : TavitConfig
        What they compose to.
    folder : Path
        Holds ``job.json``, the log, results and checkpoints.
    """

    words: list[str]
    config: TavitConfig
    folder: Path
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, words: Sequence[str], root: Path | None = None) -> Job:
        """Compose a job; with `root`, its folder is named after what it computes, so that it is found again.

        Raises
        ------
        ConfigError
            When the overrides do not compose, or name ``resume``: an unfinished job is always resumed.
        """
        if any(word.lstrip("+").startswith("resume=") for word in words):
            raise ConfigError("no 'resume': an unfinished job is continued by itself", "resume=...", "overrides")
        kept = [word for word in words if not word.lstrip("+").startswith("output_dir=")]
        config = compose(kept)
        given = compose(words).output_dir
        base = Path(given).expanduser().resolve() if given else ROOT / "outputs" / "runs"
        name = f"{config.name}-seed{config.seed}-{fingerprint(config)[:8]}"
        if root is not None:
            return cls(kept, config, root / name)
        return cls(kept, config, base if given else base / name)

    def run(self, sweep: str, *, timeout_s: float = 24 * 3600) -> dict[str, Any]:
        """Run what is left of this job, and keep the verdict in ``job.json``.

        Parameters
        ----------
        sweep : str
            Named in the record, so that the sweep finds its jobs.

        Returns
        -------
        dict
            The record: ``status``, ``problems``, versions, commit, times.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder) as free:
            if not free:
                return {"folder": str(self.folder), "status": FAILED, "problems": ["another process runs this job now"]}
            before = read_record(self.folder)
            if before.get("status") == FINISHED:
                self.record = before | {"sweep": sweep, "already": True}
                self._keep()
                return self.record
            earlier = self._set_aside()
            self.record = {
                "sweep": sweep, "status": RUNNING, "problems": [], "overrides": self.words,
                "folder": str(self.folder), "started": time.time(), **earlier, **provenance(),
            }  # fmt: skip
            self._keep()
            self._judge(timeout_s)
            self._keep()
        return self.record

    def _set_aside(self) -> dict[str, str]:
        """Make room where a run went to its end and was no good: resumed, it would be the same run again."""
        problems = shortcomings(self.folder, len(self.config.clients)) if ended(self.folder) else []
        if not problems:
            return {}
        aside = self.folder / f"attempt-{1 + len(list(self.folder.glob('attempt-*')))}"
        aside.mkdir()
        for path in sorted(self.folder.iterdir()):
            if path.name not in _LOCKS and not path.name.startswith("attempt-"):
                path.rename(aside / path.name)
        print(f"begins anew, because an earlier run ended with: {problems[0]}; what it left is in {aside}", flush=True)
        return {"set_aside": str(aside)}

    def _judge(self, timeout_s: float) -> None:
        started = time.monotonic()
        try:
            check_experiment(self.config, simulated=True)
            outcome = self._flower_run(timeout_s)
            problems = problems_of(self.folder, outcome, len(self.config.clients))
        except (TavitError, OSError, ValueError, subprocess.SubprocessError) as error:
            problems = [str(error)]
        self.record["status"] = FAILED if problems else FINISHED
        self.record |= {"problems": problems, "seconds": round(time.monotonic() - started, 2)}
        if not problems:
            self.record["psnr_gain_db"] = gain_db(self.folder)
            shutil.rmtree(self.folder / "flwr", ignore_errors=True)
        elif not ended(self.folder):
            stop_page(self.folder / "report.html", problems[0])  # a ServerApp that was killed could not

    def _flower_run(self, timeout_s: float) -> RunOutcome:
        resume = (self.folder / "checkpoints").is_dir() and any((self.folder / "checkpoints").glob("round-*"))
        words = [*self.words, override("output_dir", self.folder), *(["resume=true"] if resume else [])]
        at_once = None if self.config.federation.cohort == "all" else AT_ONCE
        environment = {"TAVIT_STATE_DIR": str(self.folder / "state")}
        if whole := self.config.federation.strategy != "tavit":  # that app imports this package and `simulations`
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (
            (self.folder / "flwr.log").open("a") as log,
            local_flower(self.folder / "flwr", environment) as flower,
        ):
            return flower.run(
                shlex.join(words), len(self.config.clients), at_once=at_once, app=WHOLE if whole else None,
                timeout_s=timeout_s, on_line=lambda line: print(line, file=log, flush=True),
            )  # fmt: skip

    def _keep(self) -> None:
        write_json(self.folder / "job.json", self.record | {"config": to_dict(self.config)})


def fingerprint(config: TavitConfig) -> str:
    """Hexadecimal digest of everything in a configuration that changes what is computed."""
    values = {key: value for key, value in to_dict(config).items() if key not in INCIDENTAL}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> dict[str, Any]:
    """The record that a job kept, or nothing."""
    path = folder / "job.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def provenance() -> dict[str, Any]:
    """Versions, commit and machine."""
    packages = ("flwr", "torch", "ray", "numpy", "hydra-core")
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "commit": commit_of(ROOT),
    }


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether this process alone holds the folder; the lock ends with the process, however it ends."""
    with (folder / _LOCKS[0]).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
