"""Runs on disk: gone on with after a stop, recalled when finished, given up in one line."""

import csv
import itertools
import json
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import fails, make_pool, run_script, save_photo, tree
from filelock import FileLock
from torch import nn

from augment import augment_folder
from data.files import InputError
from data.notebook import devices, runs
from data.notebook.loader import load_dataset, normalize
from data.prepare import prepare_dataset

ARMS = ["original", "augmented", "original_matched", "mixed"]


class TinyNet(nn.Module):
    """A network that trains in no time, under a ResNet's names; dropout draws from torch."""

    def __init__(self):
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(8, 1000)

    def forward(self, images):
        features = self.layer4(images).mean((2, 3))
        return self.fc(self.dropout(features))


@pytest.fixture
def small(notebook):
    """The notebook with a tiny network in the place of every ResNet."""
    notebook.globals["get_model"] = lambda name, weights: TinyNet()
    return notebook


@pytest.fixture
def photos(tmp_path):
    """Three photos of each of two classes: epochs of two batches of three."""
    return make_pool(tmp_path / "photos", 3)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def clock_of(seconds):
    """Return a clock that goes on by so many seconds whenever it is read."""
    readings = itertools.count(0, seconds)
    return lambda: next(readings)


class Stopped(BaseException):
    """Stands for whatever ends a run."""


def train(small, photos, path=None, stop_at=None, **options):
    """Train epochs of two batches; return losses, weights, and the steps that were taken.

    Args:
        options: further arguments of train_model.
    """
    taken = []

    def report(done, steps, losses):
        taken.append(done)
        if done == stop_at:
            raise Stopped

    model = small.initialize_model(2, 1)
    loader = load_dataset(photos, 16, 3, seed=1)
    checkpoint = runs.Checkpoint(path, every=5.0, clock=clock_of(10))
    how = {"steps": 17, "learning_rate": 0.01, "checkpoint": checkpoint, "report": report}
    losses = small.train_model(model, loader, **how | options)
    return losses, model.state_dict(), taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("stop_at", "next_step"), [(2, 1), (3, 3), (10, 9), (16, 15), (17, 17)])
def test_training_that_was_stopped_goes_on_and_ends_with_the_same_weights(
    small, photos, tmp_path, monkeypatch, stop_at, next_step, dtype
):
    small.globals["fast_dtype"] = lambda device: dtype
    monkeypatch.setattr(devices, "fast_dtype", lambda device: dtype)
    expected, weights, taken = train(small, photos)
    assert sorted(set(taken)) == list(range(1, 18))
    assert len(expected) == 9
    path = tmp_path / "state.pt"
    with pytest.raises(Stopped):
        train(small, photos, path, stop_at)
    # as another process would find them
    torch.manual_seed(99)
    losses, again, taken = train(small, photos, path)
    assert taken[0] == next_step
    assert losses == expected
    assert equal(weights, again)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_training_goes_on_exactly_with_weight_decay_and_every_schedule(
    small, photos, tmp_path, schedule, weight_decay
):
    options = {"schedule": schedule, "weight_decay": weight_decay}
    expected, weights, _ = train(small, photos, **options)
    path = tmp_path / "state.pt"
    for stop_at in (4, 10, 15):
        with pytest.raises(Stopped):
            train(small, photos, path, stop_at, **options)
    losses, again, taken = train(small, photos, path, **options)
    assert taken[0] == 15
    assert losses == expected
    assert equal(weights, again)


