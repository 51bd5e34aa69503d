"""data/images.py: which files are images, and what is read of each, by both scripts alike."""

import io
import os
import random
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import frames, make_pool, photo, save_photo, saved
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageCms

from augment import OPERATIONS, augment_file, augment_folder
from data.check import read_photos
from data.images import FORMATS, KINDS, InputError, find_images, is_image, load_image, to_8_bits
from data.prepare import prepare_dataset

ROTATED = Image.Exif()
ROTATED[0x0112] = 6  # the camera was turned: rotate by 90 degrees
RAMP = np.arange(0, 65536, 64).reshape(32, 32)
DEEP = saved(Image.fromarray(RAMP.astype(np.uint16)), "TIFF")
HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(2000)
TOO = "pixels: too large, or too little"


def blank(width, height) -> bytes:
    return saved(Image.new("1", (width, height)), "PNG")


NAMES = ["no_suffix", "UPPER.JPG", "a b 'c' \"d\".jpg", "line\nbreak.jpg", "🐈.jpg", "-rf.jpg",
         "x" * 246 + ".jpg", "é" * 125 + ".jpg", "a.tar.gz.jpg"]  # fmt: skip
IMAGES = (
    {name: (photo(), None) for name in NAMES}
    | {  # what is wrong with it; None: nothing
        "really_a_png.jpg": (photo("PNG"), None),
        "16_bits.png": (saved(Image.fromarray(RAMP.astype(np.uint16)), "PNG"), None),
        "32_bits.tif": (saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), None),
        "float.tif": (saved(Image.fromarray((RAMP / 65536).astype(np.float32)), "TIFF"), None),
        "y" * 251 + ".tif": (DEEP, None),
        "palette.png": (photo("PNG", "P"), None),
        "clear_palette.png": (photo("PNG", "P", transparency=0), None),
        "clear.png": (photo("PNG", "RGBA"), None),
        "cmyk.jpg": (photo("JPEG", "CMYK"), None),
        "grey.jpg": (photo("JPEG", "L"), None),
        "black_and_white.tif": (photo("TIFF", "1"), None),
        "rotated.jpg": (photo(exif=ROTATED), None),
        "broken_exif.jpg": (photo(exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40), None),
        "broken_profile.jpg": (photo(icc_profile=b"x" * 200), None),
        "animated.gif": (frames("GIF"), None),
        "animated.webp": (frames("WEBP"), None),
        "animated.apng": (frames("PNG"), None),
        "two_views.mpo": (frames("MPO"), None),
        "pages.tif": (frames("TIFF"), None),
        "narrow.png": (blank(400, 8), None),
        "long.png": (blank(5000, 100), None),
        "strip.png": (blank(20_000, 10), f"20000 × 10 {TOO}"),
        "dot.png": (blank(1, 1), f"1 × 1 {TOO}"),
        "bomb.png": (blank(10_000, 10_000), f"10000 × 10000 {TOO}"),
        "larger_bomb.png": (blank(15_000, 15_000), "exceeds limit"),
        "empty.jpg": (b"", "an empty file"),
        "truncated.jpg": (photo()[:700], "truncated"),
        "page.jpg": (b"<!DOCTYPE html><p>404", "not an image"),
        "heic.jpg": (HEIC, "in a format like HEIC: convert it"),
        "not_unicode_\udcff.jpg": (photo(), "not valid Unicode"),
    }
)


@pytest.mark.parametrize("name", IMAGES, ids=ascii)
def test_image_is_used_everywhere_or_named_and_left_out(small_pool, tmp_path, name):
    content, line = IMAGES[name]
    try:
        (small_pool / "cats" / name).write_bytes(content)
    except OSError:
        pytest.skip("this file system does not take the name")
    report = augment_folder(small_pool, tmp_path / "copies", copies=1, workers=1)
    prepared = prepare_dataset(str(small_pool), tmp_path / "data", train_ratio=0.5)
    assert report.images == report.made == (13 if line is None else 12)
    reasons = [*report.left_out, *prepared.unreadable.values()]
    assert len(reasons) == (0 if line is None else 2)
    assert all(line in reason and reason.isprintable() for reason in reasons)
    split, copies = (tmp_path / "data").glob("t*/*/[!.]*"), (tmp_path / "copies").glob("*/[!.]*")
    for files in ([*split], [*copies]):  # what was made of it can be read in its turn
        assert len(files) == report.images
        assert {load_image(file)[1].mode for file in files} == {"RGB"}


