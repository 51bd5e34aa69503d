"""Getting the data: parameters, where images come from, checks, the split."""

import http.server
import json
import shutil
import threading
import zipfile

import numpy as np
import pytest
from conftest import save_photo, tree
from PIL import Image

DEFAULT = "samuelcortinhas/cats-and-dogs-image-classification"


def split_of(folder):
    """Return {part: {class/file}} of what lies in train/ and test/."""
    files = [name.split("/", 1) for name in tree(folder) if name.startswith(("train/", "test/"))]
    return {part: {name for p, name in files if p == part} for part in ("train", "test")}


# ---- parameters


@pytest.fixture
def check(notebook):
    defaults = {
        "dataset": DEFAULT, "subset": None, "data_dir": "data", "results_dir": "results",
        "train_ratio": 0.8, "copies": 3, "image_size": 224, "batch_size": 32, "num_epochs": 10,
        "learning_rate": 0.001, "arms": "original,augmented", "repeats": 1, "seed": 42,
        "device": "auto", "drop_twins": True,
    }  # fmt: skip
    return lambda **environ: notebook.check_parameters(defaults, environ)


def test_defaults_are_the_originals_and_subset_follows_the_dataset(check):
    config = check()
    assert (config.batch_size, config.num_epochs, config.learning_rate) == (32, 10, 0.001)
    assert config.subset == "test"
    assert check(DATASET="my/photos").subset == ""
    assert check(SUBSET="").subset == ""


def test_environment_variables_override(check):
    config = check(NUM_EPOCHS="2", LEARNING_RATE="1e-4", ARMS="augmented, original_matched")
    assert (config.num_epochs, config.learning_rate) == (2, 1e-4)
    assert config.arms == "augmented,original_matched"
    assert check().drop_twins is True
    assert [check(DROP_TWINS=value).drop_twins for value in ("no", "False", "1")] == [0, 0, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COPIES", "three"), ("COPIES", "0"), ("COPIES", "2.5"), ("IMAGE_SIZE", "-1"),
        ("BATCH_SIZE", "1"), ("NUM_EPOCHS", ""), ("LEARNING_RATE", "nan"), ("LEARNING_RATE", "0"),
        ("TRAIN_RATIO", "1"), ("TRAIN_RATIO", "80"), ("ARMS", ""), ("ARMS", "original,other"),
        ("ARMS", "original,original"), ("REPEATS", "0"), ("SEED", "-1"), ("SEED", "x"),
        ("DROP_TWINS", "perhaps"), ("DEVICE", "abacus"), ("DEVICE", ""), ("DATASET", ""),
        ("DATA_DIR", ""),
    ],
)  # fmt: skip
def test_unusable_value_is_named_with_what_is_allowed(check, notebook, name, value):
    with pytest.raises(notebook.InputError) as caught:
        check(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name.lower()} = {value!r}: must be ")
    assert "\n" not in message
    assert caught.value._render_traceback_() == [f"InputError: {message}"]


# ---- where images come from


def test_folder_and_zip_give_the_same_images(notebook, pool, tmp_path):
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in tree(pool).items():
            file.writestr(f"photos/{name}", data)
    folder, source, missing = notebook.fetch_dataset(str(archive), tmp_path / "data")
    assert (source, missing) == (str(archive), "")
    assert tree(notebook.find_subset(folder)) == tree(pool)
    assert notebook.fetch_dataset(str(pool), tmp_path / "data")[0] == pool


def test_zip_cannot_write_outside_its_folder(notebook, tmp_path):
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("../../up.jpg", "/abs.jpg", "cats/../../../side.jpg", "C:\\win.jpg"):
            file.writestr(name, b"x")
    target = tmp_path / "data" / "source"
    notebook.unpack(archive, target)
    outside = {name for name in tree(tmp_path) if not name.startswith("data/source/evil-")}
    assert outside == {"evil.zip"}


def test_broken_zip_is_named_and_leaves_nothing(notebook, pool, tmp_path):
    archive = tmp_path / "half.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in tree(pool).items():
            file.writestr(name, data)
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(notebook.InputError, match=r"half\.zip: cannot be unpacked"):
        notebook.fetch_dataset(str(archive), tmp_path / "data")
    assert not tree(tmp_path / "data")


def test_damaged_zip_member_is_named_and_leaves_nothing(notebook, tmp_path):
    archive = tmp_path / "damaged.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("cats/a.jpg", bytes(range(256)) * 100)
    data = bytearray(archive.read_bytes())
    data[60:90] = b"\xff" * 30
    archive.write_bytes(data)
    with pytest.raises(notebook.InputError, match=r"damaged\.zip: cannot be unpacked"):
        notebook.fetch_dataset(str(archive), tmp_path / "data")
    assert not tree(tmp_path / "data")


