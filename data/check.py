"""What is in a data set: every image read once, duplicates and contradictory labels found."""

import hashlib
import io
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from data.files import InputError, how_many, write_whole
from data.images import (
    describe_loose,
    find_files,
    find_images,
    is_hidden,
    is_image,
    load_image,
    read_origin,
)

# What two pictures of the same photo may differ in (`find_duplicates`).
MOST_HASH_BITS = 6  # of 64
MOST_GREY_DIFFERENCE = 8  # of 255, mean of the thumbnail
MOST_NOISE = 1  # of 255: two pictures that differ by less show the same in any set
MUCH_MORE_ALIKE = 0.2  # the difference as a part of what is usual in the class (`choose_limits`)
# A place may differ by so many times as much as the whole: a compressed photo's edges do, but not
# what moved before a fixed camera. Of a set whose pictures differ much this allows everything.
MOST_AT_A_PLACE = 32
LEAST_TO_COMPARE_WITH = 8  # pictures that tell what is usual
MOST_TO_COMPARE_WITH = 32
MOST_COLOUR_DIFFERENCE = 48  # of 255, anywhere in the thumbnail
# What two of them may still differ in if only one of two labels can be right (`contradict`).
MOST_RECOMPRESSION = 2  # of 255, mean of the thumbnail
MOST_RECOMPRESSION_AT_A_PLACE = 32  # of 255, anywhere in it

# How many are compared at once, for memory's sake: these times all photos; pairs of thumbnails.
ROWS_AT_A_TIME = 256
PAIRS_AT_A_TIME = 4096

# Called with (what is being done, images done, images in all).
Progress = Callable[[str, int, int], None]

MOST_BYTES_OF_A_NAME = 255

# By their names files and folders beside the images are masks, which say where something is.
MASK = re.compile(r"(.+?)[ _.-]+(masks?|segmentation|seg|gt)([ _.-]?\d+)?", re.IGNORECASE)
IMAGE_FOLDERS = {"image", "images", "img", "imgs"}
MASK_FOLDERS = {"mask", "masks", "segmentation", "segmentations", "annotations", "ground_truth"}
# By these a folder is known that the notebook or augment.py writes to.
WRITTEN_BY_US = ("metrics.json", "predictions.csv", "run.log", ".lock")
# A thumbnail whose values differ by no more, in each colour, shows nothing.
MOST_BLANK_DIFFERENCE = 2
# of what there is more of than a reader wants to see
MOST_EXAMPLES = 3

# What a name of a series opens with: "class/clip3_" of "class/clip3_007.jpg".
SERIES = re.compile(r"([^/]*/.*\d.*\D)\d+[^/\d]*")


class ImageFile(NamedTuple):
    """An image file of the data set, and where it belongs."""

    path: Path
    label: str
    class_folder: Path


@dataclass
class Photo:
    """An image of the data set as it was read."""

    file: Path
    label: str
    # of the file's bytes
    digest: str
    # digest of the photo that this is an augmented copy of, or ""
    origin: str
    # (32, 32) uint8
    grey: np.ndarray
    # (32, 32, 3) uint8
    colour: np.ndarray
    # is it the first of several pages?
    pages: bool
    # lowest and highest value where they are deeper than 8 bits
    scale: tuple | None


