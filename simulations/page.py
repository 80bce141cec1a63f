"""The page of a run whose clients' held-out images lie on this machine, with them.

``python -m simulations.page RUN`` writes ``report.html`` anew from a run's files and the pictures in its state folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tavit_flwr.client.pictures import pictures_here
from tavit_flwr.config import TavitConfig, from_json
from tavit_flwr.files import write_whole
from tavit_flwr.server.page import read_pictures, render
from tavit_flwr.server.schedule import plan


def write_page(folder: Path, state: Path | None = None) -> Path:
    """Write a finished run's page with pictures.

    Parameters
    ----------
    folder : Path
        The run's.
    state : Path, optional
        Where its clients keep their private state; below the run's folder by default.

    Returns
    -------
    Path
        The page.
    """
    results = json.loads((folder / "results.json").read_text())
    config: TavitConfig = from_json(json.dumps(results["config"]))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    page = render(
        lines, results["config"], rounds=results["rounds"], rounds_planned=len(plan(config.schedule)), final=True,
        pictures=read_pictures(pictures_here(results["run_key"], state or folder / "state")),
        participants=results["participants"], provenance=results["provenance"],
    )  # fmt: skip
    path = folder / "report.html"
    write_whole(path, lambda beside: beside.write_text(page))
    return path


def main(arguments: list[str] | None = None) -> int:
    """Write the page and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--state", type=Path)
    options = parser.parse_args(arguments)
    if not (options.run / "results.json").is_file():
        print(f"{options.run} is no finished run: it has no results.json", file=sys.stderr)
        return 2
    print(write_page(options.run, options.state))
    return 0


if __name__ == "__main__":
    sys.exit(main())
