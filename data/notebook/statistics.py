"""One estimate behind every interval, the scores of arms, their comparison, and the verdict."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from data.files import how_many, one_line

# of two repeats an interval would say too little of the next one
FEWEST_FOR_INTERVAL = 3
# a verdict may be looked for after each of so many repeats ...
FEWEST_FOR_VERDICT = 5
MOST_FOR_VERDICT = 20
# ... as decided means p below this: whoever looks 16 times is wrong in 10 to 18 of 100 experiments
# at a level of 0.05, in 2 to 5 at one of 0.01 (simulated as in tests/test_estimate.py)
LEVEL = 0.01
# what is recommended everywhere
RECOMMENDED_REPEATS = 10
# a verdict looks for a gain of ten points, in four of five experiments
GAIN_TO_FIND = 0.1
POWER = 0.8


class Estimate(NamedTuple):
    """A mean with its interval, the p-value of its being 0, and its standard error.

    The interval is at 95 % unless `estimate` was told another. Of a single test all but the mean
    are None.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    error: float | None


class Terms(NamedTuple):
    """What the variance of a mean is made of."""

    of_runs: float
    of_photos: float
    shared: float
    variance: float
    freedom: float


def find_terms(values: Sequence, runs: Sequence, photos: Sequence) -> Terms:
    """Return what the variance of a mean over tests is made of, and its degrees of freedom.

    The variance is that of the runs' totals, no less than the photos explain, plus what runs share
    by having tested the same photos. Where all runs test the same photos this is the two-way
    analysis of variance of Dorfman, Berbaum & Metz (1992), up to a factor (n - 1) / n of one term;
    the degrees of freedom are those of Hillis (2007). Where each run tests other photos and the
    runs scatter more than their photos explain, it is the paired t-test of the runs' means.

    Args:
        values: (n,) of each test, such as 1 for right and 0 for wrong; two or more.
        runs: (n,) names of the runs that tested.
        photos: (n,) names of the photos that were tested.
    """
    values = np.asarray(values, dtype=float)
    count = len(values)
    _, run = np.unique(runs, return_inverse=True)
    _, photo = np.unique(photos, return_inverse=True)
    num_runs = run.max() + 1
    num_photos = photo.max() + 1
    run_means = np.bincount(run, values) / np.bincount(run)
    within = values - run_means[run]

    # J / (J - 1), for J runs; of a single run it weighs nothing
    spare = num_runs - 1
    scale = num_runs / max(spare, 1) / count**2
    run_totals = np.bincount(run, values - values.mean())
    of_runs = max(scale * (run_totals**2).sum(), 1e-12)
    # + 2: no certainty where nothing ever differed
    of_photos = ((within**2).sum() + 2) / count**2
    photo_totals = np.bincount(photo, within)
    shared = max(scale * ((photo_totals**2).sum() - (within**2).sum()), 0)

    variance = max(of_runs, of_photos) + shared
    freedom = max(num_photos - 1, 1)
    if spare > 0:
        freedom = min(freedom, spare * (variance / of_runs) ** 2)
    return Terms(of_runs, of_photos, shared, variance, freedom)


def estimate(
    values: Sequence, runs: Sequence, photos: Sequence, confidence: float = 0.95
) -> Estimate:
    """Estimate a mean over tests of photos by runs, with Student's t and `find_terms`.

    Args:
        values: (n,) of each test, such as 1 for right and 0 for wrong.
        runs: (n,) names of the runs that tested.
        photos: (n,) names of the photos that were tested.
        confidence: of the interval.
    """
    mean = np.asarray(values, dtype=float).mean()
    if len(values) < 2:
        return Estimate(mean, low=None, high=None, p_value=None, error=None)
    terms = find_terms(values, runs, photos)
    error = terms.variance**0.5
    low, high = student_t.interval(confidence, terms.freedom, mean, error)
    p_value = 2 * student_t.sf(abs(mean) / error, terms.freedom)
    return Estimate(mean, low, high, p_value, error)


