"""Every figure of the notebook, one function each: arrays and tables in, a figure out."""

import io
import json
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from data.files import one_line, write_whole
from data.images import find_images, load_image
from data.notebook.loader import decode_image
from data.notebook.statistics import choose_interval, pair_tests

# fonts that have Chinese, Japanese and Korean characters, on one system or another
FURTHER_FONTS = [
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
]
INSTALLED = {font.name for font in font_manager.fontManager.ttflist}

plt.rcParams.update(
    {
        # where the first has no glyph, the next is tried
        "font.family": ["DejaVu Sans", *(name for name in FURTHER_FONTS if name in INSTALLED)],
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.1,
        # class names may hold a $
        "text.parse_math": False,
        # whatever the reader's own matplotlibrc says
        "text.usetex": False,
    }
)
# of Okabe and Ito: told apart by colour-blind readers
COLOURS = {
    "original": "#0072B2",
    "augmented": "#D55E00",
    "original_matched": "#009E73",
    "mixed": "#CC79A7",
}
FURTHER_COLOURS = ["#56B4E9", "#E69F00", "#000000", "#F0E442"]
# more classes than these are not written out
MOST_BARS = 12
MOST_CELLS = 20
# and with more than these no class is named at its place
MOST_LABELS = 40
# of a confusion matrix; more could not be told apart
MOST_ROWS = 100


def colour_of(arm: str) -> str:
    """Return the colour of an arm, the same in all figures."""
    if arm not in COLOURS:
        further = len(COLOURS) % len(FURTHER_COLOURS)
        COLOURS[arm] = FURTHER_COLOURS[further]
    return COLOURS[arm]


def save_figure(figure: Figure, path: Path, kind: str = "png") -> None:
    """Keep a figure as a PNG file and, in a notebook, show it as `kind`, png or jpeg."""
    picture = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message="Glyph .* missing")
        figure.savefig(picture, dpi=150)
    if caught:
        print(f"{path.name}: no installed font has all its characters; Noto Sans CJK has most")
    write_whole(path, picture.getbuffer())
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        shown = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(shown, format=kind, dpi=90)
        ipython.display.display(ipython.display.Image(shown.getvalue()))
    plt.close(figure)