def show_nothing(step: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def list_files(
    parts: dict[str, Path],
    ready_made: bool,
    notes: list[str],
    sides: dict[str, str] | None = None,
) -> dict[str, ImageFile]:
    """Return every image file of a data set by its name, which is in Unicode NFC.

    A name is "train/class/file" or "test/class/file" of a ready-made split, else "class/file", or
    "class/part_file" where several pooled parts hold the same name. Masks are left out; a line
    that says so is added to `notes`.

    Args:
        sides: {folder in each class: "train" or "test"} of a split that lies inside the classes.

    Raises:
        InputError: fewer than two classes, not the same in all parts, or one without an image.
    """
    found = {part: find_images(folder) for part, folder in parts.items()}
    check_classes(parts, found)
    leave_out_masks(found, notes)
    times = Counter()
    for part, folder in parts.items():
        for label, paths in found[part].items():
            times.update((label, name_inside(folder, path)) for path in paths)
    files = {}
    unused = 0
    for part, folder in parts.items():
        for label in sorted(found[part]):
            for path in found[part][label]:
                inner = name_inside(folder, path)
                if sides:
                    part_of_class, _, rest = inner.partition("/")
                    if part_of_class not in sides:
                        unused += 1
                        continue
                    name = f"{sides[part_of_class]}/{label}/{rest}"
                elif ready_made:
                    name = f"{part}/{label}/{inner}"
                elif times[label, inner] > 1:
                    first, slash, rest = f"{part}_{inner}".partition("/")
                    name = f"{label}/{shorten(first)}{slash}{rest}"
                else:
                    name = f"{label}/{inner}"
                if name in files:
                    second = f"class {label} has a second file of this name: rename one"
                    raise InputError(f"{path}: {second}")
                # where a row of manifest.csv would end
                if "\r" in name:
                    raise InputError(f"{path}: a line break in its name: rename it")
                files[name] = ImageFile(path=path, label=label, class_folder=folder / label)
    if unused:
        beside = f"beside {' and '.join(sides)} in the classes"
        one = f"image {beside} is not used"
        notes.append(how_many(unused, one, f"images {beside} are not used"))
    return files


def shorten(name: str) -> str:
    """Return a file name cut to what a file system takes, and still another one for each name."""
    encoded = os.fsencode(name)
    if len(encoded) <= MOST_BYTES_OF_A_NAME:
        return name
    path = PurePosixPath(name)
    stem = os.fsencode(path.stem)[:200].decode(errors="ignore")
    return f"{stem}~{digest_of(encoded)}{path.suffix}"


def name_inside(folder: Path, path: Path) -> str:
    """Return an image's path below its class folder in `folder`, in Unicode NFC."""
    inner = path.relative_to(folder).parts[1:]
    return unicodedata.normalize("NFC", "/".join(inner))


def check_classes(parts: dict[str, Path], found: dict[str, dict[str, list[Path]]]) -> None:
    """Check that all parts of a data set hold the same classes, two or more, and images of each.

    Args:
        found: {part: {class: its image files}}.

    Raises:
        InputError: they do not, or one is none.
    """
    for folder in parts.values():
        refuse_results(folder)
    source = " and ".join(str(folder) for folder in parts.values())
    classes = sorted(set().union(*found.values()))
    lacking = []
    for label in classes:
        if not all(label in images for images in found.values()):
            lacking.append(label)
    if lacking:
        where = f"both {' and '.join(parts)}"
        if len(parts) > 2:
            where = f"all of {', '.join(parts)}"
        raise InputError(f"{source}: {name_some(lacking)}: not in {where}")
    pictures = [label for label in classes if label.lower() in IMAGE_FOLDERS]
    masks = [label for label in classes if label.lower() in MASK_FOLDERS]
    if pictures and masks:
        raise InputError(
            f"{source}: {masks[0]} are masks of {pictures[0]}, not a class of their own; "
            "expected one folder of images per class"
        )
    if len(classes) < 2:
        raise InputError(f"{source}: only one class; expected one folder of images per class")
    for part, folder in parts.items():
        for label in classes:
            if not found[part][label]:
                others = "; ".join(describe_others(folder, label)) or "It is empty"
                raise InputError(f"{folder / label}: no readable image in {label}. {others}")


def refuse_results(root: Path) -> None:
    """Raise InputError if a class folder in `root` is one that this project writes to."""
    for folder in root.iterdir():
        if is_hidden(folder.name):
            continue
        for name in WRITTEN_BY_US:
            if (folder / name).exists():
                raise InputError(
                    f"{folder}: {name} in it shows that a run writes its results there, so it is "
                    "no class: move it out of the data set and choose another results_dir"
                )


def leave_out_masks(found: dict[str, dict[str, list[Path]]], notes: list[str]) -> None:
    """Take the masks out of {part: {class: its image files}}; add to `notes` what they are."""
    masks = []
    for images in found.values():
        for label, paths in images.items():
            masks_of_class = find_masks(paths)
            images[label] = [path for path in paths if path not in masks_of_class]
            masks.extend(path for path in paths if path in masks_of_class)
    if masks:
        names = name_some([f"{path.parent.name}/{path.name}" for path in masks])
        number = how_many(len(masks), "mask beside its image is", "masks beside their images are")
        notes.append(f"{number} left out: {names}")


def find_masks(paths: list[Path]) -> set[Path]:
    """Return those of the image files of a class that are masks of others.

    They are `x_mask.png` beside `x.png`, and what lies in `masks/` beside a folder `images/`.
    """
    stems = {(path.parent, path.stem.lower()) for path in paths}
    mask_folders = find_mask_folders({path.parent for path in paths})
    masks = set()
    for path in paths:
        match = MASK.fullmatch(path.stem)
        if match and (path.parent, match[1].lower()) in stems:
            masks.add(path)
        if mask_folders and not mask_folders.isdisjoint(path.parents):
            masks.add(path)
    return masks


def find_mask_folders(folders: set[Path]) -> set[Path]:
    """Return those of some folders, and of the folders around them, that hold masks by name.

    There are others among them beside those, of images.
    """
    around = set(folders)
    for folder in folders:
        around.update(folder.parents)
    beside_images = {folder.parent for folder in around if folder.name.lower() in IMAGE_FOLDERS}
    mask_folders = set()
    for folder in around:
        if folder.name.lower() in MASK_FOLDERS and folder.parent in beside_images:
            mask_folders.add(folder)
    return mask_folders


def name_some(names: list[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    shown = ", ".join(names[:MOST_EXAMPLES])
    hidden = len(names) - MOST_EXAMPLES
    if hidden > 0:
        return f"{shown} and {hidden} more"
    return shown


def describe_others(root: Path, label: str | None = None) -> list[str]:
    """Return a line for each suffix of files in class folders, or one of them, that are no images.

    They may be photos in a format that Pillow cannot read, like a phone's HEIC.
    """
    suffixes = Counter()
    for folder in root.iterdir():
        if not folder.is_dir() or is_hidden(folder.name):
            continue
        name = unicodedata.normalize("NFC", folder.name)
        if label not in (None, name):
            continue
        for file in find_files(folder):
            if not is_image(file) and not is_hidden(file.name):
                suffixes[file.suffix.lower() or "without a suffix"] += 1
    lines = []
    for suffix, number in suffixes.items():
        cure = "convert it if it is a photo" if number == 1 else "convert them if they are photos"
        files = how_many(number, f"file {suffix}", f"files {suffix}")
        lines.append(f"{files}, which cannot be read here: {cure}")
    return lines


def read_photos(
    parts: dict[str, Path],
    ready_made: bool,
    converted: Path,
    notes: list[str],
    progress: Progress = show_nothing,
    sides: dict[str, str] | None = None,
) -> tuple[dict[str, Photo], dict[str, str]]:
    """Decode every image of a data set once; `converted` gets those deeper than 8 bits as PNG.

    Args:
        sides: as of `list_files`.

    Returns:
        {name as of `list_files`: photo}, {path of an unreadable image: reason}. What else a reader
        should know is added to `notes`.

    Raises:
        InputError: as `list_files`, or no image of a class can be read.
    """
    files = list_files(parts, ready_made, notes, sides)
    photos = {}
    unreadable = {}
    # Pillow decodes outside Python's lock
    with ThreadPoolExecutor() as threads:
        results = threads.map(examine_file, files.values())
        for name, result in zip(files, results, strict=True):
            if isinstance(result, Photo):
                photos[name] = result
            else:
                unreadable[str(files[name].path)] = result
            progress("reading images", len(photos) + len(unreadable), len(files))
    check_readable(files, photos, unreadable)
    for root in parts.values():
        loose = [path for path in root.iterdir() if path.is_file() and is_image(path)]
        if loose:
            notes.append(describe_loose(len(loose)))
        notes.extend(describe_others(root))
    several = sum(photo.pages for photo in photos.values())
    if several:
        number = how_many(several, "image has", "images have")
        notes.append(f"{number} several pages: the first is used")
    photos = to_common_scale(photos, converted, notes)
    blank = [name for name, photo in photos.items() if is_blank(photo)]
    if blank:
        number = how_many(len(blank), "image is", "images are")
        notes.append(f"{number} blank, of one colour: {name_some(blank)}")
    return photos, unreadable


def is_blank(photo: Photo) -> bool:
    """Tell whether a photo shows nothing: it is of one colour throughout."""
    differences = np.ptp(photo.colour, axis=(0, 1))
    return differences.max() <= MOST_BLANK_DIFFERENCE


def check_readable(
    files: dict[str, ImageFile], photos: dict[str, Photo], unreadable: dict[str, str]
) -> None:
    """Raise InputError, with the first two reasons, if no image of a class folder can be read."""
    readable = {files[name].class_folder for name in photos}
    for folder in [file.class_folder for file in files.values()]:
        if folder in readable:
            continue
        paths = [file.path for file in files.values() if file.class_folder == folder]
        reasons = [f"{path.name}: {unreadable[str(path)]}" for path in paths[:2]]
        raise InputError(f"{folder}: no readable image in {folder.name}. {'; '.join(reasons)}")


def examine_file(file: ImageFile) -> Photo | str:
    """Return a photo as it was read, or what is wrong with it."""
    return examine(file.path, file.label)


def examine(file: Path, label: str) -> Photo | str:
    """Return a photo as it was read, or what is wrong with it."""
    try:
        content, image = load_image(file)
    except OSError as error:
        return str(error)
    origin = read_origin(image.info.get("comment"))
    size = (32, 32)
    return Photo(
        file=file,
        label=label,
        digest=digest_of(content),
        origin=str(origin.get("content", "")),
        grey=np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS)),
        colour=np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)),
        pages="pages" in image.info,
        scale=image.info.get("scale"),
    )


