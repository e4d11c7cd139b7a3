"""The picture of the seven verdicts: the rule and the picture cannot part. ``python tests/plots/test_verdicts.py``
stores the picture of the page of nsrlib.statistics anew."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from drawing import drawn, texts

from nsrlib import plots, statistics
from nsrlib.plots.style import write

STORED = Path(plots.__file__).resolve().parents[1] / "statistics.svg"


def store(path: Path) -> str:
    with mpl.rc_context():
        plots.use_style()
        mpl.rcParams["svg.fonttype"] = "none"  # text stays text: smaller, and read by a screen reader
        write(plots.verdicts(), path)
    return path.read_text()


def test_the_seven_examples_have_the_seven_verdicts(figure_style):
    fig = drawn(plots.verdicts())
    assert tuple(texts(fig)) == statistics.VERDICTS
    assert len(fig.axes[0].get_yticklabels()) == 7


def test_the_picture_of_the_page_is_what_the_code_draws(tmp_path):
    def parts(svg: str) -> tuple[list[str], list[float]]:
        body = svg.split("</metadata>")[1]
        return re.findall(r">([^<>]*\w[^<>]*)<", body), [float(x) for x in re.findall(r"[ML ](-?\d+\.\d+)", body)]

    (now_text, now), (text, stored) = parts(store(tmp_path / "now.svg")), parts(STORED.read_text())
    assert now_text == text, "python tests/plots/test_verdicts.py stores it anew"
    assert now == pytest.approx(stored, abs=0.5)
    assert len(now) > 100
    assert STORED.stat().st_size < 40_000


def claims(**changes) -> pd.DataFrame:
    row = {"label": "PA > none", "difference": 0.02, "low": -0.01, "high": 0.05, "low90": 0.0, "high90": 0.04,
           "margin": 0.03, "effect": 0.1, "verdict": "undecided"}  # fmt: skip
    return pd.DataFrame([row | changes])


def lines(fig) -> list[list[float]]:
    """The ends of the horizontal lines of the first row."""
    drawn_lines = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 2 and set(line.get_ydata()) == {0}]
    return [[float(x) for x in line.get_xdata()] for line in drawn_lines]


def test_claims_of_a_paper_are_drawn_with_their_numbers(figure_style):
    fig = drawn(plots.verdicts(claims(), unit="SSIM", title="Claims"))
    assert lines(fig) == [[-0.01, 0.05], [0.0, 0.04]]
    assert texts(fig) == ["undecided"]
    assert fig.axes[0].get_xlabel() == "difference (SSIM); above 0: as claimed"
    assert fig.get_suptitle() == "Claims"
    diamonds = [line.get_xdata() for line in fig.axes[0].lines if line.get_marker() == "D"]
    assert [float(x[0]) for x in diamonds if len(x)] == [0.1]  # the other stands in the legend


def test_what_did_not_train_has_no_difference_in_the_picture(figure_style):
    fig = drawn(plots.verdicts(claims(verdict="did not train", effect=np.nan)))
    assert lines(fig) == []
    assert texts(fig) == ["did not train"]


if __name__ == "__main__":
    store(STORED)
