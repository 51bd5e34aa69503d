"""The notebook's own functions: settings, network, loader, loop, runs, heat maps, format."""

import base64
import csv
import inspect
import io
import itertools
import json
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, make_pool, read_notebook, run_cell, save_photo, tree
from PIL import Image
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torch import nn
from torchvision.models import resnet18

CODE = ["".join(x["source"]) for x in read_notebook()["cells"] if x["cell_type"] == "code"]
ARMS = ("original", "augmented", "original_matched", "mixed")
CPU = torch.device("cpu")


class TinyNet(nn.Module):
    """A network that trains in no time, under a ResNet's names."""

    def __init__(self):
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 1000)

    def forward(self, images):
        return self.fc(self.layer4(images).mean((2, 3)))


class Mean(nn.Module):
    """Says class 1 for images brighter than ImageNet's mean, else class 0."""

    def __init__(self, count=2):
        super().__init__()
        self.count, self.unused = count, nn.Parameter(torch.zeros(()))

    def forward(self, images):
        logits = torch.full((len(images), self.count), -9.0)
        logits[:, 1] = images.float().mean((1, 2, 3))
        logits[:, 0] = -logits[:, 1]
        return logits


@pytest.fixture
def small(notebook):
    """The notebook with a tiny network in the place of every ResNet."""
    notebook.globals["get_model"] = lambda name, weights: TinyNet()
    return notebook


@pytest.fixture
def shades(tmp_path):
    """Two dark and one bright image of class a, four bright ones of class b."""
    for kind, greys in {"a": (10, 40, 200), "b": (180, 205, 220, 240)}.items():
        (tmp_path / "shades" / kind).mkdir(parents=True)
        for grey in greys:
            image = Image.new("RGB", (20, 20), (grey,) * 3)
            image.save(tmp_path / "shades" / kind / f"{grey:03}.png")
    return tmp_path / "shades"


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def greys_of(loader):
    """Return the grey value of each image of the next epoch, batch by batch."""
    return [images[:, 0, 0, 0].tolist() for images, _ in loader]


# ---- the first cell


@pytest.fixture
def first_cell(tmp_path, monkeypatch):
    """Run the first cell in an empty folder; return the commands that it started."""
    elsewhere, started = tmp_path / "elsewhere", []
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(subprocess, "run", lambda command, **_: started.append(command))

    def run(**state):
        exec(compile(CODE[0], "first cell", "exec"), {"__name__": "__main__"} | state)
        return started

    return run


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
    ((*command, first, second),) = first_cell()
    assert command == [sys.executable, "-m", "pip", "install", "--quiet"]
    assert (first, second) == ("augly", "imagehash")  # what is there is not installed again
    folder = tmp_path / "elsewhere" / "project-main"
    assert Path.cwd() == folder and sys.path[0] == str(folder)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(colab.files, "upload", None)  # run again, it has all it needs
    first_cell()


def test_in_vs_code_it_finds_its_files_beside_itself(first_cell, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "augment.py").touch()
    assert first_cell(__vsc_ipynb_file__=str(tmp_path / "project" / "notebook.ipynb")) == []
    assert Path.cwd() == tmp_path / "project"


