"""Where independent work is done: in processes here, or on a Dask cluster."""

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

import cloudpickle
import joblib
from joblib.externals.loky import get_reusable_executor

from data.images import InputError


@contextlib.contextmanager
def processes(count: int | None = None) -> Iterator[None]:
    """Have joblib work in `count` processes, one per core if None; they are gone afterwards.

    Raises:
        InputError: a process was ended from outside.
    """
    ignore = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    try:
        with joblib.parallel_config("loky", n_jobs=count or -1, **ignore):
            yield
    except BrokenProcessPool as error:
        cause = "a process was ended from outside, perhaps for want of memory"
        raise InputError(f"{cause}: run it again, with fewer workers; what is there is kept") from error
    finally:
        get_reusable_executor().shutdown(kill_workers=True)


@contextlib.contextmanager
def cluster(address: str) -> Iterator[None]:
    """Have joblib work on the Dask cluster at an address, whose workers get our code from here.

    Raises:
        InputError: the package is missing, nothing answers, no worker can be used, or all are lost.
    """
    client = connect(address)
    over, lost = threading.Event(), threading.Event()
    threading.Thread(target=watch, args=(client, over, lost), daemon=True).start()
    try:
        with joblib.parallel_config("dask"):
            yield
    except BaseException as error:
        kind = type(error).__name__
        if lost.is_set() or kind in ("KilledWorker", "CommClosedError", "FutureCancelledError"):
            cause = f"scheduler = {address!r}: the work was lost with its workers ({kind})"
            raise InputError(f"{cause}; start them and run this again: it goes on from there") from error
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
    try:
        client = Client(address, timeout=10)
    except Exception as error:
        cure = "start one with: dask scheduler"
        raise InputError(f"scheduler = {address!r}: no Dask scheduler answers; {cure}") from error
    threads = client.nthreads().values()
    if not threads or max(threads) > 1:  # threads of a process share AugLy's and torch's generators
        client.close()
        found = f"a worker has {max(threads)} threads" if threads else "there is no worker"
        cure = f"start them with: dask worker {address} --nthreads 1"
        raise InputError(f"scheduler = {address!r}: {found}; {cure}")
    for name in {"augment", "data"} & set(sys.modules):  # no worker need have them on its path
        cloudpickle.register_pickle_by_value(sys.modules[name])
    return client


def watch(client: object, over: threading.Event, lost: threading.Event) -> None:
    """Interrupt the main thread when the cluster has no worker any more: Dask would wait for ever."""
    missed = 0
    while missed < 3 and not over.wait(5):
        try:
            missed = 0 if client.nthreads() else missed + 1
        except Exception:  # the scheduler does not answer
            missed += 1
    if missed == 3:
        lost.set()
        _thread.interrupt_main()
