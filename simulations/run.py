"""One run, or a sweep with ``--multirun``: every job is a real ``flwr run``, and a finished job is not run again.

``python -m simulations.run experiment=tiny`` makes one run; ``python -m simulations.run --multirun experiment=tiny
seed=0,1,2`` makes three. The words are Hydra's, the same that ``flwr run . --run-config "hydra='...'"`` takes.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
import uuid
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from simulations.flower import ROOT
from simulations.jobs import FAILED, FINISHED, Job
from simulations.processes import unwind_when_ended
from tavit_flwr.config import TavitConfig, conf_dir
from tavit_flwr.errors import TavitError
from tavit_flwr.files import write_json

#: Names the sweep in every job's record; set once, inherited by launchers' processes.
SWEEP = "TAVIT_SWEEP"


def main() -> int:
    """Run the words of the command line through Hydra, and say at the end what became of every job.

    Returns
    -------
    int
        0 only when every job finished without a problem.
    """
    unwind_when_ended()
    os.environ[SWEEP] = sweep = uuid.uuid4().hex[:12]
    records = ROOT / "outputs" / "sweeps" / sweep
    tasks = ",".join(sorted(path.stem for path in (conf_dir() / "task").glob("*.yaml")))
    ours = [
        f"task=[{tasks}]", "hydra.output_subdir=null", "hydra.run.dir=.", "hydra.job.chdir=false",
        f"hydra.sweep.dir='{records}'", "hydra.sweep.subdir=.", "hydra/job_logging=none", "hydra/hydra_logging=none",
    ]  # fmt: skip
    flags = [word for word in sys.argv[1:] if word.startswith("-") or "=" not in word]
    sys.argv[1:] = [*flags, *ours, *(word for word in sys.argv[1:] if word not in flags)]  # flags may stand anywhere
    ConfigStore.instance().store(name="schema", node=TavitConfig)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(one_job)()
    finally:  # a sweeper or launcher that gave up, or a signal: those that ran are told all the same
        status = report(Console(), records)
    return status


def one_job(_: DictConfig) -> float:
    """Run one job of Hydra's, here or wherever a launcher put it.

    Returns
    -------
    float
        Mean gain over the input in dB, for sweepers that maximise; minus infinity where the job failed, as sweepers
        end at what is no number.
    """
    settings = HydraConfig.get()
    words = [word for word in settings.overrides.task if not word.startswith("task=[")]
    number = settings.job.num if settings.mode == RunMode.MULTIRUN else 0
    path = Path(settings.sweep.dir) / f"{number:05d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"[{number}] {' '.join(words)}", flush=True)
    record: dict[str, Any] = {"status": FAILED, "overrides": words}
    write_json(path, record | {"problems": ["it did not come to its end"]})
    try:
        job = Job.of(words, root=_root(words) if settings.mode == RunMode.MULTIRUN else None)
        record = job.run(os.environ.get(SWEEP, ""))
    except Exception as error:  # whatever ends a job, the sweep goes on and says so at its end
        if not isinstance(error, TavitError):
            traceback.print_exc()
        record |= {"problems": [f"{type(error).__name__}: {error}"]}
    write_json(path, record)
    told = f"{record['status']}{' before' if record.get('already') else ''}"
    print(f"[{number}] {told}: {record.get('folder', 'no folder')}", flush=True)
    return float(record.get("psnr_gain_db", -math.inf))


def report(console: Console, records: Path) -> int:
    """Show a table of a sweep's jobs, and what failed and why."""
    rows = {int(path.stem): json.loads(path.read_text()) for path in sorted(records.glob("[0-9]*.json"))}
    table = Table(title=f"{len(rows)} jobs", title_justify="left")
    for column in ("job", "status", "gain over input, dB", "seconds", "folder"):
        table.add_column(column, overflow="fold")
    for number, row in rows.items():
        gain = f"{row['psnr_gain_db']:+.2f}" if "psnr_gain_db" in row else ""
        status = f"{row['status']}{' before' if row.get('already') else ''}"
        table.add_row(str(number), status, gain, f"{row.get('seconds', 0):.0f}", row.get("folder", ""))
    console.print(table)
    failed = {number: row for number, row in rows.items() if row["status"] != FINISHED}
    for number, row in failed.items():
        console.print(f"[red]job {number} failed[/red]: {' '.join(row.get('overrides', []))}")
        for problem in row["problems"]:
            console.print(f"    {problem}", markup=False, soft_wrap=True)
    return 1 if failed or not rows else 0


def _root(words: list[str]) -> Path:
    """Where a sweep's jobs go: ``output_dir``, which in a sweep holds one folder a job."""
    given = [word.partition("=")[2].strip("'\"") for word in words if word.startswith("output_dir=")]
    return Path(given[-1]).expanduser().resolve() if given else ROOT / "outputs" / "runs"


if __name__ == "__main__":
    sys.exit(main())