def test_anywhere_else_one_line_says_where_it_looked(first_cell, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        first_cell()
    folder = tmp_path / "elsewhere"
    assert str(error.value) == f"augment.py is not in {folder}: start in the project's folder"


# ---- settings


@pytest.fixture
def settings(notebook):
    """Return the settings after an edit of their cell, under an environment."""
    (cell,) = [x for x in read_notebook()["cells"] if "parameters" in x["metadata"].get("tags", [])]
    exec("".join(cell["source"]), defaults := {})
    models = {"model": ["resnet18", "resnet50"], "device": ["auto", "cpu"]}
    return lambda environ=(), **edited: notebook.read_settings(
        defaults | edited, dict(environ), **models
    )


def test_defaults_are_those_of_the_experiment(settings, capsys):
    found = vars(settings())
    assert found == {
        "dataset": "samuelcortinhas/cats-and-dogs-image-classification",
        "subset": None, "data_dir": "data", "results_dir": "results", "train_ratio": 0.8,
        "copies": 3, "operations": "", "image_size": 224, "batch_size": 32, "num_epochs": 10,
        "learning_rate": 0.001, "model": "resnet50", "arms": "original,augmented", "repeats": 1,
        "drop_duplicates": True, "seed": 42, "device": "auto",
    }  # fmt: skip
    assert capsys.readouterr().out == ""


def test_the_environment_overrides_the_cell_and_one_line_says_so(settings, capsys):
    environ = {"NUM_EPOCHS": "2", "ARMS": "Mixed, original", "DROP_DUPLICATES": "no", "SUBSET": ""}
    found = settings(environ | {"RANK": "3", "WORLD_SIZE": "many"}, num_epochs=7, copies=4)
    assert (found.num_epochs, found.arms, found.copies) == (2, "mixed,original", 4)
    assert (found.drop_duplicates, found.subset) == (False, "")
    (line,) = capsys.readouterr().out.splitlines()
    assert "from the environment" in line and "num_epochs = 2" in line and "copies" not in line
    assert "RANK" not in line and "WORLD" not in line


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("train_ratio", 0.4, "a number from 0.5 to 0.95"),
        ("copies", "none", "a whole number from 1 to 1000"),
        ("copies", 2.5, "a whole number from 1 to 1000"),
        ("copies", None, "a whole number from 1 to 1000"),
        ("image_size", "31", "a whole number from 32 to 1024"),
        ("batch_size", 1, "a whole number from 2 to 65536"),
        ("num_epochs", 0, "a whole number from 1 to 100000"),
        ("learning_rate", "nan", "a number from 1e-09 to 1"),
        ("learning_rate", "inf", "a number from 1e-09 to 1"),
        ("repeats", "10**9", "a whole number from 1 to 1000"),
        ("seed", -1, "a whole number from 0 to 2.14748e+09"),
        ("seed", 2**31, "a whole number from 0 to 2.14748e+09"),
        ("seed", [1], "a whole number from 0 to 2.14748e+09"),
        ("model", "vgg16", "one of resnet18, resnet50"),
        ("device", "cuda", "one of auto, cpu"),
        ("arms", "", f"some of {', '.join(ARMS)}"),
        ("arms", "mixed,mixed", f"some of {', '.join(ARMS)}"),
        ("arms", "orginal\nmixed", f"some of {', '.join(ARMS)}"),
        ("operations", "turn", "some of rotate, "),
        ("drop_duplicates", "perhaps", "one of true, false"),
        ("dataset", " ", "the name of something"),
        ("data_dir", 7, "the name of something"),
        ("results_dir", "", "the name of something"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line(notebook, settings, name, value, allowed):
    with pytest.raises(notebook.InputError) as error:
        settings(**{name: value})
    assert str(error.value).startswith(f"{name} = {value!r}: must be {allowed}")
    assert len(str(error.value).splitlines()) == 1
    if isinstance(value, str):
        with pytest.raises(notebook.InputError, match=re.escape(f"{name} = {value!r}: must be ")):
            settings({name.upper(): value})


def test_the_home_folder_and_the_device_are_resolved_in_the_cell(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("DATA_DIR", "~/x"), ("RESULTS_DIR", "~/y"), ("DEVICE", "auto")):
        monkeypatch.setenv(name, value)
    (cell,) = [x for x in CODE if x.startswith("dataset =")]
    exec(cell, notebook.globals)
    exec(next(x for x in CODE if "read_settings(globals()" in x), notebook.globals)
    found = notebook.globals
    assert (found["data_path"], found["results_path"]) == (tmp_path / "x", tmp_path / "y")
    assert found["config"].device == ("cuda" if torch.cuda.is_available() else "cpu")


# ---- network


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnext50_32x4d", "wide_resnet50_2"])
def test_any_resnet_starts_from_random_weights_that_follow_from_the_seed(notebook, name):
    asked = []
    get = notebook.globals["get_model"]
    notebook.globals["get_model"] = lambda *a, **b: asked.append((a, b)) or get(*a, **b)
    a, b, other = (notebook.initialize_model(3, seed, name) for seed in (42, 42, 43))
    assert asked == [((name,), {"weights": None})] * 3
    assert equal(a.state_dict(), b.state_dict())
    assert not torch.equal(a.conv1.weight, other.conv1.weight)
    assert a.fc.out_features == 3 and a.conv1.weight.is_contiguous(
        memory_format=torch.channels_last
    )


def test_the_default_is_resnet_50(notebook):
    weights = notebook.initialize_model().state_dict()
    assert sum("conv" in name or "downsample.0" in name for name in weights) == 53
    assert weights["fc.weight"].shape == (2, 2048)


# ---- loader


def test_the_loader_gives_every_image_once_with_its_label(notebook, shades):
    loader = notebook.load_dataset(shades, image_size=16, batch_size=3)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert issubclass(notebook.PhotoFolder, notebook.ImageFolder)
    images, labels = zip(*loader, strict=True)
    assert [tuple(batch.shape) for batch in images] == [(3, 3, 16, 16), (4, 3, 16, 16)]
    assert all(batch.dtype == torch.uint8 for batch in images)
    assert torch.cat(labels).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert sum(greys_of(loader), []) == [10, 40, 200, 180, 205, 220, 240]
    assert (loader.classes, loader.paths[2:4]) == (["a", "b"], ["a/200.png", "b/180.png"])


def test_the_order_of_an_epoch_follows_from_seed_and_epoch_alone(notebook, shades):
    def orders(seed, epochs):
        loader, found = notebook.load_dataset(shades, 16, 3, seed), []
        for loader.sampler.epoch in epochs:
            found.append(sum(greys_of(loader), []))
        return found

    first = orders(1, range(4))
    assert first[::-1] == orders(1, [3, 2, 1, 0])  # nothing before is replayed
    assert len(set(map(tuple, first))) == 4 and first != orders(2, range(4))
    assert all(sorted(order) == [10, 40, 180, 200, 205, 220, 240] for order in first)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [2]), (4, [4]), (5, [5]), (6, [4, 2]), (9, [4, 5])]
)
def test_a_last_batch_of_one_joins_the_one_before(notebook, count, sizes):
    batches = notebook.EpochBatches(np.arange(count)[:, None], 4, 1)
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == len(sizes) == notebook.count_batches(count, 4)


