"""How fast the notebook trains here, against the plain tutorial loop and other libraries.

    python tests/benchmark.py [--photos FOLDER_OR_ZIP] [--peers] [--quick] [--only step,gate] …

One run, ratios: seconds differ from machine to machine, and from hour to hour on one machine. So
what is compared is measured in turns, and what counts is the median of the rounds' ratios, shown
with the least and the greatest. A part that fails is named and costs none of the others. After a
calibration of the machine come:

    step     a training step, from the plain loop to the notebook's, one change at a time
    gate     the notebook's loop learns what the plain loop in float32 learns
    cold     the whole run in a new process, from import to the test's figures
    linear   twice the images, twice the time; with --large also memory at 25,000 images
    augment  augment.py against a loop that decodes the source for every copy
    peers    fastai, Lightning, timm, Keras, torchvision's script (only if asked for)
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
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A ResNet-50 training step, per image of 224 px; both numbers grow with the number of pixels.
# Arithmetic: forward 4.09 G multiply-adds = 8.18 GFLOP, summed over the layers; backward twice
# that, except for the first layer, which needs no gradient of its input. Memory traffic: every
# activation of convolution, batch norm, ReLU and sum read and written in 16 bits, both ways.
GFLOP_PER_IMAGE, MB_PER_IMAGE = 24.3, 471


def load_notebook() -> SimpleNamespace:
    from conftest import define_notebook  # not at the top: the plain loop starts without it

    return define_notebook()


# ------------------------------------------------------------------------------------- measuring


class Worker:
    """A process that runs one call at a time.

    Whether freed memory goes back to the system is a property of a process, and its heap keeps
    the shape that it once got: loops with and without that setting run in different ones.
    """

    def __init__(self, keep: bool = False):
        self.setting = (keep_pages,) if keep else ()
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, *self.setting)

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

    def __call__(self, *_, **__) -> None:
        if self.calls in (0, self.steps):
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
            self.marks.append((time.perf_counter(), page_faults()))
        self.calls += 1

    def per_step(self) -> tuple[float, float]:
        return tuple((b - a) / self.steps for a, b in zip(*self.marks, strict=True))


RUNNING: dict[str, Callable] = {}  # in a worker: loop -> run(steps, tick)


def time_steps(name: str, steps: int, config: SimpleNamespace) -> tuple[float, float]:
    """Return seconds and page faults per step of one loop; it is built at its first call."""
    clock, quiet = Clock(steps, config.device), io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        if name not in RUNNING:
            RUNNING[name] = LOOPS[name](config)
        RUNNING[name](steps, clock)
    return clock.per_step()


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


def show(value: dict | None, digits: int = 2) -> str:
    return "{median:.{d}f} ({low:.{d}f}–{high:.{d}f})".format(**value, d=digits) if value else ""


def goal(what: str, value: str, reached: bool, wanted: str) -> str:
    return f"  → {what:34} {value:22} {wanted:10} {'reached' if reached else 'NOT REACHED'}"


def not_run(errors: dict) -> list[str]:
    return [f"  {name:30} DID NOT RUN  {error}" for name, error in errors.items()]


# ----------------------------------------------------------------------------------- the machine


def calibrate(config: SimpleNamespace) -> dict:
    """Return what the machine is and its rates: GFLOP/s, GB/s (read + written), decoded images."""
    nb, device = load_notebook(), torch.device(config.device)
    fast, side = nb.precision(device), 1024 if config.quick else 4096
    files = [path for path, _ in ImageFolder(config.data / "train").samples][:64]
    memory = torch.ones(2**26 if config.quick else 2**28, device=device)  # 1 GB

    def matmul_rate(dtype: torch.dtype) -> float:
        a = torch.randn(side, side, device=device).to(dtype)
        return 2 * side**3 / 1e9 / seconds_of(lambda: a @ a, device)

    copying = seconds_of(partial(memory.clone().copy_, memory), device)
    decoding = seconds_of(lambda: [nb.decode_image(path, config.size) for path in files], device)
    processor = [line for line in read_text("/proc/cpuinfo") if line.startswith("model name")]
    name = processor[0].split(": ")[1] if processor else platform.processor()
    return {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "fast precision": str(fast).removeprefix("torch."),
        "float32 GFLOP/s": matmul_rate(torch.float32),
        "fast GFLOP/s": matmul_rate(fast),
        "copy GB/s": 2 * memory.nbytes / 1e9 / copying,
        "decoded images/s": len(files) / decoding,
    }


def read_text(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def seconds_of(function: Callable, device: torch.device) -> float:
    """Return the median time of five calls after one that is not counted."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


