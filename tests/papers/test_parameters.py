"""Parameters of the papers' notebooks: what is accepted is known, and said, before one starts."""

from __future__ import annotations

import ast

import pytest

from nsrlib import papers
from nsrlib.papers.parameters import COMMON, some_of, whole
from nsrlib.runs import batch
from nsrlib.runs.notebooks import check_parameters, known_parameters

pytest.importorskip("papermill")

NOTEBOOKS = batch.notebooks()


@pytest.fixture(scope="module")
def known():
    return known_parameters(NOTEBOOKS)


def test_every_notebook_accepts_its_own_defaults(known):
    for name, parameters in known.items():
        defaults = {key: ast.literal_eval(about["default"]) for key, about in parameters.items()}
        given = {key: value for key, value in defaults.items() if key not in ("profile", "out_dir")}
        assert check_parameters({name: parameters}, "quick", given)[name] == {"profile": "quick", **given}


def test_what_a_paper_accepts_is_of_parameters_that_its_notebook_has(known):
    own = {name: set(paper.parameters) - set(COMMON) for name, paper in papers.every().items()}
    assert {name: keys for name, keys in own.items() if keys - set(known[name])} == {}
    assert own["bsrn"] == {"scales"}


@pytest.mark.parametrize(
    ("given", "text"),
    [((2, 3), "2,3"), ([2, 3], "2,3"), (3, "3"), ("4, 2", "4, 2"), (["2", 4], "2,4")],
    ids=repr,
)
def test_numbers_with_commas_are_read_as_the_default_is_written(known, given, text):
    assert check_parameters({"bsrn": known["bsrn"]}, "quick", {"scales": given})["bsrn"]["scales"] == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"scales": 5},
            r"^bsrn: parameter 'scales' cannot be '5'; accepted: one or more of 2, 3, 4, separated by commas$",
        ),
        ({"scales": "2,,3"}, "cannot be '2,,3'; accepted: one or more of 2, 3, 4"),
        ({"scales": ""}, "cannot be ''; accepted: one or more of 2, 3, 4"),
        ({"scales": None}, "cannot be None; accepted: one or more of 2, 3, 4"),
        ({"sets": "foo"}, "'sets' cannot be 'foo'; accepted: set5, set14, .*, or whole paths of folders"),
        ({"sets": "set5,foo"}, "'sets' cannot be 'set5,foo'"),
        ({"sets": ","}, "'sets' cannot be ','"),
        ({"sets": "tests"}, "'sets' cannot be 'tests'"),
        ({"max_images": -1}, "'max_images' cannot be -1; accepted: a whole number from 0 on$"),
        ({"max_images": None}, "'max_images' cannot be None; accepted: a whole number from 0 on$"),
        ({"repeats": 0}, "'repeats' cannot be 0; accepted: a whole number from 1 on$"),
        ({"profile": "gpu2"}, r"'profile' is set by the run itself: give .*--profile quick\|cpu\|gpu\|paper"),
    ],
    ids=repr,
)
def test_what_cannot_be_is_said_with_what_can(known, given, message):
    with pytest.raises(ValueError, match=message):
        check_parameters({"bsrn": known["bsrn"]}, "quick", given)


def test_sets_may_be_folders_by_their_whole_path(known, tmp_path):
    (tmp_path / "a,b").mkdir()
    given = {"sets": f"Set-5,{tmp_path / 'a,b'}"}
    assert check_parameters({"drn": known["drn"]}, "cpu", given)["drn"] == {"profile": "cpu", **given}


def test_a_number_is_whole_and_large_enough():
    assert whole(1)(1) == whole(0)(7) == ""
    assert whole(1)(0) == whole(1)(1.5) == whole(1)("2") == "a whole number from 1 on"
    assert some_of((2, 4))("4,2") == ""


def test_a_notebook_of_no_paper_takes_any_value_of_the_type():
    accepted = {"mine": {"max_images": {"default": "0"}}}
    assert check_parameters(accepted, "quick", {"max_images": -1})["mine"]["max_images"] == -1
