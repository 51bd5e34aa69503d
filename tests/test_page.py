"""The notebook's own functions: settings, network, loader, loop, runs, heat maps, format."""

import csv
import inspect
import itertools
import json
import pickle
import re
import shutil
import subprocess
import symtable
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, make_pool, read_notebook, run_cell, save_photo, tree
from filelock import FileLock
from PIL import Image
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torch import nn
from torchvision.models import resnet18

CELLS = [cell for cell in read_notebook()["cells"] if cell["cell_type"] == "code"]
CODE = ["".join(cell["source"]) for cell in CELLS]
ARMS = ("original", "augmented", "original_matched", "mixed")
CPU = torch.device("cpu")
MEAN, STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


class TinyNet(nn.Module):
    """A network that trains in no time, under a ResNet's names."""

    def __init__(self):
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 1000)

    def forward(self, images):
        return self.fc(self.layer4(images).mean((2, 3)))


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
    """Return the grey value of each image of the next epoch."""
    return torch.cat([images[:, 0, 0, 0] for images, _ in loader]).tolist()


def in_precision(notebook, dtype):
    notebook.globals["fast_dtype"] = lambda device: dtype


def set_clock(notebook, step):
    """Have the notebook see a clock that goes on by so many seconds whenever it is read."""
    clock = itertools.count(0, step)
    notebook.globals["time"] = SimpleNamespace(monotonic=lambda: next(clock))


def test_no_cell_changes_what_another_needs_so_that_any_may_be_run_again():
    made, needed = [], set()
    for source in CODE:
        tables = [symtable.symtable(source, "cell", "exec")]
        for table in tables:
            tables += table.get_children()
        names = tables[0].get_symbols()
        bound = {x.get_name() for x in names if x.is_assigned() or x.is_imported()}
        inner = [x for table in tables[1:] for x in table.get_symbols() if x.is_global()]
        needed |= {x.get_name() for x in (*names, *inner) if x.is_referenced()} - bound
        made += bound
    twice = {name for name in made if made.count(name) > 1}
    assert twice & needed == {"metrics"}  # which the training cell completes


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
    install = [sys.executable, "-m", "pip", "install", "--quiet", "augly", "imagehash"]
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


@pytest.fixture
def settings(notebook):
    """Return the settings after an edit of their cell, under an environment."""
    (cell,) = [x for x in CELLS if "parameters" in x["metadata"].get("tags", [])]
    exec("".join(cell["source"]), defaults := {})
    choices = {"model": ["resnet18", "resnet50"], "device": ["auto", "cpu"]}
    choices |= {"arms": ARMS, "operations": notebook.OPERATIONS}
    read = notebook.read_settings
    return lambda environ=(), **edited: read(defaults | edited, dict(environ), **choices)


