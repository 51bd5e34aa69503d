"""What the result of a run follows from, as one key: settings, pictures, versions and the code.

The code is every function, class and constant that the run's function reaches, however many calls
away, as far as it is the page's or lies in the project's folder. It is compared by its syntax tree:
comments, docstrings and line breaks count for nothing. Of libraries the version counts.

Python reads a module once. So what counts of its file is the text that it was imported from, and
edits count after a restart.
"""

import ast
import dis
import functools
import hashlib
import inspect
import io
import symtable
import sys
import textwrap
import tokenize
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import joblib

from data.files import InputError
from data.images import find_files, is_image

PROJECT = Path(__file__).resolve().parents[2]
# what a run does not see of the settings: the pictures' digests speak for what made them
UNSEEN_SETTINGS = {
    "arms",
    "copies",
    "data_dir",
    "dataset",
    "drop_duplicates",
    "group",
    "operations",
    "repeats",
    "results_dir",
    "seed",
    "subset",
    "train_ratio",
}
# what Python itself puts into every class
GENERATED = {
    "__annotations__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__qualname__",
    "__static_attributes__",
    "__weakref__",
}
# values whose identity says nothing: Python may or may not keep equal ones once
ATOMS = (bool, bytes, complex, float, int, str, tuple, types.NoneType)


# {file: the text that it was imported from}
SOURCES: dict[str, str] = {}


def key_of_run(
    run_arm: Callable,
    arm: str,
    seed: int,
    pictures: Mapping[str, str],
    config: types.SimpleNamespace,
    environment: list,
) -> str:
    """Return a hash (16 hexadecimal digits) of all that the result of a run follows from.

    Args:
        run_arm: makes the run; of the tables ARMS and SCHEDULES that it reads, only what the arm
            and the setting name counts.
        pictures: {path: digest} of every image that the run reads.
        environment: what else counts, such as precision and number of threads.
    """
    settings = {}
    for name, value in vars(config).items():
        if name not in UNSEEN_SETTINGS:
            settings[name] = value
    page = inspect.unwrap(run_arm).__globals__
    # of tables that a run chooses from, what it chose
    chosen = {"ARMS": page["ARMS"][arm]}
    if "SCHEDULES" in page:
        chosen["SCHEDULES"] = page["SCHEDULES"][config.schedule]
    code = describe_code(run_arm, constants=chosen)
    whole = [arm, seed, sorted(pictures.items()), sorted(settings.items()), environment, code]
    return hashlib.sha256(repr(whole).encode()).hexdigest()[:16]


def digest_images(folder: Path) -> dict[str, str]:
    """Return {path below a folder: SHA-256 of its bytes} of its images, and of their manifest."""
    digests = {}
    for file in find_files(folder):
        if is_image(file) or file.name == "manifest.csv":
            path = file.relative_to(folder).as_posix()
            digests[path] = hashlib.sha256(file.read_bytes()).hexdigest()
    return digests


