"""What a run reached: the results that its metric lines amount to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

logger = logging.getLogger("flwr")

#: Scores of a metric line that results repeat.
SCORES = ("psnr_db", "ssim", "input_psnr_db", "input_ssim", "psnr_y_db", "ssim_y")

_SECONDS = frozenset({"wall_s", "first_step_time"})


def results(history: Sequence[Mapping[str, Any]], totals: Mapping[str, float]) -> dict[str, Any]:
    """Each task's scores, the totals beside them; the last evaluation is the result, the first its beginning."""
    tasks: dict[str, dict[str, Any]] = {}
    for line in history:
        if line["event"] == "evaluate":
            before = tasks.get(line["task"], {}).get("before", {"psnr_db": line["psnr_db"], "ssim": line["ssim"]})
            tasks[line["task"]] = {
                **{key: line[key] for key in SCORES}, "images": line["images"], "sets": line.get("sets", {}),
                "round": line["round"], "before": before,
            }  # fmt: skip
    last = max((row["round"] for row in tasks.values()), default=0)
    for task, row in tasks.items():
        row["stale"] = row["round"] < last
        if row["stale"]:
            logger.warning("%s: nobody scored it after round %s; its scores are of round %s", task, last, row["round"])
    return {"tasks": tasks} | {name: value if name in _SECONDS else int(value) for name, value in totals.items()}


def table(history: Sequence[Mapping[str, Any]]) -> str:
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
