"""Where the images come from: a Kaggle handle, a folder or a zip → folders with a class each."""

import hashlib
import re
import shutil
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import kagglehub

from data.drawings import draw_dataset
from data.files import InputError, expand
from data.images import find_files, is_hidden, is_image

DEFAULT_DATASET = "samuelcortinhas/cats-and-dogs-image-classification"
HELD_OUT = ("test", "val", "valid", "validation")  # a ready-made test set: the first that is there
PART = re.compile(r"(.*[^a-z])?(train|test|val|valid|validation|eval)(ing|set|s)?([^a-z].*)?")


def is_default(dataset: str) -> bool:
    return dataset.split("/versions/")[0] == DEFAULT_DATASET


def fetch_dataset(dataset: str, data_dir: Path) -> tuple[Path, str, str]:
    """Return (folder with the images, what they are, why drawings stand in or "").

    Only the default data set may be replaced by drawings: a name the user chose must not be.

    Raises:
        InputError: `dataset` is nothing that can be read or downloaded.
    """
    path, drawings = Path(expand(dataset)), data_dir / "source" / "drawings"
    if dataset == "drawings":
        draw_dataset(drawings)
        return drawings, dataset, ""
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        handle = re.fullmatch(r"[\w.-]+/[\w.-]+(/versions/\d+)?", dataset)
        handle = handle and not path.parent.exists()
    except (OSError, ValueError):  # too long for a path, or no path at all
        is_folder = is_file = handle = False
    if is_folder:
        return path, dataset, ""
    if is_file:
        return unpack(path, data_dir / "source"), dataset, ""
    if not handle:
        where = f"no such folder or zip in {Path.cwd()}, and no Kaggle handle owner/name"
        raise InputError(f"dataset = {dataset[:200]!r}: {where}")
    try:
        return *download(dataset), ""
    except Exception as error:
        missing = type(error).__name__
        if not is_default(dataset):
            cure = (
                "give the path of a zip fetched by hand, or set KAGGLE_API_TOKEN if it is private"
            )
            what = f"no such folder in {Path.cwd()}, and from Kaggle {missing}: {str(error)[:200]}"
            raise InputError(f"dataset = {dataset!r}: {what} ({cure})") from error
    draw_dataset(drawings)
    return drawings, f"drawings instead of {dataset}", missing


def download(handle: str) -> tuple[Path, str]:
    """Return the folder of a Kaggle data set and its handle with the version that was had.

    kagglehub asks for the newest version first: offline, the newest in its cache has to be named.
    """
    try:
        folder = Path(kagglehub.dataset_download(handle))
    except Exception:
        cache = Path(kagglehub.config.get_cache_folder(), "datasets", handle)
        complete = [int(path.stem) for path in cache.glob("*.complete") if path.stem.isdigit()]
        if not complete:
            raise
        folder = Path(kagglehub.dataset_download(f"{handle}/versions/{max(complete)}"))
    plain = handle.split("/versions/")[0]
    return folder, f"{plain}/versions/{folder.name}" if folder.name.isdigit() else handle


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip into `folder`/<name and fingerprint of the zip>, once; return that folder.

    `ZipFile.extract` itself keeps absolute names and `..` inside the target.

    Raises:
        InputError: not a zip, one that cannot be read, or one that would fill the disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as file, tempfile.TemporaryDirectory(dir=folder) as partial:
            members = [(member.filename, member.CRC) for member in file.infolist()]
            mark = hashlib.sha256(repr(members).encode(errors="replace")).hexdigest()[:8]
            target = folder / f"{archive.stem[:50]}-{mark}"
            if not target.is_dir():
                size, packed = sum(member.file_size for member in file.infolist()), archive.stat()
                if size > shutil.disk_usage(folder).free or size > 2**30 + 100 * packed.st_size:
                    raise OSError(f"{size / 1e9:.1f} GB when unpacked, which is too much")
                for member in file.infolist():
                    member.filename = member.filename.replace("\\", "/")  # of an old Windows tool
                    file.extract(member, Path(partial, "whole"))
                Path(partial, "whole").rename(target)
    except Exception as error:  # zipfile and its decompressors raise a dozen kinds
        raise InputError(f"{archive}: cannot be unpacked ({error}); is it a whole zip?") from error
    return target


