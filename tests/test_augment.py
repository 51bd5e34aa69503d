"""augment.py: the copies, their names, their bytes, and what survives a rerun."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, save_photo, tree
from PIL import Image

from augment import OPERATIONS, augment_folder, augment_image, find_images, read_image


def run_script(*arguments, **options):
    command = [sys.executable, str(ROOT / "augment.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def manifest(output):
    with open(output / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def photo(tmp_path):
    return read_image(save_photo(tmp_path / "photo.png", 7, size=(120, 90)))


# ---- operations


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_changes_the_image_and_leaves_it_rgb(name, photo, monkeypatch):
    only_this = {name: OPERATIONS[name]} | {f"unused_{i}": None for i in range(2)}
    monkeypatch.setattr("augment.OPERATIONS", only_this)
    monkeypatch.setattr(random.Random, "sample", lambda self, names, count: [name])
    changed, record = augment_image(photo, random.Random(0))
    assert changed.mode == "RGB"
    assert record[0]["name"] == name
    assert changed.size != photo.size or not np.array_equal(changed, photo)


def test_every_copy_has_three_different_operations_and_all_ten_are_used(photo):
    used = [
        [operation["name"] for operation in augment_image(photo, random.Random(i))[1]]
        for i in range(60)
    ]
    assert len(OPERATIONS) == 10
    assert all(len(set(names)) == 3 for names in used)
    assert {name for names in used for name in names} == set(OPERATIONS)


def test_parameters_stay_within_the_contract_and_never_do_nothing():
    for seed in range(200):
        draw = {name: operation(random.Random(seed)) for name, operation in OPERATIONS.items()}
        assert 5 <= abs(draw["rotate"]["degrees"]) <= 30
        assert all(abs(factor - 1) > 0.149 for factor in draw["color_jitter"].values())
        crop = draw["crop"]
        assert 0 <= crop["x1"] < crop["x2"] <= 1
        assert 0 <= crop["y1"] < crop["y2"] <= 1
        assert min(crop["x2"] - crop["x1"], crop["y2"] - crop["y1"]) > 0.698
        emoji = draw["overlay_emoji"]
        assert max(emoji["x_pos"], emoji["y_pos"]) + emoji["emoji_size"] <= 1


def test_noise_and_emoji_differ_from_image_to_image():
    draws = [random.Random(i) for i in range(50)]
    assert len({OPERATIONS["random_noise"](rng)["seed"] for rng in draws}) == 50
    emojis = [OPERATIONS["overlay_emoji"](rng) for rng in draws]
    for key in ("emoji_path", "emoji_size", "x_pos", "y_pos"):
        assert len({emoji[key] for emoji in emojis}) > 25


def test_works_without_libmagic():
    code = (
        "import sys; sys.modules['pylibmagic'] = sys.modules['magic'] = None\n"
        "import augment, random; from PIL import Image\n"
        "augment.imaugs.overlay_emoji(Image.new('RGB', (64, 64)),"
        " **augment.OPERATIONS['overlay_emoji'](random.Random(1)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_starts_without_torch():
    code = "import augment, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ---- a folder


def test_makes_exactly_n_copies_of_each_image_and_never_touches_the_source(pool, tmp_path):
    before = tree(pool)
    report = augment_folder(pool, tmp_path / "out", copies=2)
    assert (report.images, report.made, report.kept, report.left_out) == (35, 70, 0, [])
    expected = {
        f"{path.parent.name}/{path.stem}_aug{i}.jpg" for path in pool.glob("*/*") for i in range(2)
    }
    assert set(tree(tmp_path / "out")) == expected | {"manifest.csv"}
    assert tree(pool) == before


def test_bytes_do_not_depend_on_workers_or_shards(pool, tmp_path):
    one, two, shards = tmp_path / "one", tmp_path / "two", tmp_path / "shards"
    augment_folder(pool, one, workers=1)
    augment_folder(pool, two, workers=2)
    made = [augment_folder(pool, shards, shard=f"{i}/3").made for i in (1, 2, 3)]
    assert sum(made) == 105
    assert tree(one) == tree(two) == tree(shards)


def test_bytes_do_not_depend_on_the_other_files(pool, tmp_path):
    augment_folder(pool, tmp_path / "all")
    for path in pool.glob("*/*_1*"):
        path.unlink()
    augment_folder(pool, tmp_path / "few")
    few = {name: data for name, data in tree(tmp_path / "few").items() if name != "manifest.csv"}
    assert few
    assert few.items() <= tree(tmp_path / "all").items()


def test_another_seed_gives_other_copies(pool, tmp_path):
    augment_folder(pool, tmp_path / "a", copies=1, seed=1)
    augment_folder(pool, tmp_path / "b", copies=1, seed=2)
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert a.keys() == b.keys()
    assert all(a[name] != b[name] for name in a)


def test_images_with_the_same_stem_all_get_their_copies(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    names = ["x.jpg", "x.png", "x.y.jpg", "X.JPG", "x.png.jpg", "sub/x.jpg"]
    for seed, name in enumerate(names):
        save_photo(source / "cats" / name, seed)
    report = augment_folder(source, output, copies=2)
    assert report.made == 2 * len(names)
    assert len({name.lower() for name in tree(output)}) == 2 * len(names) + 1
    sources = [row["source"] for row in manifest(output)]
    assert sorted(sources) == sorted(f"cats/{name}" for name in names for _ in range(2))


def test_manifest_replays_to_the_same_image(pool, tmp_path):
    augment_folder(pool, tmp_path / "out", copies=1, seed=5)
    rows = manifest(tmp_path / "out")
    assert [row["copy"] for row in rows] == sorted(row["copy"] for row in rows)
    row = rows[3]
    again, operations = augment_image(
        read_image(pool / row["source"]), random.Random(f"1/5/{row['source']}/0")
    )
    assert operations == json.loads(row["operations"])
    saved = np.asarray(Image.open(tmp_path / "out" / row["copy"])).astype(int)
    assert np.abs(saved - np.asarray(again)).mean() < 4  # JPEG at quality 95


# ---- reruns


def test_rerun_makes_only_what_is_missing_or_out_of_date(pool, tmp_path):
    output = tmp_path / "out"
    augment_folder(pool, output)
    first = tree(output)
    (output / "cats" / "cat_03_aug1.jpg").unlink()
    os.truncate(output / "dogs" / "dog_02_aug0.jpg", 0)
    times = {path: path.stat().st_mtime_ns for path in output.glob("cats/*")}
    os.truncate(output / "dogs" / "dog_02_aug0.jpg", 0)
    with pytest.raises(ValueError, match=r"dog_02_aug0\.jpg was not made by augment\.py"):
        augment_folder(pool, output)
    (output / "dogs" / "dog_02_aug0.jpg").unlink()
    report = augment_folder(pool, output)
    assert (report.made, report.kept) == (2, 103)
    assert tree(output) == first
    assert all(path.stat().st_mtime_ns == times[path] for path in times)


def test_rerun_follows_changed_sources_seeds_and_copies(pool, tmp_path):
    output = tmp_path / "out"
    augment_folder(pool, output, copies=2)
    save_photo(pool / "cats" / "cat_00.jpg", 999)
    assert augment_folder(pool, output, copies=2).made == 2
    (pool / "cats" / "cat_01.jpg").unlink()
    report = augment_folder(pool, output, copies=2)
    assert (report.made, report.removed) == (0, 2)
    assert augment_folder(pool, output, copies=1).removed == 34
    assert augment_folder(pool, output, copies=1, seed=1).made == 34
    augment_folder(pool, tmp_path / "fresh", copies=1, seed=1)
    assert tree(output) == tree(tmp_path / "fresh")


def test_files_of_others_survive_and_are_never_overwritten(pool, tmp_path):
    output = tmp_path / "out"
    mine = save_photo(output / "cats" / "holiday_aug7.jpg", 1)
    download = output / ".backup.zip.partial"
    download.write_text("half a backup")
    augment_folder(pool, output, copies=1)
    assert mine.exists()
    assert download.exists()
    theirs = save_photo(output / "cats" / "cat_00_aug0.jpg", 2)
    before = theirs.read_bytes()
    with pytest.raises(ValueError, match=r"cat_00_aug0\.jpg was not made by"):
        augment_folder(pool, output, copies=1, seed=3)
    assert theirs.read_bytes() == before


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_run_leaves_no_broken_image_and_the_next_one_completes_it(pool, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, str(ROOT / "augment.py"), str(pool), str(output), "--copies", "30"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(output.glob("*/*.jpg"))) < 20 and time.monotonic() < deadline:
        assert run.poll() is None, "the run ended before it could be killed"
    run.kill()
    run.wait()
    for path in output.glob("*/[!.]*.jpg"):
        read_image(path)
    report = augment_folder(pool, output, copies=30)
    assert report.made > 0
    assert report.kept > 0
    augment_folder(pool, tmp_path / "undisturbed", copies=30)
    assert tree(output) == tree(tmp_path / "undisturbed")


# ---- trouble


def test_unreadable_image_is_named_and_the_others_are_done(pool, tmp_path):
    (pool / "cats" / "broken.jpg").write_bytes(b"<html>404</html>")
    save_photo(pool / "cats" / "exif.jpg", 1, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    done = run_script(pool, tmp_path / "out", "--copies", 1)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()  # and no warnings
    assert line.endswith("broken.jpg: left out, not an image")
    assert "36 images read, 36 copies made" in done.stdout
    assert "1 images left out" in done.stdout


def test_exit_codes(pool, tmp_path):
    assert run_script(pool, tmp_path / "out", "--copies", 1).returncode == 0
    for arguments in (
        [tmp_path / "nowhere", tmp_path / "x"],
        [pool, tmp_path / "x", "--copies", 0],
        [pool, tmp_path / "x", "--copies", "many"],
        [pool, tmp_path / "x", "--workers", 0],
        [pool, tmp_path / "x", "--shard", "3/2"],
        [pool, tmp_path / "x", "--shard", "half"],
        [pool, pool / "cats" / "out"],
        [pool / "cats", pool],
    ):
        done = run_script(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_hidden_folders_and_other_files_are_no_part_of_the_data(pool):
    save_photo(pool / ".ipynb_checkpoints" / "a.jpg", 1)
    save_photo(pool / "__MACOSX" / "a.jpg", 2)
    save_photo(pool / "cats" / ".hidden" / "a.jpg", 3)
    save_photo(pool / "cats" / "._a.jpg", 4, format="JPEG")
    (pool / "cats" / "notes.txt").write_text("not an image")
    found = find_images(pool)
    assert {name: len(files) for name, files in found.items()} == {"cats": 20, "dogs": 15}


def test_images_are_read_upright_and_transparency_becomes_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees
    path = save_photo(tmp_path / "turned.jpg", 1, size=(40, 20), exif=exif)
    assert read_image(path).size == (20, 40)
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_images_keep_their_greys(tmp_path):
    greys = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(greys).save(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "deep.png"))[..., 0], greys >> 8)
