"""Real Flower runs on one machine: the demo, baselines and benchmarks."""

import tavit_flwr  # noqa: F401 - before torch: it sets how soon torch's helpers rest
