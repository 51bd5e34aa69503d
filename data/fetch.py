"""Where the images come from: a Kaggle handle, a folder or a zip → folders with a class each."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# kagglehub brings it
import requests

from data.drawings import draw_dataset
from data.files import InputError, expand, how_many, refuse_case_twins
from data.images import describe_loose, find_files, is_hidden, is_image

DEFAULT_DATASET = "samuelcortinhas/cats-and-dogs-image-classification"
# folders of data_dir that are made anew
WRITTEN = re.compile(r"train|train_aug|test|repeat_\d+")
# a ready-made test set: the first that is there and has classes of train
HELD_OUT = ("test", "val", "valid", "validation", "eval")
# the names that parts of a split have, in lower case: train, Testing, seg_test, val_2 …
PART = re.compile(
    r"(?P<before>.*[^a-z])?"
    r"(?P<role>train|test|val|valid|validation|eval)(ing|set|s)?"
    r"(?P<after>[^a-z].*)?"
)
# what else such a name may hold without being that of a class
OF_PARTS = {"batch", "data", "dataset", "fold", "images", "img", "part", "photos", "set", "split"}
# folders that a class may hold
OF_ONE_CLASS = re.compile(r"(image|img|mask|photo|picture|label|annotation)s?")
# seconds: until Kaggle is connected, and between two pieces of its answer
PATIENCE = (10, 60)
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
    # {folder in each class: "train" or "test"} of a split that lies inside the classes
    sides: dict[str, str] | None = None


class SubFolder(NamedTuple):
    """A folder beside others: a class, or a part of a split."""

    path: Path
    # in lower case
    name: str
    # of images below it
    count: int
    # their names in NFC; may they be classes?
    folders: set[str]
    # "train" or one of HELD_OUT, or "" where the name is not that of a part
    role: str
    # does the name say more than the part, and its number?
    says_more: bool


def is_default(dataset: str) -> bool:
    return dataset.split("/versions/")[0] == DEFAULT_DATASET


def fetch_dataset(dataset: str, data_dir: Path) -> Fetched:
    """Find, unpack or download a data set; draw it where Kaggle cannot be reached.

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
    kagglehub = load_kagglehub(dataset)
    try:
        with answered_in_time():
            return download(dataset, kagglehub)
    except (requests.ConnectionError, requests.Timeout) as error:
        if not is_default(dataset):
            raise InputError(explain_download(dataset, error)) from error
        reason = type(error).__name__
    # refused, damaged, no room for it …
    except Exception as error:
        raise InputError(explain_download(dataset, error)) from error
    return Fetched(draw(data_dir), source=f"drawings instead of {dataset}", stand_in_reason=reason)


def explain_download(dataset: str, error: Exception) -> str:
    """Return why a data set could not be had of Kaggle, and what to do about it."""
    cure = "give the path of a zip fetched by hand, or set KAGGLE_API_TOKEN if it is private"
    if is_default(dataset):
        cure = "run it again, give the path of a zip fetched by hand, or dataset=drawings"
    reason = f"{type(error).__name__}: {str(error)[:200]}"
    return (
        f"dataset = {dataset!r}: no such folder in {Path.cwd()}, and from Kaggle {reason} ({cure})"
    )


def draw(data_dir: Path) -> Path:
    folder = data_dir / "source" / "drawings"
    draw_dataset(folder)
    return folder


def load_kagglehub(dataset: str) -> ModuleType:
    """Import kagglehub, which wants a home folder: a local folder or zip is read without."""
    try:
        import kagglehub
    except Exception as error:
        cure = "set HOME, or give the path of a folder or zip"
        raise InputError(f"dataset = {dataset!r}: kagglehub fails, {error} ({cure})") from error
    return kagglehub


