"""The notebook as a whole: one headless run at tiny size, and the copy that is stored."""

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, read_notebook, save_photo, tree
from PIL import Image
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

TINY = {"IMAGE_SIZE": "32", "NUM_EPOCHS": "1", "COPIES": "2", "DEVICE": "cpu"}


def execute(folder, **parameters):
    """Run the notebook with nbconvert, steered by environment variables alone."""
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute"]
    command += [str(ROOT / "notebook.ipynb"), "--output-dir", str(folder), "--output", "executed"]
    places = {"DATA_DIR": str(folder / "data"), "RESULTS_DIR": str(folder / "results")}
    environ = os.environ | TINY | places | parameters
    return subprocess.run(command, env=environ, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All arms, two repeats, on the drawings that stand in when nothing answers for Kaggle."""
    folder = tmp_path_factory.mktemp("run")
    arms = "original,augmented,original_matched"
    offline = {"KAGGLE_API_ENVIRONMENT": "TEST", "KAGGLEHUB_CACHE": str(folder / "cache")}
    done = execute(folder, ARMS=arms, REPEATS="2", **offline)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / "results" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def predictions(run):
    with open(run / "results" / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_json_has_what_the_contract_says(metrics):
    assert metrics["dataset"]["source"].startswith("drawings instead of samuelcortinhas/")
    assert metrics["dataset"]["classes"] == ["cats", "dogs"]
    assert metrics["dataset"]["counts"] == {
        "train": {"cats": 56, "dogs": 56},
        "train_aug": {"cats": 112, "dogs": 112},
        "test": {"cats": 14, "dogs": 14},
    }
    assert metrics["dataset"]["unreadable"] == metrics["dataset"]["twins"] == []
    assert metrics["config"]["image_size"] == 32
    assert metrics["config"]["learning_rate"] == 0.001
    assert set(metrics["environment"]) == {
        "python", "torch", "torchvision", "augly", "device", "precision"
    }  # fmt: skip
    pairs = {(row["a"], row["b"]) for row in metrics["comparison"]}
    assert len(pairs) == 3
    assert all(row["n"] == 56 for row in metrics["comparison"])


def test_every_figure_can_be_recounted_from_the_predictions(metrics, predictions):
    for arm, entry in metrics["arms"].items():
        assert [run["seed"] for run in entry["runs"]] == [42, 43]
        for run in entry["runs"]:
            rows = [
                row for row in predictions if (row["arm"], row["seed"]) == (arm, str(run["seed"]))
            ]
            labels, guesses = [row["label"] for row in rows], [row["prediction"] for row in rows]
            assert len(rows) == 28
            assert run["accuracy"] == pytest.approx(accuracy_score(labels, guesses))
            expected = precision_recall_fscore_support(
                labels, guesses, average="binary", pos_label="dogs", zero_division=0
            )
            for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
                assert run[name] == pytest.approx(value)
        for name, summary in entry["summary"].items():
            mean = sum(run[name] for run in entry["runs"]) / 2
            assert summary["mean"] == pytest.approx(mean)
            assert summary["low"] <= mean <= summary["high"], (arm, name)


def test_matched_arm_takes_the_augmented_arms_steps(metrics):
    steps = {arm: {run["steps"] for run in entry["runs"]} for arm, entry in metrics["arms"].items()}
    assert steps == {"original": {4}, "augmented": {7}, "original_matched": {7}}


def test_repeats_test_different_images_and_arms_the_same_ones(predictions):
    tested = {}
    for row in predictions:
        tested.setdefault((row["arm"], row["seed"]), set()).add(row["path"])
    assert tested["original", "42"] == tested["augmented", "42"]
    assert not tested["original", "42"] & tested["original", "43"]
    assert len(tested["original", "42"]) == 28


def test_checkpoints_figures_and_log_are_there(run, metrics):
    files = set(tree(run / "results"))
    assert {f"{arm}.pt" for arm in metrics["arms"]} < files
    figures = "images augmentation loss confusion accuracy grad_cam mistakes faithfulness"
    figures += " difference mean_heat predict counts"
    assert {f"{name}.png" for name in figures.split()} < files
    assert not [name for name in files if "partial" in name]
    log = (run / "results" / "run.log").read_text().splitlines()
    assert len(log) == 2 * (1 + 1 + 2)  # an epoch per arm; 7 steps of 4 an epoch are two


def test_output_says_that_these_are_drawings_and_shows_one_line_per_arm(run):
    cells = json.loads((run / "executed.ipynb").read_text())["cells"]
    text = output_text(cells)
    assert "These are drawings, not photos" in text
    assert "ConnectionError" in text
    assert len(re.findall(r"\d+/\d+ steps", text)) == 6


def test_bad_parameter_stops_the_run_with_one_line(tmp_path):
    done = execute(tmp_path, COPIES="none")
    assert done.returncode != 0
    last = done.stderr.rstrip().splitlines()[-1]
    assert last == "InputError: copies = 'none': must be a whole number from 1 to 1000"
    assert "---->" not in done.stderr  # no frames of a traceback
    assert not tree(tmp_path)


STRANGE = ["a b", "\"q\" 'q'", "line\nbreak", "🐈", "-rf", "x" * 246, "a.b.c", "$x^$", "`|*_", "é"]


def test_own_photos_with_strange_names(tmp_path):
    kinds = ["<img src=x onerror=alert(1)>", "[a](b)|c", "$\\x$ 'line\nbreak'"]
    for number, kind in enumerate(kinds):
        for i, name in enumerate(STRANGE):
            save_photo(tmp_path / "pool" / kind / f"{name}.JPG", 100 * number + i, format="JPEG")
    done = execute(tmp_path, DATASET=str(tmp_path / "pool"), COPIES="1")
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert metrics["dataset"]["classes"] == sorted(kinds)
    assert metrics["dataset"]["counts"]["train_aug"] == dict.fromkeys(sorted(kinds), 8)
    assert metrics["arms"]["original"]["summary"]["f1"]["high"] <= 1
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    text = output_text(cells)
    assert "drawings" not in text
    assert "published" not in text
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    assert not [data for data in shown if "text/html" in data]
    tables = [text for data in shown if "<img" in (text := "".join(data.get("text/markdown", "")))]
    assert tables
    assert all(text.count("<img") == text.count(r"\<img") for text in tables)
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]


def output_text(cells) -> str:
    """All that the cells show as text."""
    texts = []
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        shown = output.get("text") or output.get("data", {})
        if isinstance(shown, dict):
            shown = shown.get("text/markdown") or shown.get("text/plain", "")
        texts.append("".join(shown))
    return "\n".join(texts)


# ---- the stored notebook


def test_stored_notebook_ran_from_top_to_bottom_on_the_drawings():
    cells = read_notebook()["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "These are drawings, not photos" in output_text(cells)
    pictures = [
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 12
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode("".join(picture)))).verify()


def test_stored_notebook_shows_the_default_experiment():
    cells = read_notebook()["cells"]
    parameters = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(parameters) == 1
    text = output_text(cells)
    for line in (
        "num_epochs     10",
        "image_size     224",
        "batch_size     32",
        "copies         3",
    ):
        assert line in text
    assert re.findall(r"(\d+)/\1 steps", text) == ["40", "110"]


def test_both_stored_networks_clearly_beat_chance_on_the_drawings():
    text = output_text(read_notebook()["cells"])
    for arm in ("original", "augmented"):
        (low,) = re.findall(
            rf"\| {arm} \| \d+ .* [\d.]+ \\\[([\d.]+), [\d.]+\\\] \|\n", text + "\n"
        )
        assert float(low) > 0.5


def test_ruff_finds_nothing():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(ROOT)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
