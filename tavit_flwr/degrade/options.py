"""Checks of a degradation's options against the signature of the function that takes them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tavit_flwr.degrade.contract import Degradation
from tavit_flwr.errors import ConfigError


def unknown_name(what: str, name: str, known: Sequence[str]) -> ConfigError:
    """Make the error for a name that is not in a list, with the nearest one that is."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'?" if nearest else ""
    return ConfigError(f"{what} out of {', '.join(known) or 'none'}", f"'{name}'", hint=hint)


def checked_options(name: str, factory: Degradation, options: Mapping[str, object]) -> dict[str, Any]:
    """Check names and types of options.

    Parameters
    ----------
    name : str
        The degradation, for the error.
    factory : Degradation
        The function that takes the options as keyword arguments.
    options : mapping of str to object
        What the configuration says.

    Returns
    -------
    dict
        The options, numbers and lists converted to the declared type.

    Raises
    ------
    ConfigError
        An option is unknown or its value has the wrong type.
    """
    hints = get_type_hints(factory)
    known = list(inspect.signature(factory).parameters)
    checked: dict[str, Any] = {}
    for option, value in options.items():
        if option not in known:
            raise unknown_name(f"an option of '{name}'", option, known)
        checked[option] = _converted(value, hints[option], f"option '{option}' of degradation '{name}'")
    return checked


def _converted(value: object, hint: object, where: str) -> object:
    """Return the value as the hint's type: float, int, str, one of some words, or a tuple of one of these."""
    if get_origin(hint) is Literal:
        words = get_args(hint)
        if value not in words:
            raise ConfigError(f"one of {', '.join(map(str, words))}", repr(value), where)
        return value
    if get_origin(hint) is Sequence:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError("a list", repr(value), where)
        return tuple(_converted(item, get_args(hint)[0], where) for item in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    raise ConfigError(f"a value of type {getattr(hint, '__name__', hint)}", repr(value), where)
