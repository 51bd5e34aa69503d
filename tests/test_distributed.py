"""The notebook as a script: alone, and in several processes under torchrun."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, save_photo, tree
from test_notebook import execute

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TINY = {"IMAGE_SIZE": "33", "NUM_EPOCHS": "2", "COPIES": "1", "DEVICE": "cpu", "BATCH_SIZE": "8"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """13 photos: with batches of four, the last has one, and one process none of its own."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(13):
        save_photo(folder / ("cats" if i % 2 else "dogs") / f"{i}.png", i, size=(16, 16))
    return folder


def ranks(photos, output, *arguments):
    output.mkdir(exist_ok=True)
    command = [*TORCHRUN, str(ROOT / "tests" / "ranks.py"), str(photos), str(output), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """{(processes, rank, norm): what it wrote}, and the folder of the two processes."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    done = ranks(photos, two)
    assert done.returncode == 0, done.stderr[-3000:]
    command = [sys.executable, str(ROOT / "tests" / "ranks.py"), str(photos), str(one)]
    subprocess.run(command, check=True)
    return {
        (number, rank, norm): torch.load(folder / f"rank{rank}-{norm}.pt", weights_only=True)
        for number, folder in ((1, one), (2, two))
        for rank in range(number)
        for norm in (False, True)
    }, two


def test_two_processes_share_every_batch_and_use_each_image_once_an_epoch(trained):
    runs, _ = trained
    whole, first, second = (
        runs[key]["seen"] for key in ((1, 0, False), (2, 0, False), (2, 1, False))
    )
    assert len(whole) == len(first) == len(second) == 6 * 4
    for batch, a, b in zip(whole, first, second, strict=True):
        own = b if len(batch) > 1 else []  # a lone image goes to the first; its weight is 0 there
        assert sorted(batch) == sorted(a + own)


def test_two_processes_compute_what_one_does_but_for_batch_normalisation(trained):
    runs, _ = trained
    one, two = runs[1, 0, False], runs[2, 0, False]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    for name, tensor in one["state"].items():
        torch.testing.assert_close(two["state"][name], tensor, rtol=1e-3, atol=1e-5)
    normed = runs[1, 0, True]["losses"], runs[2, 0, True]["losses"]
    assert normed[0] != pytest.approx(normed[1], rel=1e-3)  # each normalises its own half


@pytest.mark.parametrize("norm", [False, True])
def test_all_processes_end_with_equal_weights(trained, norm):
    runs, _ = trained
    a, b = runs[2, 0, norm]["state"], runs[2, 1, norm]["state"]
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert runs[2, 0, norm]["losses"] == runs[2, 1, norm]["losses"]


def test_death_of_one_process_stops_the_run_and_a_restart_goes_on(trained, photos, tmp_path):
    runs, _ = trained
    dead = ranks(photos, tmp_path, "3")
    assert dead.returncode != 0
    assert len(torch.load(tmp_path / "stateTrue.pt", weights_only=True)["losses"]) in (2, 3)
    assert ranks(photos, tmp_path, "3").returncode == 0
    after = torch.load(tmp_path / "rank0-True.pt", weights_only=True)
    assert after["losses"] == runs[2, 0, True]["losses"]
    assert all(torch.equal(after["state"][k], v) for k, v in runs[2, 0, True]["state"].items())


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("script")
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "script", "--output-dir"]
    subprocess.run([*command, str(folder), str(ROOT / "notebook.ipynb")], check=True)
    return folder / "notebook.py"


def test_script_has_no_jupyter_in_it(script):
    code = script.read_text(encoding="utf-8")
    assert "ipython" not in code.lower()
    assert not [line for line in code.splitlines() if line.lstrip().startswith(("%", "!"))]


def run_script(script, folder, pool, *command):
    environ = {"DATASET": pool, "DATA_DIR": folder / "data", "RESULTS_DIR": folder / "results"}
    environ = os.environ | TINY | {name: str(value) for name, value in environ.items()}
    environ["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [*command, str(script)], env=environ, capture_output=True, text=True, cwd=ROOT
    )


@pytest.fixture(scope="module")
def insects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("insects")
    for i in range(10):
        save_photo(folder / "ants" / f"{i}.png", i)
        save_photo(folder / "bees" / f"{i}.png", 100 + i)
    return folder


def test_script_papermill_and_nbconvert_give_the_same_metrics(script, insects, tmp_path):
    for name in ("script", "papermill", "nbconvert"):
        (tmp_path / name).mkdir()
    assert run_script(script, tmp_path / "script", insects, sys.executable).returncode == 0
    assert execute(tmp_path / "nbconvert", DATASET=str(insects), **TINY).returncode == 0
    own, places = tmp_path / "papermill", {"dataset": insects}
    places |= {"data_dir": own / "data", "results_dir": own / "results"}
    command = [sys.executable, "-m", "papermill", ROOT / "notebook.ipynb", own / "executed.ipynb"]
    for name, value in (TINY | places).items():
        command += ["-p", name.lower(), str(value)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = []
    for name in ("script", "papermill", "nbconvert"):
        results = tmp_path / name / "results"
        metrics = json.loads((results / "metrics.json").read_text())
        assert metrics["config"].pop("results_dir") == str(results)
        assert metrics["config"].pop("data_dir") == str(tmp_path / name / "data")
        for arm in metrics["arms"].values():
            del arm["runs"][0]["seconds"]
        found.append((metrics, (results / "predictions.csv").read_text()))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["dataset"]["classes"] == ["ants", "bees"]


def test_script_trains_in_two_processes_and_only_the_first_writes(script, insects, tmp_path):
    done = run_script(script, tmp_path, insects, *TORCHRUN)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert [len(entry["runs"]) for entry in metrics["arms"].values()] == [1, 1]
    rows = (tmp_path / "results" / "predictions.csv").read_text().splitlines()
    assert len(rows) == len(set(rows)) == 1 + 2 * 4
    assert len((tmp_path / "results" / "run.log").read_text().splitlines()) == 2 * 2
    assert done.stdout.count("Does augmentation help?") == 1
    assert done.stdout.count("readable images") == 1
    assert not [name for name in tree(tmp_path) if "partial" in name or name.endswith(".lock")]


def test_script_says_in_one_line_what_is_wrong(script, tmp_path):
    done = run_script(script, tmp_path, tmp_path / "nowhere", sys.executable)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("InputError: dataset = ")
    assert "Traceback" not in done.stderr
