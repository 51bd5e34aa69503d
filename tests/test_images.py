"""data/images.py: which files are images, and what is read of each, by both scripts alike."""

import io
import os
import random
import unicodedata

import numpy as np
import pillow_heif
import pytest
from conftest import fails, frames, make_pool, photo, run_script, save_photo, saved
from PIL import EpsImagePlugin, Image, ImageCms

from augment import augment_folder
from data.check import read_photos
from data.files import InputError
from data.images import find_images, load_image
from data.prepare import prepare_dataset

TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was turned: rotate by 90 degrees
RAMP = np.arange(0, 65536, 64).reshape(32, 32)
DEEP = saved(Image.fromarray(RAMP.astype(np.uint16)), "TIFF")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"xxxx").replace(b"gXYZ", b"rXYZ").replace(b"xxxx", b"gXYZ")
TOO = "pixels: too large, or too little"
FILM = b"\x00\x00\x00\x18ftypqt  \x00\x00\x00\x00qt  " + bytes(2000)


def heic(image: Image.Image, **options) -> bytes:
    """Return the bytes of a HEIC file, as good as the format gets."""
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


HEIC = heic(Image.open(io.BytesIO(photo())))


def blank(width, height) -> bytes:
    return saved(Image.new("1", (width, height)), "PNG")


NAMES = [
    "no_suffix",
    "UPPER.JPG",
    "a b 'c' \"d\".jpg",
    "line\nbreak.jpg",
    "🐈.jpg",
    "-rf.jpg",
    "x" * 246 + ".jpg",
    "é" * 125 + ".jpg",
    "a.tar.gz.jpg",
    # of wget, Twitter, wget again, and of a person who likes full stops
    "x.jpg?itok=a1b2",
    "x.jpg_large",
    "x.jpg.1",
    "Oslo, 31.12",
]
USED = dict.fromkeys(NAMES, photo()) | {
    "avif": photo("AVIF"),
    "phone.heic": HEIC,
    "phone": HEIC,
    "really_a_heic.jpg": HEIC,
    "really_a_png.jpg": photo("PNG"),
    "float.tif": saved(Image.fromarray((RAMP / 65536).astype(np.float32)), "TIFF"),
    "y" * 251 + ".tif": DEEP,
    "clear_palette.png": photo("PNG", "P", transparency=0),
    "cmyk.jpg": photo("JPEG", "CMYK"),
    "black_and_white.tif": photo("TIFF", "1"),
    "broken_exif.jpg": photo(exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40),
    "broken_profile.jpg": photo(icc_profile=b"x" * 200),
    "two_views.mpo": frames("MPO"),
    "narrow.png": blank(400, 8),
    "long.png": blank(5000, 100),
}
LEFT_OUT = {
    "narrower.png": (blank(401, 8), f"401 × 8 {TOO}"),
    "bomb.png": (blank(10_000, 10_000), f"10000 × 10000 {TOO}"),
    "larger_bomb.png": (blank(15_000, 15_000), "exceeds limit"),
    "empty.jpg": (b"", "an empty file"),
    "truncated.jpg": (photo()[:700], "truncated"),
    "page.jpg": (b"<!DOCTYPE html><p>404", "not an image"),
    "half.heic": (HEIC[:300], "a damaged HEIC file"),
    "film.jpg": (FILM, "in a format like HEIC: convert it"),
    "not_unicode_\udcff.jpg": (photo(), "not valid Unicode"),
}


def put(content, file):
    try:
        file.write_bytes(content)
    except OSError:
        pytest.skip("this file system does not take the name")


@pytest.mark.parametrize("name", USED, ids=ascii)
def test_image_is_used_everywhere(small_pool, tmp_path, name):
    put(USED[name], small_pool / "cats" / name)
    report = augment_folder(small_pool, tmp_path / "copies", copies=1, workers=1)
    prepared = prepare_dataset(str(small_pool), tmp_path / "data", train_ratio=0.5)
    assert report.left_out == []
    assert prepared.unreadable == {}
    # what was made can be read in its turn
    for pattern in ("data/t*/*/[!.]*", "copies/*/[!.]*"):
        modes = [load_image(file)[1].mode for file in tmp_path.glob(pattern)]
        assert modes == ["RGB"] * 13


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", LEFT_OUT, ids=ascii)
def test_what_cannot_be_used_is_named_everywhere_and_left_out(small_pool, tmp_path, name):
    content, line = LEFT_OUT[name]
    put(content, small_pool / "cats" / name)
    report = augment_folder(small_pool, tmp_path / "copies", copies=1, workers=1)
    prepared = prepare_dataset(str(small_pool), tmp_path / "data", train_ratio=0.5)
    (left_out,) = report.left_out
    (reason,) = prepared.unreadable.values()
    assert line in left_out
    assert line in reason
    assert left_out.isprintable()
    assert reason.isprintable()
    assert len(list(tmp_path.glob("data/t*/*/[!.]*"))) == 12
    assert len(list(tmp_path.glob("copies/*/[!.]*"))) == 12