def explain_estimate(values: Sequence, runs: Sequence, photos: Sequence) -> dict[str, float]:
    """Return every term of an estimate by its name in the formula, for a table."""
    terms = find_terms(values, runs, photos)
    found = estimate(values, runs, photos)
    return {
        "mean": found.mean,
        "of repeats": terms.of_runs,
        "of photos": terms.of_photos,
        "shared": terms.shared,
        "variance": terms.variance,
        "standard error": found.error,
        "degrees of freedom": terms.freedom,
        "95 % from": found.low,
        "to": found.high,
    }


def clip(value: float | None, least: float = 0.0) -> float | None:
    """Return a number as a share from `least` to 1; None for None."""
    if value is None:
        return None
    return float(np.clip(value, least, 1))


def make_interval(mean: float, low: float | None = None, high: float | None = None) -> dict:
    """Return what metrics.json says of a score."""
    return {"mean": mean, "low": low, "high": high}


def estimate_share(tests: pd.DataFrame, repeats: int) -> dict:
    """Return {"mean", "low", "high"} of the share of right answers among some tests.

    Args:
        tests: rows of predictions.csv of one arm.
        repeats: of the arm; from several, two runs with such tests are too few for an interval.
    """
    if tests.empty:
        # such as those of a class that was never predicted
        return make_interval(0.0)
    right = tests["label"] == tests["prediction"]
    found = estimate(right, tests["seed"], tests["path"])
    if repeats > 1 and tests["seed"].nunique() < FEWEST_FOR_INTERVAL:
        return make_interval(clip(found.mean))
    return make_interval(clip(found.mean), low=clip(found.low), high=clip(found.high))


def summarize(
    tests: pd.DataFrame, scores: list[dict[str, float | None]], classes: list[str]
) -> dict[str, dict]:
    """Return {score: {"mean", "low", "high"}} of one arm, over the tests of all its repeats.

    Accuracy is pooled over the tests, and so are precision, recall and F1 of the second of two
    classes, if it is these that the scores hold. All other scores, and the macro averages of more
    classes, are means over the runs, without interval.

    Args:
        tests: rows of predictions.csv of one arm.
        scores: of each run, as `evaluate_model` returns them, in the order of the tests.
    """
    summary = {}
    for name in scores[0]:
        known = [run[name] for run in scores if run[name] is not None and math.isfinite(run[name])]
        mean = float(np.mean(known)) if known else None
        summary[name] = make_interval(mean)
    summary["accuracy"] = estimate_share(tests, repeats=len(scores))
    if len(classes) > 2:
        return summary

    pooled = estimate_class_scores(tests, len(scores), positive=classes[1])
    of_runs = []
    for _, run in tests.groupby("seed", sort=False):
        of_runs.append(estimate_class_scores(run, repeats=1, positive=classes[1]))
    for name, score in pooled.items():
        means = [run[name]["mean"] for run in of_runs]
        # another score of this name, such as an average over both classes, is not replaced
        given = np.array([run.get(name) for run in scores], dtype=float)
        if np.allclose(given, means):
            summary[name] = score
    return summary


def estimate_class_scores(tests: pd.DataFrame, repeats: int, positive: str) -> dict[str, dict]:
    """Return precision, recall and F1 of one class, each as {"mean", "low", "high"}."""
    predicted = tests["prediction"] == positive
    labelled = tests["label"] == positive
    # the hits among tests in which the class is label or answer; F1 is a function of their share
    hits = estimate_share(tests[predicted | labelled], repeats)
    return {
        "precision": estimate_share(tests[predicted], repeats),
        "recall": estimate_share(tests[labelled], repeats),
        "f1": {name: f1_of_hits(share) for name, share in hits.items()},
    }


