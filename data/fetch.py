"""Where the images come from: a Kaggle handle, a folder or a zip → folders with a class each."""

import hashlib
import re
import shutil
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import kagglehub

from data.drawings import draw_dataset
from data.files import InputError, expand
from data.images import find_files, is_hidden, is_image

DEFAULT_DATASET = "samuelcortinhas/cats-and-dogs-image-classification"
# a ready-made test set: the first that is there
HELD_OUT = ("test", "val", "valid", "validation")
# the names that parts of a split have, in lower case
PART = re.compile(r"(.*[^a-z])?(train|test|val|valid|validation|eval)(ing|set|s)?([^a-z].*)?")
HANDLE = re.compile(r"[\w.-]+/[\w.-]+(/versions/\d+)?")


class Fetched(NamedTuple):
    """Where a data set was put, and what it is."""

    folder: Path
    source: str
    # "" where the data set is what was asked for
    stand_in_reason: str = ""


class Layout(NamedTuple):
    """How the folders of a data set are to be read."""

    # {part: folder with the classes}: "train" and "test" of a ready-made split; of a pool
    # as many as are pooled
    parts: dict[str, Path]
    ready_made: bool
    # what is not used, a line each
    notes: list[str]


class SubFolder(NamedTuple):
    """A folder beside others: a class, or a part of a split."""

    path: Path
    # in lower case
    name: str
    # of images below it
    count: int
    # may they be classes?
    has_folders: bool
    looks_like_part: bool


def is_default(dataset: str) -> bool:
    return dataset.split("/versions/")[0] == DEFAULT_DATASET


def fetch_dataset(dataset: str, data_dir: Path) -> Fetched:
    """Find, unpack or download a data set; draw it where Kaggle's default cannot be had.

    Only the default data set may be replaced by drawings: a name the user chose must not be.

    Raises:
        InputError: `dataset` is nothing that can be read or downloaded.
    """
    if dataset == "drawings":
        return Fetched(draw(data_dir), source="drawings")
    path = Path(expand(dataset))
    try:
        is_folder = path.is_dir()
        is_file = path.is_file()
        is_handle = HANDLE.fullmatch(dataset) and not path.parent.exists()
    # too long for a path, or no path at all
    except (OSError, ValueError):
        is_folder = is_file = is_handle = False
    if is_folder:
        return Fetched(path, source=dataset)
    if is_file:
        return Fetched(unpack(path, data_dir / "source"), source=dataset)
    if not is_handle:
        where = f"no such folder or zip in {Path.cwd()}, and no Kaggle handle owner/name"
        raise InputError(f"dataset = {dataset[:200]!r}: {where}")
    try:
        return download(dataset)
    except Exception as error:
        reason = type(error).__name__
        if not is_default(dataset):
            cure = (
                "give the path of a zip fetched by hand, or set KAGGLE_API_TOKEN if it is private"
            )
            what = f"no such folder in {Path.cwd()}, and from Kaggle {reason}: {str(error)[:200]}"
            raise InputError(f"dataset = {dataset!r}: {what} ({cure})") from error
    return Fetched(draw(data_dir), source=f"drawings instead of {dataset}", stand_in_reason=reason)


def draw(data_dir: Path) -> Path:
    folder = data_dir / "source" / "drawings"
    draw_dataset(folder)
    return folder


def download(handle: str) -> Fetched:
    """Download a Kaggle data set, once; its source names the version that was had.

    kagglehub asks for the newest version first: offline, the newest in its cache has to be named.
    """
    try:
        folder = Path(kagglehub.dataset_download(handle))
    except Exception:
        cache = Path(kagglehub.config.get_cache_folder(), "datasets", handle)
        complete = [int(path.stem) for path in cache.glob("*.complete") if path.stem.isdigit()]
        if not complete:
            raise
        newest = max(complete)
        folder = Path(kagglehub.dataset_download(f"{handle}/versions/{newest}"))
    if not folder.name.isdigit():
        return Fetched(folder, source=handle)
    plain_handle = handle.split("/versions/")[0]
    return Fetched(folder, source=f"{plain_handle}/versions/{folder.name}")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip into `folder`/<name and fingerprint of the zip>, once; return that folder.

    Raises:
        InputError: not a zip, one that cannot be read, or one that would fill the disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as file:
            target = folder / f"{archive.stem[:50]}-{fingerprint(file)}"
            if not target.is_dir():
                unpack_whole(file, target)
    # zipfile and its decompressors raise a dozen kinds
    except Exception as error:
        raise InputError(f"{archive}: cannot be unpacked ({error}); is it a whole zip?") from error
    return target


def fingerprint(file: zipfile.ZipFile) -> str:
    """Return eight digits that follow from the names and contents of a zip."""
    members = [(member.filename, member.CRC) for member in file.infolist()]
    return hashlib.sha256(repr(members).encode(errors="replace")).hexdigest()[:8]


