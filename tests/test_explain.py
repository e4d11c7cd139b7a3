"""Which choice of a protocol explains a number: measured against :func:`evaluate`, and on tables made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nsrlib import create_model, explain
from nsrlib.data import load
from nsrlib.evaluation import Setting, evaluate, upscale
from nsrlib.images import imresize, to_tensor
from nsrlib.metrics import Protocol, psnr


@pytest.fixture
def folder(tmp_path):
    """Two pictures, the second one gray."""
    rng = np.random.default_rng(0)
    for name, shape in {"colour": (9, 10, 3), "gray": (8, 9)}.items():
        levels = 255 * imresize(rng.random(shape), size=(40, 48)).clip(0, 1)
        Image.fromarray(np.round(levels).astype(np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def colour(folder):
    (folder / "gray.png").unlink()
    return folder


class Brighter(nn.Module):
    """Repeats every pixel, a third of a level brighter: rounding matters."""

    scale, halo, min_size = 4, 0, 1

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape)
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.3 / 255


def measured(network, *args, **more):
    return explain.measured(network, *args, device="cpu", **more)


# --- every combination ------------------------------------------------------------------------------------------------


def test_each_number_is_that_of_evaluate_under_the_two_signatures(folder):
    table = measured(Brighter(), folder, 4)
    for row in table[table["quantise"]].itertuples():
        setting = Setting.parse(row.setting)
        ours = evaluate(Brighter(), folder, 4, Protocol.parse(row.protocol), "cpu", lr=setting.lr)
        assert row.psnr == pytest.approx(ours["psnr"].mean(), abs=1e-9), row
        assert (setting.scale, setting.lr) == (4, row.lr)
    assert table["psnr"].nunique() > 100


def test_an_output_that_is_not_rounded_is_compared_as_it_is(colour):
    table = measured(Brighter(), colour, 4)
    (pair,) = load(colour, 4)
    with torch.inference_mode():
        raw = upscale(Brighter(), to_tensor(pair.lr))[0].permute(1, 2, 0).numpy()
    for row in table[~table["quantise"] & (table["lr"] == "paper")].itertuples():
        assert row.psnr == pytest.approx(psnr(raw, pair.hr, Protocol.parse(row.protocol)), abs=1e-9)
    rows = table.set_index("protocol")["psnr"]
    assert rows["v1:rgb,crop=4,quantise=no"].iloc[0] != rows["v1:rgb,crop=4"].iloc[0]


def test_the_network_sees_each_picture_once_for_each_kind_of_lr(folder):
    network = Brighter()
    network.__deepcopy__ = lambda memo: network
    measured(network, folder, 4)
    assert network.seen == [(1, 3, 10, 12)] * 3 * 2


@pytest.mark.parametrize(("scale", "crops"), [(4, [4, 0, 1, 2]), (2, [2, 0, 1]), (3, [3, 0, 1, 2])], ids=str)
def test_there_is_every_combination_once_and_the_papers_is_the_first(colour, scale, crops):
    table = measured(create_model("bicubic", scale), colour, scale)
    first = table.iloc[0]
    assert Protocol.parse(first["protocol"]) == Protocol(crop=scale)
    assert (first["setting"], first["changes"]) == (f"v1:scale={scale}", "")
    assert list(dict.fromkeys(table["crop"])) == crops
    assert len(table) == 3 * len(crops) * 2 * 3  # LR, border, rounding of the output; luma, luma rounded, RGB
    assert not table[["protocol", "setting"]].duplicated().any()
    assert not table["changes"].duplicated().any()
    assert table.attrs == {"dataset": colour.name, "scale": scale, "images": 1}


def test_gray_files_are_no_choice_where_there_are_none(colour):
    assert set(measured(create_model("bicubic", 4), colour, 4)["gray_as_is"]) == {False}


def test_gray_files_at_their_own_levels_move_a_number(folder):
    table = measured(create_model("bicubic", 4), folder, 4)
    single = explain.alone(table).set_index("changes")["moved"]
    assert single["gray at 0..255"] < -0.1  # 255 levels in place of 219
    assert "v1:y,crop=4,gray_as_is=yes" in set(table["protocol"])


def test_changes_are_said_in_words(colour):
    table = measured(create_model("bicubic", 4), colour, 4)
    assert explain.alone(table)["changes"].tolist() == [
        "nothing cropped",
        "1 px cropped",
        "2 px cropped",
        "luma rounded",
        "RGB",
        "output not rounded",
        "LR as in SwinIR's files",
        "LR as in SelfExSR's files",
    ]
    both = table.query("lr == 'mirror' and space == 'rgb' and crop == 1 and not quantise")["changes"].item()
    assert both == "LR as in SwinIR's files, RGB, 1 px cropped, output not rounded"


def test_a_set_without_small_images_is_refused(colour):
    with pytest.raises(ValueError, match="scale must be 2 or more, got 1"):
        measured(nn.Identity(), colour, 1)


# --- what explains a number -------------------------------------------------------------------------------------------


def by_hand() -> pd.DataFrame:
    """The numbers of BSRN x4 on Set5, to two digits."""
    rows = [
        ("y", 4, 32.35, ""),
        ("y", 0, 32.24, "nothing cropped"),
        ("rgb", 4, 30.44, "RGB"),
        ("rgb", 0, 30.34, "RGB, nothing cropped"),
        ("rgb", 1, 30.38, "RGB, 1 px cropped"),
    ]
    table = pd.DataFrame(rows, columns=["space", "crop", "psnr", "changes"])
    return table.assign(protocol="v1:p", setting="v1:s")


def test_the_nearest_combination_comes_first_and_the_tolerance_is_a_bound():
    found = explain.near(by_hand(), 30.37, 0.0701)
    assert found["changes"].tolist() == ["RGB, 1 px cropped", "RGB, nothing cropped", "RGB"]
    assert found["off"].round(3).tolist() == [0.01, -0.03, 0.07]
    assert explain.near(by_hand(), 30.37, 0.05)["changes"].tolist() == ["RGB, 1 px cropped", "RGB, nothing cropped"]


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")], ids=str)
def test_a_tolerance_is_a_number_from_nothing_on(tolerance):
    with pytest.raises(ValueError, match=f"tolerance must be a number of dB from 0 on, got {tolerance}"):
        explain.near(by_hand(), 30.36, tolerance)


def test_what_is_reported_is_a_number():
    with pytest.raises(ValueError, match="reported must be a number of dB, got nan"):
        explain.explained(by_hand(), float("nan"))


def test_the_lines_name_the_cause_what_it_explains_and_what_is_left():
    lines = explain.explained(by_hand(), 30.36, 0.1, number=2)
    assert lines == [
        "30.36 dB reported; 32.35 dB by the default protocol [v1:p v1:s]",
        "within 0.1 dB: 3 of 5 combinations; the nearest:",
        "  30.340 dB (-0.020)  RGB, nothing cropped  [v1:p v1:s]",
        "  30.380 dB (+0.020)  RGB, 1 px cropped  [v1:p v1:s]",
        "all within 0.1 dB have in common: RGB",
        "the best single change, RGB: -1.910 of -1.990 dB",
        "no combination gives 30.36: at least 0.015 dB come from something that is not among them",
    ]


@pytest.mark.parametrize(
    ("reported", "tolerance", "says"),
    [
        (32.352, 0.05, ["nothing to explain: it is what the default protocol gives"]),
        (32.24, 0.01, ["all within 0.01 dB have in common: nothing cropped",
                       "the best single change, nothing cropped: -0.110 of -0.110 dB"]),
        (32.30, 0.2, ["no choice has to differ from the default to come within 0.2 dB",
                      "no combination gives 32.30: at least 0.045 dB come from something that is not among them"]),
        (28.00, 0.05, ["no combination is within 0.05 dB",
                       "the best single change, RGB: -1.910 of -4.350 dB",
                       "no combination gives 28.00: at least 2.335 dB come from something that is not among them"]),
    ],
    ids=["the default", "one choice", "near the default", "far away"],
)  # fmt: skip
def test_the_conclusion_follows_the_table(reported, tolerance, says):
    assert explain.conclusion(by_hand(), reported, tolerance) == says


@pytest.mark.slow
def test_rgb_explains_what_a_user_of_bsrn_reports(published, benchmark):
    """The user reports 30.36 dB. PSNR of RGB and of luma by the authors' weights, as others measured them."""
    benchmark("set5", 4)
    table = measured(published("bsrn", 4), "set5", 4)
    ours = table.set_index(["setting", "protocol"])["psnr"].round(3)
    luma = {"v1:scale=4": 32.351, "v1:scale=4,lr=mirror": 32.349, "v1:scale=4,lr=repeat": 32.350}
    for setting, value in luma.items():
        assert ours[setting, "v1:y,crop=4"] == pytest.approx(value, abs=1.1e-3)
    assert ours["v1:scale=4", "v1:y,luma_rounding=nearest,crop=4"] == pytest.approx(32.329, abs=1.1e-3)
    in_rgb = [ours["v1:scale=4", replace(Protocol("rgb"), crop=crop).signature].round(2) for crop in (0, 1, 2, 4)]
    assert in_rgb == [30.34, 30.38, 30.38, 30.44]
    assert explain.causes(table, 30.36, 0.1) == ["RGB"]
    assert explain.near(table, 30.36, 0.005).empty
