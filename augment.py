"""Offline augmentation: write AugLy-altered copies of every image in a folder to another folder.

    python augment.py SOURCE OUTPUT [--copies 3] [--seed 42] [--operations NAMES] [--workers N]
                                    [--scheduler ADDRESS]

SOURCE holds one folder per class and is only read; `SOURCE/a/b.jpg` becomes `OUTPUT/a/b_aug0.jpg`,
`b_aug1.jpg`, … with three different operations each. Which ones and how strong follows from the
seed, the file's path and the copy's number alone: the same input gives the same bytes for any
number of workers, here or on a Dask cluster whose workers see the same folders.

Each copy carries its origin in its JPEG comment. A rerun therefore makes only what is missing or
out of date, even after a kill. `OUTPUT/manifest.csv` lists every copy's source and operations.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import random
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path

import joblib
from PIL import Image
from tqdm import tqdm

from data.files import (
    InputError,
    claim,
    expand,
    one_line,
    print_any_name,
    remove_unfinished,
    write_whole,
)
from data.images import COPY, find_images, is_usable, load_image, read_origin
from data.workers import cluster, processes

COPY_SIDE = 512  # longest side of a copy: blur and noise on 12 megapixels would not be seen at 224
RECIPE = 1  # raise it when the same seed should no longer give the same bytes

# No faces and no animals: a pasted cat face on a dog photo would be a wrong label.
EMOJI_GROUPS = ("activity", "food_and_drink", "objects", "travel_and_places")


def _away_from_one(rng: random.Random) -> float:
    """A factor that visibly changes something: 0.6 to 0.85 or 1.15 to 1.4."""
    return round(1 + rng.choice((-1, 1)) * rng.uniform(0.15, 0.4), 3)


def _crop(rng: random.Random) -> dict:
    x, y = rng.uniform(0.7, 0.95), rng.uniform(0.7, 0.95)  # sides that stay
    x1, y1 = rng.uniform(0, 1 - x), rng.uniform(0, 1 - y)
    return {"x1": round(x1, 3), "y1": round(y1, 3), "x2": round(x1 + x, 3), "y2": round(y1 + y, 3)}


def _emoji(rng: random.Random) -> dict:
    folder = os.path.join(_augly().utils.EMOJI_DIR, rng.choice(EMOJI_GROUPS))  # noqa: PTH118
    emojis = sorted(name for name in os.listdir(folder) if name.endswith(".png"))  # noqa: PTH208
    return {
        "emoji_path": os.path.join(folder, rng.choice(emojis)),  # noqa: PTH118
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


def augment_image(
    image: Image.Image, rng: random.Random, among: tuple[str, ...] = tuple(OPERATIONS)
) -> tuple[Image.Image, list[dict]]:
    """Apply three different operations, fewer if there are no three, to an RGB image.

    Returns:
        The new RGB image, perhaps smaller, and each operation's name and parameters, in order.
    """
    record = []
    for name in rng.sample(among, min(3, len(among))):
        parameters = OPERATIONS[name](rng)
        operation = getattr(_augly().image, name)
        image = operation(image, **parameters)  # by keyword: the second position is an output path
        if "emoji_path" in parameters:
            emoji = Path(parameters.pop("emoji_path"))
            parameters = {"emoji": f"{emoji.parent.name}/{emoji.stem}"} | parameters
        record.append({"name": name} | parameters)
    return image, record


def _augly() -> types.ModuleType:
    """Return AugLy, imported with the first copy: that takes a second, and a libmagic."""
    if "augly.utils" not in sys.modules:
        with contextlib.suppress(ImportError):  # brings libmagic where the system has none
            import pylibmagic  # noqa: F401
        try:
            import magic  # noqa: F401
        except ImportError:  # AugLy asks it only for the type of a file by its path
            stub = types.SimpleNamespace(from_file=lambda path, mime: guess_type(path)[0])
            sys.modules["magic"] = stub
        import augly.image
        import augly.utils  # noqa: F401
    return sys.modules["augly"]


@dataclass
class Report:
    """What `augment_folder` did; printed, it is a line. `left_out` has a line per image."""

    images: int = 0
    made: int = 0
    kept: int = 0
    removed: int = 0
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        done = f"{self.images} images read, {self.made} copies made, {self.kept} kept, "
        done += f"{self.removed} stale removed, {len(self.left_out)} images left out, "
        return f"{done}{self.seconds:.1f} s, {self.images / max(self.seconds, 1e-9):.1f} images/s"


def augment_folder(
    source: str | Path,
    output: str | Path,
    copies: int = 3,
    seed: int = 42,
    operations: str = "",
    workers: int | None = None,
    scheduler: str | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Fill `output` with `copies` augmented copies of every image in `source`.

    Args:
        source: one folder per class, only read; `output` gets the same folders and `manifest.csv`.
        copies: per image, at least 1; `seed`: another one gives other copies.
        operations: names of those to draw from, separated by commas; "" for all.
        workers: processes; None means one per usable core.
        scheduler: address of a Dask cluster that does the work instead.
        progress: called in this process with (images done, images in all).

    Raises:
        InputError: an argument cannot be used (nothing was written), or the work cannot go on.
    """
    start = time.perf_counter()
    source, output = (Path(expand(x)).resolve() for x in (source, output))
    among = choose_operations(operations)
    if copies < 1 or (workers is not None and workers < 1):
        raise InputError(f"copies = {copies}, workers = {workers}: must be at least 1")
    if output.is_relative_to(source) or source.is_relative_to(output):
        raise InputError(f"{output}: OUTPUT and SOURCE ({source}) must not lie within each other")
    found = find_images(source)
    images = [file.relative_to(source) for files in found.values() for file in files]
    if not images:
        raise InputError(f"{source}: no image in any class folder")
    targets = name_copies(images, copies)
    for name in (name for names in targets.values() for name in names):
        if (output / name).exists() and not read_copy(output / name):
            raise InputError(f"{output / name} was not made by augment.py: move it away first")
    report, manifest = Report(), {}
    for kind in (kind for kind, files in found.items() if not files):
        report.left_out.append(one_line(f"{source / kind}: no image in it"))
    with claim(output), cluster(scheduler) if scheduler else processes(workers) as send:
        report.removed = remove_stale(output, targets)
        make = joblib.delayed(send(augment_file))
        jobs = (make(source, path, output, names, seed, among) for path, names in targets.items())
        with contextlib.closing(joblib.Parallel(return_as="generator")(jobs)) as results:
            for done, result in enumerate(results, 1):
                progress(done, len(targets))
                if isinstance(result, str):
                    report.left_out.append(result)
                else:
                    report.images += 1
                    report.made += sum(made for _, made in result.values())
                    manifest |= {name: origin for name, (origin, _) in result.items()}
        report.kept = len(manifest) - report.made
        write_manifest(output, manifest)
    report.seconds = time.perf_counter() - start
    return report