def test_what_is_no_data_set_is_an_error_and_never_replaced(notebook, tmp_path, monkeypatch):
    with pytest.raises(notebook.InputError, match="dataset = 'holiday pictures': no such folder"):
        notebook.fetch_dataset("holiday pictures", tmp_path)


class Kaggle(http.server.BaseHTTPRequestHandler):
    """The two calls of the Kaggle API that a download of a public data set makes."""

    archive = b""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/GetDataset"):
            self._answer(json.dumps({"currentVersionNumber": 3}).encode(), "application/json")
        else:
            self._answer(self.archive, "application/zip")

    def _answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def kaggle(monkeypatch, tmp_path, pool):
    """A loopback server where kagglehub's test environment expects Kaggle; call it to start."""
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in tree(pool).items():
            file.writestr(f"test/{name}", data)
    handler = type("Handler", (Kaggle,), {"archive": archive.read_bytes()})
    servers = []

    def start():
        servers.append(http.server.ThreadingHTTPServer(("localhost", 7777), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()

    def stop():
        while servers:
            server = servers.pop()
            server.shutdown()
            server.server_close()

    yield start, stop
    stop()


def test_kaggle_delivers_and_the_version_is_recorded(notebook, kaggle, pool, tmp_path):
    start, stop = kaggle
    start()
    folder, source, missing = notebook.fetch_dataset(DEFAULT, tmp_path / "data")
    assert (source, missing) == (f"{DEFAULT}/versions/3", "")
    assert tree(notebook.find_subset(folder, "test")) == tree(pool)
    stop()
    assert notebook.fetch_dataset(DEFAULT, tmp_path / "data") == (folder, source, "")


def test_drawings_stand_in_for_the_default_only(notebook, kaggle, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setitem(notebook.globals, "draw_dataset", drawn.append)
    folder, source, missing = notebook.fetch_dataset(DEFAULT, tmp_path)
    assert drawn == [folder]
    assert source == f"drawings instead of {DEFAULT}"
    assert missing == "ConnectionError"
    with pytest.raises(notebook.InputError, match="dataset = 'owner/name': ConnectionError"):
        notebook.fetch_dataset("owner/name", tmp_path)
    assert notebook.fetch_dataset("drawings", tmp_path) == (folder, "drawings", "")


# ---- checks


def test_unreadable_images_are_named_and_left_out(notebook, pool, tmp_path):
    whole = (pool / "cats" / "cat_00.jpg").read_bytes()
    (pool / "cats" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (pool / "dogs" / "page.jpg").write_bytes(b"<html>")
    audit = notebook.audit_images(pool)
    assert {path.rsplit("/")[-1] for path in audit.unreadable} == {"half.jpg", "page.jpg"}
    assert len(audit.files) == len(audit.hashes) == 35
    notebook.split_dataset(pool, tmp_path / "data", audit=audit)
    assert not any("half" in name or "page" in name for name in tree(tmp_path / "data"))


def test_twins_are_found_recompressed_and_resized_but_not_imagined(notebook, pool):
    with Image.open(pool / "cats" / "cat_00.jpg") as image:
        image.save(pool / "cats" / "again.jpg", quality=40)
        image.resize((96, 80)).save(pool / "cats" / "large.png")
    found = {frozenset(pair) for pair in notebook.audit_images(pool).twins}
    names = ("cats/cat_00.jpg", "cats/again.jpg", "cats/large.png")
    assert found == {frozenset((a, b)) for a in names for b in names if a != b}


def test_mirrored_twin_is_found(notebook, pool):
    with Image.open(pool / "cats" / "cat_00.jpg") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(pool / "cats" / "mirror.jpg")
    assert notebook.audit_images(pool).twins == [("cats/cat_00.jpg", "cats/mirror.jpg")]


def test_alike_hashes_of_different_pictures_make_no_twins(notebook):
    ramp = np.tile(np.linspace(0, 255, 32), (32, 1)).astype(np.uint8)
    faint = (ramp / 8 + 100).astype(np.uint8)  # the same signs of its frequencies, other pixels
    assert notebook.find_twins([ramp, faint]) == []
    assert notebook.find_twins([ramp, faint, ramp[:, ::-1]]) == [(0, 2)]


def test_class_without_a_readable_image_is_an_error(notebook, pool):
    for path in pool.glob("dogs/*"):
        path.write_bytes(b"")
    with pytest.raises(notebook.InputError, match="no readable image in dogs"):
        notebook.audit_images(pool)


def test_one_class_is_an_error(notebook, pool):
    shutil.rmtree(pool / "dogs")
    with pytest.raises(notebook.InputError, match="only one class"):
        notebook.audit_images(notebook.find_subset(pool))


def test_classes_that_differ_between_train_and_test_are_an_error(notebook, pool, tmp_path):
    shutil.copytree(pool, tmp_path / "ready" / "train")
    shutil.copytree(pool / "cats", tmp_path / "ready" / "test" / "cats")
    with pytest.raises(notebook.InputError, match="dogs: not in both train and test"):
        notebook.audit_images(tmp_path / "ready")


def test_unknown_subset_is_an_error_that_lists_what_is_there(notebook, pool):
    with pytest.raises(notebook.InputError, match=r"subset = 'birds': .* has only cats, dogs"):
        notebook.find_subset(pool, "birds")


# ---- the split


def test_pool_is_split_once_stratified_with_no_image_in_both(notebook, pool, tmp_path):
    notebook.split_dataset(pool, tmp_path / "data")
    split = split_of(tmp_path / "data")
    assert not split["train"] & split["test"]
    assert split["train"] | split["test"] == set(tree(pool))
    assert notebook.count_images(tmp_path / "data" / "test") == {"cats": 4, "dogs": 3}
    assert notebook.count_images(tmp_path / "data" / "train") == {"cats": 16, "dogs": 12}
    contents = tree(pool)
    for name, data in tree(tmp_path / "data" / "train").items():
        assert data == contents[name]


def test_same_seed_same_split_another_seed_another(notebook, pool, tmp_path):
    splits = []
    for number, seed in enumerate((42, 42, 43)):
        notebook.split_dataset(pool, tmp_path / str(number), seed=seed)
        splits.append(split_of(tmp_path / str(number)))
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize(("ratio", "folds"), [(0.8, 5), (0.75, 4), (0.5, 2), (0.7, 3)])
def test_repeats_test_disjoint_folds_of_the_stated_size(notebook, ratio, folds):
    labels = np.repeat([0, 1], 60)
    tests = [
        notebook.choose_test(labels, np.arange(120), ratio, seed=1, repeat=r) for r in range(folds)
    ]
    joined = np.concatenate(tests)
    assert len(set(joined)) == len(joined)
    for test in tests:
        assert len(test) == pytest.approx(120 * (1 - ratio), abs=1)
        assert abs(np.bincount(labels[test])[0] - len(test) / 2) <= 1
    past = notebook.choose_test(labels, np.arange(120), ratio, seed=1, repeat=folds)
    assert not any(np.array_equal(past, test) for test in tests)


def test_twins_stay_on_one_side(notebook, pool, tmp_path):
    for path in sorted(pool.glob("cats/*")):
        with Image.open(path) as image:
            image.save(path.with_name(f"twin_{path.name}"), quality=50)
    for repeat in range(5):
        notebook.split_dataset(pool, tmp_path / "data", repeat=repeat)
        test = split_of(tmp_path / "data")["test"]
        cats = {name.replace("twin_", "") for name in test if "cats" in name}
        assert len([name for name in test if "cats" in name]) == 2 * len(cats)


def test_ready_made_split_is_used_as_it_is(notebook, pool, tmp_path):
    ready = tmp_path / "ready"
    for i in range(4):
        for kind in ("cats", "dogs"):
            save_photo(ready / "Train" / kind / f"{kind}{i}.png", i + 10 * len(kind) + ord(kind[0]))
            save_photo(ready / "valid" / kind / f"{kind}{i}.png", i + 500 + ord(kind[0]))
    notebook.split_dataset(ready, tmp_path / "data")
    assert tree(tmp_path / "data" / "train") == tree(ready / "Train")
    assert tree(tmp_path / "data" / "test") == tree(ready / "valid")


@pytest.fixture
def leaky(pool, tmp_path):
    """A ready-made split with two training photos that show what a test photo shows."""
    shutil.copytree(pool, tmp_path / "leaky" / "train")
    for i in range(3):
        save_photo(tmp_path / "leaky" / "test" / "cats" / f"{i}.jpg", 700 + i)
        save_photo(tmp_path / "leaky" / "test" / "dogs" / f"{i}.jpg", 800 + i)
    with Image.open(tmp_path / "leaky" / "test" / "cats" / "0.jpg") as image:
        image.save(tmp_path / "leaky" / "train" / "cats" / "leak.jpg", quality=60)
        image.resize((96, 80)).save(tmp_path / "leaky" / "train" / "cats" / "leak.png")
    return tmp_path / "leaky"


def test_twins_of_test_photos_are_left_out_of_a_ready_made_train(notebook, leaky, tmp_path):
    dropped = notebook.split_dataset(leaky, tmp_path / "data")
    assert dropped == ["train/cats/leak.jpg", "train/cats/leak.png"]
    everything = {part: set(tree(leaky / part)) for part in ("train", "test")}
    everything["train"] -= {"cats/leak.jpg", "cats/leak.png"}
    assert split_of(tmp_path / "data") == everything


def test_twins_stay_where_the_user_says_so(notebook, leaky, tmp_path):
    notebook.split_dataset(leaky, tmp_path / "data", drop_twins=False)
    assert split_of(tmp_path / "data")["train"] == set(tree(leaky / "train"))


def test_training_class_that_is_all_twins_of_test_photos_is_an_error(notebook, leaky, tmp_path):
    shutil.rmtree(leaky / "train" / "cats")
    shutil.copytree(leaky / "test" / "cats", leaky / "train" / "cats")
    with pytest.raises(notebook.InputError, match="one side of the split only"):
        notebook.split_dataset(leaky, tmp_path / "data")


def test_unlabelled_test_folder_gives_way_to_val(notebook, pool, tmp_path):
    for part in ("train", "val"):
        shutil.copytree(pool, tmp_path / "ready" / part)
    save_photo(tmp_path / "ready" / "test" / "1.jpg", 1)
    assert notebook.find_parts(tmp_path / "ready")["test"].name == "val"


@pytest.mark.parametrize("names", [("training_set", "test_set"), ("seg_train", "seg_test")])
@pytest.mark.parametrize("deeper", ["", "inner"])
def test_split_under_other_names_is_not_taken_for_classes(notebook, pool, tmp_path, names, deeper):
    for name in names:
        shutil.copytree(pool, tmp_path / "odd" / name / deeper)
    with pytest.raises(notebook.InputError, match="look like the parts of a split"):
        notebook.audit_images(tmp_path / "odd")


def test_class_called_train_is_a_class(notebook, tmp_path):
    for number, kind in enumerate(("cars", "trains")):
        for i in range(5):
            save_photo(tmp_path / "wheels" / kind / f"{i}.png", 10 * number + i)
    assert not notebook.audit_images(tmp_path / "wheels").ready_made


def test_class_that_is_all_twins_cannot_be_split(notebook, pool, tmp_path):
    for i in range(6):
        save_photo(pool / "burst" / f"{i}.jpg", 77, quality=60 + 5 * i)
    with pytest.raises(notebook.InputError, match="one side of the split only"):
        notebook.split_dataset(pool, tmp_path / "data")


def test_data_dir_inside_the_data_set_is_refused(notebook, pool):
    for data_dir in (pool, pool / "data"):
        with pytest.raises(notebook.InputError, match="must not lie in the data set"):
            notebook.split_dataset(pool, data_dir)


def test_second_split_copies_nothing(notebook, pool, tmp_path):
    data = tmp_path / "data"
    notebook.split_dataset(pool, data)
    times = {path: path.stat().st_mtime_ns for path in data.glob("t*/*/*")}
    notebook.split_dataset(pool, data)
    assert {path: path.stat().st_mtime_ns for path in data.glob("t*/*/*")} == times


def test_switching_data_sets_never_mixes_them_and_deletes_no_file_of_others(
    notebook, pool, tmp_path
):
    data = tmp_path / "data"
    notebook.split_dataset(pool, data)
    note = data / "train" / "dogs" / "notes.txt"
    note.write_text("mine")
    (data / "test" / "dogs" / ".DS_Store").write_text("the Finder was here")
    other = tmp_path / "insects"
    for i in range(6):
        save_photo(other / "ants" / f"{i}.png", 300 + i)
        save_photo(other / "cats" / f"cat_{i:02}.jpg", 400 + i)
    notebook.split_dataset(other, data)
    split = split_of(data)
    left = {"dogs/notes.txt", "dogs/.DS_Store"}
    assert split["train"] | split["test"] == set(tree(other)) | left
    for part in ("train", "test"):
        assert list(notebook.count_images(data / part)) == ["ants", "cats"]
    notebook.make_copies(data, 1, 0)
    assert note.read_text() == "mine"


def test_images_of_others_in_the_way_stop_the_split_and_survive(notebook, pool, tmp_path):
    data = tmp_path / "data"
    mine = save_photo(data / "train" / "cats" / "mine.jpg", 1)
    with pytest.raises(notebook.InputError, match=r"mine\.jpg: not put there by this notebook"):
        notebook.split_dataset(pool, data)
    assert list(tree(data)) == ["train/cats/mine.jpg"]
    mine.unlink()
    notebook.split_dataset(pool, data)
    changed = next(data.glob("train/cats/*"))
    save_photo(changed, 2)
    with pytest.raises(notebook.InputError, match="changed since"):
        notebook.split_dataset(pool, data, seed=7)


def test_class_too_small_for_the_ratio_is_an_error(notebook, pool, tmp_path):
    for path in sorted(pool.glob("dogs/*"))[3:]:
        path.unlink()
    with pytest.raises(notebook.InputError, match=r"train_ratio = 0\.8: needs 5 images or more"):
        notebook.split_dataset(pool, tmp_path / "data")
    assert not (tmp_path / "data").exists()