def f1_of_hits(share: float | None) -> float | None:
    """Return F1 for the share of hits among the tests in which a class is label or answer."""
    if share is None:
        return None
    return 2 * share / (1 + share)


def tabulate_scores(
    predictions: pd.DataFrame,
    summaries: dict[str, dict],
    train_accuracies: dict[str, float],
) -> pd.DataFrame:
    """Return a table for readers: a row per arm, its scores with their intervals.

    Args:
        train_accuracies: {arm: mean accuracy on the photos of train/}.
    """
    rows = {}
    for arm, summary in summaries.items():
        tests = predictions[predictions["arm"] == arm]
        right = (tests["label"] == tests["prediction"]).sum()
        row = {
            "on train/": f"{train_accuracies[arm]:.2f}",
            "right of the test": f"{right} of {len(tests)}",
        }
        for name, score in summary.items():
            row[name] = format_score(score)
        rows[arm] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def format_score(score: dict) -> str:
    """Return a score as text: 0.6071 [0.41, 0.78], or 0.0013 [0.0002, 0.0048]."""
    if score["mean"] is None:
        return "–"
    if score["low"] is None:
        return f"{score['mean']:.4f}"
    # of many classes two digits would tell nothing
    digits = 2 if score["high"] >= 0.1 else 4
    return f"{score['mean']:.4f} [{score['low']:.{digits}f}, {score['high']:.{digits}f}]"


def percent(share: float) -> str:
    """Return a share as text: 61 %, or 0.13 % where whole percents would say none."""
    if 0 < share < 0.01:
        return f"{100 * share:.2f} %"
    return f"{100 * share:.0f} %"


def find_constant_answers(predictions: pd.DataFrame) -> list[str]:
    """Return a line for each run that calls every photo by one name."""
    lines = []
    for (arm, seed), run in predictions.groupby(["arm", "seed"], sort=False):
        if run["prediction"].nunique() == 1:
            answer = one_line(run["prediction"].iloc[0])
            lines.append(f"{arm}, seed {seed}: every photo is called {answer}.")
    return lines


def beats_chance(summary: dict, chance: float) -> bool:
    """Tell whether an arm is shown to know more than the commonest class.

    Args:
        summary: of `summarize`.
        chance: share of the tests that are of their commonest class.
    """
    low = summary["accuracy"]["low"]
    return low is not None and low > chance


def describe_learning(
    arm: str, train_accuracy: float, summary: dict, chance: float, against_thumbnails: dict
) -> str:
    """Return whether an arm memorised or learned, in a sentence or two.

    Args:
        train_accuracy: mean accuracy on the photos of train/.
        summary: of `summarize`.
        chance: share of the tests that are of their commonest class.
        against_thumbnails: of `compare`, what the arm gained over the thumbnails.
    """
    accuracy = summary["accuracy"]["mean"]
    seen = (
        f"{arm} names {percent(train_accuracy)} of its repeat's training photos rightly, and "
        f"{percent(accuracy)} of new ones"
    )
    if summary["accuracy"]["low"] is None:
        return f"{seen}: two repeats are too few to tell whether it learned."
    if not beats_chance(summary, chance):
        # halfway from chance to all is more than a network gets without having looked
        if train_accuracy > (1 + chance) / 2:
            return (
                f"{seen}: it memorised. On new photos it is not shown to know more than the "
                f"commonest class of the test does ({percent(chance)})."
            )
        guess = f"guess (commonest class of the test: {percent(chance)})"
        return f"{seen}: it is not shown to do more than {guess}."
    difference = 100 * against_thumbnails["difference"]
    points = f"{difference:+z.1f} points against thumbnails of 16 × 16 pixels"
    if against_thumbnails["low"] is not None and against_thumbnails["low"] > 0:
        return f"{seen}: it learned something, and more than thumbnails show ({points})."
    return f"{seen}: it learned something, not shown to be more than thumbnails show ({points})."


