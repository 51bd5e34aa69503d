"""Model, loader, training loop, evaluation: the notebook's own functions at small size."""

import inspect
import itertools
import pickle
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT, save_photo, tree
from torch import nn
from torchvision.models import resnet50


@pytest.fixture
def small(notebook):
    """A network that trains in no time, in the place of ResNet-50."""
    notebook.globals["resnet50"] = lambda weights: TinyNet()
    return notebook


class TinyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(4, 1000)

    def forward(self, images):
        return self.fc(self.features(images).flatten(1))


class Mean(nn.Module):
    """Says class 1 for images brighter than ImageNet's mean, else class 0."""

    def __init__(self, count=2):
        super().__init__()
        self.count, self.unused = count, nn.Parameter(torch.zeros(()))

    def forward(self, images):
        brightness = images.mean((1, 2, 3))
        logits = torch.full((len(images), self.count), -9.0)
        logits[:, 0], logits[:, 1] = -brightness, brightness
        return logits


@pytest.fixture
def shades(tmp_path):
    """Two dark and one bright image of class a, four bright ones of class b; 20 x 20 pixels."""
    from PIL import Image

    for kind, greys in {"a": (10, 40, 200), "b": (180, 200, 220, 240)}.items():
        (tmp_path / "shades" / kind).mkdir(parents=True)
        for grey in greys:
            image = Image.new("RGB", (20, 20), (grey,) * 3)
            image.save(tmp_path / "shades" / kind / f"{grey:03}.png")
    return tmp_path / "shades"


def test_all_arms_start_from_the_same_random_weights(notebook):
    a, b, other = (notebook.initialize_model(2, seed).state_dict() for seed in (42, 42, 43))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv1.weight"], other["conv1.weight"])
    assert a["fc.weight"].shape == (2, 2048)
    assert sum(1 for name in a if "conv" in name or "downsample.0" in name) == 53


def test_every_arm_of_a_run_gets_those_weights(small, pool, tmp_path, monkeypatch):
    starts = []

    def no_training(model, loader, **options):
        starts.append({name: value.clone() for name, value in model.state_dict().items()})
        return [0.0]

    monkeypatch.setitem(small.globals, "train_model", no_training)
    small.split_dataset(pool, tmp_path / "data")
    small.make_copies(tmp_path / "data", 1, 0)
    config = SimpleNamespace(
        image_size=32, copies=1, batch_size=8, num_epochs=1, learning_rate=0.001
    )
    config.device = "cpu"
    parts = ("train", "train_aug", "test")
    images = {part: small.DecodedImages(tmp_path / "data" / part, 32) for part in parts}
    for arm in small.ARMS:
        small.run_arm(arm, images, 5, config)
    assert len(starts) == 3
    for name, value in starts[0].items():
        assert all(torch.equal(start[name], value) for start in starts)


def test_loader_gives_every_image_once_with_its_label(notebook, shades):
    loader = notebook.load_dataset(shades, image_size=16, batch_size=3)
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [(3, 3, 16, 16)] * 2 + [(1, 3, 16, 16)]
    assert all(images.dtype == torch.uint8 for images, _ in batches)
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 0, 1, 1, 1, 1]
    greys = torch.cat([images for images, _ in batches])[:, 0, 0, 0].tolist()
    assert greys == [10, 40, 200, 180, 200, 220, 240]
    assert loader.dataset.classes == ["a", "b"]


def test_shuffling_follows_the_seed_and_changes_every_epoch(notebook, shades):
    def orders(seed):
        loader = notebook.load_dataset(shades, 16, 3, shuffle=True, seed=seed)
        return [torch.cat([images[:, 0, 0, 0] for images, _ in loader]).tolist() for _ in range(3)]

    first = orders(1)
    assert first == orders(1) != orders(2)
    assert first[0] != first[1]
    assert all(sorted(order) == sorted(first[0]) for order in first)


def test_loader_ignores_hidden_folders(notebook, shades):
    save_photo(shades / ".ipynb_checkpoints" / "a.png", 1)
    assert notebook.load_dataset(shades).dataset.classes == ["a", "b"]