def choose_operations(names: str) -> tuple[str, ...]:
    """Return the operations named, in their order above, or all; an unknown one: InputError."""
    chosen = {name.strip() for name in names.split(",")} - {""} or set(OPERATIONS)
    if unknown := sorted(chosen - set(OPERATIONS)):
        raise InputError(f"operations = {', '.join(unknown)}: must be of {', '.join(OPERATIONS)}")
    return tuple(name for name in OPERATIONS if name in chosen)


def name_copies(sources: list[Path], copies: int) -> dict[Path, list[Path]]:
    """Return {source: its copies}, relative paths; no two sources share a copy's name."""
    taken, targets = set(), {}
    for source in sorted(sources):
        stem, mark = source.stem, hashlib.sha256(os.fsencode(source.name)).hexdigest()[:8]
        too_long = len(os.fsencode(f"{stem}_aug{copies - 1}.jpg")) > 255
        if too_long or str(source.with_name(stem)).lower() in taken:  # x.jpg beside x.png
            stem = f"{os.fsencode(stem)[:200].decode(errors='ignore')}~{mark}"
        taken.add(str(source.with_name(stem)).lower())
        targets[source] = [source.with_name(f"{stem}_aug{i}.jpg") for i in range(copies)]
    return targets


def read_copy(path: Path) -> dict:
    """Return what the copy at `path` says of its origin; {}: not a copy made here."""
    with contextlib.suppress(Exception), Image.open(path) as image:
        return read_origin(image.info.get("comment"))
    return {}


