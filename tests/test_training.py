"""Model, loader, training loop, evaluation: the notebook's own functions at small size."""

import itertools
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import save_photo, tree
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
    config = SimpleNamespace(copies=1, batch_size=8, num_epochs=1, learning_rate=0.001)
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


def test_checkpoint_loads_without_running_code(small, tmp_path):
    model = small.initialize_model(2, 0)
    small.save_checkpoint(tmp_path / "a.pt", model, ["cats", "dogs"], 64)
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert (saved["classes"], saved["image_size"]) == (["cats", "dogs"], 64)
    again = small.initialize_model(2, 1)
    again.load_state_dict(saved["state_dict"])
    assert torch.equal(again.fc.weight, model.fc.weight)


def test_heat_map_has_the_images_size_and_no_negative_heat(notebook):
    model = notebook.initialize_model(2, 0)
    image = torch.randint(0, 256, (3, 96, 64), dtype=torch.uint8)
    heat = notebook.heat_map(model, image, 1)
    assert heat.shape == (96, 64)
    assert np.isfinite(heat).all()
    assert heat.min() >= 0


@pytest.mark.parametrize(("drawn", "note"), [(True, "(from drawings, not photos)"), (False, "")])
def test_every_figure_says_when_it_shows_drawings(notebook, tmp_path, drawn, note):
    notebook.globals.update(results_path=tmp_path, drawn=drawn)
    figure = notebook.plt.figure()
    notebook.save_figure(figure, "Loss", "loss")
    assert figure.get_suptitle() == f"Loss  {note}".strip()
    assert (tmp_path / "loss.png").exists()


def test_predict_names_a_class_for_any_image_file(notebook, tmp_path):
    model = notebook.initialize_model(3, 0)
    notebook.save_checkpoint(tmp_path / "a.pt", model, ["x", "y", "z"], 64)
    photo = save_photo(tmp_path / "mine.png", 1, size=(90, 70))
    notebook.globals.update(results_path=tmp_path, drawn=False)
    label, probability = notebook.predict(photo, tmp_path / "a.pt")
    expected = notebook.classify(model, notebook.decode_image(photo, 64))
    assert (label, probability) == (["x", "y", "z"][expected[0]], expected[1])
    assert (tmp_path / "predict.png").exists()
