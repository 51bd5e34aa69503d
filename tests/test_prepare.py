"""data/prepare.py and check.py: what is checked, and the split into train and test."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import fails, families, make_pool, photo, run_script, save_photo, tree
from filelock import FileLock
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from augment import augment_folder
from data.check import Photo, find_duplicates
from data.drawings import draw, draw_dataset
from data.files import claim, write_whole
from data.images import load_image
from data.prepare import choose_test, count_images, main, prepare_dataset


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def prepare(source, data_dir, train_ratio=0.5, **options):
    return prepare_dataset(str(source), data_dir, train_ratio=train_ratio, **options)


def refused(line, source, data_dir, **options):
    """Check that it is refused in that one line, and that nothing was written or changed."""
    before = tree(source), tree(data_dir)
    with fails(line) as caught:
        prepare(source, data_dir, **options)
    assert str(caught.value).isprintable()
    assert (tree(source), tree(data_dir)) == before


def split_of(folder):
    """Return ({class/file: bytes} of train/, that of test/)."""
    return tree(folder / "train"), tree(folder / "test")


def on_both_sides(folder):
    """Return the photos that have relatives in train/ and in test/."""
    return set.intersection(*map(families, split_of(folder)))


def everything_in(*folders):
    return sorted(content for folder in folders for content in tree(folder).values())


def used(folder):
    return everything_in(folder / "train", folder / "test")


def more(folder, count, name="{}.jpg", seed=None):
    """Put so many broken files into a folder, or photos of a burst."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / name.format(number)
        save_photo(path, seed, quality=60 + number) if seed else path.write_bytes(b"GIF")


FOLDERS = {
    "no readable image in birds. It is empty": lambda pool: more(pool / "birds", 0),
    "in café. 12 files .cr2, which ca": lambda pool: more(pool / "cafe\u0301", 12, "{}.CR2"),
    "in birds. 0.jpg: not an image; 1.jpg: not": lambda pool: more(pool / "birds", 3),
    "train_ratio = 0.5: needs 2 images.*class a has 1": lambda pool: more(pool / "a", 1, seed=7),
    "class owls is on.*--keep-duplicates": lambda pool: more(pool / "owls", 6, seed=7),
    "only one class": lambda pool: shutil.rmtree(pool / "cats"),
}


@pytest.mark.parametrize("line", FOLDERS)
def test_folder_that_cannot_be_split_is_refused_in_one_line(small_pool, data, line):
    FOLDERS[line](small_pool)
    refused(line, small_pool, data)


def test_duplicates_recompressed_resized_mirrored_are_kept_on_one_side(pool, data):
    for path in sorted(pool.glob("cats/*"))[:10]:
        image = Image.open(path)
        image.save(path.with_name(f"{path.stem}~again.jpg"), quality=60)
        image.resize((96, 80)).save(path.with_name(f"{path.stem}~large.png"))
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_name(f"{path.stem}~m.webp"))
    more(pool / "dogs", 31, "page{}.jpg")
    more(pool / "cats", 12, "IMG_{}.CR2")
    prepared = prepare(pool, data, train_ratio=0.8, repeats=5)
    assert all(len(families(pair)) == 1 for pair in prepared.duplicates)
    assert len(prepared.duplicates) == 60  # all pairs of four
    assert not any(map(on_both_sides, prepared.folders))
    assert len(prepared.unreadable) == 31
    counts = [count_images(data / part) for part in ("train", "test")]
    source, raw, pairs, page, *_, rest, train, test = str(prepared).splitlines()
    assert source == f"source: {pool}"
    assert raw == "12 files .cr2, which cannot be read here: convert them if they are photos"
    assert pairs.startswith("60 pairs of duplicates, kept on one side or left out (drop_dup")
    assert [page, rest] == [f"left out: {pool}/dogs/page0.jpg: not an image", "… and 71 lines more"]
    assert train == "train: {cats} cats, {dogs} dogs".format(**counts[0])
    assert test == "test: {cats} cats, {dogs} dogs".format(**counts[1])
    kept = prepare(pool, data, drop_duplicates=False)
    assert on_both_sides(data)
    assert kept.duplicates == prepared.duplicates
    assert "60 pairs of duplicates, used where they lie" in str(kept)


