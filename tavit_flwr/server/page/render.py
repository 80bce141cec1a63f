"""Fill the page's template."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from tavit_flwr.server.page import charts, shape
from tavit_flwr.server.page.pictures import Picture
from tavit_flwr.server.page.template import PAGE, SCRIPT, STYLE

#: Seconds after which the page of a running experiment loads itself again.
REFRESH_S = 20


def render(
    history: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    *,
    rounds: int,
    rounds_planned: int,
    final: bool,
    pictures: Sequence[Picture] = (),
) -> str:
    """Make the whole page.

    Parameters
    ----------
    history : sequence of mapping
        Metric lines so far.
    config : mapping
        The resolved configuration.
    rounds, rounds_planned : int
        Done, and in all.
    final : bool
        A page that is not final loads itself again.
    pictures : sequence of Picture
        Embedded; none where the clients' images are elsewhere.

    Returns
    -------
    str
        HTML that needs no other file. Names are escaped: they come from nodes.
    """
    who_rounds, who, problems = shape.participation(history)
    return _template().render(
        name=config["name"], config=config, config_text=json.dumps(config, indent=2, sort_keys=True),
        rounds=rounds, rounds_planned=rounds_planned, final=final, refresh_s=REFRESH_S,
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        style=Markup(STYLE), script=Markup(SCRIPT), tasks=shape.task_rows(history), pictures=pictures,
        psnr=charts.lines(
            shape.scores(history, "psnr_db"), title="PSNR of held-out images by half cycle, a line a task",
            x_label="cycle", y_label="dB",
        ),
        ssim=charts.lines(
            shape.scores(history, "ssim"), title="SSIM of held-out images by half cycle, a line a task",
            x_label="cycle", y_label="",
        ),
        loss=charts.lines(
            shape.losses(history), title="mean loss of each round, a line a task, logarithmic", x_label="round",
            y_label="", log=True,
        ),
        traffic=charts.bars(
            shape.traffic(history), ("up", "down"), title="MiB up and down by phase", unit="MiB"
        ),
        times=charts.bars(
            shape.times(history), shape.PLACES,
            title="seconds by phase and place", unit="s",
        ),
        who_rounds=who_rounds, who=who, problems=problems, provenance=_provenance(),
    )  # fmt: skip


@functools.cache
def _template() -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)


@functools.cache
def _provenance() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("flwr", "torch", "numpy")}
    return packages | {"python": platform.python_version(), "platform": platform.platform()}
