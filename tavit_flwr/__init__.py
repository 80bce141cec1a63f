"""Split learning of image restoration on Flower: a head and tail per task, one shared body."""

__version__ = "0.1.0"
