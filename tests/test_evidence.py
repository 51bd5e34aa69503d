"""Intervals, the comparison of arms, and the sentence that is made of them."""

import builtins
import functools
import hashlib
import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


def rows_of(arm, right, seed=42, first=0):
    """Return rows of predictions.csv for images named right (True) or wrong, dogs and cats."""
    rows = []
    for i, hit in enumerate(right, first):
        shown, other = ("dogs", "cats") if i % 3 else ("cats", "dogs")
        rows.append((arm, seed, f"{shown}/{i}.jpg", shown, shown if hit else other, 0.9))
    return rows


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


def test_images_tested_once_are_compared_by_mcnemars_test(notebook):
    a = rows_of("original", [True] * 10 + [False] * 18)
    b = rows_of("augmented", [True] * 16 + [False] * 12)
    result = notebook.compare_arms("original", "augmented", a + b)
    assert (result["a"], result["b"], result["n"]) == ("original", "augmented", 28)
    assert result["method"] == "McNemar's exact test"
    assert result["difference"] == result["disputed"] == pytest.approx(6 / 28)
    assert result["p_value"] == pytest.approx(2 * 0.5**6)
    assert 0 < result["low"] < 6 / 28 < result["high"]
    mirrored = notebook.compare_arms("augmented", "original", a + b)
    assert mirrored["difference"] == -result["difference"]
    assert mirrored["p_value"] == result["p_value"]


def test_disjoint_folds_are_pooled(notebook):
    rows = []
    for seed, first in enumerate((0, 4)):
        rows += rows_of("a", [True] * 4, seed, first) + rows_of("b", [False] * 4, seed, first)
    result = notebook.compare_arms("a", "b", rows)
    assert (result["n"], result["p_value"]) == (8, pytest.approx(2 * 0.5**8))


def test_same_images_in_every_repeat_are_paired_by_repeat_and_count_once(notebook):
    rows = []
    for seed in range(3):
        hits = np.random.default_rng(seed).random((2, 40)) < [[0.5], [0.7]]
        rows += rows_of("a", hits[0], seed) + rows_of("b", hits[1], seed)[::-1]
    result = notebook.compare_arms("a", "b", rows)
    assert (result["n"], result["method"]) == (40, "two-way analysis of variance")
    accuracy = {arm: np.mean([row[3] == row[4] for row in rows if row[0] == arm]) for arm in "ab"}
    assert result["difference"] == pytest.approx(accuracy["b"] - accuracy["a"])
    mirrored = notebook.compare_arms("b", "a", rows)
    assert (mirrored["low"], mirrored["p_value"]) == pytest.approx(
        (-result["high"], result["p_value"])
    )


