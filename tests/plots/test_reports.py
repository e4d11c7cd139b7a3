"""Figures of the report pages: shares of verdicts, times, numbers over swept parameters."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import pytest
from drawing import drawn, texts

from nsrlib import plots
from nsrlib.plots import reports


def test_the_summary_shows_shares_counts_and_what_failed():
    groups = [("bsrn table 1", {"reproduced": 3, "open": 1}), ("drn table 2", {"differs": 30})]
    times = [("bsrn", 12.4, "ok"), ("drn", 3.26, "failed")]
    board, clocks, foot = drawn(reports.summary("A run", "today", groups, times, ["Commit: abc"])).axes
    widths = {label: [bar.get_width() for bar in bars] for bars, label in bars_of(board)}
    assert widths == {"reproduced": [0.75, 0], "differs": [0, 1], "open": [0.25, 0]}
    assert [t.get_text() for t in board.texts if t.get_text()] == ["3", "30", "1", "4", "30"]
    assert [t.get_text() for t in clocks.texts] == ["12 s", "3.3 s, failed"]
    assert [mpl.colors.to_hex(bar.get_facecolor()).upper() for bar in clocks.patches] == [plots.SKY, plots.RED]
    assert [t.get_text() for t in foot.texts] == ["Commit: abc"]


def bars_of(ax):
    return [(container.patches, container.get_label()) for container in ax.containers]


def test_a_summary_of_nothing_says_so_and_one_of_too_much_says_what_it_leaves_out():
    assert "No claims were recorded." in texts(drawn(reports.summary("A run", "", [], [], [])))
    board = reports.summary("A run", "", [(f"table {k}", {"open": 1}) for k in range(63)], [], []).axes[0]
    assert board.get_xlabel() == "3 more are in the report"
    assert len(board.get_yticklabels()) == 60


def runs(depths, seeds=(0, 1), rows=("a",), **more) -> pd.DataFrame:
    """A number a run and row: depth + 10 for each row after the first + seed."""
    cell = {"kind": "claim", "table": "Table 1", "column": "", "scale": 4, "metric": "psnr", "unit": "dB", **more}
    return pd.DataFrame(
        {**cell, "run": f"{d}-{s}", "param_depth": d, "param_seed": s, "row": row, "value": d * (1 + k) + s}
        for d in depths
        for s in seeds
        for k, row in enumerate(rows)
    )


def test_one_swept_parameter_gives_a_line_and_seeds_give_its_band():
    [(title, fig)] = reports.over(runs([1, 10, 100], rows=("a", "b")), {"depth": [1, 10, 100], "seed": [0, 1]})
    (ax,) = drawn(fig).axes
    assert title == "Table 1: psnr"
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert lines == {"a": [1.5, 10.5, 100.5], "b": [2.5, 20.5, 200.5]}
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) in ((1, 101), (2, 201))
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "depth", "psnr (dB)")
    assert "mean over seed" in [text.get_text() for text in ax.texts]


def test_of_many_lines_those_that_vary_most_are_shown():
    [(_, fig)] = reports.over(runs([1, 2], seeds=(0,), rows="abcdefghi"), {"depth": [1, 2]})
    assert len(fig.axes[0].lines) == 7
    assert "2 more that vary less are in sweep.csv" in [text.get_text() for text in fig.axes[0].texts]


def test_two_swept_parameters_give_a_field_with_every_number():
    table = pd.concat([runs([1, 2, 3], seeds=(0,)).assign(param_width=w, run=lambda t, w=w: t["run"] + w,
                                                          value=lambda t, k=k: t["value"] * k)
                       for k, w in ((1, "slim"), (10, "fat"))])  # fmt: skip
    [(_, fig)] = reports.over(table, {"depth": [1, 2, 3], "width": ["slim", "fat"]})
    (ax,) = drawn(fig).axes
    assert ax.images[0].get_array().tolist() == [[1, 2, 3], [10, 20, 30]]
    assert [t.get_text() for t in ax.texts] == ["1.0", "2.0", "3.0", "10.0", "20.0", "30.0"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["slim", "fat"]


@pytest.mark.parametrize("swept", [{}, {"depth": [1]}], ids=["nothing swept", "one run"])
def test_what_cannot_be_compared_is_not_drawn(swept):
    assert reports.over(runs([1], seeds=(0,)), swept) == []
