"""data/check.py: what is in a data set, and which of its photos show the same."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import fails, make_pool, save_photo, tree
from PIL import Image, ImageDraw, ImageOps

from augment import augment_folder
from data.check import examine, find_conflicts, find_duplicates, find_test_photos
from data.prepare import main, prepare_dataset


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def clips(tmp_path):
    """Two classes of four clips with three frames each; no two frames look alike."""
    folder = tmp_path / "clips"
    for base, label in enumerate(("run", "walk")):
        for clip in range(4):
            for frame in range(3):
                path = folder / label / f"clip{clip}_{frame:03}.jpg"
                save_photo(path, seed=100 * base + 10 * clip + frame)
    return folder


def stems_of(folder: Path, pattern: str) -> set[str]:
    """Return what stands before "_" in the names of the files in a folder."""
    return {path.stem.split("_")[0] for path in folder.glob(pattern)}


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


@pytest.mark.parametrize("drop_duplicates", [True, False])
def test_photos_that_group_matches_alike_stay_on_one_side(clips, data, drop_duplicates):
    prepared = prepare_dataset(
        dataset=str(clips),
        data_dir=data,
        train_ratio=0.75,
        repeats=4,
        drop_duplicates=drop_duplicates,
        # its first group, so that what follows the number does not count
        group=r"(clip\d)_0",
    )
    tested = []
    for folder in prepared.folders:
        train = stems_of(folder, "train/*/*")
        test = stems_of(folder, "test/*/*")
        assert not train & test
        tested += sorted(test)
    assert sorted(tested) == ["clip0", "clip1", "clip2", "clip3"]
    assert r"group = (clip\d)_0: 4 groups of 24 photos, each on one side" in str(prepared)


def test_photos_that_group_does_not_match_stand_alone(clips, data):
    prepared = prepare_dataset(str(clips), data, train_ratio=0.5, group=r"run/clip[01]")
    assert "2 groups of 6 photos, each on one side, 18 photos alone" in str(prepared)
    for clip in ("clip0", "clip1"):
        sides = {path.parts[-3] for path in data.glob(f"*/run/{clip}_*")}
        assert len(sides) == 1


@pytest.mark.parametrize(
    ("group", "line"),
    [
        ("clip(", r"group = clip\(: not a regular expression, missing \)"),
        ("patient", r"group = patient: matches no class/file, such as run/clip0_000\.jpg"),
        ("clip", r"group = clip: matches all photos of class run alike \(clip\)"),
        (r"run/clip\d|walk", r"matches all photos of class walk alike \(walk\)"),
    ],
)
def test_group_that_cannot_be_used_is_refused_in_one_line(clips, data, group, line):
    with fails(line):
        prepare_dataset(str(clips), data, group=group)
    assert tree(data).keys() <= {".lock"}


def test_too_few_groups_for_so_fine_a_split_are_named(clips, data):
    line = "class run is on one side of the split only, as it has 4 groups of photos; a smaller"
    with fails(line):
        prepare_dataset(str(clips), data, train_ratio=0.9, repeats=10, group=r"clip\d")


def test_group_is_not_used_where_the_data_set_brings_its_split(tmp_path, data):
    source = make_pool(tmp_path / "set" / "train", 4).parent
    make_pool(source / "test", 2, base=50)
    prepared = prepare_dataset(str(source), data, group=r"\d")
    assert r"group = \d is not used: train and test come with the data set" in str(prepared)
    assert len(tree(data / "train")) == 8


def test_names_that_look_like_series_are_said_to_with_a_group_that_holds_them(clips, data, capsys):
    line = (
        "names look like 8 series (such as run/clip0_…, 3 images): if those of a series show the "
        "same, keep them on one side by group = "
    )
    notes = prepare_dataset(str(clips), data, train_ratio=0.75).notes
    (said,) = [note for note in notes if note.startswith(line)]
    group = said.removeprefix(line)
    command = [str(clips), "--output", str(data), "--train-ratio", "0.75", "--group", group]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "8 groups of 24 photos" in printed
    assert "look like" not in printed


@pytest.mark.parametrize("name", ["{}.jpg", "cat_{:03}.jpg", "IMG_{}.jpg", "2024_{}.jpg"])
def test_numbered_photos_of_a_class_are_no_series(small_pool, data, name):
    for path in sorted(small_pool.glob("*/*")):
        path.rename(path.with_name(name.format(int(path.stem))))
    assert prepare_dataset(str(small_pool), data, train_ratio=0.5).notes == []


def test_pool_of_two_photos_in_many_copies_is_refused_in_one_line(tmp_path, data):
    for number in range(12):
        path = tmp_path / "pool" / ("cats", "dogs")[number % 2] / f"{number}.jpg"
        save_photo(path, seed=number % 2, quality=80 + number)
    with fails("class cats is on one side of the split only, as its photos count as duplicates"):
        prepare_dataset(str(tmp_path / "pool"), data)


@pytest.mark.parametrize(
    ("picture", "mask"),
    [
        ("scan ({}).png", "scan ({})_mask.png"),
        ("scan ({}).png", "scan ({})_mask_1.PNG"),
        ("ISIC_{}.jpg", "ISIC_{}_Segmentation.png"),
        ("images/{}.png", "masks/{}.png"),
        ("left/Images/{}.png", "left/Masks/mask of {}.png"),
    ],
)
def test_masks_beside_their_images_are_named_and_left_out(tmp_path, data, picture, mask):
    source = tmp_path / "scans"
    pictures = []
    for number in range(8):
        folder = source / ("benign", "malignant")[number % 2]
        pictures.append(save_photo(folder / picture.format(number), number))
        save_photo(folder / mask.format(number), 100 + number)
    prepared = prepare_dataset(str(source), data, train_ratio=0.5)
    expected = sorted(path.read_bytes() for path in pictures)
    assert sorted([*tree(data / "train").values(), *tree(data / "test").values()]) == expected
    assert "8 masks beside their images are left out: " in str(prepared)
    assert mask.format(0).split("/")[-1] in str(prepared)
    assert "and 5 more" in str(prepared)


def test_photos_whose_names_tell_of_masks_without_a_partner_are_used(tmp_path, data):
    source = tmp_path / "faces"
    for number in range(6):
        save_photo(source / "with_mask" / f"{number}_mask.jpg", number)
        save_photo(source / "masks" / f"{number}.jpg", 50 + number)
    assert prepare_dataset(str(source), data, train_ratio=0.5).notes == []
    assert len(tree(data / "train")) + len(tree(data / "test")) == 12


def test_folders_of_images_and_masks_are_not_taken_for_classes(tmp_path, data):
    source = make_pool(tmp_path / "scans", 6, classes=("images", "masks"))
    with fails("scans: masks are masks of images, not a class of their own; expected one folder"):
        prepare_dataset(str(source), data)


def test_blank_images_are_counted_and_named(small_pool, data):
    for number, colour in enumerate(("white", "navy")):
        Image.new("RGB", (40, 40), colour).save(small_pool / "cats" / f"blank{number}.png")
    prepared = prepare_dataset(str(small_pool), data, train_ratio=0.5)
    line = "2 images are blank, of one colour: cats/blank0.png, cats/blank1.png"
    assert prepared.notes == [line]


def fill(folder: Path, counts: dict[str, int]) -> Path:
    """Save so many photos in sub-folders of a folder; no two look alike."""
    for base, (name, count) in enumerate(counts.items()):
        for number in range(count):
            save_photo(folder / name / f"{number}.jpg", 100 * base + number)
    return folder


def everything_below(*folders: Path) -> list[bytes]:
    return sorted(content for folder in folders for content in tree(folder).values())


def test_split_that_lies_inside_the_classes_is_used_and_said(tmp_path, data):
    counts = {"cats/Train": 6, "cats/val": 2, "dogs/Train": 5, "dogs/val": 3}
    source = fill(tmp_path / "set", counts)
    save_photo(source / "dogs" / "loose.jpg", 900)
    prepared = prepare_dataset(str(source), data)
    assert prepared.notes == [
        "every class holds Train and val: used as train and test (subset=. splits all of it anew)",
        "1 image beside Train and val in the classes is not used",
    ]
    for part, folder in (("train", "Train"), ("test", "val")):
        for label in ("cats", "dogs"):
            assert tree(data / part / label) == tree(source / label / folder)
    again = prepare_dataset(str(source), data, subset=".")
    assert again.classes == ["cats", "dogs"]
    assert everything_below(data / "train", data / "test") == everything_below(source)


def test_of_a_split_inside_the_classes_train_lacks_what_test_holds(tmp_path, data):
    source = fill(tmp_path / "set", {"a/train": 4, "a/test": 2, "b/train": 4, "b/test": 2})
    shutil.copy(source / "a" / "test" / "1.jpg", source / "a" / "train" / "again.jpg")
    prepared = prepare_dataset(str(source), data)
    assert prepared.dropped == ["train/a/again.jpg"]
    assert everything_below(data / "test") == everything_below(source / "a/test", source / "b/test")


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        # not the same in all classes
        ({"a/train": 4, "a/test": 2, "b/train": 4, "b/val": 2}, "a"),
        # folds, and what a class may hold, are no classes
        ({"fold_0/train": 4, "fold_0/test": 2, "fold_1/train": 4, "fold_1/test": 2}, "fold_0"),
        ({"images/train": 4, "images/val": 2, "labels/train": 4, "labels/val": 2}, "images"),
    ],
)
def test_split_inside_what_may_be_no_classes_is_refused_in_a_line(tmp_path, data, counts, named):
    source = fill(tmp_path / "set", counts)
    with fails(f"{named}: holds .*: make folders train and test with the classes in each, or set"):
        prepare_dataset(str(source), data)


def test_classes_of_blank_images_are_refused_without_a_cure_that_trains_on_them(tmp_path, data):
    for label in ("circle", "square"):
        (tmp_path / "icons" / label).mkdir(parents=True)
        for number in range(6):
            blank = Image.new("RGB", (40 + number, 40), "white")
            blank.save(tmp_path / "icons" / label / f"{number}.png")
    with fails("class circle has only blank images, of one colour, as another.*0.png$"):
        prepare_dataset(str(tmp_path / "icons"), data)


@pytest.mark.parametrize("name", [".lock", "metrics.json"])
def test_results_folder_in_the_data_set_is_no_class(small_pool, data, name):
    save_photo(small_pool / "results" / "figure.png", 1)
    (small_pool / "results" / name).touch()
    with fails(f"results: {name} in it shows that a run writes its results there.*results_dir"):
        prepare_dataset(str(small_pool), data)
    assert tree(data).keys() <= {".lock"}


def draw_eye(seed: int) -> Image.Image:
    """A disc on black with vessels and a bright spot on one side: much like any other eye."""
    rng = random.Random(seed)
    red = rng.randint(140, 200)
    image = Image.new("RGB", (96, 96))
    draw = ImageDraw.Draw(image)
    draw.ellipse([2, 2, 94, 94], fill=(red, red // 2, red // 5))
    for _ in range(6):
        ends = [rng.randint(20, 76) for _ in range(4)]
        draw.line(ends, fill=(red - 60, red // 2 - 40, 20), width=3)
    x = 48 + rng.choice((-1, 1)) * rng.randint(17, 26)
    y = rng.randint(41, 55)
    draw.ellipse([x - 7, y - 7, x + 7, y + 7], fill=(250, 215, 140))
    return image


def test_pictures_that_are_all_alike_are_no_duplicates_but_altered_ones_are(tmp_path):
    eyes = [draw_eye(seed) for seed in range(24)]
    files = []
    for number, eye in enumerate(eyes):
        files.append(tmp_path / f"{number}.jpg")
        eye.save(files[-1], quality=95)
    alike = find_duplicates([examine(file, "eye") for file in files])
    assert alike == []
    altered = {
        "recompressed.jpg": eyes[0],
        "resized.png": eyes[1].resize((60, 60)),
        "mirrored.png": ImageOps.mirror(eyes[2]),
    }
    for name, eye in altered.items():
        files.append(tmp_path / name)
        eye.save(files[-1], quality=40)
    pairs = find_duplicates([examine(file, "eye") for file in files])
    assert pairs == [(0, 24), (1, 25), (2, 26)]


def take_picture(seed: int, visitor: bool) -> Image.Image:
    """What a fixed camera sees: one view with other noise, and a visitor somewhere else."""
    rng = np.random.default_rng(seed)
    tiles = np.random.default_rng(0).integers(20, 120, (6, 8, 3), dtype=np.uint8)
    view = Image.fromarray(tiles).resize((160, 120), Image.Resampling.BICUBIC)
    pixels = np.asarray(view).astype(float)
    if visitor:
        top = rng.integers(0, 108)
        left = rng.integers(0, 150)
        pixels[top : top + 12, left : left + 10] = 230
    pixels += rng.normal(0, 4, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def test_of_a_fixed_camera_a_visitor_makes_another_picture_but_noise_does_not(tmp_path):
    photos = []
    for number in range(24):
        label = "visited" if number >= 12 else "empty"
        path = tmp_path / f"{number}.jpg"
        take_picture(number, visitor=label == "visited").save(path, quality=90)
        photos.append(examine(path, label))
    pairs = find_duplicates(photos)
    of_the_empty_view = [(i, j) for i in range(12) for j in range(i + 1, 12)]
    assert pairs == of_the_empty_view
    assert find_conflicts(photos, pairs) == []


def test_photos_that_differ_at_one_place_may_have_two_labels(tmp_path):
    photo = Image.open(save_photo(tmp_path / "a.png", seed=0, size=(64, 64)))
    photo.save(tmp_path / "again.jpg", quality=95, subsampling=0)
    photo.paste("black", (8, 8, 12, 12))
    photo.save(tmp_path / "marked.png")
    names = {"a.png": "without", "again.jpg": "with", "marked.png": "with"}
    photos = [examine(tmp_path / name, label) for name, label in names.items()]
    assert find_duplicates(photos) == [(0, 1), (0, 2), (1, 2)]
    assert find_conflicts(photos, [(0, 1), (0, 2), (1, 2)]) == [(0, 1)]


def test_the_first_lines_of_a_long_report_show_different_photos(tmp_path, data):
    source = make_pool(tmp_path / "pool", 6)
    for kind in ("cats", "dogs"):
        for number in range(10):
            shutil.copy(source / "cats" / "0.jpg", source / kind / f"again{number:02}.jpg")
    prepared = prepare_dataset(str(source), data, train_ratio=0.5)
    assert len(prepared.conflicts) == 11 * 10
    said = str(prepared)
    assert "110 pairs of them have two labels, and are left out" in said
    lines = [line for line in said.splitlines() if "under two labels: " in line]
    shown = [line.split(": ")[1].split(" = ") for line in lines[:10]]
    assert len({name for pair in shown for name in pair}) == 20


def test_few_pictures_or_a_class_of_one_photo_say_nothing_of_what_is_usual(tmp_path):
    for number in range(3):
        save_photo(tmp_path / f"{number}.jpg", seed=0, quality=80 + 5 * number)
    burst = [examine(tmp_path / f"{number}.jpg", "burst") for number in range(3)]
    assert find_duplicates(burst) == [(0, 1), (0, 2), (1, 2)]
    assert find_duplicates([]) == []


def test_more_pairs_than_are_compared_at_once_are_all_found(tmp_path, monkeypatch):
    monkeypatch.setattr("data.check.ROWS_AT_A_TIME", 3)
    monkeypatch.setattr("data.check.PAIRS_AT_A_TIME", 2)
    file = save_photo(tmp_path / "0.jpg", seed=0)
    other = save_photo(tmp_path / "1.jpg", seed=1)
    photos = [examine(other if number == 4 else file, "cat") for number in range(9)]
    numbers = [0, 1, 2, 3, 5, 6, 7, 8]
    expected = [(i, j) for i in numbers for j in numbers if i < j]
    assert find_duplicates(photos) == expected


def test_long_lists_stand_in_a_file_of_their_own_and_their_beginning_in_metrics(tmp_path, data):
    source = make_pool(tmp_path / "pool", 6)
    for number in range(15):
        shutil.copy(source / "cats" / "0.jpg", source / "cats" / f"again{number}.jpg")
    prepared = prepare_dataset(str(source), data, train_ratio=0.5)
    pairs = 16 * 15 // 2
    assert len(prepared.duplicates) == pairs
    summary = prepared.summary()
    assert summary["duplicates"] == prepared.duplicates[:100]
    assert summary["numbers"] == {"duplicates": 120, "dropped": 0, "conflicts": 0, "unreadable": 0}
    assert summary["details"] == str(data / "prepare_details.json")
    details = json.loads((data / "prepare_details.json").read_text(encoding="utf-8"))
    assert [tuple(pair) for pair in details["duplicates"]] == prepared.duplicates
    assert f"… and 100 lines more, see {data}/prepare_details.json" in str(prepared)
    # what is known of other photos is no longer there
    other = make_pool(tmp_path / "other", 6, base=50)
    assert "details" not in prepare_dataset(str(other), data, train_ratio=0.5).summary()
    assert not (data / "prepare_details.json").exists()


def test_progress_is_told_from_reading_to_copying(small_pool, data):
    told = {}

    def progress(step, done, total):
        told.setdefault(step, []).append((done, total))

    prepare_dataset(str(small_pool), data, train_ratio=0.5, progress=progress)
    assert list(told) == ["reading images", "comparing images", "copying images"]
    for counts in told.values():
        assert counts[-1] == (12, 12)
        assert counts == sorted(counts)
    # pairs take a while, too, where there are many
    for kind in ("cats", "dogs"):
        shutil.copy(small_pool / "cats" / "0.jpg", small_pool / kind / "again.jpg")
    prepare_dataset(str(small_pool), data, train_ratio=0.5, progress=progress)
    assert told["comparing labels"] == [(1, 3), (2, 3), (3, 3)]


def test_report_of_many_classes_counts_all_images_and_names_the_extremes(tmp_path, data):
    labels = [f"species_{number:02}" for number in range(33)]
    source = make_pool(tmp_path / "herbarium", 2, classes=labels)
    *_, train, test = str(prepare_dataset(str(source), data, train_ratio=0.5)).splitlines()
    assert train == "train: 33 images of 33 classes, 1 of each"
    assert test == "test: 33 images of 33 classes, 1 of each"
    for number in range(2):
        save_photo(source / "species_07" / f"more{number}.jpg", 100_000 + number)
    *_, train, _ = str(prepare_dataset(str(source), data, train_ratio=0.5)).splitlines()
    assert train == "train: 34 images of 33 classes, from 1 of species_00 to 2 of species_07"


@pytest.mark.parametrize("folder", ["cats", "cats/search"])
def test_pooled_parts_keep_files_of_one_name_however_long(tmp_path, data, folder):
    name = "long-search-term-" * 20
    for number, part in enumerate(("train", "test")):
        source = make_pool(tmp_path / "set" / part, 3, base=50 * number)
        for kind in ("é", "e"):
            save_photo(source / folder / f"{name[:248]}{kind}.png", 20 + 50 * number + ord(kind))
    prepared = prepare_dataset(str(tmp_path / "set"), data, subset="train,test", train_ratio=0.5)
    contents = [*tree(data / "train").values(), *tree(data / "test").values()]
    assert sorted(contents) == sorted(tree(tmp_path / "set").values())
    # the same names the next time
    assert (
        prepare_dataset(str(tmp_path / "set"), data, subset="train,test", train_ratio=0.5)
        == prepared
    )


@pytest.mark.parametrize("other", ["Cats/9.jpg", "cats/0.JPG", "cats/Sub/9.jpg"])
def test_names_that_differ_only_in_case_are_refused_where_that_makes_one_file(
    small_pool, data, monkeypatch, other
):
    for number in range(2):
        save_photo(small_pool / "cats" / "sub" / f"{number}.jpg", 50 + number)
        save_photo((small_pool / other).with_stem(f"{Path(other).stem}{number}"), 60 + number)
    save_photo(small_pool / other, 70)
    prepare_dataset(str(small_pool), data, train_ratio=0.5)
    shutil.rmtree(data)
    monkeypatch.setattr("data.files.folds_case", lambda folder: True)
    with fails(rf"{data}: .* and .* differ only in case, which this file system does not tell"):
        prepare_dataset(str(small_pool), data, train_ratio=0.5)
    assert tree(data).keys() <= {".lock"}


def test_class_folders_among_the_files_of_the_project_are_refused_with_the_cure(
    small_pool, data, monkeypatch
):
    monkeypatch.setattr("data.prepare.OWN_FOLDER", small_pool.resolve())
    for data_dir in (small_pool, data):
        with fails(f"{small_pool}: holds files of this project.*name that: {small_pool}/photos"):
            prepare_dataset(str(small_pool), data_dir)


def test_lost_split_json_is_written_again_where_the_split_is_the_same(small_pool, data):
    prepare_dataset(str(small_pool), data, train_ratio=0.5)
    before = tree(data)
    (data / "split.json").unlink()
    with fails("or split.json beside t.* is lost, which told so; move train/ and test/ away"):
        prepare_dataset(str(small_pool), data, train_ratio=0.5, seed=7)
    prepare_dataset(str(small_pool), data, train_ratio=0.5)
    assert tree(data) == before


def test_copies_that_augment_makes_are_no_series_though_their_names_look_like_it(small_pool, data):
    mixed = small_pool.with_name("mixed")
    augment_folder(small_pool, mixed, workers=1)
    shutil.copytree(small_pool, mixed, dirs_exist_ok=True)
    copies, *others = prepare_dataset(str(mixed), data, train_ratio=0.5).notes
    assert copies == "36 copies made by augment.py: each stays on the side of its photo"
    assert not [note for note in others if "series" in note]


def test_split_that_another_run_has_replaced_is_noticed(small_pool, tmp_path, data):
    prepared = prepare_dataset(str(small_pool), data, train_ratio=0.5, repeats=2)
    prepared.check_unchanged()
    # the same photos and settings
    prepare_dataset(str(small_pool), data, train_ratio=0.5)
    prepared.check_unchanged()
    other = make_pool(tmp_path / "other", 6, base=50)
    others = prepare_dataset(str(other), data, train_ratio=0.5)
    with fails(f"{data}: another run has made another split there since: prepare the data set"):
        prepared.check_unchanged()
    others.check_unchanged()
    shutil.rmtree(data)
    with fails("another split there since"):
        others.check_unchanged()