def test_duplicates_are_not_imagined():
    def as_photo(grey, label="a", tint=(1, 1, 1)):
        colour = grey[..., None] * np.array(tint, np.uint8)
        return Photo(Path("x"), label, "", "", grey, colour, False, None)

    ramp = np.tile(np.linspace(0, 255, 32), (32, 1)).astype(np.uint8)
    faint = ramp // 8 + 100  # the same signs of its frequencies, other pixels
    photos = [as_photo(ramp), as_photo(faint), as_photo(ramp[:, ::-1])]
    assert find_duplicates(photos) == [(0, 2)]
    photos[2].label = "turns the other way"  # where the class is left or right
    assert find_duplicates(photos) == []
    assert find_duplicates([photos[0], as_photo(ramp, "the other class")]) == [(0, 1)]
    lamps = [as_photo(ramp, tint=tint) for tint in ((1, 0, 0), (0, 1, 0), (0, 1, 0))]
    assert find_duplicates(lamps) == [(1, 2)]  # red, green, green: of the same grey


@pytest.mark.parametrize("parts", [["."], ["train", "test"]], ids=["pool", "ready-made"])
def test_one_photo_under_two_labels_is_named_and_left_out(tmp_path, data, parts):
    source = tmp_path / "set"
    for number, part in enumerate(parts):
        make_pool(source / part, 10, ("benign", "malignant"), 100 * number)
    first, last = source / parts[0] / "benign", source / parts[-1] / "malignant"
    shutil.copy(first / "3.jpg", last / "30.jpg")
    Image.open(first / "5.jpg").save(last / "50.jpg", quality=97, subsampling=0)
    prepared = prepare(source, data)
    pairs = sorted(sorted(Path(name).stem for name in pair) for pair in prepared.conflicts)
    assert pairs == [["3", "30"], ["5", "50"]]
    assert "the same photo under two labels: " in str(prepared)
    assert len(used(data)) == 20 * len(parts) - 2
    assert not {*used(data)} & {(first / f"{name}.jpg").read_bytes() for name in (3, 5)}
    assert prepare(source, data, drop_duplicates=False).conflicts == prepared.conflicts
    assert used(data) == everything_in(source)
    for part in parts:
        shutil.rmtree(source / part / "benign")
        shutil.copytree(source / part / "malignant", source / part / "benign")
    refused(
        "class benign has only photos under two labels, such as .*benign/.* = .*malignant/",
        source,
        data,
    )


def test_own_augmented_copies_stay_on_the_side_of_their_photo(small_pool, tmp_path, data):
    augment_folder(small_pool, tmp_path / "mixed", workers=1)
    shutil.copytree(small_pool, tmp_path / "mixed", dirs_exist_ok=True)
    prepared = prepare(tmp_path / "mixed", data, repeats=4)
    assert "36 copies made by augment.py: each stays on the side of its photo" in str(prepared)
    assert [len(used(folder)) for folder in prepared.folders] == [48] * 4
    assert not any(map(on_both_sides, prepared.folders))


@pytest.mark.parametrize(("kind", "scale"), [(np.uint16, 1), (np.float32, 1 / 4096)])
def test_deeper_images_share_one_scale_so_that_a_dark_one_stays_darker(pool, data, kind, scale):
    for path in pool.glob("*/*_0*"):
        most = (250, 2000, 4000)[int(path.stem[-1]) % 3]
        pixels = np.asarray(Image.open(path).convert("L")) * (scale * most / 255)
        Image.fromarray(pixels.astype(kind)).save(path.with_suffix(".tif"))
        path.unlink()
    for run in ("first", "second"):
        prepared = prepare(pool, data)
        assert "20 images of more than 8 bits are used as 8-bit PNG, all on one sc" in str(prepared)
        assert prepared.duplicates == [], run
    means = [], [], []
    for path in data.glob("t*/*/*.png"):
        means[int(path.stem[-1]) % 3].append(np.asarray(load_image(path)[1]).mean())
    assert list(map(len, means)) == [8, 6, 6]
    assert max(means[0]) < 15 < 40 < min(means[1]) < max(means[1]) < 80 < 100 < min(means[2])


def test_what_a_ready_made_test_set_holds_is_left_out_of_train(tmp_path, data):
    source = make_pool(tmp_path / "set" / "train", 6).parent
    cats = make_pool(source / "test", 3, base=700) / "cats"
    before = split_of(source)
    with Image.open(cats / "0.jpg") as image:
        image.save(source / "train" / "cats" / "leak.jpg", quality=60)
        image.resize((96, 80)).save(source / "train" / "cats" / "leak.png")
    prepared = prepare(source, data, repeats=2)
    assert prepared.dropped == ["train/cats/leak.jpg", "train/cats/leak.png"]
    assert "not in train, as test holds it: train/cats/leak.jpg" in str(prepared)
    assert [split_of(folder) for folder in prepared.folders] == [before, before]
    assert prepare(source, data, drop_duplicates=False).dropped == []
    assert split_of(data) == split_of(source)
    shutil.rmtree(source / "train" / "cats")
    shutil.copytree(cats, source / "train" / "cats")
    refused("class cats is on one side of the split only", source, data)
    shutil.rmtree(cats)
    refused("cats: not in both train and test", source, data)