def pair_tests(predictions: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Return a table of the tests that both arms made: seed, path, gain (-1, 0 or 1)."""
    right = (predictions["label"] == predictions["prediction"]).astype(float)
    tests = predictions.assign(right=right)
    by_arm = tests.pivot(index=["seed", "path"], columns="arm", values="right")
    both = by_arm[[a, b]].dropna()
    gains = both[b] - both[a]
    return gains.rename("gain").reset_index()


def compare(predictions: pd.DataFrame, a: str, b: str, tested: bool = False) -> dict:
    """Return how much more accurate arm `b` is than arm `a`, in the tests that both made.

    Returns:
        {"a", "b", "difference", "low", "high", "p_value", "runs", "photos"}: shares from -1 to 1;
        no interval from two runs; a p-value only if `tested`, and from five runs on.
    """
    gains = pair_tests(predictions, a, b)
    found = estimate(gains["gain"], gains["seed"], gains["path"])
    runs = gains["seed"].nunique()
    comparison = {
        "a": a,
        "b": b,
        "difference": float(found.mean),
        "low": clip(found.low, least=-1),
        "high": clip(found.high, least=-1),
        "p_value": None,
        "runs": runs,
        "photos": gains["path"].nunique(),
    }
    if 1 < runs < FEWEST_FOR_INTERVAL:
        comparison["low"] = None
        comparison["high"] = None
    if tested and runs >= FEWEST_FOR_VERDICT:
        comparison["p_value"] = float(found.p_value)
    return comparison


class ShownInterval(NamedTuple):
    """What the page shows of a comparison; `low` and `high` are None where there is no interval."""

    low: float | None
    high: float | None
    percent: int


def choose_interval(predictions: pd.DataFrame, comparison: dict) -> ShownInterval:
    """Return the interval that the page shows of a comparison, in shares from -1 to 1.

    Of the tested one that of the verdict, which holds zero where nothing is decided; of any other
    the one at 95 %.

    Args:
        comparison: of `compare`, made from the predictions.
    """
    if comparison["p_value"] is None:
        return ShownInterval(comparison["low"], comparison["high"], percent=95)
    gains = pair_tests(predictions, comparison["a"], comparison["b"])
    found = estimate(gains["gain"], gains["seed"], gains["path"], confidence=1 - LEVEL)
    low = clip(found.low, least=-1)
    high = clip(found.high, least=-1)
    return ShownInterval(low, high, percent=round(100 * (1 - LEVEL)))


def format_interval(interval: ShownInterval) -> str:
    """Return an interval as text, in percentage points: -3.4 to +6.6."""
    if interval.low is None:
        return "–"
    return f"{100 * interval.low:+z.1f} to {100 * interval.high:+z.1f}"


def tabulate_comparisons(predictions: pd.DataFrame, comparisons: Sequence[dict]) -> pd.DataFrame:
    """Return the comparisons as a table for readers, gains in percentage points.

    Args:
        predictions: that they were made from.
        comparisons: of `compare`.
    """
    rows = []
    for comparison in comparisons:
        interval = choose_interval(predictions, comparison)
        row = {
            "arms": f"{comparison['a']} → {comparison['b']}",
            "points gained": f"{100 * comparison['difference']:+z.1f}",
            "interval": format_interval(interval),
            "at": f"{interval.percent} %",
            "p": format_p_value(comparison),
            "repeats": comparison["runs"],
            "photos": comparison["photos"],
        }
        rows.append(row)
    return pd.DataFrame(rows)


def format_p_value(comparison: dict) -> str:
    """Return a comparison's p-value as text, or why there is none."""
    if comparison["p_value"] is not None:
        return f"{comparison['p_value']:.2g}"
    if comparison["runs"] < FEWEST_FOR_VERDICT:
        return f"none below {FEWEST_FOR_VERDICT} repeats"
    return "not tested"


def repeats_needed(gains: pd.DataFrame) -> int | None:
    """Return how many such repeats decide on a gain of ten points in 80 of 100 experiments.

    None: they do not help, as most of the variance is what repeats share by testing the same
    photos.

    Args:
        gains: of `pair_tests`.
    """
    error = estimate(gains["gain"], gains["seed"], gains["path"]).error
    # as if no photo came twice
    unshared = estimate(gains["gain"], gains["seed"], gains.index).error
    if unshared**2 < error**2 / 2:
        return None

    error_of_one = error * gains["seed"].nunique() ** 0.5
    repeats = 2
    while True:
        quantiles = student_t.ppf((1 - LEVEL / 2, POWER), repeats - 1)
        if quantiles.sum() * error_of_one / repeats**0.5 <= GAIN_TO_FIND:
            return repeats
        repeats += 1


def verdict(
    questions: Mapping[tuple[str, str], str],
    comparisons: Sequence[dict],
    predictions: pd.DataFrame,
    seconds: float,
) -> str:
    """Return what the first comparison allows to say, as Markdown.

    Args:
        questions: {(a, b): question}.
        comparisons: of `compare`, none if the arms allow none.
        predictions: that they were made from.
        seconds: that a repeat takes here.
    """
    if not comparisons:
        return "These arms allow no comparison."
    first = comparisons[0]
    gains = pair_tests(predictions, first["a"], first["b"])
    return describe_comparison(
        question=questions[first["a"], first["b"]],
        comparison=first,
        interval=choose_interval(predictions, first),
        needed=repeats_needed(gains),
        seconds=seconds,
    )


def describe_comparison(
    question: str,
    comparison: dict,
    interval: ShownInterval,
    needed: int | None,
    seconds: float,
) -> str:
    """Return what a comparison allows to say, in at most 60 words of Markdown.

    Args:
        question: that was asked.
        interval: of `choose_interval`.
        needed: of `repeats_needed`.
        seconds: that a repeat takes here.
    """
    a = comparison["a"]
    b = comparison["b"]
    runs = comparison["runs"]
    p_value = comparison["p_value"]
    gain = f"{b} against {a}: {100 * comparison['difference']:+z.1f} points of accuracy"
    if interval.low is not None:
        gain = f"{gain} ({interval.percent} % interval {format_interval(interval)})"

    if runs < FEWEST_FOR_VERDICT:
        minutes = how_many(math.ceil(RECOMMENDED_REPEATS * seconds / 60), "minute")
        return (
            f"**No verdict.** {gain}, between {2 * runs} networks. Other seeds give other "
            "networks: this says nothing about augmentation as such. Set repeats to "
            f"{RECOMMENDED_REPEATS}: about {minutes} here, enough to find a large effect."
        )
    gain = f"{question} {gain} in {runs} repeats"
    if p_value is None:
        return f"**Not tested.** {gain}."
    gain = f"{gain}, p = {p_value:.2g}."
    is_beyond = runs > MOST_FOR_VERDICT
    if is_beyond:
        gain = f"{gain} More than {MOST_FOR_VERDICT} repeats are beyond the rule."
    if p_value < LEVEL:
        answer = "they help" if comparison["difference"] > 0 else "they harm"
        return f"**Decided: {answer}** networks trained on photos of this pool. {gain}"
    if needed is None:
        return f"**Not decided.** {gain} More test photos would help, more repeats would not."
    if is_beyond:
        return f"**Not decided.** {gain} More test photos help, or networks that scatter less."
    if needed > MOST_FOR_VERDICT:
        return (
            f"**Not decided**, nor to be expected by repeat {MOST_FOR_VERDICT}. {gain} About "
            f"{needed} such repeats would find 10 points; more test photos help, or networks that "
            "scatter less."
        )
    minutes = how_many(math.ceil(needed * seconds / 60), "minute")
    return (
        f"**Not decided.** {gain} About {needed} such repeats ({minutes} here) would find "
        "a gain of 10 points 4 times in 5."
    )
