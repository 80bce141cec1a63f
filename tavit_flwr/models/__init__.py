"""Head, body and tail: presets, construction and initialisation."""

from tavit_flwr.models.body import Body
from tavit_flwr.models.head import Head, HeadOutput
from tavit_flwr.models.initialise import initialise_part
from tavit_flwr.models.official import load_official
from tavit_flwr.models.parts import AnyHead, Parts, build_body, build_head, build_parts, build_tail
from tavit_flwr.models.presets import PRESETS, Preset, preset
from tavit_flwr.models.tail import Tail

__all__ = [
    "PRESETS",
    "AnyHead",
    "Body",
    "Head",
    "HeadOutput",
    "Parts",
    "Preset",
    "Tail",
    "build_body",
    "build_head",
    "build_parts",
    "build_tail",
    "initialise_part",
    "load_official",
    "preset",
]