def test_decoded_images_are_not_decoded_again(notebook, shades, monkeypatch):
    images = notebook.DecodedImages(shades, 16)
    monkeypatch.setitem(notebook.globals, "decode_image", None)
    first, second = (notebook.load_dataset(images, batch_size=n) for n in (3, 7))
    assert first.dataset is second.dataset is images
    assert torch.equal(torch.cat([batch for batch, _ in first]), next(iter(second))[0])


def test_images_beyond_the_share_of_memory_are_mapped_from_disk_and_leave_no_file(
    notebook, shades, monkeypatch
):
    resident = notebook.DecodedImages(shades, 16)
    monkeypatch.setitem(notebook.globals, "room_on", lambda device: 7 * 16 * 16 * 3 - 1)
    before = tree(shades.parent)
    assert isinstance(notebook.allocate((7, 16, 16, 3), shades.parent), np.memmap)
    mapped = notebook.DecodedImages(shades, 16)
    assert torch.equal(mapped.images, resident.images)
    assert torch.equal(mapped[[6, 0]][0], resident[[6, 0]][0])
    assert tree(shades.parent) == before
    with pytest.raises(notebook.InputError, match="for decoded images are not free there"):
        notebook.allocate((10**9, 10**6), shades.parent)


def test_share_of_memory_is_a_quarter_of_what_is_free(notebook):
    assert notebook.room_on("cpu") == pytest.approx(psutil.virtual_memory().available / 4, rel=0.05)