def test_hidden_and_empty_folders_are_no_classes(notebook, shades):
    save_photo(shades / ".ipynb_checkpoints" / "a.png", 1)
    (shades / "empty").mkdir()
    assert notebook.load_dataset(shades).classes == ["a", "b"]


def test_images_are_those_that_pillow_reads_and_squeezes(notebook, tmp_path):
    path = save_photo(tmp_path / "photos" / "a" / "1.jpg", 1, size=(90, 50))
    before = tree(tmp_path)
    ((images, _),) = notebook.load_dataset(tmp_path / "photos", 32)
    expected = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    assert (images[0].permute(1, 2, 0).numpy() == np.asarray(expected)).all()
    assert tree(tmp_path) == before  # what is mapped into memory leaves no file


def test_images_are_normalised_and_stay_channels_last_up_to_the_network(notebook, shades):
    images, _ = next(iter(notebook.load_dataset(shades, 16, 3)))
    ready = notebook.to_device(images, CPU)
    for batch in (images, ready):
        assert batch.is_contiguous(memory_format=torch.channels_last)
    expected = (10 / 255 - 0.485) / 0.229, (10 / 255 - 0.456) / 0.224, (10 / 255 - 0.406) / 0.225
    assert ready[0, :, 3, 3].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def mixture(tmp_path):
    """Photos of grey 40, 80, …, 240 in classes "NA" and "b", three copies each, 1 to 3 brighter."""
    rows = []
    for i in range(1, 7):
        photo = f"{'NA' if i < 4 else 'b'}/{i}.png"
        for k in range(4):
            name = photo if k == 0 else f"{photo[:-4]}_aug{k - 1}.png"
            path = tmp_path / ("train_aug" if k else "train") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (40 * i + k,) * 3).save(path)
            rows += [{"copy": name, "source": photo}] if k else []
    table = pd.DataFrame(rows).sample(frac=1, random_state=1)
    table.to_csv(tmp_path / "train_aug" / "manifest.csv", index=False)
    return tmp_path


