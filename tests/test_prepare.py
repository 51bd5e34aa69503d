"""data/prepare.py: where images come from, what is checked, and the split into train and test."""

import io
import os
import re
import shutil
import unicodedata
import zipfile
from pathlib import Path

import kagglehub
import numpy as np
import pytest
from conftest import families, make_pool, photo, run_script, save_photo, tree, zip_of
from filelock import FileLock
from PIL import Image, ImageDraw

from augment import augment_folder
from data import claim, write_whole
from data.check import Photo, find_duplicates
from data.fetch import DEFAULT_DATASET, fetch_dataset, unpack
from data.images import InputError, load_image
from data.prepare import choose_test, count_images, main, prepare_dataset


def fails(line):
    return pytest.raises(InputError, match=line)


def prepare(source, data_dir, train_ratio=0.5, **options):
    return prepare_dataset(str(source), data_dir, train_ratio=train_ratio, **options)


def split_of(folder):
    """Return ({class/file: bytes} of train/, that of test/)."""
    return tree(folder / "train"), tree(folder / "test")


def everything_in(*folders):
    return sorted(data for folder in folders for data in tree(folder).values())


def used(folder):
    return everything_in(folder / "train", folder / "test")


def with_member(data: bytes, name: str, content: bytes = b"x", mode: int = 0) -> bytes:
    """Return a zip with one file more."""
    member, file = zipfile.ZipInfo("x"), io.BytesIO(data)
    member.filename, member.external_attr = name, mode << 16
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(member, content)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_of_any_tool_and_intent_are_unpacked_inside_their_folder(small_pool, tmp_path):
    prepare(small_pool, tmp_path / "data")
    windows = zip_of(tmp_path / "nothing", tmp_path / "windows.zip").read_bytes()
    for name, content in tree(small_pool).items():
        windows = with_member(windows, f"photos/{name}".replace("/", "\\"), content)
    (tmp_path / "windows.zip").write_bytes(windows)
    hostile = zip_of(small_pool, tmp_path / "hostile.zip", "a/photos/").read_bytes()
    hostile = with_member(hostile, "a/photos/cats/0.jpg", tree(small_pool)["cats/0.jpg"])  # twice
    hostile = with_member(hostile, "__MACOSX/cats/._0.jpg")
    hostile = with_member(hostile, "a/photos/cats/link", b"/etc/passwd", 0o120777)
    for name in ("../../../out.txt", "..\\..\\..\\out.txt", "/out.txt", "C:out.txt"):
        hostile = with_member(hostile, name)
    (tmp_path / "hostile.zip").write_bytes(hostile)
    before = {*tmp_path.iterdir()}
    for archive in (tmp_path / "windows.zip", tmp_path / "hostile.zip"):
        prepared = prepare(archive, tmp_path / "other")
        assert (prepared.source, prepared.drawn, prepared.why) == (str(archive), False, "")
        assert split_of(tmp_path / "other") == split_of(tmp_path / "data")
        assert {*tmp_path.iterdir()} == before | {tmp_path / "other"}
        assert not [path for path in (tmp_path / "other").rglob("*") if path.is_symlink()]
        first = unpack(archive, tmp_path / "other" / "source")
        assert unpack(archive, tmp_path / "other" / "source") == first


ZIPS = {
    "not a zip": lambda data: b"<html>",
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-30],
    "half": lambda data: data[:5000],
    "damaged": lambda data: data[:60] + b"\xff" * 30 + data[90:],
    "encrypted": lambda data: re.sub(b"(?s)(PK\3\4..|PK\1\2....)\0", lambda m: m[1] + b"\1", data),
    "too much": lambda data: re.sub(b"(?s)(PK\1\2.{20}).{4}", lambda m: m[1] + b"\0\0\0\x80", data),
    "file for a folder": lambda data: with_member(data, "cats"),
    "endless name": lambda data: with_member(data, "x" * 300),
}  # fmt: skip


