"""What a notebook opens: images, numbers, the line that says what is missing, the run's provenance."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import nsrlib.papers
from nsrlib.studies import StudyResult


@pytest.fixture
def session(tmp_path):
    return nsrlib.papers.open("drcn", "quick", tmp_path, sets="embedded", scale=3, max_images=1)


def test_it_brings_images_and_printed_numbers(session):
    assert [len(one) for one in session.images] == [1]
    assert not session.on_benchmark
    assert set(session.printed["table"]) >= {"table1", "fig4", "fig5"}
    assert session.bicubic == {2: 33.66, 3: 30.39, 4: 28.42}


@pytest.mark.parametrize("there", [None, False, {}, [], pd.DataFrame()], ids=repr)
def test_what_is_missing_is_said_in_one_line(session, capsys, there):
    capsys.readouterr()
    assert not session.need("Set14", there)
    assert capsys.readouterr().out == "Skipped: needs Set14.\n"


@pytest.mark.parametrize(
    "there", [True, {"a": 1}, pd.DataFrame({"a": [1]}), object()], ids=["yes", "dict", "table", "x"]
)
def test_what_is_there_needs_no_words(session, capsys, there):
    capsys.readouterr()
    assert session.need("Set14", there)
    assert capsys.readouterr().out == ""


def test_benchmarks_are_those_asked_for_or_the_profiles(session, monkeypatch):
    assert session.sets("set5") == []  # none is at hand
    monkeypatch.setattr(type(session), "on_benchmark", True)
    assert session.sets("b100, mine") == ["b100", "mine"]
    assert session.sets() == ["set5", "set14"]
    with pytest.raises(ValueError, match="names no data set"):
        session.sets(",")
    session.profile = "gpu"
    assert session.sets() == ["set5", "set14", "b100", "urban100"]


def test_the_last_table_keeps_the_ledger_and_names_the_data(session, tmp_path):
    (tmp_path / "drcn.json").unlink()
    assert session.images[0][0].hr.size  # what nobody looks at is not named
    table = session.provenance()
    assert json.loads((tmp_path / "drcn.json").read_text())["paper"] == "drcn"
    assert {"command", "torch", "embedded x3, 1 of 2 images"} <= set(table.index)


def test_differences_that_nobody_registered_are_exploratory_and_get_no_verdict(session):
    runs = {"a": [30.2, 30.4, 30.3], "b": [30.1, 30.2, 30.3], "again a": [30.2, 30.4, 30.3], "wild": [20, 35, 50]}
    rows = [{"variant": v, "seed": s, "psnr": x} for v, xs in runs.items() for s, x in enumerate(xs)]
    study = StudyResult.of_rows("a study", [*rows, {"variant": "once", "seed": 0, "psnr": 30.0}])
    said = session.exploratory(study, [("a", "b"), ("a", "again a"), ("b", "c")])
    assert said.splitlines() == [
        "a - b: +0.10 dB (-0.15 to +0.35), 3 seeds, exploratory",  # "wild" is not asked for and changes nothing
        "a - again a: the same in all runs, 3 seeds, exploratory",
        "b - c: no runs of c yet",
    ]
    assert session.exploratory(study, [("once", "b")], unit="%") == "once - b: -0.10 %, 1 seed, exploratory"


def test_a_variant_below_its_floor_is_named_without_a_number(session):
    levels = {"a": 30.0, "weak": 28.8}
    rows = [{"variant": v, "seed": s, "set": "set5", "psnr": x} for v, x in levels.items() for s in (0, 1)]
    study = StudyResult.of_rows("a study", rows, settings={v: {"scale": 4} for v in levels})
    said = session.exploratory(study, [("a", "weak")], metric="psnr_set5")
    assert said == "a - weak: weak did not train, below its floor by 0.1 dB on Set5"