# --------------------------------------------------------------------------------- step: one step

PLAIN, OURS = "plain tutorial loop", "notebook's train_model"
BARE, FULL = "bare step", "notebook's, in float32"
LADDER = (  # each with everything above it
    PLAIN,
    "images decoded once",
    "channels last",
    "fast precision",
    "fused Adam",
    "no .item() per step",
    "memory pages kept",
)
KEEPING = (LADDER[-1], OURS, BARE, FULL)


def tutorial_loader(folder: Path, size: int, shuffle: bool, **options) -> DataLoader:
    """Every tutorial's loader: JPEG files are decoded again in every epoch."""
    steps = transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)
    images = ImageFolder(folder, transforms.Compose(steps))
    return DataLoader(images, BATCH, shuffle=shuffle, **options)


def normalise(images: torch.Tensor) -> torch.Tensor:
    return transforms.functional.normalize(images.float() / 255, MEAN, STD)


def ladder_steps(name: str, config: SimpleNamespace) -> Iterator:
    """Train for ever, whole batches only, with the changes up to `name`; yield after each step."""
    nb, device, rung = load_notebook(), torch.device(config.device), LADDER.index(name)
    decoded, layout = rung >= 1, torch.channels_last if rung >= 2 else torch.contiguous_format
    if decoded:
        loader = nb.load_dataset(config.train, config.size, BATCH, True, device=device)
    else:
        loader = tutorial_loader(config.train, config.size, shuffle=True, drop_last=True)
    model = nb.initialize_model(2, 0).to(device, memory_format=layout).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True if rung >= 4 else None)
    criterion, total = nn.CrossEntropyLoss(), 0.0
    for images, labels in itertools.chain.from_iterable(itertools.repeat(loader)):
        if len(images) < BATCH:
            continue
        images, labels = images.to(device), labels.to(device)
        images = (normalise(images) if decoded else images).contiguous(memory_format=layout)
        with nb.autocast(device) if rung >= 3 else contextlib.nullcontext():
            loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() if rung >= 5 else loss.item()
        yield


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


def from_generator(steps: Iterator) -> Callable:
    next(steps)  # builds everything and trains one step that nobody times

    def run(count: int, tick: Callable) -> None:
        tick()
        for _ in range(count):
            next(steps)
            tick()

    return run


def notebook_loop(config: SimpleNamespace, full: bool = False) -> Callable:
    """The notebook's own `train_model`; its first step makes Adam's state and is not timed."""
    nb, device = load_notebook(), torch.device(config.device)
    if full:
        nb.globals["precision"] = lambda device: torch.float32
    loader = nb.load_dataset(config.train, config.size, BATCH, True, device=device)
    images, whole = loader.dataset, len(loader.dataset) // BATCH * BATCH
    images.images, images.samples = images.images[:whole], images.samples[:whole]
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


LOOPS = {
    name: lambda config, name=name: from_generator(ladder_steps(name, config)) for name in LADDER
}
LOOPS[BARE] = lambda config: from_generator(bare_steps(config))
LOOPS |= {OURS: notebook_loop, FULL: partial(notebook_loop, full=True)}


def measure_step(config: SimpleNamespace) -> dict:
    """Time a step of every loop in turns."""
    fresh, keeping, slow = Worker(), Worker(keep=True), (*LADDER[:3], FULL)
    jobs = {}
    for name in (*LADDER, OURS, BARE, FULL):
        steps = config.steps * (1 if name in slow else 3)
        worker = keeping if name in KEEPING else fresh
        jobs[name] = partial(worker, time_steps, name, steps, config)
    for name in KEEPING:  # a heap that keeps its pages takes some steps to settle
        jobs[name]()
    results, errors = interleave(jobs, config.rounds)
    seconds = {name: [second for second, _ in result] for name, result in results.items()}
    rows, before = {}, None
    for name, times in seconds.items():
        row = rows[name] = {"s/step": statistics.median(times), "seconds": times}
        row["share"] = share_of_limit(row["s/step"], "float32" if name in slow else "fast", config)
        row["faults"] = round(statistics.median(faults for _, faults in results[name]))
        row["over previous"] = ratio(before, times) if before and name in (*LADDER, OURS) else None
        row["over plain"] = ratio(seconds[PLAIN], times) if PLAIN in seconds else None
        before = times
    overhead = ratio(seconds[OURS], seconds[BARE]) if {OURS, BARE} <= set(seconds) else None
    result = {"rows": rows, "errors": errors, "loop over bare step": overhead}
    return result | {"report": report_step(result, config)}


