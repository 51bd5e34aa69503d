"""What is in a data set: every image read once, duplicates and contradictory labels found."""

import hashlib
import io
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.files import InputError, write_whole
from data.images import find_files, find_images, is_hidden, is_image, load_image, read_origin


@dataclass
class Photo:
    """An image of the data set as it was read."""

    file: Path
    label: str
    digest: str  # of the file's bytes
    origin: str  # digest of the photo that this is an augmented copy of, or ""
    grey: np.ndarray  # (32, 32) uint8
    colour: np.ndarray  # (32, 32, 3) uint8
    pages: bool  # has it several?
    scale: tuple | None  # of values deeper than 8 bits


def list_files(parts: dict[str, Path], ready_made: bool) -> dict[str, tuple[Path, str, Path]]:
    """Return {name: (image file, class, folder of the class)}; names are in Unicode NFC.

    They are "train/class/file" and "test/class/file" of a ready-made split, else "class/file",
    or "class/part_file" where several pooled parts hold the same name.

    Raises:
        InputError: fewer than two classes, not the same in all parts, or one without an image.
    """
    found = {part: find_images(folder) for part, folder in parts.items()}
    source, classes = " and ".join(map(str, parts.values())), sorted(set().union(*found.values()))
    if lacking := [kind for kind in classes if not all(kind in kinds for kinds in found.values())]:
        raise InputError(f"{source}: {', '.join(lacking)}: not in both {' and '.join(parts)}")
    if len(classes) < 2:
        raise InputError(f"{source}: only one class; expected one folder of images per class")
    rows = []
    for part, kind in [(part, kind) for part in parts for kind in classes]:
        folder = parts[part] / kind
        if not found[part][kind]:
            what = "; ".join(describe_others(parts[part], kind)) or "It is empty"
            raise InputError(f"{folder}: no readable image in {kind}. {what}")
        for file in found[part][kind]:
            inner = "/".join(file.relative_to(parts[part]).parts[1:])
            rows.append((part, kind, unicodedata.normalize("NFC", inner), file))
    files, times = {}, Counter((kind, inner) for _, kind, inner, _ in rows)
    for part, kind, inner, file in rows:
        prefix = f"{part}_" if times[kind, inner] > 1 and not ready_made else ""
        name = f"{part}/" * ready_made + f"{kind}/{prefix}{inner}"
        if name in files:
            raise InputError(f"{file}: class {kind} has a second file of this name: rename one")
        if "\r" in name:  # where a row of manifest.csv would end
            raise InputError(f"{file}: a line break in its name: rename it")
        files[name] = file, kind, parts[part] / kind
    return files


def describe_others(root: Path, kind: str | None = None) -> list[str]:
    """Return a line for each suffix of files in class folders, or one of them, that are no images.

    They may be photos in a format that Pillow cannot read, like a phone's HEIC.
    """
    folders = [x for x in root.iterdir() if x.is_dir() and not is_hidden(x.name)]
    folders = [x for x in folders if kind in (None, unicodedata.normalize("NFC", x.name))]
    files = [file for folder in folders for file in find_files(folder)]
    others = [file for file in files if not is_image(file) and not is_hidden(file.name)]
    count = Counter(file.suffix.lower() or "without a suffix" for file in others)
    cure = "which cannot be read here: convert them if they are photos"
    return [f"{number} files {suffix}, {cure}" for suffix, number in count.items()]


def read_photos(
    parts: dict[str, Path], ready_made: bool, converted: Path, notes: list[str]
) -> tuple[dict[str, Photo], dict[str, str]]:
    """Decode every image of a data set once; `converted` gets those deeper than 8 bits as PNG.

    Returns:
        {name as of `list_files`: photo}, {path of an unreadable image: reason}. What else a reader
        should know is added to `notes`.

    Raises:
        InputError: as `list_files`, or no image of a class can be read.
    """
    files = list_files(parts, ready_made)
    with ThreadPoolExecutor() as threads:  # Pillow decodes outside Python's lock
        read = list(threads.map(lambda row: examine(*row[:2]), files.values()))
    read = dict(zip(files, read, strict=True))
    unreadable = {str(files[name][0]): x for name, x in read.items() if isinstance(x, str)}
    photos = {name: x for name, x in read.items() if isinstance(x, Photo)}
    for folder in {row[2] for row in files.values()} - {files[name][2] for name in photos}:
        why = [f"{files[k][0].name}: {x}" for k, x in read.items() if files[k][2] == folder]
        raise InputError(f"{folder}: no readable image in {folder.name}. {'; '.join(why[:2])}")
    for root in parts.values():
        loose = sum(is_image(path) for path in root.iterdir() if path.is_file())
        notes += [f"{loose} images beside the class folders are not used"] if loose else []
        notes += describe_others(root)
    several = sum(photo.pages for photo in photos.values())
    notes += [f"{several} images have several pages: the first is used"] if several else []
    if deep := [photo.scale for photo in photos.values() if photo.scale]:
        scale = min(low for low, _ in deep), max(high for _, high in deep)
        what = "images of more than 8 bits are used as 8-bit PNG, all on one scale for"
        notes.append(f"{len(deep)} {what} {scale[0]:g} to {scale[1]:g}")
        names = set(photos)
        photos = dict(to_8_bit_file(*x, scale, converted, names) for x in photos.items())
    return photos, unreadable


