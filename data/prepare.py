"""Make train/ and test/ of a data set: fetched, checked, duplicates on one side.

    python -m data.prepare DATASET [--output data] [--subset NAMES] [--train-ratio 0.8]
                           [--seed 42] [--repeats 1] [--keep-duplicates]

DATASET, a Kaggle handle, a folder or a zip, is only read. The output folder gets train/ and test/
with a folder per class, repeat_1/ … with those of further repeats, and split.json, which remembers
what was put there: a rerun copies only what is missing, and other files are never touched.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from data.check import Photo, contradict, find_duplicates, group_photos, read_photos
from data.fetch import fetch_dataset, find_parts, is_default, keep_apart
from data.files import (
    InputError,
    claim,
    expand,
    one_line,
    print_any_name,
    remove_unfinished,
    write_whole,
)
from data.images import find_files, find_images, is_image
from data.settings import check_setting

CURE = "drop_duplicates=false or --keep-duplicates uses every photo where it lies"


@dataclass
class Prepared:
    """What `prepare_dataset` made; printed, it is a report."""

    folders: list[Path]  # of each repeat, with train/ and test/
    classes: list[str]
    source: str  # with its version, if from Kaggle
    drawn: bool  # are these drawings?
    why: str  # they stand in; else ""
    subset: str
    unreadable: dict[str, str]  # {path: reason}
    duplicates: list[tuple[str, str]]
    dropped: list[str]  # training images that a ready-made test/ holds as well
    conflicts: list[tuple[str, str]]  # the same photo under two labels
    notes: list[str]

    def summary(self) -> dict:
        """Return what metrics.json says of the data set, but for the counts."""
        names = ("source", "classes", "drawn", "duplicates", "dropped", "conflicts")
        return {name: getattr(self, name) for name in names} | {"unreadable": [*self.unreadable]}

    def __str__(self) -> str:
        lines = [f"left out: {path}: {reason}" for path, reason in self.unreadable.items()]
        lines += [f"the same photo under two labels: {a} = {b}" for a, b in self.conflicts]
        lines += [f"not in train, as test holds it: {name}" for name in self.dropped]
        lines += [f"duplicates: {a} = {b}" for a, b in self.duplicates]
        lines[20:] = [f"… and {len(lines) - 20} lines more"] if len(lines) > 20 else []
        lines = [f"source: {self.source}" + f" ({self.why})" * bool(self.why), *self.notes, *lines]
        for part in ("train", "test"):
            counts = count_images(self.folders[0] / part)
            lines.append(f"{part}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
        return "\n".join(map(one_line, lines))


def prepare_dataset(
    dataset: str,
    data_dir: str | Path = "data",
    subset: str | None = None,
    train_ratio: float = 0.8,
    seed: int = 42,
    repeats: int = 1,
    drop_duplicates: bool = True,
) -> Prepared:
    """Read a data set once and make the splits of all repeats.

    Args:
        subset: sub-folders to pool, separated by commas; "": the data set as it is; None: "test"
            of the default data set.
        repeats: of a pool, repeat r tests on fold r of a stratified k-fold, k = 1 / (1 -
            train_ratio), past k of a reshuffled one; of a ready-made split all test the same.
        drop_duplicates: a pool's stay on one side; what a ready-made test/ holds and photos under
            two labels are left out. False: every photo is used where it lies.

    Raises:
        InputError: the data set cannot be used.
    """
    numbers = {"train_ratio": train_ratio, "seed": seed, "repeats": repeats}
    for name, value in ({"dataset": dataset} | numbers).items():
        check_setting(name, value)
    data_dir = Path(expand(data_dir))
    keep_apart([Path(expand(dataset))], data_dir)
    with claim(data_dir):
        folder, source, why = fetch_dataset(dataset, data_dir)
        drawn = bool(why) or source == "drawings"
        if drawn or subset is None:
            subset = "test" if is_default(dataset) and not drawn else ""
        parts, ready_made, notes = find_parts(folder, subset)
        keep_apart([*parts.values()], data_dir)
        photos, unreadable = read_photos(parts, ready_made, data_dir / "source" / "8-bit", notes)
        names, values = list(photos), list(photos.values())
        pairs = find_duplicates(values)
        duplicates = [(names[i], names[j]) for i, j in pairs]
        conflicts = [(names[i], names[j]) for i, j in pairs if contradict(values[i], values[j])]
        group = group_photos(values, pairs, notes if drop_duplicates else [])
        groups = dict(zip(names, group, strict=True))
        if drop_duplicates:
            for name in {name for pair in conflicts for name in pair}:
                del photos[name]
            if lost := {photo.label for photo in values} - {x.label for x in photos.values()}:
                raise InputError(f"class {min(lost)} has only photos under two labels ({CURE})")
        else:
            groups = {name: i for i, name in enumerate(names)}
        options = photos, groups, ready_made, train_ratio, seed
        plans = [plan_split(*options, repeat) for repeat in range(repeats)]
        folders = [data_dir / f"repeat_{r}" if r else data_dir for r in range(repeats)]
        for folder, plan in zip(folders, plans, strict=True):
            split_dataset(photos, plan, folder)
    if pairs:
        what = "kept on one side or left out" if drop_duplicates else "used where they lie"
        notes.append(f"{len(pairs)} pairs of duplicates, {what} ({CURE})")
    classes, dropped = list(count_images(folders[0] / "test")), set(photos) - {*plans[0].values()}
    results = subset, unreadable, duplicates, sorted(dropped), conflicts, notes
    return Prepared(folders, classes, source, drawn, why, *results)


def choose_test(
    labels: np.ndarray, groups: np.ndarray, train_ratio: float, seed: int, repeat: int
) -> np.ndarray:
    """Return the sorted indices of the test images of one repeat of a pool.

    With `train_ratio` 0.8 there are 5 folds; once all have had their turn they are reshuffled.

    Raises:
        InputError: a class is too small for so fine a split.
    """
    share = Fraction(1 - train_ratio).limit_denominator(20)
    shuffle, turn = divmod(repeat, share.denominator // share.numerator)
    if min(np.bincount(labels)) < share.denominator:
        raise InputError(
            f"train_ratio = {train_ratio}: needs {share.denominator} images or more in each class, "
            f"the smallest class has {min(np.bincount(labels))}"
        )
    folds = StratifiedGroupKFold(share.denominator, shuffle=True, random_state=seed + shuffle)
    tests = [test for _, test in folds.split(labels, labels, groups)]
    return np.sort(np.concatenate(tests[turn * share.numerator : (turn + 1) * share.numerator]))


def plan_split(
    photos: dict[str, Photo],
    groups: dict[str, int],
    ready_made: bool,
    train_ratio: float,
    seed: int,
    repeat: int,
) -> dict[str, str]:
    """Return {"train/class/file" or "test/class/file": name} of one repeat.

    Raises:
        InputError: a class would be on one side only.
    """
    names, group = list(photos), np.array([groups[name] for name in photos])
    kinds, labels = np.unique([photo.label for photo in photos.values()], return_inverse=True)
    if ready_made:
        test = np.flatnonzero([name.startswith("test/") for name in names])
    else:
        test = choose_test(labels, group, train_ratio, seed, repeat)
    train = np.setdiff1d(np.arange(len(names)), test)
    train = train[~np.isin(group[train], group[test])]
    for label, kind in enumerate(kinds):
        if label not in labels[test] or label not in labels[train]:
            what = "is on one side of the split only, as its photos count as duplicates"
            raise InputError(f"class {kind} {what} ({CURE})")
    sides = np.where(np.isin(np.arange(len(names)), test), "test/", "train/")
    prefixes = np.full(len(names), "") if ready_made else sides
    return {f"{prefixes[i]}{names[i]}": names[i] for i in sorted([*train, *test])}


def split_dataset(photos: dict[str, Photo], plan: dict[str, str], folder: Path) -> None:
    """Copy photos to folder/train and folder/test, one folder per class, as planned.

    folder/split.json remembers what was put there: a second call copies nothing, and files of an
    earlier split are removed first. A stop at any moment leaves a state that the next call mends.

    Raises:
        InputError: train/ or test/ hold images that were not put there by this function.
    """
    memory, held = folder / "split.json", {}
    try:
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none, or damaged
        known = {}
    wanted = {target: photos[name].digest for target, name in plan.items()}
    sides = [folder / part for part in ("train", "test") if (folder / part).is_dir()]
    for path in [path for side in sides for path in find_files(side)]:
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (name in wanted or is_image(path)):
            held[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            if held[name] != known.get(name):
                cure = "move it away or choose another data_dir"
                raise InputError(
                    f"{path}: not put there by this notebook, or changed since; {cure}"
                )
    for name in held:
        if held[name] != wanted.get(name):
            (folder / name).unlink()
    for part in (folder / "train", folder / "test"):
        remove_unfinished(part)
        for path in sorted(part.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):  # an earlier data set's class
                path.rmdir()
    write_whole(memory, json.dumps(wanted, indent=0))  # before the files it speaks for
    for target, name in plan.items():
        if held.get(target) != wanted[target]:
            copy_photo(photos[name], folder / target)


def copy_photo(photo: Photo, target: Path) -> None:
    """Copy a photo that was read; raise InputError if it changed since."""
    try:
        content = photo.file.read_bytes()
    except OSError as error:
        raise InputError(f"{photo.file}: {error.strerror}; it could be read just before") from error
    if hashlib.sha256(content).hexdigest()[:16] != photo.digest:
        raise InputError(f"{photo.file}: changed while it was being used; run this again")
    write_whole(target, content)


def count_images(folder: str | Path) -> dict[str, int]:
    """Return {class: number of images} of a folder with one folder per class that has any."""
    return {name: len(files) for name, files in find_images(folder).items() if files}


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return 0, 2 (it could not be done) or 130 (Ctrl-C)."""
    parser = argparse.ArgumentParser("data.prepare", description="Make train/ and test/.")
    parser.add_argument("dataset", metavar="DATASET", help="Kaggle handle, folder or zip")
    parser.add_argument("--output", dest="data_dir", default="data", help="default: data")
    parser.add_argument("--subset", help="sub-folders to pool, separated by commas")
    parser.add_argument("--train-ratio", type=float, default=0.8, help="default: 0.8")
    parser.add_argument("--seed", type=int, default=42, help="default: 42")
    parser.add_argument("--repeats", type=int, default=1, help="default: 1")
    parser.add_argument("--keep-duplicates", dest="drop_duplicates", action="store_false")
    options = parser.parse_args(arguments)
    print_any_name()
    try:
        print(prepare_dataset(**vars(options)))
    except InputError as error:
        print(f"data.prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("data.prepare: stopped; run it again to go on where it was", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
