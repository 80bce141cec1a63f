"""What importing the package does."""

import platform
import subprocess
import sys

import pytest

ASK = "import os, sys, tavit_flwr; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"


@pytest.mark.parametrize(("given", "kept"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_it_tells_torchs_helpers_to_rest_soon_before_torch_is_there(given, kept):
    asked = subprocess.run([sys.executable, "-c", ASK], env=given, capture_output=True, text=True, check=True)
    assert asked.stdout.split() == [kept, "False"]


STEPS = """
import resource, tavit_flwr
for _ in range(20):
    pieces = [bytearray(b"1") * 2**22 for _ in range(4)]
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have habits of their own")
def test_memory_that_a_step_frees_is_there_for_the_next():
    """16 MiB a step are 4,096 pages, each set aside and cleared anew if the memory was given back meanwhile."""
    asked = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(asked.stdout) < 3 * 4096
