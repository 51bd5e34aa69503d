"""augment.py: the copies, their names, their bytes, and what survives a rerun."""

import csv
import functools
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_script, save_photo, saved, tree
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from augment import OPERATIONS, augment_folder, augment_image, main, name_copies
from data.images import InputError, load_image

CLI = [sys.executable, str(ROOT / "augment.py")]
augment_here = functools.partial(augment_folder, workers=1)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def manifest(output):
    with open(output / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names_of(record):
    return [operation["name"] for operation in record]


def test_each_operation_changes_the_image_and_three_different_ones_make_a_copy(tmp_path):
    photo = load_image(save_photo(tmp_path / "photo.png", 7, size=(120, 90)))[1]
    for name in OPERATIONS:
        changed, record = augment_image(photo, random.Random(0), (name,))
        assert (changed.mode, names_of(record)) == ("RGB", [name])
        assert changed.size != photo.size or not np.array_equal(changed, photo), name
    used = [{*names_of(augment_image(photo, random.Random(seed))[1])} for seed in range(60)]
    assert {len(names) for names in used} == {3}
    assert set().union(*used) == set(OPERATIONS)
    assert len(OPERATIONS) == 10


def test_parameters_differ_stay_within_the_contract_and_never_do_nothing():
    draws = []
    for seed in range(200):
        draw = {name: operation(random.Random(seed)) for name, operation in OPERATIONS.items()}
        assert 5 <= abs(draw["rotate"]["degrees"]) <= 30
        assert all(abs(factor - 1) > 0.149 for factor in draw["color_jitter"].values())
        crop, emoji = draw["crop"], draw["overlay_emoji"]
        for start, end in (("x1", "x2"), ("y1", "y2")):
            assert 0 <= crop[start] < crop[start] + 0.698 < crop[end] <= 1
        assert max(emoji["x_pos"], emoji["y_pos"]) + emoji["emoji_size"] <= 1
        draws.append(emoji | draw["random_noise"])
    for key in ("seed", "var", "emoji_path", "emoji_size", "x_pos", "y_pos"):
        assert len({draw[key] for draw in draws}) > 60, key


def test_starts_without_torch_and_works_without_libmagic():
    code = (
        "import sys; sys.modules['pylibmagic'] = sys.modules['magic'] = None\n"
        "import augment, random; from PIL import Image\n"
        "if {'torch', 'augly', 'sklearn'} & set(sys.modules): sys.exit('imported too early')\n"
        "augment.augment_image(Image.new('RGB', (64, 64)), random.Random(1), ('overlay_emoji',))"
    )
    done = run_script("-c", code)
    assert done.returncode == 0, done.stderr


def test_copies_depend_on_seed_and_own_file_alone_not_on_workers_or_other_files(pool, tmp_path):
    before, state, calls = tree(pool), random.getstate(), []
    one, two, few, other = (tmp_path / name for name in ("one", "two", "few", "other"))
    report = augment_here(pool, one, progress=lambda *done: calls.append(done))
    assert (report.images, report.made, report.kept, report.left_out) == (35, 105, 0, [])
    assert calls == [(done, 35) for done in range(1, 36)]
    assert augment_folder(pool, two, workers=2).made == 105
    copies = tree(one)
    names = {f"{name[:-4]}_aug{number}.jpg" for name in before for number in range(3)}
    assert set(copies) == names | {"manifest.csv"}
    assert tree(two) == copies
    assert (tree(pool), random.getstate()) == (before, state)  # the caller's randomness goes on
    for path in pool.glob("*/*_1*"):
        path.unlink()
    augment_here(pool, few)
    (few / "manifest.csv").unlink()
    assert tree(few).items() < copies.items()
    augment_here(pool, other, seed=7)
    assert not tree(other).items() & copies.items()


def test_manifest_rebuilds_the_copies_by_the_recipe_of_earlier_versions(pool, output):
    augment_here(pool, output)
    rows = manifest(output)
    recipe = json.dumps([[row["copy"], row["operations"]] for row in rows]).encode()
    assert hashlib.sha256(recipe).hexdigest()[:16] == "e60f95b7641b56a1"
    for row in rows[::9]:
        content, number = (output / row["copy"]).read_bytes(), row["copy"][-5]
        rng = random.Random(f"1/{row['seed']}/{row['source']}/{number}")
        copy, operations = augment_image(load_image(pool / row["source"])[1], rng)
        assert operations == json.loads(row["operations"])
        comment = Image.open(output / row["copy"]).info["comment"]
        assert saved(copy, "JPEG", quality=95, comment=comment) == content


@pytest.mark.parametrize("size", [(8, 8), (400, 8), (5000, 100)])
def test_copies_of_the_smallest_images_can_be_read_in_their_turn(tmp_path, output, size):
    save_photo(tmp_path / "in" / "cats" / "0.png", 1, size)
    assert augment_here(tmp_path / "in", output, copies=40).made == 40
    assert all(load_image(path) for path in output.glob("cats/*"))


file_names = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=80
).filter(lambda name: len(name.encode()) <= 250 and not name.startswith("."))


