"""data/digest.py: when code counts as changed."""

import pytest

from data.digest import digest_code

CODE = """
'''A module.'''
SIZE = 3
TABLE = {"wide": lambda: SIZE}


def make(image):
    '''Make one.'''
    return scale(image, TABLE["wide"]())


def scale(image, size):
    return image * size


def plot(image):
    show(image)
"""


def digest(code):
    return digest_code(code, "make")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SIZE = 3", "SIZE = 4"),
        ("return image * size", "return image + size"),
        ("lambda: SIZE", "lambda: 2 * SIZE"),
        ("def plot", 'TABLE["narrow"] = 1\n\n\ndef plot'),
        ("def plot", "TABLE.clear()\n\n\ndef plot"),
        ("def plot", "SIZE += 1\n\n\ndef plot"),
    ],
)
def test_what_a_function_reaches_counts(old, new):
    assert CODE.count(old) == 1
    assert digest(CODE.replace(old, new)) != digest(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SIZE = 3", "# in pixels\nSIZE = 3"),
        ("A module.", "Another text."),
        ("'''Make one.'''", "'''Make\n    one.'''"),
        ("    '''Make one.'''\n", ""),
        ("image * size", "(image * size)"),
        ("show(image)", "hide(image)"),
        ("def plot", "OTHER = 1\n\n\ndef plot"),
    ],
)
def test_comments_docstrings_layout_and_what_it_does_not_reach_do_not_count(old, new):
    assert CODE.count(old) == 1
    assert digest(CODE.replace(old, new)) == digest(CODE)
