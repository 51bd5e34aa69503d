"""The whole notebook at tiny size: by nbconvert, as a script, by papermill, in JupyterLab."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
from conftest import CODE, ROOT, make_pool, tree
from nbconvert import PythonExporter

TINY = {"image_size": 33, "num_epochs": 2, "batch_size": 64, "copies": 1, "model": "resnet18"}
FIGURES = (
    "augmentation confusion counts difference erased faithfulness grad_cam images loss predict"
)


def environment(folder, **parameters):
    """Return an environment that steers the notebook; no Kaggle is reached, nor the tests' own."""
    places = {"data_dir": folder / "data", "results_dir": folder / "results"}
    settings = {name.upper(): str(x) for name, x in (TINY | places | parameters).items()}
    stray = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}  # left by a cluster
    offline = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "KAGGLEHUB_CACHE": str(folder / "cache")}
    return os.environ | settings | stray | offline


def run(command, environ):
    """Run `python COMMAND` in the project's folder; return what it prints."""
    options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 900}
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, cwd=ROOT, env=environ, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def convert(folder, **parameters):
    """Run the notebook by nbconvert; return its code cells."""
    command = ["-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "notebook.ipynb"]
    command += ["--output-dir", folder, "--output", "executed"]
    run(command, environment(folder, **parameters))
    return code_cells(folder / "executed.ipynb")


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def outputs_of(cells):
    return [output for cell in cells for output in cell["outputs"]]


def text_of(cells):
    """Return all that cells show as text."""
    texts = []
    for output in outputs_of(cells):
        shown = output.get("data", {})
        shown = shown.get("text/markdown") or shown.get("text/plain") or output.get("text", "")
        texts.append("".join(shown))
    return "\n".join(texts)


def metrics_of(results):
    """Return metrics.json without what differs between equal runs."""
    metrics = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
    for entry in metrics["arms"].values():
        assert all(one.pop("seconds") >= 0 for one in entry["runs"])
    return metrics | {"config": {**metrics["config"], "results_dir": ""}}


def rows_of(results):
    with open(results / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The folder and the cells of a run by nbconvert."""
    folder = tmp_path_factory.mktemp("offline")
    return folder, convert(folder)


def test_without_kaggle_drawings_stand_in_and_everything_says_so(offline):
    folder, cells = offline
    text, metrics = text_of(cells), metrics_of(folder / "results")
    assert "These are drawings, not photos" in text and "ConnectionError" in text
    assert "Of drawings, not of photos" in text and "Five groups" not in text
    assert metrics["dataset"]["drawn"] and metrics["dataset"]["source"].startswith("drawings")
    assert metrics["dataset"]["counts"] == {
        part: {"cats": n, "dogs": n} for part, n in (("train", 56), ("train_aug", 56), ("test", 14))
    }
    assert len(re.findall(r"(\d+)/\1 steps", text)) == 2  # one line stays of each run
    assert "No verdict" in text
    # in the table of comparisons, which is HTML
    assert "none below 5 repeats" in json.dumps(outputs_of(cells))


def test_outputs_are_pictures_and_lines_without_errors_or_warnings(offline):
    folder, cells = offline
    shown = outputs_of(cells)
    assert not [x for x in shown if x["output_type"] == "error" or x.get("name") == "stderr"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [x for x in shown if {"image/png", "image/jpeg"} & set(x.get("data", {}))]
    files = set(tree(folder / "results"))
    drawn = {name for name in files if name.endswith(".png")}
    assert len(pictures) == len(drawn) and drawn >= {f"{name}.png" for name in FIGURES.split()}
    assert {"original.pt", "augmented.pt", "metrics.json", "predictions.csv", "run.log"} < files
    assert not [name for name in files if "unfinished" in name]
    assert (folder / "executed.ipynb").stat().st_size < 1_500_000


# an exported notebook whose states are written after every epoch
OFTEN = "from data.notebook import runs\nruns.SECONDS_BETWEEN_STATES = 0\n"
SPAWN = "import multiprocessing\nmultiprocessing.set_start_method('spawn', force=True)\n"


def test_a_script_that_was_killed_ends_the_same_where_processes_are_spawned(offline, tmp_path):
    folder, _ = offline
    (tmp_path / "sitecustomize.py").write_text(SPAWN)
    source, _ = PythonExporter().from_filename(str(ROOT / "notebook.ipynb"))
    (tmp_path / "notebook.py").write_text(OFTEN + source, encoding="utf-8")
    results = tmp_path / "results"
    # in the home folder
    environ = environment(folder, results_dir="~/results")
    environ |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "HOME": str(tmp_path)}
    command = [sys.executable, str(tmp_path / "notebook.py")]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL) as script:
        while not list(results.glob("runs/*.pt")) and script.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                script.wait(0.01)
        script.kill()
    assert script.returncode == -signal.SIGKILL
    assert not (results / "augmented.pt").exists()
    said = run(command[1:], environ)
    assert "original, seed 42: accuracy" in said
    assert "No verdict" in said
    assert_same(folder / "results", results)


def test_papermill_on_a_cluster_gives_the_same_bytes(offline, tmp_path):
    from test_augment import start

    folder, _ = offline
    (tmp_path / "workers").mkdir()
    settings = TINY | {"data_dir": folder / "data", "results_dir": tmp_path / "results"}
    command = ["-m", "papermill", ROOT / "notebook.ipynb", tmp_path / "executed.ipynb"]
    command += [x for name, value in settings.items() for x in ("-p", name, value)]
    environ = {k: x for k, x in environment(folder).items() if k.lower() not in settings}
    with contextlib.ExitStack() as stack:
        address = start(stack, tmp_path / "workers", 2)[0]
        run([*command, "--cwd", ROOT], environ | {"SCHEDULER": address})
    assert_same(folder / "results", tmp_path / "results")
    assert "from the environment" not in text_of(code_cells(tmp_path / "executed.ipynb"))


def assert_same(a, b):
    """Assert that two runs gave the same figures, and predictions byte for byte."""
    assert metrics_of(a) == metrics_of(b)
    assert (a / "predictions.csv").read_bytes() == (b / "predictions.csv").read_bytes()


CLASSES = ["<img src=x onerror=alert(1)>", "[a](b)|c", "$\\x$ 'line\nbreak'", '"q", 100 %', "NA"]
# more than a confusion matrix writes numbers for
CLASSES = sorted([*CLASSES, "🐈 é", *(f"kind {i}" for i in range(16))])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The folder and the cells of a run on 22 classes of five photos."""
    folder = tmp_path_factory.mktemp("many")
    make_pool(folder / "pool", 5, CLASSES)
    arms = "original,augmented,original_matched,mixed"
    settings = {"dataset": folder / "pool", "arms": arms, "repeats": 3}
    settings |= {"image_size": 32, "num_epochs": 1, "batch_size": 256}
    return folder, convert(folder, **settings)


class TestManyClasses:  # a class, that another process may take it
    def test_every_file_is_as_the_contract_says(self, many):
        folder, _ = many
        metrics = metrics_of(folder / "results")
        assert metrics["dataset"]["classes"] == CLASSES
        counts = metrics["dataset"]["counts"]
        assert counts["train"] == counts["train_aug"] == dict.fromkeys(CLASSES, 4)
        assert counts["test"] == dict.fromkeys(CLASSES, 1)
        names = {"unreadable", "duplicates", "dropped", "conflicts"}
        assert all(metrics["dataset"][name] == [] for name in names)
        assert metrics["config"]["repeats"] == 3 and metrics["config"]["drop_duplicates"] is True
        expected = {"python", "torch", "torchvision", "augly", "device", "precision", "network"}
        assert set(metrics["environment"]) == expected
        for arm, entry in metrics["arms"].items():
            assert [one["seed"] for one in entry["runs"]] == [42, 43, 44]
            for one in entry["runs"]:
                assert set(one) == {*entry["summary"], "train_accuracy", "seed", "loss", "steps"}
                assert 0 <= one["train_accuracy"] <= 1
            assert all(set(x) == {"mean", "low", "high"} for x in entry["summary"].values())
            assert (
                entry["summary"]["accuracy"]["low"] >= 0 and entry["summary"]["f1"]["low"] is None
            )
            assert (folder / "results" / f"{arm}.pt").exists()
        assert len(list((folder / "results" / "runs").iterdir())) == 12

    def test_every_test_has_its_row_and_every_figure_can_be_recounted(self, many):
        folder, _ = many
        table = pd.DataFrame(rows_of(folder / "results"))
        assert list(table) == ["arm", "seed", "path", "label", "prediction", "probability"]
        assert len(table) == 4 * 3 * 22 and sorted(set(table.label)) == CLASSES
        assert (table.path.str.rsplit("/", n=1).str[0] == table.label).all()
        assert table.groupby(["seed", "path"]).size().eq(4).all()  # the arms test the same photos
        assert table.groupby("path").seed.nunique().eq(1).all()  # no photo in two of three folds
        right = table.label == table.prediction
        for arm, entry in metrics_of(folder / "results")["arms"].items():
            found = [
                right[(table.arm == arm) & (table.seed == str(s))].mean() for s in (42, 43, 44)
            ]
            assert found == pytest.approx([one["accuracy"] for one in entry["runs"]])


@pytest.fixture
def page():
    """A window of the system's Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    if not (chromium := next(filter(None, found), None)):
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@pytest.fixture
def lab(tmp_path):
    """(address, folder) of a JupyterLab with a copy of what the notebook needs, nothing else."""
    work = tmp_path / "work"
    (work / "data" / "notebook").mkdir(parents=True)
    modules = [*ROOT.glob("data/*.py"), *ROOT.glob("data/notebook/*.py")]
    for path in (ROOT / "notebook.ipynb", ROOT / "augment.py", *modules):
        shutil.copy(path, work / path.relative_to(ROOT))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    environ = environment(tmp_path, dataset=make_pool(tmp_path / "pool", 10), results_dir="results")
    environ.pop("MPLBACKEND")  # the tests' own, which shows nothing
    environ["JUPYTER_CONFIG_DIR"] = str(tmp_path / "config")
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, cwd=work, env=environ, stdout=log, stderr=log)
    for _ in range(9000):
        with socket.socket() as caller, contextlib.suppress(subprocess.TimeoutExpired):
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                break
            server.wait(0.1)
    yield f"http://127.0.0.1:{port}/lab/tree/notebook.ipynb", work
    server.terminate()
    server.wait(30)


def choose(page, menu, item):
    page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{menu}$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{item}$")).click()


def run_cell(page, text):
    """Run the one cell that holds `text` again, wait for its end, return its output."""
    cell = page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=text))
    prompt = cell.locator(".jp-InputPrompt")
    before = prompt.text_content()
    prompt.click()
    page.keyboard.press("Control+Enter")
    wait(page, lambda: re.fullmatch(r"\[\d+\]:", now := prompt.text_content()) and now != before)
    return "".join(cell.locator(".jp-OutputArea-output").all_text_contents())


def prompts_of(page):
    """Return what stands before each code cell: [3]: after it ran, [*]: before."""
    return page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()


def outputs_on(page):
    return "".join(page.locator(".jp-OutputArea-output").all_text_contents())


def wait(page, condition):
    for _ in range(9000):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError("not at its end after a quarter of an hour")


class TestInJupyterLab:  # as above
    def test_cells_and_kernels_may_be_started_again_and_train_nothing_anew(self, page, lab):
        address, folder = lab
        problems = []
        seen = set()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=900_000)
        choose(page, "Edit", "Clear Outputs of All Cells")
        choose(page, "Run", "Run All Cells")

        def ended():
            seen.update(re.findall(r"\d+/\d+ steps", outputs_on(page)))
            return seen and "*" not in "".join(prompts_of(page))

        wait(page, ended)
        figures = page.locator(".jp-OutputArea img")
        widths = figures.evaluate_all("all => all.map(one => one.complete && one.naturalWidth)")
        assert len(widths) >= len(FIGURES.split()) and min(widths) > 300
        assert not problems
        before = metrics_of(folder / "results")

        said = run_cell(page, "in run_all(run_arm, jobs")
        after = metrics_of(folder / "results")
        assert "original, seed 42: accuracy" in said
        # recalled
        assert "steps" not in said
        for arm in ("original", "augmented"):
            assert after["arms"][arm]["runs"] == before["arms"][arm]["runs"]
            assert [one["seed"] for one in after["arms"][arm]["runs"]] == [42]
        rows = Counter((row["arm"], row["path"]) for row in rows_of(folder / "results"))
        assert set(rows.values()) == {1}
        assert len(rows) == 2 * 4

        choose(page, "Kernel", "Restart Kernel and Run All Cells…")
        page.locator(".jp-Dialog .jp-mod-accept").click()
        wait(page, lambda: prompts_of(page) == [f"[{number + 1}]:" for number in range(len(CODE))])
        assert not re.findall(r"\d+/\d+ steps", outputs_on(page))
        assert metrics_of(folder / "results") == before
