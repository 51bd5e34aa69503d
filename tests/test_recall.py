"""When a run is recalled and when it is trained again: what its key follows from."""

import importlib
import linecache
import sys
import types

import pytest
from conftest import fails, save_photo

from data.notebook import recall
from data.notebook.recall import describe_code, digest_images, key_of_run

PAGE = '''
import functools
import math

import numpy
from torch import nn

ARMS = {"original": {"shows": "train"}, "mixed": {"shows": "train", "or_copies_of": "aug"}}
FACTOR = 2
STRENGTHS = {
    "strong": lambda x: max(x, 1.5),
}
TABLE = {"double": lambda x: 2 * x, "names": ["a", "b"]}


def constant(rate):
    return rate


def falling(rate):
    return rate / 2


SCHEDULES = {"constant": constant, "falling": falling}


class Network(nn.Module):
    """Three layers."""

    width = 8

    def forward(self, images):
        """Return logits."""
        return helper(images)


def helper(x):
    # doubles
    return FACTOR * x


def decorator(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


@decorator
def decorated(x, by=FACTOR):
    return TABLE["double"](x) * by


def make_adder(number):
    def add(x):
        return x + number

    return add


add_one = make_adder(1)
scale = functools.partial(helper, 3)


def plot(x):
    return math.sqrt(x)


def evaluate_model(labels):
    return {"accuracy": 1.0}


def run_arm(arm, seed):
    """Make a run."""
    plan = ARMS[arm]
    rate = SCHEDULES["constant"](1)
    network = Network()
    return numpy.array(decorated(add_one(STRENGTHS["strong"](scale(network)))))
'''


def run_arm_of(source):
    """Return the function run_arm of a page, and the page's globals."""
    name = f"page {hash(source)}"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    page = {"__name__": "a page"}
    exec(compile(source, name, "exec"), page)
    return page["run_arm"]


def key_of(source, arm="original", **changes):
    arguments = {
        "run_arm": run_arm_of(source),
        "arm": arm,
        "seed": 1,
        "pictures": {"train/a.png": "0"},
        "config": types.SimpleNamespace(num_epochs=1, repeats=1, schedule="constant"),
        "environment": ["cpu", "float32", 2],
    }
    return key_of_run(**arguments | changes)


def edit(before, after):
    assert PAGE.count(before) == 1
    return PAGE.replace(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("    # doubles\n", "    # makes twice as much\n\n"),
        ('"""Three layers."""', '"""A network."""'),
        ('        """Return logits."""\n', ""),
        ("math.sqrt(x)", "math.exp(x)"),
        ('{"accuracy": 1.0}', '{"accuracy": 1.0, "auc": 0.5}'),
        ('"or_copies_of": "aug"}}', '"or_copies_of": "other"}}'),
        ('"or_copies_of": "aug"}}', '"or_copies_of": "aug"}, "further": {}}'),
        ("    return FACTOR * x\n", "    return (\n        FACTOR * x\n    )\n"),
        ("    return rate / 2", "    return rate / 3"),
        ('"falling": falling}', '"falling": falling, "further": falling}'),
    ],
)
def test_comments_docstrings_plots_scores_other_arms_and_schedules_train_nothing_again(
    before, after
):
    assert key_of(edit(before, after)) == key_of(PAGE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("        return helper(images)", "        return helper(images) + 1"),
        ("    width = 8", "    width = 9"),
        ("Network(nn.Module)", "Network(nn.Sequential)"),
        ("    return FACTOR * x", "    return FACTOR * x * x"),
        ("FACTOR = 2", "FACTOR = 3"),
        ("lambda x: 2 * x", "lambda x: 3 * x"),
        ("lambda x: max(x, 1.5)", "lambda x: max(x, 9.5)"),
        ('["a", "b"]', '["a", "c"]'),
        ("    plan = ARMS[arm]", "    plan = dict(ARMS[arm])"),
        ('{"original": {"shows": "train"}', '{"original": {"shows": "aug"}'),
        ("        return function(*arguments)", "        return function(*arguments) or 0"),
        ("by=FACTOR):", "by=5):"),
        ("make_adder(1)", "make_adder(2)"),
        ("partial(helper, 3)", "partial(helper, 4)"),
        ("        return x + number", "        return x - number"),
        ("numpy.array(", "numpy.asarray("),
        ("    return rate\n", "    return rate + 1\n"),
    ],
)
def test_whatever_the_run_reaches_trains_it_again(before, after):
    assert key_of(edit(before, after)) != key_of(PAGE)


def test_the_key_follows_arm_seed_pictures_settings_and_environment():
    settings = {"repeats": 1, "schedule": "constant"}
    changes = [
        {"arm": "mixed"},
        {"seed": 2},
        {"pictures": {"train/a.png": "1"}},
        {"pictures": {"train/b.png": "0"}},
        {"config": types.SimpleNamespace(num_epochs=2, **settings)},
        {"config": types.SimpleNamespace(num_epochs=1, **settings | {"schedule": "falling"})},
        {"environment": ["cpu", "bfloat16", 2]},
        {"environment": ["cpu", "float32", 1]},
    ]
    keys = {key_of(PAGE)} | {key_of(PAGE, **change) for change in changes}
    assert len(keys) == 1 + len(changes)


def test_where_results_lie_and_how_many_repeats_there_are_train_nothing_again():
    settings = {"num_epochs": 1, "schedule": "constant"}
    here = types.SimpleNamespace(**settings, repeats=1, results_dir="results")
    elsewhere = types.SimpleNamespace(**settings, repeats=9, results_dir="elsewhere")
    assert key_of(PAGE, config=here) == key_of(PAGE, config=elsewhere)


