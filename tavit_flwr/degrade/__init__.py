"""Degradation operators ``degraded = N(A(clean))``, each drawing from a generator it is given.

A degradation is one function in one file and one line in `DEGRADATIONS`. The function takes its options as keyword
arguments with defaults and returns a `Degrade`; names and types of the options are read from its signature.
"""

from __future__ import annotations

from collections.abc import Mapping

from tavit_flwr.degrade.blur import motion_blur
from tavit_flwr.degrade.contract import Degradation, Degrade
from tavit_flwr.degrade.jpeg import jpeg
from tavit_flwr.degrade.missing import missing_pixels
from tavit_flwr.degrade.noise import noise
from tavit_flwr.degrade.options import checked_options, unknown_name
from tavit_flwr.degrade.rain import rain
from tavit_flwr.degrade.resolution import low_resolution

__all__ = ["DEGRADATIONS", "Degradation", "Degrade", "degradation"]

DEGRADATIONS: dict[str, Degradation] = {
    "noise": noise,
    "jpeg": jpeg,
    "rain": rain,
    "motion_blur": motion_blur,
    "missing_pixels": missing_pixels,
    "low_resolution": low_resolution,
}


def degradation(name: str, options: Mapping[str, object]) -> Degrade:
    """Bind a degradation to its options; everything that can be wrong with them is said here.

    Parameters
    ----------
    name : str
        A key of `DEGRADATIONS`.
    options : mapping of str to object
        Options of that degradation; what is left out keeps its default.

    Returns
    -------
    Degrade
        A callable ``(clean_BCHW, generator) -> degraded_BCHW`` with `margin_px` and `variants`.

    Raises
    ------
    ConfigError
        The name or an option is unknown (the nearest known name is given), or a value has the wrong type or range.
    """
    factory = DEGRADATIONS.get(name)
    if factory is None:
        raise unknown_name("a degradation", name, list(DEGRADATIONS))
    return factory(**checked_options(name, factory, options))
