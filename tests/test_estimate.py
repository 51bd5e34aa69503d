"""The one estimate behind every interval, the comparison of arms, and the verdict."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from conftest import CODE, ROOT
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support

from data.notebook import statistics
from data.notebook.statistics import compare, estimate, summarize

FOLDS = np.repeat(np.arange(5), 28)
ARMS = ["original", "augmented", "original_matched", "mixed"]


def rows_of(arm, seed, right, first=0, classes=("cats", "dogs")):
    """Return rows of predictions.csv for photos that are named right (True) or wrong."""
    labels, others = (np.resize(names, len(right)) for names in (classes, np.roll(classes, 1)))
    rows = {"path": [f"{first + i}.jpg" for i in range(len(right))], "label": labels}
    return pd.DataFrame(rows).assign(arm=arm, seed=seed, prediction=np.where(right, labels, others))


def predictions_of(hits, shared=False):
    """Return predictions of {arm: [how many of 28 photos are named right, for each repeat]}."""
    return pd.concat(
        rows_of(arm, seed, np.arange(28) < right, 0 if shared else seed * 28)
        for arm, repeats in hits.items()
        for seed, right in enumerate(repeats)
    )


def summary_of(rows, classes=("cats", "dogs")):
    """Return the summary of an arm whose runs are those of the rows."""
    options = {"zero_division": 0, "average": "macro"}
    if len(classes) == 2:
        options |= {"average": "binary", "pos_label": classes[1]}
    scores = []
    for _, run in rows.groupby("seed"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            run["label"], run["prediction"], **options
        )
        accuracy = (run["label"] == run["prediction"]).mean()
        scores.append({"precision": precision, "recall": recall, "f1": f1, "accuracy": accuracy})
    return summarize(rows, scores, list(classes))


def test_disjoint_folds_that_scatter_give_the_paired_t_test():
    shares = np.array([0.1, 0.9, 0.3, 0.6, 0.8])
    gains = (np.random.default_rng(0).random((5, 28)) < shares[:, None]) - 0.2
    paired = stats.ttest_1samp(gains.mean(axis=1), 0)
    interval, error = paired.confidence_interval(), stats.sem(gains.mean(axis=1))
    found = estimate(gains.ravel(), FOLDS, range(140))
    assert found == pytest.approx((gains.mean(), *interval, paired.pvalue, error))


def test_crossed_runs_give_the_two_way_analysis():
    draw, runs, photos = np.random.default_rng(1).normal, 4, 60
    gains = draw(0.5, size=(runs, 1)) + draw(size=photos) + draw(size=(runs, photos))
    run_means, photo_means = gains.mean(axis=1, keepdims=True), gains.mean(axis=0)
    of_runs, of_photos = photos * run_means.var(ddof=1), runs * photo_means.var(ddof=1)
    rest = gains - run_means - photo_means + gains.mean()
    of_rest = (rest**2).sum() / (runs - 1) / (photos - 1)
    total = of_runs + (of_photos - of_rest) * (photos - 1) / photos
    error, freedom = (total / gains.size) ** 0.5, (runs - 1) * (total / of_runs) ** 2
    run, photo = np.indices(gains.shape).reshape(2, -1)
    found = estimate(gains.ravel(), run, photo)
    interval = stats.t.interval(0.95, freedom, gains.mean(), error)
    p_value = 2 * stats.t.sf(gains.mean() / error, freedom)
    assert found == pytest.approx((gains.mean(), *interval, p_value, error))


RESHUFFLED = np.concatenate([np.random.default_rng(seed).permutation(140) for seed in (1, 2)])
DESIGNS = {  # the run and the photo of each test
    "5 folds x 28": (FOLDS, np.arange(140)),
    "5 folds x 140": (np.repeat(np.arange(5), 140), np.arange(700)),
    "same 140 photos x 3": (np.repeat(np.arange(3), 140), np.tile(np.arange(140), 3)),
    "10 reshuffled repeats": (np.repeat(np.arange(10), 28), RESHUFFLED),
}


def simulate(rng, runs, photos, luck, difference, experiments=400):
    """Return whether each test is right: (experiments, arm, test), 0.5 -/+ difference / 2."""
    # a photo, for all; a photo, for an arm; a network
    easy = 0.15 * rng.normal(size=(experiments, 1, photos.max() + 1))
    suits = 0.1 * rng.normal(size=(experiments, 2, photos.max() + 1))
    lucky = luck * rng.normal(size=(experiments, 2, runs.max() + 1))
    chance = 0.5 + (easy + suits)[..., photos] + lucky[..., runs]
    chance += np.array([[-difference / 2], [difference / 2]])
    return (rng.random(chance.shape) < chance).astype(float)


@pytest.mark.parametrize("luck", [0.0, 0.06, 0.14])
@pytest.mark.parametrize("design", DESIGNS)
def test_false_alarms_coverage_and_power_in_simulated_experiments(design, luck):
    rng, (runs, photos), rates = np.random.default_rng(3), DESIGNS[design], []
    for difference in (0.0, 0.3):
        right = simulate(rng, runs, photos, luck, difference)
        found = [estimate(b - a, runs, photos) for a, b in right]
        rates.append(np.mean([p_value < 0.05 for *_, p_value, _ in found]))
        own = [estimate(arm, runs, photos) for arm in right[:, 0]]
        rates.append(np.mean([low <= 0.5 - difference / 2 <= high for _, low, high, *_ in own]))
    assert rates[0] <= 0.09 and rates[1] >= 0.91 and rates[2] >= (0.7 if luck < 0.1 else 0.28)


def simulate_looks(rng, pool, luck, difference, experiments):
    """Return after how many repeats of 5 to 20 each experiment was decided, None for never.

    A pool's five folds are tested in turn, then those of a new shuffle.
    """
    looks = []
    size = pool // 5
    runs = np.repeat(np.arange(20), size)
    for _ in range(experiments):
        photos = np.concatenate([rng.permutation(pool) for _ in range(4)])
        (right,) = simulate(rng, runs, photos, luck, difference, experiments=1)
        gains = right[1] - right[0]
        looks.append(None)
        for repeats in range(5, 21):
            tests = slice(repeats * size)
            found = estimate(gains[tests], runs[tests], photos[tests])
            if found.p_value < statistics.LEVEL:
                looks[-1] = repeats
                break
    return looks


@pytest.mark.parametrize("luck", [0.0, 0.06])
@pytest.mark.parametrize("pool", [140, 700])
def test_whoever_looks_after_each_of_5_to_20_repeats_is_rarely_wrong(pool, luck):
    looks = simulate_looks(np.random.default_rng(7), pool, luck, difference=0, experiments=400)
    wrong = [repeats for repeats in looks if repeats]
    assert len(wrong) <= 0.08 * 400


def test_a_true_gain_of_twelve_points_is_found_before_the_twentieth_repeat():
    looks = simulate_looks(np.random.default_rng(7), 700, 0.06, difference=0.12, experiments=100)
    found = [repeats for repeats in looks if repeats]
    assert len(found) >= 85
    assert np.mean(found) < 15


def test_one_run_or_ten_are_no_surer_than_their_photos_and_one_test_not_at_all():
    assert estimate([1], [0], ["a"]) == (1, None, None, None, None)
    mean, *interval, _, error = estimate(np.arange(28) < 20, [0] * 28, range(28))
    assert error == pytest.approx((28 * mean * (1 - mean) + 2) ** 0.5 / 28)
    assert tuple(interval) == pytest.approx(stats.t.interval(0.95, 27, mean, error))
    run, photo = np.indices((10, 10)).reshape(2, -1)
    mean, *interval, _, error = estimate(photo < 6, run, photo)
    assert tuple(interval) == pytest.approx(stats.t.interval(0.95, 9, mean, error))


@pytest.mark.parametrize("value", [0, 1])
def test_where_all_are_equal_nothing_is_certain(value):
    mean, low, high, p_value, _ = estimate([value] * 140, FOLDS, range(140))
    assert low < mean == value < high and high - low > 0.02 and (p_value == 1) == (value == 0)


def test_every_interval_holds_its_mean():
    rng = np.random.default_rng(4)
    for _ in range(100):
        n = rng.integers(1, 30)
        rows = rows_of("original", 0, rng.random(n) < rng.random())
        rows["seed"] = rng.integers(0, rng.integers(1, 6), n)
        for shown in summary_of(rows).values():
            assert shown["low"] is None or 0 <= shown["low"] <= shown["mean"] <= shown["high"] <= 1


def test_scores_are_pooled_over_the_tests_of_all_repeats():
    draws = np.random.default_rng(5).random((4, 20))
    rows = pd.concat(rows_of("mixed", i, draws[i, 3 * i :] < 0.7) for i in range(4))
    summary = summary_of(rows, ["dogs", "cats"])
    pooled = precision_recall_fscore_support(rows["label"], rows["prediction"], labels=["cats"])
    expected = [*np.ravel(pooled[:3]), (rows["label"] == rows["prediction"]).mean()]
    assert list(summary) == ["precision", "recall", "f1", "accuracy"]
    assert [shown["mean"] for shown in summary.values()] == pytest.approx(expected)
    assert all(type(value) is float for shown in summary.values() for value in shown.values())


def test_a_class_seen_in_too_few_runs_has_no_interval():
    nothing = {"mean": 0, "low": None, "high": None}
    rows = predictions_of({"mixed": [20, 20, 20]})
    assert summary_of(rows)["precision"]["low"] > 0
    rows.loc[rows["seed"] == 0, "prediction"] = "cats"
    assert summary_of(rows)["precision"]["low"] is None
    rows["prediction"] = "cats"
    summary = summary_of(rows)
    assert summary["precision"] == nothing
    assert summary["recall"]["mean"] == summary["f1"]["mean"] == 0 < summary["recall"]["high"]
    *scores, accuracy = summary_of(rows[rows["label"] == "cats"]).values()
    assert scores == [nothing] * 3 and accuracy["low"] < accuracy["mean"] == 1


def test_more_than_two_classes_have_macro_averages_of_the_runs():
    classes = ["ants", "bees", "cats"]
    rows = pd.concat(rows_of("mixed", i, np.arange(12) < 5 + i, 0, classes) for i in range(3))
    *averages, accuracy = summary_of(rows, classes).values()
    expected = np.zeros(3)
    for _, run in rows.groupby("seed"):
        pair = run["label"], run["prediction"]
        expected += np.array(precision_recall_fscore_support(*pair, average="macro")[:3]) / 3
    assert [shown["mean"] for shown in averages] == pytest.approx(expected)
    assert {(shown["low"], shown["high"]) for shown in averages} == {(None, None)}
    assert accuracy["low"] < accuracy["mean"] == 0.5 < accuracy["high"]


def test_only_tests_that_both_arms_made_are_compared():
    rows = predictions_of({"original": [10, 12, 11, 13, 14, 28], "mixed": [20, 14, 17, 14, 20]})
    rows = rows.sample(frac=1, random_state=1)  # in whatever order
    found = compare(rows, "original", "mixed", tested=True)
    assert (found["runs"], found["photos"], found["difference"]) == (5, 140, 25 / 140)
    assert found["p_value"] == pytest.approx(stats.ttest_1samp([10, 2, 6, 1, 6], 0).pvalue)
    assert [type(value) for value in found.values()] == [str, str] + [float] * 4 + [int] * 2
    assert list(found) == ["a", "b", "difference", "low", "high", "p_value", "runs", "photos"]


@pytest.mark.parametrize("repeats", [1, 2, 3, 4, 5])
def test_an_interval_needs_one_or_three_repeats_and_a_p_value_five(repeats):
    rows = predictions_of({"original": [0] * repeats, "mixed": [28] * repeats}, shared=True)
    found = compare(rows, "original", "mixed", tested=True)
    assert found["photos"] == 28
    assert (found["low"] is None, found["high"]) == ((True, None) if repeats == 2 else (False, 1))
    assert (found["p_value"] is None) == (repeats < 5)
    assert compare(rows, "original", "mixed", tested=False)["p_value"] is None


@pytest.fixture
def section_8(notebook):
    """Run the cell that compares the arms; return the comparisons."""
    (cell,) = [source for source in CODE if source.startswith("comparisons = []")]

    def run_cell(predictions):
        trained_arms = list(predictions["arm"].unique())
        state = dict.fromkeys(("results", "about", "finished", "given_up"))
        state |= {
            "predictions": predictions,
            "trained_arms": trained_arms,
            "summaries": dict.fromkeys([*trained_arms, *notebook.BASELINES]),
            "save_results": lambda *_, **__: None,
            "display": lambda table: None,
        }
        page = notebook.globals | state
        exec(compile(cell, "section 8", "exec"), page)
        return page["comparisons"]

    return run_cell


@pytest.mark.parametrize(
    ("arms", "tested"),
    [
        (["original", "augmented"], [("original", "augmented")]),
        (["original_matched", "original", "augmented"], [("original_matched", "augmented")]),
        (ARMS, [("original", "mixed")]),
        (["original", "original_matched"], []),
        (["augmented"], []),
    ],
)
def test_one_question_is_tested_the_first_that_the_arms_allow(notebook, section_8, arms, tested):
    predictions = predictions_of({arm: [9, 14, 12, 15, 11] for arm in arms})
    comparisons = section_8(predictions)
    pairs = [(row["a"], row["b"]) for row in comparisons if row["p_value"] is not None]
    assert pairs == tested
    assert len(comparisons) == sum(set(pair) <= set(arms) for pair in notebook.QUESTIONS)
    said = statistics.verdict(notebook.QUESTIONS, comparisons, predictions, seconds=600)
    assert (said == "These arms allow no comparison.") == (not comparisons)


def test_chance_is_the_share_of_the_class_that_is_commonest_in_the_test(notebook, capsys):
    (cell,) = [source for source in CODE if source.startswith("trained_arms = ")]
    # four in five are dogs, though the training photos are cats for the most part
    labels = np.repeat(["cats", "dogs"], (20, 80))
    guesses = np.tile(["cats", "dogs"], 50)
    rows = []
    for arm, answers in (("mixed", guesses), ("thumbnails", ["cats"] * 100)):
        run = {"arm": arm, "seed": 1, "path": range(100), "label": labels, "prediction": answers}
        rows.append(pd.DataFrame(run))
    page = notebook.globals | {
        "predictions": rows[0],
        "all_predictions": pd.concat(rows),
        "summaries": {"mixed": summary_of(rows[0])},
        "train_accuracies": {"mixed": 0.5},
    }
    exec(compile(cell, "section 7", "exec"), page)
    assert page["chance"] == 0.8
    assert (
        "not shown to do more than guess (commonest class of the test: 80 %)"
        in capsys.readouterr().out
    )


NO_VERDICT = "No verdict", "networks", "nothing about augmentation", "repeats to 10", "100 min"
VERDICTS = [  # (same photos in all repeats, right of a, right of b, what is said)
    (False, [10], [20], ["+35.7", "95 % interval", *NO_VERDICT]),
    (False, [10, 11], [20, 9], ["+14.3", *NO_VERDICT]),
    (False, [10] * 4, [20, 21, 19, 22], ["+37.5", "95 % interval", *NO_VERDICT]),
    (False, [10] * 5, [11, 14, 16, 18, 19], ["Not decided", "99 % interval", "+20.0", "p = 0.01"]),
    (False, [10] * 5, [16, 14, 16, 18, 19], ["Decided: they help", "+23.6", "p = 0.00", "pool"]),
    (False, [20] * 5, [10, 11, 9, 10, 8], ["Decided: they harm", "-37.1", "p = "]),
    (False, [17, 5, 13, 14, 14], [17, 13, 18, 19, 15], ["+13.6", "Not", "About 20 ", "10 points"]),
    (False, [14] * 5, [13, 14, 15, 14, 14], ["Not decided", "About 5 such repeats"]),
    (
        False,
        [14] * 5,
        [4, 24, 14, 19, 9],
        ["Not decided**, nor to be expected by repeat 20", "About 97 such", "more test"],
    ),
    (True, [14] * 5, [17] * 5, ["+10.7", "Not decided", "More test photos"]),
    (False, [10] * 21, [14, 18] * 10 + [16], ["Decided", "More than 20 repeats are beyond"]),
]


@pytest.mark.parametrize(("shared", "a", "b", "said"), VERDICTS)
def test_the_verdict_says_what_the_figures_allow(notebook, shared, a, b, said):
    rows = predictions_of({"original_matched": a, "augmented": b}, shared)
    found = compare(rows, "original_matched", "augmented", tested=True)
    text = statistics.verdict(notebook.QUESTIONS, [found], rows, seconds=600)
    assert [words for words in said if words not in text] == [], text
    assert ("ecided" in text) == (", p = " in text) == (len(a) > 4)
    assert len(text.split()) <= 60, text


@pytest.mark.parametrize(("shared", "a", "b", "said"), VERDICTS)
def test_the_interval_of_a_verdict_holds_zero_where_nothing_is_decided(shared, a, b, said):
    rows = predictions_of({"original": a, "mixed": b}, shared)
    tested = compare(rows, "original", "mixed", tested=True)
    if tested["p_value"] is None:
        return
    low, high, percent = statistics.choose_interval(rows, tested)
    assert percent == 99
    assert (low <= 0 <= high) == (tested["p_value"] >= 0.01)
    assert low <= tested["low"] <= tested["high"] <= high


def test_the_table_of_comparisons_says_which_interval_it_shows():
    rows = predictions_of({"original": [10, 12, 11, 13, 14], "mixed": [20, 14, 17, 14, 20]})
    tested = compare(rows, "original", "mixed", tested=True)
    other = compare(rows, "original", "mixed", tested=False)
    alone = compare(rows[rows["seed"] < 2], "original", "mixed", tested=True)
    table = statistics.tabulate_comparisons(rows, [tested, other, alone])
    assert list(table["at"]) == ["99 %", "95 %", "95 %"]
    assert list(table["p"]) == [f"{tested['p_value']:.2g}", "not tested", "none below 5 repeats"]
    shown = f"{100 * other['low']:+.1f} to {100 * other['high']:+.1f}"
    assert list(table["interval"][1:]) == [shown, "–"]


@pytest.mark.parametrize("runs", [1, 2, 1000])
def test_no_verdict_is_longer_than_sixty_words(notebook, runs):
    p_values, needed = [0.000012, 0.9, None] if runs > 4 else [None], [None, 9, 12_345]
    choices = notebook.QUESTIONS, p_values, (0.0, -0.98765, 0.12345), needed
    low, high = (None, None) if runs == 2 else (-1.0, 1.0)
    for (a, b), p_value, gain, more in itertools.product(*choices):
        row = {"a": a, "b": b, "difference": gain, "p_value": p_value, "runs": runs, "photos": 140}
        text = statistics.describe_comparison(
            question=notebook.QUESTIONS[a, b],
            comparison=row,
            interval=statistics.ShownInterval(low, high, percent=99),
            needed=more,
            seconds=123_456.7,
        )
        assert len((text + " *Of drawings, not of photos.*").split()) <= 60, text
        assert text.startswith("**Not tested") == (runs > 2 and p_value is None)


@pytest.mark.parametrize("folder", sorted((ROOT / "data/figures").glob("*/")), ids=str)
def test_the_readme_tells_what_the_committed_predictions_give(folder):
    lines = (ROOT / "README.md").read_text(encoding="utf-8").replace("−", "-").splitlines()
    rows = pd.read_csv(folder / "predictions.csv")
    expected = []
    for told in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["comparison"]:
        found = compare(rows, told["a"], told["b"], tested=told["p_value"] is not None)
        assert found == pytest.approx(told)
        gain, low, high = (100 * found[name] for name in ("difference", "low", "high"))
        expected.append((found["b"], f"| {gain:+.1f} | {low:+.1f} to {high:+.1f} |"))
    for arm, tests in rows.groupby("arm"):
        expected.append((arm, f"| {(tests.label == tests.prediction).sum()} of {len(tests)} |"))
    for arm, cells in expected:
        assert [line for line in lines if f"`{arm}`" in line and cells in line], (arm, cells)


def test_the_readme_tells_what_new_averages_of_batch_normalisation_gained():
    networks = pd.read_csv(ROOT / "data" / "figures" / "batch_norm.csv")
    assert networks.groupby("arm")["seed"].nunique().to_dict() == {"augmented": 10, "original": 10}
    gains = {}
    for part in ("train", "test"):
        gain = networks[f"{part}, recomputed"] - networks[part]
        gains[part] = 100 * gain.groupby(networks["arm"]).mean()
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("−", "-")
    train, test = gains["train"], gains["test"]
    assert f"{train.original:.1f} points for `original` and {train.augmented:.1f} for" in readme
    assert f"on test photos by {test.original:+.1f} and {test.augmented:+.1f}" in readme


def test_the_worked_example_is_what_a_reader_finds_by_hand():
    gains = [1, 0, 0, 0, 0, 0, -1, 0, 1, 1, 0, 1]
    runs = np.repeat([1, 2, 3], 4)
    apart = statistics.explain_estimate(gains, runs, range(12))
    assert apart["mean"] == 0.25
    assert apart["of repeats"] == pytest.approx(3 / 2 * (0 + 4 + 4) / 144)
    assert apart["of photos"] == pytest.approx((3 * 0.75 + 2) / 144)
    assert apart["shared"] == 0
    assert apart["degrees of freedom"] == pytest.approx(2)
    paired = stats.ttest_1samp([0.25, -0.25, 0.75], 0).confidence_interval()
    assert (apart["95 % from"], apart["to"]) == pytest.approx(tuple(paired))

    same = statistics.explain_estimate(gains, runs, [1, 2, 3, 4] * 3)
    assert same["shared"] == pytest.approx(3 / 2 * (4.75 - 2.25) / 144)
    assert same["variance"] == pytest.approx(apart["variance"] + same["shared"])
    assert same["degrees of freedom"] == 3


def learning_of(train_accuracy, accuracy, low, difference=0.0, gain_from=None):
    """Return what is said of an arm against a chance of one half."""
    summary = {"accuracy": {"mean": accuracy, "low": low, "high": 1.0}}
    against = {"difference": difference, "low": gain_from}
    return statistics.describe_learning("mixed", train_accuracy, summary, 0.5, against)


def test_memorised_learned_and_guessed_are_told_apart():
    assert "it memorised" in learning_of(0.98, 0.54, low=0.45)
    assert "not shown to do more than guess" in learning_of(0.55, 0.54, low=0.45)
    assert "not shown to be more than thumbnails" in learning_of(0.98, 0.7, low=0.6)
    assert "not shown to be more than thumbnails" in learning_of(0.98, 0.7, 0.6, 0.1, -0.1)
    assert "and more than thumbnails show (+10.0 points" in learning_of(0.98, 0.7, 0.6, 0.1, 0.05)
    # of two repeats there is no interval
    assert "two repeats are too few to tell" in learning_of(1.0, 1.0, low=None)


def test_small_shares_of_many_classes_are_not_rounded_to_nothing():
    assert "and 0.13 % of new ones" in learning_of(0.0, 0.0013, low=0.0002)
    assert [statistics.percent(share) for share in (0, 0.01, 0.614, 1)] == [
        "0 %",
        "1 %",
        "61 %",
        "100 %",
    ]
    score = {"mean": 0.0013, "low": 0.0002, "high": 0.0048}
    assert statistics.format_score(score) == "0.0013 [0.0002, 0.0048]"
    score = {"mean": 0.6071, "low": 0.41, "high": 0.784}
    assert statistics.format_score(score) == "0.6071 [0.41, 0.78]"


def test_another_score_is_the_mean_of_the_runs_that_have_it():
    rows = predictions_of({"mixed": [20, 14, 17]})
    scores = [{"accuracy": 0.5, "auc": auc, "none": None} for auc in (0.25, 0.75, None)]
    summary = summarize(rows, scores, ["cats", "dogs"])
    assert summary["auc"] == {"mean": 0.5, "low": None, "high": None}
    assert summary["none"] == {"mean": None, "low": None, "high": None}
    table = statistics.tabulate_scores(rows, {"mixed": summary}, {"mixed": 0.875})
    row = table.loc["mixed"]
    assert row["on train/"] == "0.88"
    assert row["right of the test"] == "51 of 84"
    assert row["none"] == "–"
    assert row["auc"] == "0.5000"


def test_a_score_under_a_known_name_that_is_computed_otherwise_stays_what_it_is():
    rows = predictions_of({"mixed": [20, 14, 17]})
    scores = [{"accuracy": 0.5, "precision": 0.25, "f1": float("nan")} for _ in range(3)]
    summary = summarize(rows, scores, ["cats", "dogs"])
    assert summary["precision"] == {"mean": 0.25, "low": None, "high": None}
    assert summary["f1"] == {"mean": None, "low": None, "high": None}
    assert set(summary) == {"accuracy", "precision", "f1"}


def test_a_run_that_calls_every_photo_by_one_name_is_said():
    rows = predictions_of({"mixed": [20, 14, 17], "original": [3, 4, 5]})
    rows.loc[(rows["arm"] == "mixed") & (rows["seed"] == 1), "prediction"] = "cats\n"
    assert statistics.find_constant_answers(rows) == ["mixed, seed 1: every photo is called cats."]
