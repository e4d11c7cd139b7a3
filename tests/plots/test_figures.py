"""Figures that any paper can use: crops found by code, the right number of axes and labels."""

from __future__ import annotations

import dataclasses

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from drawing import drawn, texts

from nsrlib import plots
from nsrlib.studies import StudyResult

pytestmark = pytest.mark.usefixtures("figure_style")


# --- numbers ----------------------------------------------------------------------------------------------------------

CHANGES = pd.DataFrame(
    {
        "space": ["y", "y", "rgb", "rgb", "rgb"],
        "crop": [4, 0, 4, 0, 1],
        "psnr": [32.35, 32.36, 30.44, 30.34, 30.38],
        "changes": ["", "nothing cropped", "RGB", "RGB, nothing cropped", "RGB, 1 px cropped"],
    }
)
CHANGES.attrs = {"dataset": "set5", "scale": 4}


def labels(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_what_explains_a_number_has_single_changes_and_the_nearest_combinations():
    fig = drawn(plots.explained(CHANGES, 30.36, tolerance=0.03, number=3))
    single, near = fig.axes
    assert texts(fig) == [
        "+0.010",
        "-1.910",
        "Set5 x4: one choice changed",
        "30.36 dB: the nearest of 5 combinations",
    ]
    assert labels(single) == ["nothing cropped", "RGB"]
    assert [round(bar.get_width(), 3) for bar in single.patches] == [0.01, -1.91]
    assert single.get_xlabel() == "difference to 32.35 dB, logarithmic beyond 0.01 dB"
    assert labels(near) == ["RGB, nothing cropped", "RGB, 1 px cropped", "RGB"]
    (dots,) = near.collections
    assert dots.get_offsets()[:, 0].round(2).tolist() == [30.34, 30.38, 30.44]
    assert len(set(map(tuple, dots.get_facecolors()[:2]))) == 1
    assert tuple(dots.get_facecolors()[2]) != tuple(dots.get_facecolors()[0])  # beyond the tolerance
    (band,) = near.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((30.33, 0.06))
    assert near.get_xlabel() == "PSNR (dB); band: within 0.03 dB"


def test_without_a_number_only_the_single_changes_are_drawn():
    (ax,) = drawn(plots.explained(CHANGES)).axes
    assert labels(ax) == ["nothing cropped", "RGB"]


def test_the_papers_own_way_is_named_where_it_is_near():
    near = drawn(plots.explained(CHANGES, 32.34, number=2)).axes[1]
    assert labels(near) == ["the default protocol", "nothing cropped"]


POINTS = pd.DataFrame(
    {
        "label": ["BSRN", "RFDN", "EDSR"],
        "x": [352.0, 550.0, 43000.0],
        "y": [32.35, 32.24, 32.46],
        "multi_adds": [19.4, 23.9, 2895.0],
        "ours": [True, False, False],
        "place": ["below", "right", "right"],
    }
)


def test_bubbles_label_every_point_and_say_which_lie_beyond():
    fig = drawn(plots.bubbles(POINTS, highlight=["RFDN"], xlim=(0, 1000), title="sizes"))
    (ax,) = fig.axes
    assert texts(fig) == ["BSRN", "RFDN", "EDSR (43000 K →)", "sizes"]
    places = [c.get_offsets()[0].tolist() for c in ax.collections if len(c.get_offsets())]
    assert places == [[352, 32.35], [550, 32.24], [975, 32.46]]
    assert ax.get_xlim() == (0, 1000)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("parameters (K)", "PSNR (dB)")
    areas = [c.get_sizes()[0] for c in ax.collections]
    assert areas[0] < areas[1] < areas[2]
    ours, highlighted, other = (c for c in ax.collections[:3])
    assert len(ours.get_facecolor()) == 0  # a ring
    assert mpl.colors.to_hex(ours.get_edgecolor()[0]).upper() == plots.RED
    assert mpl.colors.to_hex(highlighted.get_facecolor()[0]).upper() == plots.BLUE
    assert mpl.colors.to_hex(other.get_facecolor()[0]) == "#b9b9b9"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [f"{g} G multiply-adds" for g in (10, 100, 1000)]


def test_bars_start_at_zero_and_bear_their_value():
    values = {"LR of files": -15.4, "luma rounded": 8.0, "nothing": 0.0}
    fig = drawn(plots.bars(values, unit=" mdB", title="moved", colours={"nothing": plots.RED}))
    (ax,) = fig.axes
    assert texts(fig) == ["-15.4 mdB", "8 mdB", "0 mdB", "moved"]
    assert [t.get_text() for t in ax.get_yticklabels()] == list(values)
    assert [(b.get_x(), b.get_width()) for b in ax.patches] == [(0, v) for v in values.values()]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    low, high = ax.get_xlim()
    assert low < -15.4 < 0 < 8 < high
    assert [mpl.colors.to_hex(b.get_facecolor()).upper() for b in ax.patches] == [plots.BLUE, plots.BLUE, plots.RED]


def test_bars_of_zeros_can_be_drawn():
    drawn(plots.bars({"a": 0.0}))


@pytest.mark.parametrize(("profile", "colour", "said"), [("cpu", plots.BLUE, ""), ("pilot", plots.GRAY, ", a pilot")])
def test_a_study_shows_differences_without_judging_them(profile, colour, said):
    rows = [{"variant": v, "seed": s, "psnr": x + s / 10} for v, x in (("a", 30), ("b", 20)) for s in (0, 1, 2)]
    result = dataclasses.replace(StudyResult.of_rows("a study", rows), profile=profile)
    left, right = drawn(plots.study(result, "psnr", baseline="a", title="studied")).axes
    assert (left.get_title("left"), left.get_xlabel()) == ("studied", "PSNR (dB), one dot a seed")
    assert right.get_xlabel() == f"difference to a, 95 % interval{said}"
    (difference,) = [line for line in right.lines if line.get_marker() == "o"]
    assert difference.get_xdata() == pytest.approx([-10])
    assert difference.get_color() == colour


def test_a_study_shows_no_difference_of_a_variant_below_its_floor():
    levels = {"a": 30.0, "b": 30.4, "weak": 28.9}  # bicubic has 28.42 dB on Set5, x4; 0.5 dB more is asked for
    rows = [{"variant": v, "seed": s, "set": "set5", "psnr": x + s / 50} for v, x in levels.items() for s in (0, 1)]
    result = StudyResult.of_rows("a study", rows, settings={v: {"scale": 4} for v in levels})
    _, right = drawn(plots.study(result, "psnr_set5", baseline="a")).axes
    assert [line.get_ydata()[0] for line in right.lines if line.get_marker() == "o"] == [1]
    assert {text.get_text(): text.get_position()[1] for text in right.texts} == {"compared with": 0, "did not train": 2}
    _, right = drawn(plots.study(result, "psnr_set5", baseline="weak")).axes
    assert not [line for line in right.lines if line.get_marker() == "o"]


# --- sweeps, maps -----------------------------------------------------------------------------------------------------


def test_a_sweep_shows_every_seed_every_mean_and_the_references():
    rows = [(v, r, s, 30 + k + r / 100 + s) for k, v in enumerate(("a", "b")) for r in (1.0, 10.0) for s in (0, 1, 2)]
    table = pd.DataFrame(rows[:-1], columns=["variant", "rate", "seed", "psnr"])  # a run is missing
    fig = drawn(plots.sweep(table, "psnr", "rate", references={"bicubic": 29.5}, title="swept"))
    (ax,) = fig.axes
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_label() for line in dots] == ["rate x1", "rate x10"]
    assert [sorted(line.get_xdata()) for line in dots] == [
        sorted(table.loc[table["rate"] == r, "psnr"]) for r in (1, 10)
    ]
    bars = {round(line.get_xdata()[0], 6) for line in ax.lines if line.get_linewidth() == 2}
    assert {round(v, 6) for v in table.groupby(["variant", "rate"])["psnr"].mean()} <= bars
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert " bicubic" in texts(fig)
    heights = np.concatenate([line.get_ydata() for line in dots])
    assert set(np.round(heights).astype(int)) == {0, 1}  # each beside its own name


def test_maps_show_every_picture_with_its_label_and_leave_the_rest_empty():
    rng = np.random.default_rng(0)
    rows = {"one": {"input": rng.random((6, 9)), "output": rng.random((6, 9))}, "two": {"input": rng.random((6, 9))}}
    fig = drawn(plots.maps(rows, "maps"))
    assert len(fig.axes) == 4
    assert [len(ax.images) for ax in fig.axes] == [1, 1, 1, 0]
    assert [ax.get_title() for ax in fig.axes] == ["input", "output", "input", ""]
    assert np.array_equal(fig.axes[1].images[0].get_array(), rows["one"]["output"])
    assert [t.get_text() for ax in fig.axes for t in ax.texts] == ["one", "two"]
