"""data/fetch.py: where images come from, and which folders are classes."""

import re
import shutil
import unicodedata
import zipfile
from pathlib import Path

import kagglehub
import pytest
import requests
from conftest import fails, make_pool, run_script, save_photo, tree, zip_of

from augment import augment_folder
from data.fetch import DEFAULT_DATASET, fetch_dataset, find_parts
from data.prepare import prepare_dataset


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def prepare(source, data_dir, **options):
    return prepare_dataset(str(source), data_dir, train_ratio=0.5, **options)


def refused(line, source, data_dir, **options):
    """Check that it is refused in that one line, and that nothing was written or changed."""
    before = tree(source), visible(data_dir)
    with fails(line) as caught:
        prepare(source, data_dir, **options)
    assert str(caught.value).isprintable()
    assert (tree(source), visible(data_dir)) == before


def visible(folder):
    """Return {relative path: bytes} of every file that a person looks for."""
    return {name: content for name, content in tree(folder).items() if not name.startswith(".")}


def everything_in(*folders):
    """Return the bytes of every file below the folders, sorted."""
    return sorted(content for folder in folders for content in tree(folder).values())


def used(folder):
    return everything_in(folder / "train", folder / "test")


def test_zip_of_an_old_windows_tool_is_unpacked_as_folders(small_pool, tmp_path, data):
    files = tree(small_pool)
    backslashes = {f"photos/{name}".replace("/", "\\"): files[name] for name in files}
    archive = zip_of(backslashes, tmp_path / "windows.zip")
    for run in ("first", "second"):
        assert prepare(archive, data).source == str(archive), run
        assert used(data) == everything_in(small_pool)
    assert len(list((data / "source").iterdir())) == 1


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_that_means_harm_stays_inside_its_folder(small_pool, tmp_path, data):
    files = tree(small_pool)
    harmful = {f"a/photos/{name}": content for name, content in files.items()}
    for name in ("../../../x", "..\\..\\..\\x", "/x", "C:x", "__MACOSX/x/._0"):
        harmful[name] = b"x"
    archive = zip_of(harmful, tmp_path / "harmful.zip")
    link = zipfile.ZipInfo("a/photos/cats/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as file:
        # a second time
        file.writestr("a/photos/cats/0.jpg", files["cats/0.jpg"])
        file.writestr(link, "/etc/passwd")
    around = {*tmp_path.iterdir(), data}
    for run in ("first", "second"):
        prepare(archive, data)
        assert used(data) == everything_in(small_pool), run
        assert {*tmp_path.iterdir()} == around
        assert not [path for path in data.rglob("*") if path.is_symlink()]
    assert len(list((data / "source").iterdir())) == 1


# what is wrong with a zip, or the name of a further file in it
ZIPS = {
    "not a zip": lambda content: b"<html>",
    "half": lambda content: content[:5000],
    "damaged": lambda content: content[:60] + b"\xff" * 30 + content[90:],
    "encrypted": lambda content: re.sub(
        b"(?s)(PK\3\4..|PK\1\2....)\0", lambda match: match[1] + b"\1", content
    ),
    "too much": lambda content: re.sub(
        b"(?s)(PK\1\2.{20}).{4}", lambda match: match[1] + b"\0\0\0\x80", content
    ),
    # where the folder is to be
    "cats": lambda content: content,
    "x" * 300: lambda content: content,
}


@pytest.mark.parametrize("what", ZIPS)
def test_zip_that_is_no_good_is_refused_and_leaves_nothing(small_pool, tmp_path, data, what):
    archive = zip_of(tree(small_pool) | {what: b"x"}, tmp_path / "set.zip")
    spoil = ZIPS[what]
    archive.write_bytes(spoil(archive.read_bytes()))
    reason = what if what in ("encrypted", "too much") else ""
    refused(rf"^{archive}: cannot be unpacked \(.*{reason}.*; is it a whole zip", archive, data)


def test_unpacked_files_that_were_deleted_or_cut_off_are_unpacked_again(small_pool, tmp_path, data):
    archive = zip_of(tree(small_pool), tmp_path / "set.zip")
    folder = fetch_dataset(str(archive), data).folder
    photo = folder / "dogs" / "3.jpg"
    for damage in (photo.unlink, lambda: photo.write_bytes(b"")):
        damage()
        assert fetch_dataset(str(archive), data).folder == folder
        assert tree(folder) == tree(small_pool)
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    inode = (folder / "cats").stat().st_ino
    fetch_dataset(str(archive), data)
    assert (folder / "cats").stat().st_ino == inode, "unpacked though nothing was missing"


def test_zip_whose_names_differ_in_case_is_refused_where_they_would_be_one(
    small_pool, tmp_path, data, monkeypatch
):
    (small_pool / "dogs").rename(small_pool / "Cats")
    archive = zip_of(tree(small_pool), tmp_path / "set.zip")
    folder = fetch_dataset(str(archive), data).folder
    if {path.name for path in folder.iterdir()} != {"cats", "Cats"}:
        pytest.skip("this file system folds case")
    shutil.rmtree(folder)
    monkeypatch.setattr("data.files.folds_case", lambda folder: True)
    refused("source: Cats and cats differ only in case, which this file sys", archive, data)


def test_home_folder_is_what_the_tilde_means(small_pool, data, monkeypatch):
    monkeypatch.setenv("HOME", str(data.parent))
    monkeypatch.setenv("USERPROFILE", str(data.parent))
    monkeypatch.chdir(small_pool)
    assert prepare("~/pool", "~/data").folders == [data]
    assert augment_folder("~/data/train", "~/copies", 1, workers=1).made == 6
    assert used(data) == everything_in(small_pool)
    assert len(visible(data.with_name("copies"))) == 7


@pytest.mark.parametrize(
    "name",
    ["my photos", "~nobody_here/x", "x" * 5000, "a\0b", "a/b/c", "*", "cats/typo"],
    ids=ascii,
)
def test_what_is_no_folder_zip_or_handle_is_one_line_and_not_asked_of_kaggle(
    small_pool, data, monkeypatch, name
):
    monkeypatch.chdir(small_pool)
    monkeypatch.setattr(kagglehub, "dataset_download", lambda _: pytest.fail("asked Kaggle"))
    with fails(rf"^dataset = '.*: no such folder or zip in {small_pool}, and no Kaggle handle"):
        fetch_dataset(name, data)


def test_kaggle_delivers_and_offline_the_newest_complete_version_is_used(kaggle, small_pool, data):
    kaggle("well")
    prepared = prepare(DEFAULT_DATASET, data)
    assert (prepared.source, prepared.subset) == (f"{DEFAULT_DATASET}/versions/3", "test")
    assert used(data) == everything_in(small_pool)
    kaggle("off")
    assert prepare(DEFAULT_DATASET, data) == prepared
    cached = data.with_name("cache") / "datasets" / DEFAULT_DATASET
    for version in ("9", "10", "11"):
        shutil.copytree(cached / "versions" / "3", cached / "versions" / version)
        (cached / f"{version}.complete").touch()
    (cached / "11.complete").unlink()
    assert fetch_dataset(DEFAULT_DATASET, data).source == f"{DEFAULT_DATASET}/versions/10"


@pytest.mark.parametrize("trouble", ["off", "hanging"])
def test_drawings_stand_in_where_kaggle_is_not_reached_and_are_said_to(kaggle, data, trouble):
    kaggle(trouble)
    for subset in (None, "test"):
        prepared = prepare(DEFAULT_DATASET, data, subset=subset)
        assert prepared.source == f"drawings instead of {DEFAULT_DATASET}"
        assert prepared.drawn
        assert (
            str(prepared).splitlines()[0].endswith(f"({prepared.stand_in_reason or 'no reason'})")
        )
    drawn = prepare("drawings", data, subset="test")
    assert (drawn.source, drawn.drawn, drawn.stand_in_reason) == ("drawings", True, "")


def test_a_silent_server_is_waited_for_only_so_long(kaggle, data, monkeypatch):
    kaggle("hanging")
    before = requests.adapters.HTTPAdapter.send
    monkeypatch.setattr("data.fetch.PATIENCE", (0.1, 0.1))
    assert fetch_dataset(DEFAULT_DATASET, data).stand_in_reason == "ReadTimeout"
    assert requests.adapters.HTTPAdapter.send is before


@pytest.mark.parametrize("trouble", ["404", "403", "500", "half", "checksum"])
def test_what_kaggle_refuses_or_damages_is_one_line_and_nothing_stays_in_the_way(
    kaggle, small_pool, data, trouble
):
    kaggle(trouble)
    handle = "12/photos"
    line = f"dataset = '12/photos': no such folder in {Path.cwd()}, and from Kaggle .*of a zip"
    refused(line, Path(handle), data)
    refused(f"dataset = '{DEFAULT_DATASET}': .*or dataset=drawings", DEFAULT_DATASET, data)
    kaggle("well")
    for handle in ("12/photos", DEFAULT_DATASET):
        fetched = fetch_dataset(handle, data)
        assert fetched.source == f"{handle}/versions/3"
        assert fetched.stand_in_reason == ""
        assert tree(fetched.folder / "test") == tree(small_pool)


@pytest.mark.parametrize("handle", ["12/photos", DEFAULT_DATASET])
def test_an_unreachable_kaggle_or_a_full_disk_is_one_line(kaggle, data, monkeypatch, handle):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kagglehub, "dataset_download", full)
    refused("from Kaggle OSError: .*No space left on device", Path(handle), data)