def find_folders(folder: Path) -> dict[str, Path]:
    """Return {name in lower case: path} of the folders in a folder that a person made."""
    paths = [
        path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path.name)
    ]
    return {path.name.lower(): path for path in paths}


def enter(folder: Path, subset: str = "") -> Path:
    """Return the sub-folder `subset`, or `folder` itself; one extra folder around all is passed.

    Raises:
        InputError: there is no such sub-folder; the message lists those that there are.
    """
    inside = find_folders(folder)
    if subset and (folder / subset).is_dir():
        return folder / subset
    if len(inside) == 1 and find_folders(*inside.values()):
        return enter(*inside.values(), subset)
    if subset:
        names = ", ".join(path.name for path in inside.values())
        raise InputError(f"subset = {subset!r}: {folder} has only {names or 'no folders'}")
    return folder


def find_parts(folder: Path, subset: str) -> tuple[dict[str, Path], bool, list[str]]:
    """Tell a pool from a ready-made split.

    Returns:
        {part: folder with the classes}, several of a pool where `subset` names several; is it
        {"train", "test"} of a ready-made split? What is not used, a line each.

    Raises:
        InputError: folders that look like the parts of a split would be taken for classes.
    """
    chosen = [name.strip() for name in subset.split(",") if name.strip()]
    if len(chosen) > 1:
        return {name.replace("/", "_"): enter(folder, name) for name in chosen}, False, []
    root = enter(folder, *chosen)
    folders = find_folders(root)
    images = {name: sum(map(is_image, find_files(path))) for name, path in folders.items()}
    alike = [name for name in folders if PART.fullmatch(name) and images[name]]
    labelled = [name for name in alike if find_folders(folders[name])]
    others = [name for name in folders if name not in alike and images[name]]
    stray = [name for name in alike if name in ("train", *HELD_OUT) and len(others) > 1]
    loose = sum(is_image(path) for path in root.iterdir() if path.is_file())
    notes = [f"{loose} images beside the class folders are not used"] if loose else []
    held_out = [name for name in HELD_OUT if name in labelled]
    if "train" in labelled and held_out:
        parts = {"train": enter(folders["train"]), "test": enter(folders[held_out[0]])}
        used = {"train", held_out[0]}
    elif len(labelled) == 1 and not others:
        parts, used = {"": enter(folders[labelled[0]])}, set(labelled)
    elif labelled or stray or (alike and not others):
        files = [file for name in alike for file in find_files(folders[name])]
        words = Counter(re.match(r"[^\W\d_]*", file.name)[0] for file in files)
        kinds = sorted(word for word, n in words.items() if n > 1 and word)
        cure = "name two of them train and test, or set subset to what is to be used"
        if not labelled and 1 < len(kinds) < 20:
            cure = f"file names seem to hold the classes ({', '.join(kinds)}): make folders of them"
        if others and not labelled:
            cure = f"move {stray[0]} out, or rename it if it is a class"
        raise InputError(f"{root}: {', '.join(folders)} look like parts of a split; {cure}")
    else:
        return {"": root}, False, []
    for name in sorted(set(folders) - used):
        if images[name]:
            labels = "" if find_folders(folders[name]) else "have no labels and "
            notes.append(f"{folders[name].name}: {images[name]} images {labels}are not used")
    return parts, len(parts) > 1, notes


def keep_apart(sources: list[Path], data_dir: Path) -> None:
    """Raise InputError if a folder that is written to lies in the data set, or it in that one."""
    target = data_dir.resolve()
    for source in [path.resolve() for path in sources]:
        written = [target / part for part in ("train", "test", "train_aug")]
        if target.is_relative_to(source) or any(map(source.is_relative_to, written)):
            raise InputError(f"{data_dir}: must not lie in the data set, or that in it ({source})")
