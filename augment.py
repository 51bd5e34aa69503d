"""Offline augmentation: write AugLy-altered copies of every image in a folder to another folder.

    python augment.py SOURCE OUTPUT [--copies 3] [--seed 42] [--workers N] [--shard I/N]

SOURCE holds one folder per class and is never touched; `SOURCE/a/b.jpg` becomes
`OUTPUT/a/b_aug0.jpg`, `b_aug1.jpg`, … Every copy gets three different operations out of ten. What
they are and how strong follows from the seed, the file's path and the copy's number alone, so the
same input gives the same bytes on one worker or sixteen, in one run or in several.

Each copy carries its origin in its JPEG comment. A rerun therefore makes only what is missing or
out of date, even after a kill, and removes only stale copies of its own.
`OUTPUT/manifest.csv` lists every copy with its source and its operations.
"""

import argparse
import contextlib
import csv
import functools
import hashlib
import io
import json
import mimetypes
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image, ImageOps

with contextlib.suppress(ImportError):  # brings libmagic where the system has none
    import pylibmagic  # noqa: F401
try:
    import magic  # noqa: F401
except ImportError:  # no libmagic: AugLy asks it only for the type of a file by its path
    sys.modules["magic"] = types.SimpleNamespace(
        from_file=lambda path, mime=False: mimetypes.guess_type(path)[0] or ""
    )
import augly.image as imaugs
from augly.utils import EMOJI_DIR

warnings.filterwarnings("ignore", module="PIL")  # what is wrong with an image is told once

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp"}
IMAGE_SUFFIXES |= {".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
MOST_PIXELS = 90_000_000  # of an image; decoded it takes three bytes for each
LEAST_SIDE, MOST_ELONGATED = 8, 50  # in pixels; longer side by shorter side
COPY_SIDE = 512  # longest side of a copy: blur and noise on 12 megapixels would not be seen at 224
RECIPE = 1  # raise it when the same seed should no longer give the same bytes
COMMENT = b"augment.py "  # opens the JPEG comment of every copy made here
PARTIAL = "augment-*.partial"  # name of a file that is still being written

# No faces and no animals: a pasted cat face on a dog photo would be a wrong label.
EMOJI_GROUPS = ("activity", "food_and_drink", "objects", "travel_and_places")


# ------------------------------------------------------ reading images, also for the notebook


def find_images(folder: str | Path) -> dict[str, list[Path]]:
    """Return {class: [image files]}, both sorted: one class per folder in `folder`.

    Images are told by their suffix. Hidden ones and `__MACOSX` are no part of it. Links are
    followed, though never in a circle; a link to nothing is listed, so that reading names it.

    Raises:
        ValueError: `folder` is not a folder, or it has no folder in it.
        OSError: a folder in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))
    if not classes:
        raise ValueError(f"{folder}: expected one folder per class in it, found none")
    return {path.name: [file for file in find_files(path) if is_image(file)] for path in classes}


def find_files(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted, but for those in hidden folders."""

    def stop(error: OSError) -> None:
        raise error

    around = folder.parent.resolve()
    files, seen = [], {around, *around.parents}
    for place, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        if (real := Path(place).resolve()) in seen:  # a link led here
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_hidden(Path(name))]
        files += [Path(place, name) for name in names]
    return sorted(file for file in files if file.is_file() or not file.exists())


def is_image(path: str | Path) -> bool:
    """Tell by the name whether a file is one of the data set's images."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(Path(path))


def is_hidden(path: Path) -> bool:
    """Tell by the name whether a file or folder is none of the user's making."""
    return path.name.startswith(".") or path.name in ("__MACOSX", "__pycache__")


def load_image(file: str | Path) -> tuple[bytes, Image.Image]:
    """Return the bytes of an image file and the image: upright (EXIF), RGB, transparency on white.

    Whoever reads an image reads it here, so an image is usable everywhere or nowhere.

    Raises:
        OSError: the file cannot be used as an image; the message is one line.
    """
    try:
        if not is_text(str(file)):
            raise OSError("its name is not valid Unicode: rename it")
        content = Path(file).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if not is_usable(*image.size):
                size = "{} × {} pixels".format(*image.size)
                raise OSError(f"{size}: too large, or too little to see anything in")
            image.load()  # to its end
            with contextlib.suppress(Exception):  # a broken EXIF block does not spoil the pixels
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to white
                image = image.convert("I").point(lambda value: value / 256).convert("L")
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                image = Image.new("RGBA", rgba.size, "white")
                image.alpha_composite(rgba)
            return content, image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise a dozen kinds; all mean "not readable"
        what = error.strerror if isinstance(error, OSError) and error.strerror else error
        if isinstance(error, Image.UnidentifiedImageError):
            what = "not an image" if content else "an empty file"
        raise OSError(one_line(what)) from error