def test_without_weight_decay_the_optimiser_is_adam_to_the_last_bit(small, photos):
    _, weights, _ = train(small, photos, steps=7)
    model = small.initialize_model(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    loader = load_dataset(photos, 16, 3, seed=1)
    for step in range(7):
        if step % 2 == 0:
            loader.sampler.set_epoch(step // 2)
            batches = iter(loader)
        images, labels = next(batches)
        loss = nn.functional.cross_entropy(model(normalize(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert equal(weights, model.state_dict())


def test_weight_decay_makes_weights_smaller(small, photos):
    _, free, _ = train(small, photos)
    _, decayed, _ = train(small, photos, weight_decay=5.0)
    assert decayed["fc.weight"].norm() < 0.9 * free["fc.weight"].norm()


def test_the_cosine_schedule_ends_at_zero_and_the_constant_one_where_it_began(small):
    for schedule, last, middle in (("cosine", 0.0, 0.05), ("constant", 0.1, 0.1)):
        optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
        scheduler = small.globals["SCHEDULES"][schedule](optimizer, steps=40)
        rates = []
        for _ in range(40):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates[0] == 0.1
        assert rates[20] == pytest.approx(middle)
        assert rates == sorted(rates, reverse=True)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(last, abs=1e-12)


def test_a_state_that_cannot_be_read_is_said_and_the_run_begins_anew(
    small, photos, tmp_path, capsys
):
    expected, weights, _ = train(small, photos)
    path = tmp_path / "state.pt"
    with pytest.raises(Stopped):
        train(small, photos, path, stop_at=10)
    whole = path.read_bytes()
    for damaged in (whole[:1000], b"state", b"", pickle.dumps([[1.0], print])):
        path.write_bytes(damaged)
        losses, again, taken = train(small, photos, path)
        assert taken[0] == 1
        assert losses == expected
        assert equal(weights, again)
        assert f"{path}: a state that cannot be read" in capsys.readouterr().out


def test_the_state_is_written_when_the_last_one_is_old_enough(photos, tmp_path):
    seconds = [0.0]
    model = nn.Linear(2, 2)
    checkpoint = runs.Checkpoint(tmp_path / "state.pt", every=60, clock=lambda: seconds[0])
    assert checkpoint.restore(model=model) == []
    for now, written in ((59, False), (61, True), (100, False), (122, True)):
        seconds[0] = now
        checkpoint.save([1.0], model=model)
        assert (tmp_path / "state.pt").exists() == written, now
        checkpoint.delete()


def test_seconds_are_those_of_the_whole_run_not_of_its_last_part(tmp_path):
    seconds = [0.0]
    model = nn.Linear(2, 2)
    first = runs.Checkpoint(tmp_path / "state.pt", every=0, clock=lambda: seconds[0])
    first.restore(model=model)
    seconds[0] = 40
    first.save([1.0], model=model)
    # stopped; started again much later
    seconds[0] = 1000
    second = runs.Checkpoint(tmp_path / "state.pt", every=0, clock=lambda: seconds[0])
    assert second.restore(model=model) == [1.0]
    seconds[0] = 1007
    assert second.seconds == 47


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A data folder: train/, test/ and train_aug/ of twenty photos."""
    folder = tmp_path_factory.mktemp("split")
    pool = make_pool(folder / "pool", 10)
    prepare_dataset(str(pool), folder / "data", subset="", train_ratio=0.7)
    augment_folder(
        folder / "data" / "train", folder / "data" / "train_aug", copies=2, seed=7, workers=1
    )
    return folder / "data"


@pytest.fixture
def experiment(small, split, tmp_path):
    """Make the runs of some arms as the training cell does, in results of their own."""
    settings = {"seed": 7, "copies": 2, "operations": "", "image_size": 32, "batch_size": 8}
    settings |= {"num_epochs": 2, "learning_rate": 0.01, "weight_decay": 0.0}
    settings |= {"schedule": "constant"}
    settings |= {"model": "resnet18", "device": "cpu"}
    settings |= {"arms": ",".join([*ARMS, "own"]), "repeats": 2}
    results = tmp_path / "results"

    def make_runs(*arms, seeds=(7,), folder=split, prepared=None, **changes):
        config = SimpleNamespace(**settings | changes)
        jobs = []
        for seed in seeds:
            for arm in arms:
                save_as = results / f"{arm}.pt" if seed == seeds[0] else None
                jobs.append({"arm": arm, "seed": seed, "folder": folder, "save_as": save_as})
        run_arm = small.globals["run_arm"]
        return list(runs.run_all(run_arm, jobs, config, results, prepared))

    threads = torch.get_num_threads()
    yield make_runs
    torch.set_num_threads(threads)


@pytest.fixture
def trainings(small):
    """What each call of `train_model` was given: the weights by then, and the loader."""
    calls = []
    whole = small.train_model

    def train_model(model, loader, *others, **options):
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        calls.append((weights, loader))
        return whole(model, loader, *others, **options)

    small.globals["train_model"] = train_model
    return calls


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that were trained, not recalled."""
    names = []
    whole = runs.show_progress

    def show_progress(name, log):
        names.append(name)
        return whole(name, log)

    monkeypatch.setattr(runs, "show_progress", show_progress)
    return names


def test_every_arm_starts_from_the_same_weights_with_its_own_pictures(experiment, trainings):
    results = experiment(*ARMS)
    for weights, _ in trainings:
        assert equal(weights, trainings[0][0])
    # mixed draws from photos and copies
    assert [len(loader.dataset) for _, loader in trainings] == [14, 28, 14, 42]
    assert [run["steps"] for run in results] == [4, 8, 8, 4]
    assert [len(run["losses"]) for run in results] == [2, 2, 4, 2]
    assert len({str(run["losses"]) for run in results}) == 4
    for run in results:
        assert run["paths"] == results[0]["paths"]
        assert run["network"] == {"class": "TinyNet", "weights": 8 * 48 + 8 + 16 + 2 * 8 + 2}
        assert run["probabilities"].shape == (6, 2)
        # of the photos in train/, whatever the arm is trained on
        assert run["train_probabilities"].shape == (14, 2)
        assert run["train_labels"].tolist() == [0] * 7 + [1] * 7


def test_batch_normalisation_is_that_of_one_more_epoch_of_the_arms_own_pictures(
    small, experiment, split, tmp_path
):
    experiment("augmented")
    network, _ = runs.load_network(tmp_path / "results" / "augmented.pt", small.initialize_model)
    convolution, statistics, _ = network.layer4
    loader = load_dataset(split / "train_aug", 32, batch_size=8, seed=7)
    # two epochs were trained, 0 and 1
    loader.sampler.set_epoch(2)
    with torch.inference_mode():
        features = [convolution(normalize(images)) for images, _ in loader]
    means = torch.stack([batch.mean((0, 2, 3)) for batch in features])
    variances = torch.stack([batch.var((0, 2, 3)) for batch in features])
    torch.testing.assert_close(statistics.running_mean, means.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(statistics.running_var, variances.mean(0), atol=1e-5, rtol=1e-4)


def test_without_batch_normalisation_nothing_is_computed_anew(small, split):
    # which fails if it is asked
    network = nn.Linear(5, 2)
    loader = load_dataset(split / "train", 32, batch_size=8, seed=7)
    small.recompute_statistics(network, loader, epoch=1)
    with pytest.raises(RuntimeError):
        network(next(iter(loader))[0])


def without_arrays(run):
    return {name: np.asarray(value).tolist() for name, value in run.items()}


def test_a_finished_run_is_recalled_while_its_network_is_there(experiment, trained, tmp_path):
    (first,) = experiment("original")
    results = tmp_path / "results"
    before = tree(results)
    records = [name for name in before if name.startswith("runs/")]
    assert re.fullmatch(r"runs/original-7-\w{16}\.json", records[0])
    assert len(records) == 1
    # a line per epoch
    assert len(before["run.log"].splitlines()) == 2

    (again,) = experiment("original")
    assert without_arrays(again) == without_arrays(first)
    assert trained == ["original, seed 7"]
    assert tree(results) == before

    def cut(file):
        file.write_bytes(file.read_bytes()[:-100])

    for number, damage in enumerate((Path.unlink, cut), start=2):
        damage(results / "original.pt")
        experiment("original")
        assert len(trained) == number


def test_a_setting_or_a_picture_that_changes_trains_again(experiment, trained, split, tmp_path):
    experiment("original", "mixed")
    experiment("original", "mixed", num_epochs=3)
    assert trained == 2 * ["original, seed 7", "mixed, seed 7"]
    folder = shutil.copytree(split, tmp_path / "data")
    copy = next((folder / "train_aug").glob("cats/*"))
    copy.write_bytes(next((folder / "train_aug").glob("dogs/*")).read_bytes())
    # original reads no copies
    experiment("original", "mixed", num_epochs=3, folder=folder)
    assert trained[4:] == ["mixed, seed 7"]


def test_other_copies_train_only_the_arms_that_see_or_count_them(
    experiment, trained, split, tmp_path
):
    arms = ("original", "original_matched", "mixed")
    experiment(*arms)
    folder = shutil.copytree(split, tmp_path / "data")
    augment_folder(folder / "train", folder / "train_aug", copies=1, seed=7, workers=1)
    experiment(*arms, folder=folder, copies=1)
    assert trained[3:] == ["original_matched, seed 7", "mixed, seed 7"]


def test_states_of_other_settings_are_swept_up(experiment, tmp_path):
    folder = tmp_path / "results" / "runs"
    folder.mkdir(parents=True)
    for name in ("original-7-0.pt", "original-70-0.pt", "original_matched-7-0.pt"):
        (folder / name).write_bytes(b"282 MB")
    experiment("original")
    left = {file.name for file in folder.glob("*.pt")}
    assert left == {"original-70-0.pt", "original_matched-7-0.pt"}


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (RuntimeError("CUDA out of memory. Tried"), "no memory: lower batch_size or image_size"),
        (None, "loss of epoch 1: nan; lower learning_rate"),
    ],
)
def test_an_arm_that_cannot_train_is_given_up_in_one_line_and_the_others_go_on(
    small, experiment, tmp_path, problem, said
):
    broken = [problem]

    def normalize(images):
        # the first epoch of the first run is the one that fails
        if not broken:
            return images.float()
        cause = broken.pop()
        if cause is not None:
            raise cause
        return images.float() * float("nan")

    small.globals["normalize"] = normalize
    found = experiment("original", "mixed", seeds=(7, 8))
    problems = [run for run in found if "problem" in run]
    assert [run["problem"].startswith(f"original, seed 7: {said}") for run in problems] == [True]
    assert [(run["arm"], run["seed"]) for run in found if "problem" not in run] == [
        ("mixed", 7),
        ("mixed", 8),
    ]
    assert not (tmp_path / "results" / "original.pt").exists()


def test_a_repeat_that_fails_costs_no_other_its_network(
    small, experiment, trained, tmp_path, monkeypatch
):
    whole = small.train_model

    def train_model(model, loader, steps, **options):
        # of original, which sees photos alone
        if loader.sampler.seed == 8 and len(loader.dataset) == 14:
            raise InputError("no room")
        return whole(model, loader, steps, **options)

    small.globals["train_model"] = train_model
    for _ in range(2):
        experiment("original", "mixed", seeds=(7, 8))
        assert (tmp_path / "results" / "original.pt").exists()
    # what failed is tried again, nothing else is
    assert trained[4:] == ["original, seed 8"]


def test_copies_are_not_made_anew_while_an_arm_is_trained(experiment, split, monkeypatch):
    done = []
    whole = runs.show_progress

    def show_progress(name, log):
        command = ["augment.py", split / "train", split / "train_aug", "--seed", 8]
        done.append(run_script(*command))
        return whole(name, log)

    monkeypatch.setattr(runs, "show_progress", show_progress)
    experiment("original")
    assert done[0].returncode == 2
    assert "train_aug: another run is using it" in done[0].stderr


def test_copies_of_other_operations_are_not_trained_on(experiment, split, tmp_path):
    few = "rotate,blur,crop"
    with fails("and not with blur, crop, rotate: run section 4 again"):
        experiment("original", operations=few)
    folder = shutil.copytree(split, tmp_path / "data")
    options = {"copies": 2, "seed": 7, "workers": 1}
    augment_folder(folder / "train", folder / "train_aug", operations=few, **options)
    experiment("original", folder=folder, operations=few)
    with fails("train_aug: copies made with blur, crop, rotate, and not with"):
        experiment("original", folder=folder)


def test_where_no_arm_can_be_trained_it_ends_in_one_line(small, experiment):
    small.globals["normalize"] = lambda images: images.float() * float("nan")
    with fails("no arm could be trained"):
        experiment("original", "mixed")


def test_an_error_of_the_readers_own_keeps_its_traceback(small, experiment):
    def normalize(images):
        raise RuntimeError("sizes do not match")

    small.globals["normalize"] = normalize
    with pytest.raises(RuntimeError, match="sizes do not match"):
        experiment("original")


def prepare(folder, pool, repeats=1):
    """Prepare a pool with its copies; return what was prepared, and by which settings."""
    settings = {"dataset": str(pool), "subset": "", "seed": 7, "repeats": repeats}
    prepared = prepare_dataset(data_dir=folder, train_ratio=0.7, **settings)
    for split in prepared.folders:
        augment_folder(split / "train", split / "train_aug", copies=2, seed=7, workers=1)
    return prepared, settings


def test_settings_that_changed_since_the_photos_were_prepared_are_one_line(experiment, tmp_path):
    folder = tmp_path / "data"
    prepared, settings = prepare(folder, make_pool(tmp_path / "pool", 10))
    made_of = {"folder": folder, "prepared": prepared}
    experiment("original", **made_of, **settings)
    with fails("repeats changed since section 3, from 1 to 5: run from there"):
        experiment("original", **made_of, **settings | {"repeats": 5})
    with fails("the settings changed since the runs were listed: run from section 3 on"):
        experiment("original", **made_of, arms="mixed", **settings)


def test_photos_that_another_notebook_prepared_meanwhile_are_not_trained_on(experiment, tmp_path):
    folder = tmp_path / "data"
    prepared, settings = prepare(folder, make_pool(tmp_path / "pool", 10))
    script = "import sys; from data.prepare import prepare_dataset; prepare_dataset(*sys.argv[1:])"
    other = make_pool(tmp_path / "other", 10, base=300)
    assert run_script("-c", script, other, folder, "").returncode == 0
    with fails("data: another run has made another split there since"):
        experiment("original", folder=folder, prepared=prepared, **settings)


def test_what_is_recorded_is_what_was_trained_with(experiment):
    (run,) = experiment("original", num_epochs=3)
    assert run["config"]["num_epochs"] == 3
    assert run["config"]["device"] == "cpu"


def test_two_notebooks_in_one_folder_are_refused(experiment, tmp_path):
    (tmp_path / "results").mkdir()
    lock = FileLock(tmp_path / "results" / ".lock")
    with lock, fails("another run is using it"):
        experiment("original")


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(experiment, tmp_path, monkeypatch):
    def write_bytes(path, content):
        with open(path, "wb") as file:
            file.write(bytes(content[:10]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", write_bytes)
        with fails("no arm could be trained"):
            experiment("original")
        disk.setattr(runs, "SECONDS_BETWEEN_STATES", 0)
        with fails("no arm could be trained"):
            experiment("original", num_epochs=3)
    assert set(tree(tmp_path / "results")) <= {"run.log", ".lock"}
    (run,) = experiment("original")
    assert "problem" not in run


@pytest.fixture
def own_arm(small, split, tmp_path):
    """An arm of a reader's own, and the folder of its pictures."""
    folder = make_pool(tmp_path / "own", 4, base=500)
    small.globals["ARMS"]["own"] = {"shows": str(folder), "steps_as": "train"}
    return folder


def test_a_further_arm_is_trained_on_its_own_folder(experiment, trainings, own_arm):
    (run,) = experiment("own")
    assert len(run["losses"]) == 4
    assert len(trainings[0][1].dataset) == 8


def test_an_arm_with_other_classes_or_a_test_photo_is_one_line(experiment, own_arm, split):
    tested = next((split / "test" / "cats").iterdir())
    shutil.copy(tested, own_arm / "cats" / "mine.jpg")
    with fails(rf"arm own: 1 of its pictures .* cats/mine\.jpg \(cats/{tested.name}\): take them"):
        experiment("own")
    (own_arm / "dogs").rename(own_arm / "wolves")
    with fails("arm own: .*own has the classes cats, wolves, the test cats, dogs: give both"):
        experiment("own")


def test_a_kept_network_loads_without_running_code_and_says_what_it_is(small, experiment, tmp_path):
    experiment("original", seeds=(7, 8))
    path = tmp_path / "results" / "original.pt"
    saved = torch.load(path, weights_only=True)
    assert saved["classes"] == ["cats", "dogs"]
    assert saved["image_size"] == 32
    assert saved["model"] == "resnet18"
    network, _ = runs.load_network(path, small.initialize_model)
    assert equal(network.state_dict(), saved["state_dict"])
    assert not network.training
    config = SimpleNamespace(image_size=64, model="resnet18")
    with fails("image_size changed since section 6 made .*: run from there"):
        runs.load_network(path, small.initialize_model, config)


def test_a_repeat_that_is_not_run_cannot_be_the_one_that_is_kept(small, split, tmp_path):
    job = {"arm": "original", "seed": 7, "folder": split, "save_as": None}
    with fails("KEPT_REPEAT counts from 0: it must be less than repeats"):
        list(runs.run_all(small.run_arm, [job], SimpleNamespace(), tmp_path))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def test_a_malicious_or_other_file_is_no_network_and_runs_nothing(small, tmp_path):
    path = tmp_path / "a.pt"
    trap = tmp_path / "trapped"
    about = {"classes": ["a", "b"], "model": "resnet18", "image_size": 32}
    malicious = {**about, "state_dict": {}, "classes": Trap(trap)}
    other = {**about, "state_dict": nn.Linear(2, 2).state_dict()}
    refused = re.escape(f"{path}: no network of this notebook; section 6 makes it")
    with fails(refused):
        # there is no such file
        runs.load_network(path, small.initialize_model)
    for content in (malicious, other, [1.0], about, {}, None):
        torch.save(content, path)
        with fails(refused):
            runs.load_network(path, small.initialize_model)
    for content in (pickle.dumps(malicious), b"", b"text"):
        path.write_bytes(content)
        with fails(refused):
            runs.load_network(path, small.initialize_model)
    assert not trap.exists()


def make_finished(**changes):
    """Return a finished run of three photos."""
    run = {
        "arm": "original",
        "seed": 7,
        "losses": [0.5],
        "steps": 1,
        "seconds": 1.25,
        "names": ["cats", "dogs"],
        "paths": ["cats/1.jpg", "cats/2.jpg", "dogs/1.jpg"],
        "labels": np.array([0, 0, 1]),
        "probabilities": np.array([[0.75, 0.25], [0.4, 0.6], [0.1, 0.9]], dtype=np.float32),
        "network": {"class": "ResNet", "weights": 10},
        "scores": {"accuracy": 2 / 3},
        "train_accuracy": 0.75,
        "config": {"num_epochs": 1},
    }
    return run | changes


def test_results_are_a_row_for_each_test_and_what_each_run_scored(tmp_path):
    scores = {"accuracy": np.float64(0.5), "auc": float("nan"), "gain": float("inf"), "hits": 2}
    about = {"environment": {"device": "cpu"}}
    finished = [make_finished(), make_finished(seed=8, scores=scores)]
    table = runs.save_results(tmp_path, about, finished, given_up={"mixed": "why"})
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["arm", "seed", "path", "label", "prediction", "probability"]
    assert rows[2] == ["original", "7", "cats/2.jpg", "cats", "dogs", "0.6"]
    assert len(rows) == 1 + len(table) == 7
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    # what is not finite is null
    assert metrics["arms"]["original"]["runs"][1] == {
        "seed": 8,
        "accuracy": 0.5,
        "auc": None,
        "gain": None,
        "hits": 2,
        "train_accuracy": 0.75,
        "loss": [0.5],
        "steps": 1,
        "seconds": 1.2,
    }
    assert metrics["environment"] == {
        "device": "cpu",
        "network": {"class": "ResNet", "weights": 10},
    }
    assert metrics["failed"] == {"mixed": "why"}
    assert metrics["config"] == {"num_epochs": 1}
    assert "torch==" in (tmp_path / "versions.txt").read_text()
    assert "environment" not in about["environment"]


@pytest.mark.parametrize("name", ["loss", "seed", "steps", "seconds", "train_accuracy"])
def test_a_score_under_a_name_that_is_taken_is_one_line(name):
    with fails(f"evaluate_model: the name {name} is taken, choose another"):
        runs.check_scores({"accuracy": 0.5, name: 0.5})


@pytest.mark.parametrize("value", [None, "high", [0.5, 0.6]])
def test_a_score_that_is_no_number_is_one_line(value):
    with fails("evaluate_model: auc must be a number"):
        runs.check_scores({"auc": value})


def test_progress_adds_a_line_per_epoch_to_the_log(tmp_path, capsys):
    save_photo(tmp_path / "a.png", 1)
    report = runs.show_progress("mixed, seed 1", tmp_path / "run.log")
    for done, losses in ((1, []), (2, []), (2, [0.75]), (3, [0.75]), (4, [0.75, 0.5])):
        report(done, 4, losses)
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert len(lines) == 2
    assert "mixed, seed 1: 4/4 steps, loss 0.5000" in lines[1]
    assert len(capsys.readouterr().out.splitlines()) == 2