def test_every_format_that_pillow_reads_by_itself_is_found_and_read(tmp_path):
    written, white = [], Image.new("RGB", (64, 64), "white")
    for kind in {*KINDS} & {*Image.SAVE}:
        path = tmp_path / f"{kind}{next(s for s, name in FORMATS.items() if name == kind)}"
        for mode in ("RGB", "L", "1", "F", "P"):
            try:
                white.convert(mode).save(path, kind)
            except (OSError, ValueError, KeyError):
                continue
            assert is_image(path)
            assert load_image(path)[1].mode == "RGB", (kind, mode)
            written.append(kind)
    assert {"JPEG", "PNG", "AVIF", "JPEG2000", "WEBP", "TIFF", "GIF", "BMP"} <= {*written}
    assert len(written) > 40


def test_format_for_which_pillow_starts_another_program_is_never_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("started"))
    (tmp_path / "a").mkdir()
    for name in ("a.eps", "a.ps", "a.wmf", "a.mpg", "eps", "eps.png"):
        (tmp_path / "a" / name).write_bytes(photo("EPS"))
    assert find_images(tmp_path)["a"] == [tmp_path / "a" / "eps.png"]
    with pytest.raises(OSError, match="not an image"):
        load_image(tmp_path / "a" / "eps.png")


def test_folders_that_no_person_made_and_other_files_are_no_part_of_the_data(small_pool):
    for name in (".trash", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", ".ipynb_checkpoints"):
        save_photo(small_pool / name / "a.jpg", 1)
        save_photo(small_pool / "cats" / name / "0.jpg" / "SYNOPHOTO_THUMB_SM.jpg", 2)
    save_photo(small_pool / "cats" / "._a.jpg", 4, format="JPEG")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "README", "notes.txt", "._0"):
        (small_pool / "cats" / name).write_text("not an image")
        (small_pool / name).write_text("not a class")
    for number, form in enumerate(("NFC", "NFD")):  # as Linux and a Mac write a name
        save_photo(small_pool / unicodedata.normalize(form, "café") / f"{number}.jpg", number)
    found = {kind: len(files) for kind, files in find_images(small_pool).items()}
    assert found == {"cats": 6, "dogs": 6, "café": 2}