@pytest.mark.parametrize("what", ZIPS)
def test_zip_that_is_no_good_is_refused_and_leaves_nothing(small_pool, tmp_path, what):
    archive = zip_of(small_pool, tmp_path / "set.zip")
    archive.write_bytes(ZIPS[what](archive.read_bytes()))
    line = f".*{what}" if what in ("encrypted", "too much") else ""
    with fails(rf"^{archive}: cannot be unpacked \({line}.*; is it a whole zip"):
        fetch_dataset(str(archive), tmp_path / "data")
    assert not tree(tmp_path / "data")


def test_name_of_nothing_is_refused_with_the_folder_that_was_looked_in(
    small_pool, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kagglehub, "dataset_download", lambda _: pytest.fail("asked Kaggle"))
    for name in ("my photos", "~nobody_here/x", "x" * 5000, "a\0b", "a/b/c", "*", "pool/cat"):
        with fails(rf"^dataset = '.*: no such folder or zip in {tmp_path}, and no Kaggle handle"):
            fetch_dataset(name, tmp_path)


def test_home_folder_is_what_the_tilde_means(small_pool, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(small_pool)
    assert prepare("~/pool", "~/data").folders == [tmp_path / "data"]
    assert augment_folder("~/data/train", "~/copies", 1, workers=1).made == 6
    assert used(tmp_path / "data") == everything_in(small_pool)
    assert len(tree(tmp_path / "copies")) == 7


def test_kaggle_delivers_and_offline_the_newest_complete_version_is_used(
    kaggle, small_pool, tmp_path
):
    kaggle("well")
    prepared = prepare(DEFAULT_DATASET, tmp_path / "data")
    assert (prepared.source, prepared.subset) == (f"{DEFAULT_DATASET}/versions/3", "test")
    assert used(tmp_path / "data") == everything_in(small_pool)
    kaggle("off")
    assert prepare(DEFAULT_DATASET, tmp_path / "data") == prepared
    cached = tmp_path / "cache" / "datasets" / DEFAULT_DATASET
    for version in ("9", "10", "11"):
        shutil.copytree(cached / "versions" / "3", cached / "versions" / version)
        shutil.copy(cached / "3.complete", cached / f"{version}.complete")
    (cached / "11.complete").unlink()
    assert fetch_dataset(DEFAULT_DATASET, tmp_path)[1] == f"{DEFAULT_DATASET}/versions/10"


@pytest.mark.parametrize("kind", ["off", "404", "403", "500", "hanging", "half", "wrong checksum"])
def test_drawings_stand_in_for_the_default_only_and_are_said_to(kaggle, small_pool, tmp_path, kind):
    kaggle(kind)
    where = f"no such folder in {tmp_path}, and from Kaggle .*give the path of a zip"
    with fails(f"dataset = '12/photos': {where}"):
        fetch_dataset("12/photos", tmp_path / "data")
    for wish in (None, "test"):
        prepared = prepare(DEFAULT_DATASET, tmp_path / "data", subset=wish)
        assert (prepared.source, prepared.drawn) == (f"drawings instead of {DEFAULT_DATASET}", True)
        assert prepared.why
        assert str(prepared).splitlines()[0].endswith(f"({prepared.why})")
    kaggle("well")
    for handle in ("12/photos", DEFAULT_DATASET):  # nothing broken was left in the way
        folder, source, why = fetch_dataset(handle, tmp_path / "data")
        assert (source, why) == (f"{handle}/versions/3", "")
        assert tree(folder / "test") == tree(small_pool)
    drawn = prepare("drawings", tmp_path / "data", subset="test")
    assert (drawn.source, drawn.drawn, drawn.why) == ("drawings", True, "")


NAME_THEM = "look like parts of a split; name two of them train and test, or set subset"
LAYOUTS = {  # {files: images}; the test set of a ready-made one, "" of a pool, an error; a note
    "cats/ 6 dogs/ 6": ("", ""),
    "a/b/cats/ 6 a/b/dogs/ 6": ("", ""),
    "cats/ 6 dogs/ 6 IMG_ 30": ("", "30 images beside the class folders are not used"),
    "Train/a/ 4 Train/b/ 4 valid/a/ 2 valid/b/ 2": ("valid", ""),
    "train/a/ 4 train/b/ 4 val/a/ 2 val/b/ 2": ("val", ""),
    "train/x/a/ 4 train/x/b/ 4 test/y/a/ 2 test/y/b/ 2": ("test", ""),
    "train/a/ 4 train/b/ 4 test/a/ 2 test/b/ 2 val/a/ 2 val/b/ 2": ("test", "val: 4 images are"),
    "train/a/ 4 train/b/ 4 val/a/ 2 val/b/ 2 test/ 3": ("val", "test: 3 images have no labels and"),
    "train/ok/ 4 train/nok/ 4 train/unsure/ 4 test/ 5": ("", "test: 5 images have no labels and a"),
    "train/cat. 4 train/dog. 4 test1/ 4": (r"seem to hold the classes \(cat, dog\): make", ""),
    "training_set/a/ 4 training_set/b/ 4 test_set/a/ 4 test_set/b/ 4": (NAME_THEM, ""),
    "seg_train/x/a/ 4 seg_train/x/b/ 4 seg_test/x/a/ 4 seg_test/x/b/ 4": (NAME_THEM, ""),
    "cars/ 6 trains/ 6": ("", ""),
    "control/ 6 test/ 6": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize(("layout", "test", "note"), [(k, *v) for k, v in LAYOUTS.items()])
def test_parts_of_a_split_are_never_taken_for_classes(tmp_path, layout, test, note):
    words, source = layout.split(), tmp_path / "set"
    for number, (start, images) in enumerate(zip(words[::2], words[1::2], strict=True)):
        for i in range(int(images)):
            save_photo(Path(f"{source}/{start}{i}.png"), 100 * number + i)
    if " " in test:
        with fails(test):
            prepare(source, tmp_path / "data")
        assert not tree(tmp_path / "data")
        return
    notes = prepare(source, tmp_path / "data").notes
    assert [line[: len(note)] for line in notes] == [note] * bool(note)
    unused = everything_in(source / note.split(":")[0]) if ":" in note else []
    unused += [path.read_bytes() for path in source.glob("IMG*")]
    assert sorted(used(tmp_path / "data") + unused) == everything_in(source)
    if test:
        assert everything_in(tmp_path / "data" / "test") == everything_in(source / test)


def test_pooled_parts_keep_all_files_even_of_one_name(tmp_path):
    source, data = make_pool(tmp_path / "set" / "train", 4).parent, tmp_path / "data"
    make_pool(source / "test", 3, base=50)
    save_photo(source / "test" / "cats" / "own.jpg", 7)
    prepare(source, data, subset="train, test")
    names = [f"{part}_{i}" for part in ("train", "test") for i in range(3)] + ["3", "own"]
    names = {f"{kind}/{name}.jpg" for kind in ("cats", "dogs") for name in names}
    assert {*tree(data / "train"), *tree(data / "test")} == names - {"dogs/own.jpg"}
    assert used(data) == everything_in(source)
    for subset in ("birds", "train,birds"):
        with fails(r"subset = 'birds': .* has only test, train"):
            prepare(source, data, subset=subset)
    make_pool(source / "new" / "train", 4, base=100)  # a second folder of that name
    prepare(source, data, subset="train,new/train")
    assert used(data) == everything_in(source / "train", source / "new" / "train")


def more(pool, kind, count, name="{}.jpg", write=lambda path, i: path.write_bytes(b"GIF")):
    (pool / kind).mkdir(exist_ok=True)
    for i in range(count):
        write(pool / kind / name.format(i), i)


def burst(path, i):
    save_photo(path, 7, quality=60 + i)


FOLDERS = {
    "no readable image in birds. It is empty": lambda pool: more(pool, "birds", 0),
    "no readable image in notes": lambda pool: more(pool, "notes", 1, "{}.txt"),
    "in bees. 12 files .heic, which cannot be": lambda pool: more(pool, "bees", 12, "{}.HEIC"),
    "in birds. 0.jpg: not an image; 1.jpg: not": lambda pool: more(pool, "birds", 3),
    "train_ratio = 0.5: needs 2 images or more": lambda pool: more(pool, "a", 1, write=burst),
    "class owls is on one.*--keep-duplicates": lambda pool: more(pool, "owls", 6, write=burst),
    "only one class": lambda pool: shutil.rmtree(pool / "cats"),
    "expected one folder per": lambda pool: [shutil.rmtree(pool / k) for k in ("cats", "dogs")],
}


@pytest.mark.parametrize(("line", "change"), FOLDERS.items())
def test_folder_that_cannot_be_split_is_refused_in_one_line(small_pool, tmp_path, line, change):
    change(small_pool)
    before = tree(small_pool)
    with fails(line) as caught:
        prepare(small_pool, tmp_path / "data")
    assert str(caught.value).isprintable()
    assert not tree(tmp_path / "data")
    assert tree(small_pool) == before


def test_what_is_left_out_is_reported_in_few_lines(pool, tmp_path):
    whole = (pool / "cats" / "cat_00.jpg").read_bytes()
    (pool / "cats" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    more(pool, "dogs", 30, "page{}.jpg")
    more(pool, "cats", 12, "IMG_{}.HEIC")
    save_photo(pool / "cats" / "deep" / "er" / "a.jpg", 999)
    prepared = prepare(pool, tmp_path / "data")
    assert len(prepared.unreadable) == 31
    assert "truncated" in prepared.unreadable[str(pool / "cats" / "half.jpg")]
    source, *lines, train, test = str(prepared).splitlines()
    assert source == f"source: {pool}"
    assert "12 files .heic, which cannot be read here: convert them if they are photos" in lines
    assert f"left out: {pool}/dogs/page0.jpg: not an image" in lines
    assert lines[-1] == "… and 11 lines more"
    for line, part in ((train, "train"), (test, "test")):
        counts = count_images(tmp_path / "data" / part)
        assert line == f"{part}: {counts['cats']} cats, {counts['dogs']} dogs"
    assert len(used(tmp_path / "data")) == 36


def test_accented_class_from_a_mac_is_the_same_and_reported_like_others(tmp_path):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        for number, kind in enumerate(("café", "thé")):
            folder = tmp_path / "set" / part / unicodedata.normalize(form, kind)
            for i in range(4):
                name = unicodedata.normalize(form, f"é{i}{part}.jpg")
                save_photo(folder / name, 100 * number + 10 * len(part) + i)
    (folder / "1.heic").write_bytes(b"x")
    prepared = prepare(tmp_path / "set", tmp_path / "data")
    assert prepared.classes == ["café", "thé"]
    names = {f"{kind}/é{i}test.jpg" for kind in prepared.classes for i in range(4)}
    assert {*split_of(tmp_path / "data")[1]} == names
    assert "1 files .heic, which cannot" in str(prepared)


def test_duplicates_recompressed_resized_mirrored_are_kept_on_one_side(pool, tmp_path):
    for path in sorted(pool.glob("cats/*"))[:10]:
        image = Image.open(path)
        image.save(path.with_name(f"{path.stem}~again.jpg"), quality=60)
        image.resize((96, 80)).save(path.with_name(f"{path.stem}~large.png"))
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_name(f"{path.stem}~m.webp"))
    prepared = prepare(pool, tmp_path / "data", train_ratio=0.8, repeats=5)
    assert all(len(families(pair)) == 1 for pair in prepared.duplicates)
    assert len(prepared.duplicates) == 60  # all pairs of four
    assert "60 pairs of duplicates, kept on one side (drop_duplicates=false" in str(prepared)
    for folder in prepared.folders:
        train, test = split_of(folder)
        assert not families(train) & families(test)
    kept = prepare(pool, tmp_path / "data", drop_duplicates=False)
    train, test = split_of(tmp_path / "data")
    assert families(train) & families(test)
    assert kept.duplicates == prepared.duplicates
    assert "60 pairs of duplicates, used where they lie" in str(kept)


def test_duplicates_are_not_imagined():
    def as_photo(grey, label="a"):
        grey = np.asarray(grey, np.uint8)
        colour = np.repeat(grey[..., None], 3, 2)
        return Photo(Path("x"), label, "", "", grey, colour, False, None)

    ramp = np.tile(np.linspace(0, 255, 32), (32, 1)).astype(np.uint8)
    faint = ramp / 8 + 100  # the same signs of its frequencies, other pixels
    photos = [as_photo(ramp), as_photo(faint), as_photo(ramp[:, ::-1])]
    assert find_duplicates(photos) == [(0, 2)]
    photos[2].label = "turns the other way"  # where the class is left or right
    assert find_duplicates(photos) == []
    assert find_duplicates([photos[0], as_photo(ramp, "the other class")]) == [(0, 1)]


def test_classes_that_differ_in_colour_alone_are_no_duplicates(tmp_path):
    for part, count in (("train", 12), ("test", 6)):
        for name, colour in (("green", (0, 130, 0)), ("red", (255, 0, 0))):
            for i in range(count):
                rng = np.random.default_rng((part == "test") * 1000 + i)  # same places in both
                image = Image.new("RGB", (64, 64), (40, 40, 40))
                (x, y), r = rng.integers(20, 44, 2), rng.integers(8, 16)
                ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=colour)
                path = tmp_path / "lamps" / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    prepared = prepare(tmp_path / "lamps", tmp_path / "data")
    assert prepared.conflicts == []
    assert all(("green" in a) == ("green" in b) for a, b in prepared.duplicates)


@pytest.mark.parametrize("parts", ["", "train test"], ids=["pool", "ready-made"])
def test_one_photo_under_two_labels_is_named_and_left_out(tmp_path, parts):
    source, data, parts = tmp_path / "set", tmp_path / "data", parts.split() or ["."]
    for number, part in enumerate(parts):
        make_pool(source / part, 10, ("benign", "malignant"), 100 * number)
    first, last = source / parts[0] / "benign", source / parts[-1] / "malignant"
    shutil.copy(first / "3.jpg", last / "30.jpg")
    Image.open(first / "5.jpg").save(last / "31.jpg", quality=97, subsampling=0)
    prepared = prepare(source, data)
    pairs = {frozenset(Path(name).stem for name in pair) for pair in prepared.conflicts}
    assert pairs == {frozenset(("3", "30")), frozenset(("5", "31"))}
    assert "the same photo under two labels: " in str(prepared)
    assert prepared.dropped == []
    assert len(used(data)) == 20 * len(parts) - 2
    assert not {*used(data)} & {(first / f"{i}.jpg").read_bytes() for i in (3, 5)}
    assert prepare(source, data, drop_duplicates=False).conflicts == prepared.conflicts
    assert used(data) == everything_in(source)


def test_own_augmented_copies_stay_on_the_side_of_their_photo(tmp_path):
    mixed = tmp_path / "mixed"
    augment_folder(make_pool(tmp_path / "photos", 6), mixed, workers=1)
    shutil.copytree(tmp_path / "photos", mixed, dirs_exist_ok=True)
    prepared = prepare(mixed, tmp_path / "data", repeats=4)
    assert "36 copies made by augment.py: each stays on the side of its photo" in str(prepared)
    for folder in prepared.folders:
        train, test = split_of(folder)
        assert len(train) + len(test) == 48
        assert not families(train) & families(test)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_deeper_images_share_one_scale_so_that_a_dark_one_stays_darker(tmp_path, kind):
    for number, side in enumerate(("left", "right")):
        save_photo(tmp_path / "set" / side / "eight_bits.jpg", number)
        for i in range(6):
            rng, most = np.random.default_rng(10 * number + i), (250, 2000, 4000)[i % 3]
            pixels = rng.integers(0, most, (8, 8)).repeat(4, 0).repeat(4, 1)
            pixels = pixels.astype(kind) if kind is np.uint16 else pixels.astype(kind) / 4096
            Image.fromarray(pixels).save(tmp_path / "set" / side / f"{i}.tif")
    prepared = prepare(tmp_path / "set", tmp_path / "data")
    assert "12 images of more than 8 bits are used as 8-bit PNG, all on one sc" in str(prepared)
    assert prepared.duplicates == []
    brightness = {0: [], 1: [], 2: []}
    for path in (tmp_path / "data").glob("t*/*/*.png"):
        brightness[int(path.name[0]) % 3].append(np.asarray(load_image(path)[1]).mean())
    assert [len(means) for means in brightness.values()] == [4, 4, 4]
    assert max(brightness[0]) < 15 < 40 < min(brightness[1]) < max(brightness[1]) < 80
    assert min(brightness[2]) > 100
    first = tree(tmp_path / "data")
    assert prepare(tmp_path / "set", tmp_path / "data") == prepared
    assert tree(tmp_path / "data") == first


def test_what_a_ready_made_test_set_holds_is_left_out_of_train(tmp_path):
    source, data = tmp_path / "set", tmp_path / "data"
    make_pool(source / "train", 6)
    make_pool(source / "test", 3, base=700)
    kept, test = tree(source / "train"), tree(source / "test")
    with Image.open(source / "test" / "cats" / "0.jpg") as image:
        image.save(source / "train" / "cats" / "leak.jpg", quality=60)
        image.resize((96, 80)).save(source / "train" / "cats" / "leak.png")
    prepared = prepare(source, data, repeats=2)
    assert prepared.dropped == ["train/cats/leak.jpg", "train/cats/leak.png"]
    assert "not in train, as test holds it: train/cats/leak.jpg" in str(prepared)
    assert [split_of(folder) for folder in prepared.folders] == [(kept, test), (kept, test)]
    assert prepare(source, data, drop_duplicates=False).dropped == []
    assert split_of(data) == (tree(source / "train"), test)
    shutil.rmtree(source / "train" / "cats")
    shutil.copytree(source / "test" / "cats", source / "train" / "cats")
    with fails("class cats is on one side of the split only"):
        prepare(source, data)
    shutil.rmtree(source / "test" / "dogs")
    with fails("dogs: not in both train and test"):
        prepare(source, data)


def test_pool_is_split_stratified_into_repeats_that_test_every_photo_once(pool, tmp_path):
    for name, seed in (("a", 42), ("again", 42), ("other", 43)):
        prepared = prepare(pool, tmp_path / name, train_ratio=0.8, seed=seed, repeats=5)
        assert prepared.folders[:2] == [tmp_path / name, tmp_path / name / "repeat_1"]
        splits = [split_of(folder) for folder in prepared.folders]
        assert sorted(name for _, test in splits for name in test) == sorted(tree(pool))
        assert all(train | test == tree(pool) for train, test in splits)
        assert count_images(tmp_path / name / "test") == {"cats": 4, "dogs": 3}
    assert tree(tmp_path / "a") == tree(tmp_path / "again") != tree(tmp_path / "other")
    prepare(pool, tmp_path / "alone", train_ratio=0.8)
    assert split_of(tmp_path / "alone") == split_of(tmp_path / "a")


@pytest.mark.parametrize(("ratio", "folds"), [(0.8, 5), (0.75, 4), (0.5, 2), (0.7, 3)])
def test_repeats_test_disjoint_folds_of_the_stated_size_then_reshuffled_ones(ratio, folds):
    labels = np.repeat([0, 1], 60)
    tests = [choose_test(labels, np.arange(120), ratio, 1, repeat) for repeat in range(folds)]
    joined = np.concatenate(tests)
    assert len(set(joined)) == len(joined)
    for test in tests:
        assert len(test) == pytest.approx(120 * (1 - ratio), abs=1)
        assert abs(np.bincount(labels[test])[0] - len(test) / 2) <= 1
    past = choose_test(labels, np.arange(120), ratio, 1, folds)
    assert not any(np.array_equal(past, test) for test in tests)


def test_a_thousand_classes_of_any_name_are_split(tmp_path):
    odd = ["<b>bold<b>", "$x_1$", "a'b\"c", "`ls`", "{0}", "%s", "-rf", "con.", " space ", "Čeněk"]
    names = sorted([*odd, "line\nbreak", *(f"class {n:03}" for n in range(989))])
    rng = np.random.default_rng(0)
    for name in names:
        (tmp_path / "pool" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pool" / name / f"{i}.png")
    prepared = prepare(tmp_path / "pool", tmp_path / "data", train_ratio=2 / 3)
    assert prepared.classes == names
    assert count_images(tmp_path / "data" / "train") == dict.fromkeys(names, 2)
    assert ", 1 <b>bold<b>, " in str(prepared).splitlines()[-1]
    assert ", 1 line break" in str(prepared).splitlines()[-1]


def test_second_call_copies_nothing_and_other_files_survive_another_data_set(small_pool, tmp_path):
    before, data = tree(small_pool), tmp_path / "data"
    first = prepare(small_pool, data)
    files = {path: path.stat().st_mtime_ns for path in data.glob("t*/*/*")}
    assert set(tree(data)) == {"split.json", *(k.relative_to(data).as_posix() for k in files)}
    missing, *others = files
    missing.unlink()
    assert prepare(small_pool, data) == first
    assert {path.stat().st_mtime_ns == files[path] for path in others} == {True}
    assert (missing.exists(), tree(small_pool)) == (True, before)
    for name in ("train/dogs/notes.txt", "test/dogs/.DS_Store"):
        (data / name).write_text("mine")
    (data / "train" / "cats" / ".0123456789abcdef.unfinished").write_text("of a killed run")
    other = make_pool(tmp_path / "insects", 6, ("ants", "cats"), base=300)
    assert prepare(other, data).classes == ["ants", "cats"]
    train, test = split_of(data)
    assert train.pop("dogs/notes.txt") == test.pop("dogs/.DS_Store") == b"mine"
    assert train | test == tree(other)


def test_what_lies_in_the_way_survives(small_pool, tmp_path):
    mine = save_photo((data := tmp_path / "data") / "train" / "cats" / "mine.jpg", 1)
    with fails(r"mine\.jpg: not put there by this"):
        prepare(small_pool, data)
    assert list(tree(data)) == ["train/cats/mine.jpg"]
    mine.unlink()
    prepare(small_pool, data)
    save_photo(next(data.glob("train/cats/*")), 2)
    before = tree(data)
    with fails("changed since; move it away or choose another data_dir"):
        prepare(small_pool, data, seed=7)
    assert tree(data) == before
    for part in ("train", "test"):  # a text that has the name of a photo without a suffix
        (tmp_path / "new" / part / "cats").mkdir(parents=True)
        (tmp_path / "new" / part / "cats" / "photo").write_text("mine")
    (small_pool / "cats" / "0.jpg").rename(small_pool / "cats" / "photo")
    with fails("cats/photo: not put there by this"):
        prepare(small_pool, tmp_path / "new")
    assert set(tree(tmp_path / "new").values()) == {b"mine"}


@pytest.mark.parametrize("content", ["[]", "null", "3", "{", '{"train/cats/0.jpg": 3}', "\0"])
def test_memory_that_was_damaged_makes_all_files_those_of_others(small_pool, tmp_path, content):
    prepare(small_pool, data := tmp_path / "data")
    (data / "split.json").write_text(content)
    before = tree(data)
    with fails("not put there by this"):
        prepare(small_pool, data)
    assert tree(data) == before


@pytest.mark.parametrize(
    "places", ["x x", "x x/data", "x x/cats/data", "d/train d", "d/test d", "d/train_aug d"]
)
def test_output_inside_the_data_set_or_that_in_it_is_refused_without_a_trace(tmp_path, places):
    source, data = (tmp_path / place for place in places.split())
    make_pool(source, 6)
    before = sorted(tmp_path.rglob("*"))
    with fails("must not lie in the data set"):
        prepare(source, data)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_written_is_named_and_the_old_file_kept(small_pool, tmp_path, monkeypatch):
    def full(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    prepare(small_pool, data := tmp_path / "data")
    before = tree(data)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with fails("split.json: cannot be written, No space left on device"):
            write_whole(data / "split.json", "new")
        assert tree(data) == before
        with fails("split.json: cannot be written, No space left on device"):
            prepare(small_pool, data, seed=1)
    prepare(small_pool, data, seed=1)
    assert used(data) == everything_in(small_pool)


def test_image_that_changes_or_goes_meanwhile_is_named(small_pool, tmp_path, monkeypatch):
    file, content = small_pool / "cats" / "0.jpg", tree(small_pool)["cats/0.jpg"]
    for line, change in (
        ("changed while it was being used", lambda: file.write_bytes(photo())),
        ("No such file.*it could be read just before", file.unlink),
    ):
        with monkeypatch.context() as patched, fails(f"0.jpg: {line}"):
            patched.setattr("data.prepare.find_duplicates", lambda _, act=change: [act()][:0])
            prepare(small_pool, tmp_path / "data")
        file.write_bytes(content)
    prepare(small_pool, tmp_path / "data")
    assert used(tmp_path / "data") == everything_in(small_pool)


def test_second_run_in_the_same_folder_says_so(small_pool, tmp_path):
    (data := tmp_path / "data").mkdir()
    for run in (prepare, augment_folder):
        with FileLock(data / ".lock"), fails("data: another run is using it: wait, "):
            run(small_pool, data)
    with claim(data), claim(data):  # the cell runs again
        assert (data / ".lock").exists()
    assert not tree(data)
    (tmp_path / "file").write_text("in the way")
    with fails("file: cannot be written, File exists"), claim(tmp_path / "file"):
        pass


def test_command_line_equals_the_function(pool, tmp_path, capsys):
    save_photo(pool / "cats" / "again.jpg", 0, quality=60)
    options = ["--subset", "", "--train-ratio", "0.7", "--seed", "5", "--repeats", "2"]
    assert main([str(pool), "--output", str(tmp_path / "a"), *options, "--keep-duplicates"]) == 0
    same = {"subset": "", "train_ratio": 0.7, "seed": 5, "repeats": 2, "drop_duplicates": False}
    prepared = prepare_dataset(str(pool), tmp_path / "b", **same)
    assert capsys.readouterr().out == f"{prepared}\n"
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


UNUSABLE = "train-ratio=0 train-ratio=1 train-ratio=1.5 train-ratio=-1 train-ratio=nan "
UNUSABLE += "train-ratio=0.99 repeats=0 repeats=-1 seed=-1 seed=9999999999 subset=birds"


@pytest.mark.parametrize("option", UNUSABLE.split())
def test_value_that_cannot_be_used_is_one_line_and_exit_code_2(pool, tmp_path, capsys, option):
    assert main([str(pool), "--output", str(tmp_path / "data"), f"--{option}"]) == 2
    out, line = capsys.readouterr()
    assert (out, line.count("\n"), line[:14]) == ("", 1, "data.prepare: ")
    assert not tree(tmp_path / "data")


def test_interrupt_is_one_line_and_exit_code_130(small_pool, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data.prepare.find_duplicates", lambda _: os.kill(os.getpid(), 2))
    assert main([str(small_pool), "--output", str(tmp_path / "data")]) == 130
    assert capsys.readouterr().err == "data.prepare: stopped; run it again to go on where it was\n"
    assert not tree(tmp_path / "data")


@pytest.mark.parametrize("script", ["-m data.prepare", "augment.py"])
def test_script_runs_optimised_in_an_old_code_page_beside_a_package_called_data(tmp_path, script):
    make_pool(tmp_path / "pool", 5, ("Ágnes", "Čeněk ✏"))
    (tmp_path / "pool" / "Čeněk ✏" / "Ábra 🐈.jpg").write_bytes(b"x")
    (tmp_path / "site" / "data").mkdir(parents=True)
    (tmp_path / "site" / "data" / "__init__.py").write_text("raise SystemExit('not ours')")
    place = ["--output"] * (script != "augment.py") + [tmp_path / "out"]
    options = {"encoding": "cp1252", "PYTHONPATH": str(tmp_path / "site"), "PYTHONUTF8": "0"}
    done = run_script("-OO", *script.split(), tmp_path / "pool", *place, **options)
    printed = done.stdout + done.stderr
    assert done.returncode == (script == "augment.py"), printed
    assert "Ábra ?.jpg: " in printed
    assert "Traceback" not in printed
    assert "?en?k ?" in printed
    assert tree(tmp_path / "out")
