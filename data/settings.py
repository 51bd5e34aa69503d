"""The notebook's settings: what is allowed, and which come from the environment."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from data.files import InputError, expand, one_line, print_any_name

# Free texts. `group` may be empty, `subset` too, or None: that of the default data set.
NAMES = ("dataset", "subset", "data_dir", "results_dir", "group")
# Least and most, of the type of the setting.
LIMITS = {
    "train_ratio": (0.5, 0.95),
    "copies": (1, 1000),
    "image_size": (32, 1024),
    "batch_size": (2, 65536),
    "num_epochs": (1, 100_000),
    "learning_rate": (1e-9, 1.0),
    "weight_decay": (0.0, 1000.0),
    "repeats": (1, 1000),
    "seed": (0, 2**31 - 1),
}
# Settings that take several of their choices, separated by commas.
SEVERAL = ("arms", "operations")
YES_AND_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_settings(
    values: Mapping, environ: Mapping[str, str], **choices: Iterable[str]
) -> SimpleNamespace:
    """Return the settings, from the environment where it has them in capitals, else `values`.

    Args:
        values: of every setting, by name; what else is in it does not matter.
        environ: as `os.environ`.
        choices: what is allowed for further settings, by name; for `operations` also nothing.

    Raises:
        InputError: a value cannot be used; the message names it and what is allowed.
    """
    config = SimpleNamespace()
    from_environment = []
    for name in [*NAMES, *LIMITS, "drop_duplicates", *choices]:
        value = values[name]
        if name.upper() in environ:
            value = environ[name.upper()]
            from_environment.append(name)
        setattr(config, name, check_setting(name, value, choices.get(name)))
    check_places(config)
    print_any_name()
    if from_environment:
        found = ", ".join(f"{name} = {getattr(config, name)!r}" for name in from_environment)
        print(one_line(f"from the environment, whatever the cell above says: {found}"))
    return config


def check_places(config: SimpleNamespace) -> None:
    """Raise InputError where results would lie in the data set, and be a class of the next run."""
    try:
        dataset = Path(expand(config.dataset)).resolve(strict=True)
    except (OSError, ValueError):
        # a handle, or what prepare_dataset will refuse
        return
    results = Path(expand(config.results_dir)).resolve()
    if dataset.is_dir() and results.is_relative_to(dataset):
        raise InputError(
            f"results_dir = {config.results_dir!r}: lies in the data set ({dataset}): choose "
            "another folder"
        )


def check_setting(name: str, value: object, choices: Iterable[str] | None = None) -> object:
    """Return a setting as it is used: a number, a text, or True or False.

    Args:
        name: of the setting.
        value: as given, in the notebook's cell or as text.
        choices: for a setting that is neither a number nor a free text.

    Raises:
        InputError: the value cannot be used; the message names it and what is allowed.
    """
    meant = unwrap(value)
    try:
        if name in LIMITS:
            return check_number(name, meant)
        if name == "drop_duplicates":
            return check_yes_or_no(meant)
        if choices is not None:
            return check_choice(name, meant, list(choices))
        return check_text(name, meant)
    except ValueError as allowed:
        raise InputError(f"{name} = {value!r}: must be {allowed}") from None


def unwrap(value: object) -> object:
    """Return a text without what files of settings leave around it: blanks, \\r, quotes."""
    if not isinstance(value, str):
        return value
    text = value.strip(" \t\r")
    is_quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text


def check_number(name: str, value: object) -> int | float:
    """Return a number within the limits of a setting; else a ValueError says what is allowed."""
    least, most = LIMITS[name]
    kind = type(least)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        number = kind(value)
        # int() alone would make 2 of 2.5
        is_exact = number == float(value)
        if is_exact and least <= number <= most:
            return number
    noun = "whole number" if kind is int else "number"
    raise ValueError(f"a {noun} from {least:g} to {most:g}")


def check_yes_or_no(value: object) -> bool:
    """Return True or False, also of a text that means it; else raise ValueError."""
    word = str(value).lower()
    if word not in YES_AND_NO:
        raise ValueError("one of true, false")
    return YES_AND_NO[word]


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Return one of the choices, or several with commas between them, as the choices are written.

    Upper and lower case are the same, unless two choices differ in nothing else. A ValueError says
    what is allowed.
    """
    any_case = {choice.lower(): choice for choice in choices}
    words = [word.strip(" ") for word in str(value).split(",")]
    if words == [""] and name == "operations":
        return ""
    chosen = []
    for word in words:
        choice = word if word in choices else any_case.get(word.lower())
        if choice is not None and choice not in chosen:
            chosen.append(choice)
    # an unknown one, or the same one twice, is missing now
    is_complete = len(chosen) == len(words)
    if is_complete and (name in SEVERAL or len(chosen) == 1):
        return ",".join(chosen)
    number = "some" if name in SEVERAL else "one"
    raise ValueError(f"{number} of {', '.join(choices)}")


def check_text(name: str, value: object) -> str | None:
    """Return a free text that may be empty for some; else a ValueError says what is allowed."""
    if name == "subset" and value is None:
        return value
    # no path has it
    is_text = isinstance(value, str) and "\0" not in value
    if name == "subset" and not is_text:
        raise ValueError('a text such as "train,test"')
    if name == "group":
        if not is_text or not is_pattern(value):
            raise ValueError('a regular expression, or ""')
    elif name != "subset" and not (is_text and value):
        raise ValueError("the name of something")
    return value


def is_pattern(text: str) -> bool:
    """Tell whether a text is a regular expression."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