def test_what_no_person_put_there_is_not_found(small_pool):
    cats = small_pool / "cats"
    for name in (".trash", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", ".ipynb_checkpoints"):
        save_photo(small_pool / name / "a.jpg", 1)
        save_photo(cats / name / "0.jpg" / "SYNOPHOTO_THUMB_SM.jpg", 2)
    for name in (".DS_Store", "._0", "._a.jpg", ".lock", "x.jpg~"):
        (cats / name).write_bytes(photo())
    found = {label: len(files) for label, files in find_images(small_pool).items()}
    assert found == {"cats": 6, "dogs": 6}


def test_what_is_no_image_is_not_found(small_pool):
    for name in ("Thumbs.db", "README", "x.jpg:Zone.Identifier", "x.jpg?itok=a1b2", "notes 31.12"):
        (small_pool / "cats" / name).write_text("no image")
        (small_pool / name).write_text("not a class")
    assert [len(files) for files in find_images(small_pool).values()] == [6, 6]


def test_what_needs_another_program_is_not_opened(small_pool, monkeypatch):
    def run_program(*arguments, **options):
        pytest.fail("started another program")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run_program)
    for name in ("a.eps", "a.ps", "eps", "eps.png"):
        (small_pool / "cats" / name).write_bytes(photo("EPS"))
    found = [file.name for file in find_images(small_pool)["cats"]]
    assert "eps.png" in found
    assert len(found) == 7
    with pytest.raises(OSError, match="not an image"):
        load_image(small_pool / "cats" / "eps.png")


def test_class_is_one_whether_linux_or_a_mac_wrote_its_name(small_pool):
    for seed, form in enumerate(("NFC", "NFD")):
        save_photo(small_pool / unicodedata.normalize(form, "café") / f"{seed}.jpg", seed)
    assert len(find_images(small_pool)["café"]) == 2


def test_links_are_followed_but_not_in_a_circle_or_named(small_pool, tmp_path):
    cats = small_pool / "cats"
    elsewhere = save_photo(tmp_path / "elsewhere" / "more.jpg", 99).parent
    (small_pool / "birds").symlink_to(elsewhere)
    (cats / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (cats / "loop.jpg").symlink_to(cats / "loop.jpg")
    (cats / "linked").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(cats)
    unreadable = read_photos({"": small_pool}, False, tmp_path, [])[1]
    assert unreadable[str(cats / "gone.jpg")] == "No such file or directory"
    assert unreadable[str(cats / "loop.jpg")] == "Too many levels of symbolic links"
    found = [file.name for file in find_images(small_pool)["cats"]]
    assert found == [*(f"{number}.jpg" for number in range(6)), "gone.jpg", "more.jpg", "loop.jpg"]
    assert find_images(small_pool)["birds"][-1].name == "more.jpg"


def test_folder_without_classes_or_that_may_not_be_read_is_one_line(small_pool, monkeypatch):
    with fails("nowhere: there is no such folder"):
        find_images(small_pool / "nowhere")
    with fails("cats: expected one folder per class in it") as caught:
        find_images(small_pool / "cats")
    assert caught.value._render_traceback_() == [f"InputError: {caught.value}"]
    assert str(InputError("a\nb\x1b[31m\tc")) == "a b [31m c"
    refused = PermissionError(13, "Permission denied", "cats")
    monkeypatch.setattr(os, "walk", lambda *_, onerror, **__: onerror(refused))
    with fails("Permission denied: cats"):
        find_images(small_pool)


def test_photo_is_read_upright(tmp_path):
    path = save_photo(tmp_path / "turned.jpg", 1, size=(40, 20), exif=TURNED)
    content, image = load_image(path)
    assert content == path.read_bytes()
    assert image.info == {}
    lying = np.asarray(Image.open(path))
    assert np.array_equal(np.asarray(image), np.rot90(lying, -1))


@pytest.mark.parametrize(
    ("mode", "colour", "seen"), [("RGBA", (255, 0, 0, 0), 255), ("LA", (0, 127), 128)]
)
def test_transparency_is_laid_on_white(tmp_path, mode, colour, seen):
    Image.new(mode, (9, 9), colour).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "clear.png")[1].getpixel((0, 0)) == (seen, seen, seen)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP"])