@contextlib.contextmanager
def answered_in_time() -> Iterator[None]:
    """Have every request fail that has no timeout of its own and gets no answer.

    kagglehub waits for a silent server for ever, and has no setting for it; the default timeout of
    sockets does not count, as requests sets each one's own.
    """
    send = requests.adapters.HTTPAdapter.send

    def send_in_time(
        self: requests.adapters.HTTPAdapter,
        request: requests.PreparedRequest,
        timeout: tuple[float, float] | float | None = None,
        **options: object,
    ) -> requests.Response:
        return send(self, request, timeout=timeout or PATIENCE, **options)

    requests.adapters.HTTPAdapter.send = send_in_time
    try:
        yield
    finally:
        requests.adapters.HTTPAdapter.send = send


def download(handle: str, kagglehub: ModuleType) -> Fetched:
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
    """Unpack a zip into `folder`/<name and fingerprint of the zip>, unless all of it is there.

    Returns:
        That folder.

    Raises:
        InputError: not a zip, one that cannot be read, or one that would fill the disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as file:
            target = folder / f"{archive.stem[:50]}-{fingerprint(file)}"
            if not is_unpacked(file, target):
                unpack_whole(file, target)
    except InputError:
        raise
    # zipfile and its decompressors raise a dozen kinds
    except Exception as error:
        raise InputError(f"{archive}: cannot be unpacked ({error}); is it a whole zip?") from error
    return target


def fingerprint(file: zipfile.ZipFile) -> str:
    """Return eight digits that follow from the names and contents of a zip."""
    members = [(member.filename, member.CRC) for member in file.infolist()]
    return hashlib.sha256(repr(members).encode(errors="replace")).hexdigest()[:8]


def name_inside(member: zipfile.ZipInfo) -> str:
    """Return the name that `ZipFile.extract` gives a member in its folder.

    It keeps absolute names and `..` inside.
    """
    # of an old Windows tool
    names = member.filename.replace("\\", "/").split("/")
    return "/".join(name for name in names if name not in ("", ".", ".."))


def is_unpacked(file: zipfile.ZipFile, target: Path) -> bool:
    """Tell whether every file of a zip is below `target`, in its full length."""
    if not target.is_dir():
        return False
    # of two with one name the last one stays
    sizes = {name_inside(member): member.file_size for member in file.infolist()}
    for name, size in sizes.items():
        path = target / name
        if not path.exists():
            return False
        if path.is_file() and path.stat().st_size != size:
            return False
    return True


def unpack_whole(file: zipfile.ZipFile, target: Path) -> None:
    """Unpack a zip so that `target` is there whole or not at all."""
    size = sum(member.file_size for member in file.infolist())
    packed_size = Path(file.filename).stat().st_size
    free = shutil.disk_usage(target.parent).free
    # a bomb packs a thousand to one, photos hardly at all
    if size > free or size > 2**30 + 100 * packed_size:
        raise OSError(f"{size / 1e9:.1f} GB when unpacked, which is too much")
    refuse_case_twins(map(name_inside, file.infolist()), target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent) as partial:
        whole = Path(partial, "whole")
        for member in file.infolist():
            member.filename = member.filename.replace("\\", "/")
            file.extract(member, whole)
        # one that lacks a file
        if target.exists():
            target.rename(Path(partial, "damaged"))
        whole.rename(target)


def find_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that a person made, sorted."""
    with os.scandir(folder) as entries:
        # of thousands of photos beside them none is asked for more than is listed
        names = [entry.name for entry in entries if not entry.is_file(follow_symlinks=False)]
    paths = [folder / name for name in sorted(names) if not is_hidden(name)]
    return [path for path in paths if path.is_dir()]


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
    names = list_some(path.name for path in inside) or "no folders"
    raise InputError(f"subset = {subset!r}: {folder} has only {names}")


def list_some(names: Iterable[str]) -> str:
    """Return names with commas between them, but of many only the first."""
    names = list(names)
    if len(names) <= 8:
        return ", ".join(names)
    first = ", ".join(names[:5])
    return f"{first} and {len(names) - 5} more"


