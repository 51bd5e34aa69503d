"""Draw cats and dogs: the stand-in for photos when Kaggle cannot be reached.

    python -m data.drawings FOLDER [--per-class 70] [--seed 0]

Fills FOLDER/cats and FOLDER/dogs with 224 x 224 JPEG files. Ears, muzzle, whiskers, tongue and tail
tell a cat from a dog. Everything else comes from the same distributions for both: pose, size,
place, fur, light, background, and what makes some of them hard, as in photos – an animal that looks
away, that is half out of the picture, or small. The same seed gives the same drawings.
"""

import argparse
import io
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data.files import write_whole

SIZE = 224
# drawn at twice the size, then reduced: smooth edges without an antialiasing pen
CANVAS = 2 * SIZE
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
EYES = ((120, 160, 70), (196, 150, 50), (110, 80, 50), (90, 140, 180))
TONGUE = (236, 72, 96)

# what makes a drawing hard: shares of all drawings, independent of each other
LOOKS_AWAY = 0.15
PARTLY_OUT = 0.15
SMALL = 0.15

# of each pose, in widths of the picture: the head's radius (from, to) and its middle's height
HEAD_RADIUS = {"portrait": (0.26, 0.3), "sitting": (0.21, 0.25), "standing": (0.19, 0.22)}
HEAD_HEIGHT = {"portrait": 0.46, "sitting": 0.36, "standing": 0.42}
# in radii of the head, from its middle
TAIL_ROOT = {"portrait": (1.3, 2.0), "sitting": (0.9, 2.4), "standing": (2.9, 0.8)}
TAIL_ROOT_BEHIND = (0.3, 2.4)


@dataclass
class Animal:
    """What is drawn once of an animal, and the layer it is drawn on."""

    kind: str
    pose: str
    looks_away: bool
    # 1: the body stands to the right of the head, -1: to its left
    side: int
    # the head's middle and radius, in pixels of the canvas
    x: float
    y: float
    radius: float
    fur: tuple[int, int, int]
    # fur for the whole canvas, RGB
    texture: Image.Image
    layer: Image.Image


def draw(kind: str, seed: int, index: int) -> Image.Image:
    """Return drawing number `index` of class `kind` ("cats" or "dogs"), RGB, 224 x 224."""
    rng = random.Random(f"{seed}/{kind}/{index}")
    animal = _animal(rng, kind)
    if animal.looks_away:
        _body(animal)
        _tail(rng, animal)
    else:
        _tail(rng, animal)
        _body(animal)
    _paste_head(animal, _head(rng, animal))

    scene = _background(rng)
    scene.paste(animal.layer, mask=animal.layer)
    return _light(rng, scene.reduce(2))


def draw_dataset(folder: Path, per_class: int = 70, seed: int = 0) -> None:
    """Write `per_class` drawings of each class to folder/cats and folder/dogs as JPEG files.

    Raises:
        InputError: one of them cannot be written.
    """
    for kind in CLASSES:
        for index in range(per_class):
            jpeg = io.BytesIO()
            draw(kind, seed, index).save(jpeg, "JPEG", quality=95)
            name = f"{kind[:-1]}_{index:03}.jpg"
            write_whole(Path(folder) / kind / name, jpeg.getbuffer())


def _animal(rng, kind):
    """Choose everything that does not depend on the class."""
    pose = rng.choice(POSES)
    side = rng.choice((-1, 1))
    radius = rng.uniform(*HEAD_RADIUS[pose])
    x = rng.uniform(0.4, 0.6)
    y = HEAD_HEIGHT[pose] + rng.uniform(-0.05, 0.05)
    if rng.random() < SMALL:
        radius *= rng.uniform(0.4, 0.6)
    if pose == "standing":
        x -= side * 0.9 * radius
    if rng.random() < PARTLY_OUT:
        x, y = _half_outside(rng, x, y)

    fur, accent = rng.sample(sorted(FURS), 2)
    return Animal(
        kind=kind,
        pose=pose,
        looks_away=rng.random() < LOOKS_AWAY,
        side=side,
        x=CANVAS * x,
        y=CANVAS * y,
        radius=CANVAS * radius,
        fur=FURS[fur],
        texture=_texture(rng, FURS[fur], FURS[accent]),
        layer=Image.new("RGBA", (CANVAS, CANVAS)),
    )


