"""Crops that a rule chooses: where a network gains most, where as much as usual, where it loses most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
from nsrlib.metrics import MATLAB_Y, RGB, planes, psnr

pytestmark = pytest.mark.usefixtures("figure_style")


# --- one picture ------------------------------------------------------------------------------------------------------


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


# --- a set, tile by tile ----------------------------------------------------------------------------------------------


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


@pytest.fixture
def three(folder):
    """The set, its truths in order, and outputs that are off by a known amount in some tiles of 16x20."""
    images = load(folder, 2)
    truths = [pair.hr for pair in images]
    better, worse = [t.copy() for t in truths], [t.copy() for t in truths]
    worse[0][:16, 6:26] = truths[0][:16, 6:26] // 2
    better[2][48:, 46:66] = truths[2][48:, 46:66] // 2
    return images, better, worse


def test_every_network_sees_every_picture_once(folder):
    seen = []

    class Counting(Nearest):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            return super().forward(x)

    images = load(folder, 2)
    pictures = plots.enlarged(images, {"nearest": Counting(), "bicubic": create_model("bicubic", 2)})
    plots.gallery(images, pictures, MATLAB_Y(2), size=(16, 20))
    assert seen == [(1, 3, 32, 36)] * 3
    np.testing.assert_array_equal(pictures["nearest"][1][::2, ::2], images[1].lr)


def test_gains_are_those_of_luma_in_tiles_from_the_middle(three):
    images, better, worse = three
    table = plots.gains(images, better, worse, RGB(7), (16, 20))
    assert len(table) == 3 * 4 * 3  # 64x72 in tiles of 16x20: 6 columns are left over on each side
    assert sorted(set(table["left"])) == [6, 26, 46]
    first, last = table.iloc[0], table.iloc[-1]
    assert (first["image"], first["top"], first["left"]) == (images[0].name, 0, 6)
    assert (last["image"], last["top"], last["left"]) == (images[2].name, 48, 46)
    t = images[0].hr[:16, 6:26].astype(float)
    assert first["gain"] == pytest.approx(np.square(t - t.astype(int) // 2).mean())
    luma = plots.gains(images, better, worse, MATLAB_Y(), (16, 20)).iloc[0]["gain"]
    difference = planes(images[0].hr, MATLAB_Y()) - planes(worse[0], MATLAB_Y())
    assert luma == pytest.approx(difference[..., :16, 6:26].square().mean().item())
    assert table["gain"].is_monotonic_decreasing
    assert (table["gain"].iloc[1:-1] == 0).all()


def test_the_rules_take_the_first_the_middle_and_the_last(three):
    images, better, worse = three
    tiles = plots.gains(images, better, worse, MATLAB_Y(), (16, 20))
    chosen = plots.by_rule(tiles)
    assert chosen["rule"].tolist() == ["largest gain", "median", "largest loss"]
    assert chosen.index.tolist() == [0, 18, 35]
    assert chosen["gain"].iloc[1] == tiles["gain"].median() == 0
    assert plots.by_rule(tiles, ["largest loss"])["gain"].tolist() == [tiles["gain"].min()]
    with pytest.raises(ValueError, match=r"rules must be a list of largest gain, median, largest loss, got \['best'\]"):
        plots.by_rule(tiles, ["best"])
    for none in ("median", []):
        with pytest.raises(ValueError, match=r"rules must be a list of .*, got "):
            plots.by_rule(tiles, none)
    gains_only = plots.by_rule(tiles[tiles["gain"] > 0])
    assert gains_only["rule"].tolist() == ["largest gain", "median", "smallest gain"]


def test_gallery_shows_a_row_a_rule_and_says_how_often_the_last_network_is_better(folder):
    networks = {"nearest": Nearest(), "bicubic": create_model("bicubic", 2)}
    images, protocol, size = load(folder, 2), MATLAB_Y(2), (16, 20)
    fig = drawn(plots.gallery(images, networks, protocol, size=size))
    pictures = plots.enlarged(images, networks)
    tiles = plots.gains(images, pictures["bicubic"], pictures["nearest"], protocol, size)
    assert fig.get_suptitle() == f"bicubic is closer to the truth than nearest on 100 % of 36 tiles of {folder.name} x2"
    words = texts(fig)
    quality = evaluate(Nearest(), folder, 2, device="cpu").set_index("image")["psnr"]
    for row in plots.by_rule(tiles).itertuples():
        assert f"{row.rule.capitalize()}:\n{row.image}" in words
        place = np.s_[row.top : row.top + 16, row.left : row.left + 20]
        crop, truth = (np.ascontiguousarray(p[place]) for p in (pictures["nearest"][row.number], images[row.number].hr))
        at = f"nearest\n{psnr(crop, truth, MATLAB_Y()):.2f} dB\n{quality[row.image]:.2f} dB"
        (ax,) = (ax for ax in fig.axes if ax.get_title("left") == at)
        np.testing.assert_array_equal(ax.images[0].get_array(), crop)


def test_the_errors_are_absolute_luma_differences_on_one_scale_with_a_bar(three):
    images, better, worse = three
    fig = drawn(plots.gallery(images, {"worse": worse, "better": better}, MATLAB_Y(2), size=(16, 20)))
    maps = [ax.images[0] for ax in fig.axes if ax.images and ax.images[0].get_cmap().name == "magma"]
    assert len(maps) == 3 * 2
    assert len({one.get_clim() for one in maps}) == 1
    assert maps[0].get_clim()[0] == 0
    difference = (planes(worse[0], MATLAB_Y()) - planes(images[0].hr, MATLAB_Y())).abs()[0, 0, :16, 6:26]
    np.testing.assert_allclose(maps[0].get_array(), difference)
    assert [np.abs(one.get_array()).max() for one in maps[1:5]] == [0] * 4  # the better one, and the median
    np.testing.assert_allclose(maps[4].get_array(), 0)
    (bar,) = (ax for ax in fig.axes if ax.get_xlabel())
    assert bar.get_xlabel() == "absolute error of luma (grey levels)"


def test_the_whole_picture_has_a_frame_around_the_crop(three):
    images, better, worse = three
    fig = drawn(
        plots.gallery(images, {"worse": worse, "better": better}, MATLAB_Y(2), rules=["largest loss"], size=(16, 20))
    )
    (whole,) = (ax for ax in fig.axes if ax.patches and ax.images and ax.images[0].get_array().shape == (64, 72, 3))
    assert {p.get_bbox().bounds for p in whole.patches} == {(45.5, 47.5, 20, 16)}
    assert whole.get_title("left") == f"Largest loss:\n{images[2].name}"


def test_gallery_needs_low_resolution_pictures_and_room_for_a_crop(folder):
    networks = {"nearest": Nearest(), "bicubic": create_model("bicubic", 2)}
    with pytest.raises(ValueError, match=f"{folder.name} must be loaded with a scale"):
        plots.gallery(load(folder), networks, MATLAB_Y(2))
    with pytest.raises(ValueError, match="crop of 65x10 does not fit in a picture of 64x72"):
        plots.gallery(load(folder, 2), networks, MATLAB_Y(2), size=(65, 10))
    with pytest.raises(ValueError, match=r"rules must be a list of largest gain, .*, got \['best'\]"):
        plots.gallery(load(folder, 2), networks, MATLAB_Y(2), rules=["best"], size=(16, 20))
    with pytest.raises(ValueError, match=r"models must be two or more to compare, got \['bicubic'\]"):
        plots.gallery(load(folder, 2), {"bicubic": networks["bicubic"]}, MATLAB_Y(2), size=(16, 20))
    other = {"nearest": Nearest(), "bicubic": create_model("bicubic", 4)}
    with pytest.raises(ValueError, match=r"bicubic upscales by 4, but .* was loaded at 2"):
        plots.gallery(load(folder, 2), other, MATLAB_Y(2), size=(16, 20))
