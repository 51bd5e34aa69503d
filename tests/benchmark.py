"""How fast the notebook trains and augments here, against the plain loop and other libraries.

Seconds differ from hour to hour. So all is measured in turns, after a round for memory to settle,
and what counts is the median of the rounds' ratios, shown with the least and the greatest.
"""

import argparse
import contextlib
import gc
import io
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from conftest import ROOT, define_notebook, save_photo  # before ours: it puts them on the path
from peers import LIBRARIES
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets, models, transforms

from augment import augment_folder, augment_image
from data.drawings import draw_dataset
from data.images import load_image
from data.notebook.devices import autocast, fast_dtype, keep_memory
from data.notebook.loader import MEAN, STD, count_batches, load_dataset

LADDER = ["plain tutorial loop", "decoded once", "channels last", "low precision"]
LADDER += ["fused Adam, no .item()", "bare step"]  # each with everything before it
BARE, OURS, PRODUCTS = LADDER[-1], "notebook's train_model", ["float32 product", "low product"]
SIDE, GATE_SIZE, GATE_STEPS = 4096, 64, 30  # SIDE: of products
COPIES, EPOCHS, PHOTOS, MANY = 3, 10, 112, 20  # of a repeat; MANY: copies, against start-up
MANY_PHOTOS = 25_000
ARMS = "original augmented", "original augmented original_matched", "original mixed"

notebook = define_notebook()
NORMALISE = transforms.Normalize(MEAN, STD)
spawn = partial(ProcessPoolExecutor, 1, get_context("spawn"))  # a process of its own
RUNNING, MARKS = {}, []  # in a process that measures: its loops, and when their steps ended


def tick(*_, **__):
    """Mark the end of a step, on CUDA without waiting for it."""
    event = torch.cuda.is_initialized() and torch.cuda.Event(enable_timing=True)
    MARKS.append(torch.cuda.current_stream().record_event(event) if event else time.perf_counter())


def time_loop(name, options):
    """Return the seconds per step of a loop, after a step that is not counted."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run = RUNNING[name] = RUNNING.get(name) or LOOPS[name](options)
        gc.collect()
        MARKS.clear()
        run(options.steps + 1)
    first, last, cuda = MARKS[0], MARKS[options.steps], torch.cuda.is_initialized()
    if cuda:
        torch.cuda.synchronize()
    return (first.elapsed_time(last) / 1000 if cuda else last - first) / options.steps


def loop_jobs(names, options):
    """Return {loop: call that times it}, in processes, as to keep memory is a process's own."""
    keeping, pools = spawn(keep_memory), dict.fromkeys(LADDER[:-1], spawn())
    calls = {name: partial(pools.get(name, keeping).submit, time_loop, name) for name in names}
    return {name: lambda call=call: call(options).result() for name, call in calls.items()}


def in_turns(jobs, rounds, settling=1):
    """Call every job once a round; return {name: results} of those that run.

    The rounds of `settling` come before and do not count.
    """
    results = {name: [] for name in jobs}
    for number in range(1 - settling, rounds + 1):
        for name in list(results)[:: -1 if number % 2 else 1]:
            try:
                results[name].append(jobs[name]())
            except Exception as error:
                print(f"  {name:24}DID NOT RUN, {error!r:.160}")
                del results[name]
        print(f"  round {number} of {rounds} done", file=sys.stderr)
    return {name: result[settling:] for name, result in results.items()}


def ratios(results, a, b, factor=1):
    """Return factor × a/b of every round; not a number if one of them did not run."""
    pairs = zip(results.get(a, []), results.get(b, []), strict=False)
    return [factor * x / y for x, y in pairs] or [float("nan")]


def show(values, form=".2f"):
    """Return the median of some values, with the least and the greatest."""
    middle, low, high = (format(f(values), form) for f in (median, min, max))
    return f"{middle} ({low}–{high})"


def judge(what, values, sign, limit, form=".2f"):
    """Print whether the median of some values is at least ("≥") or at most ("≤") a limit."""
    met = median(values) >= limit if sign == "≥" else median(values) <= limit
    print(f"  → {what}: {show(values, form)}, goal {sign} {limit}: {'' if met else 'NOT '}reached")


