"""All benchmarks, one after another; their records in one file.

``python -m simulations.bench --quick`` is `make bench`. Each benchmark runs in a process of its own, so that none has
the threads, caches or memory of another, and writes its own file to ``outputs/bench``. `FULL` are left out
where it is quick: they give tables and no figure that has a goal.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from simulations.bench.record import Record, show
from simulations.processes import stop, unwind_when_ended
from tavit_flwr.files import write_json

#: Modules here, those first that disturb the machine least.
BENCHMARKS = (
    "wire_bytes", "phases", "protocol", "restore", "breakdown", "frozen_options", "wire_types", "first_step", "steps",
    "naive_way", "carriers", "scale",
)  # fmt: skip
#: Only in full, or by name.
FULL = frozenset({"carriers", "frozen_options", "wire_types"})

#: Names without which the file is not whole, however quick it was.
NEEDED = (
    "step_ratio/simulation/small/2", "step_ratio/simulation/paper/2", "step_ratio/deployment/small/1",
    "naive_ratio/deployment", "protocol_ms/float32", "protocol_ms/bfloat16", "bytes_ratio/bfloat16", "bytes_ratio/int8",
    "scale_time/100_vs_10", "scale_memory/100_vs_10", "phase_compute_ratio", "restore_ratio/paper",
    "first_step_s/simulation",
)  # fmt: skip

#: A benchmark that is ended stops a SuperLink and SuperNodes first.
_UNWIND_S = 60.0


def main(given: list[str] | None = None) -> int:
    """Run them; 0 only when all ran and no figure is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS)
    parser.add_argument("--output", type=Path, default=Path("outputs/bench.json"))
    options = parser.parse_args(given)
    folder, failed = options.output.parent / "bench", []
    records: list[dict[str, Any]] = []
    for name in options.only or [name for name in BENCHMARKS if not (options.quick and name in FULL)]:
        began, output = time.monotonic(), folder / f"{name}.json"
        output.unlink(missing_ok=True)
        words = [sys.executable, "-m", f"simulations.bench.{name}", "--output", str(output)]
        status = run([*words, *(["--quick"] if options.quick else [])])
        print(f"{name}: {time.monotonic() - began:.0f} s, exit status {status}", flush=True)
        if status or not output.is_file():
            failed.append(name)
        else:
            records += json.loads(output.read_text())["records"]
    if not options.only:
        failed += [name for name in NEEDED if name not in {record["name"] for record in records}]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, records)
    show([Record(**one) for one in records])
    print(f"{len(records)} records: {options.output}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def run(words: list[str]) -> int:
    """Run a benchmark to its end, or stop it where this process is ended; its exit status."""
    process = subprocess.Popen(words)
    try:
        return process.wait()
    finally:
        stop(process, _UNWIND_S)


if __name__ == "__main__":
    unwind_when_ended()
    sys.exit(main())
