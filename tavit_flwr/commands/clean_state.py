"""``tavit clean-state``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tavit_flwr.commands.options import errors_end_the_command

_DAY_S = 86400.0


def clean_state_command(
    state_dir: Annotated[
        Path | None, typer.Argument(help="A node's state-dir; $TAVIT_STATE_DIR without it", show_default=False)
    ] = None,
    older_than_days: Annotated[float, typer.Option(min=0, help="Leave what was written since then")] = 30.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it they are only listed")] = False,
) -> None:
    """List or delete the moments and weights that stopped runs left on this machine. Such a run can go on without them.

    A finished run deletes its own.
    """
    with errors_end_the_command():
        from tavit_flwr.client.leftovers import find_leftovers
        from tavit_flwr.client.store import default_state_dir

        root = (state_dir or default_state_dir()).expanduser()
        before_s = time.time() - older_than_days * _DAY_S
        found = [one for one in find_leftovers(root) if one.last_used_s <= before_s]
        for one in found:
            last_used = datetime.fromtimestamp(one.last_used_s, UTC)
            typer.echo(f"{last_used:%Y-%m-%d}  {one.size_bytes / 2**20:8.1f} MiB  {one.folder}")
            if delete:
                one.remove()
    total = f"{len(found)} stores, {sum(one.size_bytes for one in found) / 2**20:.1f} MiB"
    typer.echo(f"{'deleted' if delete else 'found'} {total} in {root}" + ("" if delete else "; --delete removes them"))