def test_a_local_folder_needs_no_kagglehub_which_needs_a_home(small_pool, tmp_path):
    pytest.importorskip("pwd")
    homeless = (
        "import os, pwd, sys; del os.environ['HOME']\n"
        "def nobody(user): raise KeyError(user)\n"
        "pwd.getpwuid = nobody\n"
        "from data.prepare import main; sys.exit(main())"
    )
    done = run_script("-c", homeless, small_pool, "--output", tmp_path / "data")
    assert "train: 4 cats" in done.stdout, done.stderr
    done = run_script("-c", homeless, "12/photos", "--output", tmp_path / "data")
    assert done.returncode == 2
    assert "dataset = '12/photos': kagglehub fails, " in done.stderr
    assert done.stderr.endswith("(set HOME, or give the path of a folder or zip)\n")


def lay_out(folder, layout):
    """Make a folder of images: "cats/ 6 dogs/ 6", or "train/cat. 4" for train/cat.0.png …"""
    words = layout.split()
    for group, (start, count) in enumerate(zip(words[::2], words[1::2], strict=True)):
        for number in range(int(count)):
            save_photo(Path(f"{folder}/{start}{number}.png"), 100 * group + number)
    return folder


# {folders: what is said}
POOLS = {
    "cats/ 6 dogs/ 6": "",
    "a/b/cats/ 6 a/b/dogs/ 6": "",
    "cars/ 6 trains/ 6": "",
    "control/ 6 test/ 6": "",
    "cats/images/ 6 cats/masks/ 6 dogs/images/ 6 dogs/masks/ 6": "12 masks beside their images",
    "cats/anna/ 3 cats/bo/ 3 dogs/anna/ 3 dogs/cleo/ 3": "",
    "cats/ 6 dogs/ 6 IMG_ 30": "30 images beside the class folders are not used",
    "train/ok/ 4 train/nok/ 4 train/unsure/ 4 test/ 5": "test: 5 images have no labels and are",
    "test_positive/ 6 test_negative/ 6": "test_negative, test_positive: taken for classes, as",
}


