"""Figures: of many classes, of names in any script, on one scale where things are compared."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_pool

from data.notebook import figures
from data.notebook.statistics import choose_interval, compare


def predictions_of(labels, answers, arm="mixed"):
    return pd.DataFrame({"arm": arm, "label": labels, "prediction": answers})


def test_confusion_matrices_share_one_scale_of_colours():
    rows = [
        predictions_of(["a"] * 9 + ["b"], ["a"] * 9 + ["b"], arm="original"),
        predictions_of(["a", "b"], ["a", "a"], arm="mixed"),
    ]
    figure = figures.plot_confusion(pd.concat(rows), ["a", "b"])
    scales = [axis.images[0].get_clim() for axis in figure.axes]
    assert scales == [(0, 9), (0, 9)]


def test_of_many_classes_the_most_frequent_confusions_are_listed():
    classes = [f"class {number:04}" for number in range(1500)]
    answers = [classes[1]] * 3 + classes[3:]
    figure = figures.plot_confusion(predictions_of(classes, answers), classes)
    (axis,) = figure.axes
    assert "class 0000, called class 0001: 1" in axis.get_xlabel()
    assert "class 0002, called class 0001: 1" in axis.get_xlabel()
    assert len(axis.get_xticks()) == 0
    assert "no mistake was made twice" in axis.get_xlabel()


def test_of_many_classes_confusions_are_added_up_until_a_cell_can_be_seen():
    classes = [f"class {number:04}" for number in range(1500)]
    # neighbours are mistaken for each other, and one class for the last
    answers = [*classes[1:], classes[0]]
    labels = [*classes, classes[20], classes[20]]
    figure = figures.plot_confusion(
        predictions_of(labels, [*answers, classes[-1], classes[-1]]), classes
    )
    (axis,) = figure.axes
    shown = axis.images[0].get_array()
    assert shown.shape == (100, 100)
    assert shown.sum() == len(labels)
    assert [shown[0, 0], shown[0, 1], shown[1, 99]] == [14, 1, 2]
    assert axis.get_ylabel() == "True label\n15 classes to a row"
    assert "class 0020, called class 1499: 2" in axis.get_xlabel()


def test_photos_of_many_classes_are_those_of_the_first_and_that_is_said(tmp_path):
    make_pool(tmp_path / "many", 1, classes=[f"class {number}" for number in range(8)])
    make_pool(tmp_path / "few", 1)
    title = figures.plot_photos(tmp_path / "many").get_suptitle()
    assert title.endswith("squares (the first 6 of 8 classes)")
    assert figures.plot_photos(tmp_path / "few").get_suptitle().endswith("squares")


def test_counts_of_many_classes_are_a_line_for_each_folder():
    counts = {"train": {}, "train_aug": {}, "test": {}}
    for number in range(1500):
        counts["train"][f"class {number}"] = 4 + number % 2
        counts["train_aug"][f"class {number}"] = 4 + number % 2
        counts["test"][f"class {number}"] = 1
    figure = figures.plot_class_counts(counts)
    (axis,) = figure.axes
    # a bar for each would take a minute to draw
    assert len(axis.patches) == 0
    assert [line.get_label() for line in axis.lines] == ["train", "train_aug", "test"]
    assert axis.lines[0].get_ydata().tolist() == [5] * 750 + [4] * 750
    assert axis.get_xlabel() == "1500 classes, the largest first"


def test_counts_of_few_classes_are_a_bar_for_each():
    counts = {"train": {"cats": 4, "dogs": 5}, "test": {"cats": 1, "dogs": 2}}
    (axis,) = figures.plot_class_counts(counts).axes
    assert [bar.get_height() for bar in axis.patches] == [4, 1, 5, 2]


def test_names_without_a_font_are_said_once_in_a_line(tmp_path, capsys):
    figure, axes = figures.make_axes()
    axes[0, 0].set_title("\U0001f408 \ue123")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save_figure(figure, tmp_path / "named.png")
    said = capsys.readouterr().out.splitlines()
    assert said == ["named.png: no installed font has all its characters; Noto Sans CJK has most"]
    assert (tmp_path / "named.png").read_bytes().startswith(b"\x89PNG")


def test_a_class_folder_without_photos_is_not_among_those_that_are_shown(tmp_path):
    make_pool(tmp_path, 3)
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "Thumbs.db").write_bytes(b"")
    (axis,) = figures.plot_photos(tmp_path).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cats", "dogs"]


def test_an_arm_has_one_colour_and_a_further_arm_another():
    known = {figures.colour_of(arm) for arm in ("original", "augmented", "mixed")}
    own = figures.colour_of("own")
    assert len(known) == 3
    assert own not in known
    assert figures.colour_of("own") == own


def test_heat_of_compared_networks_has_one_scale_and_the_untrained_ones_its_own():
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    heats = {
        "strong": np.full((1, 4, 4), 4.0),
        "weak": np.full((1, 4, 4), 1.0),
        "untrained": np.full((1, 4, 4), 0.5),
    }
    captions = {"strong": ["a"], "weak": ["b"]}
    figure = figures.plot_heatmaps(images, heats, photo_captions=["c"], captions=captions)
    shown = [axis.images[1].get_array().max() for axis in figure.axes[1:]]
    # the square root of the share of the greatest heat
    assert shown == [1.0, 0.5, 1.0]
    assert "own scale" in figure.axes[3].get_ylabel()
    assert [axis.get_title() for axis in figure.axes] == ["c", "a", "b", ""]


def test_drawings_are_said_to_be_drawings_in_the_title():
    figure, _ = figures.make_axes()
    figure.suptitle("Losses")
    figures.mark_drawings(figure)
    assert figure.get_suptitle() == "Losses  (drawings, not photos)"


def gains_of(gained):
    """Return predictions of two arms, the second of which names so many of 28 photos more."""
    rows = []
    for seed, more in enumerate(gained):
        for arm, right in (("original", 10), ("mixed", 10 + more)):
            answers = ["a"] * right + ["b"] * (28 - right)
            run = predictions_of(["a"] * 28, answers, arm)
            rows.append(run.assign(seed=seed, path=[f"{seed}/{photo}.jpg" for photo in range(28)]))
    return pd.concat(rows)


def test_accuracies_and_chance_are_drawn_on_a_scale_of_at_least_twenty_points():
    predictions = gains_of([0, 0])
    comparison = compare(predictions, "original", "mixed")
    figure = figures.plot_gains(predictions, [comparison], chance=10 / 28)
    left, _ = figure.axes
    low, high = left.get_ylim()
    assert low == pytest.approx(10 / 28 - 0.1)
    assert high == pytest.approx(10 / 28 + 0.1)
    figure = figures.plot_gains(predictions, [comparison], chance=0.97)
    assert figure.axes[0].get_ylim()[1] == 1.02


def test_the_interval_drawn_of_the_tested_question_is_that_of_the_verdict():
    predictions = gains_of([1, 4, 3, 2, 6])
    tested = compare(predictions, "original", "mixed", tested=True)
    other = compare(predictions, "original", "mixed")
    figure = figures.plot_gains(predictions, [tested, other], chance=0.5)
    _, right = figure.axes
    lines = [line.get_xdata() for line in right.lines if line.get_linestyle() == "-"]
    drawn = [tuple(ends) for ends in lines if len(ends) == 2 and ends[0] != ends[1]]
    shown = [choose_interval(predictions, row) for row in (tested, other)]
    assert drawn == [(100 * interval.low, 100 * interval.high) for interval in shown]
    names = [label.get_text() for label in right.get_yticklabels()]
    assert ["99 % interval" in names[0], "95 % interval" in names[1]] == [True, True]
