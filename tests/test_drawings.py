"""The drawn sample: the same each time, and told apart by nothing but the animals."""

import numpy as np
from conftest import tree
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from data.drawings import draw, draw_dataset


def test_dataset_is_reproducible_and_of_one_kind(tmp_path):
    draw_dataset(tmp_path / "a", per_class=3)
    draw_dataset(tmp_path / "b", per_class=3)
    files = tree(tmp_path / "a")
    assert files == tree(tmp_path / "b")
    assert sorted({name.split("/")[0] for name in files}) == ["cats", "dogs"]
    assert len(set(files.values())) == 6
    for path in (tmp_path / "a").glob("*/*"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (224, 224))


def test_masks_mark_the_animal_and_its_head():
    for kind in ("cats", "dogs"):
        drawing = draw(kind, 0, 1)
        animal, head = (np.asarray(mask) > 128 for mask in (drawing.animal, drawing.head))
        assert 0.05 < head.mean() < animal.mean() < 0.8
        assert not (head & ~animal).any()


def test_background_light_size_and_place_do_not_tell_the_classes_apart():
    features, labels = [], []
    for label, kind in enumerate(("cats", "dogs")):
        for index in range(40):
            drawing = draw(kind, 0, index)
            pixels, animal = np.asarray(drawing.image) / 255, np.asarray(drawing.head) > 128
            corners = [pixels[y : y + 20, x : x + 20] for y in (0, 204) for x in (0, 204)]
            place = [axis.mean() / 224 for axis in np.nonzero(animal)]
            light = [pixels.mean(), *(corner.mean() for corner in corners)]
            hues = np.concatenate([corner.mean((0, 1)) for corner in corners])
            features.append([*light, *hues, *place])
            labels.append(label)
    scores = cross_val_score(LogisticRegression(), np.array(features), labels, cv=5)
    assert scores.mean() < 0.65