@given(names=st.sets(file_names, min_size=1, max_size=30), copies=st.integers(1, 1000))
@example(names={"x", "X", "x.y", "x.png", "x.jpg"}, copies=2)
@settings(max_examples=40, deadline=None)
def test_copies_of_any_names_are_distinct_and_fit_the_file_system(names, copies):
    sources = {Path("a", name + suffix) for name in names for suffix in (".jpg", ".PNG")}
    targets = name_copies([*sources], copies)
    made = [copy for names in targets.values() for copy in names]
    assert set(targets) == sources
    assert len({str(copy).lower() for copy in made}) == len(made) == copies * len(sources)
    assert all(len(os.fsencode(copy.name)) <= 255 for copy in made)


def test_only_the_operations_that_are_named_are_drawn(small_pool, output):
    augment_here(small_pool, output)
    all_ten = ",".join(reversed(OPERATIONS))
    assert augment_here(small_pool, output, operations=all_ten).kept == 36
    assert augment_here(small_pool, output, operations="rotate, blur").made == 36
    for row in manifest(output):
        assert sorted(names_of(json.loads(row["operations"]))) == ["blur", "rotate"]
    assert augment_here(small_pool, output, operations="rotate,blur,rotate").kept == 36
    assert b'"among": ["rotate", "blur"]' in Image.open(output / row["copy"]).info["comment"]
    before = tree(output)
    with pytest.raises(InputError, match=f"operations = x, y: must be of {', '.join(OPERATIONS)}"):
        augment_here(small_pool, output, operations="y,blur,x")
    assert tree(output) == before


def test_rerun_makes_only_what_is_missing_or_out_of_date(small_pool, tmp_path, output):
    augment_here(small_pool, output, copies=2)
    first = tree(output)
    (output / "cats" / "3_aug1.jpg").unlink()
    times = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    report = augment_here(small_pool, output, copies=2)
    assert (report.made, report.kept, tree(output)) == (1, 23, first)
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())
    save_photo(small_pool / "cats" / "0.jpg", 999)
    (small_pool / "cats" / "1.jpg").unlink()
    report = augment_here(small_pool, output, copies=2)
    assert (report.made, report.removed) == (2, 2)
    assert augment_here(small_pool, output, copies=1).removed == 11
    (small_pool / "cats" / "2.jpg").write_bytes(b"no image any more")
    report = augment_here(small_pool, output, copies=1, seed=1)
    assert (report.made, len(report.left_out)) == (10, 1)
    augment_here(small_pool, tmp_path / "fresh", copies=1, seed=1)
    assert tree(output) == tree(tmp_path / "fresh")


def test_files_of_others_survive_and_are_never_overwritten(small_pool, output):
    mine = save_photo(output / "cats" / "holiday_aug7.jpg", 1)
    (output / ".backup.zip.unfinished").write_text("half a backup")
    others = tree(output)
    augment_here(small_pool, output, copies=1)
    assert others.items() < tree(output).items()
    theirs = output / "cats" / "0_aug0.jpg"
    for content in (mine.read_bytes(), b"", theirs.read_bytes()[:200]):
        theirs.write_bytes(content)
        before = tree(output)
        with pytest.raises(InputError, match=r"0_aug0\.jpg was not made by augment\.py: move it"):
            augment_here(small_pool, output, copies=1, seed=3)
        assert tree(output) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups to signal")
