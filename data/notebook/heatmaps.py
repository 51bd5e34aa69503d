"""Which photos to explain, what a heat map is worth, and which layer it is made at."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.files import InputError, one_line
from data.notebook.loader import MEAN
from data.notebook.statistics import Estimate, percent

# of width and height, on each side
EDGE = 1 / 8


def find_layer(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """Return a network's layer by its name, such as "layer4" or "features.12".

    Raises:
        InputError: there is none; the message lists the outermost ones.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        kind = type(model).__name__
        layers = ", ".join(layer for layer, _ in model.named_children())
        raise InputError(f"GRAD_CAM_LAYER = {name!r}: {kind} has the layers {layers}") from None


def choose_photos(
    labels: np.ndarray, probabilities: dict[str, np.ndarray], of_each: int = 2
) -> list[int]:
    """Return the indices of photos to explain: all networks right, all wrong, and disputed ones.

    Of each kind so many, those first of which the networks are surest.

    Args:
        labels: (N,) of the photos.
        probabilities: (N, classes) of each network, by name.
    """
    # (networks, N, classes)
    chances = np.array(list(probabilities.values()))
    predicted = chances.argmax(axis=2)
    confidence = chances.max(axis=2).mean(axis=0)
    right = predicted == labels
    all_right = right.all(axis=0)
    all_wrong = ~right.any(axis=0)
    disputed = (predicted != predicted[0]).any(axis=0)
    surest_first = np.argsort(-confidence, kind="stable")
    chosen = []
    for kind in (all_right, all_wrong, disputed):
        of_kind = surest_first[kind[surest_first]]
        fresh = [index for index in of_kind if index not in chosen]
        chosen.extend(fresh[:of_each])
    return chosen


def describe_photos(
    photos: DataLoader, probabilities: dict[str, np.ndarray], indices: Sequence[int]
) -> list[str]:
    """Return for some photos their file, and how many networks name it rightly.

    Args:
        photos: of `load_dataset`.
        probabilities: (N, classes) of each network, by name.
        indices: of the photos that are told.
    """
    texts = []
    for index in indices:
        answers = [of_all[index].argmax() for of_all in probabilities.values()]
        right = answers.count(photos.labels[index])
        texts.append(f"{photos.paths[index][-20:]}\n{right} of {len(answers)} right")
    return texts


def describe_choice(labels: np.ndarray, probabilities: dict[str, np.ndarray], index: int) -> str:
    """Return why a photo was chosen; arguments as of `choose_photos`, which gave its index."""
    # (networks, classes)
    chances = np.array([of_all[index] for of_all in probabilities.values()])
    right = chances.argmax(axis=1) == labels[index]
    if right.all():
        return "all networks name it rightly, and of these photos they are surest of it"
    if not right.any():
        return "no photo is named rightly by all networks; all name this one wrongly"
    return "no photo is named rightly or wrongly by all networks; they dispute this one"


def choose_mistakes(labels: np.ndarray, probabilities: np.ndarray, count: int = 6) -> list[int]:
    """Return the indices of the mistakes that a network is surest of, the surest first.

    Args:
        labels: (N,) of the photos.
        probabilities: (N, classes) of the network.
    """
    predicted = probabilities.argmax(axis=1)
    surest_first = np.argsort(-probabilities.max(axis=1))
    is_wrong = predicted[surest_first] != labels[surest_first]
    return surest_first[is_wrong][:count].tolist()


def describe_answers(
    photos: DataLoader,
    probabilities: np.ndarray,
    indices: Sequence[int],
    with_files: bool = False,
) -> list[str]:
    """Return for some photos what a network says of each, and whether it is right: cats 83 % ✗.

    Args:
        photos: of `load_dataset`.
        probabilities: (N, classes) of all photos.
        indices: of the photos that are told.
        with_files: the photo's file stands above the answer.
    """
    texts = []
    for index in indices:
        chances = probabilities[index]
        answer = chances.argmax()
        mark = "✓" if answer == photos.labels[index] else "✗"
        name = one_line(photos.names[answer])[:14]
        text = f"{name} {percent(chances.max())} {mark}"
        if with_files:
            text = f"{photos.paths[index][-20:]}\n{text}"
        texts.append(text)
    return texts


def choose_spread(count: int, most: int = 150) -> np.ndarray:
    """Return at most so many indices of 0 … count - 1, evenly spread."""
    spread = np.linspace(0, count - 1, most)
    return np.unique(spread.round().astype(int))


def keep_hottest(images: torch.Tensor, heats: np.ndarray, share: float) -> torch.Tensor:
    """Return images reduced to the hottest share of their pixels; the network sees zero elsewhere.

    Ties are broken at random, always alike.

    Args:
        images: (N, 3, H, W) uint8.
        heats: (N, H, W), 0 or more.
        share: of the pixels that is kept, from 0 to 1.
    """
    return keep_highest(images, scale_heats(heats), share)


def keep_coldest(images: torch.Tensor, heats: np.ndarray, share: float) -> torch.Tensor:
    """Return images reduced to the coldest share of their pixels, as `keep_hottest`."""
    return keep_highest(images, -scale_heats(heats), share)


KEEP = {"hottest": keep_hottest, "coldest": keep_coldest}


def scale_heats(heats: np.ndarray) -> np.ndarray:
    """Return heats (N, H, W) as shares of the greatest of each image."""
    greatest = heats.max(axis=(1, 2), keepdims=True)
    return heats / greatest.clip(1e-12)


def keep_highest(images: torch.Tensor, ranks: np.ndarray, share: float) -> torch.Tensor:
    """Return images reduced to the share of their pixels that have the highest ranks (N, H, W)."""
    tie_breaks = np.random.default_rng(0).random(ranks.shape)
    ranks = ranks + 1e-6 * tie_breaks
    least = np.quantile(ranks, 1 - share, axis=(1, 2), keepdims=True)
    kept = torch.from_numpy(ranks >= least)
    # ImageNet's mean, which normalising turns into zero
    erased = (255 * torch.tensor(MEAN)).round().to(torch.uint8)
    kept_in_all_channels = kept[:, None]
    return torch.where(kept_in_all_channels, images, erased[:, None, None])


def describe_gap(name: str, gap: Estimate, photos: int) -> str:
    """Return what it changed to keep the hottest part of the photos, not the coldest.

    Args:
        gap: of the true class's probability, the hottest part kept less the coldest kept.
        photos: that it was measured on.
    """
    measured = f"{name}: {gap.mean:+.2f}"
    if gap.low is None:
        return f"{measured} on a single photo: not shown to matter which part is kept."
    measured = f"{measured} [{gap.low:+.2f}, {gap.high:+.2f}] over {photos} photos"
    if gap.low <= 0 <= gap.high:
        return f"{measured}: not shown to matter which part is kept."
    if gap.mean > 0:
        return f"{measured}: the true class is more probable where the hottest part is kept."
    return f"{measured}: the true class is less probable where the hottest part is kept."


def describe_edge(name: str, heats: np.ndarray) -> str:
    """Return how much of the heat lies in the outer eighths of the images.

    Args:
        heats: (N, H, W), 0 or more.
    """
    if heats.sum() == 0:
        return f"{name}: no heat on any photo, nothing raised the score of the true class."
    height, width = heats.shape[1:]
    outside = np.ones((height, width), dtype=bool)
    rows = int(height * EDGE)
    columns = int(width * EDGE)
    outside[rows : height - rows, columns : width - columns] = False
    share = heats[:, outside].sum() / heats.sum()
    area = outside.mean()
    return f"{name}: {percent(share)} of the heat lies in the outer {percent(area)} of the photos."
