"""How fast the notebook trains and augments here, against the plain loop and other libraries.

    python tests/benchmark.py [--only step,gate,augment,peers,answer] [--rounds 5] [--batch 32]
                              [--size 224] [--model resnet50,resnet18] [--large N] …

Seconds differ from machine to machine, and from hour to hour on one machine. So what is compared is
measured in turns, after a round that is not counted, in which memory settles; what counts is the
median of the rounds' ratios, shown with the least and the greatest. The parts:

    step     a training step, from the plain tutorial loop to the notebook's, one change at a time
    gate     the notebook's loop learns what the plain loop in float32 learns
    augment  augment.py with one and two workers; with --large also many photos, and their memory
    peers    fastai, Lightning, timm and Keras at their best settings, as far as they are installed
    answer   the minutes that a repeat of the experiment takes
"""

import argparse
import contextlib
import gc
import io
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from types import SimpleNamespace
from unittest import mock

import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import get_model

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import define_notebook, save_photo  # noqa: E402

from augment import COPY_SIDE, augment_folder, augment_image  # noqa: E402
from data.drawings import draw_dataset  # noqa: E402
from data.images import load_image  # noqa: E402
from data.prepare import find_duplicates, prepare_dataset  # noqa: E402
from data.workers import keep_memory  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LADDER = (  # each with everything above it
    "plain tutorial loop",
    "decoded once",
    "channels last",
    "low precision",
    "fused Adam, no .item()",
)
OURS, BARE = "notebook's train_model", "bare step"
PRODUCT = {"float32": "product in float32", "low": "product in low precision"}
PRODUCT_SIDE = 4096
GATE_SIZE, GATE_STEPS = 64, 30  # pixels, steps
COPIES, EPOCHS, PHOTOS, FEW = 3, 10, 112, 2_500  # a repeat's defaults; what --large is held against

# ------------------------------------------------------------------------------------- measuring


class Worker:
    """A process that runs one call at a time: whether freed memory is kept is a process's own."""

    def __init__(self, **options):
        self.options, self.pool = options, None

    def __call__(self, function: Callable, *arguments):
        self.pool = self.pool or ProcessPoolExecutor(1, get_context("spawn"), **self.options)
        try:
            return self.pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            self.pool = None  # the next call gets another
            raise


class Clock:
    """Called after every step; measures from the end of the first to the end of the last."""

    def __init__(self, steps: int, device: str):
        self.steps, self.device, self.calls, self.marks = steps, device, 0, []

    def __call__(self, *_, **__) -> None:
        self.calls += 1
        if self.calls in (1, self.steps + 1):
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())


RUNNING: dict[tuple, Callable] = {}  # in a worker: run(steps, tick) of (loop, model)


def time_loop(name: str, options: argparse.Namespace) -> float:
    """Return the seconds per step of a loop; it is built at its first call."""
    clock, key, quiet = Clock(options.steps, options.device), (name, options.model), io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        if key not in RUNNING:
            RUNNING[key] = LOOPS[name](options)
        gc.collect()
        RUNNING[key](options.steps + 1, clock)
    first, last = clock.marks
    return (last - first) / options.steps


def in_turns(jobs: dict[str, Callable], rounds: int) -> tuple[dict, dict]:
    """Run every job once a round; return {name: its results} and {name: its error}."""
    results, errors = {name: [] for name in jobs}, {}
    for number in range(rounds + 1):
        for name in list(results)[:: -1 if number % 2 else 1]:
            try:
                results[name].append(jobs[name]())
            except Exception as error:
                errors[name] = first_line(error)
                del results[name]
        print(f"  round {number} of {rounds} done", file=sys.stderr)
    return {name: result[1:] for name, result in results.items()}, errors


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def ratios(results: dict, a: str, b: str, factor: float = 1) -> list[float]:
    """Return factor × a/b of every round, none if one of them did not run."""
    pairs = zip(results.get(a, []), results.get(b, []), strict=False)
    return [factor * x / y for x, y in pairs]


def show(values: list[float], form: str = ".2f") -> str:
    """Return the median of some values, with the least and the greatest."""
    if not values:
        return "–"
    middle, *ends = (format(value, form) for value in (median(values), min(values), max(values)))
    return f"{middle} ({'–'.join(ends)})"


