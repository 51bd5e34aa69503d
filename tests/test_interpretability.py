"""Heat maps, how far they can be trusted, where the heat lies, and one's own photo."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import read_notebook, save_photo
from PIL import Image
from torch import nn

from data.drawings import draw


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


class Tiny(nn.Module):
    """A convolution and a linear layer under ResNet's names."""

    def __init__(self, count, seed=42):
        super().__init__()
        torch.manual_seed(seed)
        self.layer4 = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.ReLU())
        self.fc = nn.Linear(8, count)

    def forward(self, images):
        return 3 * self.fc(self.layer4(images).mean((2, 3)))


class Keyhole(nn.Module):
    """Is sure of class 1 if the top left pixel is white, and undecided if it is grey."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        score = 10 * images[:, 0, 0, 0]
        return torch.stack([torch.zeros_like(score), score], 1)


# ---- heat maps


def test_heat_lies_where_the_network_can_see(notebook):
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    (heat,) = notebook.heat_maps(Corner(), white, [1])
    assert heat.shape == (64, 64)
    assert heat[:24, 40:].min() > 0.9 * heat.max() > 0
    assert not heat[40:].any()
    assert not heat[:, :24].any()


def test_there_is_no_heat_for_the_class_that_the_evidence_speaks_against(notebook):
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    assert not notebook.heat_maps(Corner(), white, [0]).any()


def test_each_image_has_the_heat_of_its_own_class_in_any_number_of_images(notebook):
    images = torch.randint(0, 256, (35, 3, 32, 32), dtype=torch.uint8)
    targets = np.arange(35) % 3
    heats = notebook.heat_maps(Tiny(3), images, targets)
    for i in (0, 31, 32, 34):
        alone = notebook.heat_maps(Tiny(3), images[i : i + 1], targets[i : i + 1])[0]
        assert heats[i] == pytest.approx(alone, abs=1e-6)


def test_resnet_heat_has_the_images_size_and_is_never_negative(notebook):
    model = notebook.initialize_model(2, 0)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    heats = notebook.heat_maps(model, images, [0, 1])
    assert heats.shape == (2, 96, 96)
    assert np.isfinite(heats).all()
    assert heats.min() >= 0
    assert heats.max() > 0


# ---- which photos are shown


def test_surest_hits_mistakes_and_disputes_are_dealt_out_in_turn(notebook):
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    guesses = np.array([[0, 0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1]])
    chances = np.array([[0.6, 0.9, 0.8, 0.7, 0.6, 0.5, 0.8], [0.6, 0.7, 0.8, 0.7, 0.9, 0.5, 0.7]])
    groups = notebook.choose_photos(labels, guesses, chances, count=5)
    assert groups == {"right": [1, 6], "wrong": [3], "in dispute": [2, 4]}


def test_without_mistakes_or_disputes_hits_fill_the_figure(notebook):
    labels = np.array([2, 0, 1, 1])
    groups = notebook.choose_photos(labels, labels[None], np.array([[0.5, 0.9, 0.6, 0.7]]), 3)
    assert groups == {"right": [1, 3, 2], "wrong": [], "in dispute": []}


def test_different_wrong_answers_are_a_dispute(notebook):
    guesses, chances = np.array([[1], [2]]), np.ones((2, 1))
    groups = notebook.choose_photos(np.array([0]), guesses, chances)
    assert groups == {"right": [], "wrong": [], "in dispute": [0]}


# ---- can they be believed


def test_insertion_and_deletion_as_worked_out_by_hand(notebook):
    notebook.globals["STEPS"] = 4
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    heats, rivals = np.array([[[3.0, 2], [1, 0]]]), np.array([[[0.2, 0.3], [0.1, 0.4]]])
    curves = notebook.erasing_curves(Keyhole(), white, [1], heats, rivals)
    insertion, deletion, random = curves[:, 0]
    assert insertion == pytest.approx([0.5, 1, 1, 1, 1], abs=0.02)
    assert deletion == pytest.approx([0.5, 0.5, 0.5, 0.5, 1], abs=0.02)
    assert random == pytest.approx([0.5, 0.5, 0.5, 1, 1], abs=0.02)
    areas = notebook.trapezoid(curves[:, 0], dx=1 / 4)
    assert areas == pytest.approx([15 / 16, 9 / 16, 11 / 16], abs=0.02)
    against = notebook.erasing_curves(Keyhole(), white, [0], heats, rivals)
    assert against == pytest.approx(1 - curves, abs=1e-6)


def test_a_map_without_heat_erases_in_random_order(notebook):
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    rivals = notebook.random_maps(3, 32, seed=1)
    curves = notebook.erasing_curves(Tiny(2), images, [0, 1, 0], np.zeros((3, 32, 32)), rivals)
    assert (curves[0] == curves[2]).all()
    assert (curves[0] != curves[1]).any()


def test_random_maps_follow_from_the_seed_and_are_as_coarse_as_the_heat(notebook):
    maps = notebook.random_maps(2, 64, seed=1)
    assert maps.shape == (2, 64, 64)
    assert (maps == notebook.random_maps(2, 64, seed=1)).all()
    assert (maps != notebook.random_maps(2, 64, seed=2)).any()
    assert len(np.unique(maps[0, :16, :16])) == 1  # within a quarter of a cell nothing changes


def test_rank_correlation_as_worked_out_by_hand(notebook):
    a = np.array([[[1, 2], [3, 4]]] * 4)
    b = np.array([[[1, 4], [9, 16]], [[8, 6], [4, 2]], [[1, 2], [4, 3]], [[5, 5], [5, 5]]])
    assert notebook.rank_correlations(a, b)[:3] == pytest.approx([1, -1, 0.8])
    assert np.isnan(notebook.rank_correlations(a, b)[3])


def test_rounding_errors_have_no_ranks(notebook):
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    a, b = (notebook.heat_maps(notebook.initialize_model(2, k), images, [0] * 4) for k in (1, 2))
    assert a.any(axis=(1, 2)).any()  # a map of one cell: the same everywhere
    assert np.isnan(notebook.rank_correlations(a, b)).all()


def test_interval_of_a_mean_leaves_out_what_is_undefined(notebook):
    values = np.array([0.2, 0.4, np.nan, 0.6, 0.8])
    interval = notebook.mean_interval(values)
    assert interval["mean"] == pytest.approx(0.5)
    assert 0.2 <= interval["low"] < 0.5 < interval["high"] <= 0.8
    assert notebook.mean_interval(np.array([0.3, np.nan])) is None
    assert notebook.show_interval(None) == "–"
    small = {"mean": -0.001, "low": -0.2, "high": 0.104}
    assert notebook.show_interval(small) == "0.00 [-0.20, 0.10]"


def arm_figures(insertion, deletion, untrained):
    """What the notebook measures of an arm, each value an interval of width 0.2 around it."""
    values = {"insertion_gain": insertion, "deletion_gain": deletion, "untrained": untrained}
    values["untrained_other_photo"] = untrained
    return {
        name: None if x is None else {"mean": x, "low": x - 0.1, "high": x + 0.1}
        for name, x in values.items()
    }


@pytest.mark.parametrize(
    ("values", "faithful", "learned"),
    [
        ((0.3, 0.2, 0.1), "**point to", "**are mostly the work"),
        ((0.3, 0.0, 0.7), "**only half point to", "**are not shown to be mostly the work"),
        ((0.0, -0.3, 0.45), "**do not point to", "**are not shown to be mostly the work"),
        ((0.3, 0.2, None), "**point to", "**are not shown to be mostly the work"),
    ],
)
def test_the_sentence_says_what_the_figures_allow(notebook, values, faithful, learned):
    sentence = notebook.trust("original", arm_figures(*values))
    assert faithful in sentence
    assert learned in sentence
    assert f"{values[0]:.2f} [{values[0] - 0.1:.2f}, {values[0] + 0.1:.2f}]" in sentence


# ---- where the heat lies


def test_border_is_the_outer_eighth_along_every_edge(notebook):
    regions = notebook.regions_of(["test/a/1.jpg"] * 3, 64, drawn=False)
    assert list(regions) == ["border"]
    heats = np.zeros((3, 64, 64))
    heats[0] = 2.5  # everywhere alike
    heats[1, 8:56, 8:56] = 1
    shares = notebook.heat_shares(heats, regions["border"])
    assert shares[:2] == pytest.approx([1 - 0.75**2, 0])
    assert np.isnan(shares[2])


@pytest.mark.parametrize("size", [224, 48])
def test_of_drawings_the_heat_on_head_body_and_background_is_known(notebook, size):
    paths = ["data/test/cats/cat_003.jpg", "data/test/dogs/dog_041.jpg"]
    regions = notebook.regions_of(paths, size, drawn=True)
    parts = [regions[name] for name in ("head", "rest of animal", "beside it")]
    assert (np.sum(parts, axis=0) == 1).all()
    for i, (kind, index) in enumerate((("cats", 3), ("dogs", 41))):
        drawing = draw(kind, 0, index)
        for mask, layer in ((parts[0][i], drawing.head), (~parts[2][i], drawing.animal)):
            truth = np.asarray(layer) > 127
            assert mask.mean() == pytest.approx(truth.mean(), abs=0.005)
            middle = np.argwhere(mask).mean(0) / size
            assert middle == pytest.approx(np.argwhere(truth).mean(0) / 224, abs=0.01)
    shares = [notebook.heat_shares(parts[0].astype(float), part) for part in parts]
    assert np.array(shares) == pytest.approx(np.array([[1, 1], [0, 0], [0, 0]]))


# ---- the section as a whole


@pytest.mark.parametrize(
    ("arms", "classes", "answer"),
    [
        ("original", "ants bees", "right"),
        ("original,augmented", "ants bees", "ants"),
        ("original,augmented,original_matched", "ants bees wasps", "guess"),
    ],
)
def test_section_runs_for_any_arms_and_classes_and_networks(
    notebook, tmp_path, capsys, arms, classes, answer
):
    arms, classes, rows = arms.split(","), classes.split(), []
    for number, kind in enumerate(classes):
        for i in range(3):
            save_photo(tmp_path / "test" / kind / f"{i}.png", 10 * number + i)
            for k, arm in enumerate(arms):
                said = {"right": kind, "ants": "ants"}.get(answer, classes[(i * k) % len(classes)])
                rows.append((arm, 7, f"{kind}/{i}.png", kind, said, 0.5 + i / 10))
    shown, told = {}, []
    notebook.globals.update(
        config=SimpleNamespace(image_size=64, seed=7, device="cpu"),
        arm_names=arms,
        classes=classes,
        data_path=tmp_path,
        results_path=tmp_path / "results",
        drawn=False,
        predictions=rows,
        metrics={},
        models={arm: Tiny(len(classes), k) for k, arm in enumerate(arms)},
        initialize_model=Tiny,
        save_figure=lambda figure, title, name: shown.update({name: figure}),
        show=told.append,
    )
    sources = ["".join(cell["source"]) for cell in read_notebook()["cells"]]
    kinds = [cell["cell_type"] for cell in read_notebook()["cells"]]
    first, last = (
        next(i for i, source in enumerate(sources) if source.startswith(f"## {number}."))
        for number in (9, 10)
    )
    for source, kind in zip(sources[first:last], kinds[first:last], strict=True):
        if kind == "code":
            exec(source, notebook.globals)
    assert set(shown) == {"grad_cam", "mistakes", "faithfulness", "mean_heat"}
    text, rows = capsys.readouterr().out, [axis.get_ylabel() for axis in shown["mistakes"].axes]
    if answer == "right":
        assert "in dispute: none" in text
        assert "'original' is wrong on 0 of 6 test images." in text
        assert not any(rows)
    if answer == "ants":
        assert "'augmented' is wrong on 3 of 6 test images, it calls every one 'ants'." in text
        assert [name for name in rows if name] == arms
    measured = notebook.globals["metrics"]["interpretability"]
    assert measured["images"] == 3 * len(classes)
    assert set(measured["arms"]) == set(arms)
    assert set(measured["heat"]) == {*arms, "untrained"}
    assert measured["area"] == {"border": 1 - 0.75**2}
    assert all(sum(f"`{arm}`" in text for text in told) == 1 for arm in arms)
    notebook.plt.close("all")


# ---- one's own photo


@pytest.fixture
def trained(notebook, tmp_path):
    """The notebook after a run with a tiny network for three classes."""
    notebook.globals.update(initialize_model=Tiny, results_path=tmp_path, drawn=False)
    notebook.globals["arm_names"] = ["original"]
    notebook.save_checkpoint(tmp_path / "original.pt", Tiny(3, 1), ["x", "y", "z"], 64)
    return notebook


def test_predict_names_a_class_and_its_probability_and_draws_the_evidence(trained, tmp_path):
    photo = save_photo(tmp_path / "mine.png", 1, size=(90, 70))
    chances = trained.class_probabilities(Tiny(3, 1), trained.decode_image(photo, 64)[None])[0]
    name, chance = trained.predict(photo)
    assert (name, chance) == ("xyz"[chances.argmax()], pytest.approx(chances.max()))
    assert (tmp_path / "predict.png").exists()
    assert trained.predict(str(photo), str(tmp_path / "original.pt")) == (name, chance)


def test_predict_takes_a_rotated_photo_upright(trained, tmp_path):
    photo = save_photo(tmp_path / "upright.png", 2, size=(60, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    lying = Image.open(photo).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "exif.png", exif=exif)
    lying.save(tmp_path / "lying.png")
    upright = trained.predict(photo)
    assert trained.predict(tmp_path / "exif.png") == upright
    assert trained.predict(tmp_path / "lying.png") != upright


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "LA", "I;16"])
def test_predict_sees_the_same_in_any_colour_mode(trained, tmp_path, mode):
    blocks = np.random.default_rng(3).integers(0, 2, (8, 8), dtype=np.uint8) * 255
    plain = Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST)
    plain.convert("RGB").save(tmp_path / "plain.png")
    if mode in ("RGBA", "LA"):  # black, but transparent where the plain image is white
        photo = Image.new("L", plain.size).convert(mode)
        photo.putalpha(Image.eval(plain, lambda value: 255 - value))
    elif mode == "I;16":
        photo = Image.fromarray(np.asarray(plain).astype(np.uint16) * 257)
    else:
        photo = plain.convert("RGB").convert(mode)
    photo.save(tmp_path / "other.tif")
    assert Image.open(tmp_path / "other.tif").mode == mode
    name, chance = trained.predict(tmp_path / "plain.png")
    assert trained.predict(tmp_path / "other.tif") == (name, pytest.approx(chance, abs=0.005))


def test_predict_says_in_one_line_what_cannot_be_read(trained, tmp_path):
    (tmp_path / "notes.jpg").write_text("no image")
    for photo, what in (("missing.jpg", "there is no such file"), ("notes.jpg", "not an image")):
        with pytest.raises(trained.InputError) as error:
            trained.predict(tmp_path / photo)
        assert str(error.value) == f"{tmp_path / photo}: {what}"
    photo = save_photo(tmp_path / "mine.png", 1)
    with pytest.raises(trained.InputError, match=r"gone\.pt: there is no such file"):
        trained.predict(photo, tmp_path / "gone.pt")


def test_predict_without_a_path_asks_in_colab_and_only_there(trained, tmp_path, monkeypatch):
    with pytest.raises(trained.InputError, match=r'predict\("photo\.jpg"\)'):
        trained.predict()
    photo = save_photo(tmp_path / "mine.png", 1)
    answers = [{str(photo): b"its bytes"}, {}]
    colab = SimpleNamespace(files=SimpleNamespace(upload=lambda: answers.pop(0)))
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace(colab=colab))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    assert trained.predict() == trained.predict(photo)
    with pytest.raises(trained.InputError, match="no photo was uploaded"):
        trained.predict()
