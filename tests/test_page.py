"""The page itself: set-up, settings, network, the loop, the scores, and the stored outputs."""

import inspect
import json
import re
import subprocess
import symtable
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CELLS, CODE, ROOT, save_photo
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torch import nn
from torchvision.models import resnet18

from data.files import InputError
from data.notebook import devices
from data.notebook.loader import MEAN, STD, load_dataset
from data.settings import read_settings

ARMS = ["original", "augmented", "original_matched", "mixed"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def names_of_cell(source):
    """Return (names that a cell binds, names that it reads)."""
    outermost = symtable.symtable(source, "cell", "exec")
    bound = set()
    read = set()
    for symbol in outermost.get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            bound.add(symbol.get_name())
        if symbol.is_referenced():
            read.add(symbol.get_name())
    tables = outermost.get_children()
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        for symbol in table.get_symbols():
            if symbol.is_global() and symbol.is_referenced():
                read.add(symbol.get_name())
    return bound, read


def test_no_cell_changes_what_another_needs_so_that_any_may_be_run_again():
    times_bound = {}
    needed = set()
    for source in CODE:
        bound, read = names_of_cell(source)
        for name in bound:
            times_bound[name] = times_bound.get(name, 0) + 1
        needed |= read - bound
    twice = {name for name, times in times_bound.items() if times > 1}
    assert twice & needed == set()


@pytest.fixture
def first_cell(tmp_path, monkeypatch):
    """Run the first cell in an empty folder; return the commands that it started."""
    started = []
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(subprocess, "run", lambda command, **_: started.append(command))
    return lambda **state: exec(CODE[0], {"__name__": "__main__"} | state) or started


def test_opened_alone_in_colab_it_asks_for_one_zip_and_goes_on(first_cell, tmp_path, monkeypatch):
    def upload():
        with zipfile.ZipFile("project.zip", "w") as file:
            file.writestr("project-main/augment.py", "")
        return {"project.zip": b""}

    colab = SimpleNamespace(files=SimpleNamespace(upload=upload))
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace(colab=colab))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    known = {"augly": None, "captum": 1, "imagehash": None}
    monkeypatch.setattr("importlib.util.find_spec", known.get)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "augly", "imagehash", "pi_heif"]
    assert first_cell() == [install]  # what is there is not installed again
    folder = tmp_path / "elsewhere" / "project-main"
    assert Path.cwd() == folder and sys.path[0] == str(folder)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(colab.files, "upload", None)
    first_cell()  # run again, it has all it needs


def test_in_vs_code_it_finds_its_files_beside_itself_and_elsewhere_says_where_it_looked(
    first_cell, tmp_path
):
    with pytest.raises(FileNotFoundError) as error:
        first_cell()
    looked = f"augment.py is not in {tmp_path / 'elsewhere'}: start in the project's folder"
    assert str(error.value) == looked
    (tmp_path / "augment.py").touch()
    assert first_cell(__vsc_ipynb_file__=str(tmp_path / "notebook.ipynb")) == []
    assert Path.cwd() == tmp_path


def test_started_from_elsewhere_a_script_finds_the_files_beside_itself(first_cell, tmp_path):
    (tmp_path / "elsewhere" / "another copy").mkdir()
    (tmp_path / "elsewhere" / "another copy" / "augment.py").touch()
    (tmp_path / "augment.py").touch()
    assert first_cell(__file__=str(tmp_path / "notebook.py")) == []
    assert Path.cwd() == tmp_path


@pytest.fixture
def settings(notebook):
    """Return the settings after an edit of their cell, under an environment."""
    (cell,) = [cell for cell in CELLS if "parameters" in cell["metadata"].get("tags", [])]
    defaults = {}
    exec("".join(cell["source"]), defaults)
    choices = {
        "arms": list(notebook.ARMS),
        "operations": list(notebook.OPERATIONS),
        "model": ["resnet18", "resnet50"],
        "schedule": list(notebook.SCHEDULES),
        "device": ["auto", "cpu"],
    }

    def read(environ=(), **edited):
        return read_settings(defaults | edited, dict(environ), **choices)

    return read


