"""Every command of docs/tutorial.md, in its order, in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.flower import ROOT

LEFT_BEHIND = shutil.ignore_patterns(
    ".git", "outputs", ".venv", "__pycache__", ".*_cache", ".hypothesis", "film.yaml", "*.egg-info"
)


def commands():
    return re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs" / "tutorial.md").read_text(), re.M | re.S)


@pytest.fixture
def clone(tmp_path):
    """The project, set up: the environment is this test's."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT, folder, ignore=LEFT_BEHIND, symlinks=True)
    environment = folder / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / ".set-up").touch()  # newer than the files that `make` compares it with
    (environment / "bin" / "activate").write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    return folder


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_every_command_of_the_tutorial_works(clone, tmp_path):
    blocks = commands()
    assert len(blocks) == 7
    home = {"HOME": str(tmp_path / "home"), "FLWR_HOME": str(tmp_path / "flwr"), "PYTHONPATH": str(clone)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=clone, env=os.environ | home, capture_output=True, text=True, timeout=380, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    outputs = clone / "outputs"
    assert (outputs / "tutorial" / "run" / "report.html").is_file()
    taken = len(list((outputs / "tutorial" / "photographs").iterdir()))
    assert len(list((outputs / "tutorial" / "restored").iterdir())) == taken > 12
    assert len(list((outputs / "tutorial" / "sweep").glob("*/results.json"))) == 2
    assert "film-single" in (outputs / "compare" / "compare.md").read_text()
    gains = re.findall(r"finished .*?([+-]\d+\.\d+)", done.stdout)
    assert gains
    assert float(gains[0]) > 1  # dB: it learned something
