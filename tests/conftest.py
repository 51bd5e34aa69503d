"""The notebook's own functions, and small image folders to try them on."""

import ast
import http.server
import io
import json
import linecache
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
CLI = [sys.executable, str(ROOT / "augment.py")]
sys.path.insert(0, str(ROOT))
from data.files import InputError  # noqa: E402, now that it is on the path

os.environ["MPLBACKEND"] = "agg"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # two tests share two cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process waits for another at the end."""
    items.sort(key=lambda item: item.path.name != "test_headless.py")


def read_notebook() -> dict:
    return json.loads((ROOT / "notebook.ipynb").read_text(encoding="utf-8"))


CELLS = [cell for cell in read_notebook()["cells"] if cell["cell_type"] == "code"]
CODE = ["".join(cell["source"]) for cell in CELLS]


@pytest.fixture
def notebook():
    return define_notebook()


def define_notebook() -> SimpleNamespace:
    """Everything the notebook defines: its imports, constants, functions and classes, freshly run.

    Statements that do something are left out, so what they would have set is the test's to give.
    """
    namespace = {"__name__": "notebook"}
    for number, source in enumerate(CODE):
        tree = ast.parse(source)
        tree.body = [node for node in tree.body if _defines(node)]
        name = remember_source(source, f"notebook cell {number}")
        exec(compile(tree, name, "exec"), namespace)
    return SimpleNamespace(globals=namespace, **namespace)


def run_page(cells: list[str] = CODE) -> dict:
    """Run code cells from top to bottom in this process; return what they leave behind."""
    namespace = {"__name__": "notebook"}
    for number, source in enumerate(cells):
        name = remember_source(source, f"cell {number} of {len(source)} characters")
        exec(compile(source, name, "exec"), namespace)
    return namespace


def remember_source(source: str, name: str) -> str:
    """Let a cell's source be found by the name it is compiled under, as in Jupyter."""
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    return name


def _defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        names = [leaf.id for leaf in ast.walk(node.targets[0]) if isinstance(leaf, ast.Name)]
        return all(name.isupper() for name in names)
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)


def save_photo(path: Path, seed: int, size: tuple[int, int] = (48, 40), **options) -> Path:
    """Write an image that no other seed resembles: big random blocks, a little grain."""
    rng = np.random.default_rng(seed)
    blocks = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    pixels = np.asarray(blocks.resize(size, Image.Resampling.NEAREST)).astype(int)
    pixels += rng.integers(-8, 9, pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, **options)
    return path


@pytest.fixture
def pool(tmp_path):
    """A folder with 20 cats and 15 dogs."""
    folder = tmp_path / "pool"
    for kind, count, base in (("cat", 20, 0), ("dog", 15, 100)):
        for number in range(count):
            save_photo(folder / f"{kind}s" / f"{kind}_{number:02}.jpg", base + number)
    return folder


@pytest.fixture
def small_pool(tmp_path):
    """Two classes of six photos: enough for a split by half."""
    return make_pool(tmp_path / "pool", 6)


def make_pool(folder: Path, each: int, classes=("cats", "dogs"), base=0, suffix=".jpg") -> Path:
    for group, kind in enumerate(classes):
        for number in range(each):
            save_photo(folder / kind / f"{number}{suffix}", base + 1000 * group + number)
    return folder


def saved(image: Image.Image, format: str, **options) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photo(format="JPEG", mode="RGB", size=(48, 40), **options) -> bytes:
    """The bytes of an image file of noise."""
    noise = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return saved(Image.fromarray(noise).convert(mode), format, **options)


def frames(format: str) -> bytes:
    """The bytes of an image file with a red and a blue image."""
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    return saved(red, format, save_all=True, append_images=[blue])


def zip_of(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def families(names) -> set[str]:
    """Return the names without what tells a photo's copies and other relatives from it."""
    return {re.split(r"_aug|[~.]", name)[0] for name in names}


@pytest.fixture
def kaggle(monkeypatch, tmp_path, small_pool):
    """Set what goes wrong at a server where kagglehub's test environment expects Kaggle."""
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("data.fetch.draw_dataset", lambda folder: make_pool(folder, 6, base=50))
    monkeypatch.chdir(tmp_path)
    files = {f"test/{name}": data for name, data in tree(small_pool).items()}
    archive = zip_of(files, tmp_path / "set.zip").read_bytes()

    class Kaggle(http.server.BaseHTTPRequestHandler):
        """The two calls of the Kaggle API that a download makes, and what goes wrong."""

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"currentVersionNumber": 3}' if self.path.endswith("/GetDataset") else archive
            if self.trouble in ("off", "hanging"):
                return threading.Event().wait(self.trouble == "hanging")
            if self.trouble.isdigit():
                return self.send_error(int(self.trouble))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if self.trouble == "checksum":
                self.send_header("X-Goog-Hash", "md5=AAAAAAAAAAAAAAAAAAAAAA==")
            self.end_headers()
            self.wfile.write(body[: 5000 if self.trouble == "half" else None])

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 7777), Kaggle)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield lambda trouble: setattr(Kaggle, "trouble", trouble)
    server.shutdown()
    server.server_close()


def fails(line: str):
    return pytest.raises(InputError, match=line)


def wait_for(condition):
    deadline = time.monotonic() + 900
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.02)
    return found


def run_script(*arguments, encoding="utf-8", **environ) -> subprocess.CompletedProcess:
    """Run `python ARGUMENTS` in the project's folder."""
    environ = os.environ | {"PYTHONIOENCODING": encoding} | environ
    command = [sys.executable, *map(str, arguments)]
    options = {"capture_output": True, "text": True, "encoding": encoding, "timeout": 900}
    return subprocess.run(command, cwd=ROOT, env=environ, **options)


def tree(folder: Path) -> dict[str, bytes]:
    """Return {relative path: bytes} of every file below `folder`, but for locks."""
    content = {}
    for path in Path(folder).rglob("*"):
        if path.is_file() and path.name != ".lock":
            content[path.relative_to(folder).as_posix()] = path.read_bytes()
    return content
