"""Model, loader, training loop, evaluation: the notebook's own functions at small size."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import save_photo
from torch import nn


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

    def no_training(model, loader, *arguments):
        starts.append({name: value.clone() for name, value in model.state_dict().items()})
        return [0.0]

    monkeypatch.setitem(small.globals, "train_model", no_training)
    small.split_dataset(pool, tmp_path / "data")
    small.make_copies(tmp_path / "data", 1, 0)
    config = SimpleNamespace(
        image_size=32, batch_size=8, num_epochs=1, learning_rate=0.001, device="cpu"
    )
    for arm in small.ARMS:
        small.run_arm(arm, tmp_path / "data", 5, config)
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


def test_images_are_normalised_with_imagenets_mean_and_deviation(notebook):
    images = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    ready = notebook.to_device(images, torch.device("cpu"))
    expected = [
        (1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    assert ready[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


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


def test_loss_of_an_epoch_weighs_every_image_alike(small, shades):
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
