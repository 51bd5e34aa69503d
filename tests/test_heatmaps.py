"""Where a network looks: the maps, the photos that are explained, and what the maps are worth."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import fails, save_photo
from torch import nn

from data.notebook import heatmaps
from data.notebook.loader import decode_image, in_batches, normalize
from data.notebook.runs import load_network, save_network
from data.notebook.statistics import Estimate


def test_grad_cam_is_that_of_the_paper_at_the_last_block(notebook):
    model = notebook.initialize_model(3, 1, "resnet18").eval()
    images = torch.randint(0, 256, (35, 3, 64, 96), dtype=torch.uint8)
    targets = np.arange(35) % 3
    found = notebook.grad_cam(model, images, targets)
    assert found.shape == (35, 64, 96)
    assert found.dtype == np.float32
    assert found.min() == 0 < found.max()

    kept = []
    model.layer4.register_forward_hook(lambda module, inputs, output: kept.append(output))
    chosen = model(normalize(images))[range(35), targets].sum()
    (gradients,) = torch.autograd.grad(chosen, kept[0])
    weights = gradients.mean((2, 3), keepdim=True)
    coarse = (weights * kept[0]).sum(1, keepdim=True).relu()
    fine = nn.functional.interpolate(coarse, (64, 96), mode="bilinear")
    expected = fine[:, 0].detach().numpy()
    assert found == pytest.approx(expected, abs=1e-4 * float(expected.max()))


def test_a_layer_that_is_not_there_is_one_line_that_names_those_that_are(notebook):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert heatmaps.find_layer(model, "0") is model[0]
    with fails("GRAD_CAM_LAYER = 'layer4': Sequential has the layers 0, 1"):
        heatmaps.find_layer(model, "layer4")


PROBABILITIES = {
    # of the classes 0 and 1; the labels are all 0
    "a": [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]],
    "b": [[0.6, 0.4], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9], [0.4, 0.6]],
}


def test_photos_are_chosen_that_all_name_rightly_wrongly_or_dispute_the_surest_first():
    labels = np.zeros(7, int)
    probabilities = {name: np.array(chances) for name, chances in PROBABILITIES.items()}
    # right by both: 1, 2, 0; wrong by both: 3, 6; disputed: 4, 5
    assert heatmaps.choose_photos(labels, probabilities) == [1, 2, 3, 6, 4, 5]
    assert heatmaps.choose_photos(labels, probabilities, of_each=1) == [1, 3, 4]
    # a single network disputes with nobody
    assert heatmaps.choose_photos(labels, {"a": probabilities["a"]}) == [0, 4, 3, 6]


def test_mistakes_are_those_of_which_a_network_is_surest():
    probabilities = np.array(PROBABILITIES["b"])
    labels = np.zeros(7, int)
    assert heatmaps.choose_mistakes(labels, probabilities, count=3) == [5, 3, 4]
    assert heatmaps.choose_mistakes(np.ones(7, int), probabilities, count=1) == [1]


def test_an_answer_is_told_with_its_probability_and_whether_it_is_right():
    photos = SimpleNamespace(
        names=["a cat\nwith a long name", "dog"],
        labels=np.array([1, 1]),
        paths=["dog/1.jpg", "dog/2.jpg"],
    )
    probabilities = np.array([[0.25, 0.75], [0.75, 0.25]])
    right, wrong = heatmaps.describe_answers(photos, probabilities, indices=[0, 1])
    assert right == "dog 75 % ✓"
    assert wrong == "a cat with a l 75 % ✗"
    (mistake,) = heatmaps.describe_answers(photos, probabilities, indices=[1], with_files=True)
    assert mistake == f"dog/2.jpg\n{wrong}"


def test_a_photo_is_told_with_its_file_and_how_many_networks_name_it_rightly():
    photos = SimpleNamespace(labels=np.array([1, 0]), paths=["dog/1.jpg", "cat/2.jpg"])
    probabilities = {
        "a": np.array([[0.2, 0.8], [0.9, 0.1]]),
        "b": np.array([[0.7, 0.3], [0.6, 0.4]]),
    }
    told = heatmaps.describe_photos(photos, probabilities, indices=[1, 0])
    assert told == ["cat/2.jpg\n2 of 2 right", "dog/1.jpg\n1 of 2 right"]


def test_why_a_photo_is_shown_being_erased_is_said():
    labels = np.zeros(7, int)
    probabilities = {name: np.array(chances) for name, chances in PROBABILITIES.items()}
    for index, reason in (
        (1, "all networks name it rightly"),
        (3, "all name this one wrongly"),
        (4, "they dispute this one"),
    ):
        assert reason in heatmaps.describe_choice(labels, probabilities, index)


def test_the_hottest_or_the_coldest_share_is_kept_and_the_rest_is_seen_as_zero():
    images = torch.arange(1, 1 + 2 * 3 * 16, dtype=torch.uint8).reshape(2, 3, 4, 4)
    heats = np.arange(32.0).reshape(2, 4, 4)[:, ::-1].copy()
    # no heat: ties are broken at random
    heats[1] = 0
    for keep, share, kept in (
        (heatmaps.keep_hottest, 0.25, heats[0] >= 12),
        (heatmaps.keep_coldest, 0.25, heats[0] < 4),
        (heatmaps.keep_hottest, 1, heats[0] > -1),
    ):
        parts = keep(images, heats, share)
        assert torch.equal(parts, keep(images, heats, share))
        same = (parts == images).all(dim=1).numpy()
        assert same[0].tolist() == kept.tolist()
        assert same[1].sum() == share * 16
        if share == 1:
            continue
        erased = parts[0][:, ~torch.from_numpy(kept)].unique(dim=1)
        assert erased.flatten().tolist() == [124, 116, 104]
        assert same[1].tolist() != kept.tolist()


def test_at_most_so_many_photos_are_measured_evenly_spread():
    assert heatmaps.choose_spread(3).tolist() == [0, 1, 2]
    assert heatmaps.choose_spread(1).tolist() == [0]
    assert heatmaps.choose_spread(300, most=4).tolist() == [0, 100, 199, 299]


def test_what_keeping_the_hot_part_changed_is_told_with_its_interval():
    known = Estimate(mean=0.2, low=0.1, high=0.3, p_value=0.01, error=0.05)
    line = heatmaps.describe_gap("mixed", known, photos=28)
    assert line.startswith("mixed: +0.20 [+0.10, +0.30] over 28 photos: the true class is more")
    opposite = Estimate(mean=-0.2, low=-0.3, high=-0.1, p_value=0.01, error=0.05)
    assert "is less probable" in heatmaps.describe_gap("mixed", opposite, photos=28)
    unknown = Estimate(mean=0.2, low=-0.1, high=0.5, p_value=0.2, error=0.1)
    assert "not shown to matter" in heatmaps.describe_gap("mixed", unknown, photos=28)
    single = Estimate(mean=0.2, low=None, high=None, p_value=None, error=None)
    assert "not shown to matter" in heatmaps.describe_gap("mixed", single, photos=1)


def test_heat_at_the_edge_is_told_beside_the_edges_area():
    heats = np.zeros((1, 16, 16))
    heats[0, 8, 8] = 3
    heats[0, 0, 0] = 1
    line = heatmaps.describe_edge("mixed", heats)
    assert line == "mixed: 25 % of the heat lies in the outer 44 % of the photos."


def test_no_heat_at_all_is_said_and_is_no_share_of_it():
    line = heatmaps.describe_edge("mixed", np.zeros((2, 8, 8)))
    assert line == "mixed: no heat on any photo, nothing raised the score of the true class."


@pytest.fixture
def network_file(notebook, tmp_path):
    """A kept network, and a notebook that can be asked about a photo."""
    path = tmp_path / "results" / "original.pt"
    model = notebook.initialize_model(2, 1, "resnet18")
    config = SimpleNamespace(image_size=32, model="resnet18")
    save_network(path, model, ["cats", "dogs"], config)
    notebook.globals.update(
        results=path.parent,
        trained_arms=["mixed", "original"],
        prepared=SimpleNamespace(drawn=False),
    )
    return path


def test_predict_names_a_class_and_its_probability(notebook, network_file, tmp_path, monkeypatch):
    photo = save_photo(tmp_path / "mine.png", 1, size=(90, 70))
    network, _ = load_network(network_file, notebook.initialize_model)
    pixels = torch.tensor(decode_image(photo, 32)).permute(2, 0, 1)[None]
    (chances,) = notebook.predict_probabilities(network, in_batches(pixels))
    expected = (["cats", "dogs"][chances.argmax()], pytest.approx(chances.max()))
    assert notebook.predict(photo) == expected
    assert (network_file.parent / "predict.png").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert notebook.predict("~/mine.png", "~/results/original.pt") == expected


def test_predict_says_in_one_line_why_it_cannot_answer(notebook, network_file, tmp_path):
    (tmp_path / "notes.jpg").write_text("no image")
    for name in ("missing.jpg", "notes.jpg", ""):
        with fails(f"^{re.escape(str(tmp_path / name))}: ") as error:
            notebook.predict(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1
    with fails(r"gone\.pt: no network of this notebook"):
        notebook.predict(save_photo(tmp_path / "mine.png", 1), tmp_path / "gone.pt")