def test_links_are_followed_but_not_in_a_circle_or_named(small_pool, tmp_path):
    links = {"photo": tmp_path / "photo", "gone": tmp_path / "x", "loop": small_pool / "cats/loop"}
    for name, target in links.items():
        (small_pool / "cats" / f"{name}.jpg").symlink_to(target.with_suffix(".jpg"))
    (tmp_path / "photo.jpg").write_bytes(photo())
    photos, unreadable = read_photos({"": small_pool}, False, tmp_path, [])
    assert len(photos) == 13
    assert {Path(path).stem: reason for path, reason in unreadable.items()} == {
        "gone": "No such file or directory", "loop": "Too many levels of symbolic links"
    }  # fmt: skip
    save_photo(tmp_path / "elsewhere" / "more.jpg", 7)
    (small_pool / "cats" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(small_pool / "cats")
    (small_pool / "dogs" / "up").symlink_to(small_pool)
    (small_pool / "birds").symlink_to(tmp_path / "elsewhere")
    found = {kind: [file.name for file in files] for kind, files in find_images(small_pool).items()}
    six = [f"{i}.jpg" for i in range(6)]
    assert found["birds"][-1] == "more.jpg"
    assert found["cats"] == [*six, "gone.jpg", "more.jpg", "loop.jpg", "photo.jpg"]
    assert found["dogs"] == six


def test_folder_without_classes_or_that_may_not_be_read_is_one_line(small_pool, monkeypatch):
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        find_images(small_pool / "nowhere")
    with pytest.raises(InputError, match="cats: expected one folder per class in it") as caught:
        find_images(small_pool / "cats")
    assert caught.value._render_traceback_() == [f"InputError: {caught.value}"]
    assert str(InputError("a\nb\x1b[31m\tc")) == "a b [31m c"
    walk = os.scandir

    def scandir(path="."):
        if Path(path).name == "dogs":
            raise PermissionError(13, "Permission denied", str(path))
        return walk(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"Permission denied: .*dogs"):
        find_images(small_pool)


def test_images_are_read_upright_with_transparency_on_white(tmp_path):
    path = save_photo(tmp_path / "turned.jpg", 1, size=(40, 20), exif=ROTATED)
    content, image = load_image(path)
    assert content == path.read_bytes()
    assert np.array_equal(np.asarray(image), np.rot90(np.asarray(Image.open(path)), -1))
    for mode, colour, seen in (("RGBA", (255, 0, 0, 0), 255), ("LA", (0, 127), 128)):
        Image.new(mode, (9, 9), colour).save(tmp_path / "clear.png")
        assert load_image(tmp_path / "clear.png")[1].getpixel((0, 0)) == (seen, seen, seen)


def test_first_of_several_pages_is_read_and_said_to_be(tmp_path):
    for name in ("TIFF", "GIF", "WEBP"):
        (tmp_path / name).write_bytes(frames(name))
        image = load_image(tmp_path / name)[1]
        assert image.getpixel((16, 16))[0] > 200
        assert image.info["pages"]
    (tmp_path / "one").write_bytes(photo("TIFF"))
    assert "pages" not in load_image(tmp_path / "one")[1].info


def grey(values, tmp_path, extremes=None):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    return np.asarray(load_image(tmp_path / "deep.tif", extremes)[1])[..., 0].astype(int)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_values_are_scaled_by_the_bits_that_they_need(tmp_path, kind):
    for bits in (8, 12, 16):
        ramp = np.linspace(0, 2**bits - 1, 256).round().astype(kind).reshape(16, 16)
        assert np.array_equal(grey(ramp, tmp_path), np.arange(256).reshape(16, 16))
        assert grey(ramp // 2, tmp_path, (0, 2**bits - 1)).max() == 127  # others need the last bit
    for start in (40_000, 1_000_000):  # far from nought they do not become one grey
        shades = grey(np.arange(start, start + 100).astype(kind).reshape(10, 10), tmp_path).ravel()
        assert len(np.unique(shades)) > 50
        assert (np.diff(shades) >= 0).all() or kind is np.uint16  # which has no million
    assert len(np.unique(grey(np.full((9, 9), 7, kind), tmp_path))) == 1


def test_floats_are_scaled_from_nought_to_one_or_around_nought(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.abs(grey(ramp, tmp_path) - np.arange(256).reshape(16, 16)).max() <= 1
    assert grey(ramp / 4, tmp_path).max() == 64  # a dark one stays dark
    signed = grey(2 * ramp - 1, tmp_path)
    assert (signed.min(), signed.max(), signed.ravel()[127:129].tolist()) == (0, 255, [127, 128])
    ramp[0, :3] = np.nan, np.inf, -np.inf
    assert grey(ramp, tmp_path)[0, :3].tolist() == [0, 255, 0]
    assert not grey(np.full((9, 9), np.nan, np.float32), tmp_path).any()


def test_on_a_common_scale_the_darker_image_is_darker_whatever_its_kind():
    darker, brighter = (Image.fromarray(np.full((9, 9), v, np.float32)) for v in (11000, 20000))
    for kind in ("F", "I", "I;16"):
        pair = darker, brighter.convert("I").convert(kind)
        greys = [to_8_bits(image, (0, 20000))[0].getpixel((0, 0)) for image in pair]
        assert greys[0] < greys[1], kind


def profiles() -> dict[str, bytes]:
    """Colour profiles like sRGB's, but for their primary colours."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rows = [struct.unpack(">4sI", srgb[i : i + 8]) for i in range(132, 132 + 12 * srgb[131], 12)]
    at = {name: start + 8 for name, start in rows}
    red, green, blue = (srgb[at[name] :][:12] for name in (b"rXYZ", b"gXYZ", b"bXYZ"))
    p3 = (0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)
    prophoto = (0.7977, 0.2880, 0), (0.1352, 0.7119, 0), (0.0313, 0.0001, 0.8249)
    others = {"swapped": (green, red, blue)} | {
        name: [struct.pack(">3i", *(round(v * 65536) for v in xyz)) for xyz in primaries]
        for name, primaries in (("P3", p3), ("ProPhoto", prophoto))
    }
    for name, primaries in others.items():
        profile = bytearray(srgb)
        for letter, xyz in zip((b"r", b"g", b"b"), primaries, strict=True):
            profile[at[letter + b"XYZ"] : at[letter + b"XYZ"] + 12] = xyz
        others[name] = bytes(profile)
    return others


@pytest.mark.parametrize("name", profiles())
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_another_profile_are_converted_to_srgb(tmp_path, name, mode):
    seen = Image.open(save_photo(tmp_path / "srgb.png", 7, size=(64, 64))).quantize(64)
    seen = seen.convert("RGB")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profiles()[name]))
    options = ImageCms.createProfile("sRGB"), profile, ImageCms.Intent.RELATIVE_COLORIMETRIC
    other = ImageCms.profileToProfile(seen, *options)
    other = other.quantize(64) if mode == "P" else other.convert(mode)
    other.save(tmp_path / "other.png", icc_profile=profiles()[name])
    raw = np.asarray(Image.open(tmp_path / "other.png").convert("RGB")).astype(int)
    read = np.asarray(load_image(tmp_path / "other.png")[1]).astype(int)
    assert np.abs(raw - np.asarray(seen)).mean() > 9
    assert np.abs(read - np.asarray(seen)).mean() < 1


@given(
    width=st.integers(1, 600), height=st.integers(1, 600), seed=st.integers(0, 2**32),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr", "I", "F"]),
)  # fmt: skip
@example(width=5000, height=100, seed=0, mode="L")
@settings(max_examples=60, deadline=None)
def test_any_size_and_mode_is_read_and_augmented(tmp_path_factory, width, height, seed, mode):
    folder, names = tmp_path_factory.mktemp("any"), [Path("0.jpg")]
    Image.new(mode, (width, height)).save(folder / "image", "TIFF" if mode != "P" else "PNG")
    made = augment_file(folder, Path("image"), folder, names, seed, tuple(OPERATIONS))
    if min(width, height) < 8 or max(width, height) > 50 * min(width, height):
        assert f"{width} × {height} {TOO}" in made
        return
    image = load_image(folder / "image")[1]
    assert (image.mode, image.size) == ("RGB", (width, height))
    origin, now = made[names[0]]
    assert now
    assert len({operation["name"] for operation in origin["operations"]}) == 3
    assert load_image(folder / "0.jpg")[1].mode == "RGB"


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return the file with a few bytes changed, cut out, doubled or cut off."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 64))
        part = data[at : at + length]
        flipped = bytes([part[0] ^ 1 << rng.randrange(8)]) + part[1:]
        same = rng.choice((b"\0", b"\xff")) * length
        data[at : at + length] = rng.choice((flipped, rng.randbytes(length), b"", part * 2, same))
        if len(data) < 16:
            break
    return bytes(data[: rng.randrange(len(data)) if rng.random() < 0.1 else None])


def test_mutants_are_read_alike_everywhere_or_named(tmp_path):
    """MUTANTS=5000 in the environment for more than a few."""
    rng, count = random.Random(0), int(os.environ.get("MUTANTS", "300"))
    kinds = {"jpg": photo(exif=ROTATED), "png": photo("PNG", "RGBA"), "gif": frames("GIF")}
    kinds |= {"webp": frames("WEBP"), "tif": photo("TIFF", compression="tiff_lzw"), "tiff": DEEP}
    kinds |= {"bmp": photo("BMP"), "mpo": frames("MPO"), "apng": photo("PNG", "P", transparency=3)}
    kinds |= {"jpeg": photo(progressive=True, icc_profile=profiles()["P3"]), "ppm": photo("PPM")}
    kinds |= {"avif": photo("AVIF"), "jp2": photo("JPEG2000"), "": photo("TIFF", "F")}
    pool = make_pool(tmp_path / "pool", 1, ("a", "b"))
    for i in range(count):
        kind = rng.choice(sorted(kinds))
        name = f"mutant_{i}.{kind}".rstrip(".")  # without a suffix some are no image any more
        (pool / rng.choice(("a", "b")) / name).write_bytes(mutate(rng, kinds[kind]))
    found = sum(map(len, find_images(pool).values()))
    report = augment_folder(pool, tmp_path / "copies", copies=1)
    photos, unreadable = read_photos({"": pool}, False, tmp_path / "8-bit", [])
    assert report.images + len(report.left_out) == found > count * 0.9
    assert report.made == report.images == len(photos) > count / 5
    assert len(unreadable) == len(report.left_out) > count / 20
    assert {line.split(": left out")[0] for line in report.left_out} == set(unreadable)
    assert all(line.isprintable() for line in [*unreadable.values(), *report.left_out])
    for file in (tmp_path / "copies").glob("*/*.jpg"):
        load_image(file)
    print(f"{count} mutants: {report.made} used, {len(report.left_out)} named and left out")
