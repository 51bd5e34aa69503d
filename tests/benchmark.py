"""How fast the notebook trains here, against the plain tutorial loop and other libraries.

    python tests/benchmark.py [--photos FOLDER_OR_ZIP] [--peers] [--quick] [--only step,gate] …

One run, ratios: seconds differ from machine to machine, and on one machine from hour to hour, so
everything compared is measured in turns, and what counts is the median of the ratios per round.
A part that fails is printed as such and costs none of the others. The parts:

    calibrate  what the machine can do: matrix products, memory copies, JPEG decoding
    step       one training step, from the plain loop to the notebook's, one change at a time
    gate       the fast loop learns what the plain one in float32 learns
    cold       a whole run in a new process, from import to the test's figures
    linear     twice the images, twice the time; with --large memory at 25,000 images
    augment    augment.py against a loop that decodes the source for every copy
    peers      fastai, Lightning, timm, Keras and torchvision's script (with --peers only)
"""

import argparse
import contextlib
import csv
import importlib.metadata
import io
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import resnet50

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

BATCH = 32
# Of ResNet-50 at 224 px, per image. A forward pass takes 4.09 G multiply-adds = 8.18 GFLOP (its 53
# convolutions summed up); backward takes as much twice, but the first layer needs no gradient of
# its input. Memory traffic: activations of all convolutions, batch norms, ReLUs and sums, each
# read and written once as bfloat16, forward and backward. Both grow with the number of pixels.
GFLOP_PER_IMAGE, MB_PER_IMAGE = 24.3, 471
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_notebook() -> SimpleNamespace:
    from conftest import define_notebook  # not at the top: the plain loop starts without it

    return define_notebook()


# ------------------------------------------------------------------------------------- measuring


class Worker:
    """A process that runs one call at a time and keeps what the calls put into `RUNNING`.

    Whether freed memory goes back to the system is a property of the process, and a heap keeps
    its shape: loops with and without that setting are measured in different ones.
    """

    def __init__(self, keep: bool = False):
        self.keep = keep
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        setting = (keep_pages,) if self.keep else ()
        self.pool = ProcessPoolExecutor(1, context, *setting)

    def __call__(self, function: Callable, *arguments):
        try:
            return self.pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            self.start()
            raise


def keep_pages() -> None:
    """As the notebook does: have glibc keep freed memory instead of giving it back."""
    if platform.libc_ver()[0] == "glibc":
        import ctypes

        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def page_faults() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class Clock:
    """Called after every step; measures from the first call to call number `steps` + 1."""

    def __init__(self, steps: int, device: str):
        self.steps, self.device, self.calls, self.marks = steps, device, 0, []

    def __call__(self, *_) -> None:
        if self.calls in (0, self.steps):
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
            self.marks.append((time.perf_counter(), page_faults()))
        self.calls += 1

    def per_step(self) -> tuple[float, float]:
        (start, faults), (end, more) = self.marks
        return (end - start) / self.steps, (more - faults) / self.steps


RUNNING: dict[str, Callable] = {}  # in a worker: competitor -> run(steps, tick)


def time_steps(name: str, config: SimpleNamespace) -> tuple[float, float]:
    """Return seconds and page faults per step of one competitor; built at its first call."""
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        if name not in RUNNING:
            RUNNING[name] = build(name, config)
        clock = Clock(config.steps, config.device)
        RUNNING[name](config.steps, clock)
    return clock.per_step()


def build(name: str, config: SimpleNamespace) -> Callable:
    """Return run(steps, tick): train, and call tick before the first timed step and after each."""
    if name in LADDER:
        return from_generator(ladder_steps(LADDER[name], config))
    if name == BARE:
        return from_generator(bare_steps(config))
    if name in PEERS:
        return PEERS[name](config)
    return notebook_steps(config, full_precision=name == FULL)


def interleave(jobs: dict[str, Callable], rounds: int) -> tuple[dict, dict]:
    """Run every job once per round; return {name: results} and {name: first line of its error}."""
    results, errors = {name: [] for name in jobs}, {}
    for number in range(rounds):
        for name in list(jobs)[:: -1 if number % 2 else 1]:
            if name not in errors:
                try:
                    results[name].append(jobs[name]())
                except Exception as error:
                    errors[name] = first_line(error)
        print(f"  round {number + 1} of {rounds} done", file=sys.stderr)
    return {name: result for name, result in results.items() if name not in errors}, errors


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def ratio(a: list[float], b: list[float]) -> dict:
    """Return the median, the least and the greatest of a/b per round."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def show(value: dict, digits: int = 2) -> str:
    return "{median:.{d}f} ({low:.{d}f}–{high:.{d}f})".format(**value, d=digits)


# ------------------------------------------------------------------------------------- calibrate


def calibrate(config: SimpleNamespace) -> dict:
    """Return what the machine is and its rates: GFLOP/s, GB/s (read + written), decoded images."""
    nb, device = load_notebook(), torch.device(config.device)
    fast = nb.precision(device)
    files = [path for path, _ in ImageFolder(config.data / "train").samples][:64]
    copy = torch.ones(2**26 if config.quick else 2**28, device=device)  # 1 GB
    rates = {"float32": matmul_rate(torch.float32, config)}
    if fast != torch.float32:  # where it is emulated it would take minutes
        rates["fast"] = matmul_rate(fast, config)
    return {
        "machine": machine_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "threads": torch.get_num_threads(),
        "fast precision": str(fast).removeprefix("torch."),
        "matmul GFLOP/s": rates,
        "copy GB/s": 2 * copy.nbytes / 1e9 / seconds_of(copy.clone().copy_, device, copy),
        "decode images/s": len(files)
        / seconds_of(lambda: [nb.decode_image(path, config.size) for path in files], device),
    }


def machine_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return platform.processor()


def matmul_rate(dtype: torch.dtype, config: SimpleNamespace) -> float:
    size = 1024 if config.quick else 4096
    a = torch.randn(size, size, device=config.device).to(dtype)
    return 2 * size**3 / 1e9 / seconds_of(torch.mm, torch.device(config.device), a, a)


def seconds_of(function: Callable, device: torch.device, *arguments) -> float:
    """Return the median time of five calls after one that is not counted."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        function(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


