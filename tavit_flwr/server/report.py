"""What a run tells people: metric lines while it runs, and results at its end."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from tavit_flwr.files import write_json

logger = logging.getLogger("flwr")


class Report:
    """One JSON line per round and task, and the summary.

    Parameters
    ----------
    folder : Path
        Gets ``metrics.jsonl`` and ``results.json``.
    history : list of dict
        Lines of the run so far; a resumed run rewrites the file from them.
    """

    def __init__(self, folder: Path, history: list[dict[str, Any]]) -> None:
        self.history = history
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "metrics.jsonl"
        self._lines.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in history))

    def add(self, line: dict[str, Any]) -> None:
        """Append one line, to memory and file, and say it in the log."""
        self.history.append(line)
        with self._lines.open("a") as handle:
            handle.write(json.dumps(line, sort_keys=True) + "\n")

    def results(self, summary: dict[str, Any]) -> Path:
        """Write ``results.json``; the last evaluation of each task is its result, the first its beginning."""
        tasks: dict[str, dict[str, Any]] = {}
        for line in self.history:
            if line["event"] != "evaluate":
                continue
            scores = {key: line[key] for key in line if key not in ("event", "round", "cycle", "phase", "task", "time")}
            before = tasks.get(line["task"], {}).get("before", {"psnr_db": line["psnr_db"], "ssim": line["ssim"]})
            tasks[line["task"]] = {**scores, "before": before}
        path = self._folder / "results.json"
        write_json(path, {"tasks": tasks, **summary})
        return path


def table(history: list[dict[str, Any]]) -> str:
    """PSNR of each task's held-out photographs: input, before training, after it."""
    rows = [f"{'task':<12}{'images':>7}{'input dB':>10}{'before':>9}{'after':>9}{'gain over input':>17}"]
    lines = [line for line in history if line["event"] == "evaluate"]
    for task in dict.fromkeys(line["task"] for line in lines):
        own = [line for line in lines if line["task"] == task]
        first, last = own[0], own[-1]
        gain = last["psnr_db"] - last["input_psnr_db"]
        rows.append(
            f"{task:<12}{last['images']:>7}{last['input_psnr_db']:>10.2f}{first['psnr_db']:>9.2f}"
            f"{last['psnr_db']:>9.2f}{gain:>+14.2f} dB"
        )
    return "\n".join(rows)