def test_reshuffled_folds_take_the_corrected_t_test(notebook):
    rows, differences = [], []
    for seed in range(4):  # two folds of 20, reshuffled once
        order = np.random.default_rng(seed // 2).permutation(40)[20 * (seed % 2) :][:20]
        hits = np.random.default_rng(9 + seed).random((2, 20)) < [[0.4], [0.8]]
        for arm, right in zip("ab", hits, strict=True):
            named = rows_of(arm, right, seed)
            rows += [(*row[:2], f"{i}", *row[3:]) for i, row in zip(order, named, strict=True)]
        differences.append(hits[1].mean() - hits[0].mean())
    result = notebook.compare_arms("a", "b", rows)
    assert (result["n"], result["method"]) == (40, "corrected resampled t-test")
    error = np.sqrt((1 / 4 + 20 / 20) * np.var(differences, ddof=1))  # 20 tested, 20 trained on
    p_value = 2 * stats.t.sf(np.mean(differences) / error, 3)
    assert result["difference"] == pytest.approx(np.mean(differences))
    assert result["p_value"] == pytest.approx(p_value)
    half = stats.t.ppf(0.975, 3) * error
    assert result["high"] - result["low"] == pytest.approx(2 * half)


@pytest.mark.parametrize("seeds", [[0], [0, 1], [0, 1, 2]], ids=["once", "again", "reshuffled"])
def test_no_image_in_dispute_is_no_evidence_and_no_certainty(notebook, seeds):
    rows = []
    for seed in seeds:
        first = 14 if seed == 2 else 0  # the last of three repeats tests other images in part
        rows += rows_of("a", [True] * 28, seed, first) + rows_of("b", [True] * 28, seed, first)
    result = notebook.compare_arms("a", "b", rows)
    assert (result["difference"], result["p_value"]) == (0, 1)
    assert -result["low"] == result["high"] == notebook.wilson(0, result["n"])[1] > 0.08


def test_interval_of_a_landslide_has_a_width(notebook):
    rows = rows_of("a", [False] * 28) + rows_of("b", [True] * 28)
    result = notebook.compare_arms("a", "b", rows)
    assert (result["difference"], result["high"]) == (1, 1)
    assert result["low"] == pytest.approx(0.88, abs=0.005)


def test_holms_correction_is_that_of_the_example(notebook):
    wins = {("original", "augmented"): 0.01, ("original_matched", "augmented"): 0.04}
    wins[("original", "original_matched")] = 0.03
    notebook.globals["compare_arms"] = lambda a, b, rows: {"a": a, "b": b, "p_value": wins[a, b]}
    rows = notebook.compare_all(["augmented", "original", "original_matched"], [])
    assert [(row["a"], row["b"]) for row in rows] == list(wins)
    assert [row["p_holm"] for row in rows] == pytest.approx([0.03, 0.06, 0.06])
    (only,) = notebook.compare_all(["augmented", "original"], [])
    assert only["p_holm"] == only["p_value"] == 0.01
    assert notebook.compare_all(["augmented"], []) == []


# ---- the verdict: every branch


def verdict_on(notebook, a, b, arms=("original", "augmented"), steps=(40, 110), **changes):
    rows = rows_of(arms[0], a) + rows_of(arms[1], b)
    (comparison,) = notebook.compare_all(arms, rows)
    return notebook.verdict(comparison | changes, rows, dict(zip(arms, steps, strict=True)))


def test_verdict_on_the_originals_figures_is_undecided(notebook):
    text = verdict_on(notebook, [True] * 16 + [False] * 12, [True] * 17 + [False] * 11)
    assert text.startswith("**Does augmentation help?** On 28 test images, ")
    assert "`augmented` was right 17 times out of 28 (110 optimiser steps)" in text
    assert "`original` was right 16 times out of 28 (40 optimiser steps)" in text
    assert "+3.6 percentage points, 95 % interval +0.0 to" in text
    assert "p = 1 by McNemar's exact test." in text
    assert "The interval holds zero: **this run does not show that either is better.**" in text
    needed = notebook.images_needed(1 / 28, 1 / 28)
    assert f"with 4 % in dispute, {needed:,} images, tested once, would show it in 80" in text
    assert "6 images that only one of the two gets right, 21.4 points" in text


@pytest.mark.parametrize("winner", ["augmented", "original"])
def test_verdict_names_the_better_arm_and_the_confounder(notebook, winner):
    results = [True] * 2 + [False] * 18, [True] * 12 + [False] * 8
    if winner == "original":
        results = results[::-1]
    text = verdict_on(notebook, *results)
    assert f"The interval leaves out zero: **`{winner}` was better" in text
    assert "the optimiser steps differ too" in text
    assert "experiments" not in text  # nothing is left to settle


def test_verdict_says_what_augmentation_adds_and_what_steps_alone_add(notebook):
    results = [True] * 2 + [False] * 18, [True] * 12 + [False] * 8
    text = verdict_on(notebook, *results, ("original_matched", "augmented"), (110, 110))
    assert text.startswith("**What does augmentation add beyond its optimiser steps?**")
    assert "**`augmented` was better" in text
    assert "steps differ" not in text
    text = verdict_on(notebook, *results, ("original", "original_matched"), (40, 110))
    assert text.startswith("**What do more steps alone add?**")
    assert "**`original_matched` was better" in text
    assert "steps differ" not in text  # that they differ is the question here


def test_verdict_follows_the_corrected_p_value(notebook):
    results = [True] + [False] * 27, [False] + [True] * 8 + [False] * 19  # 8 : 1, p = 0.039
    assert "was better" in verdict_on(notebook, *results)
    text = verdict_on(notebook, *results, p_holm=0.078)
    assert "p = 0.039 by McNemar's exact test (0.078 after Holm's correction)" in text
    assert "leaves out zero, but the test does not agree: **not decided.**" in text
    assert "was better" not in text
    assert "tested once, would show it in 80 of 100 experiments" in text


def test_verdict_where_the_test_is_significant_but_the_interval_holds_zero(notebook):
    results = [True] * 2 + [False] * 18, [True] * 12 + [False] * 8
    text = verdict_on(notebook, *results, low=-0.01)
    assert "calls that significant, but the interval holds zero: **not decided.**" in text
    assert "was better" not in text


def test_verdict_on_no_difference_says_how_many_images_show_five_points(notebook):
    text = verdict_on(notebook, [True, False] * 14, [False, True] * 14)
    assert "No number of images tells a difference of 0 from none" in text
    needed = notebook.images_needed(0.05, 1)
    assert f"were 5.0 points, with 100 % in dispute, {needed:,} images" in text


def test_verdict_where_nothing_is_in_dispute(notebook):
    text = verdict_on(notebook, [True, False] * 14, [True, False] * 14)
    assert "this run does not show that either is better" in text
    assert "No image was named correctly by only one of the two" in text
    assert "experiments" not in text


def test_verdict_on_too_few_images_says_that_nothing_could_have_shown(notebook):
    text = verdict_on(notebook, [False] * 4, [True] * 4)
    assert "the test does not agree: **not decided.**" in text
    assert "No difference on 4 images could have shown it." in text


def test_verdict_tells_of_networks_that_name_every_image_alike(notebook):
    rows = [
        (arm, seed, f"{seed}/{i}", "dogs" if i < 14 else "cats", said, 0.9)
        for arm, every in {"original": ["dogs", "cats"], "augmented": ["dogs", None]}.items()
        for seed, one in enumerate(every)
        for i in range(28)
        for said in [one or ("dogs" if i % 2 else "cats")]
    ]
    (comparison,) = notebook.compare_all(["original", "augmented"], rows)
    text = notebook.verdict(comparison, rows, {"original": 40, "augmented": 110})
    assert "(40 optimiser steps; the same name for every image in 2 of 2 runs)" in text
    assert "(110 optimiser steps; the same name for every image in 1 of 2 runs)" in text


def test_verdict_on_repeats_says_how_small_a_difference_they_could_show(notebook):
    rows = []
    for seed in range(3):
        hits = np.random.default_rng(seed).random((2, 40)) < 0.6
        rows += rows_of("original", hits[0], seed) + rows_of("augmented", hits[1], seed)
    (comparison,) = notebook.compare_all(["original", "augmented"], rows)
    text = notebook.verdict(comparison, rows, {"original": 40, "augmented": 110})
    half = 50 * (comparison["high"] - comparison["low"])
    assert f"As these repeats vary, less than {half:.1f} points could not have shown." in text
    assert "by two-way analysis of variance" in text
    enough = comparison | {"difference": 0.5, "low": -0.1, "high": 1.1, "disputed": 0.5}
    assert "More repeats would help" in notebook.outlook(enough)


# ---- what other groups found


def test_public_results_are_pooled_from_their_counts(notebook):
    difference, low, high, p_value = notebook.pool_groups(notebook.PUBLIC)
    assert (difference, low, high) == pytest.approx((0.064, -0.032, 0.160), abs=0.0005)
    assert p_value == pytest.approx(0.137, abs=0.0005)
    original, augmented = zip(*notebook.PUBLIC.values(), strict=True)
    paired = stats.ttest_rel(augmented, original)
    assert p_value == pytest.approx(paired.pvalue)
    assert notebook.public_results(["cats", "dogs"]) == notebook.PUBLIC
    assert notebook.public_results(["ants", "bees"]) == {}


def test_newcombes_interval_is_that_of_his_table(notebook):
    interval = notebook.newcombe(48, 80, 56, 70)  # 1998, table II, example (a), method 10
    assert interval == pytest.approx((0.2, 0.0524, 0.3339), abs=0.00005)


# ---- 1,000 simulated experiments of each kind: false alarms, coverage, power
# Run with -s to see the rates.

EXPERIMENTS = 1000


def rates_of(name, results, truth):
    """Return and print (share of p < 0.05, share of intervals that hold the truth)."""
    low, high, p_value = np.array(results).T
    significant, covered = np.mean(p_value < 0.05), np.mean((low <= truth) & (truth <= high))
    print(
        f"\n{name}: significant {significant:.3f}, interval holds the truth {covered:.3f}", end=""
    )
    return significant, covered


def simulate_once(notebook, difference, disputed, images):
    """Every image is tested once: (low, high, p_value) of each experiment."""
    quick = functools.partial(notebook.bootstrap, n_resamples=499)
    notebook.globals["bootstrap"] = quick
    shares = [(disputed - difference) / 2, 1 - disputed, (disputed + difference) / 2]
    gains = np.random.default_rng(1).choice([-1.0, 0, 1], (EXPERIMENTS, images), p=shares)
    return [notebook.compare_once(gain) for gain in gains]


def test_simulated_images_tested_once(notebook):
    name = "once, 140 images, 40 % in dispute"
    significant, covered = rates_of(name, simulate_once(notebook, 0, 0.4, 140), 0)
    assert 0.015 < significant < 0.055  # the exact test is conservative
    assert 0.93 < covered < 0.97
    for difference, disputed in ((0.1, 0.4), (0.2, 0.3)):
        images = notebook.images_needed(difference, disputed)
        name = f"once, {images} images, true difference {difference}, {disputed} in dispute"
        results = simulate_once(notebook, difference, disputed, images)
        power, covered = rates_of(name, results, difference)
        assert 0.77 < power < 0.88
        assert 0.93 < covered < 0.97


def simulate_crossed(rng, repeats, images, difference, luck):
    """Return gains (repeats, images) of two arms, and the true difference.

    Probit model: an image is named correctly if 0.3 + how easy it is, N(0, 1), + how lucky the
    network is, N(0, luck), + `difference` in arm b + noise, N(0, 1), is above 0.
    """
    easy = rng.normal(size=(1, 1, images))
    skill = 0.3 + luck * rng.normal(size=(2, repeats, 1)) + np.array([0, difference])[:, None, None]
    right = (easy + skill + rng.normal(size=(2, repeats, images)) > 0).astype(float)
    arms = stats.norm.cdf(np.array([0.3, 0.3 + difference]) / np.sqrt(2 + luck**2))
    return right[1] - right[0], arms[1] - arms[0]


@pytest.mark.parametrize("luck", [0.0, 0.2, 0.5])
def test_simulated_repeats_on_the_same_images(notebook, luck):
    rng = np.random.default_rng(2)
    for difference in (0, 0.3):
        gains = [simulate_crossed(rng, 5, 140, difference, luck) for _ in range(EXPERIMENTS)]
        name = f"in every repeat, luck {luck}, true difference {gains[0][1]:.3f}"
        results = [notebook.compare_crossed(gain) for gain, _ in gains]
        significant, covered = rates_of(name, results, gains[0][1])
        assert 0.92 < covered < 0.975
        if difference == 0:
            assert 0.025 < significant < 0.08
            naive = [stats.ttest_1samp(gain.ravel(), 0).pvalue < 0.05 for gain, _ in gains]
            print(f"; taken as independent {np.mean(naive):.3f}", end="")
            assert luck < 0.2 or np.mean(naive) > 0.15


def simulate_resampled(rng, folds, difference, training):
    """Return the differences (10,) of 10 repeats on 112 / 28 of 140 images, test sets overlapping.

    A repeat's difference is the mean gain of its 28 test images (-1, 0 or 1 each, 40 % not 0)
    + the mean effect of its 112 training images, N(0, training**2) each, + the networks' luck,
    N(0, 0.04). `folds`: two shuffles of five folds, as in the notebook; else random test sets.
    """
    shares = [0.2 - difference / 2, 0.6, 0.2 + difference / 2]
    gain, effect = rng.choice([-1, 0, 1], 140, p=shares), training * rng.normal(size=140)
    orders = [rng.permutation(140) for _ in range(2 if folds else 10)]
    tests = [order[i : i + 28] for order in orders for i in range(0, 140 if folds else 28, 28)]
    means = [gain[test].mean() + np.delete(effect, test).mean() for test in tests]
    return np.array(means) + 0.04 * rng.normal(size=10)


@pytest.mark.parametrize("folds", [True, False], ids=["folds", "random"])
@pytest.mark.parametrize("training", [0.0, 0.2])
def test_simulated_reshuffled_repeats(notebook, folds, training):
    rng = np.random.default_rng(3)
    for difference in (0, 0.15):
        every = [simulate_resampled(rng, folds, difference, training) for _ in range(EXPERIMENTS)]
        name = f"{'reshuffled folds' if folds else 'random test sets'}, effect of training images "
        name += f"{training}, true difference {difference}"
        results = [notebook.compare_reshuffled(row, 28 / 112) for row in every]
        significant, covered = rates_of(name, results, difference)
        if difference == 0:
            naive = [notebook.compare_reshuffled(row, 0)[2] < 0.05 for row in every]
            print(f"; without correction {np.mean(naive):.3f}", end="")
            assert significant < 0.08
            assert folds or np.mean(naive) > 0.15  # the correction is needed
        assert covered > 0.92


def test_tables_do_not_run_what_is_in_a_class_name(notebook):
    shown = []
    notebook.globals["show"] = shown.append
    names = ["<img src=x onerror=alert(1)>", "a|b", "[a](javascript:x)", "$x$", "two\nlines"]
    notebook.show_table(["class"], [[name] for name in names])
    expected = (
        r"\<img src=x onerror=alert(1)\>",
        r"a\|b",
        r"\[a\](javascript:x)",
        r"\$x\$",
        "two lines",
    )
    assert shown[0].splitlines()[2:] == [f"| {name} |" for name in expected]


def test_progress_shows_one_line_and_logs_every_epoch(notebook, tmp_path, monkeypatch):
    updates = []

    class Handle:
        def update(self, data, raw):
            updates.append(data["text/plain"])

    monkeypatch.setattr(builtins, "display", lambda *_, **__: Handle(), raising=False)
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
