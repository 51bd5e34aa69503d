"""data/check.py: what is in a data set, and which of its photos show the same."""

import shutil

from conftest import make_pool
from PIL import Image, ImageOps

from augment import augment_folder
from data.check import find_test_photos


def test_test_photos_in_another_folder_are_found_however_they_were_altered(small_pool, tmp_path):
    mine = make_pool(tmp_path / "mine", 6, base=300)
    assert find_test_photos(mine, small_pool) == []
    cats = small_pool / "cats"
    shutil.copy(cats / "0.jpg", mine / "cats" / "same.jpg")
    # the same bytes count in whatever class they are
    shutil.copy(cats / "0.jpg", mine / "dogs" / "same.jpg")
    with Image.open(cats / "1.jpg") as image:
        image.save(mine / "cats" / "recompressed.jpg", quality=60)
        ImageOps.mirror(image).save(mine / "cats" / "mirrored.png")
    (mine / "cats" / "broken.jpg").write_bytes(b"no image")
    assert find_test_photos(mine, small_pool) == [
        ("cats/mirrored.png", "cats/1.jpg"),
        ("cats/recompressed.jpg", "cats/1.jpg"),
        ("cats/same.jpg", "cats/0.jpg"),
        ("dogs/same.jpg", "cats/0.jpg"),
    ]


def test_copies_that_augment_makes_of_test_photos_are_test_photos(small_pool, tmp_path):
    augment_folder(small_pool, tmp_path / "copies", copies=1, workers=1)
    pairs = find_test_photos(tmp_path / "copies", small_pool)
    expected = []
    for label in ("cats", "dogs"):
        for number in range(6):
            expected.append((f"{label}/{number}_aug0.jpg", f"{label}/{number}.jpg"))
    assert pairs == expected