def judge(what: str, values: list[float], sign: str, limit: float, form: str = ".2f") -> None:
    """Print whether the median of some values is as wanted, "≥" or "≤" a limit."""
    reached = values and (median(values) >= limit if sign == "≥" else median(values) <= limit)
    word = "reached" if reached else "NOT reached"
    print(f"  → {what}: {show(values, form)}, goal {sign} {limit:{form}}: {word}")


def print_errors(errors: dict[str, str]) -> None:
    for name, error in errors.items():
        print(f"  {name:24} DID NOT RUN, {error}")


# ------------------------------------------------------------------------------- loops that train


def tutorial_loader(options: argparse.Namespace) -> DataLoader:
    """Every tutorial's loader: JPEG files are decoded again in every epoch."""
    size = options.size, options.size
    steps = transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(MEAN, STD)
    images = ImageFolder(options.train, transforms.Compose(steps))
    return DataLoader(images, options.batch, shuffle=True, drop_last=True)


def notebook_loader(nb: SimpleNamespace, options: argparse.Namespace) -> DataLoader:
    """The notebook's loader, of whole batches only."""
    loader = nb.load_dataset(options.train, options.size, options.batch, seed=0)
    whole = len(loader.paths) // options.batch * options.batch
    if not whole:
        raise ValueError(f"fewer than {options.batch} images")
    loader.sampler.choices = loader.sampler.choices[:whole]
    return loader


def forever(loader: DataLoader) -> Iterator:
    """Yield the batches of one epoch after the other."""
    for epoch in itertools.count():
        loader.sampler.epoch = epoch
        yield from loader


def train(
    nb: SimpleNamespace, model: nn.Module, batches: Iterator, optimizer, low=True, read=False
) -> Iterator[None]:
    """Train on batches on the device; yield after each step. `read`: by .item(), every loss."""
    device, total = next(model.parameters()).device, 0.0
    half = low and nb.precision(device) == torch.float16
    scaler = torch.amp.GradScaler(device.type, 1024, enabled=half)
    model.train()
    for images, labels in batches:
        with nb.autocast(device) if low else contextlib.nullcontext():
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        total += loss.item() if read else 0
        yield


def loop_of(steps: Iterator) -> Callable:
    """Return what runs so many of the steps, with a tick after each."""

    def run(count: int, tick: Callable) -> None:
        for _ in itertools.islice(steps, count):
            tick()

    return run


def ladder_loop(options: argparse.Namespace, changes: int) -> Callable:
    """The plain tutorial loop with the first so many changes of LADDER."""
    nb, device = define_notebook(), torch.device(options.device)
    layout = torch.channels_last if changes >= 2 else torch.contiguous_format
    loader = notebook_loader(nb, options) if changes else tutorial_loader(options)

    def batches() -> Iterator:
        for images, labels in forever(loader):
            images = nb.to_device(images, device) if changes else images.to(device)
            yield images.contiguous(memory_format=layout), labels.to(device)

    model = nb.initialize_model(name=options.model).to(device, memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=changes >= 4 or None)
    return loop_of(train(nb, model, batches(), optimizer, low=changes >= 3, read=changes < 4))


def notebook_loop(options: argparse.Namespace) -> Callable:
    """The notebook's own `train_model`; its first step makes Adam's state and is not timed."""
    nb = define_notebook()
    loader = notebook_loader(nb, options)
    model = nb.initialize_model(name=options.model).to(options.device)

    def run(count: int, tick: Clock) -> None:
        def report(done: int, *_) -> None:
            if done > tick.calls:  # an epoch's end reports its last step once more
                tick()

        nb.train_model(model, loader, count, report=report)

    return run


def resident_batch(nb: SimpleNamespace, options: argparse.Namespace) -> list[torch.Tensor]:
    """Return normalised images, channels last, and their labels, on the device."""
    images, labels = next(iter(notebook_loader(nb, options)))
    return [nb.to_device(images, torch.device(options.device)), labels.to(options.device)]


def bare_loop(options: argparse.Namespace) -> Callable:
    """Forward, backward and optimiser on one batch: what no loop can do without."""
    nb = define_notebook()
    model = nb.initialize_model(name=options.model).to(options.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    return loop_of(train(nb, model, itertools.repeat(resident_batch(nb, options)), optimizer))


def product_loop(options: argparse.Namespace, low: bool) -> Callable:
    """Products of two matrices."""
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TensorFloat-32, as in convolutions
    kind = define_notebook().precision(device) if low else torch.float32
    matrix = torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, device=device).to(kind)
    return loop_of(torch.mm(matrix, matrix) is None for _ in itertools.count())


