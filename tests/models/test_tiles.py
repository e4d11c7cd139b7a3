"""BSRN in windows: a tile that knows its picture's statistics and its place equals that part of the whole."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nsrlib.evaluation import upscale
from nsrlib.images import to_tensor
from nsrlib.models import optimise
from nsrlib.models.bsrn import BSRN, Box, FusedBSRN, Window

STEP = FusedBSRN.tile_step
# How far a pixel sees in two blocks: 2 * (4 of the trunk + 36 of ESA) + 2, rounded up to whole steps.
FAR = 84
F64 = 1e-9  # of float64, in grey levels; the tolerance that matters to a picture is 1e-4


@lru_cache
def fused(scale: int = 2, num_blocks: int = 2) -> FusedBSRN:
    """Random weights whose attention is far from constant, in float64."""
    torch.manual_seed(3)
    model = BSRN(scale, num_feats=16, num_blocks=num_blocks).double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "esa" in name or "cca" in name:
                p.mul_(3)
    return FusedBSRN(model)


def picture(h: int, w: int, seed: int = 0) -> Tensor:
    """Smooth and uneven, so that the statistics of a part are not those of the whole."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 7, generator=g, dtype=torch.float64)
    smooth = nn.functional.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=False)
    return (smooth + 0.1 * torch.rand(1, 3, h, w, generator=g, dtype=torch.float64)).clamp(0, 1)


def whole_and_statistics(model: FusedBSRN, x: Tensor) -> tuple[Tensor, dict]:
    window = Window(0, 0, *x.shape[2:])
    return model(x, window), window.seen


def around(start: int, stop: int, side: int, halo: int = FAR) -> tuple[int, int]:
    """A part with its context, from a multiple of the step."""
    return max(start - halo, 0) // STEP * STEP, min(stop + halo, side)


def levels(a: Tensor, b: Tensor) -> float:
    """Largest difference in grey levels."""
    return 255 * float((a - b).abs().max())


# --- one window -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(15, 15), (16, 31), (47, 33), (64, 101), (90, 15)], ids=str)
def test_a_window_over_everything_equals_no_window(size):
    model, x = fused(), picture(*size)
    y, seen = whole_and_statistics(model, x)
    assert levels(y, model(x)) < F64
    assert sorted(seen) == [1, 2]
    assert all(t.shape == (1, 16, 1, 1) for pair in seen.values() for t in pair)


def test_given_its_own_statistics_a_picture_does_not_change():
    model, x = fused(), picture(61, 47)
    y, seen = whole_and_statistics(model, x)
    again = Window(0, 0, 61, 47, statistics=seen)
    assert levels(model(x, again), y) < F64
    assert again.seen == {}


PART = st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))


@settings(max_examples=7)
@given(st.integers(200, 300), st.integers(200, 300), PART, PART, st.sampled_from([2, 3]))
def test_a_tile_with_the_statistics_of_the_whole_and_enough_context_equals_the_whole(h, w, vertical, horizontal, r):
    model, x = fused(r), picture(h, w)
    y, statistics = whole_and_statistics(model, x)
    top, left = (int(share * (side - 1)) for (share, _, _), side in ((vertical, h), (horizontal, w)))
    bottom, right = min(top + vertical[2], h), min(left + horizontal[2], w)
    (t, b), (q, s) = around(top, bottom, h), around(left, right, w)
    tile = model(x[..., t:b, q:s], Window(t, q, h, w, statistics))
    tile = tile[..., (top - t) * r : (bottom - t) * r, (left - q) * r : (right - q) * r]
    assert levels(tile, y[..., top * r : bottom * r, left * r : right * r]) < F64


@pytest.mark.parametrize(("h", "w"), [(251, 205), (252, 204)], ids=["odd", "even"])
@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
def test_tiles_in_the_corners_equal_the_whole(h, w, corner):
    model, x = fused(), picture(h, w, seed=1)
    y, statistics = whole_and_statistics(model, x)
    rows = (0, 40) if "top" in corner else (h - 40, h)
    cols = (0, 40) if "left" in corner else (w - 40, w)
    (t, b), (q, s) = around(*rows, h), around(*cols, w)
    assert (b - t, s - q) != (h, w)
    tile = model(x[..., t:b, q:s], Window(t, q, h, w, statistics))
    tile = tile[..., 2 * (rows[0] - t) : 2 * (rows[1] - t), 2 * (cols[0] - q) : 2 * (cols[1] - q)]
    assert levels(tile, y[..., 2 * rows[0] : 2 * rows[1], 2 * cols[0] : 2 * cols[1]]) < F64


def middle(model: FusedBSRN, x: Tensor, window: Window, box: Box, part: slice) -> Tensor:
    top, bottom, left, right = box
    start = 2 * (part.start - top), 2 * (part.start - left)
    size = 2 * (part.stop - part.start)
    y = model(x[..., top:bottom, left:right], window)
    return y[..., start[0] : start[0] + size, start[1] : start[1] + size]