def digest_of(content: bytes) -> str:
    """Return 64 bits, in hexadecimal, by which the bytes of a file are known again."""
    return hashlib.sha256(content).hexdigest()[:16]


def to_common_scale(
    photos: dict[str, Photo], converted: Path, notes: list[str]
) -> dict[str, Photo]:
    """Return the photos, those deeper than 8 bits as PNG files in `converted`, on one scale.

    A dark one thus stays darker than a bright one. The new file has the name of the old one with
    the suffix .png, or its digest for a name where the data set holds that one, too.
    """
    scales = [photo.scale for photo in photos.values() if photo.scale]
    if not scales:
        return photos
    lowest = min(low for low, _ in scales)
    highest = max(high for _, high in scales)
    number = how_many(len(scales), "image of more than 8 bits is", "images of more than 8 bits are")
    notes.append(f"{number} used as 8-bit PNG, all on one scale for {lowest:g} to {highest:g}")
    taken = set(photos)
    result = {}
    for name, photo in photos.items():
        if not photo.scale:
            result[name] = photo
            continue
        path = PurePosixPath(name)
        new_name = str(path.with_suffix(".png"))
        if new_name in taken and new_name != name:
            new_name = str(path.with_name(f"{photo.digest}.png"))
        taken.add(new_name)
        png = io.BytesIO()
        _, image = load_image(photo.file, (lowest, highest))
        image.save(png, "PNG")
        write_whole(converted / new_name, png.getbuffer())
        result[new_name] = examine(converted / new_name, photo.label)
    return result