def test_defaults_are_those_of_the_experiment(settings, capsys):
    assert vars(settings()) == {
        "dataset": "samuelcortinhas/cats-and-dogs-image-classification",
        "subset": None, "data_dir": "data", "results_dir": "results", "train_ratio": 0.8,
        "copies": 3, "operations": "", "image_size": 224, "batch_size": 32, "num_epochs": 10,
        "learning_rate": 0.001, "weight_decay": 0.0, "schedule": "constant",
        "model": "resnet50", "arms": "original,augmented", "repeats": 1,
        "drop_duplicates": True, "group": "", "seed": 42, "device": "auto",
    }  # fmt: skip
    assert capsys.readouterr().out == ""


def test_the_environment_overrides_the_cell_and_one_line_says_so(settings, capsys):
    environ = {"NUM_EPOCHS": "2", "ARMS": "Mixed, original", "DROP_DUPLICATES": "no", "SUBSET": ""}
    found = settings(environ | {"RANK": "3", "WORLD_SIZE": "many"}, num_epochs=7, copies=4)
    assert (found.num_epochs, found.arms, found.copies) == (2, "mixed,original", 4)
    assert (found.drop_duplicates, found.subset) == (False, "")
    (line,) = capsys.readouterr().out.splitlines()
    assert "from the environment" in line and "num_epochs = 2" in line
    assert not [name for name in ("copies", "RANK", "WORLD") if name in line]


def test_results_in_the_data_set_are_refused_in_one_line(settings, tmp_path):
    inside = tmp_path / "photos" / "results"
    inside.parent.mkdir()
    with pytest.raises(InputError, match=r"lies in the data set .*photos.: choose another folder"):
        settings(dataset=str(inside.parent), results_dir=str(inside))
    beside = str(tmp_path / "results")
    assert settings(dataset=str(inside.parent), results_dir=beside).results_dir == beside


NAME = "the name of something", ["", " ", None, 7]
BAD = {  # what is allowed, and values that are not
    "train_ratio": ("a number from 0.5 to 0.95", [0.4, 0.96, "nan", None]),
    "copies": ("a whole number from 1 to 1000", ["none", 2.5, 0, 1001, None, ""]),
    "image_size": ("a whole number from 32 to 1024", ["31", 1025, [224]]),
    "batch_size": ("a whole number from 2 to 65536", [1, "1e9"]),
    "num_epochs": ("a whole number from 1 to 100000", [0, "ten"]),
    "learning_rate": ("a number from 1e-09 to 1", ["nan", "inf", 0, -0.1]),
    "weight_decay": ("a number from 0 to 1000", ["nan", "inf", -0.1, 1001]),
    "schedule": ("one of constant, cosine", ["linear", "", "constant,cosine"]),
    "repeats": ("a whole number from 1 to 1000", ["10**9", 0]),
    "seed": ("a whole number from 0 to 2.14748e+09", [-1, 2**31, 0.5]),
    "model": ("one of resnet18, resnet50", ["vgg16", "", "resnet18,resnet50"]),
    "device": ("one of auto, cpu", ["cuda", "cpu\n"]),
    "arms": (f"some of {', '.join(ARMS)}", ["", "mixed,mixed", "orginal\nmixed", None]),
    "operations": ("some of rotate, ", ["turn", "blur,blur"]),
    "drop_duplicates": ("one of true, false", ["perhaps", 2]),
} | dict.fromkeys(("dataset", "data_dir", "results_dir"), NAME)


@pytest.mark.parametrize("name", BAD)
def test_a_value_that_cannot_be_used_is_one_line(settings, name):
    allowed, values = BAD[name]
    for value in values:
        in_environment = [({name.upper(): value}, {})] if isinstance(value, str) else []
        for environ, edited in [({}, {name: value}), *in_environment]:
            with pytest.raises(InputError) as error:
                settings(environ, **edited)
            assert str(error.value).startswith(f"{name} = {value!r}: must be {allowed}")
            assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_any_resnet_starts_from_random_weights_that_follow_from_the_seed(notebook, name):
    asked, get = [], notebook.globals["get_model"]
    notebook.globals["get_model"] = lambda *a, **b: asked.append((*a, b)) or get(*a, **b)
    a, b, other = (notebook.initialize_model(3, seed, name) for seed in (42, 42, 43))
    assert asked == [(name, {"weights": None})] * 3
    assert equal(a.state_dict(), b.state_dict()) and a.fc.out_features == 3
    assert not torch.equal(a.conv1.weight, other.conv1.weight)
    assert a.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert inspect.signature(notebook.initialize_model).parameters["name"].default == "resnet50"


