"""What a script has started is stopped when the script is ended."""

import subprocess
import sys

import pytest

from simulations.bench import __main__ as every

SCRIPT = """
import sys
from simulations.processes import unwind_when_ended
{call}
try:
    print("ready", flush=True)
    sys.stdin.read()
finally:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize(("call", "status", "said"), [("unwind_when_ended()", 143, "stopped\n"), ("", -15, "")])
def test_an_ended_script_unwinds(call, status, said):
    """Without the call it does not: what it has started stays behind."""
    words = [sys.executable, "-c", SCRIPT.format(call=call)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout.readline() == "ready\n"
        script.terminate()
        assert (script.wait(20), script.stdout.read()) == (status, said)


def test_a_benchmark_is_stopped_with_the_command_that_ran_it(monkeypatch):
    started, wait = [], subprocess.Popen.wait

    def ended(process, timeout=None):
        if not started:
            started.append(process)
            raise SystemExit(143)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", ended)
    with pytest.raises(SystemExit):
        every.run([sys.executable, "-c", "import time; time.sleep(60)"])
    assert started[0].poll() == -15
