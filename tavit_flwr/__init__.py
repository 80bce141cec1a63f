"""Split learning of image restoration on Flower: private heads and tails, one shared body."""

__version__ = "0.1.0"