def test_a_new_version_of_a_library_that_is_used_trains_again(monkeypatch):
    before = key_of(PAGE)
    monkeypatch.setattr("numpy.__version__", "99")
    assert key_of(PAGE) != before


def test_code_without_source_is_told_by_its_bytecode():
    descriptions = []
    for formula in ("x + 1", "x + 1", "x * 1"):
        page = {"__name__": "a page"}
        exec(f"def helper(x): return {formula}\ndef run_arm(x): return helper(x)", page)
        descriptions.append(describe_code(page["run_arm"], constants={}))
    assert descriptions[0] == descriptions[1] != descriptions[2]


OWN_NET = "import own_layers\n\n\ndef forward(x):\n    return own_layers.block(x)\n"
OWN_LAYERS = "def block(x):\n    return x + 1\n"


@pytest.fixture
def own_modules(tmp_path, monkeypatch):
    """A folder with two modules of one's own, and a function that imports them as a kernel does."""
    monkeypatch.setattr("data.notebook.recall.PROJECT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # Python would take a file that changed within a second for the same
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_net.py").write_text(OWN_NET)
    (tmp_path / "own_layers.py").write_text(OWN_LAYERS)

    def start_kernel():
        for name in ("own_net", "own_layers"):
            sys.modules.pop(name, None)
            recall.SOURCES.pop(str(tmp_path / f"{name}.py"), None)
        importlib.invalidate_caches()
        importlib.import_module("own_net")

    start_kernel()
    yield tmp_path, start_kernel
    for name in ("own_net", "own_layers"):
        sys.modules.pop(name, None)


OWN_PAGES = [
    "import own_net\n\n\ndef run_arm(x):\n    return ARMS, own_net.forward(x)\n",
    "from own_net import forward\n\n\ndef run_arm(x):\n    return ARMS, forward(x)\n",
]


@pytest.mark.parametrize("page", OWN_PAGES)
def test_an_own_module_that_another_imports_trains_again(own_modules, page):
    page = f'ARMS = {{"original": {{}}}}\n{page}'
    folder, start_kernel = own_modules
    before = key_of(page)
    start_kernel()
    assert key_of(page) == before
    (folder / "own_layers.py").write_text(OWN_LAYERS.replace("x + 1", "x + 100"))
    start_kernel()
    assert key_of(page) != before


@pytest.mark.parametrize("page", OWN_PAGES)
def test_a_module_that_is_edited_while_it_is_in_use_counts_from_the_restart_on(own_modules, page):
    page = f'ARMS = {{"original": {{}}}}\n{page}'
    folder, start_kernel = own_modules
    before = key_of(page)
    for edited in ("def block(x:\n", OWN_LAYERS.replace("x + 1", "x + 100")):
        (folder / "own_layers.py").write_text(edited)
        assert key_of(page) == before
    start_kernel()
    assert key_of(page) != before


@pytest.mark.parametrize("page", OWN_PAGES)
def test_a_module_that_was_edited_before_the_first_run_is_no_longer_what_runs(own_modules, page):
    page = f'ARMS = {{"original": {{}}}}\n{page}'
    folder, start_kernel = own_modules
    (folder / "own_layers.py").write_text(f"# of one layer\n\n\n{OWN_LAYERS}")
    before = key_of(page)
    start_kernel()
    assert key_of(page) == before
    start_kernel()
    (folder / "own_layers.py").write_text(OWN_LAYERS.replace("x + 1", "x + 100"))
    with fails("own_layers.py was edited while it was in use: restart the kernel, run again"):
        key_of(page)


def test_a_module_that_is_imported_anew_trains_again(own_modules):
    folder, _ = own_modules
    page = 'ARMS = {"original": {}}\nimport own_layers\n\n\n'
    page += "def run_arm(x):\n    return ARMS, own_layers.block(x)\n"
    before = key_of(page)
    (folder / "own_layers.py").write_text(OWN_LAYERS.replace("x + 1", "x + 100"))
    importlib.reload(sys.modules["own_layers"])
    assert key_of(page) != before


def test_functions_that_differ_in_their_defaults_alone_are_told_apart(own_modules):
    folder, start_kernel = own_modules
    page = 'ARMS = {"original": {}}\nimport own_layers\n\n\n'
    page += "def run_arm(x):\n    return ARMS, own_layers.B().block(x)\n"
    twins = "class A:\n    def block(self, x=1):\n        return x\n\n\n\f\n"
    twins += "class B:\n    def block(self, x=2):\n        return x\n"
    (folder / "own_layers.py").write_text(twins)
    start_kernel()
    before = key_of(page)
    (folder / "own_layers.py").write_text(twins.replace("x=2", "x=3"))
    start_kernel()
    assert key_of(page) != before


def test_a_picture_that_changes_changes_the_digests_and_another_file_does_not(tmp_path):
    save_photo(tmp_path / "cats" / "a.png", 1)
    before = digest_images(tmp_path)
    (tmp_path / "notes.txt").write_text("none of them")
    assert digest_images(tmp_path) == before
    (tmp_path / "manifest.csv").write_text("which copy is whose")
    assert set(digest_images(tmp_path)) == {"cats/a.png", "manifest.csv"}
    save_photo(tmp_path / "cats" / "a.png", 2)
    assert digest_images(tmp_path)["cats/a.png"] != before["cats/a.png"]