def share_of_limit(step: float, kind: str, config: SimpleNamespace) -> float:
    """Return how much of the measured rate a step uses: of copying (CUDA) or of products (CPU)."""
    pixels = (config.size / 224) ** 2
    if config.device.startswith("cuda"):
        return BATCH / step * MB_PER_IMAGE * pixels / 1e3 / config.machine["copy GB/s"]
    return BATCH / step * GFLOP_PER_IMAGE * pixels / config.machine[f"{kind} GFLOP/s"]


def report_step(result: dict, config: SimpleNamespace) -> list[str]:
    limit = "copying memory" if config.device.startswith("cuda") else "matrix products"
    lines = [
        f"a step of {BATCH} images, {config.size} px (share: of the measured rate of {limit})",
        f"  {'':24}s/step images/s share  faults      over previous         over plain",
    ]
    for name, row in result["rows"].items():
        numbers = f"{row['s/step']:6.3f} {BATCH / row['s/step']:8.1f} {row['share']:5.0%}"
        gains = f"{show(row['over previous']):>18} {show(row['over plain']):>18}"
        lines.append(f"  {name:24}{numbers} {row['faults']:7} {gains}")
    for name, title, least in ((OURS, "a step", 4.5), (FULL, "a step in float32", 1.5)):
        if over := result["rows"].get(name, {}).get("over plain"):
            title = f"{title}, plain loop / ours"
            lines.append(goal(title, show(over), over["median"] >= least, f"≥ {least}"))
    if over := result["loop over bare step"]:
        lines.append(goal("loop / bare step", show(over, 3), over["median"] <= 1.02, "≤ 1.02"))
    return lines + not_run(result["errors"])


# ---------------------------------------------------------------------------- gate: same results


def train_plain(model: nn.Module, loader, epochs: int, prepare=lambda images: images) -> None:
    """The plain loop: float32, default layout, default Adam."""
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    criterion, total = nn.CrossEntropyLoss(), 0.0
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(prepare(images.to(device)).contiguous()), labels.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()


@contextlib.contextmanager
def recorded_losses() -> Iterator[list]:
    """Collect the loss of every step, whoever computes it, without touching the loop."""
    losses = []

    def keep(module, _, output):
        if isinstance(module, nn.CrossEntropyLoss):
            losses.append(output.detach())

    handle = nn.modules.module.register_module_forward_hook(keep)
    yield losses
    handle.remove()


def measure_gate(config: SimpleNamespace) -> dict:
    """Train plainly and with the notebook's loop from the same weights on the same batches.

    Passed if a seed's two curves are on average no further apart (mean absolute difference over
    the steps) than the plain curves of two seeds, and if the 95 % interval (Student's t) of the
    paired differences in test accuracy holds 0.
    """
    from scipy.stats import ttest_1samp

    curves, accuracies = {"plain": [], "ours": []}, {"plain": [], "ours": []}
    for seed, kind in itertools.product(range(config.seeds), curves):
        curve, accuracy = train_and_test(kind, seed, config)
        curves[kind].append(curve)
        accuracies[kind].append(accuracy)
    same = statistics.mean(map(apart, curves["plain"], curves["ours"]))
    other = statistics.mean(apart(*pair) for pair in itertools.combinations(curves["plain"], 2))
    shifts = [b - a for a, b in zip(*accuracies.values(), strict=True)]
    low, high = (
        ttest_1samp(shifts, 0).confidence_interval() if len(set(shifts)) > 1 else (shifts[0],) * 2
    )
    shift = {"median": statistics.mean(shifts), "low": low, "high": high}
    plain, ours = map(statistics.mean, accuracies.values())
    steps, passed = len(curves["plain"][0]), [same <= other, low <= 0 <= high]
    report = [
        f"same results: {config.seeds} seeds, {steps} steps of {BATCH} at {config.gate_size} px",
        f"  test accuracy on average: plain {plain:.3f}, ours {ours:.3f}",
        goal("losses apart, same seed", f"{same:.4f}", passed[0], f"≤ {other:.4f}, other seeds"),
        goal("shift in accuracy, 95 % interval", show(shift, 3), passed[1], "holds 0"),
    ]
    result = {"curves": curves, "accuracies": accuracies, "same seed": same, "other seed": other}
    return result | {"shift": shift, "passed": all(passed), "report": report}