def find_duplicates(
    photos: list[Photo], progress: Progress = show_nothing
) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, that show the same photo, perhaps resized or recompressed.

    Their perceptual hashes (`imagehash.phash`, Zauner 2010) differ in at most 6 of 64 bits, their
    colours by less than 48 of 255 in every eighth of width and height, and their grey thumbnails
    on the whole by less than 8, and by much less than the pictures of a class do among themselves
    (`choose_limits`), at no place by 32 times as much. A mirror image counts within a class: some
    tell left from right.
    """
    if not photos:
        return []
    # what comes before the pairs takes a while, too
    progress("comparing images", 0, len(photos))
    greys = np.array([photo.grey for photo in photos], dtype=np.int16)
    mosaics = np.array([mosaic(photo) for photo in photos], dtype=np.float32)
    _, labels = np.unique([photo.label for photo in photos], return_inverse=True)
    limits = choose_limits(greys, labels)
    signs = hash_signs(photos)
    mirrored_signs = hash_signs(photos, mirrored=True)
    found = []
    for start in range(0, len(photos), ROWS_AT_A_TIME):
        progress("comparing images", start, len(photos))
        # as they are
        for i, j in close_hashes(signs, signs, start):
            same = look_alike(greys[i], greys[j], mosaics[i], mosaics[j], limits[i], limits[j])
            found.append(np.stack([i[same], j[same]], axis=1))
        # the second one from right to left
        for i, j in close_hashes(signs, mirrored_signs, start):
            of_one_class = labels[i] == labels[j]
            i = i[of_one_class]
            j = j[of_one_class]
            mirrored = greys[j][:, :, ::-1]
            mirrored_mosaics = mosaics[j][:, :, ::-1]
            same = look_alike(
                greys[i], mirrored, mosaics[i], mirrored_mosaics, limits[i], limits[j]
            )
            found.append(np.stack([i[same], j[same]], axis=1))
    progress("comparing images", len(photos), len(photos))
    if not found:
        return []
    # sorted, each once
    pairs = np.unique(np.concatenate(found), axis=0)
    return [(i, j) for i, j in pairs.tolist()]


def mosaic(photo: Photo) -> np.ndarray:
    """Return the mean colour (8, 8, 3) of every eighth of a photo's height and width."""
    return photo.colour.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))