def read_image(file: str | Path) -> Image.Image:
    """Return the image of `load_image`."""
    return load_image(file)[1]


def is_usable(width: int, height: int) -> bool:
    """Tell by its size whether an image can be used: a bomb, a dot and a line cannot."""
    short, long = sorted((width, height))
    return short >= LEAST_SIDE and long <= MOST_ELONGATED * short and short * long <= MOST_PIXELS


def is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:  # bytes of a file name that are no UTF-8
        return False


def one_line(text: object) -> str:
    """Return a text that is safe to print: one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


# ------------------------------------------------------------------------------------ operations


def _away_from_one(rng: random.Random) -> float:
    """A factor that visibly changes something: 0.6 to 0.85 or 1.15 to 1.4."""
    return round(1 + rng.choice((-1, 1)) * rng.uniform(0.15, 0.4), 3)


def _crop(rng: random.Random) -> dict:
    x, y = rng.uniform(0.7, 0.95), rng.uniform(0.7, 0.95)  # sides that stay
    x1, y1 = rng.uniform(0, 1 - x), rng.uniform(0, 1 - y)
    return {"x1": round(x1, 3), "y1": round(y1, 3), "x2": round(x1 + x, 3), "y2": round(y1 + y, 3)}


@functools.cache
def _emojis(group: str) -> list[Path]:
    return sorted(Path(EMOJI_DIR, group).glob("*.png"))


def _emoji(rng: random.Random) -> dict:
    return {
        "emoji_path": str(rng.choice(_emojis(rng.choice(EMOJI_GROUPS)))),
        "emoji_size": round(rng.uniform(0.12, 0.3), 3),
        "x_pos": round(rng.uniform(0, 0.7), 3),
        "y_pos": round(rng.uniform(0, 0.7), 3),
    }


# AugLy operation -> draw of its parameters. AugLy's own defaults will not do: its jitter changes
# nothing, its noise has one seed, its emoji one kind and place.
OPERATIONS: dict[str, Callable[[random.Random], dict]] = {
    "rotate": lambda rng: {"degrees": round(rng.choice((-1, 1)) * rng.uniform(5, 30), 1)},
    "hflip": lambda rng: {},
    "vflip": lambda rng: {},
    "blur": lambda rng: {"radius": round(rng.uniform(0.8, 2.5), 2)},
    "color_jitter": lambda rng: {
        f"{name}_factor": _away_from_one(rng) for name in ("brightness", "contrast", "saturation")
    },
    "crop": _crop,
    "random_noise": lambda rng: {
        "var": round(rng.uniform(0.002, 0.01), 4),
        "seed": rng.getrandbits(32),
    },
    "overlay_emoji": _emoji,
    "sharpen": lambda rng: {"factor": round(rng.uniform(1.5, 3), 2)},
    "grayscale": lambda rng: {},
}


def augment_image(image: Image.Image, rng: random.Random) -> tuple[Image.Image, list[dict]]:
    """Apply three different operations to an RGB image.

    Returns:
        The new RGB image (crop and rotate make it smaller) and, in order, each operation's name
        and parameters.
    """
    record = []
    for name in rng.sample(list(OPERATIONS), 3):
        parameters = OPERATIONS[name](rng)
        image = getattr(imaugs, name)(image, **parameters)  # the second position is an output path
        if "emoji_path" in parameters:
            emoji = Path(parameters.pop("emoji_path"))
            parameters = {"emoji": f"{emoji.parent.name}/{emoji.stem}"} | parameters
        record.append({"name": name} | parameters)
    return image, record


# --------------------------------------------------------------------------------- a whole folder


@dataclass
class Report:
    """What `augment_folder` did. `left_out` has one line per source that could not be used."""

    images: int = 0
    made: int = 0
    kept: int = 0
    removed: int = 0
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = self.images / self.seconds if self.seconds else 0.0
        return (
            f"{self.images} images read, {self.made} copies made, {self.kept} kept, "
            f"{self.removed} stale removed, {len(self.left_out)} images left out, "
            f"{self.seconds:.1f} s, {rate:.1f} images/s"
        )


def augment_folder(
    source: str | Path,
    output: str | Path,
    copies: int = 3,
    seed: int = 42,
    workers: int | None = None,
    shard: str | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Fill `output` with `copies` augmented copies of every image in `source`.

    Args:
        source: one folder per class. Only read.
        output: gets the same folders, the copies and `manifest.csv`.
        copies: copies per image, at least 1.
        seed: any integer; another seed gives other copies.
        workers: processes; None means one per usable core.
        shard: "I/N": do only the I-th of N parts, 1 <= I <= N.
        progress: called in this process with (images done, images in all).

    Raises:
        ValueError: an argument cannot be used; nothing was written.
    """
    start = time.perf_counter()
    source, output = Path(source), Path(output)
    if copies < 1:
        raise ValueError(f"copies = {copies}: must be at least 1")
    if workers is not None and workers < 1:
        raise ValueError(f"workers = {workers}: must be at least 1")
    first, step = _parse_shard(shard)
    a, b = source.resolve(), output.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise ValueError(f"{output}: OUTPUT and SOURCE ({source}) must not lie within each other")
    images = [file for files in find_images(source).values() for file in files]
    if not images:
        raise ValueError(f"{source}: no image in any class folder")

    targets = _targets([file.relative_to(source) for file in images], copies)
    jobs = [(source / path, path, output, names, seed) for path, names in targets.items()]
    _check_foreign(output, targets)
    report = Report()
    with contextlib.nullcontext() if step > 1 else _alone_in(output):
        report.removed = _remove_stale(output, targets, alone=step == 1)
        found = _run(jobs[first::step], workers, report, progress or (lambda done, total: None))
        _write_manifest(output, targets, found)
    report.seconds = time.perf_counter() - start
    return report


