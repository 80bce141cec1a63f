"""The two apps, under names that Flower finds in this folder."""

from simulations.whole.client import app as client
from simulations.whole.server import app as server

__all__ = ["client", "server"]
