"""The notebook's settings: what is allowed, and which come from the environment."""

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from data.files import InputError, one_line, print_any_name

warnings.filterwarnings("ignore", message="Glyph .* missing")  # a font need not have every emoji

NAMES = ("dataset", "subset", "data_dir", "results_dir")  # free texts; subset may be empty
LIMITS = {  # least and most, of the type of the setting
    "train_ratio": (0.5, 0.95),
    "copies": (1, 1000),
    "image_size": (32, 1024),
    "batch_size": (2, 65536),
    "num_epochs": (1, 100_000),
    "learning_rate": (1e-9, 1.0),
    "repeats": (1, 1000),
    "seed": (0, 2**31 - 1),
}
CHOICES = {"drop_duplicates": ("true", "false")}
SEVERAL = ("arms", "operations")  # separated by commas


def read_settings(
    values: Mapping, environ: Mapping[str, str], **choices: Sequence[str]
) -> SimpleNamespace:
    """Return the settings, from the environment where it has them in capitals, else `values`.

    Args:
        choices: what is allowed for further settings, by name; for `operations` also nothing.

    Raises:
        InputError: a value cannot be used; the message names it and what is allowed.
    """
    choices = CHOICES | choices
    config = SimpleNamespace()
    names = (*NAMES, *LIMITS, *choices)
    for name in names:
        value = environ.get(name.upper(), values[name])
        setattr(config, name, check_setting(name, value, choices))
    config.drop_duplicates = config.drop_duplicates == "true"
    print_any_name()
    if given := [name for name in names if name.upper() in environ]:
        said = ", ".join(f"{name} = {getattr(config, name)!r}" for name in given)
        print(one_line(f"from the environment, whatever the cell above says: {said}"))
    return config


def check_setting(
    name: str, value: object, choices: Mapping[str, Sequence[str]] = CHOICES
) -> object:
    """Return a setting as it is used."""
    if name in LIMITS:
        (least, most), kind = LIMITS[name], type(LIMITS[name][0])
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            if kind(value) == float(value) and least <= kind(value) <= most:
                return kind(value)
        allowed = f"a {'whole ' * (kind is int)}number from {least:g} to {most:g}"
    elif name in choices:
        chosen = str(value).lower().replace(" ", "").split(",")
        chosen = [
            {"1": "true", "yes": "true", "0": "false", "no": "false"}.get(x, x) for x in chosen
        ]
        if chosen == [""] and name == "operations":
            return ""
        once = len(chosen) == (len(set(chosen)) if name in SEVERAL else 1)
        if once and set(chosen) <= set(choices[name]):
            return ",".join(chosen)
        allowed = (
            f"{'some' * (name in SEVERAL) or 'one'} of {', '.join(filter(None, choices[name]))}"
        )
    elif name == "subset" or (isinstance(value, str) and value.strip()):
        return value
    else:
        allowed = "the name of something"
    raise InputError(f"{name} = {value!r}: must be {allowed}")
