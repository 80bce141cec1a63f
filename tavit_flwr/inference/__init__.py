"""Trained weights at work on one machine: restore image files, evaluate, published checkpoints in and out."""
