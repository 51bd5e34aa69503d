"""What any network has to beat: the commonest class, and a look at thumbnails."""

import numpy as np
import pytest
from conftest import save_photo
from PIL import Image

from data.notebook.baselines import (
    THUMBNAIL_SIDE,
    learn_thumbnails,
    make_run,
    name_commonest,
)
from data.notebook.loader import load_dataset


@pytest.fixture
def split(tmp_path):
    """Loaders of a training and a test folder: cats are dark, dogs are bright."""
    generator = np.random.default_rng(0)
    for part, cats, dogs in (("train", 30, 50), ("test", 8, 4)):
        for kind, count, level in (("cats", cats, 60), ("dogs", dogs, 180)):
            folder = tmp_path / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(level - 40, level + 40, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    train = load_dataset(tmp_path / "train", THUMBNAIL_SIDE)
    test = load_dataset(tmp_path / "test", THUMBNAIL_SIDE)
    return train, test


def test_the_commonest_class_is_that_of_the_training_photos(split):
    train, test = split
    named = name_commonest(train, test)
    assert named.shape == (12, 2)
    assert named.argmax(axis=1).tolist() == [1] * 12
    assert named.sum(axis=1).tolist() == [1] * 12


def test_thumbnails_tell_what_can_be_told_by_brightness(split):
    train, test = split
    named = learn_thumbnails(train, test)
    assert named.argmax(axis=1).tolist() == test.labels.tolist()
    assert np.array_equal(named, learn_thumbnails(train, test))


def test_its_run_has_what_a_networks_run_has(split):
    train, test = split
    run = make_run("commonest class", name_commonest, train, test, seed=7)
    assert run["arm"] == "commonest class"
    assert run["seed"] == 7
    assert run["paths"] == test.paths
    # 50 of 80 training photos are dogs
    assert run["train_accuracy"] == 0.625


def test_of_very_many_classes_the_most_similar_photo_decides(split, monkeypatch):
    monkeypatch.setattr("data.notebook.baselines.MOST_CLASSES", 1)
    train, _ = split
    named = learn_thumbnails(train, train)
    assert named.argmax(axis=1).tolist() == train.labels.tolist()


def test_two_photos_of_each_class_are_enough(tmp_path):
    for kind, base in (("a", 0), ("b", 10)):
        for number in range(2):
            save_photo(tmp_path / kind / f"{number}.png", base + number)
    photos = load_dataset(tmp_path, THUMBNAIL_SIDE)
    assert learn_thumbnails(photos, photos).shape == (4, 2)