def find_parts(folder: Path, subset: str) -> Layout:
    """Tell a pool from a ready-made split.

    Args:
        subset: a sub-folder, or several with commas between them, which are pooled; "." or one
            that ends in "/.": the folders in it are classes, whatever their names.

    Raises:
        InputError: there is no such sub-folder, or parts of the data set would be taken for
            classes.
    """
    chosen = [name.strip() for name in subset.split(",") if name.strip()]
    if len(chosen) > 1:
        pooled = {name.replace("/", "_"): enter(folder, name) for name in chosen}
        layout = Layout(pooled, ready_made=False, notes=[])
    else:
        asked = chosen[0] if chosen else ""
        if asked == "." or asked.endswith("/."):
            root = enter(folder, asked.removesuffix(".").rstrip("/"))
            return Layout({"": root}, ready_made=False, notes=[])
        root = enter(folder, asked)
        sides = find_sides(root)
        if sides:
            names = " and ".join(sides)
            anew = f"{name_as_classes(folder, root)} splits all of it anew"
            note = f"every class holds {names}: used as train and test ({anew})"
            return Layout({"": root}, ready_made=True, notes=[note], sides=sides)
        layout = read_layout(folder, root)
    for part in layout.parts.values():
        refuse_parts_as_classes(folder, part)
    return layout


def read_layout(folder: Path, root: Path) -> Layout:
    """Tell by the names and contents of the folders in `root` what they are.

    Raises:
        InputError: they look like the parts of a split, but it cannot be told which.
    """
    folders = [look_into(path) for path in find_folders(root)]
    filled = [sub for sub in folders if sub.count]
    alike = [sub for sub in filled if sub.role]
    others = [sub for sub in filled if not sub.role]
    labelled = [sub for sub in alike if sub.folders]
    train = choose_part(labelled, "train")
    test = choose_test_part(labelled, train)
    if train and test:
        refuse_unequal_classes(folder, train, test)
        return Layout(
            parts={"train": enter(train.path), "test": enter(test.path)},
            ready_made=True,
            notes=describe_unused(root, filled, used=[train, test]),
        )
    if len(labelled) == 1 and not others:
        only = labelled[0]
        return Layout(
            parts={"": enter(only.path)},
            ready_made=False,
            notes=describe_unused(root, filled, used=[only]),
        )
    if not others and are_classes(alike):
        names = list_some(sub.path.name for sub in alike)
        note = f"{names}: taken for classes, as there is no train among them"
        return Layout({"": root}, ready_made=False, notes=[note])
    names = list_some(sub.path.name for sub in alike)
    if labelled or (alike and not others):
        raise InputError(
            f"{root}: {names} look like parts of a split; {choose_cure(alike)} "
            f"({name_as_classes(folder, root)} if they are classes)"
        )
    # photos for a test beside two classes or more are no third class
    is_stray = any(sub.name in ("train", *HELD_OUT) for sub in alike)
    if is_stray and len(others) > 1:
        raise InputError(
            f"{root}: {names} beside classes looks like a part of a split; move it out, "
            f"or set {name_as_classes(folder, root)} if it is a class"
        )
    return Layout({"": root}, ready_made=False, notes=[])


def find_sides(root: Path) -> dict[str, str]:
    """Return {name of a folder: "train" or "test"} if every class in `root` holds the same split.

    Such is class/train, class/test. {}: there is none, or not the same in all.
    """
    classes = find_folders(root)
    if not all(may_be_class(path.name) for path in classes):
        return {}
    names = [path.name for path in find_folders(classes[0])] if len(classes) > 1 else []
    if not any(PART.fullmatch(name.lower()) for name in names):
        return {}
    for path in classes:
        parts = [look_into(inner) for inner in find_folders(path)]
        if [part.path.name for part in parts] != names:
            return {}
        if any(part.folders or not part.count for part in parts):
            return {}
    train = choose_part(parts, "train")
    held_out = [choose_part(parts, role) for role in HELD_OUT]
    test = next((part for part in held_out if part), None)
    if train is None or test is None:
        return {}
    return {train.path.name: "train", test.path.name: "test"}