def test_defaults_are_those_of_the_experiment(settings, capsys):
    assert vars(settings()) == {
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
    assert "from the environment" in line and "num_epochs = 2" in line
    assert not [name for name in ("copies", "RANK", "WORLD") if name in line]


NAME = "the name of something", ["", " ", None, 7]
BAD = {  # what is allowed, and values that are not
    "train_ratio": ("a number from 0.5 to 0.95", [0.4, 0.96, "nan", None]),
    "copies": ("a whole number from 1 to 1000", ["none", 2.5, 0, 1001, None, ""]),
    "image_size": ("a whole number from 32 to 1024", ["31", 1025, [224]]),
    "batch_size": ("a whole number from 2 to 65536", [1, "1e9"]),
    "num_epochs": ("a whole number from 1 to 100000", [0, "ten"]),
    "learning_rate": ("a number from 1e-09 to 1", ["nan", "inf", 0, -0.1]),
    "repeats": ("a whole number from 1 to 1000", ["10**9", 0]),
    "seed": ("a whole number from 0 to 2.14748e+09", [-1, 2**31, 0.5]),
    "model": ("one of resnet18, resnet50", ["vgg16", "", "resnet18,resnet50"]),
    "device": ("one of auto, cpu", ["cuda", "cpu\n"]),
    "arms": (f"some of {', '.join(ARMS)}", ["", "mixed,mixed", "orginal\nmixed", None]),
    "operations": ("some of rotate, ", ["turn", "blur,blur"]),
    "drop_duplicates": ("one of true, false", ["perhaps", 2]),
} | dict.fromkeys(("dataset", "data_dir", "results_dir"), NAME)


@pytest.mark.parametrize("name", BAD)
def test_a_value_that_cannot_be_used_is_one_line(notebook, settings, name):
    allowed, values = BAD[name]
    for value in values:
        in_environment = [({name.upper(): value}, {})] if isinstance(value, str) else []
        for environ, edited in [({}, {name: value}), *in_environment]:
            with pytest.raises(notebook.InputError) as error:
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


def test_the_loader_gives_every_image_once_with_its_label(notebook, shades):
    save_photo(shades / ".ipynb_checkpoints" / "a.png", 1)  # hidden folders are no classes
    (shades / "empty").mkdir()
    loader = notebook.load_dataset(shades, image_size=16, batch_size=3)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert issubclass(notebook.PhotoFolder, notebook.ImageFolder)
    images, labels = zip(*loader, strict=True)
    assert [tuple(batch.shape) for batch in images] == [(3, 3, 16, 16), (4, 3, 16, 16)]
    assert all(batch.dtype == torch.uint8 for batch in images)
    assert torch.cat(labels).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert greys_of(loader) == [10, 40, 200, 180, 205, 220, 240]
    assert (loader.names, loader.paths[2:4]) == (["a", "b"], ["a/200.png", "b/180.png"])


def test_the_order_of_an_epoch_follows_from_seed_and_epoch_alone(notebook, shades):
    def orders(seed, epochs):
        loader, found = notebook.load_dataset(shades, 16, 3, seed), []
        for loader.sampler.epoch in epochs:
            found.append(greys_of(loader))
        return found

    first = orders(1, range(4))
    assert first[::-1] == orders(1, [3, 2, 1, 0])  # nothing before is replayed
    assert len(set(map(tuple, first))) == 4 and first != orders(2, range(4))
    assert all(sorted(order) == [10, 40, 180, 200, 205, 220, 240] for order in first)


def test_a_last_batch_of_one_joins_the_one_before(notebook):
    for count, sizes in ((1, [1]), (2, [2]), (4, [4]), (5, [5]), (6, [4, 2]), (9, [4, 5])):
        batches = notebook.EpochBatches(np.arange(count)[:, None], 4, 1)
        assert [len(batch) for batch in batches] == sizes
        assert len(batches) == len(sizes) == notebook.count_batches(count, 4)


def test_images_are_squeezed_by_pillow_and_normalised_for_the_network(notebook, tmp_path):
    path = save_photo(tmp_path / "photos" / "a" / "1.jpg", 1, size=(90, 50))
    before = tree(tmp_path)
    ((images, _),) = notebook.load_dataset(tmp_path / "photos", 32)
    expected = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    assert (images[0].permute(1, 2, 0).numpy() == np.asarray(expected)).all()
    assert tree(tmp_path) == before  # what is mapped into memory leaves no file
    ready = notebook.to_device(images, CPU)
    assert ready[0].permute(1, 2, 0).numpy() == pytest.approx(
        (np.asarray(expected) / 255 - MEAN) / STD, abs=1e-5
    )
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in (images, ready))


