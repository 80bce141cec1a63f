"""Restore image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tavit_flwr.errors import TavitError
from tavit_flwr.inference.decode import read_picture
from tavit_flwr.inference.encode import write_picture
from tavit_flwr.inference.inputs import Job, plan
from tavit_flwr.inference.restorer import Restorer, Settings, load_restorer

#: What may go wrong with one image while the others go on; RuntimeError is torch's lack of memory.
FAILURES = (TavitError, OSError, MemoryError, RuntimeError)


def restore(
    inputs: Sequence[str],
    output: Path,
    *,
    weights: Path,
    task: str,
    settings: Settings | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> int:
    """Restore images into a folder, with a progress bar and a line for each that fails.

    Parameters
    ----------
    inputs, output, overwrite
        See `tavit_flwr.inference.inputs.plan`.
    weights, task
        See `tavit_flwr.models.stored.load_parts`.
    settings : Settings, optional
        How to restore.
    console : Console, optional
        Where bar and lines go, by default the standard error.

    Returns
    -------
    int
        How many images failed; the others are written.

    Raises
    ------
    TavitError
        If weights, settings or inputs cannot be used; nothing is written then.
    """
    console = console or Console(stderr=True)
    jobs = plan(inputs, output, overwrite=overwrite)
    restorer = load_restorer(weights, task, settings, partial(say, console))
    failures = 0
    with progress_bar(console) as progress:
        images, windows = progress.add_task("images", total=len(jobs)), progress.add_task("windows", total=None)

        def begin(count: int) -> None:
            progress.reset(windows, total=count)

        def advance(count: int) -> None:
            progress.advance(windows, count)

        for job in jobs:
            reason = _try_one(job, restorer, begin, advance)
            if reason:
                failures += 1
                say(console, f"failed: {job.source}: {reason}")
            progress.advance(images)
    say(console, f"restored {len(jobs) - failures} of {len(jobs)} images into {output}")
    return failures


def restore_file(
    source: Path,
    target: Path,
    restorer: Restorer,
    begin: Callable[[int], None] = lambda windows: None,
    advance: Callable[[int], None] = lambda windows: None,
) -> None:
    """Restore one file: same size, bits, alpha and colour profile.

    Parameters
    ----------
    source, target : Path
        The image, and where the result goes; what is there is replaced.
    restorer : Restorer
        The model.
    begin, advance : callable
        Told how many windows there are, and of windows as they are done.

    Raises
    ------
    DataError
        If the source cannot be decoded.
    OSError
        If the target cannot be written.
    """
    picture = read_picture(source)
    begin(restorer.windows(*picture.size))
    write_picture(target, restorer.picture(picture, advance))


def progress_bar(console: Console) -> Progress:
    """Make the bar that all commands show."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def say(console: Console, line: str) -> None:
    """Print one line as it is, however long."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _try_one(job: Job, restorer: Restorer, begin: Callable[[int], None], advance: Callable[[int], None]) -> str:
    """Restore one image; return why that failed, empty if it did not."""
    if job.refused:
        return job.refused
    try:
        restore_file(job.source, job.target, restorer, begin, advance)
    except FAILURES as error:
        return one_line(error)
    return ""


def one_line(error: BaseException) -> str:
    """An error's kind and text without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())
