"""Tables as they were printed: every number in its place, beside ours, with its verdict and its source."""

from __future__ import annotations

import re

import pytest

from nsrlib import claims
from nsrlib.claims import Ledger

PAPERS = [name for name in claims.known() if name != claims.PROTOCOL]
SET14 = "comparison/SRCNN/x4/Set14/psnr"


@pytest.fixture
def measured():
    """A ledger of BSRN in which a cell agrees, a cell of others agrees, one from memory agrees, and one differs."""
    ledger = Ledger("bsrn")
    ledger.compare({"comparison/BSRN/x4/Set5/psnr": 32.351, "comparison/BSRN/x2/Set5/psnr": 38.099}, "weights")
    ledger.compare({"comparison/IMDN/x4/Set5/psnr": 32.2096, "comparison/IMDN/x4/Set5/ssim": 0.89476}, "weights")
    ledger.compare({SET14: 27.486}, "weights", known={SET14: "another evaluation"})
    return ledger


def at(table, row, column):
    """The text of a cell of a page."""
    (place,) = [head for head in table.cells.columns if head[0] == column]
    return str(table.cells.loc[row, place])


@pytest.mark.parametrize("paper", PAPERS)
def test_every_printed_number_of_every_table_is_shown_once_with_where_it_was_read(paper):
    ledger = Ledger(paper)
    for name, numbers in ledger.published.groupby("table", sort=False):
        table = ledger.printed(str(name))
        shown = [cell for cell in table.cells.to_numpy().ravel() if cell is not None]
        values = [value for cell in shown for value in re.findall(r"-?\d+(?:\.\d+)?", cell.printed)]
        assert sorted(values) == sorted(numbers["value"])
        assert sum(len(cell.verdicts) for cell in shown) == len(numbers) == sum(table.counts.values())
        assert {table.sources[place - 1] for cell in shown for place in cell.sources} == set(numbers["source"])


def test_a_cell_shows_printed_ours_verdict_and_source(measured):
    table = measured.printed("comparison")
    assert at(table, ("x4", "IMDN"), "Set5") == "32.21 / 0.8948 (32.210 / 0.89476) ☑ [5]"
    assert table.sources[4].startswith("SwinIR")
    assert at(table, ("x4", "BSRN"), "Set5") == "32.35 / 0.8966 (32.351 / –) ✓ / ○ [3]"
    assert at(table, ("x2", "BSRN"), "Set5") == "38.10 / 0.9610 (38.099 / –) (✓) / ○ [1]"
    assert table.sources[0] == "recalled"
    assert at(table, ("x4", "CARN"), "") == "– / 90.9 ❞ [5]"


def test_the_legend_counts_the_verdicts_and_what_differs_is_explained(measured):
    table = measured.printed("comparison", scale=4)
    marks = "✓ reproduced: 1, ☑ checked: 2, ✗ differs: 1, ○ open: 11, ❞ quoted: 140"
    assert table.legend == f"Printed, and ours where it is measured. {marks}."
    assert table.notes == ["SRCNN x4 Set14 psnr: 27.50 dB published, 27.49 ours, differs (another evaluation)"]
    for text in (table.legend, *table.notes, *table.sources):
        assert text in str(table)
        assert text in table._repr_html_()


def test_rows_stand_in_the_papers_order_under_their_scale(measured):
    both = measured.printed("comparison").cells
    assert both.index[:5].tolist() == [("x2", name) for name in ("BSRN", "RFDN", "IMDN", "CARN", "LAPAR-A")]
    assert both.index.get_level_values(0).is_monotonic_increasing
    one = measured.printed("comparison", scale=2).cells
    assert one.index.tolist() == ["BSRN", "RFDN", "IMDN", "CARN", "LAPAR-A"]
    assert one.columns.tolist()[:2] == [("", "params (K) / multi_adds (G)"), ("Set5", "psnr (dB) / ssim")]


def test_more_than_two_metrics_stand_apart_and_a_rank_behind_its_metric(measured):
    table = measured.printed("ntire")
    columns = [metric for column, metric in table.cells.columns if not column]
    assert columns == [
        "time (ms)", "params (M)", "flops (G)", "acts (M)", "memory (M)", "convs", "track1_sum", "track1_rank",
    ]  # fmt: skip
    assert table.cells.loc["BSRN-S", ("", "params (M)")].printed == "0.156 (1)"
    assert table.cells.loc["RFDN", ("", "track1_sum")] is None


def test_the_page_is_a_table_with_the_papers_own_rows_in_bold(measured):
    page = measured.printed("comparison")._repr_html_()
    assert re.findall(r"<b>(.*?)</b>", page) == ["BSRN"] * 3
    assert page.count("<tr>") == 1 + 3 + 23  # heads, scales, networks
    assert '<span style="color: #D55E00">27.486 / –</span>' in page
    assert measured.printed("comparison", row="CARN")._repr_html_().count("<b>") == 0


def test_showing_a_table_keeps_nothing_in_the_ledger(measured):
    before = dict(measured.rows)
    measured.printed("comparison")
    assert measured.rows == before


def test_a_table_that_was_not_printed_is_named_with_those_that_were():
    with pytest.raises(
        ValueError, match=r"bsrn prints no table 'tabel'; there are: fig1, attention, comparison, ntire"
    ):
        Ledger("bsrn").printed("tabel")
    with pytest.raises(ValueError, match="bsrn, comparison prints no scale 8; there are: 2, 3, 4"):
        Ledger("bsrn").printed("comparison", scale=8)
