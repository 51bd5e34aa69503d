"""Offline augmentation: write AugLy-altered copies of every image in a folder to another folder.

    python augment.py SOURCE OUTPUT [--copies 3] [--seed 42] [--operations NAMES] [--side 512]
                                    [--workers N] [--scheduler ADDRESS]

SOURCE holds one folder per class and is only read; `SOURCE/a/b.jpg` becomes `OUTPUT/a/b_aug0.jpg`,
`b_aug1.jpg`, … with three different operations each. Which ones and how strong follows from the
seed, the file's path and the copy's number alone: the same input gives the same bytes for any
number of workers, here or on a Dask cluster whose workers see the same folders.

Each copy carries its origin in its JPEG comment. A rerun therefore makes only what is missing or
out of date, even after a kill; all of them, where the code below that makes them has changed.
`OUTPUT/manifest.csv` lists every copy's source and operations.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import os
import random
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from mimetypes import guess_type
from pathlib import Path

import joblib
import numpy as np
from PIL import Image
from tqdm import tqdm

from data.digest import digest_code
from data.files import (
    InputError,
    claim,
    expand,
    how_many,
    one_line,
    print_any_name,
    remove_unfinished,
    write_whole,
)
from data.images import (
    COPY,
    find_files,
    find_images,
    is_hidden,
    is_image,
    is_usable,
    load_image,
    read_copy,
)
from data.workers import cluster, processes

# The operations of AugLy that copies are made with, and how the parameters of each are drawn.
# AugLy's own defaults will not do: its jitter changes nothing, its noise has one seed, its emoji
# one kind and place.
OPERATIONS: dict[str, Callable[[random.Random], dict]] = {
    "rotate": lambda rng: {"degrees": round(draw_signed(rng, 5, 30), 1)},
    "hflip": lambda rng: {},
    "vflip": lambda rng: {},
    "blur": lambda rng: {"radius": round(rng.uniform(0.8, 2.5), 2)},
    "color_jitter": lambda rng: {
        "brightness_factor": round(1 + draw_signed(rng, 0.15, 0.4), 3),
        "contrast_factor": round(1 + draw_signed(rng, 0.15, 0.4), 3),
        "saturation_factor": round(1 + draw_signed(rng, 0.15, 0.4), 3),
    },
    "crop": lambda rng: draw_box(rng, 0.7, 0.95),
    "random_noise": lambda rng: {
        "var": round(rng.uniform(0.002, 0.01), 4),
        "seed": rng.getrandbits(32),
    },
    "overlay_emoji": lambda rng: {
        "emoji_path": draw_emoji(rng),
        "emoji_size": round(rng.uniform(0.12, 0.3), 3),
        "x_pos": round(rng.uniform(0, 0.7), 3),
        "y_pos": round(rng.uniform(0, 0.7), 3),
    },
    "sharpen": lambda rng: {"factor": round(rng.uniform(1.5, 3), 2)},
    "grayscale": lambda rng: {},
}

# What each does, for the reader of a table.
MEANINGS = {
    "rotate": "turned, and cut to what has no empty corners",
    "hflip": "left and right exchanged",
    "vflip": "upside down",
    "blur": "Gaussian blur; radius in pixels",
    "color_jitter": "brightness, contrast and saturation changed",
    "crop": "a part of the picture; corners as fractions of its sides",
    "random_noise": "Gaussian noise; variance where black is 0 and white is 1",
    "overlay_emoji": "an emoji laid on it; size and place as fractions of the sides",
    "sharpen": "edges made sharper",
    "grayscale": "without colour",
}

# No faces and no animals: a pasted cat face on a dog photo would be a wrong label.
EMOJI_GROUPS = ("activity", "food_and_drink", "objects", "travel_and_places")

OPERATIONS_OF_A_COPY = 3
# Of ten operations one photo in 5,000 gets the same copy twice, which stays so: its bytes are those
# of earlier versions. Of fewer, a copy that another one equals is drawn again, at most this often.
ENOUGH_OPERATIONS = 10
MOST_DRAWS = 1000
# Longest side of a copy in pixels, for a network that sees 224: blur and noise on 12 megapixels
# would be lost on it.
COPY_SIDE = 512
LEAST_COPY_SIDE = 32
# Raise it when the same seed should no longer give the same bytes.
RECIPE = 1
# Kinds of files that are no images, named one by one.
MOST_SUFFIXES = 5
# Beside the manifest: what made the copies.
MAKER_FILE = ".maker"
# This file as it was when it was imported.
SOURCE_CODE = Path(__file__).read_text(encoding="utf-8")


def draw_signed(rng: random.Random, least: float, most: float) -> float:
    """Return a number of a magnitude from `least` to `most`, as often below zero as above."""
    sign = rng.choice((-1, 1))
    return sign * rng.uniform(least, most)


def draw_box(rng: random.Random, least: float, most: float) -> dict[str, float]:
    """Return a box, in fractions of an image, whose sides are `least` to `most` of the image's."""
    width = rng.uniform(least, most)
    height = rng.uniform(least, most)
    left = rng.uniform(0, 1 - width)
    top = rng.uniform(0, 1 - height)
    return {
        "x1": round(left, 3),
        "y1": round(top, 3),
        "x2": round(left + width, 3),
        "y2": round(top + height, 3),
    }


