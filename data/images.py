"""How an image file is found and read: the one place, for the notebook and both scripts."""

import contextlib
import io
import json
import os
import re
import struct
import unicodedata
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

from data.files import InputError, how_many, one_line

# HEIC is what iPhones write; where there is no wheel for this machine, all else is read.
try:
    import pi_heif
except ImportError:
    pi_heif = None

# What is wrong with an image is told once, by whoever reads it.
for kind_of_warning in (UserWarning, Image.DecompressionBombWarning):
    warnings.filterwarnings("ignore", category=kind_of_warning, module=r"PIL\.")

# of an image; decoded it takes three bytes for each
MOST_PIXELS = 90_000_000
# in pixels
LEAST_SIDE = 8
# longer side by shorter side
MOST_ELONGATED = 50
# of 255; pixels that differ by less are not seen on a screen
LEAST_CONTRAST = 16


def teach_pillow_heic() -> None:
    """Have Pillow open HEIC in this process, if it can be."""
    if pi_heif and "HEIF" not in Image.OPEN:
        pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


teach_pillow_heic()
# {suffix: Pillow's name of the format} of all that Pillow opens
FORMATS = {
    suffix: format_name
    for suffix, format_name in Image.registered_extensions().items()
    if format_name in Image.OPEN
}
# which opens them
FORMATS[".mpo"] = "JPEG"
# need a program beside Pillow
NOT_OPENED = {"EPS", "MPEG", "WMF", "BUFR", "GRIB", "HDF5"}
TRIED_FIRST = ["JPEG", "PNG"]
HEIC_BEGINS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftyphevx")
# some AVIF files begin as HEIF ones do, but hold what its decoder cannot read
TRIED_LAST = ["HEIF"] if pi_heif else []
TRIED_BETWEEN = set(FORMATS.values()).difference(NOT_OPENED, TRIED_FIRST, TRIED_LAST)
KINDS = TRIED_FIRST + sorted(TRIED_BETWEEN) + TRIED_LAST
# .jpg, .jp2, .webp; not the end of x.jpg?itok=1, x.jpg_large, x.jpg.1 or of "31.12 Oslo"
SUFFIX = re.compile(r"\.[a-z0-9]*[a-z][a-z0-9]*~?", re.IGNORECASE)

# The code for Display P3, the colours of phones and their screens, where a HEIC tells its colours
# not by a profile but by numbers alone (nclx: ITU-T H.273).
DISPLAY_P3 = 12
# transfer characteristics of H.273 (PQ, HLG) of which brightness cannot be told by a profile
HDR = (16, 18)
# {tag of an ICC profile: X, Y, Z of a primary of Display P3, seen under white D50}
P3_PRIMARIES = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}

# folders, in lower case, besides those that begin with a dot
NO_PERSON_MADE = {
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "@eadir",
    "@recycle",
    "@tmp",
    "__macosx",
    "__pycache__",
    "lost+found",
    "system volume information",
}

# opens the JPEG comment of every copy that augment.py makes
COPY = b"augment.py "


class Scale(NamedTuple):
    """The values that become 0 and 256 where an image is brought to 8 bits."""

    low: float
    high: float


def read_origin(comment: object) -> dict:
    """Return what the comment of an augmented copy says of its origin; {}: not such a copy."""
    if not isinstance(comment, bytes) or not comment.startswith(COPY):
        return {}
    try:
        origin = json.loads(comment.removeprefix(COPY))
    except (ValueError, RecursionError):
        return {}
    return origin if isinstance(origin, dict) else {}


def read_copy(path: Path) -> dict:
    """Return what the copy at `path` says of its origin; {}: not a copy of augment.py."""
    with contextlib.suppress(Exception), Image.open(path) as image:
        return read_origin(image.info.get("comment"))
    return {}


def is_hidden(name: str) -> bool:
    """Tell by its name whether a file or folder is none that a person made."""
    return name.startswith(".") or name.lower() in NO_PERSON_MADE


def is_image(path: str | Path) -> bool:
    """Tell images from other files: by their suffix, or by content where it is none."""
    path = Path(path)
    if is_hidden(path.name):
        return False
    if SUFFIX.fullmatch(path.suffix):
        return FORMATS.get(path.suffix.lower()) in KINDS
    return is_image_by_content(path)


