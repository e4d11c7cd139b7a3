"""The picture of the seven verdicts: the rule and the picture cannot part. ``python tests/plots/test_verdicts.py``
stores the picture of the page of nsrlib.statistics anew."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
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


if __name__ == "__main__":
    store(STORED)
