"""Figures: of many classes, of names in any script, on one scale where things are compared."""

import warnings

import numpy as np
import pandas as pd
import torch

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


def test_names_without_a_font_are_said_once_in_a_line(tmp_path, capsys):
    figure, axes = figures.make_axes()
    axes[0, 0].set_title("\U0001f408 \ue123")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save_figure(figure, tmp_path / "named.png")
    said = capsys.readouterr().out.splitlines()
    assert said == ["named.png: no installed font has all its characters; Noto Sans CJK has most"]
    assert (tmp_path / "named.png").read_bytes().startswith(b"\x89PNG")


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
    figure = figures.plot_heatmaps(images, heats, captions={"strong": ["a"], "weak": ["b"]})
    shown = [axis.images[1].get_array().max() for axis in figure.axes[1:]]
    # the square root of the share of the greatest heat
    assert shown == [1.0, 0.5, 1.0]
    assert "own scale" in figure.axes[3].get_ylabel()


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
