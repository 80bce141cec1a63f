"""What a sweep's job costs over the same run by hand, in seconds.

``python -m simulations.sweep_overhead`` runs two tiny jobs as one sweep, and the same two with ``flwr run . --stream``
on a SuperLink that is there already. A sweep's job also starts and stops a SuperLink of its own, composes the
configuration, asks Flower how the run ended, and judges it; its share of Python's start is counted in.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from simulations.flower import ROOT, local_flower
from simulations.places import federation_config
from tavit_flwr.config import override

RUNS = 2
TINY = ("experiment=tiny", "clients=[denoise]")


def main(arguments: list[str] | None = None) -> float:
    """Measure in turns, print, and give the overhead of one job."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with local_flower(folder / "flwr", {"TAVIT_STATE_DIR": str(folder / "state")}) as flower:
            by_hand_s = [_by_hand(flower.env, folder / f"by-hand-{seed}", seed) for seed in range(RUNS - 1)]
        sweep_s = _timed([
            sys.executable, "-m", "simulations.run", "--multirun", *TINY,
            f"seed={','.join(map(str, range(RUNS)))}", override("output_dir", folder / "sweep"),
        ], os.environ)  # fmt: skip
        with local_flower(folder / "flwr", {"TAVIT_STATE_DIR": str(folder / "state")}) as flower:
            by_hand_s.append(_by_hand(flower.env, folder / f"by-hand-{RUNS - 1}", RUNS - 1))
    overhead_s = sweep_s / RUNS - sum(by_hand_s) / RUNS
    print(f"by hand {', '.join(f'{one:.1f}' for one in by_hand_s)} s; a sweep of {RUNS} jobs {sweep_s:.1f} s")
    print(f"overhead of a job: {overhead_s:.1f} s")
    return overhead_s


def _by_hand(environment: Mapping[str, str], output: Path, seed: int) -> float:
    """Seconds of ``flwr run . --stream``."""
    words = shlex.join([*TINY, f"seed={seed}", override("output_dir", output)])
    run_config = output.with_suffix(".toml")
    run_config.write_text(f'hydra = """{words}"""\n')
    command = ["flwr", "run", str(ROOT), "--stream", "--federation-config", federation_config(1)]
    return _timed([*command, "--run-config", str(run_config)], environment)


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
