"""Draw cats and dogs: the stand-in for photos when Kaggle cannot be reached.

    python data/drawings.py FOLDER [--per-class 70] [--seed 0]

Fills FOLDER/cats and FOLDER/dogs with 224 x 224 JPEG files. Pose, size, position, fur colour,
fur pattern, lighting and background come from the same distributions for both classes, so none of
them tells a cat from a dog; ears, muzzle, whiskers, tongue and tail do, unless a ball hides the
head. The same seed gives the same drawings.
"""

import argparse
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 224
CANVAS = 2 * SIZE  # drawn at twice the size, then reduced: smooth edges without an antialiasing pen
CLASSES = ("cats", "dogs")
POSES = ("portrait", "sitting", "standing")
PATTERNS = ("plain", "stripes", "spots", "patches")
FURS = {
    "ginger": (214, 132, 62),
    "brown": (134, 90, 58),
    "black": (62, 58, 62),
    "grey": (142, 142, 148),
    "white": (234, 229, 220),
    "cream": (224, 194, 146),
}
HIDDEN = 0.15  # share of heads behind a ball: what nobody can tell for certain
TONGUE = (236, 72, 96)


def draw(kind: str, seed: int, index: int) -> Image.Image:
    """Return drawing number `index` of class `kind` ("cats" or "dogs"), RGB, 224 x 224."""
    rng = random.Random(f"{seed}/{kind}/{index}")
    pose = rng.choice(POSES)
    fur, accent = (FURS[name] for name in rng.sample(sorted(FURS), 2))
    texture = _texture(rng, fur, accent)
    head = _head(rng, kind, texture, fur)
    animal = Image.new("RGBA", (CANVAS, CANVAS))
    centre, radius = _body(rng, kind, pose, texture, animal, fur)

    scaled = head.resize((round(4 * radius),) * 2, Image.Resampling.BILINEAR)
    corner = (round(centre[0] - 2 * radius), round(centre[1] - 2 * radius))
    head_layer = Image.new("RGBA", animal.size)
    head_layer.paste(scaled, corner)
    animal.alpha_composite(head_layer)
    if rng.random() < HIDDEN:
        shape = _ellipse(*centre, 1.75 * radius, 1.75 * radius)
        shape(ImageDraw.Draw(animal), 0, tuple(rng.randint(60, 230) for _ in range(3)))

    scene = _background(rng)
    scene.paste(animal, mask=animal)
    return _light(rng, scene.reduce(2))


def draw_dataset(folder: Path, per_class: int = 70, seed: int = 0) -> None:
    """Write `per_class` drawings of each class to folder/cats and folder/dogs as JPEG files."""
    for kind in CLASSES:
        (Path(folder) / kind).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            name = f"{kind[:-1]}_{index:03}.jpg"
            draw(kind, seed, index).save(Path(folder) / kind / name, quality=95)


def _shade(colour, factor):
    return tuple(min(255, max(0, round(channel * factor))) for channel in colour)


def _contrast(colour):
    """A line colour that shows on `colour`."""
    return (250, 250, 250) if sum(colour) < 420 else (40, 34, 34)


def _texture(rng, fur, accent):
    """Fur for the whole canvas: base colour, one of the patterns, a little grain."""
    texture = Image.new("RGB", (CANVAS, CANVAS), fur)
    pen = ImageDraw.Draw(texture)
    pattern = rng.choice(PATTERNS)
    if pattern == "stripes":
        colour, gap, slant = _shade(fur, 0.68), rng.randint(34, 54), rng.randint(-60, 60)
        for x in range(-CANVAS, 2 * CANVAS, gap):
            pen.line([(x, 0), (x + slant, CANVAS)], fill=colour, width=gap // 3)
    elif pattern in ("spots", "patches"):
        count, size = (70, (8, 18)) if pattern == "spots" else (9, (40, 80))
        for _ in range(count):
            x, y, r = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), rng.uniform(*size)
            pen.ellipse([x - r, y - r, x + r, y + 0.8 * r], fill=accent)
    grain = np.random.default_rng(rng.getrandbits(32)).integers(-9, 10, (CANVAS, CANVAS, 1))
    return Image.fromarray(np.clip(np.asarray(texture) + grain, 0, 255).astype(np.uint8))


