"""How an image file is found and read: the one place, for the notebook and both scripts."""

import contextlib
import io
import json
import os
import unicodedata
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from data.files import InputError, one_line

warnings.filterwarnings("ignore", module="PIL")  # what is wrong with an image is told once

MOST_PIXELS = 90_000_000  # of an image; decoded it takes three bytes for each
LEAST_SIDE, MOST_ELONGATED = 8, 50  # in pixels; longer side by shorter side
NOT_OPENED = {"EPS", "MPEG", "WMF", "BUFR", "GRIB", "HDF5"}  # need a program beside Pillow
FORMATS = {k: v for k, v in Image.registered_extensions().items() if v in Image.OPEN}  # by suffix
FORMATS[".mpo"] = "JPEG"  # which opens them
KINDS = ["JPEG", "PNG", *sorted({*FORMATS.values()} - {"JPEG", "PNG"} - NOT_OPENED)]
NO_PERSON_MADE = {"__macosx", "__pycache__", "$recycle.bin", "system volume information"}
NO_PERSON_MADE |= {"@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "lost+found"}

COPY = b"augment.py "  # opens the JPEG comment of every copy that augment.py makes


def read_origin(comment: object) -> dict:
    """Return what the comment of an augmented copy says of its origin; {}: not such a copy."""
    with contextlib.suppress(ValueError):
        if isinstance(comment, bytes) and comment.startswith(COPY):
            origin = json.loads(comment[len(COPY) :])
            return origin if isinstance(origin, dict) else {}
    return {}


def is_hidden(name: str) -> bool:
    """Tell by its name whether a file or folder is none that a person made."""
    return name.startswith(".") or name.lower() in NO_PERSON_MADE


def is_image(path: str | Path) -> bool:
    """Tell images from other files: by their suffix, or by content where there is none."""
    path = Path(path)
    if path.suffix or is_hidden(path.name):
        return FORMATS.get(path.suffix.lower()) in KINDS and not is_hidden(path.name)
    with contextlib.suppress(Exception), Image.open(path, formats=KINDS):
        return True
    return False


def find_files(folder: str | Path) -> list[Path]:
    """Return all files below a folder, sorted, but for those in hidden folders.

    Links are followed, never in a circle; one to nothing is listed, for reading to name it.
    """

    def stop(error: OSError) -> None:
        raise InputError(f"{error.strerror}: {error.filename}") from error

    around = Path(folder).parent.resolve()
    files, seen = [], {around, *around.parents}
    for place, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = Path(place).resolve()
        folders[:] = [name for name in folders if not is_hidden(name) and real not in seen]
        files += [Path(place, name) for name in names if real not in seen]
        seen.add(real)
    return sorted(file for file in files if file.is_file() or not file.exists())


def find_images(folder: str | Path) -> dict[str, list[Path]]:
    """Return {class: [image files]}, both sorted: a class per folder in `folder`, named in NFC.

    Raises:
        InputError: `folder` is not a folder, has no folder in it, or one that cannot be read.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.is_dir() and not is_hidden(path.name):
            images = [file for file in find_files(path) if is_image(file)]
            found.setdefault(unicodedata.normalize("NFC", path.name), []).extend(images)
    if not found:
        raise InputError(f"{folder}: expected one folder per class in it, found none")
    return found


def load_image(file: str | Path, scale: tuple | None = None) -> tuple[bytes, Image.Image]:
    """Return the bytes of a file and its image: upright (EXIF), sRGB, transparency on white.

    Its `info` may have "comment", "pages" (it is the first of several), "scale" (`to_8_bits`).

    Raises:
        OSError: the file cannot be used as an image; the message is one line.
    """
    content = b""
    try:
        str(file).encode()
        content = Path(file).read_bytes()
        with Image.open(io.BytesIO(content), formats=KINDS) as opened:
            if not is_usable(*opened.size):
                size = "{} × {} pixels".format(*opened.size)
                raise OSError(f"{size}: too large, or too little to see anything in")
            opened.load()  # to its end
            image, info = opened, {k: v for k, v in opened.info.items() if k == "comment"}
            with contextlib.suppress(Exception):  # a broken EXIF block does not spoil the pixels
                image = ImageOps.exif_transpose(opened)
                info |= {"pages": True} if opened.is_animated else {}
            if image.mode[0] in "IF":
                image, info["scale"] = to_8_bits(image, scale)
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                image = Image.new("RGBA", rgba.size, "white")
                image.alpha_composite(rgba)
            image = image if image.mode in ("L", "CMYK") else image.convert("RGB")
            with contextlib.suppress(Exception):  # nor does a broken profile, or none
                profile = ImageCms.ImageCmsProfile(io.BytesIO(opened.info["icc_profile"]))
                srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
                image = ImageCms.profileToProfile(image, profile, srgb, intent, "RGB")
        image = image.convert("RGB")
        image.info = info
        return content, image
    except Exception as error:  # Pillow's decoders raise a dozen kinds; all mean "not readable"
        what = error.strerror if isinstance(error, OSError) and error.strerror else error
        if isinstance(error, UnicodeEncodeError):
            what = "its name is not valid Unicode: rename it"
        elif isinstance(error, Image.UnidentifiedImageError):
            what = "not an image" if content else "an empty file"
            what = "in a format like HEIC: convert it" if content[4:8] == b"ftyp" else what
        raise OSError(one_line(what)) from error


def is_usable(width: int, height: int) -> bool:
    """Tell by its size whether an image can be used: a bomb, a dot and a line cannot."""
    short, long = sorted((width, height))
    return short >= LEAST_SIDE and long <= MOST_ELONGATED * short and short * long <= MOST_PIXELS


def to_8_bits(image: Image.Image, scale: tuple | None = None) -> tuple[Image.Image, tuple]:
    """Return an image of deeper values in mode L, and its own scale: the values of 0 and of 256.

    That is the range of the bits that its values need (8, 12, 16 …), or 0 to 1 for floats up to 1;
    `scale`, the widest of a data set, is used instead.
    """
    values = np.asarray(image).astype(float)
    finite = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)
    least, greatest = finite.min().item(), finite.max().item()
    most, depths = max(greatest, -least), range(130) if image.mode == "F" else (8, 12, 16, 24, 32)
    high = next(2.0**bits for bits in depths if most <= 1 or most < 2.0**bits)
    own = -high if least < 0 else 0.0, high
    if 128 * (greatest - least) < own[1] - own[0]:  # fewer than two levels would be left
        own = least, max(greatest, float(np.nextafter(least, np.inf)))
    low, high = scale or own
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = np.clip(256 * ((values - low) / (high - low)), 0, 255)  # 255: of the float 1.0
    return Image.fromarray(scaled.astype(np.uint8)), own
