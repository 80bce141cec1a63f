"""Whole models, not split: Flower's FedAvg or FedProx for each task, on the images and scores of the split runs."""