def _half_outside(rng, x, y):
    """Move the head's middle, in widths of the picture, to about an edge of it."""
    edge = rng.choice(("left", "right", "top"))
    near = rng.uniform(-0.1, 0.06)
    if edge == "left":
        return near, y
    if edge == "right":
        return 1 - near, y
    return x, near


def _shade(colour, factor):
    return tuple(min(255, max(0, round(channel * factor))) for channel in colour)


def _contrast(colour):
    """A line colour that shows on `colour`."""
    if sum(colour) < 420:
        return (250, 250, 250)
    return (40, 34, 34)


def _texture(rng, fur, accent):
    """Fur for the whole canvas: base colour, one of the patterns, a little grain."""
    texture = Image.new("RGB", (CANVAS, CANVAS), fur)
    pen = ImageDraw.Draw(texture)
    pattern = rng.choice(PATTERNS)
    if pattern == "stripes":
        _stripes(rng, pen, _shade(fur, 0.68))
    if pattern == "spots":
        _spots(rng, pen, accent, count=70, sizes=(8, 18))
    if pattern == "patches":
        _spots(rng, pen, accent, count=9, sizes=(40, 80))

    noise = np.random.default_rng(rng.getrandbits(32))
    grain = noise.integers(-9, 10, size=(CANVAS, CANVAS, 1))
    return _image(np.asarray(texture) + grain)


