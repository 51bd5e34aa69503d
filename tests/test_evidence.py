"""Intervals, the comparison of arms, and the sentence that is made of them."""

import hashlib
import itertools

import numpy as np
import pytest
import scipy.stats
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


def test_disjoint_folds_are_pooled(notebook):
    def fold(arm, seed, right):
        return [(arm, seed, f"{seed}/{path}", *rest) for _, _, path, *rest in rows_of(arm, right)]

    hits = {"original": [True] * 10 + [False] * 18, "augmented": [True] * 16 + [False] * 12}
    pooled = [row for arm in hits for seed in range(5) for row in fold(arm, seed, hits[arm])]
    result = notebook.compare_arms("original", "augmented", pooled)
    assert (result["n"], result["tests"], result["won"], result["lost"]) == (140, 140, 30, 0)
    assert result["difference"] == pytest.approx(6 / 28)
    assert result["p_value"] == pytest.approx(2 * 0.5**30)


def test_comparison_pairs_photos_by_repeat(notebook):
    a = rows_of("original", [True, False], 1) + rows_of("original", [True, False], 2)
    b = rows_of("augmented", [True, True], 1) + rows_of("augmented", [True, False], 2)
    result = notebook.compare_arms("original", "augmented", a + b)
    assert (result["n"], result["tests"], result["difference"]) == (2, 4, 0.25)
    assert result["low"] < 0 < result["high"]
    assert result["p_value"] > 0.05


def test_reshuffled_folds_get_nadeau_and_bengios_correction(notebook):
    rng = np.random.default_rng(0)
    gains = np.full((10, 50), np.nan)  # 10 repeats test 10 of 50 photos each
    for r in range(10):
        gains[r, rng.permutation(50)[:10]] = rng.choice([-1, 0, 1], 10, p=[0.1, 0.5, 0.4])
    means = np.nanmean(gains, axis=1)
    low, high, p_value = notebook.compare_repeats(gains)
    error = np.sqrt((1 / 10 + 10 / 40) * means.var(ddof=1))
    assert (low + high) / 2 == pytest.approx(means.mean())
    assert (high - low) / 2 == pytest.approx(2.262157 * error)
    assert p_value == pytest.approx(2 * scipy.stats.t.sf(means.mean() / error, 9))


def test_holm_corrects_for_the_number_of_comparisons(notebook):
    assert notebook.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert notebook.holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert notebook.holm([0.2]) == [0.2]


# ---- 1,000 simulated experiments


def test_exact_test_raises_few_false_alarms_and_its_interval_covers_the_truth(notebook):
    rng, n = np.random.default_rng(1), 140
    chances = [0.2, 0.6, 0.2]  # lost, agreed, won: no true difference
    results = [notebook.compare_once(rng.choice([-1, 0, 1], n, p=chances)) for _ in range(200)]
    covered = np.mean([low <= 0 <= high for low, high, _ in results])
    assert 0.90 <= covered <= 0.99
    alarms = []
    for _ in range(1000):
        lost, _, won = rng.multinomial(n, chances)
        alarms.append(scipy.stats.binomtest(won, won + lost).pvalue < 0.05)
    assert 0.02 < np.mean(alarms) <= 0.065  # it is exact, so at most 5 %, give or take luck


@pytest.mark.parametrize(("difference", "disputed"), [(0.1, 0.4), (0.064, 0.3), (0.2, 0.5)])
def test_number_of_photos_needed_finds_the_difference_four_times_in_five(
    notebook, difference, disputed
):
    rng, n = np.random.default_rng(2), notebook.photos_needed(difference, disputed)
    won, lost = (disputed + difference) / 2, (disputed - difference) / 2
    counts = rng.multinomial(n, [lost, 1 - disputed, won], size=1000)
    found = [scipy.stats.binomtest(w, w + lo).pvalue < 0.05 for lo, _, w in counts]
    assert 0.74 < np.mean(found) < 0.84


def test_repeats_on_the_same_photos_raise_few_false_alarms(notebook):
    rng, alarms = np.random.default_rng(3), []
    for _ in range(400):
        photos, networks = rng.normal(0, 0.5, (1, 60)), rng.normal(0, 0.3, (5, 1))
        alarms.append(notebook.compare_repeats(photos + networks + rng.normal(0, 0.5, (5, 60)))[2])
    rate = np.mean(np.array(alarms) < 0.05)
    assert 0.01 < rate < 0.08


def test_correction_for_overlap_is_needed_and_enough(notebook):
    # repeats draw 28 of the same 140 photos: their results share what is in the training photos
    rng, corrected, naive = np.random.default_rng(4), [], []
    for _ in range(1000):
        shared = rng.normal(0, 0.5)  # common to all repeats, as their training sets overlap
        means = shared * 0.14 + rng.normal(0, 0.12, 20)
        gains = np.full((20, 140), np.nan)
        for r in range(20):
            gains[r, rng.permutation(140)[:28]] = means[r]
        corrected.append(notebook.compare_repeats(gains)[2] < 0.05)
        naive.append(scipy.stats.ttest_1samp(means, 0).pvalue < 0.05)
    assert np.mean(naive) > 0.15
    assert np.mean(corrected) < 0.08


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


@pytest.mark.parametrize("change", [0, 1, -1])
def test_verdict_says_how_many_photos_would_settle_it(notebook, change):
    text = verdict_on(
        notebook, [True] * 16 + [False] * 12, [True] * (16 + change) + [False] * (12 - change)
    )
    if change:
        assert "(4%) seen here were the true ones" in text
        assert f"about {notebook.photos_needed(1 / 28, 1 / 28):,} test photos would settle" in text
    else:
        assert "As no difference was seen" in text


def verdict_from(notebook, **figures):
    comparison = {"a": "original", "b": "augmented", "difference": 0.1, "low": -0.1, "high": 0.3}
    comparison |= {"p_value": 0.5, "n": 40, "won": 10, "lost": 6, "tests": 40} | figures
    counts = {"original": (20, 40), "augmented": (24, 40)}
    return notebook.verdict(comparison, counts, {"original": 40, "augmented": 110})


def test_verdict_names_both_when_test_and_interval_disagree(notebook):
    text = verdict_from(notebook, low=0.01)
    assert "which leaves zero out" in text
    assert "does not show that either is better" in text
    assert "the test, which is stricter, does not" in text
    text = verdict_from(notebook, p_value=0.03)
    assert "which includes zero" in text
    assert "`augmented` was better" in text
    assert "take it for a hint" in text


def test_verdict_goes_by_the_corrected_p_value(notebook):
    assert "was better" in verdict_from(notebook, low=0.01, p_value=0.02)
    assert "was better" not in verdict_from(notebook, low=0.01, p_value=0.02, p_holm=0.06)


def test_public_runs_pooled(notebook):
    gains = [(b - a) / 28 for a, b in notebook.PUBLIC_RUNS.values()]
    assert sum(a for a, _ in notebook.PUBLIC_RUNS.values()) == 78
    assert sum(b for _, b in notebook.PUBLIC_RUNS.values()) == 87
    assert np.mean(gains) == pytest.approx(0.064, abs=0.001)


def test_newcombes_interval_is_the_published_one(notebook):
    assert notebook.unpaired_interval((3, 9), 10) == pytest.approx((0.1705, 0.8090), abs=1e-4)


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