def test_first_of_several_pages_is_read_and_said_to_be(tmp_path, kind):
    (tmp_path / kind).write_bytes(frames(kind))
    image = load_image(tmp_path / kind)[1]
    # red, where the second is blue
    assert image.getpixel((16, 16))[0] > 200
    assert image.info["pages"]


@pytest.mark.parametrize("ink", ["white", "#f0f5f8", "black", "red"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_drawing_on_transparent_ground_is_seen_in_any_ink(tmp_path, ink, mode):
    drawing = Image.new("RGBA", (40, 40), (255, 255, 255, 0))
    drawing.paste(ink, (10, 10, 30, 20))
    drawing.convert(mode).save(tmp_path / "icon.png")
    seen = np.asarray(load_image(tmp_path / "icon.png")[1].convert("L")).astype(int)
    assert abs(seen[15, 15] - seen[35, 35]) > 100
    # white wherever it will do
    assert (seen[35, 35] == 255) == (ink in ("black", "red"))


def test_what_shows_nothing_on_any_ground_is_white(tmp_path):
    for colour in ((0, 0, 0, 0), (255, 255, 255, 0), (255, 255, 255, 255)):
        Image.new("RGBA", (9, 9), colour).save(tmp_path / "blank.png")
        assert load_image(tmp_path / "blank.png")[1].getextrema() == ((255, 255),) * 3


def test_heic_is_read_upright_in_srgb(tmp_path):
    meant = Image.open(save_photo(tmp_path / "meant.png", 7, size=(64, 48)))
    stored = Image.merge("RGB", [meant.getchannel(channel) for channel in "GRB"])
    stored = stored.transpose(Image.Transpose.ROTATE_90)  # as EXIF's 6 undoes
    path = tmp_path / "turned.heic"
    path.write_bytes(heic(stored, icc_profile=SWAPPED, exif=TURNED.tobytes()))
    image = load_image(path)[1]
    assert image.size == meant.size
    difference = np.asarray(image).astype(int) - np.asarray(meant)
    assert np.abs(difference).mean() < 2


# what Display P3 calls sRGB's red, green, blue and white
CALLED_IN_P3 = [(234, 51, 35), (117, 251, 76), (0, 0, 245), (255, 255, 255)]
AS_IN_SRGB = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
P3_BY_NUMBERS = {"color_primaries": 12, "transfer_characteristics": 13}


def read_stripes(path, **colours) -> np.ndarray:
    """Return the colours that are read of a HEIC whose stripes are CALLED_IN_P3."""
    stored = Image.fromarray(np.array([CALLED_IN_P3], dtype=np.uint8))
    stored = stored.resize((256, 64), Image.Resampling.NEAREST)
    path.write_bytes(heic(stored, **colours))
    image = load_image(path)[1]
    return np.array([image.getpixel((x, 32)) for x in range(32, 256, 64)])


def test_heic_that_tells_display_p3_by_numbers_is_brought_to_srgb(tmp_path):
    seen = read_stripes(tmp_path / "phone.heic", **P3_BY_NUMBERS)
    assert np.abs(seen - AS_IN_SRGB).max() <= 3


def test_a_profile_counts_more_than_numbers_and_other_numbers_change_nothing(tmp_path):
    path = tmp_path / "phone.heic"
    for colours in (
        P3_BY_NUMBERS | {"icc_profile": SRGB},
        {"color_primaries": 1, "transfer_characteristics": 13},
        # HDR, whose brightness is no curve of sRGB's kind
        {"color_primaries": 12, "transfer_characteristics": 16},
    ):
        seen = read_stripes(path, **colours)
        assert np.abs(seen - CALLED_IN_P3).max() <= 3, colours


def test_heic_without_a_wheel_is_named_and_all_else_is_read(small_pool, tmp_path):
    (small_pool / "cats" / "phone.heic").write_bytes(HEIC)
    (small_pool / "cats" / "phone.jpg").write_bytes(HEIC)
    hide = "import sys; sys.modules['pi_heif'] = None; from data.prepare import main; "
    run = f"sys.exit(main([{str(small_pool)!r}, '--output', {str(tmp_path / 'data')!r}]))"
    done = run_script("-c", hide + run)
    assert done.returncode == 0, done.stderr
    assert "1 file .heic, which cannot be read here: convert it if it is" in done.stdout
    assert "phone.jpg: in a format like HEIC: convert it" in done.stdout
    assert len([*(tmp_path / "data").glob("t*/*/*.jpg")]) == 12


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_another_profile_are_converted_to_srgb(tmp_path, mode):
    meant = Image.open(save_photo(tmp_path / "srgb.png", 7)).quantize(64).convert("RGB")
    stored = Image.merge("RGB", [meant.getchannel(channel) for channel in "GRB"])
    stored = stored.quantize(64) if mode == "P" else stored.convert(mode)
    stored.save(tmp_path / "other.png", icc_profile=SWAPPED)  # its red is sRGB's green
    read = np.asarray(load_image(tmp_path / "other.png")[1]).astype(int)
    assert np.abs(read - np.asarray(meant)).mean() < 1


def grey(values, tmp_path, extremes=None):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    return np.asarray(load_image(tmp_path / "deep.tif", extremes)[1])[..., 0].astype(int)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_values_are_scaled_by_the_bits_that_they_need(tmp_path, kind):
    for bits in (8, 12, 16):
        ramp = np.linspace(0, 2**bits - 1, 256).round().astype(kind).reshape(16, 16)
        assert np.array_equal(grey(ramp, tmp_path), np.arange(256).reshape(16, 16))
        # where others of the data set need the last bit
        assert grey(ramp // 2, tmp_path, (0, 2**bits - 1)).max() == 127


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_values_far_from_nought_do_not_become_one_grey(tmp_path, kind):
    shades = grey(np.arange(40_000, 40_100).astype(kind).reshape(10, 10), tmp_path).ravel()
    assert len(np.unique(shades)) > 50
    assert (np.diff(shades) >= 0).all()
    assert len(np.unique(grey(np.full((9, 9), 7, kind), tmp_path))) == 1


def test_floats_from_nought_to_one_or_around_nought_keep_their_range(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.abs(grey(ramp, tmp_path) - np.arange(256).reshape(16, 16)).max() <= 1
    # a dark one stays dark
    assert grey(ramp / 4, tmp_path).max() == 64
    signed = grey(2 * ramp - 1, tmp_path).ravel()
    assert signed[[0, 127, 128, 255]].tolist() == [0, 127, 128, 255]
    ramp[0, :3] = np.nan, np.inf, -np.inf
    assert grey(ramp, tmp_path)[0, :3].tolist() == [0, 255, 0]


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_of_any_kind_is_black_without_a_warning(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    # a signalling one, which a processor complains of when it is cast
    ramp.view(np.uint32)[15, 15] = 0x7F800001
    assert grey(ramp, tmp_path)[15, 14:].tolist() == [254, 0]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return the file with a few bytes changed, cut out, doubled or cut off."""
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        start = rng.randrange(len(data))
        length = rng.choice((1, 1, 2, 4, 64))
        part = data[start : start + length]
        flipped = bytes([part[0] ^ 1 << rng.randrange(8)]) + part[1:]
        same = rng.choice((b"\0", b"\xff")) * length
        changed = rng.choice((flipped, rng.randbytes(length), b"", part * 2, same))
        data = data[:start] + changed + data[start + length :] or b"\0"
    if rng.random() < 0.1:
        return data[: rng.randrange(len(data))]
    return data


MUTATED = {
    "jpg": photo(exif=TURNED),
    "jpeg": photo(progressive=True, icc_profile=SWAPPED),
    "png": photo("PNG", "RGBA"),
    "apng": photo("PNG", "P", transparency=3),
    "gif": frames("GIF"),
    "webp": frames("WEBP"),
    "tif": photo("TIFF", compression="tiff_lzw"),
    "tiff": DEEP,
    "bmp": photo("BMP"),
    "ppm": photo("PPM"),
    "mpo": frames("MPO"),
    "avif": photo("AVIF"),
    "heic": HEIC,
    "jp2": photo("JPEG2000"),
    # without a suffix some are no image any more
    "": photo("TIFF", "F"),
}


def test_mutants_are_read_alike_everywhere_or_named(tmp_path):
    """MUTANTS=5000 in the environment for more than a few."""
    rng = random.Random(0)
    count = int(os.environ.get("MUTANTS", "300"))
    pool = make_pool(tmp_path / "pool", 1, ("a", "b"))
    for number in range(count):
        suffix = rng.choice(sorted(MUTATED))
        name = f"mutant_{number}.{suffix}".rstrip(".")
        file = pool / rng.choice("ab") / name
        file.write_bytes(mutate(rng, MUTATED[suffix]))
    found = sum(map(len, find_images(pool).values()))
    report = augment_folder(pool, tmp_path / "copies", copies=1)
    photos, unreadable = read_photos({"": pool}, False, tmp_path / "8-bit", [])
    assert report.images + len(report.left_out) == found > count * 0.9
    assert report.made == report.images == len(photos) > count / 5
    assert len(report.left_out) == len(unreadable) > count / 20
    assert {line.split(": left out")[0] for line in report.left_out} == set(unreadable)
    assert all(line.isprintable() for line in [*unreadable.values(), *report.left_out])
    assert all(load_image(file) for file in (tmp_path / "copies").glob("*/*.jpg"))
