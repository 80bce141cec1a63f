"""Words out of a list, and the nearest one to a word that is not in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from tavit_flwr.errors import ConfigError


def nearest(word: str, known: Iterable[str], cutoff: float = 0.4) -> str:
    """Say which known word comes nearest; empty where none is near, and never the word itself."""
    close = difflib.get_close_matches(word, [name for name in known if name != word], n=1, cutoff=cutoff)
    return f"did you mean '{close[0]}'?" if close else ""


def one_of(choices: Sequence[str], value: object, where: str) -> str:
    """Give the value back if it is one of the choices.

    Raises
    ------
    ConfigError
        It is none of them; the nearest one is named.
    """
    if value not in choices:
        raise ConfigError(f"one of {list(choices)}", repr(value), where, nearest(str(value), choices, 0.3))
    return str(value)