def prepared(loader, device, layout=torch.channels_last):
    """Yield a loader's batches, epoch after epoch, normalised on the device."""
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for images, labels in loader:
            images = images.to(device)
            if images.dtype == torch.uint8:
                images = NORMALISE(images / 255)
            yield images.contiguous(memory_format=layout), labels.to(device)


def train(model, batches, optimizer, low=True, read=False):
    """Train on batches; `low`: in the notebook's precision, `read`: each loss by .item()."""
    device, total = next(model.parameters()).device, 0.0
    half = low and fast_dtype(device) == torch.float16
    scaler = torch.amp.GradScaler(device.type, 1024, enabled=half)
    model.train()
    for images, labels in batches:
        with autocast(device) if low else contextlib.nullcontext():
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        total += loss.item() if read else 0
        tick()


def notebook_parts(options):
    """Return the notebook's loader, and its network on the device."""
    loader = load_dataset(options.train, options.size, options.batch, options.seed)
    model = notebook.initialize_model(2, options.seed, options.model)
    return loader, model.to(options.device)


def ladder_loop(options, changes):
    """The plain tutorial loop with the first so many changes; the last: one batch for ever."""
    loader, model = notebook_parts(options)
    if not changes:  # every tutorial's loader decodes the JPEG files again in every epoch
        steps = [transforms.Resize([options.size] * 2), transforms.ToTensor(), NORMALISE]
        images = datasets.ImageFolder(options.train, transforms.Compose(steps))
        loader = torch.utils.data.DataLoader(images, options.batch, shuffle=True)
    layout = torch.channels_last if changes > 1 else torch.contiguous_format
    batches = prepared(loader, options.device, layout)
    batches = itertools.repeat(next(batches)) if changes == 5 else batches
    model.to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=changes > 3 or None)
    return lambda n: train(model, itertools.islice(batches, n), optimizer, changes > 2, changes < 4)


def notebook_loop(options):
    """The notebook's own `train_model`; an epoch's end reports its last step once more."""
    loader, model = notebook_parts(options)
    how = {"report": lambda done, _, losses: done > len(losses) * len(loader) and tick()}
    return lambda n: notebook.train_model(model, loader, n, **how)


def product_loop(options, low):
    """Products of two matrices, in float32 or in the notebook's precision."""
    a = torch.randn(SIDE, SIDE).to(options.device, options.precision if low else torch.float32)
    return lambda n: [tick(torch.mm(a, a)) for _ in range(n)]


LOOPS = {name: partial(ladder_loop, changes=number) for number, name in enumerate(LADDER)}
LOOPS |= {name: partial(product_loop, low=low) for low, name in enumerate(PRODUCTS)}
LOOPS |= {OURS: notebook_loop}


def measure_step(options):
    """Time a step of every loop, and what the machine can do."""
    seconds = in_turns(loop_jobs([*LADDER, OURS, *PRODUCTS], options), options.rounds)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        images = torch.empty(options.batch, 3, options.size, options.size)
        models.get_model(options.model, num_classes=2)(images).sum().backward()
    products = counter.get_total_flops() / (2 * SIDE**3)
    print(f"  {'':24}s/step images/s  times plain         times previous      of matrix rate")
    for previous, name in itertools.pairwise((LADDER[0], *LADDER[:-1], OURS, BARE)):
        if name in seconds:
            step, product = median(seconds[name]), PRODUCTS[name not in LADDER[:3]]
            gains = [f"{show(ratios(seconds, x, name)):19}" for x in (LADDER[0], previous)]
            share = show(ratios(seconds, product, name, products), ".0%")
            print(f"  {name:24}{step:6.3f} {options.batch / step:8.1f} ", *gains, share)
    judge("step: our rate / bare step's", ratios(seconds, BARE, OURS), "≥", 0.97, ".3f")