def test_mixed_shows_each_photo_once_as_itself_or_as_one_of_its_copies(notebook, mixture):
    loader = notebook.load_dataset(mixture / "train", 8, 4, 1, mixture / "train_aug")
    assert len(loader) == 2 and len(loader.paths) == 6
    shown, drawn = np.zeros((7, 4), int), set()
    for loader.sampler.epoch in range(400):
        epoch = sorted(sum(greys_of(loader), []))
        assert [grey // 40 for grey in epoch] == [1, 2, 3, 4, 5, 6]
        for grey in epoch:
            shown[grey // 40, grey % 40] += 1
        drawn.add(tuple(epoch))
    assert len(drawn) > 350  # drawn anew each epoch
    assert np.abs(shown[1:] - 100).max() < 4 * (400 * 0.25 * 0.75) ** 0.5  # each as often
    labels = {grey // 40: label for b, a in loader for grey, label in zip(b[:, 0, 0, 0], a)}  # noqa: B905
    assert {int(photo): int(label) for photo, label in labels.items()} == {
        1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1
    }  # fmt: skip


# ---- steps, precision, loop


def test_steps_of_the_four_arms_are_those_that_the_page_says(notebook):
    config = SimpleNamespace(copies=3, num_epochs=10, batch_size=32)
    assert [notebook.count_steps(arm, 112, config) for arm in ARMS] == [40, 110, 110, 40]
    config.batch_size = 37  # 112 = 3 * 37 + 1 and 336 = 9 * 37 + 3
    assert [notebook.count_steps(arm, 112, config) for arm in ARMS] == [30, 100, 100, 30]


@pytest.mark.parametrize("new", [True, False])
def test_precision_on_a_gpu_follows_its_generation(notebook, monkeypatch, new):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: new)
    expected = torch.bfloat16 if new else torch.float16
    assert notebook.precision(torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_f": True, "avx2": True}, "float32"),  # would only emulate bfloat16
        ({}, "float32"),
    ],
)
def test_precision_on_a_cpu_follows_its_instructions(notebook, monkeypatch, features, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert notebook.precision(CPU) == getattr(torch, expected)


def in_precision(notebook, dtype):
    notebook.globals["precision"] = lambda device: dtype


def test_in_float32_the_loop_does_what_the_plain_tutorial_loop_does(notebook, pool):
    in_precision(notebook, torch.float32)
    loader = notebook.load_dataset(pool, 32, 35)  # one batch, so a loss for each step
    losses = notebook.train_model(notebook.initialize_model(2, 1, "resnet18"), loader, 3, 1e-4)
    torch.manual_seed(1)
    model = resnet18(weights=None)
    model.fc = nn.Linear(512, 2)
    optimizer, plain = torch.optim.Adam(model.parameters(), lr=1e-4), []
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    for _ in range(3):
        images, labels = loader.dataset.tensors
        loss = nn.functional.cross_entropy(model((images / 255 - mean) / std), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plain.append(loss.item())
    assert losses == pytest.approx(plain, abs=0.01)
    assert plain[0] - plain[2] > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_strays_from_float32_less_than_another_seed_does(small, shades, dtype):
    def train(seed, precision):
        in_precision(small, precision)
        model = small.initialize_model(2, seed)
        losses = small.train_model(model, small.load_dataset(shades, 16, 3, seed), 20, 0.01)
        assert model.fc.weight.dtype == torch.float32  # the weights themselves stay so
        return losses

    def distance(one, other):
        return np.abs(np.subtract(one, other)).mean()

    full, low = ([train(seed, kind) for seed in range(3)] for kind in (torch.float32, dtype))
    assert full != low
    between = [distance(a, b) for a, b in itertools.combinations(full, 2)]
    assert max(map(distance, full, low)) < min(between)


def test_the_loop_learns_stops_at_its_steps_and_says_how_far_it_is(small, shades):
    calls, loader = [], small.load_dataset(shades, 16, 3, 1)
    model = small.initialize_model(2, 0)
    losses = small.train_model(
        model, loader, 61, 0.05, report=lambda done, steps, so_far: calls.append((done, steps))
    )
    assert len(losses) == 31 and np.mean(losses[-5:]) < np.mean(losses[:5]) / 2
    assert calls[0] == (1, 61) and calls[-1] == (61, 61)
    assert sorted({done for done, _ in calls}) == list(range(1, 62))
    assert model.training


def test_the_loss_of_an_epoch_weighs_every_image_alike(small, shades):
    in_precision(small, torch.float32)
    loader = small.load_dataset(shades, 16, batch_size=5)  # batches of 5 and 2
    model, expected = small.initialize_model(2, 0), []
    for images, labels in loader:
        logits = model(small.to_device(images, CPU))
        expected += nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
    model = small.initialize_model(2, 0)
    assert small.train_model(model, loader, 2, 1e-9) == [pytest.approx(np.mean(expected), abs=1e-5)]


def test_a_loss_that_is_no_number_is_one_line_naming_the_learning_rate(small, shades, tmp_path):
    model = small.initialize_model(2, 0)
    nn.init.constant_(model.fc.weight, torch.inf)
    with pytest.raises(small.InputError, match="loss of epoch 1: nan; lower learning_rate"):
        small.train_model(model, small.load_dataset(shades, 16, 3), 9, state=tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


def test_the_loop_can_be_read_in_a_minute(notebook):
    lines = inspect.getsource(notebook.train_model).splitlines()
    assert len(lines) <= 40 and len(inspect.signature(notebook.train_model).parameters) <= 6


# ---- stopping and going on


class Stopped(BaseException):
    """Stands for whatever ends a run."""


def train(small, shades, state=None, stop_at=None, steps=17):
    """Train epochs of two batches; return losses, weights and the steps that were taken."""
    taken, clock = [], itertools.count(0, 10)
    small.globals["time"] = SimpleNamespace(monotonic=lambda: next(clock))  # a slow machine

    def report(done, steps, losses):
        taken.append(done)
        if done == stop_at:
            raise Stopped

    model, loader = small.initialize_model(2, 1), small.load_dataset(shades, 16, 3, 1)
    losses = small.train_model(model, loader, steps, 0.01, state, report)
    return losses, model.state_dict(), taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("stop_at", "next_step"), [(2, 1), (3, 3), (10, 9), (16, 15), (17, 17)])
def test_training_that_was_stopped_goes_on_and_ends_with_the_same_weights(
    small, shades, tmp_path, stop_at, next_step, dtype
):
    in_precision(small, dtype)
    expected, weights, _ = train(small, shades)
    with pytest.raises(Stopped):
        train(small, shades, tmp_path / "state.pt", stop_at)
    losses, again, taken = train(small, shades, tmp_path / "state.pt")
    assert taken[0] == next_step
    assert losses == expected and equal(weights, again)


@pytest.mark.parametrize("damage", ["half a file", "no file", "pickle", "a text"])
def test_a_state_that_cannot_be_read_is_not_used(small, shades, tmp_path, damage):
    expected, weights, _ = train(small, shades)
    path = tmp_path / "state.pt"
    with pytest.raises(Stopped):
        train(small, shades, path, 10)
    content = {"half a file": path.read_bytes()[:1000], "a text": b"state"}
    path.write_bytes(content.get(damage, pickle.dumps([[1.0], print])))
    if damage == "no file":
        path.unlink()
    losses, again, taken = train(small, shades, path)
    assert taken[0] == 1 and losses == expected and equal(weights, again)


def test_the_state_is_written_at_most_every_few_seconds_and_not_after_the_end(
    small, shades, tmp_path, monkeypatch
):
    written, path = [], tmp_path / "state.pt"
    small.globals["write_whole"] = lambda *_: written.append(1)
    train(small, shades, path, steps=8)
    assert len(written) == 3  # four epochs, ten seconds each
    small.globals["time"] = SimpleNamespace(monotonic=itertools.count().__next__)
    small.train_model(small.initialize_model(), small.load_dataset(shades, 16, 3), 40, state=path)
    assert len(written) == 3 + 40 // 2 // 6


# ---- the test


@pytest.mark.parametrize("count", [2, 3])
def test_scores_are_scikit_learns(notebook, tmp_path, capsys, recwarn, count):
    model = notebook.initialize_model(count, 5, "resnet18").eval()
    for i in range(30):
        save_photo(tmp_path / "test" / "abc"[i % count] / f"{i:02}.png", i, (16, 16))
    loader = notebook.load_dataset(tmp_path / "test", 32, 8)
    nn.init.normal_(model.fc.weight, std=100)  # says something else of everything
    scores = notebook.evaluate_model(model, loader)
    labels, said = loader.dataset.tensors[1].numpy(), scores["predictions"]
    average = {"average": "binary" if count == 2 else "macro", "zero_division": 0}
    expected = [*precision_recall_fscore_support(labels, said, **average)[:3]]
    expected.append(accuracy_score(labels, said))
    assert len(set(said)) > 1
    assert [scores[name] for name in notebook.METRICS] == pytest.approx(expected)
    assert scores["probabilities"].sum(1) == pytest.approx(1, abs=1e-5)
    assert (scores["probabilities"].argmax(1) == said).all()
    line = "precision {:.4f}, recall {:.4f}, f1 {:.4f}, accuracy {:.4f}\n".format(*expected)
    assert capsys.readouterr().out == line
    assert not [warning for warning in recwarn if "ill-defined" in str(warning.message)]


def test_scores_of_known_classifiers(notebook, shades):
    loader = notebook.load_dataset(shades, 16, 3)
    scores = notebook.evaluate_model(Mean(), loader)  # the bright image of a is called b
    assert scores["predictions"].tolist() == [0, 0, 1, 1, 1, 1, 1]
    found = [scores[name] for name in notebook.METRICS]
    assert found == pytest.approx([4 / 5, 1, 8 / 9, 6 / 7])
    rows = notebook.prediction_rows("original", 42, loader, scores)
    assert rows[2][:5] == ["original", 42, "a/200.png", "a", "b"]
    assert rows[2][5] == pytest.approx(scores["probabilities"][2, 1], abs=1e-6)
    loader.dataset.tensors[0][:] = 0
    scores = notebook.evaluate_model(Mean(), loader)  # one name for all
    assert [scores[name] for name in notebook.METRICS] == [0, 0, 0, 3 / 7]
    scores = notebook.evaluate_model(Mean(3), loader)
    assert scores["recall"] == pytest.approx(1 / 3) and scores["precision"] == pytest.approx(1 / 7)


# ---- runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data folder: train/, test/ and train_aug/ of twelve photos."""
    from augment import augment_folder
    from data.prepare import prepare_dataset

    folder = tmp_path_factory.mktemp("made")
    prepare_dataset(str(make_pool(folder / "pool", 10)), folder / "data", "", 0.7)
    augment_folder(folder / "data" / "train", folder / "data" / "train_aug", 2, 7, workers=1)
    return folder / "data"


@pytest.fixture
def experiment(small, made, tmp_path):
    """Run one arm as the training cell does, in folders of its own."""

    def run(arm="original", folder=made, seed=7, **settings):
        config = {"seed": 7, "copies": 2, "image_size": 32, "batch_size": 8, "num_epochs": 2}
        config |= {"learning_rate": 0.01, "model": "resnet18", "device": "cpu", "arms": "original"}
        small.globals["config"] = config = SimpleNamespace(**config | settings)
        key = small.run_key(arm, seed, folder, config, 1)
        return small.run_arm(arm, seed, folder, config, tmp_path / "results", key, 1)

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def trainings(small):
    """What `train_model` was given, by then."""
    calls, whole = [], small.train_model

    def counted(*arguments):
        weights = {name: x.clone() for name, x in arguments[0].state_dict().items()}
        calls.append((weights, *arguments[1:]))
        return whole(*arguments)

    small.globals["train_model"] = counted
    small.globals["inspect"] = SimpleNamespace(getsource=lambda function: function.__name__)
    return calls


def test_every_arm_starts_from_the_same_weights_with_its_own_pictures(experiment, trainings):
    results = [experiment(arm) for arm in ARMS]
    for weights, *_ in trainings[1:]:
        assert equal(weights, trainings[0][0])
    shown = [len(next(iter(loader.dataset.tensors))) for _, loader, *_ in trainings]
    assert shown == [14, 28, 14, 42]  # mixed draws from photos and copies
    assert [result["run"]["steps"] for result in results] == [4, 8, 8, 4]
    assert [len(result["run"]["loss"]) for result in results] == [2, 2, 4, 2]
    assert len({str(result["run"]["loss"]) for result in results}) == 4
    assert [row[2] for row in results[0]["rows"]] == [row[2] for row in results[3]["rows"]]


def test_a_finished_run_is_recalled_and_not_trained_again(experiment, trainings, tmp_path):
    first = experiment()
    before = tree(tmp_path / "results")
    assert experiment() == first and len(trainings) == 1
    assert tree(tmp_path / "results") == before
    names = sorted(before)
    assert names[:2] == ["original.pt", "run.log"] and re.fullmatch(
        r"runs/original-7-\w{16}\.json", names[2]
    )
    assert len(names) == 3 and len(before["run.log"].splitlines()) == 2  # a line per epoch
    assert set(first["run"]) == {*"precision recall f1 accuracy seed loss steps seconds".split()}


@pytest.mark.parametrize(
    "change",
    [
        {"num_epochs": 3}, {"learning_rate": 0.02}, {"batch_size": 4}, {"image_size": 33},
        {"model": "resnet34"}, "split.json", "train_aug/manifest.csv", "network", "its key", "code",
    ],
)  # fmt: skip
def test_a_run_of_other_settings_data_or_code_is_trained_anew(
    small, experiment, trainings, made, tmp_path, change
):
    experiment()
    folder, weights = made, tmp_path / "results" / "original.pt"
    if change == "network":
        weights.unlink()
    elif change == "its key":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif change == "code":
        small.globals["inspect"].getsource = lambda function: function.__name__ + " edited"
    elif isinstance(change, str):
        folder = tmp_path / "data"
        for name, content in tree(made).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        memory = folder / change
        memory.write_text(memory.read_text().replace("9.jpg", "8.jpg"))
    experiment(folder=folder, **change if isinstance(change, dict) else {})
    assert len(trainings) == 2


def test_the_key_of_a_run_follows_the_source_of_what_trains(small, made):
    names = ("copies", "image_size", "batch_size", "num_epochs", "learning_rate", "model", "device")
    config = SimpleNamespace(**dict.fromkeys(names, 1) | {"device": "cpu"})

    def key(threads=1):
        return small.run_key("original", 7, made, config, threads)

    before = key()
    assert before == key() != key(threads=2)
    for name in ("train_model", "load_dataset", "decode_image", "evaluate_model", "to_device"):
        whole = small.globals[name]
        small.globals[name] = lambda *_: None
        assert key() != before, name
        small.globals[name] = whole
    in_precision(small, "another")
    assert key() != before


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), "no memory: lower batch_size or"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "no memory: lower batch_size"),
        ("nan", "loss of epoch 1: nan; lower learning_rate"),
    ],
)
def test_an_arm_that_cannot_be_trained_is_one_line(small, experiment, tmp_path, problem, said):
    class Broken(TinyNet):
        def forward(self, images):
            if problem == "nan":
                return super().forward(images) * torch.nan
            raise problem

    small.globals["get_model"] = lambda name, weights: Broken()
    result = experiment()
    assert set(result) == {"arm", "failed"}
    assert result["failed"].startswith(f"original, seed 7: {said}")
    assert not list(tmp_path.glob("results/**/*.json")) + list(tmp_path.glob("results/*.pt"))