# ------------------------------------------------------------------------------------------ step


@dataclass(frozen=True)
class Loop:
    """A training loop between the plain one and the notebook's."""

    decode_once: bool = False
    channels_last: bool = False
    autocast: bool = False
    fused: bool = False
    no_item: bool = False
    keep: bool = False


CHANGES = {
    "images decoded once": "decode_once",
    "channels last": "channels_last",
    "fast precision": "autocast",
    "fused Adam": "fused",
    "no .item() per step": "no_item",
    "memory pages kept": "keep",
}
PLAIN, OURS = "plain tutorial loop", "notebook's train_model"
FULL, BARE = "notebook's, in float32", "bare step"
LADDER = {PLAIN: Loop()}
for _name, _flag in CHANGES.items():
    LADDER[_name] = replace(list(LADDER.values())[-1], **{_flag: True})


def from_generator(steps: Iterator) -> Callable:
    next(steps)  # builds everything and trains one step that nobody times

    def run(count: int, tick: Callable) -> None:
        tick()
        for _ in range(count):
            next(steps)
            tick()

    return run


def tutorial_loader(folder: Path, size: int, shuffle: bool, **options) -> DataLoader:
    """Every tutorial's loader: JPEG files are decoded again in every epoch."""
    steps = transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)
    images = ImageFolder(folder, transforms.Compose(steps))
    return DataLoader(images, BATCH, shuffle=shuffle, **options)


def normalise(images: torch.Tensor) -> torch.Tensor:
    return transforms.functional.normalize(images.float() / 255, MEAN, STD)