def is_image_by_content(path: Path) -> bool:
    try:
        with open_image(path):
            return True
    # Pillow's decoders raise a dozen kinds
    except Exception:
        return False


def open_image(source: Path | io.BytesIO) -> Image.Image:
    # a function that travelled to a cluster was not imported there
    teach_pillow_heic()
    return Image.open(source, formats=KINDS)


def find_files(folder: str | Path) -> list[Path]:
    """Return all files below a folder, sorted, but for those in hidden folders.

    Links are followed, never in a circle; one to nothing is listed, for reading to name it.

    Raises:
        InputError: a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise InputError(f"{error.strerror}: {error.filename}") from error

    # a link to one of the folders around this one would lead back into it
    parent = Path(folder).parent.resolve()
    seen = {parent, *parent.parents}
    files = []
    for place, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real_place = Path(place).resolve()
        if real_place in seen:
            # the walk goes on to what is left in this list
            folders.clear()
            continue
        seen.add(real_place)
        folders[:] = [name for name in folders if not is_hidden(name)]
        files += [Path(place, name) for name in names]
    # neither sockets nor pipes
    return sorted(file for file in files if file.is_file() or not file.exists())


def find_images(folder: str | Path) -> dict[str, list[Path]]:
    """Return {class: [image files]}, both sorted: a class per folder in `folder`, named in NFC.

    Raises:
        InputError: `folder` is not a folder, has no folder in it, or one that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or is_hidden(path.name):
            continue
        label = unicodedata.normalize("NFC", path.name)
        images = [file for file in find_files(path) if is_image(file)]
        # the class may be there already, its name written in NFD
        found.setdefault(label, []).extend(images)
    if not found:
        raise InputError(f"{folder}: expected one folder per class in it, found none")
    return found


def describe_loose(images: int) -> str:
    """Return a line about images that lie beside the class folders."""
    beside = "beside the class folders"
    return how_many(images, f"image {beside} is not used", f"images {beside} are not used")


def load_image(file: str | Path, scale: Scale | None = None) -> tuple[bytes, Image.Image]:
    """Return the bytes of a file and its image: upright (EXIF), sRGB, transparency on white.

    Where white would hide what is drawn, such as a white icon, transparency is laid on black.

    Args:
        scale: for values deeper than 8 bits, instead of the image's own; see `to_8_bits`.

    Returns:
        The bytes and an RGB image, whose `info` may have "comment", "pages" (it is the first of
        several) and "scale", the image's own `Scale`.

    Raises:
        OSError: the file cannot be used as an image; the message is one line.
    """
    content = b""
    try:
        # fails where the name could not be written to any list of photos
        str(file).encode()
        content = Path(file).read_bytes()
        return content, decode_image(content, scale)
    # Pillow's decoders raise a dozen kinds; all mean "not readable"
    except Exception as error:
        raise OSError(one_line(explain_unreadable(error, content))) from error


def decode_image(content: bytes, scale: Scale | None) -> Image.Image:
    """Return the image of a file's bytes as `load_image` does; raise what Pillow does."""
    with open_image(io.BytesIO(content)) as opened:
        width, height = opened.size
        if not is_usable(width, height):
            too = "too large, or too little to see anything in"
            raise OSError(f"{width} × {height} pixels: {too}")
        # to its end, so that a file that was cut off is noticed
        opened.load()
        image = opened
        info = {}
        if "comment" in opened.info:
            info["comment"] = opened.info["comment"]
        # a broken EXIF block does not spoil the pixels
        with contextlib.suppress(Exception):
            image = ImageOps.exif_transpose(opened)
            if opened.is_animated:
                info["pages"] = True
        # Pillow's modes I, I;16 and F
        if image.mode[0] in "IF":
            image, info["scale"] = to_8_bits(image, scale)
        if image.has_transparency_data:
            image = lay_on_ground(image)
        image = to_srgb(image, find_profile(opened.info))
    image = image.convert("RGB")
    image.info = info
    return image