@pytest.mark.parametrize("wrong", ["statistics", "place", "size", "step", "context"])
def test_what_a_window_says_matters(wrong):
    """Each part of the mechanism alone is needed: without it the tile is off by more than 1e-4 of a level."""
    model, x = fused(), picture(291, 291)
    y, statistics = whole_and_statistics(model, x)
    part = slice(136, 156)
    edge = 48
    box, window = (edge, 250, edge, 250), Window(edge, edge, 291, 291, statistics)
    if wrong == "statistics":
        window.statistics = {}
    elif wrong == "place":
        window.top += STEP
    elif wrong == "size":
        window.height += 6
    elif wrong == "step":
        box = (edge - 1, 250, edge, 250)
        window.top -= 1
    else:
        box = (132, 160, 132, 160)
        window = Window(132, 132, 291, 291, statistics)
    right = middle(model, x, Window(edge, edge, 291, 291, statistics), (edge, 250, edge, 250), part)
    truth = y[..., 2 * part.start : 2 * part.stop, 2 * part.start : 2 * part.stop]
    assert levels(right, truth) < F64
    assert levels(middle(model, x, window, box, part), truth) > 1e-4


# --- the runner -------------------------------------------------------------------------------------------------------


TILE = 60


def starts_of(h: int, w: int) -> list[tuple[int, int]]:
    return [(top, left) for top in range(0, h, TILE) for left in range(0, w, TILE)]


def boxes_of(h: int, w: int, halo: int = FAR) -> list[Box]:
    return [
        (*around(top, min(top + TILE, h), h, halo), *around(left, min(left + TILE, w), w, halo))
        for top, left in starts_of(h, w)
    ]


def test_a_runner_with_one_box_over_everything_gives_the_whole():
    model, x = fused(), picture(77, 102)
    run = model.tile_runner(x, [(0, 77, 0, 102)])
    assert levels(run((0, 77, 0, 102)), model(x)) < F64


def pooled(model: FusedBSRN, x: Tensor, boxes: list[Box]) -> dict[int, tuple[Tensor, Tensor]]:
    """Mean and variance of all boxes' pixels together, from sums of values and of squares."""
    sums: dict[int, list] = {}
    for t, b, q, s in boxes:
        window = Window(t, q, *x.shape[2:])
        model(x[..., t:b, q:s], window)
        n = (b - t) * (s - q)
        for k, (mean, variance) in window.seen.items():
            total = sums.setdefault(k, [0, 0, 0])
            total[0] += n
            total[1] = total[1] + n * mean
            total[2] = total[2] + n * (variance + mean.square())
    return {k: (a / n, q / n - (a / n).square()) for k, (n, a, q) in sums.items()}


