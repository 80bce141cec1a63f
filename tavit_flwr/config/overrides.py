"""Overrides written by programs."""

from __future__ import annotations

import re


def override(key: str, value: object) -> str:
    """Write an override whose value Hydra reads as it is: a path with spaces, commas, quotes or ``${``.

    Join several with `shlex.join`, since `compose` splits one text as a shell would.
    """
    text = re.sub(r"(\\+)(?='|$)", r"\1\1", str(value))  # Hydra takes backslashes for escapes before a quote only
    text = text.replace("'", "\\'").replace("${", "\\${")
    return f"{key}='{text}'"
