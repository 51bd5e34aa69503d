"""Compare committed predictions with what thumbnails tell of the same photos.

    python tests/thumbnails.py archive.zip data/figures/as_published

Makes the splits of the experiment's metrics.json again, lets the notebook's two baselines name the
test photos of every repeat, and prints what each arm gained over them, with 95 % intervals.
"""

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd
from conftest import ROOT  # noqa: F401, which puts the project on the path

from data.notebook.baselines import (
    THUMBNAIL_SIDE,
    learn_thumbnails,
    make_run,
    name_commonest,
)
from data.notebook.loader import load_dataset
from data.notebook.runs import tabulate_predictions
from data.notebook.statistics import compare
from data.prepare import prepare_dataset

BASELINES = {"commonest class": name_commonest, "thumbnails": learn_thumbnails}


def answer_again(dataset: str, config: dict, data_dir: str) -> pd.DataFrame:
    """Return the baselines' rows of predictions.csv for an experiment's splits."""
    prepared = prepare_dataset(
        dataset=dataset,
        data_dir=data_dir,
        subset=config["subset"],
        train_ratio=config["train_ratio"],
        seed=config["seed"],
        repeats=config["repeats"],
    )
    answers = []
    for repeat, folder in enumerate(prepared.folders):
        train = load_dataset(folder / "train", THUMBNAIL_SIDE)
        test = load_dataset(folder / "test", THUMBNAIL_SIDE)
        for name, answer in BASELINES.items():
            answers.append(make_run(name, answer, train, test, seed=config["seed"] + repeat))
    return tabulate_predictions(answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="Kaggle's zip")
    parser.add_argument("experiment", type=Path, help="folder with metrics.json, predictions.csv")
    options = parser.parse_args()
    metrics = json.loads((options.experiment / "metrics.json").read_text(encoding="utf-8"))
    predictions = pd.read_csv(options.experiment / "predictions.csv")
    with tempfile.TemporaryDirectory() as data_dir:
        baselines = answer_again(options.dataset, metrics["config"], data_dir)
    both = pd.concat([predictions, baselines])
    for name, tests in baselines.groupby("arm"):
        right = (tests["label"] == tests["prediction"]).sum()
        print(f"{name}: {right} of {len(tests)}")
    for arm in predictions["arm"].unique():
        row = compare(both, "thumbnails", arm)
        gain, low, high = (100 * row[key] for key in ("difference", "low", "high"))
        print(f"{arm} against thumbnails: {gain:+.1f} points ({low:+.1f} to {high:+.1f})")


if __name__ == "__main__":
    main()
