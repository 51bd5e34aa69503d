"""Make train/ and test/ of a data set: fetched, checked, duplicates on one side.

    python -m data.prepare DATASET [--output data] [--subset NAMES] [--train-ratio 0.8]
                           [--seed 42] [--repeats 1] [--keep-duplicates] [--group PATTERN]

DATASET, a Kaggle handle, a folder or a zip, is only read. The output folder gets train/ and test/
with a folder per class, repeat_1/ … with those of further repeats, and split.json, which remembers
what was put there: a rerun copies only what is missing, and other files are never touched. Where
many photos are duplicates or left out, prepare_details.json lists them all.
"""

import argparse
import contextlib
import functools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from data.check import (
    Photo,
    Progress,
    compile_group,
    digest_of,
    find_conflicts,
    find_duplicates,
    find_series,
    is_blank,
    link_copies,
    link_groups,
    number_groups,
    read_photos,
    show_nothing,
)
from data.fetch import fetch_dataset, find_parts, is_default, keep_apart
from data.files import (
    InputError,
    claim,
    expand,
    how_many,
    one_line,
    print_any_name,
    refuse_case_twins,
    remove_unfinished,
    write_whole,
)
from data.images import find_files, find_images, is_image
from data.settings import check_setting

OWN_FOLDER = Path(__file__).resolve().parent
PARTS = ("train", "test")
# remembers what was put into them
MEMORY = "split.json"
# lines of a report that name single photos
MOST_DETAILS = 20
# entries of a list in metrics.json; where there are more, all lists stand in a file of their own
MOST_LISTED = 100
DETAILS = "prepare_details.json"
# classes each of whose counts a report gives
MOST_CLASSES = 30
# matches what the names of a series (`find_series`) open with
SERIES_GROUP = r"(.*\D)\d+"
CURE = "drop_duplicates=false or --keep-duplicates uses every photo where it lies"


