"""Split learning of image restoration on Flower: a head and tail per task, one shared body.

Whoever imports this package before torch gets helpers of torch that rest soon (`GOMP_SPINCOUNT`).
"""

import os

__version__ = "0.1.0"

#: How long torch's helpers look out for more work after a piece of it, in turns of a loop; ours, about 0.02 ms. GNU
#: OpenMP's 300,000 are 5 ms in which they hold cores that the other side of the step, or gRPC, waits for.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