# ------------------------------------------------------------ other libraries at their best flags


def peer_batches(options: argparse.Namespace) -> DataLoader:
    """Return a loader of one ready batch again and again: decoding counts against nobody."""
    return DataLoader(
        [resident_batch(define_notebook(), options)] * (options.steps + 1), batch_size=None
    )


def peer_model(options: argparse.Namespace) -> nn.Module:
    return get_model(options.model, num_classes=2).to(memory_format=torch.channels_last)


def timm_loop(options: argparse.Namespace) -> Callable:
    """The step of timm's train.py with its network and its optimiser factory.

    --amp --channels-last --opt-kwargs fused=True; it reads every loss.
    """
    import timm.optim

    model = timm.create_model(options.model, num_classes=2)
    model = model.to(options.device, memory_format=torch.channels_last)
    optimizer = timm.optim.create_optimizer_v2(model, "adam", lr=0.001, fused=True)
    nb = define_notebook()
    batches = itertools.repeat(resident_batch(nb, options))
    return loop_of(train(nb, model, batches, optimizer, read=True))


def fastai_loop(options: argparse.Namespace) -> Callable:
    """Learner.fit, channels last, torch's fused Adam, and low precision, which it has on CUDA."""
    from fastai import basics as fastai
    from fastai.callback import channelslast  # noqa: F401

    class Tick(fastai.Callback):
        def after_batch(self):
            self.tick()

        def before_validate(self):
            raise fastai.CancelValidException

    loader, cuda = peer_batches(options), options.device.startswith("cuda")
    learner = fastai.Learner(
        fastai.DataLoaders(loader, loader, device=options.device),
        peer_model(options),
        loss_func=nn.CrossEntropyLoss(),
        opt_func=partial(fastai.OptimWrapper, opt=torch.optim.Adam, fused=True),
        cbs=Tick(),
    )
    kind = define_notebook().precision(torch.device(options.device))
    learner.to_channelslast(use_amp=cuda, amp_mode="bf16" if kind == torch.bfloat16 else "fp16")

    def run(_: int, tick: Clock) -> None:
        learner.tick.tick = tick
        learner.fit(1, 0.001)

    return run


def lightning_loop(options: argparse.Namespace) -> Callable:
    """Trainer.fit, barebones, low precision, a channels-last network, torch's fused Adam."""
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = peer_model(options)

        def training_step(self, batch, _):
            images, labels = batch
            return nn.functional.cross_entropy(self.model(images), labels)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.001, fused=True)

        def on_train_batch_end(self, *_):
            self.tick()

    kind = define_notebook().precision(torch.device(options.device))
    names = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed", torch.float32: "32-true"}
    how = {"precision": names[kind], "barebones": True, "max_epochs": 1, "devices": 1}
    how["accelerator"] = "gpu" if options.device.startswith("cuda") else "cpu"
    loader, module = peer_batches(options), Classifier()

    def run(_: int, tick: Clock) -> None:
        module.tick = tick
        lightning.Trainer(**how).fit(module, loader)

    return run


