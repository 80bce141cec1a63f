"""Fill the page's template."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from tavit_flwr.files import write_whole
from tavit_flwr.server.page import charts, shape
from tavit_flwr.server.page.pictures import Picture
from tavit_flwr.server.page.template import PAGE, SCRIPT, STYLE
from tavit_flwr.server.provenance import now

#: Seconds after which the page of a running experiment loads itself again.
REFRESH_S = 20

_REFRESH = Markup(f'<meta http-equiv="refresh" content="{REFRESH_S}">')
_RUNNING = f"Running; this page loads itself again every {REFRESH_S} s"
_MARKS = {
    shape.TRAINED: Markup(" class=yes>✓"), shape.FAILED: Markup(" class=no>✗"), shape.NOT_ASKED: Markup(">–"),
}  # fmt: skip


def render(
    history: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    *,
    rounds: int,
    rounds_planned: int,
    final: bool,
    pictures: Sequence[Picture] = (),
    participants: Mapping[str, str] | None = None,
    provenance: Mapping[str, str] | None = None,
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
    participants : mapping, optional
        Client to task, of all that enrolled.
    provenance : mapping, optional
        What made the run; see `tavit_flwr.server.provenance`.

    Returns
    -------
    str
        HTML that needs no other file. Names are escaped: they come from nodes.
    """
    who_rounds, who, problems = shape.participation(history, participants or {})
    return _template().render(
        name=config["name"], config=config, config_text=json.dumps(config, indent=2, sort_keys=True),
        rounds=rounds, rounds_planned=rounds_planned, final=final, refresh="" if final else _REFRESH,
        state="Finished" if final else _RUNNING, written=now(), marks=_MARKS,
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
        who_rounds=who_rounds, who=who, problems=problems, provenance=provenance or {},
    )  # fmt: skip


def stop_page(path: Path, reason: str) -> None:
    """Let the page of a run that failed say so, and no longer load itself again; other pages stay as they are."""
    if not path.is_file() or _RUNNING not in (page := path.read_text()):
        return
    page = page.replace(str(_REFRESH), "", 1).replace("(running)", "(stopped)", 1)
    page = page.replace(_RUNNING, str(Markup('<span class="problem">Stopped: {}</span>').format(reason)), 1)
    write_whole(path, lambda beside: beside.write_text(page))


@functools.cache
def _template() -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)