def _stripes(rng, pen, colour):
    gap = rng.randint(34, 54)
    slant = rng.randint(-60, 60)
    for x in range(-CANVAS, 2 * CANVAS, gap):
        pen.line([(x, 0), (x + slant, CANVAS)], fill=colour, width=gap // 3)


def _spots(rng, pen, colour, count, sizes):
    for _ in range(count):
        x = rng.uniform(0, CANVAS)
        y = rng.uniform(0, CANVAS)
        radius = rng.uniform(*sizes)
        pen.ellipse([x - radius, y - radius, x + radius, y + 0.8 * radius], fill=colour)


def _image(pixels):
    """An image of an array of shape (height, width, 3), values cut to 0 to 255."""
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _furry(layer, animal, shape, texture=None):
    """Draw `shape` onto `layer`: filled with fur, with a dark edge."""
    shape(ImageDraw.Draw(layer), grow=3, colour=_shade(animal.fur, 0.35))
    mask = Image.new("L", layer.size)
    shape(ImageDraw.Draw(mask), grow=0, colour=255)
    layer.paste(texture or animal.texture, mask=mask)


def _ellipse(x, y, width, height):
    """A shape for `_furry`: half axes in pixels."""

    def shape(pen, grow, colour):
        rx = width + grow
        ry = height + grow
        pen.ellipse([x - rx, y - ry, x + rx, y + ry], fill=colour)

    return shape


def _polygon(points):
    """A shape for `_furry`: corners in pixels."""

    def shape(pen, grow, colour):
        pen.polygon(points, fill=colour)
        if grow:
            pen.line([*points, points[0]], fill=colour, width=2 * grow, joint="curve")

    return shape


class Face:
    """A head on a square layer of its own, in radii of the head from the layer's middle."""

    def __init__(self, animal):
        self.animal = animal
        self.layer = Image.new("RGBA", (CANVAS, CANVAS))
        self.pen = ImageDraw.Draw(self.layer)
        # pixels to a radius: the layer is four radii wide
        self.unit = CANVAS / 4

    def at(self, x, y):
        return CANVAS / 2 + x * self.unit, CANVAS / 2 + y * self.unit

    def oval(self, x, y, width, height):
        return _ellipse(*self.at(x, y), width * self.unit, height * self.unit)

    def furry(self, shape, texture=None):
        _furry(self.layer, self.animal, shape, texture)

    def blob(self, x, y, width, height, colour):
        self.oval(x, y, width, height)(self.pen, grow=0, colour=colour)

    def polygon(self, corners, colour):
        self.pen.polygon([self.at(x, y) for x, y in corners], fill=colour)

    def line(self, points, colour, width):
        places = [self.at(x, y) for x, y in points]
        self.pen.line(places, fill=colour, width=width, joint="curve")


def _head(rng, animal):
    """The head alone, upright then tilted, on a square layer four head radii wide."""
    face = Face(animal)
    if animal.kind == "cats":
        _cat_skull(rng, face)
    else:
        _dog_skull(rng, face)
    if not animal.looks_away:
        _eyes(face, iris=rng.choice(EYES))
        if animal.kind == "cats":
            _cat_muzzle(rng, face)
        else:
            _dog_muzzle(rng, face)
    return face.layer.rotate(rng.uniform(-18, 18), Image.Resampling.BILINEAR)


def _cat_skull(rng, face):
    """Pointed ears on a head wider than high; pink inside where one looks into them."""
    spread = rng.uniform(0.62, 0.8)
    height = rng.uniform(1.35, 1.6)
    for side in (-1, 1):
        ear = [(side * 0.97, -0.2), (side * spread, -height), (side * 0.12, -0.85)]
        face.furry(_polygon([face.at(x, y) for x, y in ear]))
        if not face.animal.looks_away:
            tip = (side * spread * 0.97, 0.27 - height)
            face.polygon([(side * 0.84, -0.45), tip, (side * 0.34, -0.85)], (232, 160, 160))
    face.furry(face.oval(0, 0, 1.0, rng.uniform(0.84, 0.92)))


def _dog_skull(rng, face):
    """Hanging ears, darker than the rest, on a head higher than wide."""
    face.furry(face.oval(0, 0, rng.uniform(0.82, 0.9), 1.0))
    drop = rng.uniform(0.62, 0.8)
    dark = face.animal.texture.point(lambda value: value * 0.62)
    for side in (-1, 1):
        face.furry(face.oval(side * 0.95, drop - 0.75, 0.31, drop), texture=dark)


def _eyes(face, iris):
    for side in (-1, 1):
        x = side * 0.38
        face.blob(x, -0.16, 0.19, 0.19, (250, 250, 246))
        face.blob(x, -0.15, 0.145, 0.145, iris)
        face.blob(x, -0.15, 0.085, 0.095, (16, 14, 14))
        face.blob(x + 0.04, -0.2, 0.035, 0.035, (255, 255, 255))


def _pale(fur):
    return tuple((channel + 2 * 240) // 3 for channel in fur)


def _cat_muzzle(rng, face):
    """A small pink nose, and whiskers wider than the head."""
    fur = face.animal.fur
    for side in (-1, 1):
        face.blob(side * 0.16, 0.4, 0.22, 0.17, _pale(fur))
    face.polygon([(-0.12, 0.2), (0.12, 0.2), (0, 0.34)], (214, 116, 124))
    for side in (-1, 1):
        mouth = [(0, 0.34), (side * 0.05, 0.46), (side * 0.2, 0.48)]
        face.line(mouth, _shade(fur, 0.35), width=5)
        for lift in (-0.2, 0.0, 0.2):
            root = (side * 0.26, 0.4 + 0.4 * lift)
            tip = (side * rng.uniform(1.4, 1.6), 0.4 + 2 * lift + rng.uniform(-0.08, 0.08))
            face.line([root, tip], _contrast(fur), width=6)


def _dog_muzzle(rng, face):
    """A black nose on a long pale muzzle, and a tongue."""
    line = _shade(face.animal.fur, 0.35)
    tongue = rng.uniform(1.15, 1.4)
    face.blob(0, 0.48, 0.52, 0.46, _pale(face.animal.fur))
    corners = [face.at(-0.2, 0.66), face.at(0.2, tongue)]
    face.pen.rounded_rectangle(corners, 0.19 * face.unit, fill=TONGUE)
    face.line([(0, 0.72), (0, tongue - 0.18)], _shade(TONGUE, 0.75), width=4)
    face.blob(0, 0.22, 0.25, 0.17, (24, 20, 22))
    face.blob(-0.08, 0.16, 0.05, 0.03, (150, 150, 150))
    face.line([(0, 0.38), (0, 0.62)], line, width=6)
    mouth = [(-0.32, 0.56), (-0.2, 0.66), (0, 0.64), (0.2, 0.66), (0.32, 0.56)]
    face.line(mouth, line, width=7)


def _paste_head(animal, head):
    width = round(4 * animal.radius)
    scaled = head.resize((width, width), Image.Resampling.BILINEAR)
    corner = (round(animal.x - 2 * animal.radius), round(animal.y - 2 * animal.radius))
    layer = Image.new("RGBA", animal.layer.size)
    layer.paste(scaled, corner)
    animal.layer.alpha_composite(layer)


def _body(animal):
    """Draw trunk and legs onto the animal's layer."""
    side = animal.side

    def furry(dx, dy, width, height):
        x = animal.x + dx * animal.radius
        y = animal.y + dy * animal.radius
        _furry(animal.layer, animal, _ellipse(x, y, width * animal.radius, height * animal.radius))

    if animal.pose == "portrait":
        furry(0, 1.9, 1.25, 1.35)
    if animal.pose == "sitting":
        furry(0, 1.75, 1.05, 1.4)
        for leg in (-1, 1):
            furry(leg * 0.85, 2.75, 0.55, 0.4)
            if not animal.looks_away:
                furry(leg * 0.35, 2.3, 0.27, 0.85)
    if animal.pose == "standing":
        for leg in (0.6, 1.1, 2.2, 2.7):
            furry(side * leg, 2.0, 0.24, 0.95)
        furry(side * 1.65, 1.1, 1.55, 0.8)


def _tail(rng, animal):
    """A cat's tail is long, thin and curled; a dog's is short, thick and tapers upwards."""
    radius = animal.radius
    steps = np.linspace(0, 1, num=40)
    if animal.kind == "cats":
        length = 2.1 * radius
        angles = 0.2 + rng.uniform(2.2, 3.0) * steps
        widths = np.full(40, fill_value=0.15 * radius)
    else:
        length = 1.15 * radius
        angles = 0.5 + rng.uniform(0.5, 0.9) * steps
        widths = radius * (0.3 - 0.2 * steps)

    dx, dy = TAIL_ROOT[animal.pose]
    if animal.looks_away and animal.pose != "standing":
        dx, dy = TAIL_ROOT_BEHIND
    step = length / len(steps)
    xs = animal.x + animal.side * (dx * radius + step * np.cumsum(np.cos(angles)))
    ys = animal.y + dy * radius - step * np.cumsum(np.sin(angles))

    def shape(pen, grow, colour):
        for x, y, width in zip(xs, ys, widths, strict=True):
            _ellipse(x, y, width, width)(pen, grow, colour)

    _furry(animal.layer, animal, shape)


def _background(rng):
    """Wall or sky over a floor, a few soft shapes, in quiet colours."""

    def colour():
        return tuple(rng.randint(90, 190) for _ in range(3))

    scene = Image.new("RGB", (SIZE, SIZE), colour())
    pen = ImageDraw.Draw(scene)
    pen.rectangle([0, SIZE * rng.uniform(0.5, 0.85), SIZE, SIZE], fill=colour())
    for _ in range(rng.randint(1, 4)):
        x = rng.uniform(0, SIZE)
        y = rng.uniform(0, SIZE)
        radius = rng.uniform(10, 55)
        _ellipse(x, y, radius, radius * rng.uniform(0.5, 1.5))(pen, grow=0, colour=colour())
    blurred = scene.filter(ImageFilter.GaussianBlur(rng.uniform(1, 6)))
    return blurred.resize((CANVAS, CANVAS))


def _light(rng, image):
    """Light from one side: a brightness ramp across the picture, stronger or weaker overall."""
    angle = rng.uniform(0, 2 * math.pi)
    across = np.linspace(-0.5, 0.5, num=SIZE)
    ramp = math.cos(angle) * across[None, :] + math.sin(angle) * across[:, None]
    brightness = rng.uniform(0.8, 1.1)
    slope = rng.uniform(0.1, 0.4)
    gain = brightness * (1 + slope * ramp)
    return _image(np.asarray(image, dtype=float) * gain[..., None])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw cats and dogs.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-class", type=int, default=70)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw_dataset(options.folder, options.per_class, options.seed)