@dataclass
class Prepared:
    """What `prepare_dataset` made; printed, it is a report."""

    # of each repeat, with train/ and test/ in it
    folders: list[Path]
    # names, sorted
    classes: list[str]
    # the data set, with its version if it is from Kaggle
    source: str
    # are these drawings?
    drawn: bool
    # why drawings stand in for photos; "" if they do not
    stand_in_reason: str
    # sub-folders that were used, separated by commas; "": the data set as it is
    subset: str
    # {path of an image that was left out: what is wrong with it}
    unreadable: dict[str, str]
    # pairs of names, "class/file" or "train/class/file", that show the same photo
    duplicates: list[tuple[str, str]]
    # training images that are not used, as a ready-made test/ holds them, too
    dropped: list[str]
    # those of the duplicates that are the same photo under two labels
    conflicts: list[tuple[str, str]]
    # what else a reader should know, a line each
    notes: list[str]
    # of each repeat's split.json, by which its split is known again
    splits: list[str]
    # that it was made with, by name
    settings: dict[str, object]
    # file with the four lists where one of them is long; else ""
    details: str = ""

    def check_unchanged(self, settings: Mapping[str, object] | None = None) -> None:
        """Check, before the folders are used, that they still hold the splits made here.

        Args:
            settings: that hold now, by name; None: they are not compared.

        Raises:
            InputError: a setting changed, or another run put other photos there meanwhile.
        """
        for name, value in (settings or {}).items():
            made_with = self.settings.get(name, value)
            if value != made_with:
                raise InputError(
                    f"{name} changed since section 3, from {made_with!r} to {value!r}: run from "
                    "there"
                )
        for folder, split in zip(self.folders, self.splits, strict=True):
            if digest_memory(folder) != split:
                raise InputError(
                    f"{folder}: another run has made another split there since: prepare the data "
                    "set again, or choose another data_dir for one of the two"
                )

    def summary(self) -> dict:
        """Return what metrics.json says of the data set, but for the counts.

        Of lists that are too long it has what comes first, how long they are, and where all is.
        """
        summary = {
            "source": self.source,
            "subset": self.subset,
            "classes": self.classes,
            "drawn": self.drawn,
            "duplicates": self.duplicates,
            "dropped": self.dropped,
            "conflicts": self.conflicts,
            "unreadable": list(self.unreadable),
        }
        if self.details:
            summary["details"] = self.details
            summary["numbers"] = {}
            for name in ("duplicates", "dropped", "conflicts", "unreadable"):
                summary["numbers"][name] = len(summary[name])
                summary[name] = summary[name][:MOST_LISTED]
        return summary

    def write_details(self, data_dir: Path) -> None:
        """Write lists that are too long for metrics.json to a file of their own, whole."""
        path = data_dir / DETAILS
        lists = {
            "duplicates": self.duplicates,
            "dropped": self.dropped,
            "conflicts": self.conflicts,
            "unreadable": self.unreadable,
        }
        if all(len(entries) <= MOST_LISTED for entries in lists.values()):
            # of an earlier data set
            path.unlink(missing_ok=True)
            return
        # in ASCII, as a name that is no Unicode could not be written otherwise
        lines = json.dumps(lists, indent=1)
        write_whole(path, lines)
        self.details = str(path)

    def __str__(self) -> str:
        details = [f"left out: {path}: {reason}" for path, reason in self.unreadable.items()]
        for a, b in spread_pairs(self.conflicts):
            details.append(f"the same photo under two labels: {a} = {b}")
        details += [f"not in train, as test holds it: {name}" for name in self.dropped]
        details += [f"duplicates: {a} = {b}" for a, b in spread_pairs(self.duplicates)]
        hidden = len(details) - MOST_DETAILS
        if hidden > 0:
            more = f"… and {how_many(hidden, 'line')} more"
            details[MOST_DETAILS:] = [f"{more}, see {self.details}" if self.details else more]
        source = f"source: {self.source}"
        if self.stand_in_reason:
            source = f"{source} ({self.stand_in_reason})"
        lines = [source, *self.notes, *details]
        for part in ("train", "test"):
            counts = count_images(self.folders[0] / part)
            lines.append(f"{part}: {describe_counts(counts)}")
        return "\n".join(one_line(line) for line in lines)