def measure_gate(options):
    """Train from the same weights on the same batches: plainly, and with the notebook's loop."""
    curves, compute = {LADDER[1]: [], OURS: []}, nn.functional.cross_entropy
    for seed, name in itertools.product(range(max(2, options.rounds)), curves):
        chosen = argparse.Namespace(**vars(options) | {"seed": seed, "size": GATE_SIZE})
        with mock.patch.object(nn.functional, "cross_entropy", wraps=compute) as called:
            LOOPS[name](chosen)(GATE_STEPS)
        losses = [compute(logits.detach().float(), y) for (logits, y), _ in called.call_args_list]
        curves[name].append(torch.stack(losses).cpu())
    plain, ours = map(torch.stack, curves.values())  # (seeds, steps)
    for name, losses in (("plain loop in float32", plain), (OURS, ours)):
        ends = losses[:, :5].mean(), losses[:, -5:].mean()
        print("  {:24}loss of the first five steps {:.3f}, the last {:.3f}".format(name, *ends))
    seeds = torch.pdist(plain, 1).mean() / GATE_STEPS  # difference per step, of each two seeds
    judge("gate: ours from plain / seeds", ((ours - plain).abs().mean(1) / seeds).tolist(), "≤", 1)


def measure_augment(options):
    """Time augment.py's start and its work, with one and two workers, and a plain loop."""
    photos, one = sorted(options.train.glob("*/*")), save_photo(options.work / "one/class/0.jpg", 0)
    command = [sys.executable, ROOT / "augment.py", one.parent.parent]
    jobs = {
        "start-up": lambda to: subprocess.run([*command, to], check=True, capture_output=True),
        "1 worker": partial(augment_folder, options.train, copies=MANY, workers=1),
        "2 workers": partial(augment_folder, options.train, copies=MANY, workers=2),
        "plain loop": partial(augment_plainly, photos),
    }
    seconds = in_turns({k: partial(seconds_of, job) for k, job in jobs.items()}, options.rounds)
    for name, times in seconds.items():
        count = 3 if name == "start-up" else MANY * len(photos)
        print(f"  {name:24}{count} copies: {show(times)} s, {count / median(times):.0f} a second")
    print(f"  1 worker / plain loop: {show(ratios(seconds, 'plain loop', '1 worker'))}")
    judge("augment: 2 workers / 1 worker", ratios(seconds, "1 worker", "2 workers"), "≥", 1.8)


def seconds_of(work):
    """Return the seconds that some work takes which fills a folder."""
    with tempfile.TemporaryDirectory() as folder:
        gc.collect()
        start = time.perf_counter()
        work(Path(folder))
        return time.perf_counter() - start


def augment_plainly(photos, output):
    """Make copies one by one: decode, AugLy's operations, save."""
    rng = random.Random(0)
    for photo, number in itertools.product(photos, range(MANY)):
        copy, _ = augment_image(load_image(photo)[1], rng)
        copy.save(output / f"{photo.stem}_{number}.jpg", quality=95)


def measure_peers(options):
    """Time what tests/peers.py says of other libraries, and ours: a process each, in turns."""
    folder = options.work / "peers"
    per_class = options.batch * min(options.steps + 1, 10) // 2
    draw_dataset(folder / "train", per_class)
    draw_dataset(folder / "valid", 2)
    jobs = {name: partial(time_peer, name, folder, options) for name in LIBRARIES}
    # each takes a step before it is timed
    timed = in_turns(jobs, options.rounds, settling=0)
    seconds = {name: [one["seconds"] for one in rounds] for name, rounds in timed.items()}
    print(f"  {'':12}s/step                times ours            start to first step, s")
    for name, times in seconds.items():
        start = show([one["start"] for one in timed[name]], ".1f")
        of_ours = show(ratios(seconds, name, "notebook"))
        print(f"  {name:12}{show(times):22}{of_ours:22}{start}")


def time_peer(name, folder, options):
    """Return {"seconds": of a step, "start": from nothing to the end of the first step}."""
    command = [sys.executable, ROOT / "tests" / "peers.py", name, folder]
    for option in ("steps", "batch", "size"):
        command += [f"--{option}", str(getattr(options, option))]
    start = time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    answer = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": answer["seconds"], "start": answer["first"] - start}