def keras_loop(options: argparse.Namespace) -> Callable:
    """Model.fit of Keras's ResNet on torch, channels last, low precision.

    Its ResNet-50 is the first version, whose arithmetic is 6 % less than that of torchvision's.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    kind = str(define_notebook().precision(torch.device(options.device))).removeprefix("torch.")
    keras.config.set_dtype_policy("float32" if kind == "float32" else f"mixed_{kind}")
    network = getattr(keras.applications, options.model.replace("resnet", "ResNet"))
    model = network(weights=None, classes=2, input_shape=(options.size, options.size, 3))
    model.compile(keras.optimizers.Adam(0.001), loss="sparse_categorical_crossentropy")
    loader = peer_batches(options)
    for batch in loader.dataset[:1]:  # all are this one
        batch[0] = batch[0].permute(0, 2, 3, 1).contiguous()

    def run(_: int, tick: Clock) -> None:
        model.fit(loader, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=tick)])

    return run


PEERS = {"fastai": fastai_loop, "Lightning": lightning_loop, "timm": timm_loop, "Keras": keras_loop}
LOOPS = PEERS | {OURS: notebook_loop, BARE: bare_loop}
LOOPS |= {name: partial(ladder_loop, changes=number) for number, name in enumerate(LADDER)}
LOOPS |= {name: partial(product_loop, low=kind == "low") for kind, name in PRODUCT.items()}

# ------------------------------------------------------------------------------------- the parts


def measure_step(options: argparse.Namespace) -> None:
    """Time a step of every loop, and what the machine can do."""
    fresh, keeping = Worker(), Worker(initializer=keep_memory)
    jobs = {name: partial(fresh, time_loop, name, options) for name in LADDER}
    for name in (OURS, BARE, *PRODUCT.values()):
        jobs[name] = partial(keeping, time_loop, name, options)
    seconds, errors = in_turns(jobs, options.rounds)
    arithmetic = count_operations(options) / (2 * PRODUCT_SIDE**3)  # in products
    print(f"  {'':24}s/step images/s  times plain         times previous      of matrix rate")
    for previous, name in itertools.pairwise((None, *LADDER, OURS, BARE)):
        if name in seconds:
            step = median(seconds[name])
            product = PRODUCT["float32" if name in LADDER[:3] else "low"]
            gains = ratios(seconds, LADDER[0], name), ratios(seconds, previous, name)
            line = f"  {name:24}{step:6.3f} {options.batch / step:8.1f}  "
            line += "".join(f"{show(gain):20}" for gain in gains)
            print(line + show(ratios(seconds, product, name, arithmetic), ".0%"))
    print_errors(errors)
    judge("step: our rate / bare step's", ratios(seconds, BARE, OURS), "≥", 0.97, ".3f")


def count_operations(options: argparse.Namespace) -> int:
    """Return the floating-point operations of a training step, forward and backward."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        images = torch.empty(options.batch, 3, options.size, options.size)
        get_model(options.model, num_classes=2)(images).sum().backward()
    return counter.get_total_flops()


def measure_gate(options: argparse.Namespace) -> None:
    """Train from the same weights on the same batches: plainly, and with the notebook's loop."""
    kinds = plain, full, low = "plain loop, float32", "notebook, float32", "notebook, as it is"
    curves = {name: [] for name in kinds}
    for seed in range(max(2, options.rounds)):
        for name in kinds:
            curves[name].append(loss_curve(seed, options, name == plain, name != low))
        print(f"  seed {seed} done", file=sys.stderr)
    for name, found in curves.items():
        ends = mean(mean(curve[:5]) for curve in found), mean(mean(curve[-5:]) for curve in found)
        print(f"  {name:24} mean loss of the first 5 steps {ends[0]:.3f}, the last {ends[1]:.3f}")
    other = mean(itertools.starmap(distance, itertools.combinations(curves[plain], 2)))
    print(f"  {GATE_STEPS} steps at {GATE_SIZE} px; losses of two seeds differ by {other:.4f}")
    for name in (full, low):
        apart = [a / other for a in map(distance, curves[plain], curves[name])]
        judge(f"gate: {name}, distance from plain / that of seeds", apart, "≤", 1)


def loss_curve(seed: int, options: argparse.Namespace, plain: bool, full: bool) -> list[float]:
    """Return the loss of every step, recorded where it is computed, whoever does that."""
    nb, device, losses = define_notebook(), torch.device(options.device), []
    if full:
        nb.globals["precision"] = lambda device: torch.float32
    compute = nn.functional.cross_entropy
    loader = nb.load_dataset(options.train, GATE_SIZE, options.batch, seed)
    model = nb.initialize_model(seed=seed, name=options.model).to(device)

    def record(*arguments) -> torch.Tensor:
        losses.append(compute(*arguments))
        return losses[-1]

    def batches() -> Iterator:
        middle, spread = (torch.tensor(x, device=device)[:, None, None] for x in (MEAN, STD))
        for images, labels in forever(loader):
            images = (images.to(device) / 255 - middle) / spread
            yield images.contiguous(), labels.to(device)

    with mock.patch.object(nn.functional, "cross_entropy", record):
        if plain:
            model.to(memory_format=torch.contiguous_format)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
            steps = train(nb, model, batches(), optimizer, low=False, read=True)
            list(itertools.islice(steps, GATE_STEPS))
        else:
            nb.train_model(model, loader, GATE_STEPS)
    return [loss.item() for loss in losses]


