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
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

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

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp"}
IMAGE_SUFFIXES |= {".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
RECIPE = 1  # raise it when the same seed should no longer give the same bytes
COMMENT = b"augment.py "  # opens the JPEG comment of every copy made here
PARTIAL = ".partial"  # suffix of a copy that is still being written

# No faces and no animals: a pasted cat face on a dog photo would be a wrong label.
EMOJI_GROUPS = ("activity", "food_and_drink", "objects", "travel_and_places")


# ------------------------------------------------------ reading images, also for the notebook


def find_images(folder: str | Path) -> dict[str, list[Path]]:
    """Return {class: [image files]}, both sorted: one class per folder in `folder`.

    Images are told by their suffix. Hidden ones and `__MACOSX` are no part of it.

    Raises:
        ValueError: `folder` is not a folder, or it has no folder in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))
    if not classes:
        raise ValueError(f"{folder}: expected one folder per class in it, found none")
    return {
        path.name: sorted(
            file
            for file in path.rglob("*")
            if is_image(file)
            and file.is_file()
            and not any(map(is_hidden, file.relative_to(path).parents))
        )
        for path in classes
    }


def is_image(path: str | Path) -> bool:
    """Tell by the name whether a file is one of the data set's images."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(Path(path))


def is_hidden(path: Path) -> bool:
    """Tell by the name whether a file or folder is none of the user's making."""
    return path.name.startswith(".") or path.name in ("__MACOSX", "__pycache__")


def read_image(file: str | Path | io.BytesIO) -> Image.Image:
    """Return the image, decoded to its end, upright (EXIF), RGB, transparency on white.

    Raises:
        OSError: the file cannot be read as an image; the message is one line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                image = ImageOps.exif_transpose(image)
                if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to white
                    image = image.convert("I").point(lambda value: value / 256).convert("L")
                if image.has_transparency_data:
                    rgba = image.convert("RGBA")
                    image = Image.new("RGBA", rgba.size, "white")
                    image.alpha_composite(rgba)
                return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise a dozen kinds; all mean "not readable"
        what = "not an image" if isinstance(error, Image.UnidentifiedImageError) else error
        raise OSError(" ".join(str(what).split())) from error


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
    report = Report(removed=_remove_stale(output, targets, alone=step == 1))
    jobs = jobs[first::step]
    workers = min(workers or _cores(), len(jobs) or 1, 61)  # 61: the most that Windows can wait for
    with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
        chunk = max(1, min(16, len(jobs) // (4 * workers)))
        for done, (made, kept, problem) in enumerate(
            pool.map(_augment_file, jobs, chunksize=chunk), 1
        ):
            report.images += not problem
            report.made += made
            report.kept += kept
            report.left_out += [problem] if problem else []
            if progress:
                progress(done, len(jobs))
    _write_manifest(output, targets)
    report.seconds = time.perf_counter() - start
    return report


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
        for pattern in (f".*_aug*.jpg.*{PARTIAL}", f".manifest.csv.*{PARTIAL}"):
            for path in output.rglob(pattern):
                path.unlink()
    stale = [path for path in output.glob("*/**/*_aug*.jpg") if path not in expected]
    stale = [path for path in stale if _origin(path)]
    for path in stale:
        path.unlink()
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


def _augment_file(job: tuple[Path, Path, Path, list[Path], int]) -> tuple[int, int, str]:
    """Make the missing copies of one source; return (made, kept, what was wrong or "")."""
    source, relative, output, names, seed = job
    made = kept = 0
    try:
        data = source.read_bytes()
        content = hashlib.sha256(data).hexdigest()[:16]
        image = None
        for number, name in enumerate(names):
            path = PurePosixPath(relative).as_posix()
            origin = {"source": path, "content": content, "copy": number, "seed": seed}
            origin["recipe"] = RECIPE
            found = _origin(output / name)
            if found and origin.items() <= found.items():
                kept += 1
                continue
            image = image or read_image(io.BytesIO(data))
            rng = random.Random(f"{RECIPE}/{seed}/{path}/{number}")
            copy, operations = augment_image(image, rng)
            _save(copy, output / name, origin | {"operations": operations})
            made += 1
    except Exception as error:  # one bad image must not cost the others theirs
        return made, kept, f"{source}: left out, {error}"
    return made, kept, ""


def _save(image: Image.Image, path: Path, origin: dict) -> None:
    """Write a complete file or none: the name appears only when every byte is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        comment = COMMENT + json.dumps(origin).encode()
        image.save(partial, format="JPEG", quality=95, comment=comment)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_manifest(output: Path, targets: dict[Path, list[Path]]) -> None:
    """List the copies that are there, read from the copies themselves."""
    output.mkdir(parents=True, exist_ok=True)
    partial = output / f".manifest.csv.{os.getpid()}{PARTIAL}"
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("copy", "source", "seed", "operations"))
        for name in sorted(name for names in targets.values() for name in names):
            if origin := _origin(output / name):
                operations = json.dumps(origin["operations"])
                writer.writerow((name.as_posix(), origin["source"], origin["seed"], operations))
    os.replace(partial, output / "manifest.csv")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return 0, 1 (images were left out) or 2 (nothing could start)."""
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
            print(f"augment.py: {error}", file=sys.stderr)
            return 2
    for line in report.left_out:
        print(f"augment.py: {line}", file=sys.stderr)
    print(report)
    return 1 if report.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
