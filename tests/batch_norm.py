"""Does it help to recompute the statistics of batch normalisation after the last step?

    python tests/batch_norm.py archive.zip table.csv [--repeats 10] [--image-size 96] [--arms …]

Trains `original` and `augmented` on Kaggle's `train` folder as the notebook does, and tests every
network twice: before and after the notebook's `recompute_statistics`. A row is added to the table
as soon as a network is tested; what is in it is not trained again.

data/figures/batch_norm.csv is such a table: Kaggle's photos, two cores of Zen 3 in float32.
"""

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from conftest import define_notebook
from scipy import stats

from augment import augment_folder
from data.notebook.devices import memory_for_training, move_to
from data.notebook.loader import load_dataset
from data.prepare import prepare_dataset

SEED = 42
COLUMNS = ("train", "train, recomputed", "test", "test, recomputed")


def measure_accuracy(page: SimpleNamespace, model: torch.nn.Module, loader) -> float:
    answers = page.predict_probabilities(model, loader).argmax(axis=1)
    return float((answers == loader.labels).mean())


def measure_run(page: SimpleNamespace, folder: Path, arm: str, seed: int, config) -> dict:
    """Train one network; return its accuracies with and without recomputed statistics."""
    size = config.image_size
    shown = folder / page.ARMS[arm]["shows"]
    loader = load_dataset(shown, size, config.batch_size, seed=seed)
    train = load_dataset(folder / "train", size, config.batch_size)
    test = load_dataset(folder / "test", size, config.batch_size)
    steps = page.count_steps(arm, folder, config)
    model = page.initialize_model(len(test.names), seed, config.model)
    move_to(model, config.device)
    with memory_for_training(size):
        page.train_model(model, loader, steps)

    row = {"arm": arm, "seed": seed}
    row["train"] = measure_accuracy(page, model, train)
    row["test"] = measure_accuracy(page, model, test)
    page.recompute_statistics(model, loader, epoch=config.num_epochs)
    row["train, recomputed"] = measure_accuracy(page, model, train)
    row["test, recomputed"] = measure_accuracy(page, model, test)
    return row


def print_table(rows: pd.DataFrame) -> None:
    """Print the means of every arm, and what recomputing gained, in percentage points."""
    print(rows.groupby("arm", sort=False)[list(COLUMNS)].mean().round(3))
    for arm, runs in rows.groupby("arm", sort=False):
        for part in ("train", "test"):
            gains = runs[f"{part}, recomputed"] - runs[part]
            low, high = stats.ttest_1samp(gains, 0).confidence_interval()
            interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
            print(f"{arm}, {part}: {100 * gains.mean():+.1f} ({interval}), {len(runs)} networks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="Kaggle's zip")
    parser.add_argument("table", type=Path, help="CSV file, made or added to")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--arms", default="original,augmented", help="one of them alone, say")
    options = parser.parse_args()
    config = SimpleNamespace(
        image_size=options.image_size,
        batch_size=32,
        num_epochs=10,
        model="resnet50",
        device="auto",
    )
    page = define_notebook()
    rows = []
    if options.table.exists():
        rows = pd.read_csv(options.table).to_dict("records")
    done = {(row["arm"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as data_dir:
        prepared = prepare_dataset(
            dataset=options.dataset,
            data_dir=data_dir,
            subset="train",
            train_ratio=0.8,
            seed=SEED,
            repeats=options.repeats,
        )
        for repeat, folder in enumerate(prepared.folders):
            seed = SEED + repeat
            missing = [arm for arm in options.arms.split(",") if (arm, seed) not in done]
            if "augmented" in missing:
                side = round(512 * options.image_size / 224)
                copies = folder / "train_aug"
                augment_folder(source=folder / "train", output=copies, seed=seed, side=side)
            for arm in missing:
                rows.append(measure_run(page, folder, arm, seed, config))
                pd.DataFrame(rows).to_csv(options.table, index=False)
                print(rows[-1], flush=True)
    print_table(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