@pytest.mark.parametrize(("ratio", "folds"), [(0.8, 5), (0.75, 4), (0.5, 2), (0.7, 3)])
def test_repeats_test_disjoint_folds_of_the_stated_size_then_reshuffled_ones(ratio, folds):
    labels, groups = np.repeat([0, 1], 60), np.arange(120)
    *tests, past = (choose_test(labels, groups, ratio, 1, repeat) for repeat in range(folds + 1))
    assert np.bincount(np.concatenate(tests)).max() == 1
    for test in tests:
        assert len(test) == pytest.approx(120 * (1 - ratio), abs=1)
        assert abs(np.bincount(labels[test])[0] - len(test) / 2) <= 1
        assert not np.array_equal(past, test)


def test_second_call_copies_nothing_and_other_files_survive_another_data_set(small_pool, data):
    before, first = tree(small_pool), prepare(small_pool, data)
    files = {path: path.stat().st_mtime_ns for path in data.glob("t*/*/*")}
    assert set(data.rglob("*.*")) == {data / ".lock", data / "split.json", *files}
    missing, *others = files
    missing.unlink()
    assert prepare(small_pool, data) == first
    assert all(path.stat().st_mtime_ns == files[path] for path in others)
    assert (missing.exists(), tree(small_pool)) == (True, before)
    for name in ("train/dogs/notes.txt", "test/dogs/.DS_Store"):
        (data / name).write_text("mine")
    (data / "train" / "cats" / ".0123456789abcdef.unfinished").write_text("of a killed run")
    other = make_pool(data.with_name("insects"), 6, ("ants", "cats"), base=300)
    assert prepare(other, data).classes == ["ants", "cats"]
    train, test = split_of(data)
    assert train.pop("dogs/notes.txt") == test.pop("dogs/.DS_Store") == b"mine"
    assert train | test == tree(other)


def test_what_lies_in_the_way_survives(small_pool, data):
    for source, inside in (
        (data, data),
        (data, data / "cats" / "x"),
        (data / "train_aug", data),
        (data / "repeat_1" / "train", data),
    ):
        shutil.copytree(small_pool, source, dirs_exist_ok=True)
        refused("must not lie in the data set", source, inside)
        assert inside.exists() == (inside == data)
        shutil.rmtree(data)
    mine = save_photo(data / "train" / "cats" / "mine.jpg", 1)
    refused(r"mine\.jpg: not put there by this", small_pool, data)
    mine.unlink()
    prepare(small_pool, data)
    memory = (data / "split.json").read_bytes()
    for damaged in ("[]", "null", "{", '{"train/cats/0.jpg": 3}', "\0"):
        (data / "split.json").write_text(damaged)
        refused("not put there by this notebook, or", small_pool, data, seed=7)
        prepare(small_pool, data)
        assert (data / "split.json").read_bytes() == memory
    save_photo(next(data.glob("train/cats/*")), 2)
    refused("changed since; move it away or choose another data_dir", small_pool, data, seed=7)
    shutil.rmtree(data)
    for part in ("train", "test"):  # a text that has the name of a photo without a suffix
        (data / part / "cats").mkdir(parents=True)
        (data / part / "cats" / "photo").write_text("mine")
    (small_pool / "cats" / "0.jpg").rename(small_pool / "cats" / "photo")
    refused("cats/photo: not put there by this", small_pool, data)


