"""Split learning of image restoration on Flower: a head and tail per task, one shared body.

Importing this package tells the process how to treat threads and memory, before torch is there to read it.
"""

import os

__version__ = "0.1.0"

#: How long torch's helpers look out for more work after a piece of it, in turns of a loop; ours, about 0.02 ms. GNU
#: OpenMP's 300,000 are 5 ms in which they hold cores that the other side of the step, or gRPC, waits for.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

#: glibc gives freed memory back to the system and fetches it again, page by page, at the next step. It keeps pieces up
#: to the size of one that it has seen freed, and twice that much in all; this is the largest that it learns from.
bytes(32 * 2**20 - 2**13)
