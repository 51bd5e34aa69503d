"""Files: written whole or not at all, one run at a time in a folder, lines safe to print."""

import contextlib
import errno
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

# what `flock` says on network file systems that have no locks
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}

SOFT_LOCK = ".softlock"


class InputError(ValueError):
    """Something the user gave cannot be used. Shown as its one line, without a traceback."""

    def __init__(self, text: object):
        super().__init__(one_line(text))

    # Jupyter asks for it
    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def one_line(text: object) -> str:
    """Return a text that is safe to print: one line, without control characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return " ".join(printable.split())


def how_many(number: int, singular: str, plural: str = "") -> str:
    """Return how many there are: 1 image, 2 images; 1 copy, 3 copies."""
    if number == 1:
        return f"1 {singular}"
    return f"{number} {plural or singular + 's'}"


def expand(path: str | Path) -> str:
    """Return a path with the home folder for `~`."""
    return os.path.expanduser(path)  # noqa: PTH111, which fails for an unknown ~user


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file, text in UTF-8, so that it is there whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    if isinstance(content, str):
        content = content.encode()
    # of a fixed length: beside a name as long as the file system takes, another still fits
    mark = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    unfinished = path.with_name(f".{mark}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise cannot_be_written(path, error) from error


def cannot_be_written(path: Path, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"{path}: cannot be written, {reason}")


def remove_unfinished(folder: Path) -> None:
    """Sweep up what a killed run left half-written."""
    sixteen_digits = "[0-9a-f]" * 16
    for path in folder.rglob(f".{sixteen_digits}.unfinished"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Make a folder and keep other runs out of it meanwhile.

    Raises:
        InputError: another run is using it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
    except Timeout as error:
        cure = "wait, shut its kernel down or choose another folder"
        if Path(error.lock_file).name == SOFT_LOCK:
            cure = f"{cure}; if no run is, delete {error.lock_file}"
        raise InputError(f"{folder}: another run is using it: {cure}") from None
    except OSError as error:
        raise cannot_be_written(folder, error) from error
    try:
        yield
    finally:
        # The file stays: one run could hold a deleted file, and the next a new one.
        lock.release()


def lock_folder(folder: Path) -> BaseFileLock:
    """Lock a folder, or raise filelock's `Timeout` at once if another process holds it.

    The locks are singletons, so that this process may lock a folder again while it holds it.
    """
    try:
        lock = FileLock(folder / ".lock", is_singleton=True)
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        # a file that is there while it is held, and stays after a crash
        lock = SoftFileLock(folder / SOFT_LOCK, is_singleton=True)
        lock.acquire(timeout=0)
    return lock


def refuse_case_twins(names: Iterable[str], folder: Path) -> None:
    """Raise InputError if names with slashes, such as a/b.jpg, would be one file or folder.

    That is so where they differ only in case, and the file system of `folder` folds it.
    """
    spelled: dict[str, str] = {}
    twins = []
    for name in names:
        path = PurePosixPath(name)
        for whole_or_part in (path, *path.parents):
            spelling = str(whole_or_part)
            first_spelling = spelled.setdefault(spelling.casefold(), spelling)
            if spelling != first_spelling:
                twins.append(f"{first_spelling} and {spelling}")
    if twins and folds_case(folder):
        # rather folders than what is in them
        shortest = min(twins, key=len)
        raise InputError(
            f"{folder}: {shortest} differ only in case, which this file system does not tell "
            f"apart: rename one, or use another disk"
        )


def folds_case(folder: Path) -> bool:
    """Tell whether a folder's file system takes names for one that differ only in case."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".case") as file:
        path = Path(file.name)
        return path.with_name(path.name.swapcase()).exists()


def print_any_name() -> None:
    """Have a terminal or file replace characters that its code page lacks, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