def test_another_error_is_not_hidden(small, experiment):
    small.globals["train_model"] = lambda *_: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size"):
        experiment()


def training_cell(small, made, results, answers, repeats=2, arms="original,mixed"):
    """Run the training cell, given what `run_arm` returns for (arm, seed)."""
    state = {"config": SimpleNamespace(seed=7, arms=arms), "metrics": {}, "results_path": results}
    state |= {"prepared": SimpleNamespace(folders=[made] * repeats), "data_path": made}
    asked = []

    def run_arm(arm, seed, *_):
        asked.append((arm, seed))
        run = {"seed": seed, "accuracy": 0.5, "seconds": 1.0}
        result = {"arm": arm, "run": run, "rows": [[arm, seed, "a/1.png", "a", "a", 0.9]]}
        return answers.get((arm, seed), result)

    state |= {"run_arm": run_arm, "run_key": lambda *_: "key"}
    run_cell(small, "joblib.Parallel", **state)
    return state["metrics"], asked


def test_a_given_up_arm_leaves_no_figures_and_the_others_go_on(small, made, tmp_path, capsys):
    failed = {("original", 8): {"arm": "original", "failed": "original, seed 8: loss nan"}}
    metrics, asked = training_cell(small, made, tmp_path / "results", failed, repeats=3)
    assert [run["seed"] for run in metrics["arms"]["mixed"]["runs"]] == [7, 8, 9]
    assert "original" not in metrics["arms"]
    assert ("original", 7) in asked and ("original", 9) not in asked
    assert "GIVEN UP: original, seed 8: loss nan\n" in capsys.readouterr().out
    with open(tmp_path / "results" / "predictions.csv", newline="") as file:
        assert [row["arm"] for row in csv.DictReader(file)] == ["mixed"] * 3
    failed = {(arm, 7): {"arm": arm, "failed": "why"} for arm in ("original", "mixed")}
    with pytest.raises(small.InputError, match="no arm could be trained"):
        training_cell(small, made, tmp_path / "results", failed)