def test_trouble_meanwhile_is_named_and_the_next_run_mends_it(small_pool, data, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    for run in (prepare, augment_folder):
        with FileLock(data / ".lock"), fails("data: another run is using it: wait, "):
            run(small_pool, data)
    with claim(data), claim(data):  # by the cell that runs again
        assert (data / ".lock").exists()
    prepare(small_pool, data)
    before, file = tree(data), small_pool / "cats" / "0.jpg"
    with monkeypatch.context() as patched, fails("split.json: cannot be written, No space left"):
        patched.setattr(Path, "write_bytes", full)
        write_whole(data / "split.json", "new")
    assert tree(data) == before  # the old file was kept
    for line, change in (
        ("changed while it was being used", lambda: file.write_bytes(photo())),
        ("No such file.*it could be read just before", file.unlink),
    ):
        shutil.rmtree(data)
        with monkeypatch.context() as patched, fails(f"0.jpg: {line}"):
            patched.setattr("data.prepare.find_duplicates", lambda *_, act=change: [act()][:0])
            prepare(small_pool, data)
    prepare(small_pool, data)
    assert used(data) == everything_in(small_pool)


def test_command_line_equals_the_function_and_stops_in_one_line(pool, data, capsys, monkeypatch):
    save_photo(pool / "cats" / "again.jpg", 0, quality=60)
    begin, other = [str(pool), "--output", str(data)], data.with_name("other")
    for option in ("train-ratio=nan", "train-ratio=0.99", "repeats=0", "seed=-1", "subset=birds"):
        assert main([*begin, f"--{option}"]) == 2, option
        printed, line = capsys.readouterr()
        assert (printed, line.count("\n"), line[:14]) == ("", 1, "data.prepare: ")
    with monkeypatch.context() as patched:
        patched.setattr("data.prepare.find_duplicates", lambda *_: os.kill(os.getpid(), 2))
        assert main(begin) == 130
    assert capsys.readouterr().err.endswith(": stopped; run it again to go on where it was\n")
    assert not tree(data)
    options = "--train-ratio=0.8", "--seed=5", "--repeats=5", "--keep-duplicates", "--subset="
    assert main([*begin, *options]) == 0
    prepared = prepare(pool, other, 0.8, seed=5, repeats=5, drop_duplicates=False)
    assert capsys.readouterr().out == f"{prepared}\n"
    assert tree(data) == tree(other)
    assert prepared.folders[:2] == [other, other / "repeat_1"]
    splits = [split_of(folder) for folder in prepared.folders]
    assert all(train | test == tree(pool) for train, test in splits)
    assert sorted(name for _, test in splits for name in test) == sorted(tree(pool))
    prepare(pool, other, 0.8, seed=6, drop_duplicates=False)
    assert split_of(other)[1].keys() != splits[0][1].keys()


@pytest.mark.parametrize("script", ["-m data.prepare --output", "augment.py"])
def test_script_takes_any_name_in_an_old_code_page_beside_a_package_called_data(tmp_path, script):
    odd = ["<b>bold<b>", "$x_1$", "a'b\"c", "`ls`", "{0}", "%s", "-rf", "con.", " space ", "a\nb"]
    pool, output = make_pool(tmp_path / "pool", 5, [*odd, "Čeněk ✏"]), tmp_path / "out"
    (pool / "Čeněk ✏" / "Ábra 🐈.jpg").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise SystemExit('not ours')")
    options = {"encoding": "cp1252", "PYTHONPATH": str(tmp_path), "PYTHONUTF8": "0"}
    script, *option = script.replace("-m ", "-m").split()
    done = run_script("-OO", script, pool, *option, output, **options)
    printed = done.stdout + done.stderr
    assert done.returncode == (script == "augment.py"), printed
    assert "?en?k ?/Ábra ?.jpg: " in printed
    assert "Traceback" not in printed
    assert {path.parent.name for path in output.rglob("*.jpg")} == {*odd, "Čeněk ✏"}
    assert ", 1 a b, 1 a'b\"c, " in printed or not option


@pytest.mark.skipif(sys.platform != "linux", reason="only there a name may be any bytes")
def test_many_names_that_are_no_unicode_are_listed(small_pool, data):
    for number in range(101):
        name = os.fsdecode(b"\xff%d.jpg" % number)
        shutil.copy(small_pool / "cats" / "0.jpg", small_pool / "cats" / name)
    prepared = prepare(small_pool, data)
    details = json.loads((data / "prepare_details.json").read_text())
    assert details["unreadable"] == prepared.unreadable
    assert len(prepared.unreadable) == 101


def test_a_disk_that_is_full_leaves_no_half_drawing(tmp_path, monkeypatch):
    def write_bytes(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with fails("cat_000.jpg: cannot be written, No space left on device"):
        draw_dataset(tmp_path)
    assert tree(tmp_path) == {}


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


def test_background_and_light_do_not_tell_the_classes_apart():
    features, labels = [], []
    for label, kind in enumerate(("cats", "dogs")):
        for index in range(120):
            pixels = np.asarray(draw(kind, 0, index)) / 255
            corners = [pixels[y : y + 20, x : x + 20] for y in (0, 204) for x in (0, 204)]
            light = [pixels.mean(), *(corner.mean() for corner in corners)]
            hues = np.concatenate([corner.mean((0, 1)) for corner in corners])
            features.append([*light, *hues])
            labels.append(label)
    scores = cross_val_score(LogisticRegression(), np.array(features), labels, cv=5)
    # of 240 guesses 0.6 and more would be right once in a thousand times
    assert scores.mean() < 0.6