@pytest.mark.parametrize("layout", POOLS)
def test_pool_of_any_layout_is_split_and_what_is_unused_is_said(tmp_path, data, layout):
    source = lay_out(tmp_path / "set", layout)
    notes = prepare(source, data).notes
    if POOLS[layout]:
        (line,) = notes
        assert line.startswith(POOLS[layout])
    else:
        assert notes == []
    unused = [path.read_bytes() for path in source.rglob("IMG*")]
    unused += [path.read_bytes() for path in source.rglob("masks/*")]
    if "test:" in POOLS[layout]:
        unused += everything_in(source / "test")
    assert sorted(used(data) + unused) == everything_in(source)


# {folders: which are the test set, what is said}
READY_MADE = {
    "Train/a/ 4 Train/b/ 4 Train/IMG 3 valid/a/ 2 valid/b/ 2": ("valid", "3 images beside the"),
    "train/x/a/ 4 train/x/b/ 4 test/y/a/ 2 test/y/b/ 2": ("test", ""),
    "train/a/ 4 train/b/ 4 test/a/ 2 test/b/ 2 val/a/ 2 val/b/ 2": ("test", "val: 4 images are"),
    "train/a/ 4 train/b/ 4 test/images/ 3 val/a/ 2 val/b/ 2": ("val", "test: 3 images are not"),
    "train/a/ 4 train/b/ 4 val/a/ 2 val/b/ 2 test/ 3": ("val", "test: 3 images have no labels"),
    "Training/a/ 4 Training/b/ 4 Testing/a/ 2 Testing/b/ 2": ("Testing", ""),
    "training_set/a/ 4 training_set/b/ 4 test_set/a/ 4 test_set/b/ 4": ("test_set", ""),
    "seg_train/x/a/ 4 seg_train/x/b/ 4 seg_test/x/a/ 4 seg_test/x/b/ 4": ("seg_test", ""),
    # as a Mac writes it
    "train/café/é 4 train/b/ 4 test/cafe\u0301/e\u0301 2 test/b/ 2": ("test", ""),
}


@pytest.mark.parametrize("layout", READY_MADE)
def test_ready_made_split_of_any_name_is_used(tmp_path, data, layout):
    source = lay_out(tmp_path / "set", layout)
    test, note = READY_MADE[layout]
    notes = prepare(source, data).notes
    if note:
        (line,) = notes
        assert line.startswith(note)
    else:
        assert notes == []
    assert everything_in(data / "test") == everything_in(source / test)
    unused = [path.read_bytes() for path in source.rglob("IMG*")]
    if ":" in note:
        unused += everything_in(source / note.split(":")[0])
    assert sorted(used(data) + unused) == everything_in(source)
    assert all(unicodedata.is_normalized("NFC", name) for name in tree(data))


