"""The notebook in JupyterLab, in a real browser as a reader has it: open, Run All, look.

Needs Chromium (`apt-get install chromium`).
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from test_notebook import TINY, output_text

sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
FILES = ("notebook.ipynb", "augment.py", "requirements.txt", "data/drawings.py")
PARAMETERS = TINY | {"DATASET": "drawings", "COPIES": "1", "BATCH_SIZE": "8"}


@pytest.fixture
def page():
    """A window of the system's Chromium."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    if not (chromium := next(filter(None, found), None)):
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@pytest.fixture
def lab(tmp_path):
    """(address, folder) of a JupyterLab with a copy of what the notebook needs, nothing else."""
    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    for name in FILES:
        shutil.copy(ROOT / name, work / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    environ = os.environ | PARAMETERS | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    environ.pop("MPLBACKEND")  # the tests' own, which shows nothing
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, cwd=work, env=environ, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while not answers(port):
        assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/lab/tree/notebook.ipynb", work
    server.terminate()
    server.wait(30)


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def run_all(page) -> set[str]:
    """Choose Run All Cells, wait for the last cell; return the progress lines seen meanwhile."""
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    page.locator(".lm-MenuBar-item", has_text="Edit").click()
    page.locator(".lm-Menu-itemLabel", has_text="Clear Outputs of All Cells").click()
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    seen, deadline = set(), time.monotonic() + 120
    while time.monotonic() < deadline:
        outputs = "".join(page.locator(".jp-OutputArea-output").all_text_contents())
        seen.update(re.findall(r"\d+/\d+ steps", outputs))
        prompts = "".join(page.locator(".jp-InputPrompt").all_text_contents())
        if seen and "*" not in prompts:
            return seen
        time.sleep(0.1)
    raise AssertionError(f"not at its end after two minutes: {prompts}")


def test_run_all_in_jupyterlab(page, lab):
    address, folder = lab
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    seen = run_all(page)
    figures = page.locator(".jp-OutputArea img")
    widths = figures.evaluate_all("all => all.map(one => one.complete && one.naturalWidth)")
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty").first.wait_for(state="detached")

    assert not problems
    assert len(widths) == 12 and min(widths) > 300
    assert len(seen) > 4, seen  # the lines moved while the networks trained
    cells = json.loads((folder / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "ipywidgets" not in json.dumps(outputs)
    assert len(re.findall(r"(\d+)/\1 steps", output_text(cells))) == 2
    assert max(output_text([cell]).count("\n") for cell in cells) < 100
    assert not [path for path in Path(folder).rglob("*") if path.name.endswith(".lock")]