def remove_stale(output: Path, targets: dict[Path, list[Path]]) -> int:
    """Delete this script's own copies that `targets` does not name; return their number."""
    remove_unfinished(output)
    expected = {output / name for names in targets.values() for name in names}
    others = set(output.glob("*/**/*_aug*.jpg")) - expected
    stale = [path for path in others if read_copy(path)]
    for path in stale:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    return len(stale)


def augment_file(
    source: Path, relative: Path, output: Path, names: list[Path], seed: int, among: tuple
) -> dict[Path, tuple[dict, bool]] | str:
    """Make the missing copies of one source; return {copy: (its origin, was it made now?)}.

    Returns why instead if the source is left out; raises InputError if a copy cannot be written.
    """
    copies = {}
    try:
        content, image = load_image(source / relative)
        image.thumbnail((COPY_SIDE, COPY_SIDE))
        image = image if is_usable(*image.size) else load_image(source / relative)[1]
        path, digest = relative.as_posix(), hashlib.sha256(content).hexdigest()[:16]
        for number, name in enumerate(names):
            origin = {"source": path, "content": digest, "copy": number, "seed": seed}
            origin |= {"recipe": RECIPE} | (
                {"among": among} if len(among) < len(OPERATIONS) else {}
            )
            found = read_copy(output / name)
            operations = found.pop("operations", None)
            if operations and json.loads(json.dumps(origin)) == found:
                copies[name] = origin | {"operations": operations}, False
                continue
            rng = random.Random(f"{RECIPE}/{seed}/{path}/{number}")
            copy, operations = augment_image(image, rng, among)
            if not is_usable(*copy.size):  # what crop or rotation left of a tiny image
                copy = copy.resize(image.size)
            origin |= {"operations": operations}
            jpeg, comment = io.BytesIO(), COPY + json.dumps(origin).encode()
            copy.save(jpeg, "JPEG", quality=95, comment=comment)
            write_whole(output / name, jpeg.getbuffer())
            copies[name] = origin, True
    except InputError:
        raise
    except Exception as error:  # one bad image must not cost the others theirs
        for name in names:
            (output / name).unlink(missing_ok=True)
        return one_line(f"{source / relative}: left out, {error}")
    return copies


def write_manifest(output: Path, origins: dict[Path, dict]) -> None:
    """List the copies that are there, what they were made of and how."""
    text, rows = io.StringIO(), [("copy", "source", "seed", "operations")]
    for name, origin in sorted(origins.items()):
        what = origin["source"], origin["seed"], json.dumps(origin["operations"])
        rows.append((name.as_posix(), *what))
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(output / "manifest.csv", text.getvalue())


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return 0, 1 (images left out), 2 (no start) or 130 (Ctrl-C)."""
    parser = argparse.ArgumentParser("augment.py", description="AugLy copies of every image.")
    parser.add_argument("source", metavar="SOURCE", help="folder with one folder per class")
    parser.add_argument("output", metavar="OUTPUT", help="gets the same folders and manifest.csv")
    parser.add_argument("--copies", type=int, default=3, help="per image (default: 3)")
    parser.add_argument("--seed", type=int, default=42, help="default: 42")
    parser.add_argument(
        "--operations", default="", help=f"of {', '.join(OPERATIONS)}; default: all"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster: tcp://host:8786")
    options = parser.parse_args(arguments)
    print_any_name()
    with tqdm(unit="image", desc="augment", disable=None) as bar:  # None: silent in a pipe

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            report = augment_folder(**vars(options), progress=progress)
        except (InputError, KeyboardInterrupt) as error:
            bar.close()
            why = str(error) or "stopped; run it again to go on where it was"
            print(f"augment.py: {why}", file=sys.stderr)
            return 2 if isinstance(error, InputError) else 130
    print(*(f"augment.py: {line}\n" for line in report.left_out), sep="", end="", file=sys.stderr)
    print(report)
    return 1 if report.left_out else 0


if __name__ == "__main__":
    import augment  # under its own name, by which the processes import it

    sys.exit(augment.main())