def test_the_variances_of_boxes_are_pooled_as_if_their_pixels_were_one_sample():
    values = torch.rand(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = values.split([7, 13, 30], 1)
    model, x = fused(), picture(40, 40)
    boxes = [(0, 40, 0, 18), (0, 24, 12, 40), (12, 40, 6, 40)]
    n = [40 * 18, 24 * 28, 28 * 34]
    # the same formula on numbers whose pooled variance is known
    mean = sum(p.mean(1) * p.shape[1] for p in parts) / 50
    variance = sum((p.var(1, correction=0) + (p.mean(1) - mean).square()) * p.shape[1] for p in parts) / 50
    torch.testing.assert_close(variance, values.var(1, correction=0), rtol=1e-12, atol=0)
    # and in the runner
    assert sum(n) == sum((b - t) * (s - q) for t, b, q, s in boxes)
    expected = pooled(model, x, boxes)
    run = model.tile_runner(x, boxes, sample=3)
    for t, b, q, s in boxes:
        y = model(x[..., t:b, q:s], Window(t, q, 40, 40, expected))
        assert levels(run((t, b, q, s)), y) < F64


@pytest.mark.parametrize(("h", "w"), [(161, 47), (31, 212)], ids=str)
def test_with_all_boxes_sampled_tiles_use_the_pooled_statistics_and_agree_where_they_overlap(h, w):
    model, x = fused(), picture(h, w)
    boxes = boxes_of(h, w)
    run = model.tile_runner(x, boxes, sample=len(boxes))
    y = model(x, Window(0, 0, h, w, pooled(model, x, boxes)))
    for (t, b, q, s), (top, left) in zip(boxes, starts_of(h, w), strict=True):
        bottom, right = min(top + TILE, h), min(left + TILE, w)
        tile = run((t, b, q, s))[..., 2 * (top - t) : 2 * (bottom - t), 2 * (left - q) : 2 * (right - q)]
        assert levels(tile, y[..., 2 * top : 2 * bottom, 2 * left : 2 * right]) < F64


def test_later_tiles_do_not_change_the_statistics():
    model, x = fused(), picture(161, 143)
    boxes = boxes_of(161, 143, halo=12)
    assert len(boxes) == 9
    run = model.tile_runner(x, boxes, sample=4)
    first = [run(box) for box in boxes]
    for box, expected in zip(reversed(boxes), reversed(first), strict=True):
        assert torch.equal(run(box), expected)


@pytest.mark.parametrize(("sample", "calls"), [(1, 1), (4, 4), (9, 9), (50, 9)])
def test_a_sample_is_spread_over_the_boxes_and_each_is_taken_once(monkeypatch, sample, calls):
    model, x = fused(), picture(161, 143)
    boxes = boxes_of(161, 143, halo=12)
    looked: list[tuple[int, int]] = []
    forward = FusedBSRN.forward

    def watched(self, tile, window=None):
        looked.append((window.top, window.left))
        return forward(self, tile, window)

    monkeypatch.setattr(FusedBSRN, "forward", watched)
    ticks: list[int] = []
    model.tile_runner(x, boxes, sample=sample, tick=lambda: ticks.append(len(looked)))
    assert ticks == list(range(1, calls + 1))
    assert len(set(looked)) == calls
    places = [boxes.index(next(b for b in boxes if (b[0], b[2]) == place)) for place in looked]
    assert places == sorted(places)
    assert max(b - a for a, b in zip([-1, *places], [*places, 9], strict=True)) <= 9 // calls + 4


def test_a_runner_needs_no_more_than_the_tiles_it_is_given():
    """A picture that would not fit is never run as a whole."""
    model, x = fused(), picture(300, 90)
    seen: list[int] = []
    forward = model.forward
    model.forward = lambda tile, window=None: (seen.append(tile.shape[2] * tile.shape[3]), forward(tile, window))[1]
    try:
        upscale(model, x, tile=40)
    finally:
        del model.forward
    assert max(seen) < 300 * 90 / 2


# --- upscale ----------------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(st.integers(15, 120), st.integers(15, 120), st.integers(1, 90), st.integers(0, 9), st.sampled_from([1, 2]))
def test_any_picture_can_be_upscaled_in_tiles_of_any_size(h, w, tile, blend, num_blocks):
    tile = max(tile, max(h, w) // 6)
    model, x = fused(2, num_blocks), picture(h, w)
    y = upscale(model, x, tile=tile, blend=blend)
    assert y.shape == (1, 3, 2 * h, 2 * w)
    assert torch.isfinite(y).all()
    # Statistics are estimates here, and the halo is that of the trunk alone: near, not equal.
    assert 255 * (y - model(x)).abs().mean() < 5


@pytest.mark.parametrize("size", [(14, 100), (100, 9), (1, 70)], ids=str)
def test_a_strip_narrower_than_the_network_takes_can_be_tiled(size):
    model, x = fused(), picture(*size)
    y = upscale(model, x, tile=32)
    assert y.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert torch.isfinite(y).all()


def test_tiles_that_know_their_picture_are_nearer_to_the_whole_than_those_that_do_not():
    class Alone(nn.Module):
        scale, halo, min_size, tile_step = 2, FAR, 15, STEP

        def forward(self, x: Tensor) -> Tensor:
            return fused()(x)

    informed = copy.copy(fused())
    informed.halo = FAR  # so that only the statistics and the map make a difference
    x = picture(60, 300)
    x[..., 150:] *= 0.1
    whole = upscale(fused(), x)
    far, near = (255 * float((upscale(m, x, tile=75) - whole).abs().mean()) for m in (Alone(), informed))
    assert near < far / 10


@pytest.mark.slow
@pytest.mark.benchmark
def test_published_bsrn_in_tiles_is_near_the_whole_and_shows_no_seams(published, astronaut):
    """Without any cross-fade, where tiles that do not know their picture show seams of up to 3 per cent."""
    model, x = published("bsrn", 4), to_tensor(astronaut[:288, 112:400])
    informed = optimise(model)
    whole = upscale(informed, x).clamp(0, 1)
    tiled, alone = (upscale(net, x, tile=72, blend=0).clamp(0, 1) for net in (informed, model))
    assert 0 < 255 * (whole - tiled).abs().mean() < 0.1

    def jumps(y: Tensor, axis: int) -> list[float]:
        """Mean absolute jump across each border of tiles, in units of that across other pixels' borders near it."""
        jump = y.diff(dim=axis).abs().mean((0, 1, 5 - axis))
        near = [4 * k for k in range(-12, 13) if k]  # at the same place of a low-resolution pixel
        return [float(jump[b - 1] / jump[[b - 1 + k for k in near]].mean()) for b in (288, 576, 864)]

    informed_jumps, alone_jumps, natural_jumps = (np.array([*jumps(y, 3), *jumps(y, 2)]) for y in (tiled, alone, whole))
    assert (informed_jumps < 1.005 * natural_jumps).all()
    assert informed_jumps.mean() < 1.002 * natural_jumps.mean() < alone_jumps.mean()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_tiles_are_sound_in_half_precision(dtype):
    model, x = copy.deepcopy(fused()).to(dtype), picture(161, 143).to(dtype)
    run = model.tile_runner(x, boxes_of(161, 143, halo=12))
    tile = run((0, 96, 0, 96))
    assert tile.dtype == dtype
    assert tile.isfinite().all()
