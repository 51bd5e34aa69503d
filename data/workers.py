"""Where independent work is done, in processes here or on a Dask cluster, and how far it is."""

import _thread
import contextlib
import ctypes
import gc
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from pathlib import Path

import cloudpickle
import joblib
from joblib.externals.loky import get_reusable_executor

from data.files import InputError

LOST = getattr(signal, "SIGUSR1", signal.SIGINT)  # a job in the background may ignore SIGINT


@contextlib.contextmanager
def processes(count: int | None = None) -> Iterator[Callable]:
    """Have joblib work in `count` processes, one per core if None; they are gone afterwards.

    Yields a function to be called with what they are to run, as `cluster` does.

    Raises:
        InputError: a process was ended from outside.
    """
    ignore = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    if (quiet := "ignore:resource_tracker") not in sys.warnoptions:
        sys.warnoptions.append(quiet)  # or loky's tracker may name what a Ctrl-C left, and removed
    try:
        with interrupts_here(), joblib.parallel_config("loky", n_jobs=count or -1, **ignore):
            yield lambda function: function
    except BrokenProcessPool as error:
        cause = "a process was ended from outside, perhaps for want of memory"
        raise InputError(
            f"{cause}: run it again, with fewer workers; what is there is kept"
        ) from error
    finally:
        get_reusable_executor().shutdown(kill_workers=True)


@contextlib.contextmanager
def interrupts_here() -> Iterator[None]:
    """Keep Ctrl-C from processes that start meanwhile, until they can ignore it themselves.

    They inherit what this thread blocks; another one that waits takes it, on this one's behalf.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would end the blocking
    over = threading.Event()
    threading.Thread(target=over.wait, daemon=True).start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        over.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[Callable]:
    """Have joblib work on the Dask cluster at an address, or here without one.

    Yields a function to be called with what the workers are to run: they get its code from here.

    Raises:
        InputError: the package is missing, nothing answers, no worker can be used, or all are lost.
    """
    if not address:
        yield lambda function: function
        return
    client = connect(address)
    over, lost = threading.Event(), threading.Event()
    signal.signal(LOST, signal.default_int_handler)
    threading.Thread(target=watch, args=(client, over, lost), daemon=True).start()
    try:
        with joblib.parallel_config("dask", n_jobs=-1):
            yield pack
    except BaseException as error:
        kind = type(error).__name__
        if lost.is_set() or kind in ("KilledWorker", "CommClosedError", "FutureCancelledError"):
            cause = f"scheduler = {address!r}: the work was lost with its workers ({kind})"
            raise InputError(
                f"{cause}; start them and run this again: it goes on from there"
            ) from error
        if kind == "InputError" and not isinstance(error, InputError):  # unpickled, another class
            raise InputError(error) from error
        raise
    finally:
        over.set()
        client.close()


def connect(address: str) -> object:
    """Return a `distributed.Client`; raise InputError if the cluster cannot be used."""
    try:
        from distributed import Client
    except ImportError:
        raise InputError("a cluster needs Dask here as well: pip install distributed") from None
    client = None
    gc.collect()  # a half-made client would close itself while this one is made, and lock both
    with contextlib.suppress(Exception):
        client = Client(address, timeout=10)
    if client is None:
        gc.collect()
        cure = "start one with: dask scheduler"
        raise InputError(f"scheduler = {address!r}: no Dask scheduler answers; {cure}")
    threads = client.nthreads().values()
    if not threads or max(threads) > 1:  # threads of a process share AugLy's and torch's generators
        client.close()
        found = f"a worker has {max(threads)} threads" if threads else "there is no worker"
        cure = f"start them with: dask worker {address} --nthreads 1"
        raise InputError(f"scheduler = {address!r}: {found}; {cure}")
    for name in {"augment", "data"} & set(sys.modules):  # no worker need have them on its path
        cloudpickle.register_pickle_by_value(sys.modules[name])
    return client


def pack(function: Callable) -> Callable:
    """Return a function that takes its code along; one that cannot fails here: Dask would hang."""
    cloudpickle.dumps(function)
    return joblib.wrap_non_picklable_objects(function)


def watch(client: object, over: threading.Event, lost: threading.Event) -> None:
    """Interrupt the main thread when the cluster has no worker left: Dask would wait for ever."""
    missed = 0
    while missed < 3 and not over.wait(5):
        try:
            missed = 0 if client.nthreads() else missed + 1
        except Exception:  # the scheduler does not answer
            missed += 1
    if missed == 3:
        lost.set()
        _thread.interrupt_main(LOST)


def show_progress(name: str, log: Path) -> Callable[[int, int, list[float]], None]:
    """Return a function to be called with (steps done, steps in all, losses of the epochs so far).

    It keeps one line in the notebook up to date, and adds a line per epoch to the file `log`.
    """
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    display = sys.modules["IPython"].display.display if shell else lambda *_, **__: None
    line = display({"text/plain": name}, raw=True, display_id=True)
    start, first, shown, epochs = time.monotonic(), 0, 0.0, 0

    def report(done: int, steps: int, losses: list[float]) -> None:
        nonlocal first, shown, epochs
        now, first = time.monotonic() - start, first or done  # a run that goes on starts late
        left = now / (done - first + 1) * (steps - done)
        loss = f"loss {losses[-1]:.4f}, " if losses else ""
        text = f"{name}: {done}/{steps} steps, {loss}{now:.0f} s, {left:.0f} s left"
        if line and (now - shown > 0.5 or done == steps):
            shown = now
            line.update({"text/plain": text}, raw=True)
        if len(losses) > epochs:
            epochs = len(losses)
            if not line:
                print(text, flush=True)
            with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
                print(time.ctime(), text, sep=", ", file=file)

    return report


def keep_memory() -> None:
    """Have this process keep the memory that it frees, on Linux with glibc.

    Training frees as much at every step as it then asks for again, page by page: 2.60 → 2.41 s a
    step of ResNet-50 on two cores.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap as well
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: and the heap never shrinks


@contextlib.contextmanager
def memory_for_training(image_size: int) -> Iterator[None]:
    """Keep memory for the next step; where it is lacking, on a GPU or here, raise InputError."""
    keep_memory()
    try:
        yield
    except RuntimeError as error:  # torch's, of several kinds
        if any(text in str(error) for text in ("out of memory", "allocate memory")):
            cure = f"lower batch_size or image_size ({image_size})"
            raise InputError(f"no memory: {cure}") from error
        raise