def test_the_training_cell_keeps_other_runs_out_of_its_folders(small, made, tmp_path):
    other = "from data import claim; from pathlib import Path\nimport sys\n"
    other += "with claim(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", other, str(tmp_path / "results")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        process.stdout.readline()
        with pytest.raises(small.InputError, match="another run is using it"):
            training_cell(small, made, tmp_path / "results", {})
        process.stdin.close()
    training_cell(small, made, tmp_path / "results", {})


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    small, experiment, tmp_path, monkeypatch
):
    def full(path, content):
        with open(path, "wb") as file:
            file.write(bytes(content[:10]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        with pytest.raises(small.InputError, match="cannot be written, No space left on device"):
            experiment()
        clock = itertools.count(0, 10)
        small.globals["time"] = SimpleNamespace(monotonic=lambda: next(clock))
        assert "No space left" in experiment(num_epochs=3)["failed"]  # while it writes its state
    assert set(tree(tmp_path / "results")) <= {"run.log"}
    assert experiment()["run"]["accuracy"] >= 0


# ---- files of a run


def test_a_checkpoint_loads_without_running_code_and_says_what_it_is(small, experiment, tmp_path):
    experiment()
    saved = torch.load(tmp_path / "results" / "original.pt", weights_only=True)
    assert (saved["classes"], saved["image_size"]) == (["cats", "dogs"], 32)
    assert saved["model"] == "resnet18" and set(saved["state_dict"]) > {"fc.weight", "fc.bias"}
    network, _ = small.load_network(tmp_path / "results" / "original.pt")
    assert equal(network.state_dict(), saved["state_dict"]) and not network.training
    experiment(seed=8)  # sections 9 and 10 show the first repeat's network
    again = torch.load(tmp_path / "results" / "original.pt", weights_only=True)
    assert equal(again["state_dict"], saved["state_dict"])


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def test_a_malicious_checkpoint_is_refused_and_runs_nothing(small, tmp_path):
    for number, save in enumerate((torch.save, lambda x, path: path.write_bytes(pickle.dumps(x)))):
        path = tmp_path / f"{number}.pt"
        save({"state_dict": {}, "classes": Trap(tmp_path / "trapped"), "model": "resnet18"}, path)
        with pytest.raises(small.InputError, match=r"\.pt: no network of this notebook"):
            small.load_network(path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content", [None, b"", [1.0], {"classes": ["a", "b"]}, "other network"])
def test_what_is_no_network_of_the_notebook_is_one_line(small, tmp_path, content):
    path = tmp_path / "network.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "other network":
        about = {"classes": ["a", "b"], "model": "resnet18", "image_size": 32}
        torch.save({"state_dict": nn.Linear(2, 2).state_dict()} | about, path)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(small.InputError) as error:
        small.load_network(path)
    assert str(error.value) == f"{path}: no network of this notebook; section 6 makes it"


def test_results_are_the_two_files_of_the_contract(small, tmp_path):
    odd = 'a,"b"/😀 $x$\n.png'
    rows = [["mixed", 42, odd, "NA", "a,b", 0.5], ["mixed", 42, "c", "NA", "NA", 1.0]]
    metrics = {"config": {"seed": 42}, "dataset": {"classes": ["NA", "é"]}}
    table = small.save_results(tmp_path / "results", metrics, rows)
    assert set(tree(tmp_path / "results")) == {"metrics.json", "predictions.csv"}
    with open(tmp_path / "results" / "metrics.json", encoding="utf-8") as file:
        assert json.load(file) == metrics
    with open(tmp_path / "results" / "predictions.csv", encoding="utf-8", newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["arm", "seed", "path", "label", "prediction", "probability"] == list(table)
    assert found == [[str(value) for value in row] for row in rows]
    assert table.to_numpy().tolist() == rows


@pytest.mark.parametrize(("drawn", "note"), [(True, "  (drawings, not photos)"), (False, "")])
def test_every_figure_says_when_it_shows_drawings(notebook, tmp_path, monkeypatch, drawn, note):
    notebook.globals.update(results_path=tmp_path, drawn=drawn)
    titles, name = [], "$100 & <b>"
    monkeypatch.setattr(notebook.plt, "suptitle", lambda text, **_: titles.append(text))
    notebook.plt.figure()
    notebook.save_figure(name, "loss")
    assert titles == [name + note]
    assert Image.open(tmp_path / "loss.png").format == "PNG" and not notebook.plt.get_fignums()


# ---- heat maps


class Corner(nn.Module):
    """Scores class 1 by the brightness of the image's top right quarter and sees nothing else."""

    def __init__(self):
        super().__init__()
        self.layer4 = nn.Conv2d(3, 1, 16, stride=16, bias=False)
        nn.init.constant_(self.layer4.weight, 1 / 768)

    def forward(self, images):
        seen = torch.zeros_like(images)
        half = images.shape[2] // 2
        seen[:, :, :half, half:] = images[:, :, :half, half:]
        score = self.layer4(seen).mean((1, 2, 3))
        return torch.stack([-score, score], 1)


def test_heat_lies_where_the_network_can_see_and_nowhere_for_the_other_class(notebook):
    white = torch.full((2, 3, 64, 64), 255, dtype=torch.uint8)
    heat, none = notebook.grad_cam(Corner(), white, [1, 0])
    assert heat[:24, 40:].min() > 0.9 * heat.max() > 0
    assert not heat[40:].any() and not heat[:, :24].any() and not none.any()


def test_grad_cam_is_that_of_the_paper_at_the_last_block(notebook):
    model = notebook.initialize_model(3, 1, "resnet18").eval()
    images = torch.randint(0, 256, (35, 3, 64, 96), dtype=torch.uint8)
    targets = np.arange(35) % 3
    found = notebook.grad_cam(model, images, targets)
    assert found.shape == (35, 64, 96) and found.dtype == np.float32
    assert found.min() == 0 < found.max()
    kept = []
    model.layer4.register_forward_hook(lambda module, inputs, output: kept.append(output))
    scores = model(notebook.to_device(images, CPU))
    chosen = scores[range(35), targets].sum()
    weights = torch.autograd.grad(chosen, kept[0])[0].mean((2, 3), keepdim=True)
    coarse = (weights * kept[0]).sum(1, keepdim=True).relu()
    fine = nn.functional.interpolate(coarse, (64, 96), mode="bilinear")[:, 0]
    assert found == pytest.approx(fine.detach().numpy(), abs=1e-4 * float(fine.max()))


def test_the_hottest_or_the_coldest_share_is_kept_the_rest_is_what_the_network_sees_as_zero(
    notebook,
):
    images = torch.arange(1, 1 + 2 * 3 * 16, dtype=torch.uint8).reshape(2, 3, 4, 4)
    heats = np.arange(32.0).reshape(2, 4, 4)[:, ::-1].copy()
    heats[1] = 0  # no heat: ties are broken at random
    for share, kept in ((0.25, heats[0] >= 12), (-0.25, heats[0] < 4), (1, heats[0] > -1)):
        parts = notebook.keep_part(images, heats, share)
        assert parts.dtype == torch.uint8
        assert (parts[0] == images[0]).all(0).numpy().tolist() == kept.tolist()
        same = (parts[1] == images[1]).all(0)
        assert same.sum() == abs(share) * 16 == kept.sum()
        assert torch.equal(parts, notebook.keep_part(images, heats, share))
        if abs(share) < 1:
            erased = parts[0][:, ~torch.from_numpy(kept)].unique(dim=1)
            assert erased.flatten().tolist() == [124, 116, 104]
            assert same.numpy().tolist() != kept.tolist()


# ---- one's own photo


@pytest.fixture
def trained(small, experiment, tmp_path):
    """The notebook after a run, with the names that section 10 uses."""
    experiment()
    small.globals.update(results_path=tmp_path / "results", drawn=False)
    return small


def test_predict_names_a_class_and_its_probability_and_draws_the_evidence(
    trained, tmp_path, monkeypatch
):
    photo = save_photo(tmp_path / "mine.png", 1, size=(90, 70))
    network, _ = trained.load_network(tmp_path / "results" / "original.pt")
    pixels = torch.tensor(trained.decode_image(photo, 32)).permute(2, 0, 1)[None]
    (chances,) = trained.class_probabilities(network, [pixels])
    expected = ["cats", "dogs"][chances.argmax()], pytest.approx(chances.max())
    assert trained.predict(photo) == expected
    assert (tmp_path / "results" / "predict.png").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert trained.predict("~/mine.png", "~/results/original.pt") == expected


def test_predict_takes_a_rotated_photo_upright(trained, tmp_path):
    photo = save_photo(tmp_path / "upright.png", 2, size=(60, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.open(photo).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "exif.png", exif=exif)
    assert trained.predict(tmp_path / "exif.png") == trained.predict(photo)


def test_predict_says_in_one_line_what_cannot_be_read(trained, tmp_path):
    (tmp_path / "notes.jpg").write_text("no image")
    for name in ("missing.jpg", "notes.jpg", ""):
        with pytest.raises(trained.InputError) as error:
            trained.predict(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
        assert len(str(error.value).splitlines()) == 1
    photo = save_photo(tmp_path / "mine.png", 1)
    with pytest.raises(trained.InputError, match=r"gone\.pt: no network of this notebook"):
        trained.predict(photo, tmp_path / "gone.pt")


# ---- the notebook as a file


def test_the_page_keeps_to_its_budgets():
    lines = [len(source.splitlines()) for source in CODE]
    texts = [x["source"] for x in read_notebook()["cells"] if x["cell_type"] == "markdown"]
    assert sum(lines) <= 700 and max(lines) <= 35 and len(lines) <= 55
    assert sum(len("".join(text).split()) for text in texts) <= 2000
    first = {}
    for start, source in zip(itertools.accumulate([0, *lines]), CODE, strict=False):
        for what in ("    plt.imshow", "plt.imshow(", "train_model(network", "joblib.Parallel"):
            first.setdefault(what, start) if what in source else None
    assert first["plt.imshow("] < 130 and first["train_model(network"] < 400
    assert (ROOT / "notebook.ipynb").stat().st_size <= 1_500_000


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_finds_nothing_in_the_notebook_and_the_scripts(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


# The stored copy, which a run on the drawings makes at the very end: skipped where it is not made.
OUTPUTS = [
    output
    for cell in read_notebook()["cells"]
    if cell["cell_type"] == "code"
    for output in cell["outputs"]
]


@pytest.mark.skipif(not OUTPUTS, reason="STORED NOTEBOOK: it has no outputs yet")
def test_stored_notebook_ran_from_top_to_bottom_on_the_drawings():
    cells = [cell for cell in read_notebook()["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [x for x in OUTPUTS if x["output_type"] == "error" or x.get("name") == "stderr"]
    shown = json.dumps(OUTPUTS, ensure_ascii=False)
    assert "These are drawings, not photos" in shown  # no photo of anybody, nor its name
    assert "No verdict" in shown and len(re.findall(r"(\d+)/\1 steps", shown)) == 2
    pictures = [
        data for x in OUTPUTS for kind, data in x.get("data", {}).items() if kind[:6] == "image/"
    ]
    assert len(pictures) >= 10
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode("".join(picture)))).verify()
