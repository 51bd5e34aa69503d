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
from data.check import Photo, examine, find_duplicates
from data.fetch import DEFAULT_DATASET, fetch_dataset
from data.images import InputError, load_image
from data.prepare import choose_test, count_images, main, prepare_dataset


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def fails(line):
    return pytest.raises(InputError, match=line)


def prepare(source, data_dir, train_ratio=0.5, **options):
    return prepare_dataset(str(source), data_dir, train_ratio=train_ratio, **options)


def refused(line, source, data_dir, **options):
    """Check that it is refused in that one line, and that nothing was written or changed."""
    before = [tree(source) if source.is_dir() else {}, tree(data_dir)]
    with fails(line) as caught:
        prepare(source, data_dir, **options)
    assert str(caught.value).isprintable()
    assert [tree(source) if source.is_dir() else {}, tree(data_dir)] == before


def split_of(folder):
    """Return ({class/file: bytes} of train/, that of test/)."""
    return tree(folder / "train"), tree(folder / "test")


def everything_in(*folders):
    return sorted(content for folder in folders for content in tree(folder).values())


def used(folder):
    return everything_in(folder / "train", folder / "test")


def shared_families(folder):
    """Return the photos that have relatives on both sides of a split."""
    return families(tree(folder / "train")) & families(tree(folder / "test"))


def with_member(archive: bytes, name: str, content: bytes = b"x", mode: int = 0) -> bytes:
    """Return a zip with one file more."""
    member, file = zipfile.ZipInfo("x"), io.BytesIO(archive)
    member.filename, member.external_attr = name, mode << 16
    with zipfile.ZipFile(file, "a") as opened:
        opened.writestr(member, content)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_of_any_tool_and_intent_are_unpacked_inside_their_folder(small_pool, tmp_path):
    files, windows = tree(small_pool), zip_of(tmp_path / "nothing", tmp_path / "a.zip").read_bytes()
    for name, content in files.items():
        windows = with_member(windows, f"photos/{name}".replace("/", "\\"), content)
    hostile = zip_of(small_pool, tmp_path / "a.zip", "a/photos/").read_bytes()
    hostile = with_member(hostile, "a/photos/cats/0.jpg", files["cats/0.jpg"])  # twice
    hostile = with_member(hostile, "a/photos/cats/link", b"/etc/passwd", 0o120777)
    for name in ("../../../out.txt", "..\\..\\..\\out.txt", "/out.txt", "C:out.txt"):
        hostile = with_member(with_member(hostile, name), "__MACOSX/cats/._0.jpg")
    prepare(small_pool, tmp_path / "data")
    before = {*tmp_path.iterdir()} | {tmp_path / "other"}
    for content in (windows, hostile):
        (tmp_path / "a.zip").write_bytes(content)
        for _ in ("unpacked", "found unpacked"):
            assert prepare(tmp_path / "a.zip", tmp_path / "other").source == f"{tmp_path}/a.zip"
            assert split_of(tmp_path / "other") == split_of(tmp_path / "data")
        assert {*tmp_path.iterdir()} == before
        assert not [path for path in (tmp_path / "other").rglob("*") if path.is_symlink()]
    assert len([*(tmp_path / "other" / "source").iterdir()]) == 2


ZIPS = {
    "not a zip": lambda zip: b"<html>",
    "half": lambda zip: zip[:5000],
    "damaged": lambda zip: zip[:60] + b"\xff" * 30 + zip[90:],
    "encrypted": lambda zip: re.sub(b"(?s)(PK\3\4..|PK\1\2....)\0", lambda m: m[1] + b"\1", zip),
    "too much": lambda zip: re.sub(b"(?s)(PK\1\2.{20}).{4}", lambda m: m[1] + b"\0\0\0\x80", zip),
    "file for a folder": lambda zip: with_member(zip, "cats"),
    "endless name": lambda zip: with_member(zip, "x" * 300),
}


@pytest.mark.parametrize("what", ZIPS)
def test_zip_that_is_no_good_is_refused_and_leaves_nothing(small_pool, tmp_path, data, what):
    archive = zip_of(small_pool, tmp_path / "set.zip")
    archive.write_bytes(ZIPS[what](archive.read_bytes()))
    line = f".*{what}" if what in ("encrypted", "too much") else ""
    refused(rf"^{archive}: cannot be unpacked \({line}.*; is it a whole zip", archive, data)


