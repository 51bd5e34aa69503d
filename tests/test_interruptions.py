"""A few kills of the whole notebook; tests/kills.py makes as many as one likes."""

import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_killed_runs_end_like_one_that_was_left_alone():
    command = [sys.executable, str(ROOT / "tests" / "kills.py"), "--kills", "2", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
