"""What importing the package does."""

import subprocess
import sys

import pytest

ASK = "import os, sys, tavit_flwr; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"


@pytest.mark.parametrize(("given", "kept"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_it_tells_torchs_helpers_to_rest_soon_before_torch_is_there(given, kept):
    asked = subprocess.run([sys.executable, "-c", ASK], env=given, capture_output=True, text=True, check=True)
    assert asked.stdout.split() == [kept, "False"]