def draw_emoji(rng: random.Random) -> str:
    """Return the path of an emoji's picture among those that come with AugLy."""
    group = Path(import_augly().utils.EMOJI_DIR) / rng.choice(EMOJI_GROUPS)
    names = sorted(entry.name for entry in os.scandir(group) if entry.name.endswith(".png"))
    return str(group / rng.choice(names))


def augment_image(
    image: Image.Image, rng: random.Random, among: tuple[str, ...] = tuple(OPERATIONS)
) -> tuple[Image.Image, list[dict]]:
    """Apply three different operations, fewer if there are no three, to an RGB image.

    Args:
        image: of any size, left as it is.
        rng: decides which operations, in which order and how strong.
        among: names of the operations to draw from.

    Returns:
        The new RGB image, perhaps smaller, and each operation's name and parameters, in order.
    """
    operations = draw_operations(rng, among)
    with same_randomness_afterwards():
        for operation in operations:
            parameters = dict(operation)
            function = getattr(import_augly().image, parameters.pop("name"))
            # by keyword: the second position is an output path
            image = function(image, **parameters)
    return image, name_emojis(operations)


def draw_operations(rng: random.Random, among: tuple[str, ...]) -> list[dict]:
    """Return the operations of a copy, in order: the name and the parameters of each."""
    count = min(OPERATIONS_OF_A_COPY, len(among))
    return [{"name": name} | OPERATIONS[name](rng) for name in rng.sample(among, count)]


def seed_copies(path: Path, copies: int, seed: int, among: tuple[str, ...]) -> list[random.Random]:
    """Return a generator for each copy of the photo at `path`; no two give the same copy.

    Raises:
        InputError: there are not so many different copies.
    """
    generators = []
    known = set()
    for number in range(copies):
        rng = random.Random(f"{RECIPE}/{seed}/{path.as_posix()}/{number}")
        if len(among) < ENOUGH_OPERATIONS:
            skip_known(rng, among, known)
        generators.append(rng)
    return generators


def skip_known(rng: random.Random, among: tuple[str, ...], known: set[frozenset[str]]) -> None:
    """Have a generator go on to where it draws operations that are not known; add them."""
    for _ in range(MOST_DRAWS):
        before = rng.getstate()
        operations = draw_operations(rng, among)
        # in any order: mirrored and without colour is without colour and mirrored
        look = frozenset(str(operation) for operation in operations)
        if look not in known:
            known.add(look)
            rng.setstate(before)
            return
    names = ", ".join(among)
    raise InputError(
        f"operations = {names}: only {len(known)} of the copies of a photo would differ; "
        f"set copies to {len(known)}, or name further operations"
    )