def prepare_dataset(
    dataset: str,
    data_dir: str | Path = "data",
    subset: str | None = None,
    train_ratio: float = 0.8,
    seed: int = 42,
    repeats: int = 1,
    drop_duplicates: bool = True,
    group: str = "",
    *,
    progress: Progress = show_nothing,
) -> Prepared:
    """Read a data set once and make the splits of all repeats.

    Args:
        dataset: Kaggle handle, folder, zip, or "drawings"; only read.
        data_dir: gets train/ and test/, repeat_1/ … with those of further repeats.
        subset: sub-folders to pool, separated by commas; "": the data set as it is; None: "test"
            of the default data set.
        train_ratio: the share of a pool that is trained on; not used for a ready-made split.
        seed: of the shuffle of a pool.
        repeats: of a pool, repeat r tests on fold r of a stratified k-fold, k = 1 / (1 -
            train_ratio), past k of a reshuffled one; of a ready-made split all test the same.
        drop_duplicates: a pool's stay on one side; what a ready-made test/ holds and photos under
            two labels are left out. False: every photo is used where it lies.
        group: a regular expression on "class/file"; photos whose match (its first group, if it
            has one) is equal stay on one side of a pool's split: a patient, a burst, a camera.
        progress: called with (what is being done, images done, images in all).

    Raises:
        InputError: the data set cannot be used.
    """
    check_setting("dataset", dataset)
    check_setting("subset", subset)
    check_setting("train_ratio", train_ratio)
    check_setting("seed", seed)
    check_setting("repeats", repeats)
    # before anything is read, which may take long
    compile_group(group)
    data_dir = Path(expand(data_dir))
    settings = {
        "dataset": dataset,
        "subset": subset,
        "train_ratio": train_ratio,
        "seed": seed,
        "repeats": repeats,
        "drop_duplicates": drop_duplicates,
        "group": group,
    }
    if Path(expand(dataset)).resolve() == data_dir.resolve():
        refuse_own_folder([data_dir])
    keep_apart([Path(expand(dataset))], data_dir)
    with claim(data_dir):
        folder, source, stand_in_reason = fetch_dataset(dataset, data_dir)
        drawn = bool(stand_in_reason) or source == "drawings"
        if drawn:
            subset = ""
        elif subset is None:
            subset = "test" if is_default(dataset) else ""
        parts, ready_made, notes, sides = find_parts(folder, subset)
        refuse_own_folder(list(parts.values()))
        keep_apart(list(parts.values()), data_dir)

        photos, unreadable = read_photos(
            parts=parts,
            ready_made=ready_made,
            converted=data_dir / "source" / "8-bit",
            notes=notes,
            progress=progress,
            sides=sides,
        )
        refuse_case_twins(list(photos), data_dir)
        if ready_made and group:
            notes.append(f"group = {group} is not used: train and test come with the data set")
            group = ""
        relations = relate_photos(
            photos=photos,
            drop_duplicates=drop_duplicates,
            group=group,
            notes=notes,
            progress=progress,
        )
        if not ready_made and not group:
            notes.extend(describe_series(photos))
        if drop_duplicates:
            photos = without_conflicts(photos, relations.conflicts)

        plans = []
        for repeat in range(repeats):
            plan = plan_split(
                photos=photos,
                groups=relations.groups,
                ready_made=ready_made,
                train_ratio=train_ratio,
                seed=seed,
                repeat=repeat,
                group=group,
            )
            plans.append(plan)
        folders = [data_dir]
        for repeat in range(1, repeats):
            folders.append(data_dir / f"repeat_{repeat}")
        # only now that all are known to be possible
        for folder, plan in zip(folders, plans, strict=True):
            split_dataset(photos, plan, folder, progress)

        if relations.duplicates:
            fate = "kept on one side or left out" if drop_duplicates else "used where they lie"
            pairs = how_many(len(relations.duplicates), "pair")
            notes.append(f"{pairs} of duplicates, {fate} ({CURE})")
        if relations.conflicts:
            fate = "left out" if drop_duplicates else "used"
            number = how_many(
                len(relations.conflicts),
                "pair of them has two labels, and is",
                "pairs of them have two labels, and are",
            )
            notes.append(f"{number} {fate}")
        used = set(plans[0].values())
        prepared = Prepared(
            folders=folders,
            classes=list(count_images(folders[0] / "test")),
            source=source,
            drawn=drawn,
            stand_in_reason=stand_in_reason,
            subset=subset,
            unreadable=unreadable,
            duplicates=relations.duplicates,
            dropped=sorted(set(photos) - used),
            conflicts=relations.conflicts,
            notes=notes,
            splits=[digest_memory(folder) for folder in folders],
            settings=settings,
        )
        prepared.write_details(data_dir)
    return prepared


def describe_counts(counts: dict[str, int]) -> str:
    """Return how many images each class has, or of many classes how many all have.

    Args:
        counts: {class: images}.
    """
    if len(counts) <= MOST_CLASSES:
        return ", ".join(f"{count} {label}" for label, count in counts.items())
    least = min(counts, key=counts.get)
    most = max(counts, key=counts.get)
    of_each = f"{counts[least]} of each"
    if counts[least] != counts[most]:
        of_each = f"from {counts[least]} of {least} to {counts[most]} of {most}"
    return f"{sum(counts.values())} images of {len(counts)} classes, {of_each}"