def examine(file: Path, label: str) -> Photo | str:
    """Return a photo as it was read, or what is wrong with it."""
    try:
        content, image = load_image(file)
    except OSError as error:
        return str(error)
    digest, info = hashlib.sha256(content).hexdigest()[:16], image.info
    grey, colour = (
        np.asarray(image.convert(mode).resize((32, 32), Image.Resampling.LANCZOS))
        for mode in ("L", "RGB")
    )
    origin = str(read_origin(info.get("comment")).get("content", ""))
    return Photo(file, label, digest, origin, grey, colour, "pages" in info, info.get("scale"))


def to_8_bit_file(
    name: str, photo: Photo, scale: tuple, folder: Path, names: set[str]
) -> tuple[str, Photo]:
    """Return a photo of deeper values under its new name, as a PNG file on a common scale."""
    if not photo.scale:
        return name, photo
    png, new = io.BytesIO(), Path(name).with_suffix(".png").as_posix()
    if new in names and new != name:
        new = Path(name).with_name(f"{photo.digest}.png").as_posix()
    names.add(new)
    load_image(photo.file, scale)[1].save(png, "PNG")
    write_whole(folder / new, png.getbuffer())
    return new, examine(folder / new, photo.label)


def find_duplicates(photos: list[Photo]) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, that show the same photo, perhaps resized or recompressed.

    Their perceptual hashes (`imagehash.phash`, Zauner 2010) differ in at most 6 of 64 bits, their
    grey thumbnails by less than 8 of 255 on the whole, and their colours by less than 48 in every
    eighth of width and height. A mirror image counts within a class: some tell left from right.
    """
    grey = np.array([photo.grey for photo in photos])
    parts = np.array([photo.colour for photo in photos]).reshape(-1, 8, 4, 8, 4, 3).mean((2, 4))
    labels, pairs = np.array([photo.label for photo in photos]), set()
    signs = []
    for turn in (1, -1):
        hashes = [imagehash.phash(Image.fromarray(image)).hash for image in grey[:, :, ::turn]]
        signs.append(np.where(np.array(hashes).reshape(-1, 64), 1, -1).astype(np.float32))
    for i, row in enumerate(signs[0]):
        for turn, other in zip((1, -1), signs, strict=True):
            j = np.flatnonzero((64 - other[i + 1 :] @ row) / 2 <= 6) + i + 1
            alike = np.abs(grey[j][:, :, ::turn].astype(int) - grey[i]).mean((1, 2)) < 8
            alike &= np.abs(parts[j][:, :, ::turn] - parts[i]).max((1, 2, 3), initial=0) < 48
            alike &= (turn == 1) | (labels[j] == labels[i])
            pairs.update((i, int(k)) for k in j[alike])
    return sorted(pairs)


def contradict(a: Photo, b: Photo) -> bool:
    """Tell whether two duplicates are so alike that their labels cannot both be right."""
    difference = np.abs(a.colour.astype(int) - b.colour).mean((0, 1)).max()
    return a.label != b.label and (a.digest == b.digest or difference < 2)


def group_photos(photos: list[Photo], pairs: list[tuple[int, int]], notes: list[str]) -> np.ndarray:
    """Return the number (N,) of each photo's group: duplicates, copies and theirs share one."""
    first, links = {}, [*pairs]
    for i, photo in enumerate(photos):
        links += [(first.setdefault(name, i), i) for name in (photo.digest, photo.origin) if name]
    if copies := sum(bool(photo.origin) for photo in photos):
        notes.append(f"{copies} copies made by augment.py: each stays on the side of its photo")
    graph = coo_array((np.ones(len(links)), np.array(links).T), shape=(len(photos), len(photos)))
    return connected_components(graph, directed=False)[1]