def make_axes(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (8, 3.2)
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes (rows, columns)."""
    return plt.subplots(rows, columns, figsize=size, squeeze=False)


def mark_drawings(figure: Figure) -> None:
    """Say in a figure's title that it shows drawings."""
    figure.suptitle(f"{figure.get_suptitle()}  (drawings, not photos)", fontsize=11)


def show_text(text: str) -> None:
    """Show Markdown in a notebook, or print it where there is none."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        print(text)
    else:
        ipython.display.display(ipython.display.Markdown(text))


def plot_photos(folder: Path, most_classes: int = 6, most_photos: int = 8) -> Figure:
    """Show the first photos of each class in a folder, squeezed to squares."""
    found = {name: files for name, files in find_images(folder).items() if files}
    by_class = dict(list(found.items())[:most_classes])
    fewest = min(len(files) for files in by_class.values())
    rows = []
    for files in by_class.values():
        shown = files[: min(most_photos, fewest)]
        squares = [decode_image(file, 96) for file in shown]
        rows.append(np.hstack(squares))
    figure, axes = make_axes(size=(10, 1.3 * len(rows)))
    axis = axes[0, 0]
    axis.imshow(np.vstack(rows))
    middles = 96 * np.arange(len(rows)) + 48
    axis.set_yticks(middles, [one_line(name) for name in by_class])
    axis.set_xticks([])
    title = "Photos to train on, as the network sees them: squares"
    if len(found) > len(by_class):
        title = f"{title} (the first {len(by_class)} of {len(found)} classes)"
    figure.suptitle(title, fontsize=11)
    return figure


def plot_class_counts(counts: dict[str, dict[str, int]]) -> Figure:
    """Show how many images of each class there are in each folder: bars, or a line of many.

    Args:
        counts: {folder: {class: images}}.
    """
    figure, axes = make_axes(size=(8, 3))
    axis = axes[0, 0]
    figure.suptitle("Images of each class in each folder", fontsize=11)
    classes = max(len(by_class) for by_class in counts.values())
    if classes > MOST_LABELS:
        for place, (folder, by_class) in enumerate(counts.items()):
            most_first = sorted(by_class.values(), reverse=True)
            # where two lines are one, the broader one is seen behind the other
            axis.plot(most_first, linewidth=6 - 2 * place, label=folder)
        axis.set(xlabel=f"{classes} classes, the largest first", ylabel="images")
        axis.set_ylim(bottom=0)
        axis.legend()
        return figure
    table = pd.DataFrame(counts).T
    few = len(table.columns) <= MOST_BARS
    table.plot.bar(ax=axis, rot=0, legend=few, colormap="cividis", ylabel="images")
    if few:
        for bars in axis.containers:
            axis.bar_label(bars)
    axis.margins(y=0.15)
    return figure


def plot_grid(rows: dict[str, dict], title: str, height: float = 1.7) -> Figure:
    """Show images in rows.

    Args:
        rows: {label: {"images": (H, W, 3) arrays, PIL images, or a tensor (N, 3, H, W); "captions"
            above them; "heats", (H, W) from 0 to 1, to be painted over them, may be left out}}.
        height: of a row, in inches.
    """
    columns = max(len(row["images"]) for row in rows.values())
    size = (10, height * len(rows))
    figure, axes = make_axes(len(rows), columns, size)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for line, (label, row) in zip(axes, rows.items(), strict=True):
        parts = [one_line(part)[:24] for part in label.split("\n")]
        line[0].set_ylabel("\n".join(parts))
        images = row["images"]
        if isinstance(images, torch.Tensor):
            images = images.permute(0, 2, 3, 1).numpy()
        for axis, image, caption in zip(line, images, row["captions"], strict=False):
            axis.imshow(image, cmap="gray")
            axis.set_title(caption, fontsize=8)
        for axis, heat in zip(line, row.get("heats", []), strict=False):
            # the root keeps weak heat visible
            visible = heat**0.5
            axis.imshow(visible, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * visible)
    figure.suptitle(title, fontsize=11)
    return figure


def plot_copies(folder: Path, photos: int = 3, most_copies: int = 4) -> Figure:
    """Show some photos of folder/train, and beside each its copies in folder/train_aug."""
    manifest = pd.read_csv(folder / "train_aug" / "manifest.csv", keep_default_na=False)
    by_photo = list(manifest.groupby("source"))
    stride = max(1, (len(by_photo) - 1) // (photos - 1))
    rows = {}
    for source, copies in by_photo[::stride][:photos]:
        files = [folder / "train" / source]
        captions = ["photo"]
        for copy, operations in zip(copies["copy"], copies["operations"], strict=True):
            files.append(folder / "train_aug" / copy)
            names = [operation["name"] for operation in json.loads(operations)]
            captions.append(", ".join(names))
        shown = files[: 1 + most_copies]
        images = [load_image(file)[1] for file in shown]
        rows[source] = {"images": images, "captions": captions}
    return plot_grid(rows, title=f"{len(rows)} photos and their altered copies", height=2.2)


def plot_losses(runs: Sequence[dict], num_classes: int) -> Figure:
    """Show the mean training loss of each epoch, a curve for each run.

    Args:
        runs: with "arm", "steps" and "losses" (epochs,).
    """
    figure, axes = make_axes()
    axis = axes[0, 0]
    labelled = set()
    for run in runs:
        arm = run["arm"]
        epochs = len(run["losses"])
        ends = np.linspace(0, run["steps"], epochs + 1)[1:]
        label = f"{arm}, {run['steps']} steps"
        if label in labelled:
            label = None
        labelled.add(label)
        axis.plot(ends, run["losses"], ".-", color=colour_of(arm), label=label)
    guessing = np.log(num_classes)
    axis.axhline(guessing, color="grey", linewidth=1, label="guessing")
    axis.set(xlabel="optimiser steps", ylabel="training loss (cross-entropy)")
    axis.legend()
    figure.suptitle("Mean training loss of each epoch, on each arm's own pictures", fontsize=11)
    return figure


def plot_confusion(predictions: pd.DataFrame, classes: list[str]) -> Figure:
    """Show a confusion matrix of each arm, all repeats together.

    Args:
        predictions: rows of predictions.csv.
    """
    by_arm = dict(list(predictions.groupby("arm", sort=False)))
    height = 11 / (1 + len(by_arm))
    figure, axes = make_axes(columns=len(by_arm), size=(10, height))
    names = [one_line(name)[:16] for name in classes]
    matrices = {}
    for arm, tests in by_arm.items():
        matrices[arm] = confusion_matrix(tests["label"], tests["prediction"], labels=classes)
    joined = {arm: join_classes(matrix) for arm, matrix in matrices.items()}
    most = max(matrix.max() for matrix in joined.values())
    for axis, (arm, matrix) in zip(axes[0], matrices.items(), strict=True):
        axis.set_title(arm)
        if len(classes) > MOST_LABELS:
            axis.imshow(joined[arm], cmap="Blues", vmin=0, vmax=most)
            to_a_row = math.ceil(len(classes) / len(joined[arm]))
            in_rows = f"\n{to_a_row} classes to a row" if to_a_row > 1 else ""
            axis.set(xticks=[], yticks=[], ylabel=f"True label{in_rows}")
            axis.set_xlabel(list_confusions(matrix, names), fontsize=7, loc="left")
            continue
        display = ConfusionMatrixDisplay(matrix, display_labels=names)
        display.plot(
            ax=axis,
            cmap="Blues",
            include_values=len(classes) <= MOST_CELLS,
            colorbar=False,
            im_kw={"vmin": 0, "vmax": most},
        )
        if len(classes) > 4:
            axis.tick_params("x", rotation=90)
    figure.suptitle("What the networks said, on one scale of colours", fontsize=11)
    return figure


def join_classes(matrix: np.ndarray) -> np.ndarray:
    """Return a confusion matrix of at most 100 rows, in which neighbouring classes are added up.

    A cell of 1,500 is smaller than a pixel, and would not be seen.
    """
    to_a_row = math.ceil(len(matrix) / MOST_ROWS)
    starts = range(0, len(matrix), to_a_row)
    rows = np.add.reduceat(matrix, starts, axis=0)
    return np.add.reduceat(rows, starts, axis=1)


def list_confusions(matrix: np.ndarray, names: Sequence[str], count: int = 8) -> str:
    """Return the most frequent confusions, a line each: cats, called dogs: 3.

    Args:
        matrix: (classes, classes), a row per true class.
    """
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    most_first = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    lines = ["Predicted label; most frequent mistakes:"]
    if mistakes.max() == 1:
        lines = ["Predicted label; no mistake was made twice:"]
    labels, answers = np.unravel_index(most_first, mistakes.shape)
    for label, answer in zip(labels, answers, strict=True):
        times = mistakes[label, answer]
        if times > 0:
            lines.append(f"{names[label]}, called {names[answer]}: {times}")
    return "\n".join(lines)


def plot_gains(predictions: pd.DataFrame, comparisons: Sequence[dict], chance: float) -> Figure:
    """Show the accuracy of every repeat, and what each repeat gained.

    Args:
        predictions: rows of predictions.csv.
        comparisons: of `statistics.compare`.
        chance: share of the tests that are of their commonest class.
    """
    figure, axes = make_axes(columns=2, size=(10, 3.4))
    left, right = axes[0]
    correct = predictions["label"] == predictions["prediction"]
    tests = predictions.assign(right=correct)
    accuracy = tests.pivot_table(index="arm", columns="seed", values="right", sort=False)
    accuracy.plot(ax=left, color="grey", marker="o", alpha=0.7, legend=False)
    left.axhline(chance, color="black", linestyle="--", linewidth=1)
    # a scale of a few points would make a small difference look large
    least = min(chance, accuracy.min(axis=None)) - 0.1
    greatest = max(chance, accuracy.max(axis=None)) + 0.1
    left.set(
        title="accuracy; dashed: the commonest class of the test",
        xlabel="",
        xlim=(-0.2, len(accuracy) - 0.8),
        ylim=(max(0, least), min(1.02, greatest)),
    )
    left.set_xticks(range(len(accuracy)), accuracy.index)

    names = []
    for place, comparison in enumerate(comparisons):
        colour = colour_of(comparison["b"])
        gains = pair_tests(predictions, comparison["a"], comparison["b"])
        of_repeats = gains.groupby("seed")["gain"].mean()
        right.plot(100 * of_repeats, [place] * len(of_repeats), "o", color=colour, alpha=0.5)
        right.plot(100 * comparison["difference"], place + 0.2, "D", color=colour)
        interval = choose_interval(predictions, comparison)
        name = f"{comparison['a']} →\n{comparison['b']}"
        if interval.low is not None:
            ends = [100 * interval.low, 100 * interval.high]
            style = "-" if comparison["runs"] > 2 else ":"
            right.plot(ends, [place + 0.2, place + 0.2], style, color=colour)
            name = f"{name}\n({interval.percent} % interval)"
        names.append(name)
    right.axvline(0, color="black", linewidth=1)
    right.set_yticks(range(len(comparisons)), names)
    right.set(
        title="dots: repeats; diamond: their mean",
        xlabel="gain in accuracy, percentage points",
        ylim=(-0.6, len(comparisons) - 0.4),
    )
    figure.suptitle("Accuracy of every repeat, and what was gained", fontsize=11)
    return figure


def plot_faithfulness(curves: dict[tuple[str, str], np.ndarray], shares: np.ndarray) -> Figure:
    """Show how probable the true class is where only a part of each photo is left.

    Args:
        curves: {(network, "hottest" or "coldest"): (shares, photos)}: which part is left.
        shares: (shares,) of the pixels that are left, from 0 to 1.
    """
    figure, axes = make_axes(size=(8, 3.4))
    axis = axes[0, 0]
    for (name, kept), curve in curves.items():
        style = "o-" if kept == "hottest" else "s--"
        axis.plot(
            100 * shares,
            curve.mean(axis=1),
            style,
            color=colour_of(name),
            label=f"{name}, {kept} part kept",
        )
    axis.set(xlabel="% of the pixels left", ylabel="probability of the true class", ylim=(0, 1))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle("Do the hot places matter?", fontsize=11)
    return figure


def plot_heatmaps(
    images: torch.Tensor,
    heats: dict[str, np.ndarray],
    photo_captions: Sequence[str],
    captions: dict[str, Sequence[str]],
) -> Figure:
    """Show photos, and what raised each network's score, painted over them.

    Args:
        images: (N, 3, H, W) uint8.
        heats: {network: (N, H, W)}, 0 or more. Networks with captions share a scale on each photo;
            others are of the true class, on a scale of their own.
        photo_captions: (N,) texts above the photos.
        captions: {network: (N,) texts}, its answers.
    """
    photos = images.permute(0, 2, 3, 1).numpy()
    grey = photos.mean(axis=3)
    compared = [heats[name] for name in captions]
    common = np.max(compared, axis=(0, 2, 3))
    no_captions = [""] * len(photos)
    rows = {"photo": {"images": photos, "captions": photo_captions}}
    for name, maps in heats.items():
        label = name
        greatest = common
        if name not in captions:
            label = f"{name}:\ntrue class,\nown scale"
            greatest = maps.max(axis=(1, 2))
        scaled = maps / greatest.clip(1e-12)[:, None, None]
        own_captions = captions.get(name, no_captions)
        rows[label] = {"images": grey, "captions": own_captions, "heats": scaled}
    title = (
        "What raised the score of each network's answer\n"
        "(yellow: most on this photo; uncoloured: not at all)"
    )
    return plot_grid(rows, title)


def plot_answer(pixels: np.ndarray, heat: np.ndarray, answer: str) -> Figure:
    """Show one photo, and beside it what raised the score of the answer.

    Args:
        pixels: (H, W, 3) uint8.
        heat: (H, W), 0 or more.
    """
    no_heat = np.zeros_like(heat)
    scaled = heat / max(heat.max(), 1e-12)
    grey = pixels.mean(axis=2)
    row = {
        "images": [pixels, grey],
        "captions": ["", answer],
        "heats": [no_heat, scaled],
    }
    return plot_grid({"": row}, "What the network says of this photo", height=4)