def test_images_are_normalised_with_imagenets_mean_and_deviation(notebook):
    images = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    ready = notebook.to_device(images, torch.device("cpu"))
    expected = [
        (1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    assert ready[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_batches_stay_channels_last_all_the_way_to_the_network(notebook, shades):
    images, _ = next(iter(notebook.load_dataset(shades, 16, 3)))
    for batch in (images, notebook.to_device(images, torch.device("cpu"))):
        assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((6, 1), "float32"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_precision_on_a_gpu_follows_its_generation(notebook, monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert notebook.precision(torch.device("cuda")) == getattr(torch, expected)


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
    assert notebook.precision(torch.device("cpu")) == getattr(torch, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_strays_from_float32_less_than_another_seed_does(
    small, shades, monkeypatch, dtype
):
    images = small.DecodedImages(shades, 16)

    def train(seed, precision):
        monkeypatch.setitem(small.globals, "precision", lambda device: precision)
        model = small.initialize_model(2, seed)
        loader = small.load_dataset(images, batch_size=3, shuffle=True, seed=seed)
        losses = small.train_model(model, loader, 20, 0.01)
        assert model.fc.weight.dtype == torch.float32  # the weights themselves stay so
        return losses

    def distance(one, other):
        return np.abs(np.subtract(one, other)).mean()

    full, low = ([train(seed, kind) for seed in range(3)] for kind in (torch.float32, dtype))
    assert full != low
    same_seed = max(map(distance, full, low))
    assert same_seed < min(distance(a, b) for a, b in itertools.combinations(full, 2))


def test_in_float32_the_loop_does_what_the_plain_tutorial_loop_does(notebook, pool, monkeypatch):
    monkeypatch.setitem(notebook.globals, "precision", lambda device: torch.float32)
    images = notebook.DecodedImages(pool, 32)
    loader = notebook.load_dataset(images, batch_size=35)  # one batch, so a loss for each step
    losses = notebook.train_model(notebook.initialize_model(2, 1), loader, 3, 1e-4)

    torch.manual_seed(1)
    model = resnet50(weights=None)
    model.fc = nn.Linear(2048, 2)
    optimizer, plain = torch.optim.Adam(model.parameters(), lr=1e-4), []
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    for _ in range(3):
        logits = model((images.images / 255 - mean) / std)
        loss = nn.functional.cross_entropy(logits, images.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plain.append(loss.item())
    assert losses == pytest.approx(plain, abs=0.03)
    assert plain[0] - plain[2] > 0.1


def test_training_learns_and_reports_the_mean_loss_of_each_epoch(small, shades):
    loader = small.load_dataset(shades, 16, 3, shuffle=True)
    model = small.initialize_model(2, 0)
    calls = []
    losses = small.train_model(
        model, loader, 30, 0.05, progress=lambda done, total, losses: calls.append((done, total))
    )
    assert len(losses) == 30
    assert losses[-1] < losses[0]
    assert calls[0] == (1, 90)
    assert calls[-1] == (90, 90)


def test_loss_of_an_epoch_weighs_every_image_alike(small, shades, monkeypatch):
    monkeypatch.setitem(small.globals, "precision", lambda device: torch.float32)
    loader = small.load_dataset(shades, 16, batch_size=4)  # batches of 4 and 3
    model = small.initialize_model(2, 0)
    images, labels = loader.dataset[list(range(7))]
    expected = nn.functional.cross_entropy(
        model(small.to_device(images, torch.device("cpu"))), labels
    )
    assert small.train_model(model, loader, 1, 1e-9)[0] == pytest.approx(expected.item(), abs=1e-5)


def test_step_matched_arm_stops_within_an_epoch(small, shades):
    loader = small.load_dataset(shades, 16, 3, shuffle=True)
    done = []
    losses = small.train_model(
        small.initialize_model(2, 0), loader, 10, max_steps=7, progress=lambda n, *_: done.append(n)
    )
    assert max(done) == 7
    assert len(losses) == 3


def test_training_is_repeatable(small, shades):
    def train():
        model = small.initialize_model(2, 3)
        losses = small.train_model(model, small.load_dataset(shades, 16, 3, True, 3), 3)
        return losses, model.state_dict()

    (losses, weights), (again, weights_again) = train(), train()
    assert losses == again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_figures_of_a_known_classifier(notebook, shades, capsys):
    scores = notebook.evaluate_model(Mean(), notebook.load_dataset(shades, 16, 3))
    # the bright image of class a is called b: 4 right of 5 called b, 4 of 4 found
    assert scores["precision"] == pytest.approx(4 / 5)
    assert scores["recall"] == 1
    assert scores["f1"] == pytest.approx(8 / 9)
    assert scores["accuracy"] == pytest.approx(6 / 7)
    assert scores["predictions"].tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert scores["probabilities"].sum(1) == pytest.approx(1)
    assert "precision 0.8000, recall 1.0000, f1 0.8889, accuracy 0.8571" in capsys.readouterr().out


def test_more_classes_are_averaged_and_a_missing_prediction_counts_as_zero(
    notebook, shades, recwarn
):
    save_photo(shades / "c" / "x.png", 1)
    loader = notebook.load_dataset(shades, 16, 3)
    loader.dataset.images[-1] = 250
    scores = notebook.evaluate_model(Mean(3), loader)
    assert scores["precision"] == pytest.approx((1 + 4 / 6 + 0) / 3)
    assert scores["recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores["accuracy"] == pytest.approx(6 / 8)
    assert not [warning for warning in recwarn if "ill-defined" in str(warning.message)]


def test_prediction_rows_name_photo_label_guess_and_its_probability(notebook, shades):
    loader = notebook.load_dataset(shades, 16, 3)
    scores = notebook.evaluate_model(Mean(), loader)
    rows = notebook.prediction_rows("original", 42, loader.dataset, scores)
    assert rows[2][:5] == ("original", 42, "a/200.png", "a", "b")
    assert rows[2][5] == pytest.approx(scores["probabilities"][2, 1], abs=1e-6)


# ---- stopping and going on


@pytest.fixture
def checkpoint(small, tmp_path, monkeypatch):
    monkeypatch.setitem(small.globals, "CHECKPOINT_SECONDS", 0)
    return lambda key="this": small.Checkpoint(tmp_path / "state.pt", key)


class Killed(BaseException):
    """Stands for whatever ends a run."""


def train(small, shades, checkpoint, kill_at=None, max_steps=None):
    """Train six epochs of three batches; return losses, weights and the steps that were taken."""
    steps = []

    def progress(done, total, losses):
        steps.append(done)
        if done == kill_at:
            raise Killed

    model = small.initialize_model(2, 1)
    loader = small.load_dataset(shades, 16, 3, shuffle=True, seed=1)
    options = {"max_steps": max_steps, "progress": progress, "checkpoint": checkpoint}
    losses = small.train_model(model, loader, 6, 0.01, **options)
    return losses, model.state_dict(), steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("kill_at", "next_step"), [(2, 1), (4, 4), (11, 10), (17, 16)])
def test_stopped_training_goes_on_from_the_last_epoch_and_ends_the_same(
    small, shades, checkpoint, monkeypatch, kill_at, next_step, dtype
):
    monkeypatch.setitem(small.globals, "precision", lambda device: dtype)
    expected, weights, _ = train(small, shades, None)
    with pytest.raises(Killed):
        train(small, shades, checkpoint(), kill_at)
    losses, again, steps = train(small, shades, checkpoint())
    assert steps[0] == next_step
    assert losses == expected
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_step_matched_arm_goes_on_as_well(small, shades, checkpoint):
    expected, weights, _ = train(small, shades, None, max_steps=8)
    with pytest.raises(Killed):
        train(small, shades, checkpoint(), 7, max_steps=8)
    losses, again, steps = train(small, shades, checkpoint(), max_steps=8)
    assert (losses, steps[0]) == (expected, 7)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize("damage", ["other key", "half a file", "no file", "pickle"])
def test_checkpoint_that_does_not_fit_is_not_used(small, shades, checkpoint, tmp_path, damage):
    with pytest.raises(Killed):
        train(small, shades, checkpoint(), 11)
    path = tmp_path / "state.pt"
    if damage == "half a file":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "no file":
        path.unlink()
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"key": "this", "run": print}))
    _, _, steps = train(small, shades, checkpoint("other" if damage == "other key" else "this"))
    assert steps[0] == 1


def test_checkpoint_is_not_written_more_often_than_every_few_seconds(small, shades, tmp_path):
    train(small, shades, small.Checkpoint(tmp_path / "state.pt", "this"))
    assert not (tmp_path / "state.pt").exists()


@pytest.fixture
def experiment(small, pool, tmp_path):
    """Globals of the run loop at small size; call it for a fresh start, as after a kill."""
    data, results = tmp_path / "data", tmp_path / "results"
    results.mkdir()
    small.split_dataset(pool, data)
    small.make_copies(data, 1, 7)

    def start(**settings):
        config = {"seed": 7, "copies": 1, "image_size": 32, "batch_size": 8, "num_epochs": 2}
        config = SimpleNamespace(**config | {"learning_rate": 0.01, "device": "cpu"} | settings)
        small.globals.update(config=config, results_path=results, classes=["cats", "dogs"])
        small.globals.update(metrics={"environment": {"torch": "1"}}, models={}, data_path=data)
        images = {part: small.DecodedImages(data / part, 32) for part in ("train", "test")}
        result = small.train_or_recall("original", images, 7, data)
        return result, small.globals["models"]["original"].state_dict()

    return start


def test_finished_run_is_recalled_and_not_trained_again(small, experiment, monkeypatch, tmp_path):
    (run, rows), weights = experiment()
    monkeypatch.setitem(small.globals, "Checkpoint", None)  # nothing can be trained
    (run_again, rows_again), weights_again = experiment()
    assert (run_again, list(rows_again)) == (run, rows)
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
    assert not list(tmp_path.glob("results/runs/*.pt"))


@pytest.mark.parametrize(
    "change", [{"num_epochs": 3}, {"learning_rate": 0.02}, {"batch_size": 4}, "network", "data"]
)
def test_run_of_other_settings_or_data_or_without_its_network_is_trained_again(
    small, experiment, monkeypatch, tmp_path, change
):
    experiment()
    trained = []
    whole = small.train_model
    monkeypatch.setitem(
        small.globals, "train_model", lambda *a, **b: trained.append(1) or whole(*a, **b)
    )
    monkeypatch.setattr(inspect, "getsource", lambda function: "the same code")
    experiment()
    trained.clear()
    if change == "network":
        (tmp_path / "results" / "original.pt").unlink()
    elif change == "data":
        memory = tmp_path / "data" / "split.json"
        memory.write_text(memory.read_text() + " ")
    experiment(**change if isinstance(change, dict) else {})
    assert trained


def test_fingerprint_follows_the_code(small, experiment, monkeypatch):
    experiment()
    config, folder = small.globals["config"], small.globals["data_path"]
    before = small.fingerprint("original", 7, folder, config, {})
    assert before == small.fingerprint("original", 7, folder, config, {})
    changed = lambda model, loader: None  # noqa: E731
    monkeypatch.setitem(small.globals, "train_model", changed)
    assert before != small.fingerprint("original", 7, folder, config, {})


KILLED_RUN = """
import sys, torch
sys.path[:0] = {paths!r}
from pathlib import Path
from conftest import define_notebook
from test_training import TinyNet
small = define_notebook()
small.globals["resnet50"] = lambda weights: TinyNet()
small.globals["CHECKPOINT_SECONDS"] = 0
loader = small.load_dataset(Path({images!r}), 16, 3, shuffle=True, seed=1)
model = small.initialize_model(2, 1)
small.train_model(model, loader, 150, 0.01, checkpoint=small.Checkpoint(Path({state!r}), "key"))
torch.save(model.state_dict(), {final!r})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_run_killed_in_mid_training_ends_with_the_weights_of_one_that_was_not(shades, tmp_path):
    def start(state, final):
        paths = [str(ROOT / "tests"), str(ROOT)]
        code = KILLED_RUN.format(
            paths=paths, images=str(shades), state=str(tmp_path / state), final=str(final)
        )
        return subprocess.Popen([sys.executable, "-c", code])

    killed, whole = tmp_path / "killed.pt", tmp_path / "whole.pt"
    run = start("a.pt", killed)
    while not (tmp_path / "a.pt").exists():
        assert run.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    assert not killed.exists()
    assert 0 < len(torch.load(tmp_path / "a.pt", weights_only=True)["losses"]) < 150
    runs = [start("a.pt", killed), start("b.pt", whole)]
    assert [run.wait() for run in runs] == [0, 0]
    weights, expected = (torch.load(path, weights_only=True) for path in (killed, whole))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not list(tmp_path.glob(".*"))


def test_checkpoint_loads_without_running_code(small, tmp_path):
    model = small.initialize_model(2, 0)
    small.save_checkpoint(tmp_path / "a.pt", model, ["cats", "dogs"], 64)
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert (saved["classes"], saved["image_size"]) == (["cats", "dogs"], 64)
    again = small.initialize_model(2, 1)
    again.load_state_dict(saved["state_dict"])
    assert torch.equal(again.fc.weight, model.fc.weight)


@pytest.mark.parametrize(("drawn", "note"), [(True, "(from drawings, not photos)"), (False, "")])
def test_every_figure_says_when_it_shows_drawings(notebook, tmp_path, drawn, note):
    notebook.globals.update(results_path=tmp_path, drawn=drawn)
    figure = notebook.plt.figure()
    notebook.save_figure(figure, "Loss", "loss")
    assert figure.get_suptitle() == f"Loss  {note}".strip()
    assert (tmp_path / "loss.png").exists()


class OnGPU(torch.Tensor):
    """A tensor that, like one on a GPU, has to be fetched before NumPy can have it."""

    def numpy(self, *_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_labels_that_lie_on_a_gpu_are_fetched_for_the_test(notebook, pool):
    images = notebook.DecodedImages(pool, 33)
    images.labels = images.labels.as_subclass(OnGPU)
    scores = notebook.evaluate_model(notebook.initialize_model(), notebook.load_dataset(images))
    assert 0 <= scores["accuracy"] <= 1
