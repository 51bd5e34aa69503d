"""data/workers.py: the copies made on a Dask cluster, a small one on the loopback."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
from conftest import CLI, fails, make_pool, tree, wait_for

from augment import augment_folder

distributed = pytest.importorskip("distributed")


def begin(stack, folder, *arguments):
    """Start `dask ARGUMENTS` where our code is not on its path; it ends with the stack."""
    command = [sys.executable, "-m", "dask", *map(str, arguments), "--host", "127.0.0.1"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen([*command, "--no-dashboard"], cwd=folder, env=environ, **quiet)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def start(stack, folder, workers, threads=1):
    """Start a scheduler on a free port, and workers; return its address and the processes."""
    file = folder / "scheduler.json"
    begun = [begin(stack, folder, "scheduler", "--port", "0", "--scheduler-file", file)]
    address = json.loads(wait_for(lambda: file.exists() and file.read_text()))["address"]
    options = "worker", address, "--nthreads", threads, "--no-nanny"
    begun += [begin(stack, folder, *options) for _ in range(workers)]
    with distributed.Client(address, timeout=20) as client:
        client.wait_for_workers(workers, timeout=30) if workers else None
    return address, *begun


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster of two workers."""
    with contextlib.ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("cluster"), 2)[0]


def test_cluster_gives_the_same_bytes_and_makes_only_what_is_missing(cluster, pool, tmp_path):
    (pool / "cats" / "broken.jpg").write_bytes(b"<html>")
    here, there = tmp_path / "here", tmp_path / "there"
    expected, report = augment_folder(pool, here), augment_folder(pool, there, scheduler=cluster)
    assert (report.images, report.left_out) == (expected.images, expected.left_out)
    assert tree(there) == tree(here)
    (there / "cats" / "cat_03_aug1.jpg").unlink()
    assert augment_folder(pool, there, scheduler=cluster).made == 1
    augment_folder(pool, here, operations="blur,rotate")
    command = [*CLI, "pool", "there", "--operations", "blur,rotate", "--scheduler", cluster]
    done = subprocess.run(command, cwd=tmp_path, timeout=60)  # paths below where it was started
    assert done.returncode == 1
    assert tree(there) == tree(here)


def test_copy_that_cannot_be_written_is_one_line(cluster, small_pool, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dogs").write_text("in the way")
    with fails(r"dogs/\d_aug0\.jpg: cannot be written, "):
        augment_folder(small_pool, tmp_path / "out", scheduler=cluster)
    (tmp_path / "out" / "dogs").unlink()
    assert augment_folder(small_pool, tmp_path / "out", scheduler=cluster).images == 12


def test_cluster_that_cannot_be_used_is_one_line(small_pool, tmp_path, monkeypatch):
    def augment(address):
        augment_folder(small_pool, tmp_path / "out", scheduler=address)

    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with fails(f"scheduler = '{address}': no Dask scheduler answers"):
            augment(address)
    for workers, line in ((0, "there is no worker"), (1, "a worker has 2 threads")):
        (folder := tmp_path / str(workers)).mkdir()
        with contextlib.ExitStack() as stack:
            address, *_ = start(stack, folder, workers, threads=2)
            with fails(f"{line}.*: dask worker {address} --nthreads 1"):
                augment(address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with fails("a cluster needs Dask here as well: pip install distributed"):
        augment(address)
    assert not tree(tmp_path / "out")


@pytest.mark.parametrize("victims", ["workers", "scheduler"])
def test_cluster_that_is_lost_ends_in_one_line_and_a_rerun_goes_on(tmp_path, victims):
    pool, output = make_pool(tmp_path / "pool", 60), tmp_path / "out"
    command = [*CLI, pool, output, "--copies", "20", "--scheduler"]
    with contextlib.ExitStack() as stack:
        address, scheduler, *workers = start(stack, tmp_path, 2)
        run = subprocess.Popen([*command, address], stderr=subprocess.PIPE, text=True)
        stack.callback(run.kill)
        wait_for(lambda: len(list(output.glob("*/*.jpg"))) > 20)
        for process in workers if victims == "workers" else [scheduler]:
            process.kill()
        line = run.communicate(timeout=30)[1].splitlines()[-1]
    assert line.startswith(f"augment.py: scheduler = '{address}': the work was lost with its work")
    assert line.endswith("start them and run this again: it goes on from there")
    assert run.returncode == 2
    report = augment_folder(pool, output, copies=20)
    assert report.kept > 20
    assert report.made > 0
    assert {name[-4:] for name in tree(output)} == {".jpg", ".csv"}
