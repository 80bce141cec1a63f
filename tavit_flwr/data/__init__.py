"""Images in: sources, who holds which images, and seeded batch streams."""

from __future__ import annotations

from tavit_flwr.data.client_data import ClientData, load_client_data
from tavit_flwr.data.held_out import HeldOut, held_out_pairs
from tavit_flwr.data.images import ImageSet, LazyImages, Sample
from tavit_flwr.data.scored_sets import labels_of
from tavit_flwr.data.stream import Batch, BatchStream

__all__ = [
    "Batch",
    "BatchStream",
    "ClientData",
    "HeldOut",
    "ImageSet",
    "LazyImages",
    "Sample",
    "held_out_pairs",
    "labels_of",
    "load_client_data",
]
