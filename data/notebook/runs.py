"""Runs on disk: recalled, gone on with, trained here or on a cluster, and the files of results.

A run is one arm in one repeat. It is on disk the moment it ends, and is recalled, not trained
again, while all that it follows from is the same (see recall.py).
"""

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import distributions, version
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import torch

from data.check import find_test_photos
from data.files import InputError, claim, how_many, write_whole
from data.images import find_images, read_copy
from data.notebook.devices import choose_device, memory_for_training, name_precision
from data.notebook.recall import digest_images, key_of_run
from data.prepare import Prepared, count_images
from data.workers import cluster

# a state of ResNet-50 with Adam is 282 MB
SECONDS_BETWEEN_STATES = 60
# folders that the project makes itself: no test photo lies in them
OWN_FOLDERS = {"train", "train_aug"}
# what metrics.json says of a run beside its scores
RESERVED_NAMES = {"seed", "loss", "steps", "seconds", "train_accuracy"}


class Checkpoint:
    """The state of a run that is being trained, on disk at most once in `every` seconds.

    Without a path it only counts the seconds.
    """

    def __init__(
        self,
        path: Path | None = None,
        every: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.path = path
        self.every = every
        self.clock = clock
        self.seconds_before = 0.0
        self.started = clock()
        self.written = self.started

    @property
    def seconds(self) -> float:
        """The seconds of training so far, those before a stop included."""
        return self.seconds_before + self.clock() - self.started

    def restore(self, **parts) -> list[float]:
        """Give the parts (model, optimizer, …) the state that a stopped run left.

        Returns:
            The losses of the epochs that are done; [] where there is no such state.
        """
        self.started = self.clock()
        self.written = self.started
        saved = self._read(parts)
        if saved is None:
            return []
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        restore_generators(saved["generators"])
        self.seconds_before = saved["seconds"]
        return saved["losses"]

    def save(self, losses: list[float], **parts) -> None:
        """Write the state after an epoch, if the last one is old enough."""
        if self.path is None or self.clock() - self.written < self.every:
            return
        state = {name: part.state_dict() for name, part in parts.items()}
        state["losses"] = losses
        state["seconds"] = self.seconds
        state["generators"] = read_generators()
        save_tensors(self.path, state)
        self.written = self.clock()

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)

    def _read(self, parts: dict) -> dict | None:
        if self.path is None or not self.path.exists():
            return None
        saved = load_tensors(self.path)
        expected = {*parts, "losses", "seconds", "generators"}
        if isinstance(saved, dict) and set(saved) == expected:
            return saved
        print(f"{self.path}: a state that cannot be read; this run begins anew")
        return None


def read_generators() -> dict:
    """Return the states of torch's random generators, from which dropout draws."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.mps.device_count() > 0:
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_generators(states: dict) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def save_tensors(path: Path, content: object) -> None:
    """Write what `torch.load(path, weights_only=True)` reads, whole or not at all."""
    file = io.BytesIO()
    torch.save(content, file)
    write_whole(path, file.getbuffer())


def load_tensors(path: Path) -> object:
    """Return what a file of tensors holds; None if it cannot be read, or holds anything else."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception:
        # damaged in whatever way: torch raises a dozen kinds
        return None


def save_network(
    path: Path, model: torch.nn.Module, names: list[str], config: SimpleNamespace
) -> None:
    """Keep a trained network for sections 9 and 10: its weights, and what they were made for."""
    content = {
        "state_dict": {name: tensor.cpu() for name, tensor in model.state_dict().items()},
        "classes": names,
        "image_size": config.image_size,
        "model": config.model,
    }
    save_tensors(path, content)