def _run(
    jobs: list[tuple], workers: int | None, report: Report, progress: Callable[[int, int], None]
) -> dict[Path, dict]:
    """Do the jobs and count what was done; a full disk ends it, a bad image does not.

    Returns:
        {copy: its origin}
    """
    copies = {}
    workers = min(workers or _cores(), len(jobs) or 1, 61)  # 61: the most that Windows can wait for
    chunk = max(1, min(16, len(jobs) // (4 * workers)))
    try:
        with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
            results = pool.map(_augment_file, jobs, chunksize=chunk)
            for done, (found, made, problem, stop) in enumerate(results, 1):
                copies |= found
                report.images += not problem
                report.made += made
                report.kept += len(found) - made
                report.left_out += [problem] if problem else []
                progress(done, len(jobs))
                if stop:
                    pool.shutdown(cancel_futures=True)
                    break
    except BrokenProcessPool:
        raise OSError(
            "a worker was ended from outside, perhaps for want of memory: run it again, with "
            "fewer workers; what is there is kept"
        ) from None
    return copies


@contextlib.contextmanager
def _alone_in(output: Path):
    """Keep other runs out of a folder.

    Raises:
        ValueError: another run is in it.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".augment.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{output}: another run is filling it; wait for that one") from None
    try:
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()


def _parse_shard(shard: str | None) -> tuple[int, int]:
    """Return (first index, step) of the part "I/N"; None is the whole."""
    try:
        index, count = map(int, (shard or "1/1").split("/"))
    except ValueError:
        index = count = 0
    if not 1 <= index <= count:
        raise ValueError(f"shard = {shard!r}: must be I/N with 1 <= I <= N, for example 2/4")
    return index - 1, count


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _targets(sources: list[Path], copies: int) -> dict[Path, list[Path]]:
    """Return {source: its copies}, relative paths; no two sources share a copy's name."""
    taken, targets = set(), {}
    for source in sorted(sources):
        stem, number = source.stem, 1
        if len(os.fsencode(f"{stem}_aug{copies - 1}.jpg")) > 255:  # more than a name may have
            cut = os.fsencode(stem)[:200].decode(errors="ignore")
            stem = f"{cut}~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"
        while (key := str(source.with_name(stem)).lower()) in taken:  # x.jpg beside x.png
            stem = source.name if number == 1 else f"{source.name}_{number}"
            number += 1
        taken.add(key)
        targets[source] = [source.with_name(f"{stem}_aug{i}.jpg") for i in range(copies)]
    return targets


def _origin(path: Path) -> dict | None:
    """Return what the copy at `path` says of its origin; None: not a copy made here."""
    with contextlib.suppress(OSError, ValueError), Image.open(path) as image:
        comment = image.info.get("comment", b"")
        if comment.startswith(COMMENT):
            return json.loads(comment[len(COMMENT) :])
    return None


def _check_foreign(output: Path, targets: dict[Path, list[Path]]) -> None:
    for name in (name for names in targets.values() for name in names):
        if (output / name).exists() and _origin(output / name) is None:
            raise ValueError(f"{output / name} was not made by augment.py: move it away first")


def _remove_stale(output: Path, targets: dict[Path, list[Path]], alone: bool) -> int:
    """Delete this script's own copies that `targets` does not name; return their number.

    A run that is `alone` in the folder also sweeps up what a killed one left half-written.
    """
    expected = {output / name for names in targets.values() for name in names}
    if alone:
        for path in output.rglob(f".{PARTIAL}"):
            path.unlink()
    stale = [path for path in output.glob("*/**/*_aug*.jpg") if path not in expected]
    stale = [path for path in stale if _origin(path)]
    for path in stale:
        path.unlink(missing_ok=True)  # another shard may have been first
        with contextlib.suppress(OSError):  # the last copy leaves no empty class behind
            path.parent.rmdir()
    return len(stale)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _augment_file(job: tuple[Path, Path, Path, list[Path], int]) -> tuple[dict, int, str, bool]:
    """Make the missing copies of one source.

    Returns:
        {copy: its origin}, how many of them were made, what was wrong or "", is it useless to go on
    """
    source, relative, output, names, seed = job
    copies, made = {}, 0
    try:
        content, image = load_image(source)
        image.thumbnail((COPY_SIDE, COPY_SIDE))
        path, digest = relative.as_posix(), hashlib.sha256(content).hexdigest()[:16]
        for number, name in enumerate(names):
            origin = {"source": path, "content": digest, "copy": number, "seed": seed}
            origin["recipe"] = RECIPE
            found = _origin(output / name)
            if found and origin.items() <= found.items():
                copies[name] = found
                continue
            rng = random.Random(f"{RECIPE}/{seed}/{path}/{number}")
            copy, operations = augment_image(image, rng)
            if not is_usable(*copy.size):  # what crop or rotation left of a tiny image
                copy = copy.resize(image.size)
            origin |= {"operations": operations}
            data, comment = io.BytesIO(), COMMENT + json.dumps(origin).encode()
            copy.save(data, format="JPEG", quality=95, comment=comment)
            try:
                _write(output / name, data.getbuffer())
            except OSError as error:
                problem = f"{output / name}: cannot be written, {error.strerror or error}; "
                return copies, made, one_line(problem + "the rest was not made"), True
            copies[name] = origin
            made += 1
    except Exception as error:  # one bad image must not cost the others theirs
        return copies, made, one_line(f"{source}: left out, {error}"), False
    return copies, made, "", False


def _write(path: Path, content: bytes | memoryview) -> None:
    """Write a complete file or none: the name appears only when every byte is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-{os.getpid()}"
    partial = path.with_name("." + PARTIAL.replace("*", mark))
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_manifest(output: Path, targets: dict[Path, list[Path]], found: dict) -> None:
    """List the copies that are there; those of other shards say themselves what they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("copy", "source", "seed", "operations"))
    for name in sorted(name for names in targets.values() for name in names):
        if origin := found.get(name) or _origin(output / name):
            operations = json.dumps(origin["operations"])
            writer.writerow((name.as_posix(), origin["source"], origin["seed"], operations))
    _write(output / "manifest.csv", text.getvalue().encode())


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return 0, 1 (images left out), 2 (no start) or 130 (Ctrl-C)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SOURCE", help="folder with one folder per class")
    parser.add_argument("output", metavar="OUTPUT", help="gets the same folders and manifest.csv")
    parser.add_argument("--copies", type=int, default=3, help="per image (default: 3)")
    parser.add_argument("--seed", type=int, default=42, help="default: 42")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--shard", metavar="I/N", help="do only part I of N (1 to N)")
    options = parser.parse_args(arguments)

    from tqdm import tqdm

    with tqdm(unit="image", desc="augment", disable=None) as bar:  # None: silent in a pipe

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            report = augment_folder(**vars(options), progress=progress)
        except (ValueError, OSError) as error:
            bar.close()
            print(f"augment.py: {one_line(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            bar.close()
            print("augment.py: stopped; run it again to go on where it was", file=sys.stderr)
            return 130
    for line in report.left_out:
        print(f"augment.py: {line}", file=sys.stderr)
    print(report)
    return 1 if report.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
