"""What users throw at it: every case ends in a result or in one clear line, with nothing lost."""

import errno
import functools
import http.server
import io
import json
import os
import pickle
import random
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import kagglehub
import numpy as np
import pytest
import torch
from conftest import ROOT, read_notebook, save_photo, tree
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_data import DEFAULT, Kaggle

import augment
from augment import augment_folder, find_images, load_image


def fails(notebook, line):
    return pytest.raises(notebook.InputError, match=line)


@pytest.fixture
def small_pool(tmp_path):
    """Two classes of six photos: enough for a split by half."""
    for i in range(6):
        save_photo(tmp_path / "pool" / "cats" / f"{i}.jpg", i)
        save_photo(tmp_path / "pool" / "dogs" / f"{i}.jpg", 100 + i)
    return tmp_path / "pool"


# ---- images: what becomes of one beside eleven good ones; None: it is used like them


def photo(format="JPEG", mode="RGB", size=(48, 40), **options) -> bytes:
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def blank(width, height, format="PNG", mode="1") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, format)
    return file.getvalue()


def deep() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)).save(file, "PNG")
    return file.getvalue()


def frames(format) -> bytes:
    file, images = io.BytesIO(), [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    images[0].save(file, format, save_all=True, append_images=images[1:])
    return file.getvalue()


ROTATED = Image.Exif()
ROTATED[0x0112] = 6

IMAGES = {
    "empty.jpg": (b"", "an empty file"),
    "truncated.jpg": (photo()[:700], "truncated"),
    "page.jpg": (b"<!DOCTYPE html><p>404", "not an image"),
    "really_a_png.jpg": (photo("PNG"), None),
    "16_bits.png": (deep(), None),
    "palette.png": (photo("PNG", "P"), None),
    "clear_palette.png": (photo("PNG", "P", transparency=0), None),
    "clear.png": (photo("PNG", "RGBA"), None),
    "cmyk.jpg": (photo("JPEG", "CMYK"), None),
    "grey.jpg": (photo("JPEG", "L"), None),
    "black_and_white.tif": (photo("TIFF", "1"), None),
    "rotated.jpg": (photo(exif=ROTATED), None),
    "broken_exif.jpg": (photo(exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40), None),
    "animated.gif": (frames("GIF"), None),
    "animated.webp": (frames("WEBP"), None),
    "animated.apng": (frames("PNG"), None),
    "two_views.mpo": (frames("MPO"), None),
    "dot.png": (blank(1, 1), "1 × 1 pixels: too large, or too little"),
    "strip.png": (blank(20_000, 10), "20000 × 10 pixels: too large, or too little"),
    "narrow.png": (blank(400, 8), None),
    "bomb.png": (blank(10_000, 10_000), "10000 × 10000 pixels: too large"),
    "larger_bomb.png": (blank(15_000, 15_000), "exceeds limit"),
    "UPPER.JPG": (photo(), None),
    "a b 'c' \"d\".jpg": (photo(), None),
    "line\nbreak.jpg": (photo(), None),
    "🐈.jpg": (photo(), None),
    "-rf.jpg": (photo(), None),
    "x" * 246 + ".jpg": (photo(), None),
    "é" * 125 + ".jpg": (photo(), None),
    "a.tar.gz.jpg": (photo(), None),
    "not_unicode_\udcff.jpg": (photo(), "not valid Unicode"),
}


@pytest.mark.parametrize(
    ("name", "content", "line"), [(k, *v) for k, v in IMAGES.items()], ids=map(ascii, IMAGES)
)
def test_image_is_used_everywhere_or_named_and_left_out(
    notebook, small_pool, tmp_path, name, content, line
):
    file = small_pool / "cats" / name
    try:
        file.write_bytes(content)
    except OSError:
        pytest.skip("this file system does not take the name")
    audit = notebook.audit_images(small_pool)
    report = augment_folder(small_pool, tmp_path / "copies", copies=1, workers=1)
    if line is None:
        assert not audit.unreadable
        assert (report.images, report.made, report.left_out) == (13, 13, [])
    else:
        (reason,) = audit.unreadable.values()
        (left_out,) = report.left_out
        assert line in reason
        assert line in left_out
        assert left_out.isprintable()
        assert (report.images, report.made) == (12, 12)
    notebook.split_dataset(small_pool, tmp_path / "data", 0.5, audit=audit)
    images = [notebook.DecodedImages(tmp_path / "data" / part, 32) for part in ("train", "test")]
    assert sum(map(len, images)) == 12 + (line is None)
    assert len(notebook.DecodedImages(tmp_path / "copies", 32)) == report.made


@pytest.mark.parametrize(
    ("target", "line"),
    [("photo", None), ("nowhere", "No such file"), ("link.jpg", "Too many levels")],
    ids=["to a file", "dangling", "to itself"],
)
def test_link_is_followed_or_named(notebook, small_pool, tmp_path, target, line):
    (tmp_path / "photo").write_bytes(photo())
    target = small_pool / "cats" / target if "link" in target else tmp_path / target
    (small_pool / "cats" / "link.jpg").symlink_to(target)
    audit = notebook.audit_images(small_pool)
    assert len(audit.files) == 12 + (line is None)
    assert all(line in reason for reason in audit.unreadable.values())
    assert (line is None) == (not audit.unreadable)


def test_linked_folders_are_followed_but_not_in_a_circle(small_pool, tmp_path):
    save_photo(tmp_path / "elsewhere" / "more.jpg", 7)
    (small_pool / "cats" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(small_pool / "cats")
    (small_pool / "dogs" / "up").symlink_to(small_pool)
    (small_pool / "birds").symlink_to(tmp_path / "elsewhere")
    found = {name: [file.name for file in files] for name, files in find_images(small_pool).items()}
    assert found["birds"][-1] == "more.jpg"
    assert found["cats"] == [*(f"{i}.jpg" for i in range(6)), "more.jpg"]
    assert found["dogs"] == [f"{i}.jpg" for i in range(6)]


@given(
    width=st.integers(8, 400), height=st.integers(8, 400), seed=st.integers(0, 2**32),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_size_and_mode_is_read_and_augmented(tmp_path_factory, width, height, seed, mode):
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    path = tmp_path_factory.mktemp("any") / "image"
    Image.new(mode, (width, height)).save(path, kind)
    try:
        _, image = load_image(path)
    except OSError:
        assert max(width, height) > 50 * min(width, height)
        return
    assert (image.mode, image.size) == ("RGB", (width, height))
    copy, operations = augment.augment_image(image, random.Random(seed))
    assert copy.mode == "RGB"
    assert min(copy.size) > 0
    assert len({operation["name"] for operation in operations}) == 3


file_names = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=80
).filter(lambda name: len(name.encode()) <= 250 and not name.startswith("."))


@given(names=st.sets(file_names, min_size=1, max_size=30), copies=st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_copies_of_any_names_are_distinct_and_fit_the_file_system(names, copies):
    sources = [Path("a", name + suffix) for name in names for suffix in (".jpg", ".PNG")]
    targets = augment._targets(sources, copies)
    copies = [str(copy).lower() for names in targets.values() for copy in names]
    assert len(set(copies)) == len(copies)
    assert all(len(os.fsencode(Path(copy).name)) <= 255 for copy in copies)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return the file with a few bytes changed, cut out, doubled or cut off."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 64))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + length] = rng.randbytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + length] = rng.choice((b"\0", b"\xff")) * length
        if len(data) < 16:
            break
    return bytes(data[: rng.randrange(len(data)) if rng.random() < 0.1 else None])


def test_mutants_are_read_alike_everywhere_or_named(notebook, tmp_path):
    """MUTANTS=5000 in the environment for more than a few."""
    rng, count = random.Random(0), int(os.environ.get("MUTANTS", "300"))
    kinds = {"jpg": photo(exif=ROTATED), "png": photo("PNG", "RGBA"), "gif": frames("GIF")}
    kinds |= {"webp": frames("WEBP"), "tif": photo("TIFF", compression="tiff_lzw")}
    kinds |= {"bmp": photo("BMP"), "mpo": frames("MPO"), "apng": photo("PNG", "P", transparency=3)}
    kinds |= {"jpeg": photo(progressive=True, icc_profile=b"x" * 200), "ppm": photo("PPM")}
    for i in range(count):
        kind = rng.choice(sorted(kinds))
        path = tmp_path / "pool" / rng.choice(("a", "b")) / f"{i}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutate(rng, kinds[kind]))
    report = augment_folder(tmp_path / "pool", tmp_path / "copies", copies=1)
    audit = notebook.audit_images(tmp_path / "pool")
    assert report.images + len(report.left_out) == count
    assert report.made == report.images == len(audit.files)
    assert len(audit.unreadable) == len(report.left_out) > count / 20
    assert all(line.isprintable() for line in [*audit.unreadable.values(), *report.left_out])
    assert len(notebook.DecodedImages(tmp_path / "copies", 32)) == report.made > count / 5
    print(f"{count} mutants: {report.made} used, {len(report.left_out)} named and left out")


# ---- folders


def fold(notebook, pool, data):
    notebook.split_dataset(pool, data, 0.5)


FOLDERS = {
    "empty class": (lambda pool: (pool / "birds").mkdir(), "image in birds. It is empty"),
    "one class": (lambda pool: shutil.rmtree(pool / "cats"), "only one class"),
    "no class": (lambda pool: [shutil.rmtree(pool / k) for k in ("cats", "dogs")], "expected one"),
    "class of one": (lambda pool: save_photo(pool / "birds" / "a.jpg", 9), "needs 2 images"),
    "class without images": (
        lambda pool: (pool / "notes").mkdir() or (pool / "notes" / "a.txt").write_text("x"),
        "no readable image in notes",
    ),
    "class of broken images": (
        lambda pool: (pool / "birds").mkdir() or (pool / "birds" / "a.jpg").write_bytes(b"GIF"),
        "no readable image in birds. a.jpg: not an image",
    ),
    "nested": (lambda pool: save_photo(pool / "cats" / "deep" / "er" / "a.jpg", 9), None),
    "system's files": (
        lambda pool: [
            (pool / place / name).write_bytes(b"x")
            for place in (".", "cats")
            for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.jpg", "readme.txt")
        ],
        None,
    ),
    "hidden folders": (lambda pool: save_photo(pool / ".trash" / "a.jpg", 9), None),
    "archiver's folder": (lambda pool: save_photo(pool / "__MACOSX" / "a.jpg", 9), None),
}  # fmt: skip


@pytest.mark.parametrize(("change", "line"), FOLDERS.values(), ids=FOLDERS)
def test_folder_is_split_or_refused_in_one_line(notebook, small_pool, tmp_path, change, line):
    change(small_pool)
    before = tree(small_pool)
    if line is None:
        fold(notebook, small_pool, tmp_path / "data")
        assert list(notebook.count_images(tmp_path / "data" / "test")) == ["cats", "dogs"]
    else:
        with fails(notebook, line):
            fold(notebook, small_pool, tmp_path / "data")
        assert not (tmp_path / "data").exists()
    assert tree(small_pool) == before


@pytest.mark.parametrize("inside", ["train", "test", "train_aug"])
def test_data_set_in_a_folder_that_is_written_to_is_refused(notebook, small_pool, tmp_path, inside):
    data = tmp_path / "data"
    small_pool.rename(data / inside) if data.mkdir() is None else None
    before = tree(data)
    with fails(notebook, "must not lie in the data set"):
        fold(notebook, data / inside, data)
    assert tree(data) == before


def test_results_in_the_data_set_are_refused(notebook, small_pool):
    with fails(notebook, "must not lie in the data set"):
        notebook.keep_apart(small_pool, small_pool / "results")


def test_folder_that_may_not_be_read_is_named(notebook, small_pool, monkeypatch):
    walk = os.scandir

    def scandir(path="."):
        if Path(path).name == "dogs":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return walk(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with fails(notebook, "Permission denied: .*dogs"):
        notebook.audit_images(small_pool)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_cannot_be_written_is_named_and_the_old_file_kept(
    notebook, tmp_path, monkeypatch, code
):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def full(self, data):
        self.touch()
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", full)
    with fails(notebook, f"metrics.json: cannot be written, {os.strerror(code)}"):
        notebook.write_atomically(path, "new")
    assert tree(tmp_path) == {"metrics.json": b"old"}


def test_full_disk_costs_the_checkpoint_and_not_the_training(
    notebook, tmp_path, monkeypatch, capsys
):
    checkpoint = notebook.Checkpoint(tmp_path / "state.pt", "key")
    monkeypatch.setitem(notebook.globals, "CHECKPOINT_SECONDS", 0)
    (tmp_path / "state.pt").mkdir()
    checkpoint.save([0.5], torch.nn.Linear(1, 1))
    assert "The training goes on without a checkpoint" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file size to set")
def test_augmentation_on_a_full_disk_stops_with_one_line_and_goes_on_later(small_pool, tmp_path):
    import resource

    for i in range(20):
        save_photo(small_pool / "cats" / f"large{i}.jpg", i, size=(400, 400), quality=95)
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (9000, 9000))
    command = [sys.executable, ROOT / "augment.py", small_pool, tmp_path / "out", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    (line,) = done.stderr.splitlines()
    assert line.endswith("jpg: cannot be written, File too large; the rest was not made")
    assert done.returncode == 1
    assert not [name for name in tree(tmp_path / "out") if "partial" in name or "lock" in name]
    assert subprocess.run(command, capture_output=True).returncode == 0
    augment_folder(small_pool, tmp_path / "undisturbed")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_image_that_changes_or_goes_meanwhile_is_named(notebook, small_pool, tmp_path):
    audit = notebook.audit_images(small_pool)
    file = small_pool / "cats" / "0.jpg"
    data = file.read_bytes()
    file.write_bytes(photo())
    with fails(notebook, "0.jpg: changed while it was being used"):
        notebook.split_dataset(small_pool, tmp_path / "data", 0.5, audit=audit)
    file.unlink()
    with fails(notebook, "0.jpg: No such file"):
        notebook.split_dataset(small_pool, tmp_path / "data", 0.5, audit=audit)
    file.write_bytes(data)
    notebook.split_dataset(small_pool, tmp_path / "data", 0.5, audit=audit)
    assert len([name for name in tree(tmp_path / "data") if name.endswith(".jpg")]) == 12


# ---- zips


def zip_of(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in tree(folder).items():
            file.writestr(name, data)
    return path


def patch(path: Path, signature: bytes, offset: int, value: bytes) -> None:
    """Overwrite a field of every header of a zip that begins with the signature."""
    data, at = bytearray(path.read_bytes()), 0
    while (at := data.find(signature, at)) >= 0:
        data[at + offset : at + offset + len(value)] = value
        at += 1
    path.write_bytes(data)


def encrypted(path):
    patch(path, b"PK\3\4", 6, b"\1\0")
    patch(path, b"PK\1\2", 8, b"\1\0")


def bomb(path):
    patch(path, b"PK\1\2", 24, struct.pack("<I", 2**31))


def add(name, data=b"x", mode=None):
    def change(path):
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16 if mode else 0
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
            warnings.simplefilter("ignore")
            file.writestr(member, data)

    return change


ZIPS = {
    "not a zip": (lambda path: path.write_bytes(b"<html>"), "cannot be unpacked"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be unpacked"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "cannot be unpacked"),
    "encrypted": (encrypted, "cannot be unpacked .*encrypted"),
    "bomb": (bomb, "GB when unpacked, which is too much"),
    "file where a folder is": (add("cats"), "cannot be unpacked"),
    "endless name": (add("cats/" + "x" * 300 + ".jpg"), "cannot be unpacked"),
    "up and out": (add("../../../out.jpg", photo()), None),
    "absolute": (lambda path: add(f"{path.parent}/out.jpg", photo())(path), None),
    "link": (add("cats/link.jpg", b"/etc/passwd", stat.S_IFLNK | 0o777), None),
    "twice": (add("cats/0.jpg", photo()), None),
    "archiver's folder": (add("__MACOSX/cats/._0.jpg"), None),
}


@pytest.mark.parametrize(("change", "line"), ZIPS.values(), ids=ZIPS)
def test_zip_is_unpacked_inside_its_folder_or_refused(notebook, small_pool, tmp_path, change, line):
    archive = zip_of(small_pool, tmp_path / "set.zip")
    change(archive)
    before = {name for name in tree(tmp_path) if not name.startswith("data/")}
    if line is None:
        folder = notebook.fetch_dataset(str(archive), tmp_path / "data")[0]
        audit = notebook.audit_images(notebook.find_subset(folder))
        assert len(audit.files) >= 12
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
    else:
        with fails(notebook, rf"set\.zip: .*{line}"):
            notebook.fetch_dataset(str(archive), tmp_path / "data")
        assert not tree(tmp_path / "data")
    assert {name for name in tree(tmp_path) if not name.startswith("data/")} == before


# ---- parameters of the wrong type; those out of range are in test_data.py


WRONG = [
    ("copies", None), ("copies", [3]), ("copies", 1e9), ("image_size", "big"), ("image_size", 1.5),
    ("batch_size", True), ("batch_size", {}), ("num_epochs", float("inf")), ("learning_rate", None),
    ("train_ratio", "4:1"), ("train_ratio", float("nan")), ("repeats", -1), ("seed", 2**40),
    ("arms", None), ("arms", ["original"]), ("device", None), ("device", "cuda:99"),
    ("drop_twins", 2.5), ("dataset", ""), ("results_dir", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_parameter_of_a_wrong_type_is_named_with_what_is_allowed(notebook, name, value):
    cell = next(c for c in read_notebook()["cells"] if c["metadata"].get("tags") == ["parameters"])
    exec("".join(cell["source"]), values := {})
    with fails(notebook, f"^{name} = .*must be"):
        notebook.check_parameters(values | {name: value}, {})


@pytest.mark.parametrize("dataset", ["~nobody_here/photos", "x" * 5000, "a\0b", "a/b/c", "*"])
def test_dataset_that_is_nothing_is_refused(notebook, tmp_path, dataset):
    with fails(notebook, "dataset = .*: no such folder or zip, and no handle owner/name"):
        notebook.fetch_dataset(dataset, tmp_path)


@pytest.mark.parametrize(
    ("count", "size", "refused"), [(12, 32, True), (12, 33, False), (13, 32, False)]
)
def test_last_batch_that_cannot_be_trained_on_is_refused(notebook, count, size, refused):
    config = SimpleNamespace(batch_size=11, image_size=size)
    if refused:
        with fails(notebook, "batch_size = 11: the last batch of 12 images has 1, too few"):
            notebook.check_last_batch(count, config)
    else:
        notebook.check_last_batch(count, config)
        images = [(torch.zeros(n, 3, size, size, dtype=torch.uint8), torch.zeros(n).long())
                  for n in (11, count - 11)]  # fmt: skip
        assert len(notebook.train_model(notebook.initialize_model(2, 0), images, 1)) == 1


# ---- two runs at once


def test_second_run_in_the_same_folder_says_so(notebook, small_pool, tmp_path):
    with FileLock(tmp_path / ".lock"), fails(notebook, "another run is using it"):
        notebook.claim(tmp_path)
    locks = notebook.claim(tmp_path), notebook.claim(tmp_path)  # the cell runs again
    assert all(lock.is_locked for lock in locks)
    locks[0].release(force=True)
    output = tmp_path / "copies"
    output.mkdir()
    with FileLock(output / ".augment.lock"), pytest.raises(ValueError, match="another run is"):
        augment_folder(small_pool, output, 1)
    assert augment_folder(small_pool, output, 1).made == 12
    assert not (output / ".augment.lock").exists()


def test_folder_that_cannot_be_made_is_named(notebook, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with fails(notebook, "file: cannot be written, File exists"):
        notebook.claim(tmp_path / "file")


# ---- Kaggle


class Trouble(Kaggle):
    """A Kaggle that fails in the way its class says."""

    kind = ""

    def do_POST(self):
        if self.kind.isdigit():
            self.send_error(int(self.kind))
        elif self.kind == "hanging":
            time.sleep(3)
        else:
            super().do_POST()

    def _answer(self, body, kind):
        if kind == "application/zip" and self.kind == "half":
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
        elif kind == "application/zip" and self.kind == "wrong checksum":
            self.send_response(200)
            self.send_header("X-Goog-Hash", "md5=AAAAAAAAAAAAAAAAAAAAAA==")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif kind == "application/zip" and self.kind == "slow":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for start in range(0, len(body), 1 + len(body) // 8):
                self.wfile.write(body[start : start + 1 + len(body) // 8])
                time.sleep(0.1)
        else:
            super()._answer(body, kind)


@pytest.mark.parametrize("kind", ["404", "403", "500", "hanging", "half", "wrong checksum", "slow"])
def test_trouble_with_kaggle(notebook, small_pool, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kagglehub.clients, "DEFAULT_READ_TIMEOUT", 1)
    monkeypatch.setitem(notebook.globals, "draw_dataset", lambda folder: None)
    archive = zip_of(small_pool, tmp_path / "archive.zip").read_bytes()
    handler = type("Handler", (Trouble,), {"archive": archive, "kind": kind})
    with http.server.ThreadingHTTPServer(("localhost", 7777), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if kind != "slow":
            with fails(notebook, "dataset = 'owner/name': "):
                notebook.fetch_dataset("owner/name", tmp_path)
            _, source, missing = notebook.fetch_dataset(DEFAULT, tmp_path)
            assert source == f"drawings instead of {DEFAULT}"
            assert missing
        handler.kind = "" if kind != "slow" else kind
        for handle in ("owner/name", DEFAULT):  # nothing broken was left in the way
            folder, source, missing = notebook.fetch_dataset(handle, tmp_path)
            assert (source, missing) == (f"{handle}/versions/3", "")
            assert tree(folder) == tree(small_pool)
        server.shutdown()


# ---- security


class Malice:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_malicious_checkpoint_is_refused_and_runs_nothing(notebook, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "original.pt"
    for content in ({"key": "k", "state_dict": Malice(mark)}, Malice(mark)):
        torch.save(content, path)
        assert notebook.load_tensors(path, "k") == {}
        notebook.globals.update(results_path=tmp_path, arm_names=["original"])
        with fails(notebook, r"original\.pt: not a network of this notebook"):
            notebook.predict(save_photo(tmp_path / "a.jpg", 1))
    path.write_bytes(pickle.dumps(Malice(mark)))
    assert notebook.load_tensors(path, "k") == {}
    assert not mark.exists()


# ---- training


def loop_cells() -> str:
    """The cells that train all arms and drop those that failed."""
    cells = ["".join(cell["source"]) for cell in read_notebook()["cells"]]
    first = next(i for i, cell in enumerate(cells) if cell.startswith("failed = {}"))
    return "\n".join(cells[first : first + 2])


@pytest.fixture
def arms(notebook, small_pool, tmp_path):
    """Run the loop over two arms; `break_arm` says what befalls the first."""
    notebook.split_dataset(small_pool, tmp_path / "data", 0.5)
    config = SimpleNamespace(repeats=1, seed=1, copies=1, image_size=32, device="cpu", batch_size=4)

    def run(break_arm):
        def train(arm, images, seed, folder):
            if arm == "original":
                break_arm()
            return {"accuracy": 0.5}, [(arm, seed, "a.jpg", "cats", "cats", 0.5)]

        notebook.globals.update(
            arm_names=["original", "augmented"], split_for=lambda _: (tmp_path / "data", []),
            train_or_recall=train, config=config, results_path=tmp_path / "results",
            metrics={"arms": {}}, predictions=[],
        )  # fmt: skip
        exec(loop_cells(), notebook.globals)
        return notebook.globals

    return run


def test_arm_whose_loss_is_no_number_is_given_up_and_the_other_kept(notebook, arms, capsys):
    def diverge():
        raise notebook.TrainingError("the loss of epoch 2 is nan: lower learning_rate (0.1)")

    after = arms(diverge)
    assert after["arm_names"] == ["augmented"]
    line = "original, seed 1: the loss of epoch 2 is nan: lower learning_rate (0.1)"
    assert f"GIVEN UP: {line}\n" in capsys.readouterr().out
    saved = json.loads((after["results_path"] / "metrics.json").read_text())
    assert (list(saved["arms"]), saved["failed"]) == (["augmented"], {"original": line})


def test_want_of_memory_names_the_parameters_to_lower(notebook, arms):
    def exhaust():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with fails(notebook, r"out of memory on cpu: lower batch_size \(4\) or image_size \(32\)"):
        arms(exhaust)
    with pytest.raises(RuntimeError, match="something else"):
        arms(lambda: (_ for _ in ()).throw(RuntimeError("something else")))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_training_stops_when_the_loss_is_no_number(notebook, small_pool, bad):
    loader = notebook.load_dataset(small_pool, 33, 6, shuffle=True)
    model = notebook.initialize_model(2, 0)
    with torch.no_grad():
        model.fc.bias.fill_(bad)
    with pytest.raises(notebook.TrainingError, match="epoch 1 is nan: lower learning_rate"):
        notebook.train_model(model, loader, 3)


def test_a_thousand_classes_are_split_decoded_and_scored(notebook, tmp_path):
    rng, names = np.random.default_rng(0), [f"class {number:03}" for number in range(1000)]
    for name in names:
        (tmp_path / "pool" / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pool" / name / f"{i}.png")
    notebook.split_dataset(tmp_path / "pool", tmp_path / "data")
    assert notebook.count_images(tmp_path / "data" / "train") == dict.fromkeys(names, 4)
    images = notebook.DecodedImages(tmp_path / "data" / "test", 8)
    assert images.labels.tolist() == list(range(1000))
    scores = {"predictions": np.arange(1000) // 2, "probabilities": np.full((1000, 1000), 0.5)}
    rows = notebook.prediction_rows("original", 42, images, scores)
    run = dict.fromkeys(notebook.METRICS, 0.001)
    for interval in notebook.summarize([run], rows, names).values():
        assert 0 <= interval["low"] <= interval["high"] < 0.01


# ---- a notebook opened alone, as on Colab


def first_cell(folder, monkeypatch, requirements):
    """Run the first cell in `folder`, beside these requirements; return what it has pip install."""
    (folder / "data").mkdir()
    for name in ("augment.py", "data/drawings.py"):
        (folder / name).touch()
    (folder / "requirements.txt").write_text(requirements)
    monkeypatch.chdir(folder)
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    exec("".join(code_cells()[0]["source"]), {})
    return calls


PRESENT = "torch>=2\n# why\njupyter\n\nwindows-only; sys_platform == 'win32'\n"


def code_cells():
    return [cell for cell in read_notebook()["cells"] if cell["cell_type"] == "code"]


def test_first_cell_leaves_what_is_installed_alone(tmp_path, monkeypatch):
    assert first_cell(tmp_path, monkeypatch, PRESENT) == []


@pytest.mark.parametrize("line", ["no-such-package>=1", "pillow>=999"])
def test_first_cell_installs_what_is_missing_or_too_old(tmp_path, monkeypatch, line):
    (command,) = first_cell(tmp_path, monkeypatch, PRESENT + line)
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert line in command
    assert "jupyter" not in command  # it would change Colab's own


def test_first_cell_asks_for_the_files_that_are_not_there(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^upload augment.py, data/drawings.py beside"):
        exec("".join(code_cells()[0]["source"]), {})
