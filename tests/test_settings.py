"""data/settings.py: what each setting may be. What the notebook asks of it is in test_page.py."""

import pytest
from conftest import fails

from data.settings import check_setting, read_settings

VALUES = {
    "dataset": "photos",
    "subset": None,
    "data_dir": "data",
    "results_dir": "results",
    "group": "",
    "train_ratio": 0.8,
    "copies": 3,
    "image_size": 224,
    "batch_size": 32,
    "num_epochs": 10,
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "repeats": 1,
    "seed": 42,
    "drop_duplicates": True,
    "arms": "original",
    "operations": "",
}
CHOICES = {"arms": {"original": {}, "mixed": {}, "Sketches": {}}, "operations": ["blur", "crop"]}


def settings(environ=(), **edited):
    return read_settings(VALUES | edited, dict(environ), **CHOICES)


def test_a_choice_is_found_in_any_case_and_comes_back_as_it_is_written():
    assert settings(arms="SKETCHES, Original").arms == "Sketches,original"
    assert settings({"ARMS": "sketches"}).arms == "Sketches"
    assert settings(operations="Crop,blur").operations == "crop,blur"


def test_choices_that_differ_in_case_alone_are_told_apart():
    choices = ["mixed", "Mixed", "MIXED"]
    assert check_setting("arms", "Mixed,mixed", choices) == "Mixed,mixed"


def test_what_is_unknown_or_named_twice_is_one_line():
    for arms in ("sketch", "mixed,MIXED", "mixed,"):
        with fails(f"^arms = '{arms}': must be some of original, mixed, Sketches$"):
            settings(arms=arms)


@pytest.mark.parametrize("around", ["{}\r", " {} ", '"{}"', "'{}'\r", "\t{}"])
def test_what_a_file_of_settings_leaves_around_a_value_is_taken_off(around, capsys):
    environ = {
        "DATA_DIR": around.format("my data"),
        "SUBSET": around.format(""),
        "COPIES": around.format("5"),
        "ARMS": around.format("mixed,original"),
        "DROP_DUPLICATES": around.format("no"),
    }
    found = settings(environ)
    assert (found.data_dir, found.subset, found.copies) == ("my data", "", 5)
    assert (found.arms, found.drop_duplicates) == ("mixed,original", False)
    assert "data_dir = 'my data', copies = 5" in capsys.readouterr().out.replace(
        "subset = '', ", ""
    )
    # as papermill would put it into the cell
    assert settings(data_dir=around.format("my data")).data_dir == "my data"


def test_a_quote_that_is_part_of_a_name_stays():
    for name in ("the dog's", '"', "'a\"", "Anna's and Ben's"):
        assert settings(dataset=name).dataset == name


@pytest.mark.parametrize("subset", [2020, ["train", "test"], "tr\0ain"])
def test_a_subset_is_a_text_or_none(subset):
    with fails('^subset = .*: must be a text such as "train,test"$'):
        settings(subset=subset)
    assert [settings(subset=name).subset for name in (None, "", "train,test")] == [
        None,
        "",
        "train,test",
    ]


@pytest.mark.parametrize("group", ["(", None, "\0"])
def test_a_group_is_a_regular_expression_or_nothing(group):
    with fails('^group = .*: must be a regular expression, or ""$'):
        settings(group=group)
    assert settings(group=r"patient(\d+)").group == r"patient(\d+)"


def test_a_name_that_no_file_can_have_is_one_line():
    with fails("^dataset = .*: must be the name of something$"):
        settings(dataset="pho\0tos")


def test_quotes_with_nothing_in_them_name_nothing():
    with fails("^dataset = '\"\"': must be the name of something$"):
        settings({"DATASET": '""'})