@contextlib.contextmanager
def same_randomness_afterwards() -> Iterator[None]:
    """Put the caller's global generators back: AugLy draws from one and seeds the other."""
    state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def name_emojis(operations: list[dict]) -> list[dict]:
    """Return operations with an emoji's name for its path, which differs between machines."""
    named = []
    for operation in operations:
        if "emoji_path" in operation:
            others = dict(operation)
            name = others.pop("name")
            picture = Path(others.pop("emoji_path"))
            operation = {"name": name, "emoji": f"{picture.parent.name}/{picture.stem}"} | others
        named.append(operation)
    return named


def import_augly() -> types.ModuleType:
    """Return AugLy, imported with the first copy: that takes a second, and a libmagic."""
    if "augly.utils" in sys.modules:
        return sys.modules["augly"]
    with contextlib.suppress(ImportError):
        # brings libmagic where the system has none
        import pylibmagic  # noqa: F401
    try:
        import magic  # noqa: F401
    except ImportError:
        # AugLy asks it only for the type of a file by its path
        stand_in = types.SimpleNamespace(from_file=lambda path, mime: guess_type(path)[0])
        sys.modules["magic"] = stand_in
    with same_randomness_afterwards():
        import augly.image
        import augly.utils

    return augly


def describe_operations(draws: int = 1000, seed: int = 0) -> list[dict[str, str]]:
    """Return a table of the operations: a row each with "operation", "does" and "strength".

    The strengths are what that many draws of every operation's parameters give.
    """
    rows = []
    for name in OPERATIONS:
        rng = random.Random(seed)
        drawn: dict[str, list] = {}
        for _ in range(draws):
            (operation,) = name_emojis(draw_operations(rng, (name,)))
            for parameter, value in operation.items():
                drawn.setdefault(parameter, []).append(value)
        drawn.pop("name")
        strengths = [describe_values(parameter, values) for parameter, values in drawn.items()]
        row = {
            "operation": name,
            "does": MEANINGS.get(name, ""),
            "strength": "; ".join(strengths) or "always",
        }
        rows.append(row)
    return rows


def describe_values(parameter: str, values: list) -> str:
    """Return in words what was drawn for a parameter: one or two ranges, or how many choices."""
    if parameter == "seed":
        return "seed: another one each time"
    if not isinstance(values[0], int | float):
        choices = {str(value) for value in values}
        return f"{parameter}: {len(choices)} different ones in {len(values)} draws"
    numbers = sorted(set(values))
    least = numbers[0]
    greatest = numbers[-1]
    span = greatest - least
    if span == 0:
        return f"{parameter}: {least:g}"

    # as exact as a twentieth of the whole range
    digits = max(0, -math.floor(math.log10(span / 20)))
    # a wide gap parts left from right, or weaker from stronger: what is between would not be seen
    gaps = [(high - low, low, high) for low, high in itertools.pairwise(numbers)]
    width, below, above = max(gaps)
    if width < span / 10:
        return f"{parameter}: {describe_range(least, greatest, digits)}"
    first = describe_range(least, below, digits)
    second = describe_range(above, greatest, digits)
    return f"{parameter}: {first} or {second}"


def describe_range(low: float, high: float, digits: int) -> str:
    """Return both ends of a range, rounded, with a true minus sign."""
    return f"{round(low, digits):g} … {round(high, digits):g}".replace("-", "−")


@dataclass
class Report:
    """What `augment_folder` did; printed, it is a line.

    `left_out` has a line for each image of which there are no copies, `empty` one for each class
    without images, `others` one for each kind of file that is no image.
    """

    images: int = 0
    made: int = 0
    kept: int = 0
    removed: int = 0
    left_out: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = self.images / max(self.seconds, 1e-9)
        return (
            f"{how_many(self.images, 'image')} read, {how_many(self.made, 'copy', 'copies')} made, "
            f"{self.kept} kept, {self.removed} stale removed, "
            f"{how_many(len(self.left_out), 'image')} left out, "
            f"{self.seconds:.1f} s, {rate:.1f} images/s"
        )