def train_and_test(kind: str, seed: int, config: SimpleNamespace) -> tuple[list[float], float]:
    """Return the loss of every step and the test accuracy."""
    nb, device, size = load_notebook(), torch.device(config.device), config.gate_size
    loader = nb.load_dataset(config.train, size, BATCH, shuffle=True, seed=seed, device=device)
    model = nb.initialize_model(2, seed).to(device)
    with recorded_losses() as losses, contextlib.redirect_stdout(io.StringIO()):
        if kind == "plain":
            nb.globals["precision"] = lambda device: torch.float32  # of the test
            model.to(memory_format=torch.contiguous_format)
            train_plain(model, loader, config.gate_epochs, normalise)
        else:
            nb.train_model(model, loader, config.gate_epochs)
        scores = nb.evaluate_model(model, nb.load_dataset(config.gate_test, size, 128))
    return torch.stack(losses).float().tolist(), scores["accuracy"]


def apart(a: list[float], b: list[float]) -> float:
    return statistics.mean(abs(x - y) for x, y in zip(a, b, strict=True))


# ----------------------------------------------------------------------------- cold: a whole run


def measure_cold(config: SimpleNamespace) -> dict:
    """Run both whole programs in new processes and split their seconds."""
    runs = {}
    for kind in PROGRAMS:
        options = kind, config.data, config.size, config.epochs, config.device
        command = [sys.executable, __file__, "--child", *map(str, options)]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        total = time.perf_counter() - start
        parts = json.loads(done.stdout.splitlines()[-1])
        runs[kind] = {"import": total - sum(parts.values())} | parts | {"total": total}
    times = runs["plain"]["total"] / runs["ours"]["total"]
    report = [f"from a cold start to the figures, both arms, {config.epochs} epochs, seconds"]
    for kind, parts in runs.items():
        report.append(f"  {kind:6}" + "".join(f"  {k} {v:.1f}" for k, v in parts.items()))
    report.append(goal("whole run, plain / ours", f"{times:.2f}", times >= 4, "≥ 4"))
    if config.epochs < 10:  # ours spends what it spends once on few steps, the plain loop too
        report.append("  (less than for 10 epochs: import and decoding weigh more in a short run)")
    return {"seconds": runs, "ratio": times, "report": report}