@pytest.mark.parametrize(
    ("batch_size", "steps"), [(32, [40, 110, 110, 40]), (37, [30, 100, 100, 30])]
)
def test_steps_of_the_four_arms_are_those_that_the_page_says(notebook, batch_size, steps):
    # 112 = 3 * 37 + 1 and 336 = 9 * 37 + 3
    images = {
        Path("train"): {"cats": 56, "dogs": 56},
        Path("train_aug"): {"cats": 168, "dogs": 168},
    }
    notebook.globals["count_images"] = images.get
    config = SimpleNamespace(num_epochs=10, batch_size=batch_size)
    assert [notebook.count_steps(arm, Path(), config) for arm in ARMS] == steps


def test_in_float32_the_loop_does_what_the_plain_tutorial_loop_does(notebook, pool, monkeypatch):
    notebook.globals["fast_dtype"] = lambda device: torch.float32
    monkeypatch.setattr(devices, "fast_dtype", lambda device: torch.float32)
    # batches of 21 and 14
    loader = load_dataset(pool, 32, 21)
    model = notebook.initialize_model(2, 1, "resnet18")
    losses = notebook.train_model(model, loader, steps=5, learning_rate=1e-4)

    torch.manual_seed(1)
    model = resnet18(weights=None)
    model.fc = nn.Linear(512, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    mean = torch.tensor(MEAN)[:, None, None]
    std = torch.tensor(STD)[:, None, None]
    plain = []
    for images, labels in [*loader, *loader, *loader][:5]:
        logits = model((images / 255 - mean) / std)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plain.append(loss.item())
    means = [(21 * plain[0] + 14 * plain[1]) / 35, (21 * plain[2] + 14 * plain[3]) / 35, plain[4]]
    assert losses == pytest.approx(means, abs=0.02)
    assert means[0] - means[2] > 0.1


@pytest.mark.parametrize("num_classes", [2, 3])
def test_scores_are_scikit_learns(notebook, recwarn, num_classes):
    labels = np.arange(30) % num_classes
    random = np.random.default_rng(1).dirichlet(np.ones(num_classes), size=30)
    one_name = np.tile(np.eye(num_classes)[0], (30, 1))
    for probabilities in (random, one_name):
        scores = notebook.evaluate_model(labels, probabilities)
        predictions = probabilities.argmax(axis=1)
        average = "binary" if num_classes == 2 else "macro"
        expected = precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0
        )
        assert list(scores) == ["precision", "recall", "f1", "accuracy"]
        assert list(scores.values())[:3] == pytest.approx(expected[:3])
        assert scores["accuracy"] == accuracy_score(labels, predictions)
    assert not [warning for warning in recwarn if "ill-defined" in str(warning.message)]


def test_probabilities_are_the_networks_softmax_of_each_image_in_order(notebook, tmp_path):
    model = notebook.initialize_model(3, 5, "resnet18").eval()
    nn.init.normal_(model.fc.weight, std=100)
    for number in range(9):
        save_photo(tmp_path / "test" / "abc"[number % 3] / f"{number}.png", number, (16, 16))
    loader = load_dataset(tmp_path / "test", 32, 4)
    probabilities = notebook.predict_probabilities(model, loader)
    assert probabilities.shape == (9, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    with torch.inference_mode():
        inputs = notebook.normalize(loader.dataset.tensors[0])
        expected = model(inputs).softmax(dim=1).numpy()
    assert probabilities == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_finds_nothing_in_the_notebook_and_the_scripts(command):
    command = [sys.executable, "-m", "ruff", *command, "--no-cache", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


OUTPUTS = [output for cell in CELLS for output in cell["outputs"]]


def test_the_stored_notebook_ran_from_top_to_bottom_on_the_drawings():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    assert not [x for x in OUTPUTS if x["output_type"] == "error" or x.get("name") == "stderr"]
    shown = json.dumps(OUTPUTS, ensure_ascii=False)
    assert "These are drawings, not photos" in shown  # no photo of anybody, nor its name
    assert "No verdict" in shown and len(re.findall(r"(\d+)/\1 steps", shown)) == 2
