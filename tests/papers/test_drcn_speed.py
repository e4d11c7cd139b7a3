"""DRCN's fast forms are timed beside the plain one, and the one that is chosen is not slower."""

from __future__ import annotations

import pytest

from nsrlib.papers.drcn import speed


def test_every_form_gives_the_plain_forms_answer_and_is_counted_beside_it():
    table = speed.table(repeats=1, side=32)
    assert table.index[0] == speed.FIRST
    assert table.loc[speed.FIRST, ["times as fast", "largest difference"]].tolist() == [1, "0.0e+00"]
    gaps = table["largest difference"].astype(float)
    assert gaps.drop("collapsed, bfloat16").max() < 1e-5 < gaps["collapsed, bfloat16"] < 0.2
    assert (table[["seconds per megapixel", "MB per megapixel"]] > 0).all(axis=None)


def test_forms_are_timed_in_turns_and_the_median_counts(monkeypatch):
    order, milliseconds = [], iter([5000, 1000, 3000, 9000, 4000, 2000])

    class Clock:
        def launch(self, call):
            call()
            return next(milliseconds)

    monkeypatch.setattr(speed, "CpuClock", Clock)
    found = speed.medians({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert order == list("ababab")
    assert found == {"a": 4, "b": 2}


@pytest.mark.timing
@pytest.mark.parametrize(("features", "recursions"), [(16, 9), (96, 9), (256, 2)])
def test_the_chosen_form_is_not_slower_than_the_plain_one(features, recursions):
    table = speed.against_plain({"one": speed.network(features, recursions)}, repeats=3)
    assert table.loc["one", "form"] == ("Winograd" if features >= 64 else "library calls")
    assert table.loc["one", "times as fast"] >= 1