def distance(a: list[float], b: list[float]) -> float:
    return mean(abs(x - y) for x, y in zip(a, b, strict=True))


def measure_augment(options: argparse.Namespace) -> None:
    """Time augment.py's start and its work, with one and two workers, and a plain loop."""
    photo, output = next(options.train.glob("*/*")), options.work / "copies"
    copy = options.work / "one" / photo.parent.name / photo.name
    copy.parent.mkdir(parents=True)
    shutil.copy(photo, copy)
    command = [sys.executable, ROOT / "augment.py", copy.parent.parent, output]
    jobs = {
        "start-up": partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL),
        "1 worker": partial(augment_folder, options.train, output, COPIES, workers=1),
        "2 workers": partial(augment_folder, options.train, output, COPIES, workers=2),
        "plain loop": partial(augment_plainly, options.train, output),
    }
    jobs = {name: partial(seconds_of, job, output) for name, job in jobs.items()}
    seconds, errors = in_turns(jobs, options.rounds)
    copies = COPIES * len(list(options.train.glob("*/*")))
    for name in jobs.keys() & seconds.keys() - {"start-up"}:
        rates = [copies / second for second in seconds[name]]
        print(f"  {name:24} {show(rates, '.1f')} copies/s, {copies} copies")
    print(f"  {'start-up':24} {show(seconds.get('start-up', []))} s for one image")
    print_errors(errors)
    if options.large:
        measure_large(options)
    judge("augment: 1 worker / plain loop", ratios(seconds, "plain loop", "1 worker"), "≥", 1)
    judge("augment: 2 workers / 1 worker", ratios(seconds, "1 worker", "2 workers"), "≥", 1.8)


def seconds_of(work: Callable, output: Path) -> float:
    """Return the seconds that some work takes which fills a folder; that is emptied before."""
    shutil.rmtree(output, ignore_errors=True)
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def augment_plainly(source: Path, output: Path) -> None:
    """Make copies one by one: decode, AugLy's operations, save."""
    rng = random.Random(0)
    for photo in source.glob("*/*"):
        (output / photo.parent.name).mkdir(parents=True, exist_ok=True)
        image = load_image(photo)[1]
        image.thumbnail((COPY_SIDE, COPY_SIDE))
        for number in range(COPIES):
            copy, _ = augment_image(image, rng)
            copy.save(output / photo.parent.name / f"{photo.stem}_{number}.jpg", quality=95)


def measure_large(options: argparse.Namespace) -> None:
    """Compare the time per image of many small photos with that of few, measured once."""
    costs = {}
    for count in (FEW, options.large):
        *costs[count], before, peak = Worker()(cost_of, count, options.work / str(count))
        named = zip(("prepare", "search for duplicates", "augment"), costs[count], strict=True)
        parts = ", ".join(f"{name} {1000 * cost / count:.2f}" for name, cost in named)
        print(f"  {count} small photos, ms per image: {parts}; largest process {peak:.2f} GB")
        print(f"  (a process that has imported torch, as here, starts with {before:.2f} GB)")
    for part, name in ((0, "prepare without search"), (2, "augment")):
        times = costs[options.large][part] / options.large / (costs[FEW][part] / FEW)
        judge(f"{name}, time per image / that of {FEW}", [times], "≤", 1.2)
    judge("largest process, GB", [peak], "≤", 1.5)


def cost_of(count: int, folder: Path) -> tuple[float, ...]:
    """Return seconds of preparing, of its search and of augmenting; GB before, GB at most."""
    for number in range(count):
        save_photo(folder / "pool" / ("cats", "dogs")[number % 2] / f"{number}.jpg", number)
    before, marks = peak_memory(), [time.perf_counter()]

    def search(photos: list) -> list:
        marks.append(time.perf_counter())
        found = find_duplicates(photos)
        marks.append(time.perf_counter())
        return found

    with mock.patch("data.prepare.find_duplicates", search):
        prepare_dataset(str(folder / "pool"), folder / "data")
    marks.append(time.perf_counter())
    augmented = augment_folder(folder / "pool", folder / "copies", COPIES).seconds
    start, searching, found, end = marks
    return searching - start + end - found, found - searching, augmented, before, peak_memory()