def unpack_whole(file: zipfile.ZipFile, target: Path) -> None:
    """Unpack a zip so that `target` is there whole or not at all.

    `ZipFile.extract` itself keeps absolute names and `..` inside the target.
    """
    size = sum(member.file_size for member in file.infolist())
    packed_size = Path(file.filename).stat().st_size
    free = shutil.disk_usage(target.parent).free
    # a bomb packs a thousand to one, photos hardly at all
    if size > free or size > 2**30 + 100 * packed_size:
        raise OSError(f"{size / 1e9:.1f} GB when unpacked, which is too much")
    with tempfile.TemporaryDirectory(dir=target.parent) as partial:
        whole = Path(partial, "whole")
        for member in file.infolist():
            # of an old Windows tool
            member.filename = member.filename.replace("\\", "/")
            file.extract(member, whole)
        whole.rename(target)


def find_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that a person made, sorted."""
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.is_dir() and not is_hidden(path.name)]


def enter(folder: Path, subset: str = "") -> Path:
    """Return the sub-folder `subset`, or `folder` itself; one extra folder around all is passed.

    Raises:
        InputError: there is no such sub-folder; the message lists those that there are.
    """
    if subset and (folder / subset).is_dir():
        return folder / subset
    inside = find_folders(folder)
    if len(inside) == 1 and find_folders(inside[0]):
        return enter(inside[0], subset)
    if not subset:
        return folder
    names = ", ".join(path.name for path in inside) or "no folders"
    raise InputError(f"subset = {subset!r}: {folder} has only {names}")


def find_parts(folder: Path, subset: str) -> Layout:
    """Tell a pool from a ready-made split.

    Raises:
        InputError: folders that look like the parts of a split would be taken for classes.
    """
    chosen = [name.strip() for name in subset.split(",") if name.strip()]
    if len(chosen) > 1:
        pooled = {name.replace("/", "_"): enter(folder, name) for name in chosen}
        return Layout(pooled, ready_made=False, notes=[])
    root = enter(folder, chosen[0] if chosen else "")
    folders = [look_into(path) for path in find_folders(root)]
    filled = [sub for sub in folders if sub.count]
    alike = [sub for sub in filled if sub.looks_like_part]
    others = [sub for sub in filled if not sub.looks_like_part]
    labelled = {sub.name: sub for sub in alike if sub.has_folders}
    train = labelled.get("train")
    held_out = [labelled[name] for name in HELD_OUT if name in labelled]
    if train and held_out:
        test = held_out[0]
        return Layout(
            parts={"train": enter(train.path), "test": enter(test.path)},
            ready_made=True,
            notes=describe_unused(root, filled, used=[train, test]),
        )
    if len(labelled) == 1 and not others:
        (only,) = labelled.values()
        return Layout(
            parts={"": enter(only.path)},
            ready_made=False,
            notes=describe_unused(root, filled, used=[only]),
        )
    # photos for a test beside two classes or more are no third class
    stray = [sub for sub in alike if sub.name in ("train", *HELD_OUT) and len(others) > 1]
    if labelled or stray or (alike and not others):
        names = ", ".join(sub.path.name for sub in folders)
        cure = choose_cure(alike, stray=stray if others and not labelled else [])
        raise InputError(f"{root}: {names} look like parts of a split; {cure}")
    return Layout({"": root}, ready_made=False, notes=[])


def look_into(path: Path) -> SubFolder:
    name = path.name.lower()
    images = [file for file in find_files(path) if is_image(file)]
    return SubFolder(
        path=path,
        name=name,
        count=len(images),
        has_folders=bool(find_folders(path)),
        looks_like_part=PART.fullmatch(name) is not None,
    )


def describe_unused(root: Path, folders: list[SubFolder], used: list[SubFolder]) -> list[str]:
    """Return a line for images beside the folders, and one for each folder that is not used."""
    notes = []
    loose = sum(is_image(path) for path in root.iterdir() if path.is_file())
    if loose:
        notes.append(f"{loose} images beside the class folders are not used")
    for sub in sorted(folders, key=lambda sub: sub.name):
        if sub in used:
            continue
        if sub.has_folders:
            notes.append(f"{sub.path.name}: {sub.count} images are not used")
        else:
            notes.append(f"{sub.path.name}: {sub.count} images have no labels and are not used")
    return notes


def choose_cure(alike: list[SubFolder], stray: list[SubFolder]) -> str:
    """Return what to do about folders that look like parts of a split."""
    if stray:
        return f"move {stray[0].name} out, or rename it if it is a class"
    words = Counter()
    for sub in alike:
        for file in find_files(sub.path):
            # cat.0.jpg, dog_12.jpg
            words[re.match(r"[^\W\d_]*", file.name)[0]] += 1
    kinds = sorted(word for word, count in words.items() if count > 1 and word)
    if not any(sub.has_folders for sub in alike) and 1 < len(kinds) < 20:
        return f"file names seem to hold the classes ({', '.join(kinds)}): make folders of them"
    return "name two of them train and test, or set subset to what is to be used"


def keep_apart(sources: list[Path], data_dir: Path) -> None:
    """Raise InputError if a folder that is written to lies in the data set, or it in that one."""
    target = data_dir.resolve()
    written = [target / part for part in ("train", "test", "train_aug")]
    for source in [path.resolve() for path in sources]:
        lies_inside = any(source.is_relative_to(folder) for folder in written)
        if target.is_relative_to(source) or lies_inside:
            raise InputError(f"{data_dir}: must not lie in the data set, or that in it ({source})")