def measure_answer(options):
    """Print the minutes of training in one repeat of the experiment, by network and arms."""
    images = dict.fromkeys(notebook.ARMS, PHOTOS)
    images |= dict.fromkeys(("augmented", "original_matched"), COPIES * PHOTOS)
    chosen = [argparse.Namespace(**vars(options) | {"model": f"resnet{n}"}) for n in (50, 18)]
    jobs = {choice.model: loop_jobs([OURS], choice)[OURS] for choice in chosen}
    seconds = in_turns(jobs, options.rounds)
    for (name, times), arms in itertools.product(seconds.items(), ARMS):
        epochs = [count_batches(images[arm], options.batch) for arm in arms.split()]
        steps = EPOCHS * sum(epochs)
        minutes = show([second * steps / 60 for second in times], ".1f")
        print(f"  {name}, {arms}: {steps} × {median(times):.3f} s = {minutes} minutes a repeat")
    print(f"  → answer: of {PHOTOS} photos, {COPIES} copies of each, {EPOCHS} epochs")


def measure_memory(options):
    """Train on few photos and on many, and read what memory the process holds for itself."""
    held = {}
    for photos in (PHOTOS, MANY_PHOTOS):
        folder = options.work / f"{photos}_photos"
        for number in range(photos):
            save_photo(folder / f"class_{number % 2}" / f"{number}.jpg", seed=number)
        chosen = argparse.Namespace(**vars(options) | {"train": folder})
        with spawn(keep_memory) as process:
            held[photos] = process.submit(hold_memory, chosen).result()
        print(f"  {photos} photos: {held[photos] / 1e9:.2f} GB")
    judge("memory: many photos / few", [held[MANY_PHOTOS] / held[PHOTOS]], "≤", 1.1)


def hold_memory(options):
    """Train for some steps; return the bytes that this process then holds for itself.

    Not the mapped files: the system takes their memory back when it needs room.
    """
    notebook_loop(options)(options.steps)
    # keep_memory gives nothing back, so that this is the most that was ever held
    status = Path("/proc/self/status").read_text()
    kilobytes = re.search(r"RssAnon:\s+(\d+) kB", status)[1]
    return 1024 * int(kilobytes)


PARTS = (measure_step, measure_augment, measure_peers, measure_answer, measure_gate, measure_memory)
PARTS = {part.__name__.removeprefix("measure_"): part for part in PARTS}


def main():
    """Measure the parts that were asked for; one that fails costs none of the others."""
    parser, cuda = argparse.ArgumentParser(description=__doc__), torch.cuda.is_available()
    add = parser.add_argument
    add("--only", default=",".join(PARTS), metavar="PART,…", help="default: all of them")
    add("--rounds", type=int, default=5, help="and seeds of the gate (default: 5)")
    add("--batch", type=int, default=32, help="images (default: 32)")
    add("--size", type=int, default=224, help="pixels (default: 224)")
    add("--steps", type=int, default=100 if cuda else 4, help="of a round, after an untimed one")
    add("--model", default="resnet50", help="of step and gate (default: resnet50)")
    add("--device", default="cuda" if cuda else "cpu")
    options = parser.parse_args(namespace=argparse.Namespace(seed=0))
    options.precision = fast_dtype(torch.device(options.device))
    if unknown := set(options.only.split(",")) - set(PARTS):
        parser.error(f"--only {', '.join(unknown)}: not one of {', '.join(PARTS)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(options)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options.work, options.train = Path(folder), Path(folder, "drawings")
        draw_dataset(options.train, options.batch * max(1, 160 // options.batch))  # whole batches
        for name in (name for name in PARTS if name in options.only.split(",")):
            print(f"{name}: {PARTS[name].__doc__}", flush=True)
            try:
                PARTS[name](options)
            except Exception as error:
                print(f"  → {name}: FAILED, {error!r:.160}")


if __name__ == "__main__":
    main()
