"""Benchmarks: each is one command, measures side by side in one run, and reports ratios with their spread."""
