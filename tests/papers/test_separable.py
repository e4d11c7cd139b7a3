"""What training in each separable form keeps of the dense network's gain."""

from __future__ import annotations

import pytest

from nsrlib import papers
from nsrlib.papers.bsrn.separable import kept_gain
from nsrlib.studies import StudyResult


def study(**variants: list[float]) -> StudyResult:
    """PSNR on Set5 of each variant, seed by seed."""
    rows = [
        {"variant": name, "seed": seed, "set": "set5", "psnr": value}
        for name, values in variants.items()
        for seed, value in enumerate(values)
    ]
    return StudyResult.of_rows("forms", rows, settings={name: {"scale": 4} for name in variants})


def test_shares_are_those_of_the_gain_over_bicubic_seed_by_seed():
    table = kept_gain(study(standard=[30.0, 31.0], BSConv=[29.5, 30.0], DSConv=[29.0]), 28.0)
    assert table.index.tolist() == ["BSConv", "DSConv"]
    assert table.loc["BSConv"].tolist() == pytest.approx([(0.75 + 2 / 3) / 2, 2 / 3, 0.75, 2])
    assert table.loc["DSConv"].tolist() == pytest.approx([0.5, 0.5, 0.5, 1])


def test_what_did_not_train_keeps_nothing_that_is_shown():
    assert kept_gain(study(standard=[30.0], BSConv=[28.5], DSConv=[29.0]), 28.42).index.tolist() == ["DSConv"]
    assert kept_gain(study(standard=[28.5], BSConv=[30.0]), 28.42).empty
    assert kept_gain(study(BSConv=[30.0]), 28.42).empty
    assert kept_gain(study(standard=[30.0]), 28.42).empty


def test_a_seed_without_its_dense_network_does_not_count():
    runs = study(standard=[30.0], BSConv=[29.0, 29.9])
    assert kept_gain(runs, 28.0).loc["BSConv"].tolist() == pytest.approx([0.5, 0.5, 0.5, 1])


def test_the_stored_runs_have_a_share_for_every_separable_form():
    stored = papers.get("bsrn").stored_study("decompositions")
    table = kept_gain(stored, 28.42)
    assert set(table.index) <= {"DSConv", "BSConv-S", "BSConv-U"}
    means = stored.table.groupby("variant")["psnr_set5"].mean() - 28.42
    complete = table[table["seeds"] == len(stored.seeds)]
    for name, row in complete.iterrows():
        assert row["low"] <= row["share"] <= row["high"]
        assert row["share"] == pytest.approx(means[name] / means["standard"], abs=0.05)