def may_be_class(name: str) -> bool:
    """Tell the name of a class from that of a part, such as fold_0, or of what a class holds."""
    words = set(re.findall(r"[^\W\d_]+", name.lower()))
    if words and words <= OF_PARTS:
        return False
    return not OF_ONE_CLASS.fullmatch(name.lower())


def look_into(path: Path) -> SubFolder:
    name = path.name.lower()
    images = [file for file in find_files(path) if is_image(file)]
    part = PART.fullmatch(name)
    role = ""
    words = set()
    if part:
        role = part["role"]
        rest = f"{part['before'] or ''} {part['after'] or ''}"
        words = set(re.findall(r"[^\W\d_]{3,}", rest))
    return SubFolder(
        path=path,
        name=name,
        count=len(images),
        folders=name_folders(path),
        role=role,
        says_more=bool(words - OF_PARTS),
    )


def name_folders(folder: Path) -> set[str]:
    """Return the names, in NFC, of the folders in a folder, passing one extra around all."""
    return {unicodedata.normalize("NFC", path.name) for path in find_folders(enter(folder))}


def choose_part(folders: list[SubFolder], role: str) -> SubFolder | None:
    """Return the folder that is called so, or the only one whose name says so."""
    says_so = [sub for sub in folders if sub.role == role]
    is_called_so = [sub for sub in says_so if sub.name == role]
    for candidates in (is_called_so, says_so):
        if len(candidates) == 1:
            return candidates[0]
    return None


def choose_test_part(folders: list[SubFolder], train: SubFolder | None) -> SubFolder | None:
    """Return the first held-out part that has classes of `train`; else `test`, if called so."""
    if train is None:
        return None
    held_out = [choose_part(folders, role) for role in HELD_OUT]
    held_out = [part for part in held_out if part]
    for part in held_out:
        if leave_classes(part.folders & train.folders):
            return part
    if train.name == "train" and held_out and held_out[0].name in HELD_OUT:
        return held_out[0]
    return None


def leave_classes(names: set[str]) -> set[str]:
    """Return names of folders without those that a class itself may hold: images, masks …"""
    return {name for name in names if not OF_ONE_CLASS.fullmatch(name.lower())}


def are_classes(alike: list[SubFolder]) -> bool:
    """Tell classes such as `test_positive`, `test_negative` from the parts of a split."""
    roles = {sub.role for sub in alike}
    plain = [sub for sub in alike if sub.says_more and not sub.folders]
    return len(roles) == 1 and len(alike) > 1 and plain == alike


def name_subset(folder: Path, paths: list[Path]) -> str:
    """Return the setting that uses these folders of a data set."""
    names = []
    for path in paths:
        # a subset may be anywhere
        inside = path.relative_to(folder) if path.is_relative_to(folder) else path
        names.append(inside.as_posix())
    return f"subset={','.join(names)}"


def name_as_classes(folder: Path, root: Path) -> str:
    """Return the setting that takes the folders in `root` for classes, whatever their names."""
    if root == enter(folder):
        return "subset=."
    return f"{name_subset(folder, [root])}/."


def refuse_unequal_classes(folder: Path, train: SubFolder, test: SubFolder) -> None:
    """Raise InputError if a class is in one part of a split only."""
    lacking = sorted(train.folders ^ test.folders)
    if not lacking:
        return
    alone = name_subset(folder, [train.path])
    raise InputError(
        f"{train.path.parent}: {list_some(lacking)}: not in both {train.path.name} and "
        f"{test.path.name}; {alone} splits that one alone"
    )