def peak_memory() -> float:
    """Return the most memory that this process or one that it has ended ever held, in GB."""
    unit = 1e9 if sys.platform == "darwin" else 1e6
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return max(resource.getrusage(who).ru_maxrss for who in whose) / unit


def measure_peers(options: argparse.Namespace) -> None:
    """Time the libraries' loops and ours, on batches of the same images."""
    fresh, keeping = Worker(), Worker(initializer=keep_memory)
    jobs = {OURS: partial(keeping, time_loop, OURS, options)}
    jobs |= {name: partial(fresh, time_loop, name, options) for name in PEERS}
    seconds, errors = in_turns(jobs, options.rounds)
    for name, times in seconds.items():
        print(
            f"  {name:24}{median(times):6.3f} s/step, {show(ratios(seconds, name, OURS))} of ours"
        )
    print_errors(errors)
    fastest = min(PEERS.keys() & seconds.keys(), key=lambda name: median(seconds[name]), default="")
    judge(f"peers: the fastest, {fastest} / ours", ratios(seconds, fastest, OURS), "≥", 1)


def measure_answer(options: argparse.Namespace) -> None:
    """Print the minutes of training in one repeat of the experiment, by arms and network."""
    nb, keeping = define_notebook(), Worker(initializer=keep_memory)
    choices = {
        name: argparse.Namespace(**vars(options) | {"model": name}) for name in options.models
    }
    jobs = {name: partial(keeping, time_loop, OURS, choice) for name, choice in choices.items()}
    seconds, errors = in_turns(jobs, options.rounds)
    config = SimpleNamespace(copies=COPIES, num_epochs=EPOCHS, batch_size=options.batch)
    arms = ["original", "augmented"], ["original", "augmented", "original_matched"]
    for names in (*arms, ["original", "mixed"]):
        steps = sum(nb.count_steps(arm, PHOTOS, config) for arm in names)
        for name, times in seconds.items():
            minutes = show([second * steps / 60 for second in times], ".1f")
            print(f"  {' + '.join(names):42} {name}: {steps} steps, {minutes} minutes per repeat")
    print_errors(errors)
    took = ", ".join(f"{name} {show(times, '.3f')} s" for name, times in seconds.items())
    print(f"  → answer: a step takes {took}; {PHOTOS} photos, {EPOCHS} epochs, {COPIES} copies")


PARTS = {
    "step": measure_step,
    "gate": measure_gate,
    "augment": measure_augment,
    "peers": measure_peers,
    "answer": measure_answer,
}


def parse_options() -> argparse.Namespace:
    """Return the options, and what follows from them."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add, cuda = parser.add_argument, torch.cuda.is_available()
    add("--only", default=",".join(PARTS), metavar="PART,…", help="default: all of them")
    add("--rounds", type=int, default=5, help="and seeds of the gate (default: 5)")
    add("--batch", type=int, default=32, help="images (default: 32)")
    add("--size", type=int, default=224, help="pixels (default: 224)")
    add("--steps", type=int, default=100 if cuda else 4, help="of a round, after an untimed one")
    add("--model", default="resnet50,resnet18", help="networks for answer, the first for the rest")
    add("--device", default="cuda" if cuda else "cpu")
    add("--photos", type=Path, help="folder with a folder per class, instead of drawings")
    add("--large", type=int, metavar="N", help="augment: also N small photos, and 2,500")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(PARTS):
        parser.error(f"--only {', '.join(unknown)}: not one of {', '.join(PARTS)}")
    options.models = options.model.split(",")
    options.model = options.models[0]
    return options


def main() -> None:
    """Measure the parts that were asked for; one that fails costs none of the others."""
    options = parse_options()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options.work = Path(folder)
        options.train = options.photos or options.work / "drawings"
        if not options.photos:
            draw_dataset(options.train, max(176, options.batch))  # 11 batches, as `augmented` has
        kind = define_notebook().precision(torch.device(options.device))
        print(
            f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, {kind}"
        )
        for name in options.only.split(","):
            print(
                f"{name}: {options.model}, {options.batch} images of {options.size} px", flush=True
            )
            try:
                PARTS[name](options)
            except Exception as error:
                traceback.print_exc()
                print(f"  → {name}: FAILED, {first_line(error)}")


if __name__ == "__main__":
    main()
