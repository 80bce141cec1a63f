"""What a run tells people: metric lines while it runs, and results at its end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tavit_flwr.files import remove_unfinished, write_json
from tavit_flwr.payloads import set_metric
from tavit_flwr.server.output_folder import written
from tavit_flwr.server.replies import Reply
from tavit_flwr.server.results import results, table
from tavit_flwr.server.rounds import Round
from tavit_flwr.server.scalars import Scalars
from tavit_flwr.server.schedule import RoundPlan
from tavit_flwr.server.sessions import Session

logger = logging.getLogger("flwr")

_SCORES = ("psnr-db", "ssim", "input-psnr-db", "input-ssim", "psnr-y-db", "ssim-y")
_LOSSES_AND_TIMES = ("loss-first", "loss-last", "loss-mean", "compute-s", "wait-s")


class Report:
    """One JSON line per round and task, the totals, and the summary.

    Parameters
    ----------
    folder : Path
        Gets ``metrics.jsonl`` and ``results.json``.
    history : list of dict
        Lines of the run so far; a resumed run rewrites the file from them. Grows in place.
    totals : dict
        Steps, bytes and seconds so far. Grows in place.
    tensorboard : bool
        Whether the lines are also written as TensorBoard's scalars, into ``tensorboard``.
    """

    def __init__(
        self, folder: Path, history: list[dict[str, Any]], totals: dict[str, float], *, tensorboard: bool = False
    ) -> None:
        self.history = history
        self._totals = totals
        self._folder = folder
        self._lines = folder / "metrics.jsonl"
        self._tensorboard = tensorboard
        self._scalars: Scalars | None = None
        self._started = 0.0

    def open(self, started: float = 0.0) -> None:
        """Begin the files: earlier results are not this run's, and lines of rounds that were not saved are dropped.

        Parameters
        ----------
        started : float
            Unix time of the run's start, to tell how long its first step took to come; 0 tells nothing.

        Raises
        ------
        ConfigError
            When the folder cannot be written.
        """
        with written(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "results.json").unlink(missing_ok=True)
            for name in ("results.json", "report.html"):
                remove_unfinished(self._folder, name)
            self._lines.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in self.history))
            if self._tensorboard:
                self._scalars = Scalars(self._folder / "tensorboard", self.history)
        self._started = started

    def close(self) -> None:
        """Close what was opened."""
        if self._scalars is not None:
            self._scalars.close()

    def count(self, amounts: Mapping[str, float]) -> None:
        """Add to the totals."""
        for name, amount in amounts.items():
            self._totals[name] = self._totals.get(name, 0) + amount

    def training(self, plan: RoundPlan, opened: Round, usable: Sequence[Reply], wall_s: float) -> None:
        """Report a round of training: a line per task, and the rate."""
        steps = sum(reply.metrics["steps"] for reply in usable)
        up, down = opened.total_bytes()
        body_steps = sum(cohort.steps_done for cohort in opened.cohorts)
        self.count({"steps": steps, "body_steps": body_steps, "bytes_up": up, "bytes_down": down})
        frames_up, frames_down = opened.frame_bytes()
        self.count({"step_bytes_up": frames_up, "step_bytes_down": frames_down})
        self._note_first_step(opened)
        session_s = _sessions_s(opened, usable)
        failed = {session.client for _, session in opened.sessions.values()} - {
            reply.participant.client for reply in usable
        }
        for task, replies in _by_task(usable).items():
            line = {
                "event": "train", "round": plan.index, "cycle": plan.half_cycle, "phase": plan.phase,
                "task": task, "clients": [reply.participant.client for reply in replies],
                "round_bytes_up": up, "round_bytes_down": down, "round_wall_s": round(wall_s, 3),
                "round_session_s": round(session_s, 3), "left_out": opened.problems,
                "failed": sorted(failed | opened.failed),
            }  # fmt: skip
            for key in _LOSSES_AND_TIMES:
                line[key.replace("-", "_")] = sum(reply.metrics[key] for reply in replies) / len(replies)
            self._add(line | _server_s(opened, replies))
            fresh = [reply.participant.client for reply in replies if reply.metrics["fresh-moments"]]
            if fresh:
                logger.warning("lost their private store and started with fresh moments: %s", ", ".join(fresh))
            logger.info("\t%-10s loss %.5f -> %.5f", task, line["loss_first"], line["loss_last"])
        logger.info(
            "\t%.0f client-steps in %.1f s: %.1f client-steps/s, %.1f MiB up, %.1f MiB down",
            steps, wall_s, steps / wall_s, up / 2**20, down / 2**20,
        )  # fmt: skip

    def _note_first_step(self, opened: Round) -> None:
        """Note when the first step began, and say how long after the run; steps of a lent body are not seen."""
        began = min((session.began for _, session in opened.sessions.values() if session.began), default=0.0)
        self._totals["first_step_time"] = self._totals.get("first_step_time") or began
        if began and self._started:
            logger.info("\tthe first step began %.1f s after the run", began - self._started)
            self._started = 0.0

    def evaluation(
        self, plan: RoundPlan, opened: Round, usable: Sequence[Reply], wall_s: float = 0.0
    ) -> dict[str, float]:
        """Report an evaluation: a line per task with means over its images.

        Returns
        -------
        dict
            Task name to PSNR, dB.
        """
        up, down = opened.total_bytes()
        self.count({"bytes_up": up, "bytes_down": down})
        psnr_db = {}
        for task, replies in _by_task(usable).items():
            line: dict[str, Any] = {
                "event": "evaluate", "round": plan.index, "cycle": plan.half_cycle, "phase": plan.phase,
                "task": task, "clients": [reply.participant.client for reply in replies],
                "images": _images(replies, ""), "left_out": opened.problems, "evaluation_bytes_up": up,
                "evaluation_bytes_down": down, "evaluation_wall_s": round(wall_s, 3),
                "client_s": sum(reply.metrics["wall-s"] for reply in replies) / len(replies),
            }  # fmt: skip
            line |= _server_s(opened, replies) | _means(replies, "")
            line["sets"] = {
                label: {"images": _images(replies, label), **_means(replies, label)}
                for label in opened.labels.get(task, ())
                if _images(replies, label)
            }
            psnr_db[task] = line["psnr_db"]
            self._add(line)
            logger.info(
                "\t%-10s PSNR %.2f dB (input %.2f), SSIM %.4f (input %.4f)",
                task, line["psnr_db"], line["input_psnr_db"], line["ssim"], line["input_ssim"],
            )  # fmt: skip
            for label, scores in line["sets"].items():
                logger.info("\t  %-8s PSNR %.2f dB (input %.2f)", label, scores["psnr_db"], scores["input_psnr_db"])
        return psnr_db

    def results(self, about: Mapping[str, Any]) -> Path:
        """Write ``results.json``: what was reached, and what is known about the run besides."""
        path = self._folder / "results.json"
        reached = results(self.history, self._totals)
        with written(self._folder):
            write_json(path, {**reached, **about})
        logger.info("held-out images, PSNR:\n%s", table(self.history))
        each = [reached.get(f"step_bytes_{way}", 0) / max(1, reached.get("steps", 0)) for way in ("up", "down")]
        if any(each):
            logger.info("each client-step: %.3f MiB up, %.3f MiB down", *(size / 2**20 for size in each))
        logger.info("results: %s", path)
        return path

    def _add(self, line: dict[str, Any]) -> None:
        line["time"] = time.time()
        self.history.append(line)
        with written(self._folder), self._lines.open("a") as handle:
            handle.write(json.dumps(line, sort_keys=True) + "\n")
            if self._scalars is not None:
                self._scalars.add(line)


def _sessions_s(opened: Round, usable: Sequence[Reply]) -> float:
    """Seconds from the first session's start to the last one's end: clients need not be at work at the same time."""
    ended = [(session.answered, reply.metrics["wall-s"]) for session, reply in _sessions(opened, usable)]
    return max((end for end, _ in ended), default=0.0) - min((end - wall_s for end, wall_s in ended), default=0.0)


def _sessions(opened: Round, replies: Sequence[Reply]) -> list[tuple[Session, Reply]]:
    """Replies with their sessions; whole models are trained without any."""
    nodes = [(reply.participant.node_id, reply) for reply in replies]
    return [(opened.sessions[node][1], reply) for node, reply in nodes if node in opened.sessions]


def _server_s(opened: Round, replies: Sequence[Reply]) -> dict[str, float]:
    """Seconds that the server took to answer these clients, and its body to compute; means over them."""
    own = [session for session, _ in _sessions(opened, replies)]
    return {
        "server_s": sum(session.exchange.answering_s for session in own) / len(replies),
        "body_s": sum(session.body_s for session in own) / len(replies),
    }


def _metric(name: str, label: str) -> str:
    return set_metric(name, label) if label else name


def _images(replies: Sequence[Reply], label: str) -> int:
    """How many images were scored, in all or in one set."""
    return int(sum(reply.metrics.get(_metric("images", label), 0) for reply in replies))


def _means(replies: Sequence[Reply], label: str) -> dict[str, float]:
    """Scores over all images of a task or of one set, whoever restored them."""
    own = [reply.metrics for reply in replies if _metric("images", label) in reply.metrics]
    counts = [metrics[_metric("images", label)] for metrics in own]
    means = {}
    for key in _SCORES:
        total = sum(metrics[_metric(key, label)] * count for metrics, count in zip(own, counts, strict=True))
        means[key.replace("-", "_")] = total / sum(counts)
    return means


def _by_task(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    groups: dict[str, list[Reply]] = {}
    for reply in replies:
        groups.setdefault(reply.participant.task, []).append(reply)
    return groups