@pytest.mark.parametrize("kill", ["SIGKILL", "SIGINT", "SIGINT SIGINT"])
def test_stopped_run_leaves_whole_copies_and_the_next_one_completes_it(
    pool, tmp_path, output, kill
):
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen([*CLI, pool, output, "--copies", "20"], **pipes, start_new_session=True)
    began = time.monotonic()
    while len(list(output.glob("*/*.jpg"))) < 20 and time.monotonic() - began < 60:
        assert run.poll() is None, "the run ended before it could be stopped"
        threading.Event().wait(0.01)
    stopped = time.monotonic()
    for name in kill.split():
        os.killpg(run.pid, getattr(signal, name))
    error = run.communicate(timeout=30)[1]
    if kill == "SIGINT":
        assert time.monotonic() - stopped < 2
        assert run.returncode == 130
        assert error == "augment.py: stopped; run it again to go on where it was\n"
    assert all(load_image(path) for path in output.glob("*/[!.]*.jpg"))
    report = augment_folder(pool, output, copies=20)
    assert report.made > 0
    assert report.kept >= 20
    augment_folder(pool, tmp_path / "undisturbed", copies=20)
    assert tree(output) == tree(tmp_path / "undisturbed")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file size to set")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_full_disk_stops_it_with_one_line_and_it_goes_on_later(
    small_pool, tmp_path, output, workers
):
    import resource

    for seed in range(10):
        save_photo(small_pool / "cats" / f"large{seed}.jpg", seed, size=(400, 400), quality=95)
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (9000, 9000))
    command = [*CLI, small_pool, output, "--workers", workers]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=60)
    (line,) = done.stderr.splitlines()
    assert line.endswith("jpg: cannot be written, File too large")
    assert done.returncode == 2
    assert ".lock" not in tree(output)
    # a process that was ended may leave its hidden draft
    assert all(load_image(path) for path in output.glob("*/[!.]*"))
    augment_here(small_pool, output)
    augment_here(small_pool, tmp_path / "undisturbed")
    assert tree(output) == tree(tmp_path / "undisturbed")


def test_what_is_left_out_is_named_in_one_line_each_and_the_rest_is_done(small_pool, output):
    (small_pool / "cats" / "broken.jpg").write_bytes(b"<html>404</html>")
    save_photo(small_pool / "cats" / "exif.jpg", 1, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    for name in ("bees", "line\nbreak"):
        (small_pool / name).mkdir()
        (small_pool / name / "a.heic").write_bytes(b"x")
    done = run_script("augment.py", small_pool, output, "--copies", 1)
    lines = ["bees: no image in it", "cats/broken.jpg: left out, not an image"]
    lines = [f"augment.py: {small_pool}/{line}" for line in [*lines, "line break: no image in it"]]
    assert sorted(done.stderr.splitlines()) == lines  # and no warnings
    assert done.returncode == 1
    assert "13 images read, 13 copies made, 0 kept, 0 stale removed, 3 images left" in done.stdout


def test_what_cannot_be_done_is_one_line_and_exit_code_2(small_pool, tmp_path, output, capsys):
    (tmp_path / "file").write_text("no folder")
    for arguments in (
        [tmp_path / "nowhere", output], [small_pool / "cats", output],
        [small_pool, tmp_path / "file" / "out"], [small_pool, small_pool / "cats" / "out"],
        [small_pool / "cats", small_pool], [small_pool, output, "--copies", 0],
        [small_pool, output, "--workers", 0], [small_pool, output, "--operations", "sharpen,draw"],
    ):  # fmt: skip
        assert main([*map(str, arguments)]) == 2, arguments
        printed, line = capsys.readouterr()
        assert (printed, line.count("\n"), line[:12]) == ("", 1, "augment.py: ")
    assert not [*tmp_path.rglob("out")]


def test_process_that_is_ended_from_outside_is_one_line(small_pool, output, monkeypatch):
    monkeypatch.setattr("augment.augment_file", lambda *_: os.kill(os.getpid(), 9))
    with pytest.raises(InputError, match="a process was ended from outside"):
        augment_folder(small_pool, output, workers=2)