def choose_limits(greys: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return by how much (N,) each grey thumbnail may differ from that of the same photo.

    Eyes on black and photos of a fixed camera are all alike; what tells the same photo there is
    that it is much more alike than others. The limit therefore is a fifth of the median
    difference from some others of its class, of the whole set where a class is small, between 1,
    a recompression, and 8 of 255.

    Args:
        greys: (N, 32, 32) thumbnails.
        labels: (N,) class of each, 0 to C - 1.
    """
    limits = np.full(len(greys), float(MOST_GREY_DIFFERENCE))
    rows = greys.reshape(len(greys), -1)
    everyone = np.arange(len(greys))
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        others = members if len(members) >= LEAST_TO_COMPARE_WITH else everyone
        if len(others) < LEAST_TO_COMPARE_WITH:
            continue
        step = math.ceil(len(others) / MOST_TO_COMPARE_WITH)
        others = others[::step]
        differences = cdist(rows[members], rows[others], "cityblock") / rows.shape[1]
        # a photo is not one of the others
        differences[members[:, None] == others] = np.nan
        typical = np.nanmedian(differences, axis=1)
        limits[members] = np.clip(typical * MUCH_MORE_ALIKE, MOST_NOISE, MOST_GREY_DIFFERENCE)
    return limits


def hash_signs(photos: list[Photo], mirrored: bool = False) -> np.ndarray:
    """Return the perceptual hashes (N, 64) of photos, or their mirror images, bits as 1 and -1.

    The product of two such rows is 64 less twice the number of bits that differ.
    """
    signs = np.empty((len(photos), 64), dtype=np.float32)
    for i, photo in enumerate(photos):
        grey = photo.grey[:, ::-1] if mirrored else photo.grey
        bits = imagehash.phash(Image.fromarray(grey)).hash
        signs[i] = np.where(bits.ravel(), 1, -1)
    return signs


def close_hashes(
    signs: np.ndarray, other_signs: np.ndarray, start: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield indices i and j > i, some at a time, of hashes that differ in few bits.

    i runs over the ROWS_AT_A_TIME photos from `start` on.
    """
    stop = start + ROWS_AT_A_TIME
    products = signs[start:stop] @ other_signs[start:].T
    rows, columns = np.nonzero(products >= 64 - 2 * MOST_HASH_BITS)
    later = columns > rows
    i = rows[later] + start
    j = columns[later] + start
    for first in range(0, len(i), PAIRS_AT_A_TIME):
        last = first + PAIRS_AT_A_TIME
        yield i[first:last], j[first:last]


def look_alike(
    greys: np.ndarray,
    other_greys: np.ndarray,
    mosaics: np.ndarray,
    other_mosaics: np.ndarray,
    limits: np.ndarray,
    other_limits: np.ndarray,
) -> np.ndarray:
    """Tell of M pairs which show the same (M,), by thumbnails, mosaics and limits of both."""
    grey_differences = np.abs(greys - other_greys)
    most = np.minimum(limits, other_limits)
    same_grey = grey_differences.mean(axis=(1, 2)) < most
    same_grey &= grey_differences.max(axis=(1, 2), initial=0) < MOST_AT_A_PLACE * most
    colour_differences = np.abs(mosaics - other_mosaics)
    same_colour = colour_differences.max(axis=(1, 2, 3), initial=0) < MOST_COLOUR_DIFFERENCE
    return same_grey & same_colour


def find_test_photos(folder: str | Path, test: str | Path) -> list[tuple[str, str]]:
    """Return the pairs (file in `folder`, file in `test`) that show the same photo.

    Both hold one folder per class; files are named as "class/file". The same photo is one of the
    same bytes, a look-alike (`find_duplicates`), or a copy that augment.py made of it.

    Raises:
        InputError: one of them is not a folder of two or more classes with an image in each.
    """
    names, photos = read_folder(folder)
    test_names, test_photos = read_folder(test)
    found = set()
    for i, j in find_duplicates(photos + test_photos):
        if i < len(photos) <= j:
            found.add((names[i], test_names[j - len(photos)]))
    by_digest = {}
    for name, photo in zip(test_names, test_photos, strict=True):
        by_digest.setdefault(photo.digest, []).append(name)
    for name, photo in zip(names, photos, strict=True):
        for digest in (photo.digest, photo.origin):
            found.update((name, test_name) for test_name in by_digest.get(digest, []))
    return sorted(found)


def read_folder(folder: str | Path) -> tuple[list[str], list[Photo]]:
    """Return the names, "class/file", and the photos of a folder, without what cannot be read."""
    names = []
    photos = []
    files = list_files({"": Path(folder)}, ready_made=False, notes=[])
    with ThreadPoolExecutor() as threads:
        results = threads.map(examine_file, files.values())
        for name, result in zip(files, results, strict=True):
            if isinstance(result, Photo):
                names.append(name)
                photos.append(result)
    return names, photos


def find_conflicts(
    photos: list[Photo], pairs: list[tuple[int, int]], progress: Progress = show_nothing
) -> list[tuple[int, int]]:
    """Return those of the pairs of duplicates whose two labels cannot both be right."""
    conflicts = []
    for done, (i, j) in enumerate(pairs, start=1):
        # a fixed camera's photos make a hundred thousand
        progress("comparing labels", done, len(pairs))
        if contradict(photos[i], photos[j]):
            conflicts.append((i, j))
    return conflicts


def contradict(a: Photo, b: Photo) -> bool:
    """Tell whether two duplicates are so alike that their labels cannot both be right."""
    if a.label == b.label:
        return False
    if a.digest == b.digest:
        return True
    differences = np.abs(a.colour.astype(int) - b.colour)
    if differences.max() >= MOST_RECOMPRESSION_AT_A_PLACE:
        return False
    return differences.mean(axis=(0, 1)).max() < MOST_RECOMPRESSION


def link_copies(photos: list[Photo], notes: list[str]) -> list[tuple[int, int]]:
    """Return pairs (i, j) that link photos of the same bytes, and the augmented copies of one."""
    links = []
    first_with = {}
    for i, photo in enumerate(photos):
        for digest in (photo.digest, photo.origin):
            if digest:
                links.append((first_with.setdefault(digest, i), i))
    copies = sum(bool(photo.origin) for photo in photos)
    if copies:
        made = how_many(copies, "copy", "copies")
        notes.append(f"{made} made by augment.py: each stays on the side of its photo")
    return links


def link_groups(names: list[str], group: str) -> list[tuple[int, int]]:
    """Return pairs (i, j) that link the photos whose names the pattern `group` matches alike.

    Args:
        names: "class/file" of each photo.
        group: a regular expression. Photos whose match is equal belong together, or its first
            group where it has one: with `patient\\d+` those of a patient. One without a match
            stands alone. "": no photos are linked.

    Raises:
        InputError: as `compile_group`, or it matches no name, or all of a class alike.
    """
    if not group:
        return []
    pattern = compile_group(group)
    links = []
    first_with = {}
    keys_of_class = {}
    for i, name in enumerate(names):
        key = match_group(pattern, name)
        if key is None:
            # of no other photo
            key = i
        else:
            links.append((first_with.setdefault(key, i), i))
        label = name.split("/")[0]
        keys_of_class.setdefault(label, set()).add(key)
    if not links:
        raise InputError(f"group = {group}: matches no class/file, such as {names[0]}")
    for label, keys in keys_of_class.items():
        if len(keys) == 1 and keys <= first_with.keys():
            raise InputError(
                f"group = {group}: matches all photos of class {label} alike ({min(keys)}), "
                "so that they cannot be split"
            )
    return links


def compile_group(group: str) -> re.Pattern:
    """Return the setting `group` as a pattern; raise InputError if it is no regular expression."""
    try:
        return re.compile(group)
    except re.error as error:
        raise InputError(f"group = {group}: not a regular expression, {error}") from error


def match_group(pattern: re.Pattern, name: str) -> str | None:
    """Return what of a name tells its group: the pattern's first group, or its whole match."""
    match = pattern.search(name)
    if match is None:
        return None
    if pattern.groups and match[1] is not None:
        return match[1]
    return match[0]


def find_series(photos: dict[str, Photo]) -> dict[str, int]:
    """Return {what the names of a series open with: how many}, {} where they hold few series.

    Such names end in a number behind another one: `clip3_007`. They count as series if at least
    half of the photos are in one of three or more, several series to a class. Augmented copies,
    whose names are such, too, are not asked.
    """
    names = [name for name, photo in photos.items() if not photo.origin]
    sizes = Counter()
    for name in names:
        opening = match_group(SERIES, name)
        if opening is not None:
            sizes[opening] += 1
    series = {opening: size for opening, size in sizes.items() if size >= 3}
    classes = {opening.split("/")[0] for opening in series}
    if 2 * sum(series.values()) < len(names) or len(series) < 2 * len(classes):
        return {}
    return series


def number_groups(count: int, links: list[tuple[int, int]]) -> np.ndarray:
    """Return the number (N,) of the group of each of N = `count` photos: linked ones share one."""
    pairs = np.array(links, dtype=int).reshape(-1, 2)
    ones = np.ones(len(pairs))
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, groups = connected_components(graph, directed=False)
    return groups
