"""NSR and WDSR: parameters and multiply-adds, as the paper prints them and by formula (C1 and C7)."""

from __future__ import annotations

import pytest
import torch

from nsrlib import create_model
from nsrlib.complexity import count

SMALL = {"num_feats": 8, "num_blocks": 2, "cardinals": 4}
LARGE = {"num_feats": 128, "num_blocks": 32}


@pytest.mark.parametrize(
    ("name", "config", "x2", "x3", "x4"),
    [
        ("nsr", {}, 4_877_812, 4_887_637, 4_901_392),
        ("nsr", {"variant": "dense"}, 1_193_460, 1_203_285, 1_217_040),
        ("wdsr", {"num_feats": 64, "width": 1.0}, 1_193_460, 1_203_285, 1_217_040),
        ("wdsr", {}, 1_190_100, 1_195_605, 1_203_312),
        ("wdsr", LARGE, 37_808_180, 37_826_645, 37_852_496),
        ("nsr", LARGE, 38_361_140, 38_379_605, 38_405_456),
        ("wdsr", {"num_feats": 256, "num_blocks": 32, "width": 1.0}, 37_817_524, 37_853_269, 37_903_312),
    ],
    ids=["NSR", "NSR dense", "WDSR of its size", "WDSR", "WDSR large", "NSR large", "EDSR large"],
)
def test_networks_have_their_parameters_at_every_scale(name, config, x2, x3, x4):
    with torch.device("meta"):
        found = [sum(p.numel() for p in create_model(name, r, **config).parameters()) for r in (2, 3, 4)]
    assert found == [x2, x3, x4]


@pytest.mark.parametrize(
    ("config", "params"),
    [
        *(({"cardinals": d}, p) for d, p in zip(
            (1, 2, 4, 8, 32, 64), (4_753_012, 4_761_332, 4_777_972, 4_811_252, 5_010_932, 5_277_172), strict=True
        )),
        *(({"groups": k}, p) for k, p in ((1, 1_226_740), (2, 2_443_764), (8, 9_745_908), (16, 19_482_100))),
        *(({"num_feats": 32, "groups": k}, p) for k, p in zip(
            (1, 2, 4, 8, 16), (319_188, 633_044, 1_260_756, 2_516_180, 5_027_028), strict=True
        )),
        ({"num_feats": 32, "groups": 2, "width": 2.0}, 1_241_300),
        ({"groups": 2, "width": 0.5}, 1_245_684),
        ({"groups": 4, "width": 0.25}, 1_283_572),
    ],
    ids=str,
)  # fmt: skip
def test_the_grids_of_figure_4_and_of_tables_2_and_3_have_their_parameters(config, params):
    with torch.device("meta"):
        assert sum(p.numel() for p in create_model("nsr", 2, **config).parameters()) == params


@pytest.mark.parametrize(
    ("name", "config", "gray", "colour", "macs"),
    [
        ("wdsr", {"width": 2.0}, 593_538, 594_694, 590_400),
        ("nsr", {"groups": 2, "width": 1.0}, 628_354, 629_510, 295_488),
        ("nsr", {"groups": 2, "width": 2.0}, 1_236_610, 1_237_766, 590_400),
    ],
    ids=["baseline", "sparse A", "sparse B"],
)
def test_networks_for_denoising_have_their_counts(name, config, gray, colour, macs):
    for channels, params in ((1, gray), (3, colour)):
        model = create_model(name, 1, num_feats=32, channels=channels, **config)
        found = count(model, (48, 48), channels=channels)
        assert found.params == params
        assert channels == 3 or found.multi_adds == macs * 48 * 48


@pytest.mark.parametrize(
    ("name", "config", "patch"),
    [
        ("nsr", {}, 1_189_188),
        ("nsr", {"groups": 16}, 1_189_188),
        ("nsr", {"variant": "dense"}, 1_189_188),
        ("wdsr", {}, 1_184_868),
        ("nsr", {"num_feats": 32, "groups": 2, "width": 2.0}, 595_044),
        ("nsr", {"num_feats": 32}, 300_132),
        ("nsr", {"variant": "branches"}, 9 * 3 * 64 + 16 * 2 * 9 * 64 * 256 + 9 * 64 * 12 + 25 * 9 * 4),
    ],
    ids=["NSR", "k=16", "dense", "WDSR", "w=2", "w=1", "branches: k times the blocks"],
)
def test_multiply_adds_follow_the_formula_to_the_unit(name, config, patch):
    assert count(create_model(name, 2, **config), (48, 48)).multi_adds == patch * 48 * 48


def test_multiply_adds_of_a_large_picture_do_not_depend_on_the_gate_map():
    found = [count(create_model("nsr", 2, inference=mode)).multi_adds for mode in ("map", "whole")]
    assert found == [1_189_188 * 360 * 640] * 2


@pytest.mark.parametrize(("k", "percent"), [(4, 0.18), (16, 0.71)])
def test_gates_of_a_patch_take_less_than_a_hundredth_of_the_multiply_adds(k, percent):
    found = count(create_model("nsr", 2, groups=k), (48, 48))
    layers = 32
    extra = layers * (64 * k * 16 + k * 64 * 9 * 64)
    assert found.extras["gates"] == (extra, extra + layers * 64 * 48 * 48)
    assert round(100 * extra / found.multi_adds, 2) == percent


def test_gates_of_a_map_are_counted_for_every_cell():
    model = create_model("nsr", 2, **SMALL)
    one = count(model, (48, 48)).extras["gates"][0]
    assert count(model, (96, 65)).extras["gates"][0] == 3 * 3 * one
    model.hard = True  # chooses, does not mix
    assert count(model, (48, 48)).extras["gates"][0] == 4 * 8 * 4 * 4


def test_cells_below_eight_pixels_are_counted_as_the_k_convolutions_that_they_take():
    model = create_model("nsr", 2, **SMALL, cell=4)
    body = 4 * 9 * 8 * 8 * 96 * 64
    assert count(model, (96, 64)).multi_adds - count(create_model("nsr", 2, **SMALL), (96, 64)).multi_adds == 3 * body