def explain_unreadable(error: Exception, content: bytes) -> str:
    """Return why a file with this content cannot be used as an image."""
    if isinstance(error, UnicodeEncodeError):
        return "its name is not valid Unicode: rename it"
    if isinstance(error, Image.UnidentifiedImageError):
        if not content:
            return "an empty file"
        if pi_heif and content[4:12] in HEIC_BEGINS:
            return "a damaged HEIC file"
        # so begin films, too
        if content[4:8] == b"ftyp":
            return "in a format like HEIC: convert it"
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def is_usable(width: int, height: int) -> bool:
    """Tell by its size whether an image can be used: a bomb, a dot and a line cannot."""
    short, long = sorted((width, height))
    if short < LEAST_SIDE or long > MOST_ELONGATED * short:
        return False
    return short * long <= MOST_PIXELS


def lay_on_ground(image: Image.Image) -> Image.Image:
    """Return an image with transparency in mode RGBA, none of it transparent any more."""
    foreground = image.convert("RGBA")
    white = Image.new("RGBA", foreground.size, "white")
    on_white = Image.alpha_composite(white, foreground)
    if shows_something(on_white):
        return on_white
    black = Image.new("RGBA", foreground.size, "black")
    on_black = Image.alpha_composite(black, foreground)
    return on_black if shows_something(on_black) else on_white


def shows_something(image: Image.Image) -> bool:
    """Tell an image from a blank one, whose pixels hardly differ."""
    differences = [most - least for least, most in image.getextrema()]
    return max(differences) >= LEAST_CONTRAST


def find_profile(info: dict) -> bytes | None:
    """Return the ICC profile of an image by what Pillow tells of it; None: it is sRGB, or unknown.

    A HEIC may tell its colours by numbers instead, of which those of Display P3 are known here.
    """
    if info.get("icc_profile") is not None:
        return info["icc_profile"]
    numbers = info.get("nclx_profile") or {}
    if numbers.get("color_primaries") != DISPLAY_P3:
        return None
    if numbers.get("transfer_characteristics") in HDR:
        return None
    return make_p3_profile()


def make_p3_profile() -> bytes:
    """Return the ICC profile of Display P3, which is sRGB's with other primaries."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    profile = bytearray(srgb.tobytes())
    for tag, primary in P3_PRIMARIES.items():
        # the table at the profile's beginning tells where a tag's content is
        (place,) = struct.unpack_from(">I", profile, profile.index(tag) + 4)
        # in units of 2 ** -16, behind eight bytes that tell the type
        units = [round(65536 * value) for value in primary]
        struct.pack_into(">3i", profile, place + 8, *units)
    return bytes(profile)


def to_srgb(image: Image.Image, icc_profile: bytes | None) -> Image.Image:
    """Return an image with its colours converted, or as it is if its profile is broken or none."""
    # the modes that a profile is made for
    if image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    if icc_profile is None:
        return image
    try:
        return ImageCms.profileToProfile(
            image,
            inputProfile=ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)),
            outputProfile=ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    except Exception:
        return image


def to_8_bits(image: Image.Image, scale: Scale | None = None) -> tuple[Image.Image, Scale]:
    """Bring an image of deeper values to mode L.

    Args:
        scale: the widest of a data set, instead of the image's own.

    Returns:
        The image and its own scale; see `find_scale`.
    """
    # some bit patterns of a float that is no number are "invalid" to cast
    with np.errstate(invalid="ignore"):
        values = np.asarray(image).astype(float)
    own_scale = find_scale(values, is_float=image.mode == "F")
    low, high = scale or own_scale
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = 256 * ((values - low) / (high - low))
    # 256 is reached by the float 1.0
    levels = np.clip(scaled, 0, 255).astype(np.uint8)
    return Image.fromarray(levels), own_scale


def find_scale(values: np.ndarray, is_float: bool) -> Scale:
    """Return the scale of an image's values (H, W).

    That is the range of the bits that they need (8, 12, 16 …), or 0 to 1 for floats up to 1.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        finite = np.zeros(1)
    least = finite.min().item()
    greatest = finite.max().item()
    most = max(greatest, -least)
    depths = range(130) if is_float else (8, 12, 16, 24, 32)
    if is_float and most <= 1:
        high = 1.0
    else:
        high = next(2.0**bits for bits in depths if most < 2.0**bits)
    low = -high if least < 0 else 0.0
    # fewer than two levels would be left
    if 128 * (greatest - least) < high - low:
        just_above = float(np.nextafter(least, np.inf))
        return Scale(low=least, high=max(greatest, just_above))
    return Scale(low=low, high=high)
