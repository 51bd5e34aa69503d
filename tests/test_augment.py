"""augment.py: the copies, their names, their bytes, and what survives a rerun."""

import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import distributed
import joblib
import numpy as np
import pytest
from conftest import CLI, ROOT, fails, make_pool, run_script, save_photo, saved, tree, wait_for
from PIL import Image

import data.workers
from augment import (
    OPERATIONS,
    SOURCE_CODE,
    augment_folder,
    augment_image,
    describe_operations,
    describe_values,
    main,
)
from data.images import load_image
from data.workers import find_modules, processes

# Seconds until a test is taken to hang, on the slowest of machines.
HANGING = 900
augment_here = functools.partial(augment_folder, workers=1)
on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither to set")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def manifest(output):
    with open(output / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names_of(record):
    return {operation["name"] for operation in record}


def complete(source, output, **options):
    """Run it again after a stop: what is there was whole, and the end is as if undisturbed."""
    # a hidden draft may be left
    for path in output.glob("*/[!.]*"):
        assert load_image(path)
    report = augment_folder(source, output, **options)
    undisturbed = output.with_name("undisturbed")
    augment_folder(source, undisturbed, **options)
    assert tree(output) == tree(undisturbed)
    return report


def test_each_operation_changes_the_image_and_three_make_a_copy(tmp_path):
    file = save_photo(tmp_path / "photo.png", 7, size=(120, 90))
    photo = load_image(file)[1]
    assert len(OPERATIONS) == 10
    for name in OPERATIONS:
        changed, record = augment_image(photo, random.Random(0), (name,))
        assert changed.mode == "RGB"
        assert names_of(record) == {name}
        assert changed.size != photo.size or not np.array_equal(changed, photo), name
    used = set()
    for seed in range(60):
        record = augment_image(photo, random.Random(seed))[1]
        assert len(names_of(record)) == 3
        used |= names_of(record)
    assert used == set(OPERATIONS)


def test_parameters_stay_within_limits_that_change_something_and_vary():
    drawn = {name: [] for name in OPERATIONS}
    for seed in range(200):
        for name, draw in OPERATIONS.items():
            drawn[name].append(draw(random.Random(seed)))
    for parameters in drawn["rotate"]:
        assert 5 <= abs(parameters["degrees"]) <= 30
    for parameters in drawn["color_jitter"]:
        assert all(abs(factor - 1) > 0.149 for factor in parameters.values())
    for box in drawn["crop"]:
        assert 0 <= box["x1"] < box["x1"] + 0.698 < box["x2"] <= 1
        assert 0 <= box["y1"] < box["y1"] + 0.698 < box["y2"] <= 1
    for emoji in drawn["overlay_emoji"]:
        assert max(emoji["x_pos"], emoji["y_pos"]) + emoji["emoji_size"] <= 1
    for name in ("overlay_emoji", "random_noise"):
        for parameter in drawn[name][0]:
            assert len({parameters[parameter] for parameters in drawn[name]}) > 60


def test_a_table_tells_what_each_operation_does_and_how_strong_it_is(monkeypatch):
    rows = describe_operations()
    strengths = {row["operation"]: row["strength"] for row in rows}
    assert list(strengths) == list(OPERATIONS)
    assert all(row["does"] for row in rows)
    assert strengths["rotate"] == "degrees: −30 … −5 or 5 … 30"
    assert strengths["hflip"] == "always"
    assert "contrast_factor: 0.6 … 0.85 or 1.15 … 1.4" in strengths["color_jitter"]
    assert strengths["random_noise"] == "var: 0.002 … 0.01; seed: another one each time"
    assert " different ones in 1000 draws; emoji_size: 0.12 … 0.3" in strengths["overlay_emoji"]
    assert rows == describe_operations()

    monkeypatch.setitem(OPERATIONS, "rotate", lambda rng: {"degrees": rng.uniform(40, 60)})
    monkeypatch.setitem(OPERATIONS, "opacity", lambda rng: {"level": 0.5})
    edited = {row["operation"]: row["strength"] for row in describe_operations()}
    assert edited["rotate"] == "degrees: 40 … 60"
    assert edited["opacity"] == "level: 0.5"


def test_what_is_drawn_is_told_in_words():
    assert describe_values("level", [3, 3, 3]) == "level: 3"
    evenly = [0.5 + number / 1000 for number in range(501)]
    assert describe_values("level", evenly) == "level: 0.5 … 1"
    assert describe_values("level", evenly[:201] + evenly[-201:]) == "level: 0.5 … 0.7 or 0.8 … 1"
    assert describe_values("mode", ["a", "b", "a"]) == "mode: 2 different ones in 3 draws"


def test_starts_without_torch_and_works_without_libmagic():
    code = """
import sys
sys.modules["pylibmagic"] = sys.modules["magic"] = None
import augment
if {"torch", "augly", "sklearn"} & set(sys.modules):
    sys.exit("imported too early")

import random
from PIL import Image
augment.augment_image(Image.new("RGB", (64, 64)), random.Random(1), ("overlay_emoji",))
"""
    done = run_script("-c", code)
    assert done.returncode == 0, done.stderr


def test_copies_depend_on_seed_and_own_file_alone_not_on_workers_or_other_files(pool, tmp_path):
    photos = tree(pool)
    calls = []
    one = tmp_path / "one"
    report = augment_here(pool, one, progress=lambda done, total: calls.append((done, total)))
    assert (report.images, report.made, report.kept) == (35, 105, 0)
    assert report.left_out == []
    assert calls == [(done, 35) for done in range(1, 36)]
    assert tree(pool) == photos
    copies = tree(one)
    names = {f"{name[:-4]}_aug{number}.jpg" for name in photos for number in range(3)}
    assert set(copies) == names | {"manifest.csv", ".maker"}

    two = tmp_path / "two"
    assert augment_folder(pool, two, workers=2).made == 105
    assert tree(two) == copies

    for path in pool.glob("*/*_1*"):
        path.unlink()
    few = tmp_path / "few"
    augment_here(pool, few)
    (few / "manifest.csv").unlink()
    (few / ".maker").unlink()
    assert tree(few).items() < copies.items()

    other = tmp_path / "other"
    augment_here(pool, other, seed=7)
    (other / ".maker").unlink()
    assert not tree(other).items() & copies.items()


def test_copies_are_those_of_earlier_versions_and_the_manifest_tells_how_to_make_them(pool, output):
    augment_here(pool, output)
    rows = manifest(output)
    recipe = json.dumps([[row["copy"], row["operations"]] for row in rows]).encode()
    assert hashlib.sha256(recipe).hexdigest()[:16] == "e60f95b7641b56a1"
    for row in rows[::9]:
        number = row["copy"][-5]
        rng = random.Random(f"1/{row['seed']}/{row['source']}/{number}")
        photo = load_image(pool / row["source"])[1]
        copy, operations = augment_image(photo, rng)
        assert operations == json.loads(row["operations"])
        file = output / row["copy"]
        comment = Image.open(file).info["comment"]
        assert saved(copy, "JPEG", quality=95, comment=comment) == file.read_bytes()


def test_the_callers_own_random_numbers_go_on_as_if_no_copy_had_been_made():
    code = """
import random
import numpy as np
from PIL import Image
import augment

image = Image.new("RGB", (64, 64), "grey")
random.seed(1)
np.random.seed(1)
if DO:
    augment.augment_image(image, random.Random(1), ("random_noise", "overlay_emoji"))
print(random.random(), np.random.random())
"""
    # in processes of their own: AugLy draws random numbers when it is imported, too
    with_copy = run_script("-c", code.replace("DO", "True"))
    without = run_script("-c", code.replace("DO", "False"))
    assert with_copy.stdout == without.stdout != ""


def test_copies_of_any_names_are_distinct_fit_the_file_system_and_can_be_read(tmp_path, output):
    names = ["x.jpg", "x.png", "x.y.jpg", "X.JPG", "x.png.jpg", "x_aug0.jpg", "sub/x.jpg"]
    names += ["y" * 250 + ".jpg", "é" * 125 + ".jpg", "é" * 125 + ".png", "y" * 249 + "z.png"]
    for seed, name in enumerate(names):
        # the narrowest that is allowed
        save_photo(tmp_path / "in" / "cats" / name, seed, size=(400, 8))
    augment_here(tmp_path / "in", output, copies=11)
    made = [row["copy"] for row in manifest(output)]
    assert sorted(tree(output)) == sorted([*made, "manifest.csv", ".maker"])
    assert len(made) == 11 * len(names)
    assert len({name.lower() for name in made}) == len(made)
    for name in made:
        assert load_image(output / name)


def test_only_the_operations_that_are_named_are_drawn(small_pool, output):
    augment_here(small_pool, output)
    all_of_them = ",".join(reversed(OPERATIONS))
    assert augment_here(small_pool, output, operations=all_of_them).kept == 36
    assert augment_here(small_pool, output, operations="rotate, blur").kept == 0
    for row in manifest(output):
        assert names_of(json.loads(row["operations"])) == {"blur", "rotate"}
    assert augment_here(small_pool, output, operations="rotate,blur,rotate").kept == 36
    with Image.open(output / "cats" / "0_aug0.jpg") as copy:
        assert b'"among": ["rotate", "blur"]' in copy.info["comment"]


def test_copies_of_a_photo_differ_however_few_operations_there_are(small_pool, output):
    augment_here(small_pool, output, copies=4, operations="hflip,vflip,grayscale,blur")
    pictures = {}
    for row in manifest(output):
        pixels = load_image(output / row["copy"])[1].tobytes()
        pictures.setdefault(row["source"], set()).add(pixels)
        assert len(names_of(json.loads(row["operations"]))) == 3
    assert {len(different) for different in pictures.values()} == {4}


@pytest.mark.parametrize("operations", ["hflip", "grayscale,vflip,hflip"])
def test_more_copies_than_can_differ_are_one_line(small_pool, output, operations):
    with fails(r"^operations = .*: only 1 of the copies of a photo would differ; set copies to 1"):
        augment_here(small_pool, output, copies=2, operations=operations)
    assert not output.exists()
    assert augment_here(small_pool, output, copies=1, operations=operations).made == 12


def test_an_edit_of_what_makes_the_copies_makes_them_anew_and_a_comment_does_not(
    small_pool, output, tmp_path
):
    script = copy_project(tmp_path / "project") / "augment.py"

    def run_after(edit=""):
        with open(script, "a", encoding="utf-8") as file:
            file.write(edit)
        command = [sys.executable, script, small_pool, output, "--copies", "1", "--workers", "1"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "12 copies made, 0 kept, 0 stale removed" in run_after()
    before = tree(output)
    harmless = '# a comment\nMEANINGS["blur"] = "less to see"\n'
    assert "0 copies made, 12 kept, 0 stale removed" in run_after(harmless)
    assert tree(output) == before
    strength = 'OPERATIONS["crop"] = lambda rng: {"x1": 0.4, "y1": 0.4, "x2": 0.6, "y2": 0.6}\n'
    assert "12 copies made, 0 kept, 12 stale removed" in run_after(strength)
    records = [row["operations"] for row in manifest(output)]
    assert any('{"name": "crop", "x1": 0.4, "y1": 0.4, ' in record for record in records)


def test_an_edit_under_a_running_kernel_is_one_line(small_pool, output, monkeypatch):
    before_a_comment = SOURCE_CODE + "# a comment\n"
    monkeypatch.setattr("augment.SOURCE_CODE", before_a_comment)
    assert augment_here(small_pool, output, copies=1).made == 12
    before_an_edit = SOURCE_CODE + 'OPERATIONS["hflip"] = None\n'
    monkeypatch.setattr("augment.SOURCE_CODE", before_an_edit)
    with fails(r"augment\.py was edited while it was in use: restart the kernel"):
        augment_here(small_pool, output, copies=1)


def copy_project(folder):
    """Copy what augment.py needs; return the folder."""
    (folder / "data").mkdir(parents=True)
    for file in [ROOT / "augment.py", *ROOT.glob("data/*.py")]:
        shutil.copy(file, folder / file.relative_to(ROOT))
    return folder


def test_of_two_copies_of_the_project_side_by_side_each_runs_its_own_code(small_pool, output):
    folder = output.parent
    other = copy_project(folder / "a")
    script = copy_project(folder / "b") / "augment.py"
    with open(script, "a", encoding="utf-8") as file:
        file.write('OPERATIONS["blur"] = lambda rng: {"radius": 1.25}\n')
    command = [sys.executable, "b/augment.py", small_pool, output, "--operations", "blur"]
    options = ["--copies", "1", "--workers", "2"]
    environ = os.environ | {"PYTHONPATH": str(other)}
    subprocess.run([*command, *options], cwd=folder, env=environ, check=True)
    records = {row["operations"] for row in manifest(output)}
    assert records == {'[{"name": "blur", "radius": 1.25}]'}


@pytest.mark.parametrize("package", ["augly", "pillow"])
def test_another_version_of_what_makes_the_copies_makes_them_anew(
    small_pool, output, package, monkeypatch
):
    augment_here(small_pool, output, copies=1)
    first = tree(output)
    versions = {"augly": "1.0", "pillow": "11.0"} | {package: "99.0"}
    monkeypatch.setattr("augment.version", versions.get)
    assert augment_here(small_pool, output, copies=1).made == 12
    assert augment_here(small_pool, output, copies=1).kept == 12
    monkeypatch.undo()
    assert augment_here(small_pool, output, copies=1).made == 12
    assert tree(output) == first


def test_copies_whose_maker_is_not_known_are_made_anew(small_pool, output):
    augment_here(small_pool, output, copies=1)
    first = tree(output)
    (output / ".maker").unlink()
    assert augment_here(small_pool, output, copies=1).made == 12
    assert tree(output) == first


def test_a_stop_while_copies_are_made_anew_costs_none_of_the_new_ones(small_pool, output):
    augment_here(small_pool, output, copies=1)
    first = tree(output)
    (output / ".maker").write_text("another one")

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        augment_here(small_pool, output, copies=1, progress=stop)
    report = augment_here(small_pool, output, copies=1)
    assert report.kept >= 5
    assert tree(output) == first


def test_without_augly_it_is_one_line_and_the_copies_stay(small_pool, output, monkeypatch):
    augment_here(small_pool, output, copies=1)
    first = tree(output)

    def find_none(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr("augment.version", find_none)
    with fails("augly is not installed: pip install augly"):
        augment_here(small_pool, output, copies=1)
    assert tree(output) == first


def test_the_longest_side_of_the_copies_can_be_chosen_and_another_one_makes_them_anew(
    small_pool, tmp_path, output
):
    save_photo(small_pool / "cats" / "large.jpg", 99, size=(600, 300))
    default = augment_here(small_pool, output, copies=2)
    first = tree(output)
    assert augment_here(small_pool, output, copies=2, side=512).kept == default.made == 26
    assert tree(output) == first

    assert augment_here(small_pool, output, copies=2, side=64).made == 26
    sides = [max(load_image(path)[1].size) for path in output.glob("cats/large_aug*.jpg")]
    assert max(sides) <= 64
    with Image.open(output / "cats" / "large_aug0.jpg") as copy:
        assert b'"recipe": 1, "side": 64, ' in copy.info["comment"]
    done = run_script("augment.py", small_pool, output, "--copies", 2, "--side", 64)
    assert "0 copies made, 26 kept" in done.stdout

    augment_here(small_pool, output, copies=2)
    assert tree(output) == first


def test_rerun_makes_only_what_is_missing_or_out_of_date(small_pool, output):
    augment_here(small_pool, output, copies=2)
    first = tree(output)
    cats = small_pool / "cats"

    (output / "cats" / "3_aug1.jpg").unlink()
    times = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    report = augment_here(small_pool, output, copies=2)
    assert (report.made, report.kept) == (1, 23)
    assert tree(output) == first
    assert times == {path: path.stat().st_mtime_ns for path in times}

    save_photo(cats / "0.jpg", 999)
    (cats / "1.jpg").unlink()
    report = augment_here(small_pool, output, copies=2)
    assert (report.made, report.removed) == (2, 2)
    assert augment_here(small_pool, output, copies=1).removed == 11

    (cats / "2.jpg").write_bytes(b"no image any more")
    report = complete(small_pool, output, copies=1, seed=1)
    assert (report.made, len(report.left_out)) == (10, 1)


def test_files_of_others_survive_and_are_never_overwritten(small_pool, output):
    mine = save_photo(output / "cats" / "holiday_aug7.jpg", 1)
    (output / ".backup.zip.unfinished").write_text("half a backup")
    others = tree(output)
    augment_here(small_pool, output, copies=1)
    assert others.items() < tree(output).items()

    in_the_way = output / "cats" / "0_aug0.jpg"
    half_a_copy = in_the_way.read_bytes()[:200]
    for content in (mine.read_bytes(), b"", half_a_copy):
        in_the_way.write_bytes(content)
        before = tree(output)
        with fails(r"0_aug0\.jpg was not made by augment\.py: move it"):
            augment_here(small_pool, output, copies=1, seed=3)
        assert tree(output) == before


@on_posix
@pytest.mark.parametrize("kill", ["SIGKILL", "SIGINT", "SIGINT SIGINT"])
def test_stopped_run_leaves_whole_copies_and_the_next_one_completes_it(pool, output, kill):
    run = subprocess.Popen(
        [*CLI, pool, output, "--copies", "20"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: len(list(output.glob("*/*.jpg"))) >= 20)
    for name in kill.split():
        os.killpg(run.pid, getattr(signal, name))
    error = run.communicate(timeout=HANGING)[1]
    if kill == "SIGINT":
        assert run.returncode == 130
        assert error == "augment.py: stopped; run it again to go on where it was\n"
    report = complete(pool, output, copies=20)
    assert report.made > 0
    assert report.kept >= 20


@on_posix
@pytest.mark.parametrize("workers", ["1", "2"])
def test_full_disk_stops_it_with_one_line_and_it_goes_on_later(small_pool, output, workers):
    import resource

    for seed in range(10):
        file = small_pool / "cats" / f"large{seed}.jpg"
        save_photo(file, seed, size=(400, 400), quality=95)
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (9000, 9000))
    done = subprocess.run(
        [*CLI, small_pool, output, "--workers", workers],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=HANGING,
    )
    (line,) = done.stderr.splitlines()
    assert line.endswith("jpg: cannot be written, File too large")
    assert done.returncode == 2
    complete(small_pool, output)


@on_posix
def test_ctrl_c_does_not_reach_workers_that_still_start_but_the_one_who_waits():
    with processes(2):
        mask = joblib.delayed(signal.pthread_sigmask)(signal.SIG_BLOCK, [])
        assert all(signal.SIGINT in held for held in joblib.Parallel()([mask, mask]))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(lambda: None)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_without_semaphores_the_copies_are_made_in_one_process(small_pool, output):
    code = f"""
import _multiprocessing

class SemLock(_multiprocessing.SemLock):
    def __new__(cls, *arguments, **options):
        raise OSError(30, "Read-only file system")

_multiprocessing.SemLock = SemLock
import augment
augment.main([{str(small_pool)!r}, {str(output)!r}, "--workers", "2"])
"""
    done = run_script("-c", code)
    assert done.stdout.startswith("12 images read, 36 copies made"), done.stderr


@on_posix
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_it_runs_where_there_is_nothing_to_print_to(small_pool, output, closed):
    command = [*CLI, small_pool, output, "--workers", "2"]
    subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], check=True)
    assert len(manifest(output)) == 36
    assert all(load_image(path) for path in output.glob("*/*.jpg"))


def test_what_is_left_out_is_named_in_one_line_each_and_the_rest_is_done(small_pool, output):
    (small_pool / "cats" / "broken.jpg").write_bytes(b"<html>404</html>")
    save_photo(small_pool / "cats" / "exif.jpg", 1, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    for name in ("bees", "line\nbreak"):
        (small_pool / name).mkdir()
        (small_pool / name / "a.raw").write_bytes(b"x")
    (small_pool / "cats" / "list.TXT").write_text("no photo")
    (small_pool / "cats" / ".hidden").write_text("nobody's")
    done = run_script("augment.py", small_pool, output, "--copies", 1)
    # and no warnings
    assert sorted(done.stderr.splitlines()) == [
        f"augment.py: {small_pool}/bees: no image in it",
        f"augment.py: {small_pool}/cats/broken.jpg: left out, not an image",
        f"augment.py: {small_pool}/line break: no image in it",
        "augment.py: 1 file .txt, which cannot be read here: convert it if it is a photo",
        "augment.py: 2 files .raw, which cannot be read here: convert them if they are photos",
    ]
    assert done.returncode == 1
    assert "13 images read, 13 copies made, 0 kept, 0 stale removed, 1 image left" in done.stdout


def test_files_that_are_no_images_are_named_and_do_not_make_it_fail(small_pool, output):
    (small_pool / "dogs" / "notes.doc").write_text("no photo")
    done = run_script("augment.py", small_pool, output, "--copies", 1)
    assert done.stderr.startswith("augment.py: 1 file .doc, which cannot be read here: ")
    assert done.returncode == 0
    for file in small_pool.glob("*/*.jpg"):
        file.rename(file.with_suffix(".raw"))
    with fails("no image in any class folder; 12 files .raw, .*: convert them .*; 1 file .doc, "):
        augment_here(small_pool, output)


def test_of_many_kinds_of_files_only_the_commonest_are_named_one_by_one(small_pool, output):
    for number in range(8):
        (small_pool / "cats" / f"backup.{number}").write_text("no photo")
    (small_pool / "dogs" / "backup.7").write_text("no photo")
    report = augment_here(small_pool, output, copies=1)
    assert len(report.others) == 6
    assert report.others[0].startswith("2 files .7, ")
    assert report.others[-1] == "3 files with other endings, which cannot be read here, either"


def test_what_cannot_be_done_is_one_line_and_exit_code_2(small_pool, output, capsys, monkeypatch):
    cats, file = small_pool / "cats", save_photo(output.with_name("photo.jpg"), 1)
    for arguments in (
        [file / "nowhere", output],
        [cats, output],
        [small_pool, file / "out"],
        [small_pool, cats / "out"],
        [cats, small_pool],
        [small_pool, output, "--copies", 0],
        [small_pool, output, "--workers", 0],
        [small_pool, output, "--side", 31],
        [small_pool, output, "--operations", "sharpen,draw"],
    ):
        assert main([*map(str, arguments)]) == 2, arguments
        printed, line = capsys.readouterr()
        assert (printed, line.count("\n"), line[:12]) == ("", 1, "augment.py: ")
    assert line.endswith(f"operations = draw: must be of {', '.join(OPERATIONS)}\n")
    assert not [*output.parent.rglob("out")]
    monkeypatch.setattr("augment.augment_file", lambda **_: os.kill(os.getpid(), 9))
    with fails("a process was ended from outside"):
        augment_folder(small_pool, output, workers=2)


def begin(stack, folder, *arguments):
    """Start `dask ARGUMENTS` where our code is not on its path; it ends with the stack."""
    command = [sys.executable, "-m", "dask", *map(str, arguments)]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--no-dashboard"],
        cwd=folder,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def start(stack, folder, workers, threads=1):
    """Start a scheduler on a free port, and workers; return its address and the processes."""
    file = folder / "scheduler.json"
    processes = [begin(stack, folder, "scheduler", "--port", "0", "--scheduler-file", file)]
    written = wait_for(lambda: file.exists() and file.read_text())
    address = json.loads(written)["address"]
    for _ in range(workers):
        worker = begin(stack, folder, "worker", address, "--nthreads", threads, "--no-nanny")
        processes.append(worker)
    with distributed.Client(address, timeout=HANGING) as client:
        if workers:
            client.wait_for_workers(workers, timeout=HANGING)
    return address, *processes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster of two workers."""
    with contextlib.ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("cluster"), 2)[0]


def test_cluster_gives_the_same_bytes_and_makes_only_what_is_missing(cluster, pool, tmp_path):
    (pool / "cats" / "broken.jpg").write_bytes(b"<html>")
    here = tmp_path / "here"
    there = tmp_path / "there"
    expected = augment_folder(pool, here)
    report = augment_folder(pool, there, scheduler=cluster)
    assert report.images == expected.images
    assert report.left_out == expected.left_out
    assert tree(there) == tree(here)

    (there / "cats" / "cat_03_aug1.jpg").unlink()
    assert augment_folder(pool, there, scheduler=cluster).made == 1

    augment_folder(pool, here, operations="blur,rotate")
    command = [*CLI, "pool", "there", "--operations", "blur,rotate", "--scheduler", cluster]
    # paths below where it was started
    done = subprocess.run(command, cwd=tmp_path, timeout=HANGING)
    assert done.returncode == 1
    assert tree(there) == tree(here)


def test_a_cluster_gets_the_modules_of_the_project_but_no_installed_ones(tmp_path, monkeypatch):
    environment = tmp_path / ".venv"
    files = {
        "own_network": tmp_path / "own_network.py",
        "own_layers.blocks": tmp_path / "own_layers" / "blocks.py",
        "installed": environment / "lib" / "installed.py",
        "elsewhere": tmp_path.parent / "elsewhere.py",
        # as some compiled modules call theirs
        "compiled": "own_network.py",
    }
    for name, file in files.items():
        module = types.ModuleType(name)
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, name, module)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "prefix", str(environment))
        found = [module.__name__ for module in find_modules(tmp_path)]
    assert found == ["own_network", "own_layers.blocks"]
    ours = {module.__name__ for module in find_modules(ROOT)}
    assert {"augment", "data", "data.images"} <= ours
    assert not ours & {"joblib", "distributed"}


@on_posix
def test_the_callers_signal_handler_is_back_after_a_cluster(cluster):
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        mine = signal.getsignal(signal.SIGUSR1)
        with data.workers.cluster(cluster):
            assert signal.getsignal(signal.SIGUSR1) != mine
        assert signal.getsignal(signal.SIGUSR1) == mine
    finally:
        signal.signal(signal.SIGUSR1, handler)


def test_copy_that_cannot_be_written_is_one_line(cluster, small_pool, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dogs").write_text("in the way")
    with fails(r"dogs/\d_aug0\.jpg: cannot be written, "):
        augment_folder(small_pool, tmp_path / "out", scheduler=cluster)
    (tmp_path / "out" / "dogs").unlink()
    assert augment_folder(small_pool, tmp_path / "out", scheduler=cluster).images == 12


def test_cluster_that_cannot_be_used_is_one_line(small_pool, tmp_path, monkeypatch):
    def augment(address):
        augment_folder(small_pool, tmp_path / "out", scheduler=address)

    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with fails(f"scheduler = '{address}': no Dask scheduler answers"):
            augment(address)
    for workers, line in ((0, "there is no worker"), (1, "a worker has 2 threads")):
        folder = tmp_path / str(workers)
        folder.mkdir()
        with contextlib.ExitStack() as stack:
            address, *_ = start(stack, folder, workers, threads=2)
            with fails(f"{line}.*: dask worker {address} --nthreads 1"):
                augment(address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with fails("a cluster needs Dask here as well: pip install distributed"):
        augment(address)
    assert not tree(tmp_path / "out")


@pytest.mark.parametrize("victims", ["workers", "scheduler"])
def test_cluster_that_is_lost_ends_in_one_line_and_a_rerun_goes_on(tmp_path, victims):
    pool = make_pool(tmp_path / "pool", 25)
    output = tmp_path / "out"
    with contextlib.ExitStack() as stack:
        address, scheduler, *workers = start(stack, tmp_path, 2)
        command = [*CLI, pool, output, "--copies", "20", "--scheduler", address]
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        stack.callback(run.kill)
        wait_for(lambda: len(list(output.glob("*/*.jpg"))) > 20)
        killed = workers if victims == "workers" else [scheduler]
        for process in killed:
            process.kill()
        error = run.communicate(timeout=HANGING)[1]
    line = error.splitlines()[-1]
    assert line.startswith(f"augment.py: scheduler = '{address}': the work was lost with its work")
    assert line.endswith("start them and run this again: it goes on from there")
    assert run.returncode == 2
    report = augment_folder(pool, output, copies=20)
    assert report.kept > 20
    assert report.made > 0
    assert {Path(name).suffix for name in tree(output)} == {".jpg", ".csv", ""}