def test_mixed_shows_each_photo_once_as_itself_or_as_one_of_its_copies(notebook, tmp_path):
    rows = []
    for i in range(1, 7):  # photos of grey 40, 80, …, their copies 1 to 3 brighter
        photo = f"{'NA' if i < 4 else 'b'}/{i}.png"
        for k, name in enumerate([photo, *(f"{photo[:-4]}_aug{k}.png" for k in range(3))]):
            path = tmp_path / ("train_aug" if k else "train") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (40 * i + k,) * 3).save(path)
            rows += [{"copy": name, "source": photo}] if k else []
    table = pd.DataFrame(rows).sample(frac=1, random_state=1)
    table.to_csv(tmp_path / "train_aug" / "manifest.csv", index=False)
    loader = notebook.load_dataset(tmp_path / "train", 8, 4, 1, tmp_path / "train_aug")
    shown, drawn = np.zeros((7, 4), int), set()
    for loader.sampler.epoch in range(400):
        epoch = sorted(greys_of(loader))
        assert [grey // 40 for grey in epoch] == [1, 2, 3, 4, 5, 6]
        shown[[grey // 40 for grey in epoch], [grey % 40 for grey in epoch]] += 1
        drawn.add(tuple(epoch))
    assert len(drawn) > 350  # drawn anew each epoch
    assert np.abs(shown[1:] - 100).max() < 4 * (400 * 0.25 * 0.75) ** 0.5  # each as often
    for images, labels in loader:
        assert (images[:, 0, 0, 0] // 40 > 3).int().tolist() == labels.tolist()


def test_steps_of_the_four_arms_are_those_that_the_page_says(notebook):
    config = SimpleNamespace(copies=3, num_epochs=10, batch_size=32)
    assert [notebook.count_steps(arm, 112, config) for arm in ARMS] == [40, 110, 110, 40]
    config.batch_size = 37  # 112 = 3 * 37 + 1 and 336 = 9 * 37 + 3
    assert [notebook.count_steps(arm, 112, config) for arm in ARMS] == [30, 100, 100, 30]


def test_precision_is_the_lowest_that_the_device_does_not_only_emulate(notebook, monkeypatch):
    for new, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, x=new: x)
        assert notebook.fast_dtype(torch.device("cuda")) == expected
    low = {"avx512_bf16": True}, {"amx_bf16": True}
    for features in (*low, {"avx512_f": True, "avx2": True}, {}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda x=features: x, raising=False)
        expected = torch.bfloat16 if features in low else torch.float32
        assert notebook.fast_dtype(CPU) == expected


def test_in_float32_the_loop_does_what_the_plain_tutorial_loop_does(notebook, pool):
    in_precision(notebook, torch.float32)
    loader = notebook.load_dataset(pool, 32, 21)  # of batches of 21 and 14
    losses = notebook.train_model(notebook.initialize_model(2, 1, "resnet18"), loader, 5, 1e-4)
    torch.manual_seed(1)
    model = resnet18(weights=None)
    model.fc = nn.Linear(512, 2)
    optimizer, plain = torch.optim.Adam(model.parameters(), lr=1e-4), []
    mean, std = torch.tensor(np.array([MEAN, STD]))[..., None, None]
    for images, labels in [*loader, *loader, *loader][:5]:
        inputs = (images / 255 - mean) / std
        loss = nn.functional.cross_entropy(model(inputs.float()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plain.append(loss.item())
    means = [(21 * plain[0] + 14 * plain[1]) / 35, (21 * plain[2] + 14 * plain[3]) / 35, plain[4]]
    assert losses == pytest.approx(means, abs=0.02)
    assert means[0] - means[2] > 0.1


class Stopped(BaseException):
    """Stands for whatever ends a run."""


def train(small, shades, state=None, stop_at=None, steps=17):
    """Train epochs of two batches; return losses, weights and the steps that were taken."""
    taken = []
    set_clock(small, 10)

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
    expected, weights, taken = train(small, shades)
    assert taken[0] == 1 and sorted({*taken}) == list(range(1, 18)) and len(expected) == 9
    with pytest.raises(Stopped):
        train(small, shades, tmp_path / "state.pt", stop_at)
    losses, again, taken = train(small, shades, tmp_path / "state.pt")
    assert taken[0] == next_step
    assert losses == expected and equal(weights, again)


def test_a_state_that_cannot_be_read_is_not_used(small, shades, tmp_path):
    expected, weights, _ = train(small, shades)
    path = tmp_path / "state.pt"
    with pytest.raises(Stopped):
        train(small, shades, path, 10)
    for damaged in (path.read_bytes()[:1000], b"state", b"", pickle.dumps([[1.0], print])):
        path.write_bytes(damaged)
        losses, again, taken = train(small, shades, path)
        assert taken[0] == 1 and losses == expected and equal(weights, again)


def test_the_state_is_written_at_most_every_few_seconds_and_not_after_the_end(small, shades):
    written, loader = [], small.load_dataset(shades, 16, 3)
    small.globals["write_whole"] = lambda *_: written.append(1)
    for step, steps, expected in ((10, 8, 3), (1, 40, 3), (0.01, 40, 0)):  # two steps an epoch
        set_clock(small, step)
        written.clear()
        small.train_model(small.initialize_model(), loader, steps, state=Path("a.pt"))
        assert len(written) == expected


@pytest.mark.parametrize("count", [2, 3])
def test_scores_are_scikit_learns(notebook, tmp_path, capsys, recwarn, count):
    model = notebook.initialize_model(count, 5, "resnet18").eval()
    for i in range(30):
        save_photo(tmp_path / "test" / "abc"[i % count] / f"{i:02}.png", i, (16, 16))
    loader = notebook.load_dataset(tmp_path / "test", 32, 8)
    for std in (100, 0):  # something else of everything, then one name for all
        nn.init.normal_(model.fc.weight, std=std)
        scores = notebook.evaluate_model(model, loader)
        labels, said = loader.dataset.tensors[1].numpy(), scores["predictions"]
        average = {"average": "binary" if count == 2 else "macro", "zero_division": 0}
        expected = [*precision_recall_fscore_support(labels, said, **average)[:3]]
        expected.append(accuracy_score(labels, said))
        assert (len(set(said)) > 1) == (std > 0)
        assert [scores[name] for name in notebook.METRICS] == pytest.approx(expected)
        assert scores["probabilities"].sum(1) == pytest.approx(1, abs=1e-5)
        assert (scores["probabilities"].argmax(1) == said).all()
        line = "precision {:.4f}, recall {:.4f}, f1 {:.4f}, accuracy {:.4f}\n".format(*expected)
        assert capsys.readouterr().out == line
    assert not [warning for warning in recwarn if "ill-defined" in str(warning.message)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data folder: train/, test/ and train_aug/ of twenty photos."""
    from augment import augment_folder
    from data.prepare import prepare_dataset

    folder = tmp_path_factory.mktemp("made")
    prepare_dataset(str(make_pool(folder / "pool", 10)), folder / "data", "", 0.7)
    augment_folder(folder / "data" / "train", folder / "data" / "train_aug", 2, 7, workers=1)
    return folder / "data"


@pytest.fixture
def experiment(small, made, tmp_path):
    """Run one arm as the training cell does, in folders of its own."""
    settings = {"seed": 7, "copies": 2, "image_size": 32, "batch_size": 8, "num_epochs": 2}
    settings |= {"learning_rate": 0.01, "model": "resnet18", "device": "cpu", "arms": "original"}

    def run(arm="original", folder=made, seed=7, **changes):
        small.globals["config"] = config = SimpleNamespace(**settings | changes)
        key = small.run_key(arm, seed, folder, config, 1)
        return small.run_arm(arm, seed, folder, config, tmp_path / "results", key, 1)

    (tmp_path / "results").mkdir()
    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def trainings(small):
    """What each call of `train_model` was given: the weights by then, and the loader."""
    calls, whole = [], small.train_model

    def counted(model, loader, *others):
        weights = {name: x.clone() for name, x in model.state_dict().items()}
        calls.append((weights, loader))
        return whole(model, loader, *others)

    small.globals["train_model"] = counted
    return calls


def test_every_arm_starts_from_the_same_weights_with_its_own_pictures(experiment, trainings):
    results = [experiment(arm) for arm in ARMS]
    assert all(equal(weights, trainings[0][0]) for weights, _ in trainings)
    shown = [len(loader.dataset) for _, loader in trainings]
    assert shown == [14, 28, 14, 42]  # mixed draws from photos and copies
    assert [result["run"]["steps"] for result in results] == [4, 8, 8, 4]
    assert [len(result["run"]["loss"]) for result in results] == [2, 2, 4, 2]
    assert len({str(result["run"]["loss"]) for result in results}) == 4
    assert len({str([row[2:4] for row in result["rows"]]) for result in results}) == 1


def test_a_finished_run_is_recalled_while_its_key_and_its_network_are_there(
    experiment, trainings, tmp_path
):
    first = experiment()
    results = tmp_path / "results"
    before = tree(results)
    assert experiment() == first and len(trainings) == 1 and tree(results) == before
    (record,) = set(before) - {"original.pt", "run.log"}
    assert re.fullmatch(r"runs/original-7-\w{16}\.json", record)
    assert len(before["run.log"].splitlines()) == 2  # a line per epoch
    names = {"seed", "precision", "recall", "f1", "accuracy", "loss", "steps", "seconds"}
    assert set(first["run"]) == names
    changes = [(1, Path.touch), (3, Path.touch), (3, Path.unlink)]
    changes.append((3, lambda file: file.write_bytes(file.read_bytes()[:-100])))
    for number, (num_epochs, damage) in enumerate(changes, 2):
        damage(results / "original.pt")
        experiment(num_epochs=num_epochs)
        assert len(trainings) == number


def test_the_key_of_a_run_follows_settings_data_and_the_source_of_what_trains(
    small, made, tmp_path
):
    names = ("copies", "image_size", "batch_size", "num_epochs", "learning_rate", "model")
    settings = dict.fromkeys(names, 1) | {"device": "cpu"}
    folder = shutil.copytree(made, tmp_path / "data")

    def key(arm="original", seed=7, threads=1, **changes):
        return small.run_key(arm, seed, folder, SimpleNamespace(**settings | changes), threads)

    keys = [key(), key("mixed"), key(seed=8), key(threads=2), *(key(**{x: 2}) for x in names)]
    for name in ("train_model", "load_dataset", "decode_image", "evaluate_model", "to_device"):
        whole = small.globals[name]
        small.globals[name] = lambda *_: None
        keys.append(key())
        small.globals[name] = whole
    assert key() == keys[0]
    for name in ("split.json", "train_aug/manifest.csv"):
        (folder / name).write_text((folder / name).read_text() + "\n")
        keys.append(key())
    in_precision(small, "another")
    assert len({*keys, key()}) == len(keys) + 1


def fail(problem):
    if problem != "nan":
        raise RuntimeError(problem)
    return torch.nan


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("CUDA out of memory. Tried to allocate", "no memory: lower batch_size or image_size (32)"),
        ("DefaultCPUAllocator: can't allocate memory", "no memory: lower batch_size or image_size"),
        ("nan", "loss of epoch 1: nan; lower learning_rate"),
    ],
)
def test_an_arm_that_cannot_train_is_one_line(small, experiment, made, tmp_path, problem, said):
    small.globals["to_device"] = lambda images, device: images.float() * fail(problem)
    result = experiment()
    assert set(result) == {"arm", "failed"}
    assert result["failed"].startswith(f"original, seed 7: {said}")
    assert set(tree(tmp_path / "results")) <= {"run.log"}
    state = {"config": small.globals["config"], "data_path": made, "network": TinyNet()}
    if "memory" in problem:
        with pytest.raises(small.InputError, match=re.escape(said[:40])):
            run_cell(small, "# the first time warms up", **state)
    small.globals["to_device"] = lambda images, device: fail("sizes do not match")
    with pytest.raises(RuntimeError, match="sizes"):  # another error is not hidden
        experiment()


def training_cell(small, made, results, failed=(), repeats=3):
    """Run the training cell, where these (arm, seed) fail; return metrics and what was trained."""
    state = {"config": SimpleNamespace(seed=7, arms="original,mixed"), "metrics": {}}
    state |= {"prepared": SimpleNamespace(folders=[made] * repeats), "data_path": made}
    asked = []

    def run_arm(arm, seed, *_):
        asked.append((arm, seed))
        run = {"seed": seed, "accuracy": 0.5, "seconds": 1.0}
        rows = [[arm, seed, "a/1.png", "a", "a", 0.9]]
        why = {"failed": f"{arm}, seed {seed}: why"}
        return {"arm": arm} | (why if (arm, seed) in failed else {"run": run, "rows": rows})

    state |= {"run_arm": run_arm, "run_key": lambda *_: "key", "results_path": results}
    run_cell(small, "joblib.Parallel", **state)
    return state["metrics"], asked


def test_a_given_up_arm_leaves_no_figures_and_the_others_go_on(small, made, tmp_path, capsys):
    metrics, asked = training_cell(small, made, tmp_path / "results", [("original", 8)])
    assert [run["seed"] for run in metrics["arms"]["mixed"]["runs"]] == [7, 8, 9]
    assert "original" not in metrics["arms"]
    assert ("original", 7) in asked and ("original", 9) not in asked
    assert "GIVEN UP: original, seed 8: why\n" in capsys.readouterr().out
    with open(tmp_path / "results" / "predictions.csv", newline="") as file:
        assert [row["arm"] for row in csv.DictReader(file)] == ["mixed"] * 3
    another = pytest.raises(small.InputError, match="another run is using it")
    with FileLock(tmp_path / "results" / ".lock"), another:
        training_cell(small, made, tmp_path / "results")
    with pytest.raises(small.InputError, match="no arm could be trained"):
        training_cell(small, made, tmp_path / "results", [("original", 7), ("mixed", 7)], 1)


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
        set_clock(small, 10)
        assert "No space left" in experiment(num_epochs=3)["failed"]  # while it writes its state
    assert set(tree(tmp_path / "results")) <= {"run.log"}
    assert experiment()["run"]["accuracy"] >= 0


def test_a_checkpoint_loads_without_running_code_and_says_what_it_is(small, experiment, tmp_path):
    experiment()
    path = tmp_path / "results" / "original.pt"
    saved = torch.load(path, weights_only=True)
    about = saved["classes"], saved["image_size"], saved["model"]
    assert about == (["cats", "dogs"], 32, "resnet18")
    network, _ = small.load_network(path)
    assert equal(network.state_dict(), saved["state_dict"]) and not network.training
    experiment(seed=8)  # sections 9 and 10 show the first repeat's network
    assert equal(torch.load(path, weights_only=True)["state_dict"], saved["state_dict"])


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def test_a_malicious_or_other_file_is_no_network_and_runs_nothing(small, tmp_path):
    path, about = tmp_path / "a.pt", {"classes": ["a", "b"], "model": "resnet18", "image_size": 32}
    trap = about | {"state_dict": {}, "classes": Trap(tmp_path / "trapped")}
    other = about | {"state_dict": nn.Linear(2, 2).state_dict()}
    refused = re.escape(f"{path}: no network of this notebook; section 6 makes it")
    with pytest.raises(small.InputError, match=refused):
        small.load_network(path)  # there is no such file
    for content in (trap, other, [1.0], about, {}, about | {"model": "alexnet"}, None):
        torch.save(content, path)
        with pytest.raises(small.InputError, match=refused):
            small.load_network(path)
    for content in (pickle.dumps(trap), b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(small.InputError, match=refused):
            small.load_network(path)
    assert not (tmp_path / "trapped").exists()


def test_grad_cam_is_that_of_the_paper_at_the_last_block(notebook):
    model = notebook.initialize_model(3, 1, "resnet18").eval()
    images = torch.randint(0, 256, (35, 3, 64, 96), dtype=torch.uint8)
    targets, kept = np.arange(35) % 3, []
    found = notebook.grad_cam(model, images, targets)
    assert found.shape == (35, 64, 96) and found.dtype == np.float32
    assert found.min() == 0 < found.max()
    model.layer4.register_forward_hook(lambda module, inputs, output: kept.append(output))
    chosen = model(notebook.to_device(images, CPU))[range(35), targets].sum()
    weights = torch.autograd.grad(chosen, kept[0])[0].mean((2, 3), keepdim=True)
    coarse = (weights * kept[0]).sum(1, keepdim=True).relu()
    fine = nn.functional.interpolate(coarse, (64, 96), mode="bilinear")[:, 0].detach().numpy()
    assert found == pytest.approx(fine, abs=1e-4 * float(fine.max()))


def test_the_hottest_or_the_coldest_share_is_kept_and_the_rest_is_seen_as_zero(notebook):
    images = torch.arange(1, 1 + 2 * 3 * 16, dtype=torch.uint8).reshape(2, 3, 4, 4)
    heats = np.arange(32.0).reshape(2, 4, 4)[:, ::-1].copy()
    heats[1] = 0  # no heat: ties are broken at random
    for share, kept in ((0.25, heats[0] >= 12), (-0.25, heats[0] < 4), (1, heats[0] > -1)):
        parts = notebook.keep_part(images, heats, share)
        assert (parts[0] == images[0]).all(0).numpy().tolist() == kept.tolist()
        same = (parts[1] == images[1]).all(0)
        assert same.sum() == abs(share) * 16 == kept.sum()
        assert torch.equal(parts, notebook.keep_part(images, heats, share))
        if abs(share) < 1:
            erased = parts[0][:, ~torch.from_numpy(kept)].unique(dim=1)
            assert erased.flatten().tolist() == [124, 116, 104]
            assert same.numpy().tolist() != kept.tolist()


def test_predict_names_a_class_and_its_probability_or_says_in_one_line_why_not(
    small, experiment, tmp_path, monkeypatch
):
    experiment()
    small.globals.update(results_path=tmp_path / "results", drawn=False)
    photo = save_photo(tmp_path / "mine.png", 1, size=(90, 70))
    network, _ = small.load_network(tmp_path / "results" / "original.pt")
    pixels = torch.tensor(small.decode_image(photo, 32)).permute(2, 0, 1)[None]
    (chances,) = small.class_probabilities(network, [pixels])
    expected = ["cats", "dogs"][chances.argmax()], pytest.approx(chances.max())
    assert small.predict(photo) == expected
    assert (tmp_path / "results" / "predict.png").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert small.predict("~/mine.png", "~/results/original.pt") == expected
    (tmp_path / "notes.jpg").write_text("no image")
    for name in ("missing.jpg", "notes.jpg", ""):
        with pytest.raises(small.InputError, match=f"^{re.escape(str(tmp_path / name))}") as error:
            small.predict(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(small.InputError, match=r"gone\.pt: no network of this notebook"):
        small.predict(photo, tmp_path / "gone.pt")


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
