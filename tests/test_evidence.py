"""Intervals, the comparison of arms, and the sentence that is made of them."""

import hashlib
import itertools

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


def rows_of(arm, right, seed=42):
    """Return rows of predictions.csv for dogs named right (True) or wrong."""
    return [
        (arm, seed, f"dogs/{i}.jpg", "dogs", "dogs" if hit else "cats", 0.9)
        for i, hit in enumerate(right)
    ]


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(16, 28, 0.39, 0.73), (17, 28, 0.42, 0.76), (28, 28, 0.88, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_interval(notebook, hits, total, low, high):
    assert notebook.wilson(hits, total) == pytest.approx((low, high), abs=0.005)


def test_summary_of_two_classes(notebook):
    said = ["cats"] * 9 + ["dogs"] * 5 + ["dogs"] * 11 + ["cats"] * 3  # of 14 cats, then 14 dogs
    shown = ["cats"] * 14 + ["dogs"] * 14
    rows = [
        ("original", 42, f"{i}", a, b, 0.9)
        for i, (a, b) in enumerate(zip(shown, said, strict=True))
    ]
    run = {"precision": 11 / 16, "recall": 11 / 14, "f1": 22 / 30, "accuracy": 20 / 28}
    summary = notebook.summarize([run], rows, ["cats", "dogs"])
    for name, value in run.items():
        assert summary[name]["mean"] == value
        assert summary[name]["low"] < value < summary[name]["high"]
    assert (summary["recall"]["low"], summary["recall"]["high"]) == notebook.wilson(11, 14)
    low, high = notebook.wilson(11, 19)  # 19 photos are dogs or were called dogs
    assert summary["f1"]["low"] == pytest.approx(2 * low / (1 + low))
    assert summary["f1"]["high"] == pytest.approx(2 * high / (1 + high))


def test_summary_of_three_classes_is_the_bootstrapped_macro_average(notebook):
    labels = ["ants", "bees", "wasps"] * 20
    said = [label if i % 4 else "ants" for i, label in enumerate(labels)]
    rows = [
        ("original", 42, f"{i}", a, b, 0.9)
        for i, (a, b) in enumerate(zip(labels, said, strict=True))
    ]
    run = {"precision": 0.8, "recall": 0.8, "f1": 0.8, "accuracy": 0.8}
    summary = notebook.summarize([run, run], rows, ["ants", "bees", "wasps"])
    for name in run:
        assert 0.6 < summary[name]["low"] < 0.85 < summary[name]["high"] < 1


def test_means_lie_within_their_intervals_even_of_networks_that_say_one_class(notebook):
    rows, runs = [], []
    for seed, said in enumerate(["cats", "cats", "cats", "dogs", "dogs"]):
        for i in range(28):
            rows.append(("a", seed, f"{seed}/{i}", "dogs" if i < 14 else "cats", said, 0.9))
        dogs = said == "dogs"
        runs.append(
            {"precision": dogs / 2, "recall": float(dogs), "f1": dogs * 2 / 3, "accuracy": 0.5}
        )
    for name, figures in notebook.summarize(runs, rows, ["cats", "dogs"]).items():
        assert figures["low"] <= figures["mean"] <= figures["high"], name


def test_networks_that_always_say_the_same_give_no_false_certainty(notebook):
    rows = [
        ("a", seed, f"{seed}/{i}", "dogs" if i < 14 else "cats", said, 0.9)
        for seed, said in enumerate(["cats", "dogs"])
        for i in range(28)
    ]
    runs = [
        {"precision": share, "recall": 2 * share, "f1": share, "accuracy": 0.5}
        for share in (0, 0.5)
    ]
    recall = notebook.summarize(runs, rows, ["cats", "dogs"])["recall"]
    assert recall["low"] < 0.4 < recall["mean"] < 0.6 < recall["high"]


def test_photo_tested_in_every_repeat_counts_once(notebook):
    runs = [{"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.5}] * 5
    once = [("a", 0, f"{i}", "dogs", ("dogs", "cats")[i % 2], 0.9) for i in range(28)]
    rows = [(arm, seed, *rest) for seed in range(5) for arm, _, *rest in once]
    accuracy = notebook.summarize(runs, rows, ["cats", "dogs"])["accuracy"]
    assert (accuracy["low"], accuracy["high"]) == notebook.wilson(14, 28)


def test_averages_are_scikit_learns(notebook):
    rng = np.random.default_rng(0)
    for count in (2, 4):
        labels, guesses = rng.integers(count, size=(2, 50))
        guesses[guesses == 0] = 1  # class 0 is never said
        average = "binary" if count == 2 else "macro"
        expected = precision_recall_fscore_support(
            labels, guesses, average=average, zero_division=0
        )
        assert notebook.averages(confusion_matrix(labels, guesses)) == pytest.approx(expected[:3])


def test_published_figures_stand_beside_the_originals_photos_only(notebook):
    hashes = {"cats/b.jpg": "22", "cats/a.jpg": "11"}
    text = b'[["cats/a.jpg", "11"], ["cats/b.jpg", "22"]]'
    assert notebook.published_results(hashes) == {}
    notebook.globals["ORIGINAL_POOL"] = hashlib.sha256(text).hexdigest()[:16]
    assert notebook.published_results(hashes) == notebook.PUBLISHED
    assert notebook.PUBLISHED["original"][1:] == (0.5714, 0.5714, 0.5714, 0.5714)
    assert notebook.PUBLISHED["augmented"][1:] == (0.5789, 0.7857, 0.6667, 0.6071)


def test_comparison_is_mcnemars_test_on_the_photos_that_only_one_got_right(notebook):
    a = rows_of("original", [True] * 10 + [False] * 18)
    b = rows_of("augmented", [True] * 16 + [False] * 12)
    result = notebook.compare_arms("original", "augmented", a + b)
    assert (result["a"], result["b"], result["n"]) == ("original", "augmented", 28)
    assert result["difference"] == pytest.approx(6 / 28)
    assert result["p_value"] == pytest.approx(2 * 0.5**6)
    assert 0 < result["low"] < 6 / 28 < result["high"]
    mirrored = notebook.compare_arms("augmented", "original", a + b)
    assert mirrored["difference"] == -result["difference"]
    assert mirrored["p_value"] == result["p_value"]


def test_comparison_pairs_photos_by_repeat_and_counts_each_once(notebook):
    a = rows_of("original", [True, False], 1) + rows_of("original", [True, False], 2)
    b = rows_of("augmented", [True, True], 1) + rows_of("augmented", [True, False], 2)
    result = notebook.compare_arms("original", "augmented", a + b)
    assert (result["n"], result["difference"]) == (2, 0.25)


def test_no_photo_in_dispute_is_no_evidence_and_no_certainty(notebook):
    same = [True] * 28
    result = notebook.compare_arms("a", "b", rows_of("a", same) + rows_of("b", same))
    assert (result["difference"], result["p_value"]) == (0, 1)
    assert -result["low"] == result["high"] == pytest.approx(0.12, abs=0.005)


def verdict_on(notebook, a, b, steps=(40, 110)):
    rows = rows_of("original", a) + rows_of("augmented", b)
    comparison = notebook.compare_arms("original", "augmented", rows)
    counts = {"original": (sum(a), len(a)), "augmented": (sum(b), len(b))}
    return notebook.verdict(comparison, counts, dict(zip(counts, steps, strict=True)))


def test_verdict_on_the_originals_figures_is_that_luck_explains_them(notebook):
    text = verdict_on(notebook, [True] * 16 + [False] * 12, [True] * 17 + [False] * 11)
    assert "`augmented` was right 17 times out of 28 (110 optimiser steps)" in text
    assert "`original` 16 times out of 28 (40 steps)" in text
    assert "+3.6 percentage points" in text
    assert "This run does not show that either is better" in text
    assert "6 images that only one of the two gets right, 21.4 points" in text


@pytest.mark.parametrize("winner", ["augmented", "original"])
def test_verdict_names_the_better_arm_and_the_confounder(notebook, winner):
    results = [True] * 2 + [False] * 18, [True] * 12 + [False] * 8
    if winner == "original":
        results = results[::-1]
    text = verdict_on(notebook, *results)
    assert f"**`{winner}` was better" in text
    assert "the optimiser steps differ too" in text
    assert "steps differ" not in verdict_on(notebook, *results, steps=(110, 110))


def test_verdict_on_too_few_images_says_that_nothing_could_have_shown(notebook):
    text = verdict_on(notebook, [False] * 4, [True] * 4)
    assert "No difference on 4 images could have shown it." in text


def test_tables_do_not_run_what_is_in_a_class_name(notebook):
    shown = []
    notebook.globals["display"] = lambda markdown: shown.append(markdown.data)
    notebook.show_table(["class"], [["<img src=x onerror=alert(1)>"], ["a|b"]])
    assert "<img" not in shown[0]
    assert "a\\|b" in shown[0]


def test_progress_shows_one_line_and_logs_every_epoch(notebook, tmp_path):
    updates = []

    class Handle:
        def update(self, data, raw):
            updates.append(data["text/plain"])

    notebook.globals["display"] = lambda *arguments, **options: Handle()
    progress = notebook.Progress("original", tmp_path / "run.log")
    losses = []
    for done in range(1, 9):
        progress(done, 8, losses)
        if done % 4 == 0:
            losses.append(1 / done)
            progress(done, 8, losses)
    assert "8/8 steps  loss 0.1250" in updates[-1]
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert ["epoch 1, loss 0.2500" in lines[0], "epoch 2, loss 0.1250" in lines[1]] == [True, True]
    assert len(lines) == 2
    assert all(a != b for a, b in itertools.pairwise(updates))