def ladder_steps(loop: Loop, config: SimpleNamespace) -> Iterator:
    """Train for ever, whole batches only; yield after every step."""
    nb, device = load_notebook(), torch.device(config.device)
    layout = torch.channels_last if loop.channels_last else torch.contiguous_format
    if loop.decode_once:
        loader = nb.load_dataset(config.train, config.size, BATCH, True, device=device)
    else:
        loader = tutorial_loader(config.train, config.size, shuffle=True, drop_last=True)
    model = nb.initialize_model(2, 0).to(device, memory_format=layout).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=loop.fused or None)
    criterion, total = nn.CrossEntropyLoss(), 0.0
    for images, labels in itertools.chain.from_iterable(itertools.repeat(loader)):
        if len(images) < BATCH:
            continue
        images, labels = images.to(device), labels.to(device)
        images = normalise(images) if loop.decode_once else images
        with nb.autocast(device) if loop.autocast else contextlib.nullcontext():
            loss = criterion(model(images.contiguous(memory_format=layout)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() if loop.no_item else loss.item()
        yield


def notebook_steps(config: SimpleNamespace, full_precision: bool = False) -> Callable:
    """The notebook's own `train_model`; its first step makes Adam's state and is not timed."""
    nb, device = load_notebook(), torch.device(config.device)
    if full_precision:
        nb.globals["precision"] = lambda device: torch.float32
    loader = nb.load_dataset(config.train, config.size, BATCH, True, device=device)
    whole = len(loader.dataset) // BATCH * BATCH  # whole batches only
    loader.dataset.images, loader.dataset.samples = (
        values[:whole] for values in (loader.dataset.images, loader.dataset.samples)
    )
    model = nb.initialize_model(2, 0).to(device)

    def run(steps: int, tick: Callable) -> None:
        before = 0

        def progress(done: int, *_) -> None:
            nonlocal before
            if done > before:  # an epoch's end reports its last step once more
                tick()
            before = done

        nb.train_model(model, loader, max_steps=steps + 1, progress=progress)

    return run


def bare_steps(config: SimpleNamespace) -> Iterator:
    """Forward, backward and optimiser on one prepared batch: what no loop can do without."""
    nb, device = load_notebook(), torch.device(config.device)
    images, labels = next(iter(nb.load_dataset(config.train, config.size, BATCH, True)))
    images, labels = nb.to_device(images, device), labels.to(device)
    model = nb.initialize_model(2, 0).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    criterion = nn.CrossEntropyLoss()
    while True:
        with nb.autocast(device):
            loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def measure_steps(config: SimpleNamespace) -> dict:
    """Time a step of every loop in turns; return what the report needs of each."""
    fresh, keeping = Worker(), Worker(keep=True)
    names = [*LADDER, OURS, BARE, FULL]
    kept = {"memory pages kept", OURS, BARE, FULL}
    jobs = {
        name: partial(keeping if name in kept else fresh, time_steps, name, config)
        for name in names
    }
    results, errors = interleave(jobs, config.rounds)
    rows, before = {}, None
    for name, result in results.items():
        seconds, faults = map(list, zip(*result, strict=True))
        slow = name in list(LADDER)[: list(LADDER).index("fast precision")] or name == FULL
        rows[name] = describe(seconds, config, "float32" if slow else "fast")
        rows[name]["page faults/step"] = round(statistics.median(faults))
        if PLAIN in results:
            rows[name]["over plain"] = ratio([s for s, _ in results[PLAIN]], seconds)
        if before and name in [*LADDER, OURS]:
            rows[name]["over previous"] = ratio(before, seconds)
        before = seconds
    if {OURS, BARE} <= set(results):
        ours, bare = ([s for s, _ in results[name]] for name in (OURS, BARE))
        rows[OURS]["over bare step"] = ratio(ours, bare)
    return {"rows": rows, "errors": errors}


def describe(seconds: list[float], config: SimpleNamespace, precision: str) -> dict:
    """Return the median step, its images per second and its share of what the machine can do."""
    step = statistics.median(seconds)
    pixels = (config.size / 224) ** 2
    if config.device.startswith("cuda"):
        share = BATCH / step * MB_PER_IMAGE * pixels / 1e3 / config.rates["copy GB/s"]
    else:
        rates = config.rates["matmul GFLOP/s"]
        share = BATCH * GFLOP_PER_IMAGE * pixels / step / rates.get(precision, rates["float32"])
    return {"s/step": step, "images/s": BATCH / step, "share of limit": share, "seconds": seconds}


# ------------------------------------------------------------------------------------------ gate


def train_plain(model: nn.Module, loader, epochs: int, prepare=lambda images: images) -> list:
    """The plain loop: float32, default layout and Adam; return the loss of every step."""
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    criterion, losses = nn.CrossEntropyLoss(), []
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(prepare(images.to(device)).contiguous()), labels.to(device))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@contextlib.contextmanager
def recorded_losses():
    """Collect the loss of every step, whoever computes it, without touching its loop."""
    losses = []

    def keep(module, _, output):
        if isinstance(module, nn.CrossEntropyLoss):
            losses.append(output.detach())

    handle = nn.modules.module.register_module_forward_hook(keep)
    yield losses
    handle.remove()


def gate(config: SimpleNamespace) -> dict:
    """Train plainly and with the notebook's loop from the same weights on the same batches.

    Passed if the two curves of a seed are on average no further apart (mean absolute difference
    over the steps) than the plain curves of two seeds, and if the interval of the paired
    difference in test accuracy holds 0.
    """
    from scipy.stats import ttest_1samp

    nb, device = load_notebook(), torch.device(config.device)
    images = nb.DecodedImages(config.train, config.gate_size)
    test = nb.load_dataset(config.gate_test, config.gate_size, 128)
    curves, accuracies = {"plain": [], "ours": []}, {"plain": [], "ours": []}
    for seed, kind in itertools.product(range(config.seeds), curves):
        loader = nb.load_dataset(images, batch_size=BATCH, shuffle=True, seed=seed)
        model = nb.initialize_model(2, seed).to(device)
        with recorded_losses() as losses:
            if kind == "plain":
                model.to(memory_format=torch.contiguous_format)
                train_plain(model, loader, config.gate_epochs, normalise)
            else:
                nb.train_model(model, loader, config.gate_epochs)
        curves[kind].append(torch.stack(losses).float().tolist())
        with contextlib.redirect_stdout(io.StringIO()):
            accuracies[kind].append(nb.evaluate_model(model, test)["accuracy"])
    same = list(map(apart, curves["plain"], curves["ours"]))
    other = [apart(a, b) for a, b in itertools.combinations(curves["plain"], 2)]
    shifts = [b - a for a, b in zip(*accuracies.values(), strict=True)]
    low, high = ttest_1samp(shifts, 0).confidence_interval() if any(shifts) else (0.0, 0.0)
    result = {
        "steps": len(curves["ours"][0]),
        "loss apart, same seed": statistics.mean(same),
        "loss apart, other seed": statistics.mean(other),
        "accuracy": {kind: statistics.mean(values) for kind, values in accuracies.items()},
        "accuracy shift": {"median": statistics.mean(shifts), "low": low, "high": high},
        "test images": len(test.dataset),
    }
    passed = statistics.mean(same) <= statistics.mean(other) and low <= 0 <= high
    return result | {"passed": bool(passed), "curves": curves, "accuracies": accuracies}


def apart(a: list[float], b: list[float]) -> float:
    return statistics.mean(abs(x - y) for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------------ cold


def cold(config: SimpleNamespace) -> dict:
    """Run both whole programs in new processes; return their seconds, split, and the ratio."""
    runs = {}
    for kind in ("plain", "ours"):
        options = kind, config.data, config.size, config.epochs, config.device
        start = time.perf_counter()
        command = [sys.executable, __file__, "--child", *map(str, options)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        total = time.perf_counter() - start
        parts = json.loads(done.stdout.splitlines()[-1])
        runs[kind] = {"import": total - sum(parts.values())} | parts | {"total": total}
    return runs | {"ratio": runs["plain"]["total"] / runs["ours"]["total"]}


def cold_child(kind: str, data: str, size: str, epochs: str, device: str) -> None:
    """Train both arms and test them; print the seconds that each kind of work took."""
    spent = {"decode": 0.0, "train": 0.0, "evaluate": 0.0}
    program = {"plain": PlainProgram, "ours": NotebookProgram}[kind](int(size), device)

    def timed(part: str, function: Callable, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        spent[part] += time.perf_counter() - start
        return result

    for arm in ("train", "train_aug"):
        train, test = (
            timed("decode", program.load, Path(data, part), part != "test")
            for part in (arm, "test")
        )
        model = timed("train", program.model)
        timed("train", program.train, model, train, int(epochs))
        timed("evaluate", program.evaluate, model, test)
    print(json.dumps(spent))


class PlainProgram:
    """What a tutorial does; it decodes while it trains."""

    def __init__(self, size: int, device: str):
        self.size, self.device = size, torch.device(device)

    def load(self, folder: Path, shuffle: bool) -> DataLoader:
        return tutorial_loader(folder, self.size, shuffle)

    def model(self) -> nn.Module:
        model = resnet50(weights=None)
        model.fc = nn.Linear(model.fc.in_features, 2)
        return model.to(self.device)

    def train(self, model: nn.Module, loader: DataLoader, epochs: int) -> None:
        train_plain(model, loader, epochs)

    def evaluate(self, model: nn.Module, loader: DataLoader) -> None:
        model.eval()
        with torch.no_grad():
            for images, _ in loader:
                model(images.to(self.device)).argmax(1).tolist()


class NotebookProgram:
    """What the notebook does."""

    def __init__(self, size: int, device: str):
        keep_pages()
        self.nb, self.size, self.device = load_notebook(), size, torch.device(device)

    def load(self, folder: Path, shuffle: bool) -> DataLoader:
        return self.nb.load_dataset(folder, self.size, BATCH, shuffle, device=self.device)

    def model(self) -> nn.Module:
        return self.nb.initialize_model().to(self.device)

    def train(self, model: nn.Module, loader: DataLoader, epochs: int) -> None:
        self.nb.train_model(model, loader, epochs)

    def evaluate(self, model: nn.Module, loader: DataLoader) -> None:
        self.nb.evaluate_model(model, loader)


# ---------------------------------------------------------------------------------------- linear


def repeat_files(source: Path, target: Path, count: int) -> Path:
    """Fill `target` with `count` links to the images of `source`, class by class in turns."""
    samples = ImageFolder(source).samples
    for number, (path, _) in zip(range(count), itertools.cycle(samples), strict=False):
        link = target / Path(path).parent.name / f"{number}{Path(path).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, link)
    return target


def linear(config: SimpleNamespace) -> dict:
    """Compare the cost per image at 2,000 images with that at 200; batches of 40 fit both."""
    worker, counts = Worker(keep=True), config.counts
    folders = [repeat_files(config.train, config.work / str(count), count) for count in counts]
    jobs = {
        str(count): partial(worker, cost_per_image, folder, max(counts) // count, config)
        for count, folder in zip(counts, folders, strict=True)
    }
    results, errors = interleave(jobs, 3)
    if errors:
        raise RuntimeError(errors)
    (few_load, few_train), (many_load, many_train) = (
        map(list, zip(*results[str(count)], strict=True)) for count in counts
    )
    result = {"counts": counts, "size": config.gate_size}
    result["images/s"] = [1 / statistics.median(cost) for cost in (few_train, many_train)]
    result["training"] = ratio(few_train, many_train)
    result["loading"] = ratio(few_load, many_load)
    if config.large:
        folder = repeat_files(config.train, config.work / "large", config.large)
        result["large"] = {"images": config.large} | Worker(keep=True)(peak_memory, folder, config)
    return result


def cost_per_image(folder: Path, epochs: int, config: SimpleNamespace) -> tuple[float, float]:
    """Return the seconds per image of loading and of training."""
    nb, device = load_notebook(), torch.device(config.device)
    start = time.perf_counter()
    loader = nb.load_dataset(folder, config.gate_size, 40, shuffle=True, device=device)
    loaded = time.perf_counter()
    nb.train_model(nb.initialize_model().to(device), loader, epochs)
    images = len(loader.dataset)
    return (loaded - start) / images, (time.perf_counter() - loaded) / images / epochs


def peak_memory(folder: Path, config: SimpleNamespace) -> dict:
    """Load the images and train ten steps; return this process's peak memory in GB (Linux)."""
    status, peak, running = Path("/proc/self/status"), {"RssAnon": 0.0, "VmHWM": 0.0}, True

    def watch() -> None:
        while running:
            for line in status.read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]) / 1e6)
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        nb, device = load_notebook(), torch.device(config.device)
        before, room = peak["RssAnon"], nb.room_on("cpu") / 1e9
        loader = nb.load_dataset(folder, config.size, BATCH, shuffle=True, device=device)
        loaded = peak["RssAnon"]
        nb.train_model(nb.initialize_model().to(device), loader, max_steps=10)
    finally:
        running = False
        thread.join()
    size = loader.dataset.images.nbytes / 1e9
    return {"pixels": size, "room": room, "before": before, "loaded": loaded} | peak


# --------------------------------------------------------------------------------------- augment


def measure_augment(config: SimpleNamespace) -> dict:
    """Time augment.py's start and its work, with one and two workers, against a plain loop."""
    import augment

    source, device = config.data / "train", torch.device("cpu")
    command = [sys.executable, str(ROOT / "augment.py"), "--help"]
    start_up = seconds_of(
        lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), device
    )
    outputs = iter(config.work / f"augmented{number}" for number in itertools.count())

    def ours(workers: int) -> tuple[float, Path]:
        output = next(outputs)
        return augment.augment_folder(source, output, 3, workers=workers).seconds, output

    reference = ours(2)[1]  # its manifest says what the plain loop has to do
    jobs = {
        "1 worker": partial(ours, 1),
        "2 workers": partial(ours, 2),
        "plain loop": lambda: augment_plainly(source, reference, next(outputs)),
    }
    results, errors = interleave(jobs, 1 if config.quick else 3)
    if errors:
        raise RuntimeError(errors)
    copies = len(list(reference.rglob("*.jpg")))
    seconds = {name: [second for second, _ in result] for name, result in results.items()}
    half = [second / 2 for second in seconds["1 worker"]]
    return {
        "start-up s": start_up,
        "copies/s": {name: copies / statistics.median(value) for name, value in seconds.items()},
        "over plain loop": ratio(seconds["plain loop"], seconds["1 worker"]),
        "parallel efficiency": ratio(half, seconds["2 workers"]),
        "same pixels": same_pixels(*(result[-1][1] for result in results.values())),
    }


def augment_plainly(source: Path, reference: Path, output: Path) -> tuple[float, Path]:
    """Make the reference's copies again, one by one: decode, AugLy's operations, save."""
    import augly.image as imaugs
    from augly.utils import EMOJI_DIR
    from PIL import Image, ImageOps

    with open(reference / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    start = time.perf_counter()
    for row in rows:
        image = ImageOps.exif_transpose(Image.open(source / row["source"])).convert("RGB")
        for operation in json.loads(row["operations"]):
            parameters = dict(operation)
            name = parameters.pop("name")
            if "emoji" in parameters:
                parameters["emoji_path"] = f"{EMOJI_DIR}/{parameters.pop('emoji')}.png"
            image = getattr(imaugs, name)(image, **parameters)
        (output / row["copy"]).parent.mkdir(parents=True, exist_ok=True)
        image.save(output / row["copy"], quality=95)
    return time.perf_counter() - start, output


def same_pixels(first: Path, *others: Path) -> bool:
    from PIL import Image

    return all(
        Image.open(path).tobytes() == Image.open(other / path.relative_to(first)).tobytes()
        for path in first.rglob("*.jpg")
        for other in others
    )


# ----------------------------------------------------------------------------------------- peers

# Each gets whole batches of prepared float32 images, so that neither decoding nor collating is
# counted against it, and the network and the Adam that its own documentation would use. "Best"
# means every switch that it offers for this device and that is no change of its code.


def peer_batches(config: SimpleNamespace, steps: int) -> DataLoader:
    """Return a loader of `steps` + 1 batches of 32: the first step of every call is not timed."""
    nb = load_notebook()
    images, labels = next(iter(nb.load_dataset(config.train, config.size, BATCH, True)))
    batches = [list(range(len(images)))] * (steps + 1)
    return DataLoader(TensorDataset(normalise(images), labels), sampler=batches, batch_size=None)


def own_loop(make: Callable, config: SimpleNamespace) -> Callable:
    """Wrap step(images, labels) of a library whose loop is a script of its own."""
    loader, step = peer_batches(config, config.steps), make()
    device = torch.device(config.device)

    def run(_: int, tick: Callable) -> None:
        for images, labels in loader:
            step(images.to(device), labels.to(device))
            tick()

    return run


def torchvision_reference(config: SimpleNamespace, best: bool = False) -> Callable:
    """references/classification/train.py: three numbers read from the device in every step."""
    if best and not config.device.startswith("cuda"):
        raise RuntimeError("its --amp is for CUDA only: it has no switch for this device")

    def make() -> Callable:
        model = resnet50(weights=None, num_classes=2).to(config.device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
        criterion, meters = nn.CrossEntropyLoss(), {"loss": [], "acc1": [], "acc2": []}
        scaler = torch.amp.GradScaler("cuda") if best else None

        def step(images, labels):
            with torch.autocast("cuda", enabled=best):
                output = model(images)
                loss = criterion(output, labels)
            optimizer.zero_grad()
            if scaler:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()
                optimizer.step()
            with torch.inference_mode():
                hits = output.topk(2).indices == labels[:, None]
                accuracies = hits[:, :1].sum() / len(labels), hits.sum() / len(labels)
            for meter, value in zip(meters.values(), (loss, *accuracies), strict=True):
                meter.append(value.item())

        return step

    return own_loop(make, config)


def timm(config: SimpleNamespace, best: bool = False) -> Callable:
    """train.py: --amp --amp-dtype bfloat16 --channels-last --opt-kwargs fused=True at best."""
    from contextlib import nullcontext

    import timm
    from timm.optim import create_optimizer_v2

    def make() -> Callable:
        layout = torch.channels_last if best else torch.contiguous_format
        model = timm.create_model("resnet50", num_classes=2).train()
        model = model.to(config.device, memory_format=layout)
        options = {"fused": True} if best else {}
        optimizer = create_optimizer_v2(model, opt="adam", lr=0.001, weight_decay=0, **options)
        criterion, meter = nn.CrossEntropyLoss(), timm.utils.AverageMeter()
        kind = torch.device(config.device).type

        def step(images, labels):
            images = images.contiguous(memory_format=layout)
            with torch.autocast(kind, torch.bfloat16) if best else nullcontext():
                loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.update(loss.item(), len(images))

        return step

    return own_loop(make, config)


def fastai(config: SimpleNamespace, best: bool = False) -> Callable:
    """Learner.fit; its mixed precision is written for CUDA, so at best it has that only there."""
    from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner, OptimWrapper
    from fastai.callback import channelslast, fp16  # noqa: F401

    loader = peer_batches(config, config.steps)
    loaders = DataLoaders(loader, loader, device=config.device)
    model = resnet50(weights=None, num_classes=2)
    options = {"opt_func": partial(OptimWrapper, opt=torch.optim.Adam, fused=True)} if best else {}
    learner = Learner(loaders, model, CrossEntropyLossFlat(), **options)
    if best:
        learner.to_channelslast(use_amp=config.device.startswith("cuda"), amp_mode="bf16")

    class Tick(Callback):
        def after_batch(self):
            if self.training:
                self.tick()

    def run(_: int, tick: Callable) -> None:
        callback = Tick()
        callback.tick = tick
        learner.dls.valid.sampler = []  # no evaluation
        learner.fit(1, 0.001, cbs=[callback])

    return run


def lightning(config: SimpleNamespace, best: bool = False) -> Callable:
    """Trainer.fit; at best in bf16-mixed and barebones, on a channels-last model, fused Adam."""
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.criterion = (
                resnet50(weights=None, num_classes=2),
                nn.CrossEntropyLoss(),
            )
            if best:
                self.model.to(memory_format=torch.channels_last)

        def training_step(self, batch, _):
            images, labels = batch
            if best:
                images = images.contiguous(memory_format=torch.channels_last)
            return self.criterion(self.model(images), labels)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.001, fused=best or None)

        def on_train_batch_end(self, *_):
            self.tick()

    loader, module = peer_batches(config, config.steps), Classifier()
    options = {"precision": "bf16-mixed", "barebones": True} if best else {}
    options |= {"accelerator": "gpu" if config.device.startswith("cuda") else "cpu", "devices": 1}

    def run(_: int, tick: Callable) -> None:
        module.tick = tick
        with tempfile.TemporaryDirectory() as logs:
            trainer = lightning.Trainer(max_epochs=1, default_root_dir=logs, **options)
            trainer.fit(module, loader)

    return run


def keras(config: SimpleNamespace, best: bool = False) -> Callable:
    """Keras 3 on torch: Model.fit of its own ResNet-50 (NHWC); at best in mixed_bfloat16.

    Its ResNet-50 is the first version, which takes 6 % less arithmetic than torchvision's.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16" if best else "float32")
    size = config.size, config.size, 3
    model = keras.applications.ResNet50(weights=None, classes=2, input_shape=size)
    optimizer = keras.optimizers.Adam(0.001)
    model.compile(optimizer, loss="sparse_categorical_crossentropy")
    loader = peer_batches(config, config.steps)
    images, labels = loader.dataset.tensors
    loader.dataset.tensors = images.permute(0, 2, 3, 1).contiguous(), labels

    def run(_: int, tick: Callable) -> None:
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=tick)
        model.fit(loader, callbacks=[callback])

    return run


LIBRARIES = (fastai, lightning, timm, torchvision_reference, keras)
PEERS = {
    f"{library.__name__}, {kind}": partial(library, best=kind == "best")
    for library, kind in itertools.product(LIBRARIES, ("default", "best"))
}


def measure_peers(config: SimpleNamespace) -> dict:
    """Install the peers into an environment of their own and run them there beside the notebook."""
    folder = config.peers_env or config.work / "peers"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    pins = [
        f"{name}=={importlib.metadata.version(name).split('+')[0]}"
        for name in ("torch", "torchvision")
    ]
    pip = [str(python), "-m", "pip", "install", "--quiet", *pins]
    subprocess.run([*pip, "-r", str(ROOT / "tests" / "requirements.txt")], check=True)
    errors = {}
    for name in ("fastai", "lightning", "timm", "keras"):
        done = subprocess.run([*pip, name], capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
            errors[name] = f"not installed: {(lines or ['pip failed'])[0]}"
    order, answer = config.work / "order.json", config.work / "answer.json"
    order.write_text(json.dumps(vars(config), default=str))
    command = [str(python), __file__, "--peers-child", str(order), str(answer)]
    subprocess.run(command, check=True)
    result = json.loads(answer.read_text())
    result["not installed"] = errors
    return result


def peers_child(order: str, answer: str) -> None:
    """Time the peers and the notebook in turns; runs in the peers' environment."""
    config = SimpleNamespace(**json.loads(Path(order).read_text()))
    fresh, keeping = Worker(), Worker(keep=True)
    jobs = {OURS: partial(keeping, time_steps, OURS, config)}
    jobs |= {name: partial(fresh, time_steps, name, config) for name in PEERS}
    results, errors = interleave(jobs, config.rounds)
    seconds = {name: [second for second, _ in result] for name, result in results.items()}
    versions = {
        name: importlib.metadata.version(name)
        for name in ("torch", "torchvision", "fastai", "lightning", "timm", "keras")
        if importlib.util.find_spec(name)
    }
    result = {"versions": versions, "errors": errors, "rows": {}}
    for name, values in seconds.items():
        result["rows"][name] = {"s/step": statistics.median(values), "seconds": values}
        if OURS in seconds:
            result["rows"][name]["over ours"] = ratio(values, seconds[OURS])
    Path(answer).write_text(json.dumps(result))


# ---------------------------------------------------------------------------------------- report


def report_step(result: dict, config: SimpleNamespace) -> Iterator[str]:
    limit = "memory traffic" if config.device.startswith("cuda") else "matrix products"
    yield f"a step of {BATCH} images, {config.size} px; share of the measured rate of {limit}"
    yield f"  {'':24} s/step  images/s  share  faults    over previous       over plain"
    for name, row in result["rows"].items():
        gains = (show(row[key]) if key in row else "" for key in ("over previous", "over plain"))
        numbers = f"{row['s/step']:6.3f}  {row['images/s']:8.1f}  {row['share of limit']:5.0%}"
        yield "  {:24} {}  {:>6}  {:>16} {:>16}".format(
            name, numbers, row["page faults/step"], *gains
        )
    yield from report_errors(result["errors"])
    rows = result["rows"]
    if over := rows.get(OURS, {}).get("over plain"):
        yield goal("the step against the plain loop", show(over), over["median"] >= 4.5, "≥ 4.5")
    if over := rows.get(FULL, {}).get("over plain"):
        yield goal("the same without bfloat16", show(over), over["median"] >= 1.5, "≥ 1.5")
    if over := rows.get(OURS, {}).get("over bare step"):
        yield goal("loop over bare step", show(over, 3), over["median"] <= 1.02, "≤ 1.02")


def report_gate(result: dict, config: SimpleNamespace) -> Iterator[str]:
    yield (
        f"same results: {config.seeds} seeds, {result['steps']} steps at {config.gate_size} px, "
        f"tested on {result['test images']} images"
    )
    yield "  loss apart: {:.4f} with the same seed, {:.4f} with another in float32".format(
        result["loss apart, same seed"], result["loss apart, other seed"]
    )
    yield "  test accuracy: plain {plain:.3f}, ours {ours:.3f}".format(**result["accuracy"])
    shift = show(result["accuracy shift"], 3)
    yield goal("accuracy shift (95 % interval)", shift, result["passed"], "holds 0, losses closer")


def report_cold(result: dict, config: SimpleNamespace) -> Iterator[str]:
    yield f"cold start to figures, both arms, {config.epochs} epochs: seconds"
    for kind in ("plain", "ours"):
        yield f"  {kind:6}" + "".join(f"  {k} {v:.1f}" for k, v in result[kind].items())
    if config.epochs < 10:
        yield "  (a lower bound for 10 epochs: import, decoding and test weigh more in a short run)"
    yield goal("plain / ours", f"{result['ratio']:.2f}", result["ratio"] >= 4, "≥ 4")


def report_linear(result: dict, config: SimpleNamespace) -> Iterator[str]:
    few, many = result["counts"]
    yield f"{many} images against {few}, {result['size']} px"
    yield "  images/s in training: {1:.0f} against {0:.0f}".format(*result["images/s"])
    gain = result["training"]
    yield goal("training images/s", show(gain), 0.9 <= gain["median"] <= 1.1, "0.9–1.1")
    yield goal("loading images/s", show(result["loading"]), None, "")
    if large := result.get("large"):
        yield f"  {large['images']} images: " + ", ".join(
            f"{name} {value:.2f} GB" for name, value in large.items() if name != "images"
        )
        grown = large["loaded"] - large["before"]
        yield goal("memory for the images", f"{grown:.2f} GB", grown <= large["room"], "≤ room")


def report_augment(result: dict, config: SimpleNamespace) -> Iterator[str]:
    yield "augment.py: " + ", ".join(f"{k} {v:.0f} copies/s" for k, v in result["copies/s"].items())
    yield goal("start-up", f"{result['start-up s']:.2f} s", result["start-up s"] < 1, "< 1 s")
    over, efficiency = result["over plain loop"], result["parallel efficiency"]
    yield goal("1 worker against the loop", show(over), over["median"] > 1, "> 1")
    yield goal("2 workers' efficiency", show(efficiency), efficiency["median"] >= 0.9, "≥ 0.9")
    yield goal("same pixels", result["same pixels"], result["same pixels"], "yes")


def report_peers(result: dict, config: SimpleNamespace) -> Iterator[str]:
    yield "against other libraries, s/step and ratio to ours"
    for name, row in result["rows"].items():
        over = show(row["over ours"]) if "over ours" in row else ""
        yield f"  {name:32} {row['s/step']:6.3f}  {over}"
    yield from report_errors(result["errors"] | result["not installed"])
    best = [row["over ours"]["median"] for name, row in result["rows"].items() if name != OURS]
    if best:
        yield goal("fastest peer / ours", f"{min(best):.2f}", min(best) >= 1, "≥ 1")


def report_errors(errors: dict) -> Iterator[str]:
    for name, error in errors.items():
        yield f"  {name:32} DID NOT RUN  {error}"


def goal(what: str, value, reached: bool | None, wanted: str) -> str:
    mark = {True: "reached", False: "NOT REACHED", None: ""}[reached]
    return f"  → {what:32} {value!s:20} {wanted:24} {mark}"


# ------------------------------------------------------------------------------------------ main


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--photos", metavar="FOLDER_OR_ZIP", help="instead of the drawings")
    add("--only", help=f"of {','.join(PARTS)}")
    add("--peers", action="store_true", help="also other libraries; installs them")
    add("--peers-env", type=Path, help="keep their environment here, for the next time")
    add("--quick", action="store_true", help="small and short: does it run?")
    add("--rounds", type=int, default=5)
    add("--steps", type=int, help="timed per round (default: 1, on a GPU 50)")
    add("--epochs", type=int, default=2, help="of the cold runs (default: 2)")
    add("--seeds", type=int, default=5, help="of the gate (default: 5)")
    add("--large", type=int, nargs="?", const=25_000, help="measure memory at so many images")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--json", type=Path, default=ROOT / "results" / "benchmark.json")
    add("--child", nargs=5, help=argparse.SUPPRESS)
    add("--peers-child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(options: argparse.Namespace, work: Path) -> SimpleNamespace:
    """Make the data – 112 images, 28 for the test, 336 copies – and settle the sizes."""
    nb, config = load_notebook(), SimpleNamespace(**vars(options), work=work, data=work / "data")
    config.size, config.gate_size, config.gate_epochs = (64 if config.quick else 224), 32, 6
    config.counts = (200, 2000)
    config.steps = config.steps or (50 if config.device.startswith("cuda") else 1)
    config.gate_test = work / "fresh"
    if config.quick:
        config.rounds, config.epochs, config.seeds, config.gate_epochs = 2, 1, 2, 1
        config.counts = (40, 120)
    if config.photos:
        found, *_ = nb.fetch_dataset(config.photos, work)
        source, config.gate_test = nb.find_subset(found), config.data / "test"
    else:
        source = work / "drawings"
        nb.draw_dataset(source)
        nb.draw_dataset(config.gate_test, per_class=20 if config.quick else 100, seed=1)
    nb.split_dataset(source, config.data)
    nb.make_copies(config.data, 3, 42)
    config.train = config.data / "train_aug"
    return config


PARTS = {  # name -> (measure, report)
    "step": (measure_steps, report_step),
    "gate": (gate, report_gate),
    "cold": (cold, report_cold),
    "linear": (linear, report_linear),
    "augment": (measure_augment, report_augment),
    "peers": (measure_peers, report_peers),
}


def main() -> None:
    options = parse_options()
    if options.child:
        return cold_child(*options.child)
    if options.peers_child:
        return peers_child(*options.peers_child)
    parts = options.only.split(",") if options.only else list(PARTS)
    parts = [part for part in PARTS if part in parts and (part != "peers" or options.peers)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = prepare(options, Path(folder))
        config.rates = calibrate(config)
        results = {"options": vars(options), "calibrate": config.rates}
        for part in parts:
            print(f"{part} …", file=sys.stderr)
            start = time.perf_counter()
            try:
                measure = PARTS[part][0]
                results[part] = measure(config)
            except Exception as error:  # the other parts are still worth having
                traceback.print_exc()
                results[part] = {"failed": first_line(error)}
            results[part]["part took s"] = round(time.perf_counter() - start, 1)
            write_json(options.json, results)
    print_report(results, config)


def write_json(path: Path, results: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_suffix(".partial")
    partial_file.write_text(json.dumps(results, indent=1, default=str))
    os.replace(partial_file, path)


def print_report(results: dict, config: SimpleNamespace) -> None:
    for name, value in results["calibrate"].items():
        rates = value.items() if isinstance(value, dict) else [("", value)]
        print(name, *(f"{k} {v:.0f}" if isinstance(v, float) else f"{k}{v}" for k, v in rates))
    for part, (_, report) in PARTS.items():
        if part in results:
            print()
            failed = results[part].get("failed")
            print(
                *([f"{part} FAILED: {failed}"] if failed else report(results[part], config)),
                sep="\n",
            )


if __name__ == "__main__":
    main()