def augment_folder(
    source: str | Path,
    output: str | Path,
    copies: int = 3,
    seed: int = 42,
    operations: str = "",
    workers: int | None = None,
    scheduler: str | None = None,
    *,
    side: int = COPY_SIDE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Fill `output` with `copies` augmented copies of every image in `source`.

    Args:
        source: one folder per class, only read.
        output: gets the same folders and `manifest.csv`.
        copies: of each image, at least 1.
        seed: another one gives other copies.
        operations: names of those to draw from, separated by commas; "" for all.
        workers: processes; None means one per usable core.
        scheduler: address of a Dask cluster that does the work instead.
        side: longest side of a copy, in pixels; what blur, noise and sharpening do is in pixels,
            too, and shows the less the smaller a network sees the copies.
        progress: called in this process with (images done, images in all).

    Raises:
        InputError: an argument cannot be used (nothing was written), or the work cannot go on.
    """
    start = time.perf_counter()
    source = Path(expand(source)).resolve()
    output = Path(expand(output)).resolve()
    among = choose_operations(operations)
    check_numbers(copies, workers, side)
    if output.is_relative_to(source) or source.is_relative_to(output):
        raise InputError(f"{output}: OUTPUT and SOURCE ({source}) must not lie within each other")
    found = find_images(source)
    report = Report(others=describe_others(source))
    images = []
    for kind, files in found.items():
        images.extend(file.relative_to(source) for file in files)
        if not files:
            report.empty.append(one_line(f"{source / kind}: no image in it"))
    if not images:
        raise InputError("; ".join([f"{source}: no image in any class folder", *report.others]))
    targets = name_copies(images, copies)
    # what may fail comes before anything is written
    refuse_files_of_others(output, targets)
    maker = describe_maker()
    if len(among) < ENOUGH_OPERATIONS:
        seed_copies(images[0], copies, seed, among)

    place = cluster(scheduler) if scheduler else processes(workers)
    origins = {}
    with claim(output), place as send:
        report.removed = remove_outdated(output, targets, maker)
        make = joblib.delayed(send(augment_file))
        jobs = (
            make(
                source=source,
                path=path,
                output=output,
                names=names,
                seed=seed,
                among=among,
                side=side,
            )
            for path, names in targets.items()
        )
        # closed, so that no work is begun after an error or Ctrl-C
        with contextlib.closing(joblib.Parallel(return_as="generator")(jobs)) as results:
            for done, result in enumerate(results, start=1):
                progress(done, len(targets))
                if result.why_left_out:
                    report.left_out.append(result.why_left_out)
                    continue
                report.images += 1
                report.made += result.made
                origins.update(result.origins)
        report.kept = len(origins) - report.made
        write_manifest(output, origins)
    report.seconds = time.perf_counter() - start
    return report


def check_numbers(copies: int, workers: int | None, side: int) -> None:
    """Raise InputError where one of these arguments of `augment_folder` cannot be used."""
    if copies < 1 or (workers is not None and workers < 1):
        raise InputError(f"copies = {copies}, workers = {workers}: must be at least 1")
    if side < LEAST_COPY_SIDE:
        raise InputError(f"side = {side}: must be at least {LEAST_COPY_SIDE} pixels")


def choose_operations(names: str) -> tuple[str, ...]:
    """Return the operations named, in their order above, or all; an unknown one: InputError."""
    chosen = {name.strip() for name in names.split(",")}
    chosen.discard("")
    if not chosen:
        return tuple(OPERATIONS)
    unknown = sorted(chosen - set(OPERATIONS))
    if unknown:
        raise InputError(f"operations = {', '.join(unknown)}: must be of {', '.join(OPERATIONS)}")
    return tuple(name for name in OPERATIONS if name in chosen)


def describe_others(source: Path) -> list[str]:
    """Return a line for each suffix of files in class folders that are no images for Pillow.

    The commonest come first; all beyond `MOST_SUFFIXES` share a line.
    """
    suffixes = Counter()
    for folder in source.iterdir():
        if not folder.is_dir() or is_hidden(folder.name):
            continue
        for file in find_files(folder):
            if not is_hidden(file.name) and not is_image(file):
                suffixes[file.suffix.lower() or "without a suffix"] += 1
    ranked = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    lines = []
    for suffix, count in ranked[:MOST_SUFFIXES]:
        line = f"{count} files {suffix}, which cannot be read here: convert them if they are photos"
        if count == 1:
            line = f"1 file {suffix}, which cannot be read here: convert it if it is a photo"
        lines.append(one_line(line))
    rest = sum(count for suffix, count in ranked[MOST_SUFFIXES:])
    if rest:
        lines.append(f"{rest} files with other endings, which cannot be read here, either")
    return lines


def name_copies(sources: list[Path], copies: int) -> dict[Path, list[Path]]:
    """Return {source: its copies}, relative paths; no two sources share a copy's name."""
    taken = set()
    targets = {}
    for source in sorted(sources):
        stem = source.stem
        longest = os.fsencode(f"{stem}_aug{copies - 1}.jpg")
        # x.jpg beside x.png; X.jpg beside x.jpg, where a file system folds case
        is_taken = str(source.with_name(stem)).lower() in taken
        if is_taken or len(longest) > 255:
            mark = hashlib.sha256(os.fsencode(source.name)).hexdigest()[:8]
            beginning = os.fsencode(stem)[:200].decode(errors="ignore")
            stem = f"{beginning}~{mark}"
        taken.add(str(source.with_name(stem)).lower())
        targets[source] = [source.with_name(f"{stem}_aug{number}.jpg") for number in range(copies)]
    return targets


def refuse_files_of_others(output: Path, targets: dict[Path, list[Path]]) -> None:
    """Raise InputError where a copy would overwrite what was not made here."""
    for name in itertools.chain.from_iterable(targets.values()):
        path = output / name
        if path.exists() and not read_copy(path):
            raise InputError(f"{path} was not made by augment.py: move it away first")


def remove_stale(output: Path, targets: dict[Path, list[Path]]) -> int:
    """Delete this script's own copies that `targets` does not name; return their number."""
    remove_unfinished(output)
    expected = {output / name for name in itertools.chain.from_iterable(targets.values())}
    others = set(output.glob("*/**/*_aug*.jpg")) - expected
    stale = [path for path in others if read_copy(path)]
    for path in stale:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    return len(stale)


@dataclass
class Result:
    """What became of one source: the origin of each of its copies, or why it is left out."""

    origins: dict[Path, dict] = field(default_factory=dict)
    made: int = 0
    why_left_out: str = ""


def augment_file(
    *,
    source: Path,
    path: Path,
    output: Path,
    names: list[Path],
    seed: int,
    among: tuple[str, ...],
    side: int,
) -> Result:
    """Make the missing copies of one image.

    Args:
        source: folder of all images.
        path: of this one, below it.
        output: folder of all copies.
        names: of this image's copies, below it.
        seed: as of `augment_folder`.
        among: names of the operations to draw from.
        side: longest side of a copy, in pixels.

    Raises:
        InputError: a copy cannot be written.
    """
    result = Result()
    missing = {}
    try:
        content, image = load_image(source / path)
        digest = hashlib.sha256(content).hexdigest()
        for number, name in enumerate(names):
            origin = {
                "source": path.as_posix(),
                "content": digest[:16],
                "copy": number,
                "seed": seed,
                "recipe": RECIPE,
            }
            if len(among) < len(OPERATIONS):
                origin["among"] = list(among)
            if side != COPY_SIDE:
                origin["side"] = side
            found = read_copy(output / name)
            record = found.pop("operations", None)
            if record and found == origin:
                result.origins[name] = origin | {"operations": record}
            else:
                missing[name] = origin
        if missing:
            image = shrink(image, side)
            generators = seed_copies(path, len(names), seed, among)
        for name, origin in missing.items():
            rng = generators[origin["copy"]]
            copy, origin["operations"] = augment_image(image, rng, among)
            if not is_usable(*copy.size):
                # what crop or rotation left of a tiny image
                copy = copy.resize(image.size)
            write_copy(copy, origin, output / name)
            result.origins[name] = origin
            result.made += 1
    except InputError:
        raise
    except Exception as error:
        # one bad image must not cost the others theirs
        for name in names:
            (output / name).unlink(missing_ok=True)
        return Result(why_left_out=one_line(f"{source / path}: left out, {error}"))
    return result


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Return an image whose longest side is `side` at most, unless that leaves a mere line."""
    small = image.copy()
    small.thumbnail((side, side))
    if is_usable(*small.size):
        return small
    return image


def write_copy(copy: Image.Image, origin: dict, target: Path) -> None:
    """Write a copy as a JPEG file that tells its origin."""
    comment = COPY + json.dumps(origin).encode()
    jpeg = io.BytesIO()
    copy.save(jpeg, "JPEG", quality=95, comment=comment)
    write_whole(target, jpeg.getbuffer())


def describe_maker() -> str:
    """Return what makes the copies, a line each: a digest of the code, and whose versions.

    Raises:
        InputError: AugLy is not installed, or this file has been edited since it was imported:
            some processes would run the one code, and some the other.
    """
    code = digest_code(SOURCE_CODE, "augment_file")
    source_now = Path(__file__).read_text(encoding="utf-8")
    if source_now != SOURCE_CODE and digest_code(source_now, "augment_file") != code:
        raise InputError("augment.py was edited while it was in use: restart the kernel, run again")
    lines = [f"code {code}"]
    for package in ("augly", "pillow"):
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            raise InputError(f"{package} is not installed: pip install {package}") from None
    return "\n".join([*lines, ""])


def remove_outdated(output: Path, targets: dict[Path, list[Path]], maker: str) -> int:
    """Delete the copies that `targets` does not name, or all if not `maker` made them.

    Returns their number. The maker is noted in the output before copies are made, so that a run
    that was stopped goes on with what is missing.
    """
    file = output / MAKER_FILE
    if file.exists() and file.read_text(encoding="utf-8", errors="replace") == maker:
        return remove_stale(output, targets)
    removed = remove_stale(output, {})
    write_whole(file, maker)
    return removed


def write_manifest(output: Path, origins: dict[Path, dict]) -> None:
    """List the copies that are there, what they were made of and how."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["copy", "source", "seed", "operations"])
    for name, origin in sorted(origins.items()):
        record = json.dumps(origin["operations"])
        table.writerow([name.as_posix(), origin["source"], origin["seed"], record])
    write_whole(output / "manifest.csv", text.getvalue())


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return 0, 1 (images left out), 2 (no start) or 130 (Ctrl-C)."""
    open_missing_streams()
    options = parse(arguments)
    print_any_name()
    # disable=None: silent in a pipe
    with tqdm(unit="image", desc="augment", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            report = augment_folder(**vars(options), progress=progress)
        except InputError as error:
            bar.close()
            print(f"augment.py: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            bar.close()
            print("augment.py: stopped; run it again to go on where it was", file=sys.stderr)
            return 130
    for line in [*report.left_out, *report.empty, *report.others]:
        print(f"augment.py: {line}", file=sys.stderr)
    print(report)
    if report.left_out or report.empty:
        return 1
    return 0


def open_missing_streams() -> None:
    """Let a script that was started without output or errors (`2>&-`, pythonw) print to nowhere."""
    if sys.stdout and sys.stderr:
        return
    # What is closed would be taken by the next file that is opened, and written into by whoever
    # prints an error; the processes that do the work need it, too.
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, open as long as we run
    sys.stdout = sys.stdout or nowhere
    sys.stderr = sys.stderr or nowhere


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line's arguments, named as those of `augment_folder`."""
    names = ", ".join(OPERATIONS)
    parser = argparse.ArgumentParser("augment.py", description="AugLy copies of every image.")
    parser.add_argument("source", metavar="SOURCE", help="folder with one folder per class")
    parser.add_argument("output", metavar="OUTPUT", help="gets the same folders and manifest.csv")
    parser.add_argument("--copies", type=int, default=3, help="per image (default: 3)")
    parser.add_argument("--seed", type=int, default=42, help="default: 42")
    parser.add_argument("--operations", default="", help=f"of {names}; default: all")
    parser.add_argument("--side", type=int, default=COPY_SIDE, help=f"pixels; default: {COPY_SIDE}")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster: tcp://host:8786")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    import augment  # under its own name, by which the processes import it

    sys.exit(augment.main())