def load_network(
    path: Path, initialize_model: Callable, config: SimpleNamespace | None = None
) -> tuple[torch.nn.Module, dict]:
    """Return the network that a run kept, ready to be asked, and what was kept with it.

    Args:
        config: settings that it has to be of; None: any.

    Raises:
        InputError: there is none, or one that `initialize_model` or the settings do not make.
    """
    saved = load_tensors(path)
    try:
        network = initialize_model(len(saved["classes"]), seed=0, name=saved["model"])
        network.load_state_dict(saved["state_dict"])
        int(saved["image_size"])
    except (TypeError, KeyError, RuntimeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: no network of this notebook; section 6 makes it") from error
    if config is not None:
        for name in ("image_size", "model"):
            if saved[name] != getattr(config, name):
                raise InputError(f"{name} changed since section 6 made {path}: run from there")
    return network.eval(), saved


def describe_network(model: torch.nn.Module) -> dict:
    """Return the network's class, and how many of its weights are trained."""
    weights = 0
    for tensor in model.parameters():
        if tensor.requires_grad:
            weights += tensor.numel()
    return {"class": type(model).__name__, "weights": weights}


def show_progress(name: str, log: Path) -> Callable[[int, int, list[float]], None]:
    """Return a function to be called with (steps done, steps in all, losses of the epochs so far).

    It keeps one line in the notebook up to date, and adds a line per epoch to the file `log`.
    """
    line = display_line(name)
    start = time.monotonic()
    first_step = None
    shown = 0.0
    epochs = None

    def report(done: int, steps: int, losses: list[float]) -> None:
        nonlocal first_step, shown, epochs
        if first_step is None:
            # a run that goes on starts late
            first_step = done
            epochs = len(losses)
        seconds = time.monotonic() - start
        seconds_left = seconds / (done - first_step + 1) * (steps - done)
        loss = f"loss {losses[-1]:.4f}, " if losses else ""
        text = f"{name}: {done}/{steps} steps, {loss}{seconds:.0f} s, {seconds_left:.0f} s left"
        if line is not None and (seconds - shown > 0.5 or done == steps):
            shown = seconds
            line.update({"text/plain": text}, raw=True)
        if len(losses) > epochs:
            epochs = len(losses)
            if line is None:
                print(text, flush=True)
            # a disk that is full must not cost the run
            with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
                file.write(f"{time.ctime()}, {text}\n")

    return report


def show_steps() -> Callable[[str, int, int], None]:
    """Return a function to be called with (what is done, how much of it, of how much).

    It keeps one line in the notebook up to date.
    """
    line = display_line("")
    shown = -1.0

    def progress(step: str, done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if line is not None and (now - shown > 0.5 or done == total):
            shown = now
            line.update({"text/plain": f"{step}: {done} of {total}"}, raw=True)

    return progress


def display_line(text: str) -> object | None:
    """Show a line in the notebook; return its handle, or None where there is no notebook."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        return None
    return ipython.display.display({"text/plain": text}, raw=True, display_id=True)


def run_all(
    run_arm: Callable,
    jobs: list[dict],
    config: SimpleNamespace,
    results: Path,
    prepared: Prepared | None = None,
) -> Iterator[dict]:
    """Yield every job's run: recalled, or made by `run_arm` here or on a Dask cluster.

    The environment variable SCHEDULER names the cluster's address. A run is a dictionary of what
    `run_arm` returned, with "arm" and "seed". One that could not be trained has a "problem" in one
    line instead; further runs of its arm are not begun.

    Args:
        jobs: arguments of `run_arm` for each run: arm, seed, folder, save_as.
        prepared: that the folders are of; None: it is not checked that they still are.

    Raises:
        InputError: settings or photos changed since the folders were prepared, an arm's pictures
            cannot be used, or none of the arms can be trained.
    """
    page = run_arm.__globals__
    arms = page["ARMS"]
    recorded = vars(config)
    if not any(job["save_as"] for job in jobs):
        raise InputError("KEPT_REPEAT counts from 0: it must be less than repeats")
    # a cluster's workers have a working directory of their own
    jobs = [{**job, "folder": job["folder"].resolve()} for job in jobs]
    if prepared is not None:
        prepared.check_unchanged(recorded)
    for job in jobs:
        check_job(job, config)
        check_pictures(job["arm"], arms[job["arm"]], job["folder"])
    for folder in sorted({job["folder"] for job in jobs}):
        check_copies(folder, config, list(page["OPERATIONS"]))
    # the workers of a cluster compute as this notebook does
    device = choose_device(config.device)
    threads = torch.get_num_threads()
    config = SimpleNamespace(**vars(config) | {"device": str(device)})
    environment = [str(device), name_precision(device), threads]

    digests = {}
    given_up = set()
    has_network = set()
    kept_seeds = {job["seed"] for job in jobs if job["save_as"]}
    # the first repeat's folder holds those of all others
    data = min(job["folder"] for job in jobs)
    address = os.environ.get("SCHEDULER")
    with contextlib.ExitStack() as claims:
        # one notebook at a time in a folder, and no augment.py among its copies
        for place in (data, results, *sorted({job["folder"] / "train_aug" for job in jobs})):
            claims.enter_context(claim(place))
        send = claims.enter_context(cluster(address))

        def tasks():
            for job in jobs:
                if job["arm"] in given_up:
                    continue
                pictures = find_pictures(arms[job["arm"]], job["folder"], digests)
                key = key_of_run(
                    run_arm=run_arm,
                    arm=job["arm"],
                    seed=job["seed"],
                    pictures=pictures,
                    config=config,
                    environment=environment,
                )
                task = joblib.delayed(send(make_run))
                yield task(send(run_arm), job, key, config, results, threads)

        for run in joblib.Parallel(return_as="generator")(tasks()):
            if "problem" in run:
                given_up.add(run["arm"])
            elif run["seed"] in kept_seeds:
                has_network.add(run["arm"])
            if run["arm"] in given_up - has_network:
                # of an earlier run
                (results / f"{run['arm']}.pt").unlink(missing_ok=True)
            yield {**run, "config": recorded}
    if given_up == {job["arm"] for job in jobs}:
        raise InputError("no arm could be trained")


def check_job(job: dict, config: SimpleNamespace) -> None:
    """Raise InputError where a run was listed under settings that have changed since."""
    last_seed = config.seed + config.repeats - 1
    if job["arm"] in config.arms.split(",") and config.seed <= job["seed"] <= last_seed:
        return
    raise InputError("the settings changed since the runs were listed: run from section 3 on")


def find_folders(plan: dict, folder: Path) -> list[str]:
    """Return the folders of images that an arm's row names, and that of the test."""
    named = [value for value in plan.values() if (folder / value).is_dir()]
    return sorted({*named, "test"})


def find_pictures(plan: dict, folder: Path, digests: dict) -> dict[str, str]:
    """Return {path: digest} of the pictures that an arm reads; `digests` remembers folders."""
    pictures = {}
    for part in find_folders(plan, folder):
        place = folder / part
        if place not in digests:
            digests[place] = digest_images(place)
        for path, digest in digests[place].items():
            pictures[f"{part}/{path}"] = digest
    return pictures


def check_copies(folder: Path, config: SimpleNamespace, operations: list[str]) -> None:
    """Raise InputError where train_aug/ does not hold the copies that the settings ask for.

    Args:
        operations: all that augment.py knows.
    """
    place = folder / "train_aug"
    photos = count_images(folder / "train")
    expected = {name: config.copies * count for name, count in photos.items()}
    if count_images(place) != expected:
        raise InputError(
            f"{place}: not {config.copies} copies of each photo of train: run section 4 again, and "
            "move away what augment.py did not make"
        )
    asked_for = sorted(config.operations.split(",") if config.operations else operations)
    files = [file for found in find_images(place).values() for file in found]
    # made in this order: where both ends are right, so is what lies between
    for file in files[:1] + files[-1:]:
        made_with = sorted(read_copy(file).get("among", operations))
        if made_with != asked_for:
            raise InputError(
                f"{place}: copies made with {', '.join(made_with)}, and not with "
                f"{', '.join(asked_for)}: run section 4 again"
            )


def check_pictures(arm: str, plan: dict, folder: Path) -> None:
    """Raise InputError where an arm would learn other classes than the test's, or a test photo."""
    test = folder / "test"
    classes = list(count_images(test))
    for part in find_folders(plan, folder):
        if part in OWN_FOLDERS or part == "test":
            continue
        found = list(count_images(folder / part))
        if found != classes:
            raise InputError(
                f"arm {arm}: {folder / part} has the classes {', '.join(found)}, the test "
                f"{', '.join(classes)}: give both the same folders"
            )
        pairs = find_test_photos(folder / part, test)
        if pairs:
            own, tested = pairs[0]
            raise InputError(
                f"arm {arm}: {how_many(len(pairs), 'of its pictures is', 'of its pictures are')} "
                f"tested as well, such as {own} ({tested}): take them out of {folder / part}"
            )


def make_run(
    run_arm: Callable, job: dict, key: str, config: SimpleNamespace, results: Path, threads: int
) -> dict:
    """Make a run, or recall it; where it is made, its state is kept up to date meanwhile."""
    # a worker of a cluster would take another number, and round differently
    torch.set_num_threads(threads)
    arm = job["arm"]
    seed = job["seed"]
    record = results / "runs" / f"{arm}-{seed}-{key}.json"
    recalled = read_record(record, kept_as=job["save_as"])
    if recalled is not None:
        return recalled

    checkpoint = Checkpoint(record.with_suffix(".pt"), every=SECONDS_BETWEEN_STATES)
    delete_other_states(checkpoint.path, prefix=f"{arm}-{seed}-")
    report = show_progress(f"{arm}, seed {seed}", log=results / "run.log")
    try:
        with memory_for_training(config.image_size):
            run = run_arm(**job, config=config, checkpoint=checkpoint, report=report)
        if not np.isfinite(run["probabilities"]).all():
            raise InputError("the network's answers are no numbers; lower learning_rate")
    except InputError as error:
        return {"arm": arm, "seed": seed, "problem": f"{arm}, seed {seed}: {error}"}
    write_record(record, {"arm": arm, "seed": seed, **run}, kept_as=job["save_as"])
    checkpoint.delete()
    return read_record(record, kept_as=job["save_as"])


def delete_other_states(path: Path, prefix: str) -> None:
    """Sweep up the states that the same run left under other settings."""
    for other in path.parent.glob("*.pt"):
        if other.name.startswith(prefix) and other != path:
            other.unlink(missing_ok=True)


def write_record(path: Path, run: dict, kept_as: Path | None) -> None:
    """Write a finished run as JSON, with the digest of its network where that is kept."""
    content = {}
    for name, value in run.items():
        content[name] = value.tolist() if isinstance(value, np.ndarray) else value
    content["network_digest"] = digest_file(kept_as)
    write_whole(path, json.dumps(content))


def read_record(path: Path, kept_as: Path | None) -> dict | None:
    """Return a finished run; None if there is none, or its network is not what it was."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if kept_as is not None and run["network_digest"] != digest_file(kept_as):
        return None
    for name, value in run.items():
        if name.endswith("labels"):
            run[name] = np.array(value)
        elif name.endswith("probabilities"):
            run[name] = np.array(value, dtype=np.float32)
    return run


def digest_file(path: Path | None) -> str | None:
    """Return the SHA-256 of a file; None if there is none."""
    if path is None or not path.exists():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tabulate_predictions(runs: Iterable[dict]) -> pd.DataFrame:
    """Return the table of predictions.csv: a row per test image, arm and repeat."""
    tables = []
    for run in runs:
        names = np.array(run["names"])
        predicted = run["probabilities"].argmax(axis=1)
        confidence = run["probabilities"].max(axis=1).astype(float)
        table = {
            "arm": run["arm"],
            "seed": run["seed"],
            "path": run["paths"],
            "label": names[run["labels"]],
            "prediction": names[predicted],
            "probability": confidence.round(6),
        }
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def tabulate_run(run: dict) -> dict:
    """Return what metrics.json says of a run."""
    scores = check_scores(run["scores"])
    return {
        "seed": run["seed"],
        **scores,
        "train_accuracy": float(run["train_accuracy"]),
        "loss": run["losses"],
        "steps": run["steps"],
        "seconds": round(run["seconds"], 1),
    }


def check_scores(scores: dict) -> dict[str, float | None]:
    """Return scores as JSON can hold them; what is not finite becomes None.

    Raises:
        InputError: a name is taken, or a value is no number.
    """
    checked = {}
    for name, value in scores.items():
        if name in RESERVED_NAMES:
            raise InputError(f"evaluate_model: the name {name} is taken, choose another")
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise InputError(f"evaluate_model: {name} must be a number, not {value!r}") from None
        checked[name] = number if math.isfinite(number) else None
    return checked


def describe_environment(device_name: str) -> dict:
    """Return what metrics.json says of what computes: versions, device and precision."""
    device = choose_device(device_name)
    versions = {name: version(name) for name in ("torch", "torchvision", "augly")}
    return {
        "python": sys.version.split()[0],
        **versions,
        "device": str(device),
        "precision": name_precision(device),
    }


@functools.cache
def list_versions() -> str:
    """Return the exact version of every installed package, a line each, as pip freeze does."""
    lines = set()
    for package in distributions():
        lines.add(f"{package.metadata['Name']}=={package.version}")
    return "\n".join(sorted(lines, key=str.lower)) + "\n"


def save_results(
    results: Path,
    about: dict,
    runs: list[dict],
    summaries: dict[str, dict] | None = None,
    comparisons: Iterable[dict] = (),
    baselines: dict[str, dict] | None = None,
    given_up: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Write metrics.json and predictions.csv; return the predictions as a table.

    Args:
        about: what metrics.json says of data set and environment.
        runs: one at least, with their "scores" and "train_accuracy".
        summaries: {arm: {score: {"mean", "low", "high"}}}.
        baselines: likewise, of what networks are compared with.
        given_up: {arm: why}.
    """
    environment = {**about["environment"], "network": runs[0]["network"]}
    arms = {}
    for run in runs:
        entry = arms.setdefault(run["arm"], {"runs": []})
        entry["runs"].append(tabulate_run(run))
    for arm, summary in (summaries or {}).items():
        arms[arm]["summary"] = summary
    predictions = tabulate_predictions(runs)
    table = predictions.to_csv(index=False, lineterminator="\n")
    metrics = {
        **about,
        # those that were trained with, should the settings' cell have been edited since
        "config": runs[0]["config"],
        "environment": environment,
        "arms": arms,
        "comparison": list(comparisons),
        "baselines": baselines or {},
        "failed": given_up or {},
    }
    write_whole(results / "predictions.csv", table)
    write_whole(results / "versions.txt", list_versions())
    write_whole(results / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False))
    return predictions