MANY = " ".join(f"train/n{number}/images/ 1" for number in range(200))
# {folders: what is said of them}
NOT_CLASSES = {
    "train/cat. 4 train/dog. 4 test1/ 4": r"parts of a split; .* the classes \(cat, dog\): make",
    "train_a/x/ 4 train_b/x/ 4 test/x/ 4": "look like parts of a split; name two of them train",
    "test1/ 4 test2/ 4": "test1, test2 look like parts of a split; .*subset=. if they are classes",
    "cats/ 6 dogs/ 6 test/ 3": "test beside classes .* of a split; move it out, or set subset=. if",
    "train/ 6 bus/ 6 car/ 6 tram/ 6": "train beside classes .* subset=. if it is a class",
    "cars/images/ 6 trains/images/ 6 test/images/ 3": "test, trains look like parts of a split",
    "fold_0/all/ 4 fold_0/hem/ 4 fold_1/all/ 4 fold_1/hem/ 4 fold_2/all/ 4 fold_2/hem/ 4": (
        r"fold_0, fold_1, fold_2 hold the same folders \(all, hem\).*; subset=fold_0 uses one"
        ".*subset=fold_0,fold_1 pools two, subset=. takes them for classes"
    ),
    "fold_1/a/ 4 fold_1/b/ 4 fold_1/c/ 4 fold_2/a/ 4 fold_2/b/ 4": (
        r"fold_1, fold_2 hold the same folders \(a, b\)"
    ),
    "x/train/p1/a/ 4 x/train/p1/b/ 4 x/train/p2/a/ 4 x/train/p2/b/ 4 x/test/ 3": (
        "p1, p2 hold the same .*subset=x/train/p1,x/train/p2 pools two, subset=x/train/. takes"
    ),
    "cats/train/ 4 cats/test/ 2 dogs/train/ 4 dogs/val/ 2": (
        "cats: holds test, train: make folders train and test with the classes in each, or set "
        "subset=. to split all of it anew"
    ),
    "set/train/a/ 4 set/train/b/ 4 set/test/a/ 4 set/test/b/ 4 extra/ 3": (
        "set: holds test, train, so it is no class: set subset=set to use it alone"
    ),
    "Training/a/ 4 Training/b/ 4 Training/c/ 4 Testing/a/ 2 Testing/b/ 2": (
        "c: not in both Training and Testing; subset=Training splits that one alone"
    ),
    "Training/a/ 4 Training/b/ 4 Testing/a/ 2": "b: not in both Training and Testing; subset=Tr",
    MANY + " val/images/ 9 test/images/ 9": (
        "images, n0, n1, n10, n100 and 196 more: not in both train and test; subset=train splits"
    ),
}


@pytest.mark.parametrize("layout", NOT_CLASSES)
def test_parts_of_a_data_set_are_never_taken_for_classes(tmp_path, data, layout):
    source = lay_out(tmp_path / "set", layout)
    refused(NOT_CLASSES[layout], source, data)


@pytest.mark.parametrize("layout", [layout for layout in NOT_CLASSES if layout != MANY])
def test_every_setting_that_a_refusal_names_can_be_used(tmp_path, layout):
    source = lay_out(tmp_path / "set", layout)
    with fails("subset") as caught:
        find_parts(source, "")
    for subset in re.findall(r"subset=(\S+?)[;,)]? ", f"{caught.value} "):
        assert find_parts(source, subset).parts, subset


def test_dot_takes_folders_of_any_name_for_classes(tmp_path, data):
    source = lay_out(tmp_path / "outer" / "set", "train/ 6 bus/ 6 car/ 6")
    for dataset, subset in ((source, "."), (source.parent, "."), (source.parent, "set/.")):
        assert prepare(dataset, data, subset=subset).classes == ["bus", "car", "train"]
        assert used(data) == everything_in(source)


def test_pooled_parts_keep_all_files_even_of_one_name(tmp_path, data):
    source = make_pool(tmp_path / "set" / "train", 4).parent
    make_pool(source / "test", 3, base=50)
    # a second folder of that name
    make_pool(source / "new" / "train", 4, base=100)
    for first, second in (("train", "new/train"), ("train", "test")):
        prepare(source, data, subset=f"{first}, {second}")
        assert used(data) == everything_in(source / first, source / second)
    names = [f"{part}_{number}.jpg" for part in ("test", "train") for number in range(3)]
    assert sorted(path.name for path in data.glob("t*/cats/*")) == ["3.jpg", *names]
    for subset in ("birds", "train,birds"):
        refused(r"subset = 'birds': .* has only new, test, train", source, data, subset=subset)