def spread_pairs(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return pairs of photos in another order: first those that show photos not shown before.

    Of a photo that is there four hundred times the first twenty pairs would show nothing else.
    """
    first = []
    later = []
    shown = set()
    for pair in pairs:
        if shown.isdisjoint(pair):
            first.append(pair)
            shown.update(pair)
        else:
            later.append(pair)
    return first + later


def refuse_own_folder(folders: list[Path]) -> None:
    """Raise InputError if class folders lie among this project's own files."""
    for folder in folders:
        if folder.resolve() == OWN_FOLDER:
            raise InputError(
                f"{folder}: holds files of this project, too, which are no class; move the class "
                f"folders into a folder of their own and name that: {folder / 'photos'}"
            )


class Relations(NamedTuple):
    """What the photos of a data set have to do with each other."""

    # pairs of names that show the same photo
    duplicates: list[tuple[str, str]]
    # those of them that are the same photo under two labels
    conflicts: list[tuple[str, str]]
    # {name: number of its group, which a pool's split does not divide}
    groups: dict[str, int]


def relate_photos(
    photos: dict[str, Photo],
    drop_duplicates: bool,
    group: str,
    notes: list[str],
    progress: Progress,
) -> Relations:
    """Find out which photos show the same; `notes` gets what a reader should know of it.

    Where duplicates are not dropped, only what `group` matches alike belongs together.

    Raises:
        InputError: `group` cannot be used.
    """
    names = list(photos)
    values = list(photos.values())
    pairs = find_duplicates(values, progress)
    duplicates = [(names[i], names[j]) for i, j in pairs]
    conflicts = [(names[i], names[j]) for i, j in find_conflicts(values, pairs, progress)]
    links = link_groups(names, group)
    if group:
        belonging = np.bincount(number_groups(len(names), links))
        several = belonging[belonging > 1]
        alone = how_many(len(names) - sum(several), "photo")
        notes.append(
            f"group = {group}: {how_many(len(several), 'group')} of {sum(several)} photos, each on "
            f"one side, {alone} alone"
        )
    if drop_duplicates:
        links += pairs
        links += link_copies(values, notes)
    groups = dict(zip(names, number_groups(len(names), links), strict=True))
    return Relations(duplicates=duplicates, conflicts=conflicts, groups=groups)


def describe_series(photos: dict[str, Photo]) -> list[str]:
    """Return a line if the names of a pool look like series that a split would divide."""
    series = find_series(photos)
    if not series:
        return []
    opening = next(iter(series))
    return [
        f"names look like {len(series)} series (such as {opening}…, {series[opening]} images): if "
        f"those of a series show the same, keep them on one side by group = {SERIES_GROUP}"
    ]


def without_conflicts(
    photos: dict[str, Photo], conflicts: list[tuple[str, str]]
) -> dict[str, Photo]:
    """Return the photos that are not the same under two labels.

    Raises:
        InputError: a class has no others.
    """
    left_out = set()
    for pair in conflicts:
        left_out.update(pair)
    kept = {name: photo for name, photo in photos.items() if name not in left_out}
    classes = {photo.label for photo in photos.values()}
    lost = classes - {photo.label for photo in kept.values()}
    if not lost:
        return kept
    label = min(lost)
    of_class = [photo for photo in photos.values() if photo.label == label]
    if all(is_blank(photo) for photo in of_class):
        raise InputError(
            f"class {label} has only blank images, of one colour, as another class has; if their "
            f"shapes are in the transparency alone, put a ground under them: {of_class[0].file}"
        )
    of_label = [pair for pair in conflicts if label in {photos[name].label for name in pair}]
    a, b = of_label[0]
    raise InputError(f"class {label} has only photos under two labels, such as {a} = {b} ({CURE})")


def share_of_test(train_ratio: float) -> Fraction:
    """Return which share of a pool is tested on, as so many of so many folds."""
    return Fraction(1 - train_ratio).limit_denominator(20)


def check_pool(
    classes: list[str], labels: np.ndarray, numbers: np.ndarray, train_ratio: float, group: str
) -> None:
    """Check that a pool has photos enough for its folds.

    Args:
        labels: (N,) class of each photo, 0 to C - 1.
        numbers: (N,) photos of one number stay on one side.

    Raises:
        InputError: a class has too few photos, or all have too few groups.
    """
    num_folds = share_of_test(train_ratio).denominator
    smallest = np.argmin(np.bincount(labels))
    size = np.bincount(labels)[smallest]
    if size < num_folds:
        raise InputError(
            f"train_ratio = {train_ratio}: needs {num_folds} images or more in each class, "
            f"class {classes[smallest]} has {size}"
        )
    if len(np.unique(numbers)) < num_folds:
        groups_of_first = np.unique(numbers[labels == 0])
        raise_one_sided(classes[0], len(groups_of_first), train_ratio, group)


def raise_one_sided(name: str, num_groups: int, train_ratio: float, group: str) -> NoReturn:
    """Raise the InputError of a class that is in train/ or in test/ only."""
    one_sided = f"class {name} is on one side of the split only"
    if group:
        raise InputError(
            f"group = {group}: {one_sided}, as it has {how_many(num_groups, 'group')} of photos; "
            f"a smaller train_ratio than {train_ratio} needs fewer, or another pattern makes more"
        )
    raise InputError(
        f"{one_sided}, as its photos count as duplicates, which those of a film or a fixed camera "
        f"may ({CURE})"
    )


def choose_test(
    labels: np.ndarray, groups: np.ndarray, train_ratio: float, seed: int, repeat: int
) -> np.ndarray:
    """Return the sorted indices of the test images of one repeat of a pool.

    With `train_ratio` 0.8 there are 5 folds; once all have had their turn they are reshuffled.
    A ratio that is no 1 - 1/k takes several of finer folds: 0.7 is three of ten, three times.

    Args:
        labels: (N,) class of each image, 0 to C - 1.
        groups: (N,) images of one number stay on one side.

    """
    test_share = share_of_test(train_ratio)
    num_folds = test_share.denominator
    folds_of_a_test = test_share.numerator
    shuffle, turn = divmod(repeat, num_folds // folds_of_a_test)
    folds = make_folds(
        labels=tuple(labels.tolist()),
        groups=tuple(groups.tolist()),
        num_folds=num_folds,
        seed=seed + shuffle,
    )
    first = turn * folds_of_a_test
    return np.sort(np.concatenate(folds[first : first + folds_of_a_test]))


# The repeats of a shuffle share its folds, which take a while for thousands of photos.
@functools.lru_cache(maxsize=1)
def make_folds(
    labels: tuple[int, ...], groups: tuple[int, ...], num_folds: int, seed: int
) -> list[np.ndarray]:
    """Return the indices of each fold's images; each class is spread, no group is divided."""
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    return [fold for _, fold in splitter.split(labels, labels, groups)]


def plan_split(
    photos: dict[str, Photo],
    groups: dict[str, int],
    ready_made: bool,
    train_ratio: float,
    seed: int,
    repeat: int,
    group: str,
) -> dict[str, str]:
    """Return {"train/class/file" or "test/class/file": name} of one repeat.

    Args:
        groups: {name: number}; photos of one number stay on one side.
        group: the setting, for messages.

    Raises:
        InputError: a class would be on one side only.
    """
    names = list(photos)
    numbers = np.array([groups[name] for name in names])
    classes, labels = np.unique([photo.label for photo in photos.values()], return_inverse=True)
    if ready_made:
        in_test = np.array([name.startswith("test/") for name in names])
    else:
        check_pool(classes, labels, numbers, train_ratio, group)
        in_test = np.zeros(len(names), dtype=bool)
        in_test[choose_test(labels, numbers, train_ratio, seed, repeat)] = True
    # of a ready-made split: what test/ holds as well
    relative_in_test = np.isin(numbers, numbers[in_test])
    in_train = ~in_test & ~relative_in_test
    for label, name in enumerate(classes):
        if label not in labels[in_test] or label not in labels[in_train]:
            num_groups = len(np.unique(numbers[labels == label]))
            raise_one_sided(name, num_groups, train_ratio, group)
    plan = {}
    for i, name in enumerate(names):
        if in_test[i] or in_train[i]:
            side = "test" if in_test[i] else "train"
            plan[name if ready_made else f"{side}/{name}"] = name
    return plan


def split_dataset(
    photos: dict[str, Photo], plan: dict[str, str], folder: Path, progress: Progress
) -> None:
    """Copy photos to folder/train and folder/test, one folder per class, as planned.

    folder/split.json remembers what was put there: a second call copies nothing, and files of an
    earlier split are removed first. A stop at any moment leaves a state that the next call mends.

    Raises:
        InputError: train/ or test/ hold images that were not put there by this function.
    """
    wanted = {target: photos[name].digest for target, name in plan.items()}
    held = check_held(folder, wanted)
    for target, digest in held.items():
        if wanted.get(target) != digest:
            (folder / target).unlink()
    for part in PARTS:
        remove_unfinished(folder / part)
        remove_empty_folders(folder / part)
    # before the files it speaks for
    write_whole(folder / MEMORY, json.dumps(wanted, indent=0))
    for done, (target, name) in enumerate(plan.items(), start=1):
        progress("copying images", done, len(plan))
        if held.get(target) != wanted[target]:
            copy_photo(photos[name], folder / target)


def check_held(folder: Path, wanted: dict[str, str]) -> dict[str, str]:
    """Return {"train/class/file": digest} of the photos that an earlier split put into a folder.

    Raises:
        InputError: there are images, or files of a wanted name, that were not put there by it.
    """
    known = read_memory(folder)
    held = {}
    for part in PARTS:
        if not (folder / part).is_dir():
            continue
        for path in find_files(folder / part):
            target = path.relative_to(folder).as_posix()
            if not path.is_file():
                continue
            if target not in wanted and not is_image(path):
                continue
            held[target] = digest_of(path.read_bytes())
            # where split.json is lost, what is wanted there is as good as known
            if held[target] in (known.get(target), wanted.get(target)):
                continue
            if not known:
                raise InputError(
                    f"{path}: not put there by this notebook, or split.json beside {part}/ is "
                    "lost, which told so; move train/ and test/ away or choose another data_dir"
                )
            raise InputError(
                f"{path}: not put there by this notebook, or changed since; "
                "move it away or choose another data_dir"
            )
    return held


def read_memory(folder: Path) -> dict[str, str]:
    """Return {"train/class/file": digest} of what was put into a folder; {}: none, or damaged."""
    try:
        return dict(json.loads((folder / MEMORY).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def digest_memory(folder: Path) -> str:
    """Return the digest of a folder's split.json; "" where there is none."""
    try:
        return digest_of((folder / MEMORY).read_bytes())
    except OSError:
        return ""


def remove_empty_folders(folder: Path) -> None:
    """Remove the folders in a folder that hold nothing, like those of an earlier data set."""
    # those inside come after those around them in order
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def copy_photo(photo: Photo, target: Path) -> None:
    """Copy a photo that was read.

    Raises:
        InputError: it changed since, or it cannot be written.
    """
    try:
        content = photo.file.read_bytes()
    except OSError as error:
        raise InputError(f"{photo.file}: {error.strerror}; it could be read just before") from error
    if digest_of(content) != photo.digest:
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
    parser.add_argument("--group", default="", help="pattern; photos matched alike stay together")
    options = parser.parse_args(arguments)
    print_any_name()
    try:
        with progress_line() as progress:
            prepared = prepare_dataset(**vars(options), progress=progress)
    except InputError as error:
        print(f"data.prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("data.prepare: stopped; run it again to go on where it was", file=sys.stderr)
        return 130
    print(prepared)
    return 0


@contextlib.contextmanager
def progress_line() -> Iterator[Progress]:
    """Keep a line in the terminal up to date; give the function that tells it how far things are.

    In a pipe, and where there is no standard error, nothing is shown.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield show_nothing
        return
    with tqdm(unit="", leave=False) as bar:

        def progress(step: str, done: int, total: int) -> None:
            if bar.desc != f"{step}: ":
                bar.reset(total)
                bar.set_description(step)
            bar.update(done - bar.n)

        yield progress


if __name__ == "__main__":
    sys.exit(main())