def run_cold(kind: str, data: str, size: str, epochs: str, device: str) -> None:
    """Train both arms and test them; print the seconds that each kind of work took."""
    spent = {"decode": 0.0, "train": 0.0, "evaluate": 0.0}

    def timed(part: str, function: Callable, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        spent[part] += time.perf_counter() - start
        return result

    load, make, train, evaluate = PROGRAMS[kind](int(size), torch.device(device))
    for arm in ("train", "train_aug"):
        images = timed("decode", load, Path(data, arm), True)
        test = timed("decode", load, Path(data, "test"), False)
        model = timed("train", make)
        timed("train", train, model, images, int(epochs))
        timed("evaluate", evaluate, model, test)
    print(json.dumps(spent))


def plain_program(size: int, device: torch.device) -> tuple:
    """Return a tutorial's load, make, train and evaluate; it decodes while it trains."""

    def make() -> nn.Module:
        model = resnet50(weights=None)
        model.fc = nn.Linear(model.fc.in_features, 2)
        return model.to(device)

    def evaluate(model: nn.Module, loader: DataLoader) -> list:
        model.eval()
        with torch.no_grad():
            return [model(images.to(device)).argmax(1).tolist() for images, _ in loader]

    return lambda *part: tutorial_loader(part[0], size, part[1]), make, train_plain, evaluate


def notebook_program(size: int, device: torch.device) -> tuple:
    """Return the notebook's load, make, train and evaluate."""
    keep_pages()
    nb = load_notebook()

    def load(folder: Path, shuffle: bool) -> DataLoader:
        return nb.load_dataset(folder, size, BATCH, shuffle, device=device)

    return load, lambda: nb.initialize_model().to(device), nb.train_model, nb.evaluate_model


PROGRAMS = {"plain": plain_program, "ours": notebook_program}


# --------------------------------------------------------------------------- linear: more images


def repeat_files(source: Path, target: Path, count: int) -> Path:
    """Fill `target` with `count` links to the images of `source`."""
    for number, (path, _) in zip(
        range(count), itertools.cycle(ImageFolder(source).samples), strict=False
    ):
        link = target / Path(path).parent.name / f"{number}{Path(path).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, link)
    return target


def measure_linear(config: SimpleNamespace) -> dict:
    """Compare the cost per image of 2,000 images with that of 200; batches of 40 fit both."""
    worker, (few, many), jobs = Worker(keep=True), config.counts, {}
    for count in config.counts:
        folder = repeat_files(config.train, config.work / str(count), count)
        jobs[count] = partial(worker, cost_per_image, folder, many // count, config)
    jobs[few]()
    results, errors = interleave(jobs, 3)
    if errors:
        raise RuntimeError(errors)
    costs = {count: list(map(list, zip(*results[count], strict=True))) for count in jobs}
    load, train = (ratio(*pair) for pair in zip(costs[few], costs[many], strict=True))
    report = [
        f"images/s with {many} images / with {few} images, {config.gate_size} px",
        goal("training", show(train), 0.9 <= train["median"] <= 1.1, "0.9–1.1"),
        goal("reading and decoding", show(load), load["median"] >= 0.9, "≥ 0.9"),
    ]
    result = {"seconds per image": costs, "load": load, "train": train, "report": report}
    if config.large:
        folder = repeat_files(config.train, config.work / "large", config.large)
        peak = result["memory in GB"] = Worker(keep=True)(peak_memory, folder, config)
        taken = peak["loaded"] - peak["before"]
        report += [
            f"  {config.large} images: " + ", ".join(f"{k} {v:.2f} GB" for k, v in peak.items()),
            goal("memory of the images", f"{taken:.2f} GB", taken <= peak["room"], "≤ room"),
        ]
    return result


def cost_per_image(folder: Path, epochs: int, config: SimpleNamespace) -> tuple[float, float]:
    """Return the seconds per image of loading and of training."""
    nb, device = load_notebook(), torch.device(config.device)
    start = time.perf_counter()
    loader = nb.load_dataset(folder, config.gate_size, 40, shuffle=True, device=device)
    loaded, images = time.perf_counter(), len(loader.dataset)
    nb.train_model(nb.initialize_model().to(device), loader, epochs)
    return (loaded - start) / images, (time.perf_counter() - loaded) / images / epochs


def peak_memory(folder: Path, config: SimpleNamespace) -> dict:
    """Load the images and train ten steps; return this process's peaks of memory (Linux), GB."""
    peak, running = {"RssAnon": 0.0, "VmHWM": 0.0}, True

    def watch() -> None:
        while running:
            for line in read_text("/proc/self/status"):
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
        loaded, pixels = peak["RssAnon"], loader.dataset.images.nbytes / 1e9
        nb.train_model(nb.initialize_model().to(device), loader, max_steps=10)
    finally:
        running = False
        thread.join()
    return {"pixels": pixels, "room": room, "before": before, "loaded": loaded} | peak


# ----------------------------------------------------------------------------- augment: augment.py


def measure_augment(config: SimpleNamespace) -> dict:
    """Time augment.py's start and its work, with one and two workers, against a plain loop."""
    import augment

    command = [sys.executable, str(ROOT / "augment.py"), "--help"]
    start = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    start_up = seconds_of(start, torch.device("cpu"))
    count = 40 if config.quick else 400
    source = repeat_files(config.data / "train", config.work / "sources", count)
    outputs = (config.work / f"copies{number}" for number in itertools.count())

    def ours(workers: int) -> tuple[float, Path]:
        output = next(outputs)
        return augment.augment_folder(source, output, 3, workers=workers).seconds, output

    reference = ours(2)[1]  # its manifest says what the plain loop has to do
    jobs = {
        "1 worker": partial(ours, 1),
        "2 workers": partial(ours, 2),
        "plain loop": lambda: augment_plainly(source, reference, next(outputs)),
    }
    results, errors = interleave(jobs, 3)
    if errors:
        raise RuntimeError(errors)
    one, two, plain = ([second for second, _ in result] for result in results.values())
    over, efficiency = ratio(plain, one), ratio([second / 2 for second in one], two)
    same = same_pixels(*(result[-1][1] for result in results.values()))
    rates = {name: 3 * count / statistics.median(s for s, _ in results[name]) for name in jobs}
    report = [
        "augment.py, copies/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()),
        goal("start-up", f"{start_up:.2f} s", start_up < 1, "< 1 s"),
        goal("1 worker / plain loop", show(over), over["median"] > 1, "> 1"),
        goal("efficiency of 2 workers", show(efficiency), efficiency["median"] >= 0.9, "≥ 0.9"),
        goal("same pixels as the plain loop's", str(same), same, "True"),
    ]
    result = {"start-up s": start_up, "copies/s": rates, "over plain loop": over}
    return result | {"efficiency": efficiency, "same pixels": same, "report": report}


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
        for parameters in json.loads(row["operations"]):
            operation = getattr(imaugs, parameters.pop("name"))
            if "emoji" in parameters:
                parameters["emoji_path"] = f"{EMOJI_DIR}/{parameters.pop('emoji')}.png"
            image = operation(image, **parameters)
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


# ------------------------------------------------------------------------- peers: other libraries

# Each gets one prepared float32 batch again and again, so that neither decoding nor collating is
# counted against it. "Best" has every switch that the library itself offers for this device.


def peer_batches(config: SimpleNamespace, steps: int = 1) -> DataLoader:
    """Return a loader of `steps` + 1 batches: the first step of every call is not timed."""
    images, labels = next(
        iter(load_notebook().load_dataset(config.train, config.size, BATCH, True))
    )
    data = TensorDataset(normalise(images).to(config.device), labels.to(config.device))
    return DataLoader(data, sampler=[list(range(len(images)))] * (steps + 1), batch_size=None)


def torchvision_step(config: SimpleNamespace, best: bool) -> Callable:
    """One step of references/classification/train.py, which reads three numbers in each."""
    if best and not config.device.startswith("cuda"):
        raise RuntimeError("no switch of it helps on this device: its --amp is for CUDA only")
    model = resnet50(weights=None, num_classes=2).to(config.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    criterion, meters = nn.CrossEntropyLoss(), ([], [], [])
    scaler = torch.amp.GradScaler("cuda", enabled=best)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast("cuda", enabled=best):
            output = model(images)
            loss = criterion(output, labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        with torch.inference_mode():
            hits = (output.topk(2).indices == labels[:, None]).float()
            values = loss, hits[:, 0].mean(), hits.sum(1).mean()
        for meter, value in zip(meters, values, strict=True):
            meter.append(value.item())

    return step


def timm_step(config: SimpleNamespace, best: bool) -> Callable:
    """One step of timm's train.py, its optimiser factory and network.

    Best: --amp --amp-dtype bfloat16 --channels-last --opt-kwargs fused=True.
    """
    import timm
    import timm.optim

    layout = torch.channels_last if best else torch.contiguous_format
    model = timm.create_model("resnet50", num_classes=2).train()
    model = model.to(config.device, memory_format=layout)
    options = {"fused": True} if best else {}
    optimizer = timm.optim.create_optimizer_v2(model, "adam", lr=0.001, **options)
    criterion, meter = nn.CrossEntropyLoss(), timm.utils.AverageMeter()

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        images = images.contiguous(memory_format=layout)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=best):
            loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        meter.update(loss.item(), len(images))

    return step


def script_loop(make: Callable, config: SimpleNamespace, best: bool) -> Callable:
    """The loop around a step of a library whose loop is a script and not a part of its package."""
    loader, step = peer_batches(config, config.steps), make(config, best)

    def run(_: int, tick: Callable) -> None:
        for images, labels in loader:
            step(images, labels)
            tick()

    return run


def fastai_loop(config: SimpleNamespace, best: bool) -> Callable:
    """Learner.fit; best: channels last, torch's fused Adam, and bf16, which it has on CUDA only."""
    from fastai import basics as fastai
    from fastai.callback import channelslast  # noqa: F401

    class Tick(fastai.Callback):
        def after_batch(self):
            self.tick()

        def before_validate(self):
            raise fastai.CancelValidException

    loader, model = peer_batches(config, config.steps), resnet50(weights=None, num_classes=2)
    adam = partial(fastai.OptimWrapper, opt=torch.optim.Adam, fused=True)
    learner = fastai.Learner(
        fastai.DataLoaders(loader, loader, device=config.device),
        model,
        loss_func=nn.CrossEntropyLoss(),
        opt_func=adam if best else fastai.Adam,
        cbs=Tick(),
    )
    if best:
        learner.to_channelslast(use_amp=config.device.startswith("cuda"), amp_mode="bf16")

    def run(_: int, tick: Callable) -> None:
        learner.tick.tick = tick
        learner.fit(1, 0.001)

    return run


def lightning_loop(config: SimpleNamespace, best: bool) -> Callable:
    """Trainer.fit; best: bf16-mixed, barebones, a channels-last network, torch's fused Adam."""
    import lightning

    layout = torch.channels_last if best else torch.contiguous_format

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = resnet50(weights=None, num_classes=2).to(memory_format=layout)

        def training_step(self, batch, _):
            images, labels = batch
            logits = self.model(images.contiguous(memory_format=layout))
            return nn.functional.cross_entropy(logits, labels)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.001, fused=best or None)

        def on_train_batch_end(self, *_):
            self.tick()

    loader, module = peer_batches(config, config.steps), Classifier()
    options = {"precision": "bf16-mixed", "barebones": True} if best else {}
    options["accelerator"] = "gpu" if config.device.startswith("cuda") else "cpu"

    def run(_: int, tick: Callable) -> None:
        module.tick = tick
        with tempfile.TemporaryDirectory() as logs:
            trainer = lightning.Trainer(max_epochs=1, devices=1, default_root_dir=logs, **options)
            trainer.fit(module, loader)

    return run


def keras_loop(config: SimpleNamespace, best: bool) -> Callable:
    """Model.fit of Keras's ResNet-50 on torch; best: mixed_bfloat16.

    Its images are channels last by default. Its ResNet-50 is the first version, whose arithmetic
    is 6 % less than that of torchvision's.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16" if best else "float32")
    size = config.size, config.size, 3
    model = keras.applications.ResNet50(weights=None, classes=2, input_shape=size)
    model.compile(keras.optimizers.Adam(0.001), loss="sparse_categorical_crossentropy")
    loader = peer_batches(config, config.steps)
    images, labels = loader.dataset.tensors
    loader.dataset.tensors = images.permute(0, 2, 3, 1).contiguous(), labels

    def run(_: int, tick: Callable) -> None:
        model.fit(loader, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=tick)])

    return run


PEERS = {
    "fastai": fastai_loop,
    "lightning": lightning_loop,
    "timm": partial(script_loop, timm_step),
    "torchvision script": partial(script_loop, torchvision_step),
    "keras": keras_loop,
}
PEER_LOOPS = {
    f"{name}, {kind}": partial(loop, best=kind == "best")
    for name, loop in PEERS.items()
    for kind in ("default", "best")
}
LOOPS |= PEER_LOOPS


def measure_peers(config: SimpleNamespace) -> dict:
    """Install the peers into an environment of their own and time them there beside ours."""
    folder = config.peers_env or config.work / "peers"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    pins = [f"{name}=={config.machine[name].split('+')[0]}" for name in ("torch", "torchvision")]
    pip = [str(python), "-m", "pip", "install", "--quiet", *pins]
    subprocess.run([*pip, "-r", str(ROOT / "tests" / "requirements.txt")], check=True)
    errors = {}
    for name in ("fastai", "lightning", "timm", "keras"):
        done = subprocess.run([*pip, name], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            errors[f"{name} (pip)"] = first_error(done.stderr)
    order, answer = config.work / "order.json", config.work / "answer.json"
    order.write_text(json.dumps(vars(config), default=str))
    command = [str(python), __file__, "--peers-child", str(order), str(answer)]
    subprocess.run(command, check=True)
    result = json.loads(answer.read_text())
    report = ["other libraries on the same batch: s/step, and how often ours fits into it"]
    for name, row in result["rows"].items():
        version = result["versions"].get(name.split(",")[0], "")
        report.append(f"  {name:26} {version:9} {row['s/step']:6.3f}  {show(row['over ours'])}")
    over = [row["over ours"]["median"] for name, row in result["rows"].items() if name != OURS]
    if over:
        report.append(goal("fastest of them / ours", f"{min(over):.2f}", min(over) >= 1, "≥ 1"))
    return result | {"report": report + not_run(errors | result["errors"])}


def first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")]
    return (lines or ["pip failed"])[0]


def run_peers(order: str, answer: str) -> None:
    """Time the peers and the notebook in turns; runs in the peers' environment."""
    config = SimpleNamespace(**json.loads(Path(order).read_text()))
    fresh, keeping = Worker(), Worker(keep=True)
    jobs = {OURS: partial(keeping, time_steps, OURS, config.steps, config)}
    for name in PEER_LOOPS:
        jobs[name] = partial(fresh, time_steps, name, config.steps, config)
    for _ in range(3):  # until the heap has settled
        jobs[OURS]()
    results, errors = interleave(jobs, config.rounds)
    versions = {name: version_of(name) for name in ("fastai", "lightning", "timm", "keras")}
    seconds = {name: [second for second, _ in result] for name, result in results.items()}
    rows = {
        name: {
            "s/step": statistics.median(times),
            "over ours": ratio(times, seconds[OURS]),
            "seconds": times,
        }
        for name, times in seconds.items()
    }
    Path(answer).write_text(json.dumps({"versions": versions, "rows": rows, "errors": errors}))


def version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


# ------------------------------------------------------------------------------------------ main

PARTS = {
    "step": measure_step,
    "gate": measure_gate,
    "cold": measure_cold,
    "linear": measure_linear,
    "augment": measure_augment,
    "peers": measure_peers,
}


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--photos", metavar="FOLDER_OR_ZIP", help="instead of the drawings")
    add("--only", metavar="PART,…", help=f"of {', '.join(PARTS)}")
    add("--peers", action="store_true", help="install and measure other libraries as well")
    add("--peers-env", type=Path, metavar="FOLDER", help="keep their environment here")
    add("--quick", action="store_true", help="small and short: does it all run?")
    add("--rounds", type=int, default=5)
    add("--epochs", type=int, default=2, help="of the cold runs (default: 2)")
    add("--seeds", type=int, default=5, help="of the gate (default: 5)")
    add("--large", type=int, nargs="?", const=25_000, help="memory at so many images (25000)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--json", type=Path, default=ROOT / "results" / "benchmark.json")
    add("--child", nargs=5, help=argparse.SUPPRESS)
    add("--peers-child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(options: argparse.Namespace, work: Path) -> SimpleNamespace:
    """Settle the sizes and make the data: of 140 drawings 112 to train on, with 336 copies."""
    config = SimpleNamespace(**vars(options), work=work, data=work / "data")
    config.size, config.gate_size, config.gate_epochs, fresh = 224, 32, 6, 100
    config.counts, config.steps = (200, 2000), 50 if config.device.startswith("cuda") else 1
    if config.quick:
        config.size, config.rounds, config.epochs, config.seeds, fresh = 64, 2, 1, 2, 20
        config.counts, config.gate_epochs = (40, 120), 1
    nb, source, config.gate_test = load_notebook(), work / "drawings", work / "fresh"
    if config.photos:
        found, *_ = nb.fetch_dataset(config.photos, work)
        source, config.gate_test = nb.find_subset(found), config.data / "test"
    else:
        nb.draw_dataset(source)
        nb.draw_dataset(config.gate_test, per_class=fresh, seed=1)
    nb.split_dataset(source, config.data)
    nb.make_copies(config.data, 3, 42)
    config.train = config.data / "train_aug"
    if sum(nb.count_images(config.train).values()) < BATCH:
        raise SystemExit(f"benchmark.py: fewer than {BATCH} augmented images")
    return config


def main() -> None:
    options = parse_options()
    if options.child:
        return run_cold(*options.child)
    if options.peers_child:
        return run_peers(*options.peers_child)
    names = options.only.split(",") if options.only else [name for name in PARTS if name != "peers"]
    names += ["peers"] if options.peers and "peers" not in names else []
    names = [name for name in names if name != "calibrate"]  # that is always done
    if unknown := set(names) - set(PARTS):
        raise SystemExit(
            f"benchmark.py: --only {', '.join(unknown)}: not one of {', '.join(PARTS)}"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = prepare(options, Path(folder))
        config.machine = calibrate(config)
        results = {"options": vars(options), "machine": config.machine}
        for name in names:
            print(f"{name} …", file=sys.stderr)
            start = time.perf_counter()
            try:
                results[name] = PARTS[name](config)
            except Exception as error:  # the other parts are still worth having
                traceback.print_exc()
                results[name] = {"report": [f"{name} FAILED: {first_line(error)}"]}
            results[name]["took s"] = round(time.perf_counter() - start, 1)
            write_json(options.json, results)
    rates = (
        f"{v:.0f} {k}" if isinstance(v, float) else f"{k} {v}" for k, v in config.machine.items()
    )
    print(", ".join(rates))
    for name in names:
        print("", *results[name]["report"], sep="\n")


def write_json(path: Path, results: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_suffix(".partial")
    partial_file.write_text(json.dumps(results, indent=1, default=str))
    os.replace(partial_file, path)


if __name__ == "__main__":
    main()
