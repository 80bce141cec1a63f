"""Real Flower runs on one machine: the demo, baselines and benchmarks."""
