"""data/files.py: one run at a time in a folder, also where the file system has no locks."""

import errno
import os
import subprocess
import sys

import pytest
from conftest import ROOT, fails

from data.files import claim

HOLD = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from data.files import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Another process that holds the folder until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "data"), str(ROOT)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    """A file system without locks, such as some NFS."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(file, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_folder_is_for_one_run_at_a_time_and_free_when_it_ends(tmp_path, elsewhere):
    line = "data: another run is using it: wait, shut its kernel down or choose"
    with fails(line), claim(tmp_path / "data"):
        pytest.fail("two hold it")
    elsewhere.communicate()
    with claim(tmp_path / "data"), claim(tmp_path / "data"):
        pass


def test_the_file_of_a_lock_stays_so_that_no_two_hold_different_ones(tmp_path):
    for _ in range(2):
        with claim(tmp_path):
            inode = (tmp_path / ".lock").stat().st_ino
        assert (tmp_path / ".lock").stat().st_ino == inode


def test_without_locks_of_the_file_system_a_file_keeps_others_out(tmp_path, no_locks):
    with claim(tmp_path):
        (marker,) = [path for path in tmp_path.iterdir() if path.read_bytes()]
        with claim(tmp_path):
            assert marker.exists()
    assert not marker.exists()
    marker.write_text(f"{os.getppid()}\nanother computer\n")
    line = f"another run is using it: wait.*; if no run is, delete {marker}"
    with fails(line), claim(tmp_path):
        pytest.fail("two hold it")
