"""Where independent work is done: in processes here, or on a Dask cluster."""

import _thread
import contextlib
import gc
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from pathlib import Path

import cloudpickle
import joblib
from joblib.externals.loky import get_reusable_executor

from data.files import InputError

# Not the folder's true place, should it be a link: modules are compared by how they were found.
PROJECT = Path(__file__).absolute().parent.parent
# What wakes the main thread when a cluster is lost: a job in the background may ignore SIGINT.
LOST = getattr(signal, "SIGUSR1", signal.SIGINT)
# Errors by which Dask says that work was lost with the worker or the scheduler that did it.
LOST_ERRORS = ("KilledWorker", "CommClosedError", "FutureCancelledError")


@contextlib.contextmanager
def processes(count: int | None = None) -> Iterator[Callable]:
    """Have joblib work in `count` processes, one per core if None; they are gone afterwards.

    Where the system has no semaphores (a read-only /dev/shm), joblib works in this process alone,
    and says so.

    Yields a function to be called with what they are to run, as `cluster` does.

    Raises:
        InputError: a process was ended from outside.
    """
    # or the tracker of joblib's processes may name what a Ctrl-C left, and removed
    quiet = "ignore:resource_tracker"
    if quiet not in sys.warnoptions:
        sys.warnoptions.append(quiet)
    try:
        with (
            interrupts_here(),
            joblib.parallel_config(
                "loky",
                n_jobs=count or -1,
                initializer=signal.signal,
                initargs=(signal.SIGINT, signal.SIG_IGN),
            ),
        ):
            yield lambda function: function
    except BrokenProcessPool as error:
        raise InputError(
            "a process was ended from outside, perhaps for want of memory: "
            "run it again, with fewer workers; what is there is kept"
        ) from error
    finally:
        # which is made here if there is none; without semaphores that fails
        with contextlib.suppress(OSError):
            get_reusable_executor().shutdown(kill_workers=True)


@contextlib.contextmanager
def interrupts_here() -> Iterator[None]:
    """Keep Ctrl-C from processes that start meanwhile, until they can ignore it themselves.

    They inherit what this thread blocks; another one that waits takes it, on this one's behalf.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # its start would end the blocking
    resource_tracker.ensure_running()
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
    over = threading.Event()
    lost = threading.Event()
    handler = signal.signal(LOST, signal.default_int_handler)
    threading.Thread(target=watch, args=(client, over, lost), daemon=True).start()
    try:
        with joblib.parallel_config("dask", n_jobs=-1):
            yield pack
    except BaseException as error:
        kind = type(error).__name__
        if lost.is_set() or kind in LOST_ERRORS:
            raise InputError(
                f"scheduler = {address!r}: the work was lost with its workers ({kind}); "
                "start them and run this again: it goes on from there"
            ) from error
        if kind == "InputError" and not isinstance(error, InputError):
            # unpickled from a worker: another class of that name
            raise InputError(error) from error
        raise
    finally:
        over.set()
        client.close()
        # None: that of a library in C, which Python cannot set again
        if handler is not None:
            signal.signal(LOST, handler)


def connect(address: str) -> object:
    """Return a `distributed.Client`; raise InputError if the cluster cannot be used."""
    try:
        from distributed import Client
    except ImportError:
        raise InputError("a cluster needs Dask here as well: pip install distributed") from None
    # a half-made client would close itself while the next one is made, and lock both
    gc.collect()
    try:
        client = Client(address, timeout=10)
    except Exception:
        client = None
    if client is None:
        # not in the handler, where the error still holds the half-made client
        gc.collect()
        raise InputError(
            f"scheduler = {address!r}: no Dask scheduler answers; start one with: dask scheduler"
        )
    refuse_workers(client, address)
    # no worker need have the project on its path
    for module in find_modules(PROJECT):
        cloudpickle.register_pickle_by_value(module)
    return client


def refuse_workers(client: object, address: str) -> None:
    """Close the client and raise InputError where there is no worker, or one of several threads."""
    threads = client.nthreads().values()
    if not threads:
        found = "there is no worker"
    elif max(threads) > 1:
        # the threads of a process share AugLy's and torch's generators
        found = f"a worker has {max(threads)} threads"
    else:
        return
    client.close()
    raise InputError(
        f"scheduler = {address!r}: {found}; start them with: dask worker {address} --nthreads 1"
    )


def find_modules(folder: Path) -> list[types.ModuleType]:
    """Return the imported modules whose files lie below a folder, but for installed ones."""
    environments = [Path(prefix) for prefix in {sys.prefix, sys.base_prefix}]
    # an environment in the folder, such as .venv
    within = [place for place in environments if place.is_relative_to(folder)]
    found = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not Path(file).is_relative_to(folder):
            continue
        installed = any(Path(file).is_relative_to(place) for place in within)
        # of another environment, such as one that is not active
        installed = installed or "site-packages" in Path(file).parts
        if not installed:
            found.append(module)
    return found


def pack(function: Callable) -> Callable:
    """Return a function that takes its code along; one that cannot fails here: Dask would hang."""
    cloudpickle.dumps(function)
    return joblib.wrap_non_picklable_objects(function)


def watch(client: object, over: threading.Event, lost: threading.Event) -> None:
    """Interrupt the main thread when the cluster has no worker left: Dask would wait for ever."""
    missed = 0
    while missed < 3 and not over.wait(5):
        try:
            workers = client.nthreads()
        except Exception:
            # the scheduler does not answer
            workers = {}
        missed = 0 if workers else missed + 1
    if missed == 3:
        lost.set()
        _thread.interrupt_main(LOST)