def refuse_parts_as_classes(folder: Path, root: Path) -> None:
    """Raise InputError if folders in `root`, which are to be classes, are parts of the data set.

    That is so where several hold the same two or more folders of images, or one holds a split.
    """
    alike: dict[frozenset[str], list[Path]] = {}
    for path in find_folders(root):
        refuse_split_as_class(folder, path)
        names = leave_classes(name_folders(path))
        alike.setdefault(frozenset(names), []).append(path)
    for names, paths in alike.items():
        # another may hold a class more
        parts = [path for others in alike if names <= others for path in alike[others]]
        if len(names) < 2 or len(parts) < 2 or not holds_images(paths[0], names):
            continue
        parts.sort()
        raise InputError(
            f"{root}: {list_some(path.name for path in parts)} hold the same folders "
            f"({list_some(sorted(names))}), so they are parts of the data set, not classes; "
            f"{name_subset(folder, parts[:1])} uses one of them, "
            f"{name_subset(folder, parts[:2])} pools two, "
            f"{name_as_classes(folder, root)} takes them for classes"
        )


def refuse_split_as_class(folder: Path, path: Path) -> None:
    """Raise InputError if `path`, which is to be a class, holds a train and a test."""
    inside = find_folders(enter(path))
    parts = [look_into(inner) for inner in inside if PART.fullmatch(inner.name.lower())]
    roles = {part.role for part in parts if part.count}
    if "train" not in roles or len(roles) < 2:
        return
    names = list_some(part.path.name for part in parts)
    if any(part.folders for part in parts):
        alone = name_subset(folder, [path])
        raise InputError(f"{path}: holds {names}, so it is no class: set {alone} to use it alone")
    raise InputError(
        f"{path}: holds {names}: make folders train and test with the classes in each, or set "
        f"{name_as_classes(folder, path.parent)} to split all of it anew"
    )


def holds_images(folder: Path, names: frozenset[str]) -> bool:
    """Tell whether each of the folders in a folder that have these names, in NFC, has images."""
    for path in find_folders(enter(folder)):
        if unicodedata.normalize("NFC", path.name) not in names:
            continue
        if not any(is_image(file) for file in find_files(path)):
            return False
    return True


def describe_unused(root: Path, folders: list[SubFolder], used: list[SubFolder]) -> list[str]:
    """Return a line for images beside the folders, and one for each folder that is not used."""
    notes = []
    loose = sum(is_image(path) for path in root.iterdir() if path.is_file())
    if loose:
        notes.append(describe_loose(loose))
    for sub in sorted(folders, key=lambda sub: sub.name):
        if sub in used:
            continue
        if sub.folders:
            number = how_many(sub.count, "image is", "images are")
            notes.append(f"{sub.path.name}: {number} not used")
        else:
            number = how_many(
                sub.count, "image has no label and is", "images have no labels and are"
            )
            notes.append(f"{sub.path.name}: {number} not used")
    return notes


def choose_cure(alike: list[SubFolder]) -> str:
    """Return what to do about folders that look like parts of a split."""
    words = Counter()
    for sub in alike:
        for file in find_files(sub.path):
            # cat.0.jpg, dog_12.jpg
            words[re.match(r"[^\W\d_]*", file.name)[0]] += 1
    kinds = sorted(word for word, count in words.items() if count > 1 and word)
    if not any(sub.folders for sub in alike) and 1 < len(kinds) < 20:
        return f"file names seem to hold the classes ({', '.join(kinds)}): make folders of them"
    return "name two of them train and test, or set subset to what is to be used"


def keep_apart(sources: list[Path], data_dir: Path) -> None:
    """Raise InputError if a folder that is written to lies in the data set, or it in that one."""
    target = data_dir.resolve()
    for source in [path.resolve() for path in sources]:
        lies_inside = False
        if source.is_relative_to(target) and source != target:
            top = source.relative_to(target).parts[0]
            lies_inside = bool(WRITTEN.fullmatch(top))
        if target.is_relative_to(source) or lies_inside:
            raise InputError(f"{data_dir}: must not lie in the data set, or that in it ({source})")