def describe_code(function: Callable, constants: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return (name, description) of a function and of all that it reaches, nearest first.

    Args:
        constants: what counts in the place of the page's global values, by name.

    Raises:
        InputError: a module was edited since it was imported.
    """
    page = inspect.unwrap(function).__globals__
    parts = []
    seen = {}
    waiting = [(function.__name__, function)]
    while waiting:
        name, value = waiting.pop(0)
        if id(value) in seen:
            number, _ = seen[id(value)]
            parts.append((name, f"part {number}"))
            continue
        if not isinstance(value, ATOMS):
            # the value is kept, so that no other can get its id
            seen[id(value)] = (len(parts), value)
        text, reached = describe(value, page)
        parts.append((name, text))
        for inner_name, inner in reached:
            waiting.append((inner_name, constants.get(inner_name, inner)))
    return parts


def describe(value: object, page: dict) -> tuple[str, list[tuple[str, object]]]:
    """Return what a value is, as text, and the (name, value) of what it reaches.

    Args:
        page: the globals of the page.
    """
    # below decorators that keep the function, such as torch.inference_mode()
    if hasattr(value, "__wrapped__") and callable(value):
        value = inspect.unwrap(value)
    if isinstance(value, staticmethod | classmethod | types.MethodType):
        value = value.__func__

    if isinstance(value, types.FunctionType) and is_own(value.__module__, page):
        return describe_function(value, page)
    if isinstance(value, type) and is_own(value.__module__, page):
        return describe_class(value)
    if isinstance(value, types.ModuleType) and is_own(value.__name__, page):
        return describe_module(value)
    if isinstance(value, types.ModuleType):
        return f"{value.__name__} {version_of(value.__name__)}", []
    if isinstance(value, dict):
        return f"dict of {len(value)}", [(repr(key), item) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}", [("item", item) for item in value]
    if isinstance(value, set | frozenset):
        return f"set {sorted(map(repr, value))}", []
    if isinstance(value, functools.partial):
        return "partial", [("func", value.func), ("args", value.args), ("kw", value.keywords)]
    if isinstance(value, property):
        return "property", [("fget", value.fget), ("fset", value.fset)]
    if isinstance(value, ATOMS):
        return repr(value), []
    if hasattr(value, "__qualname__"):
        # of a library
        module = getattr(value, "__module__", None) or "builtins"
        return f"{module}.{value.__qualname__} {version_of(module)}", []
    return hash_object(value), [("class", type(value))]


def describe_module(module: types.ModuleType) -> tuple[str, list[tuple[str, object]]]:
    reached = []
    for name, value in vars(module).items():
        # of other values the module's text tells how they were made
        if isinstance(value, types.FunctionType | types.ModuleType | type):
            reached.append((name, value))
    return dump(read_source(module.__file__)), reached


def describe_function(
    function: types.FunctionType, page: dict
) -> tuple[str, list[tuple[str, object]]]:
    code = function.__code__
    try:
        source = textwrap.dedent(find_source(function, page))
        text = dump(source)
        names = find_global_names(source)
    except (OSError, SyntaxError):
        # made by a library, like a dataclass's, or a lambda within a longer line
        text = repr(summarize_code(code))
        names = sorted(code.co_names)
    reached = []
    for name in names:
        if name in function.__globals__:
            reached.append((name, function.__globals__[name]))
    for value in [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]:
        reached.append(("default", value))
    for cell in function.__closure__ or ():
        reached.append(("closure", cell.cell_contents))
    return text, reached


def describe_class(owned: type) -> tuple[str, list[tuple[str, object]]]:
    reached = [("base", base) for base in owned.__bases__]
    for name, value in vars(owned).items():
        if name not in GENERATED:
            reached.append((name, value))
    return f"class {owned.__qualname__}", reached


def find_source(function: types.FunctionType, page: dict) -> str:
    """Return the source of a function as it runs.

    Raises:
        InputError: its file was edited between its import and now, when it is first asked for.
        OSError, SyntaxError: it has no source of its own.
    """
    file = function.__code__.co_filename
    if function.__module__ == page["__name__"] or not Path(file).is_file():
        # a cell, or made by a library, like a dataclass's
        return inspect.getsource(function)
    code = find_code(function.__code__)
    lines = io.StringIO(read_source(file)).readlines()
    return "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))


def read_source(file: str) -> str:
    """Return a file's text, the same in this process whatever becomes of the file."""
    if file not in SOURCES:
        SOURCES[file] = read_text(file)
    return SOURCES[file]


def read_text(file: str) -> str:
    with tokenize.open(file) as opened:
        return opened.read()


def remember_sources() -> None:
    """Read the files of the project's modules that are imported."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py") and Path(file).is_relative_to(PROJECT / "data"):
            read_source(file)


# now, before anybody edits them
remember_sources()


def find_code(running: types.CodeType) -> types.CodeType:
    """Return the code of a function as it stands in its file, perhaps on another line."""
    file = running.co_filename
    wanted = summarize_code(running)
    # IPython's autoreload gives functions the code of an edited file
    for text in (read_source(file), read_text(file)):
        found = []
        for code in compile_text(text, file):
            if code.co_qualname == running.co_qualname and summarize_code(code) == wanted:
                found.append(code)
        if found:
            SOURCES[file] = text
            return min(found, key=lambda code: abs(code.co_firstlineno - running.co_firstlineno))
    name = Path(file).name
    raise InputError(f"{name} was edited while it was in use: restart the kernel, run again")


@functools.cache
def compile_text(text: str, file: str) -> list[types.CodeType]:
    """Return the code of everything in a file, functions within functions included."""
    try:
        found = [compile(text, file, "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return []
    # the list grows while it is gone through
    for code in found:
        found.extend(part for part in code.co_consts if isinstance(part, types.CodeType))
    return found


@functools.cache
def summarize_code(code: types.CodeType) -> list[tuple[str, str]]:
    """Return what code does, step by step, wherever in a file it stands; without docstring."""
    steps = []
    for instruction in dis.get_instructions(code):
        value = instruction.argval
        if isinstance(value, types.CodeType):
            value = summarize_code(value)
        elif isinstance(value, frozenset):
            value = sorted(map(repr, value))
        steps.append((instruction.opname, repr(value)))
    return steps


@functools.cache
def dump(source: str) -> str:
    """Return the syntax tree of some code as text, without docstrings."""
    tree = ast.parse(source)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)


@functools.cache
def find_global_names(source: str) -> list[str]:
    """Return the names that some code reads from outside, decorators and defaults included."""
    outermost = symtable.symtable(source, "code", "exec")
    names = set()
    tables = [outermost]
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        for symbol in table.get_symbols():
            outside = table is outermost or symbol.is_global()
            if outside and symbol.is_referenced():
                names.add(symbol.get_name())
    return sorted(names)


def is_own(module_name: str | None, page: dict) -> bool:
    """Tell whether a module is the page, or lies in the project's folder."""
    if module_name == page["__name__"]:
        return True
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    return path.is_relative_to(PROJECT) and "site-packages" not in path.parts


def version_of(module_name: str) -> str:
    """Return the version of the package that a module belongs to; "" if it has none."""
    package = sys.modules.get(module_name.split(".")[0])
    return str(getattr(package, "__version__", ""))


def hash_object(value: object) -> str:
    """Return a text that is equal for equal objects of one kind, as far as they can be pickled."""
    kind = type(value)
    try:
        content = joblib.hash(value)
    except Exception:
        # such as an open file or a lock: its kind has to do
        content = ""
    return f"{kind.__module__}.{kind.__qualname__} {content}"