def _furry(layer, texture, line, shape):
    """Draw a shape onto `layer`: filled with fur, with an edge of colour `line`."""
    shape(ImageDraw.Draw(layer), 3, line)
    mask = Image.new("L", layer.size)
    shape(ImageDraw.Draw(mask), 0, 255)
    layer.paste(texture, mask=mask)


def _ellipse(x, y, rx, ry):
    def shape(pen, grow, colour):
        box = [x - rx - grow, y - ry - grow, x + rx + grow, y + ry + grow]
        pen.ellipse(box, fill=colour)

    return shape


def _polygon(points):
    def shape(pen, grow, colour):
        pen.polygon(points, fill=colour)
        if grow:
            pen.line([*points, points[0]], fill=colour, width=2 * grow, joint="curve")

    return shape


def _head(rng, kind, texture, fur):
    """The head alone, upright then tilted, on a square canvas four head radii wide."""
    layer = Image.new("RGBA", (CANVAS, CANVAS))
    pen, unit, middle = ImageDraw.Draw(layer), CANVAS / 4, CANVAS / 2
    line = _shade(fur, 0.35)

    def at(x, y):
        return middle + x * unit, middle + y * unit

    def blob(x, y, rx, ry, colour):
        _ellipse(*at(x, y), rx * unit, ry * unit)(pen, 0, colour)

    def furry(x, y, rx, ry):
        _furry(layer, texture, line, _ellipse(*at(x, y), rx * unit, ry * unit))

    def strokes(points, colour, width):
        pen.line([at(*point) for point in points], fill=colour, width=width, joint="curve")

    if kind == "cats":
        spread, height = rng.uniform(0.62, 0.8), rng.uniform(1.35, 1.6)
        for side in (-1, 1):
            ear = [at(side * x, y) for x, y in ((0.97, -0.2), (spread, -height), (0.12, -0.85))]
            _furry(layer, texture, line, _polygon(ear))
            inner = ((0.84, -0.45), (spread * 0.97, -height + 0.27), (0.34, -0.85))
            pen.polygon([at(side * x, y) for x, y in inner], fill=(232, 160, 160))
        furry(0, 0, 1.0, rng.uniform(0.84, 0.92))
    else:
        furry(0, 0, rng.uniform(0.82, 0.9), 1.0)
        drop, ear_texture = rng.uniform(0.62, 0.8), texture.point(lambda value: value * 0.62)
        for side in (-1, 1):
            ear = _ellipse(*at(side * 0.95, drop - 0.75), 0.31 * unit, drop * unit)
            _furry(layer, ear_texture, line, ear)

    iris = rng.choice([(120, 160, 70), (196, 150, 50), (110, 80, 50), (90, 140, 180)])
    for side in (-1, 1):
        blob(side * 0.38, -0.16, 0.19, 0.19, (250, 250, 246))
        blob(side * 0.38, -0.15, 0.145, 0.145, iris)
        blob(side * 0.38, -0.15, 0.085, 0.095, (16, 14, 14))
        blob(side * 0.38 + 0.04, -0.2, 0.035, 0.035, (255, 255, 255))

    pale = tuple((channel + 2 * 240) // 3 for channel in fur)
    if kind == "cats":
        for side in (-1, 1):
            blob(side * 0.16, 0.4, 0.22, 0.17, pale)
        pen.polygon([at(-0.12, 0.2), at(0.12, 0.2), at(0, 0.34)], fill=(214, 116, 124))
        for side in (-1, 1):
            strokes([(0, 0.34), (side * 0.05, 0.46), (side * 0.2, 0.48)], line, 5)
            for lift in (-0.2, 0.0, 0.2):
                tip = (side * rng.uniform(1.4, 1.6), 0.4 + 2 * lift + rng.uniform(-0.08, 0.08))
                strokes([(side * 0.26, 0.4 + lift * 0.4), tip], _contrast(fur), 6)
    else:
        tongue = rng.uniform(1.15, 1.4)
        blob(0, 0.48, 0.52, 0.46, pale)
        pen.rounded_rectangle([at(-0.2, 0.66), at(0.2, tongue)], 0.19 * unit, fill=TONGUE)
        strokes([(0, 0.72), (0, tongue - 0.18)], _shade(TONGUE, 0.75), 4)
        blob(0, 0.22, 0.25, 0.17, (24, 20, 22))
        blob(-0.08, 0.16, 0.05, 0.03, (150, 150, 150))
        strokes([(0, 0.38), (0, 0.62)], line, 6)
        strokes([(-0.32, 0.56), (-0.2, 0.66), (0, 0.64), (0.2, 0.66), (0.32, 0.56)], line, 7)
    return layer.rotate(rng.uniform(-18, 18), Image.Resampling.BILINEAR)


def _body(rng, kind, pose, texture, layer, fur):
    """Draw tail, body and legs onto `layer`; return the head's (centre, radius) in pixels."""
    side = rng.choice((-1, 1))
    line = _shade(fur, 0.35)
    size = {"portrait": (0.26, 0.3), "sitting": (0.21, 0.25), "standing": (0.19, 0.22)}[pose]
    radius = CANVAS * rng.uniform(*size)
    x = CANVAS * rng.uniform(0.4, 0.6)
    y = CANVAS * {"portrait": 0.46, "sitting": 0.36, "standing": 0.42}[pose]
    y += CANVAS * rng.uniform(-0.05, 0.05)

    def furry(dx, dy, rx, ry):
        shape = _ellipse(x + dx * radius, y + dy * radius, rx * radius, ry * radius)
        _furry(layer, texture, line, shape)

    if pose == "standing":
        x -= side * 0.9 * radius
    dx, dy = {"portrait": (1.3, 2.0), "sitting": (0.9, 2.4), "standing": (2.9, 0.8)}[pose]
    root = x + side * dx * radius, y + dy * radius
    _tail(rng, kind, layer, texture, line, root, side, radius)
    if pose == "portrait":
        furry(0, 1.9, 1.25, 1.35)
    elif pose == "sitting":
        furry(0, 1.75, 1.05, 1.4)
        for leg in (-1, 1):
            furry(leg * 0.85, 2.75, 0.55, 0.4)
            furry(leg * 0.35, 2.3, 0.27, 0.85)
    else:
        for leg in (0.6, 1.1, 2.2, 2.7):
            furry(side * leg, 2.0, 0.24, 0.95)
        furry(side * 1.65, 1.1, 1.55, 0.8)
    return (x, y), radius


def _tail(rng, kind, layer, texture, line, root, side, radius):
    """A cat's tail is long, thin and curled; a dog's is short, thick and tapers upwards."""
    steps = np.linspace(0, 1, 40)
    if kind == "cats":
        bend, length = rng.uniform(2.2, 3.0), 2.1 * radius
        angles, widths = 0.2 + bend * steps, np.full(40, 0.15 * radius)
    else:
        bend, length = rng.uniform(0.5, 0.9), 1.15 * radius
        angles, widths = 0.5 + bend * steps, radius * (0.3 - 0.2 * steps)
    xs = root[0] + side * np.cumsum(np.cos(angles)) * length / 40
    ys = root[1] - np.cumsum(np.sin(angles)) * length / 40

    def shape(pen, grow, colour):
        for x, y, width in zip(xs, ys, widths, strict=True):
            _ellipse(x, y, width, width)(pen, grow, colour)

    _furry(layer, texture, line, shape)


def _background(rng):
    """Wall or sky over a floor, a few soft shapes, in quiet colours."""

    def colour():
        return tuple(rng.randint(90, 190) for _ in range(3))

    scene = Image.new("RGB", (SIZE, SIZE), colour())
    pen = ImageDraw.Draw(scene)
    pen.rectangle([0, SIZE * rng.uniform(0.5, 0.85), SIZE, SIZE], fill=colour())
    for _ in range(rng.randint(1, 4)):
        x, y, r = rng.uniform(0, SIZE), rng.uniform(0, SIZE), rng.uniform(10, 55)
        _ellipse(x, y, r, r * rng.uniform(0.5, 1.5))(pen, 0, colour())
    blurred = scene.filter(ImageFilter.GaussianBlur(rng.uniform(1, 6)))
    return blurred.resize((CANVAS, CANVAS))


def _light(rng, image):
    """Light from one side: a brightness ramp across the picture, stronger or weaker overall."""
    angle = rng.uniform(0, 2 * math.pi)
    across = np.linspace(-0.5, 0.5, SIZE)
    ramp = math.cos(angle) * across[None, :] + math.sin(angle) * across[:, None]
    gain = rng.uniform(0.8, 1.1) * (1 + rng.uniform(0.1, 0.4) * ramp)
    lit = np.asarray(image, dtype=float) * gain[..., None]
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw cats and dogs.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-class", type=int, default=70)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw_dataset(options.folder, options.per_class, options.seed)