def test_name_of_nothing_is_refused_with_the_folder_that_was_looked_in(
    small_pool, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kagglehub, "dataset_download", lambda _: pytest.fail("asked Kaggle"))
    for name in ("my photos", "~nobody_here/x", "x" * 5000, "a\0b", "a/b/c", "*", "pool/cat"):
        with fails(rf"^dataset = '.*: no such folder or zip in {tmp_path}, and no Kaggle handle"):
            fetch_dataset(name, tmp_path)


def test_home_folder_is_what_the_tilde_means(small_pool, tmp_path, data, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(small_pool)
    assert prepare("~/pool", "~/data").folders == [data]
    assert augment_folder("~/data/train", "~/copies", 1, workers=1).made == 6
    assert used(data) == everything_in(small_pool)
    assert len(tree(tmp_path / "copies")) == 7


def test_kaggle_delivers_and_offline_the_newest_complete_version_is_used(
    kaggle, small_pool, tmp_path, data
):
    kaggle("well")
    prepared = prepare(DEFAULT_DATASET, data)
    assert (prepared.source, prepared.subset) == (f"{DEFAULT_DATASET}/versions/3", "test")
    assert used(data) == everything_in(small_pool)
    kaggle("off")
    assert prepare(DEFAULT_DATASET, data) == prepared
    cached = tmp_path / "cache" / "datasets" / DEFAULT_DATASET
    for version in ("9", "10", "11"):
        shutil.copytree(cached / "versions" / "3", cached / "versions" / version)
        shutil.copy(cached / "3.complete", cached / f"{version}.complete")
    (cached / "11.complete").unlink()
    assert fetch_dataset(DEFAULT_DATASET, tmp_path)[1] == f"{DEFAULT_DATASET}/versions/10"


@pytest.mark.parametrize("trouble", ["off", "404", "403", "500", "hanging", "half", "checksum"])
def test_drawings_stand_in_for_the_default_only_and_are_said_to(
    kaggle, small_pool, tmp_path, data, trouble
):
    kaggle(trouble)
    where = f"no such folder in {tmp_path}, and from Kaggle .*give the path of a zip"
    with fails(f"dataset = '12/photos': {where}"):
        fetch_dataset("12/photos", data)
    for wish in (None, "test"):
        prepared = prepare(DEFAULT_DATASET, data, subset=wish)
        assert (prepared.source, prepared.drawn) == (f"drawings instead of {DEFAULT_DATASET}", True)
        assert str(prepared).splitlines()[0].endswith(f"({prepared.why or 'no reason'})")
    kaggle("well")
    for handle in ("12/photos", DEFAULT_DATASET):  # nothing broken was left in the way
        folder, source, why = fetch_dataset(handle, data)
        assert (source, why) == (f"{handle}/versions/3", "")
        assert tree(folder / "test") == tree(small_pool)
    drawn = prepare("drawings", data, subset="test")
    assert (drawn.source, drawn.drawn, drawn.why) == ("drawings", True, "")


NAME_THEM = "look like parts of a split; name two of them train and test, or set subset"
LAYOUTS = {  # {files: images}; the test set of a ready-made one, "" of a pool, an error; a note
    "a/b/cats/ 6 a/b/dogs/ 6": ("", ""),
    "cats/ 6 dogs/ 6 IMG_ 30": ("", "30 images beside the class folders are not used"),
    "Train/a/ 4 Train/b/ 4 valid/a/ 2 valid/b/ 2": ("valid", ""),
    "train/x/a/ 4 train/x/b/ 4 test/y/a/ 2 test/y/b/ 2": ("test", ""),
    "train/a/ 4 train/b/ 4 test/a/ 2 test/b/ 2 val/a/ 2 val/b/ 2": ("test", "val: 4 images are"),
    "train/a/ 4 train/b/ 4 val/a/ 2 val/b/ 2 test/ 3": ("val", "test: 3 images have no labels and"),
    "train/ok/ 4 train/nok/ 4 train/unsure/ 4 test/ 5": ("", "test: 5 images have no labels and a"),
    "train/cat. 4 train/dog. 4 test1/ 4": (r"seem to hold the classes \(cat, dog\): make", ""),
    "training_set/a/ 4 training_set/b/ 4 test_set/a/ 4 test_set/b/ 4": (NAME_THEM, ""),
    "seg_train/x/a/ 4 seg_train/x/b/ 4 seg_test/x/a/ 4 seg_test/x/b/ 4": (NAME_THEM, ""),
    "cars/ 6 trains/ 6": ("", ""),
    "control/ 6 test/ 6": ("", ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_of_a_split_are_never_taken_for_classes(tmp_path, data, layout):
    words, source = layout.split(), tmp_path / "set"
    for group, (start, images) in enumerate(zip(words[::2], words[1::2], strict=True)):
        for number in range(int(images)):
            save_photo(Path(f"{source}/{start}{number}.png"), 100 * group + number)
    test, note = LAYOUTS[layout]
    if " " in test:
        return refused(test, source, data)
    notes = prepare(source, data).notes
    assert [line[: len(note)] for line in notes] == [note] * bool(note)
    unused = everything_in(source / note.split(":")[0]) if ":" in note else []
    unused += [path.read_bytes() for path in source.glob("IMG*")]
    assert sorted(used(data) + unused) == everything_in(source)
    assert not test or everything_in(data / "test") == everything_in(source / test)


def test_pooled_parts_keep_all_files_even_of_one_name(tmp_path, data):
    source = make_pool(tmp_path / "set" / "train", 4).parent
    make_pool(source / "test", 3, base=50)
    prepare(source, data, subset="train, test")
    names = [f"{part}_{number}" for part in ("train", "test") for number in range(3)] + ["3"]
    names = {f"{kind}/{name}.jpg" for kind in ("cats", "dogs") for name in names}
    assert {*tree(data / "train"), *tree(data / "test")} == names
    assert used(data) == everything_in(source)
    for subset in ("birds", "train,birds"):
        refused(r"subset = 'birds': .* has only test, train", source, data, subset=subset)
    make_pool(source / "new" / "train", 4, base=100)  # a second folder of that name
    prepare(source, data, subset="train,new/train")
    assert used(data) == everything_in(source / "train", source / "new" / "train")


def more(pool, kind, count, name="{}.jpg"):
    (pool / kind).mkdir(exist_ok=True)
    for number in range(count):
        (pool / kind / name.format(number)).write_bytes(b"GIF")


def burst(pool, kind, count):
    for number in range(count):
        save_photo(pool / kind / f"{number}.jpg", 7, quality=60 + number)


FOLDERS = {
    "no readable image in birds. It is empty": lambda pool: more(pool, "birds", 0),
    "in bees. 12 files .heic, which cannot be": lambda pool: more(pool, "bees", 12, "{}.HEIC"),
    "in birds. 0.jpg: not an image; 1.jpg: not": lambda pool: more(pool, "birds", 3),
    "train_ratio = 0.5: needs 2 images or more": lambda pool: burst(pool, "a", 1),
    "class owls is on one.*--keep-duplicates": lambda pool: burst(pool, "owls", 6),
    "only one class": lambda pool: shutil.rmtree(pool / "cats"),
}


@pytest.mark.parametrize("line", FOLDERS)
def test_folder_that_cannot_be_split_is_refused_in_one_line(small_pool, data, line):
    FOLDERS[line](small_pool)
    refused(line, small_pool, data)


def test_what_is_left_out_is_reported_in_few_lines(pool, data):
    more(pool, "dogs", 31, "page{}.jpg")
    more(pool, "cats", 12, "IMG_{}.HEIC")
    prepared = prepare(pool, data)
    assert len(prepared.unreadable) == 31
    source, *lines, train, test = str(prepared).splitlines()
    assert source == f"source: {pool}"
    assert "12 files .heic, which cannot be read here: convert them if they are photos" in lines
    assert f"left out: {pool}/dogs/page0.jpg: not an image" in lines
    assert lines[-1] == "… and 11 lines more"
    assert [train, test] == ["train: 10 cats, 7 dogs", "test: 10 cats, 8 dogs"]


def test_accented_class_from_a_mac_is_the_same_and_reported_like_others(tmp_path, data):
    for part, form, base in (("train", "NFC", 0), ("test", "NFD", 500)):
        café, thé, suffix = (unicodedata.normalize(form, name) for name in ("café", "thé", "é.jpg"))
        folder = make_pool(tmp_path / "set" / part, 4, (café, thé), base, suffix)
    (folder / café / "1.heic").write_bytes(b"x")
    prepared = prepare(tmp_path / "set", data)
    assert prepared.classes == ["café", "thé"]
    names = {f"{kind}/{number}é.jpg" for kind in prepared.classes for number in range(4)}
    assert {*tree(data / "test")} == names
    assert "1 files .heic, which cannot" in str(prepared)


def test_duplicates_recompressed_resized_mirrored_are_kept_on_one_side(pool, data):
    for path in sorted(pool.glob("cats/*"))[:10]:
        image = Image.open(path)
        image.save(path.with_name(f"{path.stem}~again.jpg"), quality=60)
        image.resize((96, 80)).save(path.with_name(f"{path.stem}~large.png"))
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_name(f"{path.stem}~m.webp"))
    prepared = prepare(pool, data, train_ratio=0.8, repeats=5)
    assert all(len(families(pair)) == 1 for pair in prepared.duplicates)
    assert len(prepared.duplicates) == 60  # all pairs of four
    assert "60 pairs of duplicates, kept on one side (drop_duplicates=false" in str(prepared)
    assert not any(map(shared_families, prepared.folders))
    kept = prepare(pool, data, drop_duplicates=False)
    assert shared_families(data)
    assert kept.duplicates == prepared.duplicates
    assert "60 pairs of duplicates, used where they lie" in str(kept)


def test_duplicates_are_not_imagined(tmp_path):
    def as_photo(grey, label="a"):
        colour = np.repeat(grey[..., None], 3, 2)
        return Photo(Path("x"), label, "", "", grey, colour, False, None)

    ramp = np.tile(np.linspace(0, 255, 32), (32, 1)).astype(np.uint8)
    faint = ramp // 8 + 100  # the same signs of its frequencies, other pixels
    photos = [as_photo(ramp), as_photo(faint), as_photo(ramp[:, ::-1])]
    assert find_duplicates(photos) == [(0, 2)]
    photos[2].label = "turns the other way"  # where the class is left or right
    assert find_duplicates(photos) == []
    assert find_duplicates([photos[0], as_photo(ramp, "the other class")]) == [(0, 1)]
    for kind, colour in (("green", (0, 130, 0)), ("red", (255, 0, 0))):  # of the same grey
        lamp = Image.new("RGB", (64, 64), (40, 40, 40))
        ImageDraw.Draw(lamp).ellipse((20, 12, 40, 32), fill=colour)
        lamp.save(tmp_path / f"{kind}.png")
    lamps = [examine(tmp_path / f"{kind}.png", kind) for kind in ("green", "green", "red")]
    assert find_duplicates(lamps) == [(0, 1)]


@pytest.mark.parametrize("parts", [["."], ["train", "test"]], ids=["pool", "ready-made"])
def test_one_photo_under_two_labels_is_named_and_left_out(tmp_path, data, parts):
    source = tmp_path / "set"
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
    assert not {*used(data)} & {(first / f"{name}.jpg").read_bytes() for name in (3, 5)}
    assert prepare(source, data, drop_duplicates=False).conflicts == prepared.conflicts
    assert used(data) == everything_in(source)


def test_own_augmented_copies_stay_on_the_side_of_their_photo(small_pool, tmp_path, data):
    augment_folder(small_pool, tmp_path / "mixed", workers=1)
    shutil.copytree(small_pool, tmp_path / "mixed", dirs_exist_ok=True)
    prepared = prepare(tmp_path / "mixed", data, repeats=4)
    assert "36 copies made by augment.py: each stays on the side of its photo" in str(prepared)
    assert [len(used(folder)) for folder in prepared.folders] == [48] * 4
    assert not any(map(shared_families, prepared.folders))


@pytest.mark.parametrize(("kind", "scale"), [(np.uint16, 1), (np.float32, 1 / 4096)])
def test_deeper_images_share_one_scale_so_that_a_dark_one_stays_darker(
    small_pool, data, kind, scale
):
    for path in small_pool.glob("*/*"):
        most = (250, 2000, 4000)[int(path.stem) % 3]
        pixels = np.asarray(Image.open(path).convert("L")) * (scale * most / 255)
        Image.fromarray(pixels.astype(kind)).save(path.with_suffix(".tif"))
        path.unlink()
    save_photo(small_pool / "cats" / "eight_bits.jpg", 99)
    prepared = prepare(small_pool, data)
    assert "12 images of more than 8 bits are used as 8-bit PNG, all on one sc" in str(prepared)
    assert prepared.duplicates == []
    dark, middle, bright = (
        [np.asarray(load_image(path)[1]).mean() for path in data.glob(f"t*/*/[{numbers}].png")]
        for numbers in ("03", "14", "25")
    )
    assert len(dark) == len(middle) == len(bright) == 4
    assert max(dark) < 15 < 40 < min(middle) < max(middle) < 80 < 100 < min(bright)
    first = tree(data)
    assert prepare(small_pool, data) == prepared
    assert tree(data) == first


def test_what_a_ready_made_test_set_holds_is_left_out_of_train(tmp_path, data):
    source = make_pool(tmp_path / "set" / "train", 6).parent
    make_pool(source / "test", 3, base=700)
    before = split_of(source)
    with Image.open(source / "test" / "cats" / "0.jpg") as image:
        image.save(source / "train" / "cats" / "leak.jpg", quality=60)
        image.resize((96, 80)).save(source / "train" / "cats" / "leak.png")
    prepared = prepare(source, data, repeats=2)
    assert prepared.dropped == ["train/cats/leak.jpg", "train/cats/leak.png"]
    assert "not in train, as test holds it: train/cats/leak.jpg" in str(prepared)
    assert [split_of(folder) for folder in prepared.folders] == [before, before]
    assert prepare(source, data, drop_duplicates=False).dropped == []
    assert split_of(data) == split_of(source)
    shutil.rmtree(source / "train" / "cats")
    shutil.copytree(source / "test" / "cats", source / "train" / "cats")
    refused("class cats is on one side of the split only", source, data)
    shutil.rmtree(source / "test" / "dogs")
    refused("dogs: not in both train and test", source, data)


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
    labels, groups = np.repeat([0, 1], 60), np.arange(120)
    *tests, past = (choose_test(labels, groups, ratio, 1, repeat) for repeat in range(folds + 1))
    assert np.bincount(np.concatenate(tests)).max() == 1
    for test in tests:
        assert len(test) == pytest.approx(120 * (1 - ratio), abs=1)
        assert abs(np.bincount(labels[test])[0] - len(test) / 2) <= 1
        assert not np.array_equal(past, test)


def test_classes_of_any_name_are_split(tmp_path, data):
    odd = ["<b>bold<b>", "$x_1$", "a'b\"c", "`ls`", "{0}", "%s", "-rf", "con.", " space ", "Čeněk"]
    names = sorted([*odd, "line\nbreak", *(f"class {number:02}" for number in range(89))])
    prepared = prepare(make_pool(tmp_path / "pool", 3, names), data, train_ratio=2 / 3)
    assert prepared.classes == names
    assert count_images(data / "train") == dict.fromkeys(names, 2)
    assert ", 1 <b>bold<b>, " in str(prepared).splitlines()[-1]
    assert ", 1 line break" in str(prepared).splitlines()[-1]


def test_second_call_copies_nothing_and_other_files_survive_another_data_set(
    small_pool, tmp_path, data
):
    before, first = tree(small_pool), prepare(small_pool, data)
    files = {path: path.stat().st_mtime_ns for path in data.glob("t*/*/*")}
    assert set(data.rglob("*.*")) == {data / "split.json", *files}
    missing, *others = files
    missing.unlink()
    assert prepare(small_pool, data) == first
    assert all(path.stat().st_mtime_ns == files[path] for path in others)
    assert (missing.exists(), tree(small_pool)) == (True, before)
    for name in ("train/dogs/notes.txt", "test/dogs/.DS_Store"):
        (data / name).write_text("mine")
    (data / "train" / "cats" / ".0123456789abcdef.unfinished").write_text("of a killed run")
    other = make_pool(tmp_path / "insects", 6, ("ants", "cats"), base=300)
    assert prepare(other, data).classes == ["ants", "cats"]
    train, test = split_of(data)
    assert train.pop("dogs/notes.txt") == test.pop("dogs/.DS_Store") == b"mine"
    assert train | test == tree(other)


def test_what_lies_in_the_way_survives(small_pool, data):
    mine = save_photo(data / "train" / "cats" / "mine.jpg", 1)
    refused(r"mine\.jpg: not put there by this", small_pool, data)
    mine.unlink()
    prepare(small_pool, data)
    memory = (data / "split.json").read_bytes()
    for damaged in ("[]", "null", "{", '{"train/cats/0.jpg": 3}', "\0"):
        (data / "split.json").write_text(damaged)
        refused("not put there by this", small_pool, data)
    (data / "split.json").write_bytes(memory)
    save_photo(next(data.glob("train/cats/*")), 2)
    refused("changed since; move it away or choose another data_dir", small_pool, data, seed=7)
    shutil.rmtree(data)
    for part in ("train", "test"):  # a text that has the name of a photo without a suffix
        (data / part / "cats").mkdir(parents=True)
        (data / part / "cats" / "photo").write_text("mine")
    (small_pool / "cats" / "0.jpg").rename(small_pool / "cats" / "photo")
    refused("cats/photo: not put there by this", small_pool, data)


@pytest.mark.parametrize(
    "places", ["x x", "x x/data", "x x/cats/data", "d/train d", "d/test d", "d/train_aug d"]
)
def test_output_inside_the_data_set_or_that_in_it_is_refused_without_a_trace(tmp_path, places):
    source, data = (tmp_path / place for place in places.split())
    make_pool(source, 6)
    refused("must not lie in the data set", source, data)
    assert data.exists() == source.is_relative_to(data)


def test_what_cannot_be_written_is_named_and_the_old_file_kept(small_pool, data, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    prepare(small_pool, data)
    before = tree(data)
    with monkeypatch.context() as patched, fails("split.json: cannot be written, No space left on"):
        patched.setattr(Path, "write_bytes", full)
        write_whole(data / "split.json", "new")
    assert tree(data) == before
    prepare(small_pool, data, seed=1)
    assert used(data) == everything_in(small_pool)


def test_image_that_changes_or_goes_meanwhile_is_named(small_pool, data, monkeypatch):
    file, content = small_pool / "cats" / "0.jpg", tree(small_pool)["cats/0.jpg"]
    for line, change in (
        ("changed while it was being used", lambda: file.write_bytes(photo())),
        ("No such file.*it could be read just before", file.unlink),
    ):
        with monkeypatch.context() as patched, fails(f"0.jpg: {line}"):
            patched.setattr("data.prepare.find_duplicates", lambda _, act=change: [act()][:0])
            prepare(small_pool, data)
        file.write_bytes(content)
    prepare(small_pool, data)
    assert used(data) == everything_in(small_pool)


def test_second_run_in_the_same_folder_says_so(small_pool, tmp_path, data):
    data.mkdir()
    for run in (prepare, augment_folder):
        with FileLock(data / ".lock"), fails("data: another run is using it: wait, "):
            run(small_pool, data)
    with claim(data), claim(data):  # the cell runs again
        assert (data / ".lock").exists()
    assert not tree(data)
    (tmp_path / "file").write_text("in the way")
    with fails("file: cannot be written, File exists"), claim(tmp_path / "file"):
        pass


def test_command_line_equals_the_function_and_stops_in_one_line(
    pool, tmp_path, capsys, monkeypatch
):
    save_photo(pool / "cats" / "again.jpg", 0, quality=60)
    begin = [str(pool), "--output", str(tmp_path / "a")]
    unusable = "train-ratio=0 train-ratio=1 train-ratio=nan train-ratio=0.99 repeats=0 seed=-1"
    for option in (*unusable.split(), "seed=9999999999", "subset=birds"):
        assert main([*begin, f"--{option}"]) == 2, option
        printed, line = capsys.readouterr()
        assert (printed, line.count("\n"), line[:14]) == ("", 1, "data.prepare: ")
    with monkeypatch.context() as patched:
        patched.setattr("data.prepare.find_duplicates", lambda _: os.kill(os.getpid(), 2))
        assert main(begin) == 130
    line = "data.prepare: stopped; run it again to go on where it was\n"
    assert capsys.readouterr().err == line
    assert not tree(tmp_path / "a")
    options = ["--subset", "", "--train-ratio", "0.7", "--seed", "5", "--repeats", "2"]
    assert main([*begin, *options, "--keep-duplicates"]) == 0
    prepared = prepare(pool, tmp_path / "b", 0.7, seed=5, repeats=2, drop_duplicates=False)
    assert capsys.readouterr().out == f"{prepared}\n"
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


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
