"""Figures that any paper can use: crops found by code, the right number of axes and labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from drawing import drawn, texts
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from nsrlib import create_model, plots
from nsrlib.data import load
from nsrlib.evaluation import evaluate
from nsrlib.images import imresize
from nsrlib.metrics import MATLAB_Y, RGB, psnr
from nsrlib.studies import StudyResult

pytestmark = pytest.mark.usefixtures("figure_style")


# --- crops ------------------------------------------------------------------------------------------------------------


def planted(crop: tuple[int, int, int, int], size: tuple[int, int] = (60, 80)) -> tuple[np.ndarray, ...]:
    """A better picture, a worse one and the truth; they differ in the crop only."""
    rng = np.random.default_rng(0)
    truth = rng.integers(60, 200, (*size, 3), dtype=np.uint8)
    worse = truth.copy()
    top, left, h, w = crop
    worse[top : top + h, left : left + w] -= 50
    return truth.copy(), worse, truth


@given(st.integers(0, 48), st.integers(0, 64))
def test_a_planted_gain_is_found_where_it_is(top, left):
    crop = (top, left, 12, 16)
    assert plots.largest_gains(*planted(crop), size=(12, 16)) == [crop]


def test_a_loss_is_no_gain():
    better, worse, truth = planted((30, 40, 12, 16))
    top, left, h, w = plots.largest_gains(worse, better, truth, size=(12, 16))[0]
    assert top + h <= 30 or top >= 42 or left + w <= 40 or left >= 56


def test_levels_below_the_truth_count_like_those_above():
    truth = np.full((20, 40, 3), 100, np.uint8)
    worse = truth.copy()
    worse[5:10, 5:10], worse[5:10, 25:30] = 70, 125  # 30 too dark, 25 too bright
    assert plots.largest_gains(truth, worse, truth, (5, 5), 2) == [(5, 5, 5, 5), (5, 25, 5, 5)]


@given(st.tuples(st.integers(10, 40), st.integers(10, 40)), st.tuples(st.integers(1, 10), st.integers(1, 10)),
       st.integers(0, 30), st.integers(0, 99))  # fmt: skip
def test_crops_are_inside_do_not_overlap_and_get_weaker(size, crop, number, seed):
    rng = np.random.default_rng(seed)
    better, worse, truth = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(3))
    crops = plots.largest_gains(better, worse, truth, crop, number)
    assert len(crops) <= number
    assert (len(crops) > 0) is (number > 0)
    taken = np.zeros(size, int)
    gains = []
    for top, left, h, w in crops:
        assert (h, w) == crop
        taken[top : top + h, left : left + w] += 1
        region = np.s_[top : top + h, left : left + w]
        error = [np.square(p[region].astype(float) - truth[region]).sum() for p in (worse, better)]
        gains.append(error[0] - error[1])
    assert taken.max() <= 1
    assert taken.sum() == len(crops) * crop[0] * crop[1]
    assert gains == sorted(gains, reverse=True)


@pytest.mark.parametrize("size", [(61, 10), (10, 81)], ids=str)
def test_a_crop_larger_than_the_picture_is_refused(size):
    with pytest.raises(ValueError, match=rf"crop of {size[0]}x{size[1]} does not fit in a picture of 60x80"):
        plots.largest_gains(*planted((0, 0, 5, 5)), size=size)


def test_a_crop_as_large_as_the_picture_is_the_picture():
    assert plots.largest_gains(*planted((0, 0, 5, 5)), size=(60, 80), number=3) == [(0, 0, 60, 80)]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_compare_shows_the_whole_and_the_crop_of_each_with_its_psnr():
    better, worse, truth = planted((10, 20, 12, 16))
    better[0, 0, 0] += 9
    fig = drawn(plots.compare({"worse": worse, "better": better}, truth, (10, 20, 12, 16), RGB(), "a photo"))
    assert len(fig.axes) == 4
    assert texts(fig) == [
        "a photo",
        f"worse\n{psnr(worse, truth, RGB()):.2f} dB",
        f"better\n{psnr(better, truth, RGB()):.2f} dB",
        "ground truth\n",
    ]
    shown = [ax.images[0].get_array() for ax in fig.axes]
    assert [a.shape[:2] for a in shown] == [(60, 80), (12, 16), (12, 16), (12, 16)]
    np.testing.assert_array_equal(shown[1], worse[10:22, 20:36])
    np.testing.assert_array_equal(shown[3], truth[10:22, 20:36])
    (frame,) = fig.axes[0].patches
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (19.5, 9.5, 16, 12)
    assert all(ax.images[0].get_interpolation() == "nearest" for ax in fig.axes)


class Nearest(nn.Module):
    """Repeats every pixel."""

    scale, halo, min_size = 2, 0, 1

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three pictures; ``smooth`` is where interpolation gains least over repeating."""
    rng = np.random.default_rng(0)
    for name, cells in {"smooth": 3, "middle": 8, "busy": 14}.items():
        levels = imresize(rng.random((cells, cells, 3)), size=(64, 72)).clip(0, 1) * 255
        Image.fromarray(np.round(levels).astype(np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_gallery_shows_the_pictures_with_the_largest_gain_first(folder):
    networks = {"nearest": Nearest(), "bicubic": create_model("bicubic", 2)}
    figures = plots.gallery(load(folder, 2), networks, MATLAB_Y(2), number=2, size=(16, 20))
    assert [texts(drawn(fig))[0] for fig in figures] == ["busy", "middle"]
    table = evaluate(Nearest(), folder, 2, device="cpu").set_index("image")
    assert texts(figures[0])[1] == f"nearest\n{table.loc['busy', 'psnr']:.2f} dB"
    assert [len(fig.axes) for fig in figures] == [4, 4]
    assert figures[0].axes[1].images[0].get_array().shape == (16, 20, 3)
    assert len(plots.gallery(load(folder, 2), networks, MATLAB_Y(2), number=9, size=(16, 20))) == 3


def test_gallery_needs_low_resolution_pictures_and_room_for_a_crop(folder):
    networks = {"nearest": Nearest(), "bicubic": create_model("bicubic", 2)}
    with pytest.raises(ValueError, match=f"{folder.name} must be loaded with a scale"):
        plots.gallery(load(folder), networks, MATLAB_Y(2))
    with pytest.raises(ValueError, match="crop of 65x10 does not fit in a picture of 64x72"):
        plots.gallery(load(folder, 2), networks, MATLAB_Y(2), size=(65, 10))


# --- numbers ----------------------------------------------------------------------------------------------------------

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
