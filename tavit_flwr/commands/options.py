"""Options that several commands share, and how errors end a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tavit_flwr.errors import ConfigError, TavitError

if TYPE_CHECKING:
    from tavit_flwr.inference.restorer import Settings

Weights = Annotated[
    Path, typer.Option(help="A run's output folder, one of its checkpoints, or an imported folder", show_default=False)
]
Task = Annotated[str, typer.Option(help="The task whose head and tail are used", show_default=False)]
Stride = Annotated[int, typer.Option(help="Distance between windows, pixels; the paper's is 16, larger is faster")]
BatchSize = Annotated[int, typer.Option(help="Windows a call of the model; 0 fits them into memory")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16")]
Threads = Annotated[int, typer.Option(help="Threads of torch; 0 takes every core")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>")]


def settings_of(stride: int, batch_size: int, bf16: bool, threads: int, device: str) -> Settings:
    """Make settings of the options."""
    from tavit_flwr.inference.restorer import Settings

    return Settings(stride, batch_size, bf16, threads, device)


def pairs_of(words: list[str], option: str) -> dict[str, str]:
    """Split words ``NAME=VALUE``; `ConfigError` for another form or a name given twice."""
    found: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name or not value or name in found:
            raise ConfigError("NAME=VALUE, each name once", repr(word), option)
        found[name] = value
    return found


@contextmanager
def errors_end_the_command() -> Iterator[None]:
    """Turn a `TavitError` into one line on the standard error and exit status 2."""
    try:
        yield
    except TavitError as error:
        typer.echo(f"{type(error).__name__}: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None
