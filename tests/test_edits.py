"""A reader exchanges one cell and runs all: the rest still runs, and only what must is trained."""

import json
import re

import pandas as pd
import pytest
import torch
from conftest import CODE, ROOT, make_pool, run_page

# the number of the cell that trains
(TRAINING,) = [number for number, source in enumerate(CODE) if "in run_all(run_arm, jobs" in source]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What all pages here share: the photos, their copies, and the results."""
    folder = tmp_path_factory.mktemp("edits")
    make_pool(folder / "pool", 6)
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """Run the page with some cells exchanged; return its names, and the runs that it trained.

    With `stop_after_training` the cells behind the training are left out.
    """
    settings = {
        "dataset": folder / "pool",
        "data_dir": folder / "data",
        "results_dir": folder / "results",
        "train_ratio": 0.5,
        "copies": 1,
        "image_size": 32,
        "batch_size": 4,
        "num_epochs": 1,
        "model": "resnet18",
        "device": "cpu",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name.upper(), str(value))
    monkeypatch.chdir(ROOT)

    def run(*cells, stop_after_training=False, **changes):
        for name, value in changes.items():
            monkeypatch.setenv(name.upper(), str(value))
        before = records_of(folder)
        page_cells = exchange(cells)
        if stop_after_training:
            page_cells = page_cells[: TRAINING + 1]
        page = run_page(page_cells)
        trained = [name.rsplit("-", 1)[0] for name in records_of(folder) - before]
        return page, sorted(trained)

    return run


def records_of(folder):
    return {file.name for file in (folder / "results" / "runs").glob("*.json")}


def metrics_of(folder):
    return json.loads((folder / "results" / "metrics.json").read_text(encoding="utf-8"))


def exchange(cells):
    """Return the page's cells, each that defines what one of `cells` defines exchanged for it."""
    page = list(CODE)
    for cell in cells:
        (first,) = re.findall(r"^(?:def \w+\(|[A-Z_]+ = )", cell, flags=re.MULTILINE)[:1]
        (place,) = [number for number, source in enumerate(page) if f"\n{first}" in f"\n{source}"]
        page[place] = cell
    return page


BOTH = ["augmented-42", "original-42"]


@pytest.fixture
def page_as_it_is(run, folder):
    """A page that ran before; its runs are in the results."""
    if not records_of(folder):
        assert run()[1] == BOTH


def test_run_again_the_page_recalls_what_it_trained(run, page_as_it_is):
    page, trained = run()
    assert trained == []
    assert len(page["finished"]) == 2


SCORES = """
def evaluate_model(labels, probabilities):
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    predictions = probabilities.argmax(axis=1)
    return {
        "accuracy": accuracy_score(labels, predictions),
        "balanced accuracy": balanced_accuracy_score(labels, predictions),
        "auc": roc_auc_score(labels, probabilities[:, 1]),
        "unknown": float("nan"),
    }
"""


def test_another_score_is_a_column_and_a_key_and_trains_nothing_again(run, folder, page_as_it_is):
    page, trained = run(SCORES)
    assert trained == []
    table = page["tabulate_scores"](
        page["all_predictions"], page["summaries"], page["train_accuracies"]
    )
    assert {"accuracy", "balanced accuracy", "auc"} <= set(table.columns)
    entry = metrics_of(folder)["arms"]["augmented"]
    (one,) = entry["runs"]
    assert one["unknown"] is None
    assert entry["summary"]["auc"] == {"mean": one["auc"], "low": None, "high": None}


def test_another_optimiser_is_one_statement_of_the_loop_and_trains_again(run, page_as_it_is):
    (loop,) = [source for source in CODE if source.startswith("def train_model(")]
    before, after = loop.split("    optimizer = torch.optim.AdamW(\n")
    _, after = after.split("\n    )\n", maxsplit=1)
    sgd = "    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.01)\n"
    _, trained = run(before + sgd + after)
    assert trained == BOTH


def test_another_schedule_is_a_further_function_and_the_setting_that_names_it(
    run, folder, page_as_it_is
):
    (cell,) = [source for source in CODE if source.startswith("def constant(")]
    own = """

def halved(optimizer, steps):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=steps // 2, gamma=0.5)


SCHEDULES["halved"] = halved
"""
    _, trained = run(cell + own, schedule="halved")
    assert trained == BOTH
    assert metrics_of(folder)["config"]["schedule"] == "halved"


OWN_NETWORK = """
GRAD_CAM_LAYER = "features"


class ThreeLayers(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Conv2d(3, 8, kernel_size=5, stride=4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(8, num_classes)

    def forward(self, images):
        features = self.features(images).relu()
        return self.classify(self.pool(features).flatten(1))


def initialize_model(num_classes=2, seed=42, name="own"):
    torch.manual_seed(seed)
    return ThreeLayers(num_classes)
"""

LIBRARY_NETWORK = """
GRAD_CAM_LAYER = "features"


def initialize_model(num_classes=2, seed=42, name="{name}"):
    torch.manual_seed(seed)
    return get_model("{name}", weights=None, num_classes=num_classes)
"""

NETWORKS = [
    (OWN_NETWORK, "ThreeLayers", 8 * 75 + 8 + 8 * 2 + 2),
    (LIBRARY_NETWORK.format(name="mobilenet_v3_small"), "MobileNetV3", 1_519_906),
    (LIBRARY_NETWORK.format(name="efficientnet_b0"), "EfficientNet", 4_010_110),
]


@pytest.mark.parametrize(("cell", "kind", "weights"), NETWORKS, ids=[row[1] for row in NETWORKS])
def test_another_network_runs_to_the_end_of_the_page(run, folder, cell, kind, weights):
    page, trained = run(cell)
    assert trained == BOTH
    assert metrics_of(folder)["environment"]["network"] == {"class": kind, "weights": weights}
    saved = torch.load(folder / "results" / "augmented.pt", weights_only=True)
    assert saved["classes"] == ["cats", "dogs"]
    answer, _ = page["predict"](folder / "pool" / "cats" / "0.jpg")
    assert answer in ("cats", "dogs")
    # its file cannot be taken for another network's
    assert run(cell, stop_after_training=True)[1] == []


def test_the_forward_of_a_network_of_ones_own_trains_again(run):
    def trained_with(cell):
        return run(cell, stop_after_training=True)[1]

    trained_with(OWN_NETWORK)
    comment = OWN_NETWORK.replace("    def __init__", "    # a comment\n    def __init__")
    assert trained_with(comment) == []
    assert trained_with(OWN_NETWORK.replace(".relu()", ".tanh()")) == BOTH


def test_a_further_arm_is_a_row_and_trains_no_other_arm_again(run, folder, page_as_it_is):
    other = make_pool(folder / "other", 4, base=700)
    (table,) = [source for source in CODE if source.startswith("ARMS = {")]
    row = f'    "Other": {{"shows": "{other}", "steps_as": "train"}},\n}}\n\n# the first'
    cell = table.replace("}\n\n# the first", row)
    _, trained = run(cell, arms="original,augmented,other")
    assert trained == ["Other-42"]
    metrics = metrics_of(folder)
    assert list(metrics["arms"]) == ["original", "augmented", "Other"]
    assert metrics["arms"]["Other"]["summary"]["accuracy"]["low"] is not None
    # no question is asked of it
    assert [(row["a"], row["b"]) for row in metrics["comparison"]] == [("original", "augmented")]
    predictions = pd.read_csv(folder / "results" / "predictions.csv")
    assert predictions["arm"].value_counts()["Other"] == 6
