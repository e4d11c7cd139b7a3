"""PSNR, SSIM and the protocol, against numbers that MATLAB, IPOL and scikit-image computed."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from nsrlib import claims, signatures
from nsrlib.evaluation import Setting, evaluate, protocol_sensitivity
from nsrlib.images import imresize
from nsrlib.metrics import GRAY, MATLAB_Y, PRESETS, RGB, SELFEXSR_Y, VDSR_Y, Protocol, planes, psnr, ssim

with (Path(__file__).parent / "golden" / "selfexsr_bicubic.csv").open(newline="") as file:
    MATLAB_ROWS = list(csv.DictReader(file))


def levels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def disturbed(x: np.ndarray, spread: int = 20, seed: int = 1) -> np.ndarray:
    step = np.random.default_rng(seed).integers(-spread, spread + 1, x.shape)
    return np.clip(x + step, 0, 255).astype(np.uint8)


# --- somebody else's digits -------------------------------------------------------------------------------------------


def test_there_are_57_rows_of_matlab():
    assert len(MATLAB_ROWS) == 57


@pytest.mark.benchmark
@pytest.mark.parametrize("row", MATLAB_ROWS, ids=lambda row: "-".join([row["set"], "x" + row["scale"], row["image"]]))
def test_bicubic_has_the_psnr_and_ssim_that_matlab_stored(benchmark, row):
    scale = int(row["scale"])
    pair = benchmark(row["set"], scale, "files")[int(row["image"].removeprefix("img_")) - 1]
    sr, hr = imresize(pair.lr, scale, border="repeat", round_between=True), pair.hr
    if pair.gray:
        sr, hr = sr[..., 0], hr[..., 0]
    assert psnr(sr, hr, SELFEXSR_Y(scale)) == pytest.approx(float(row["psnr"]), abs=1e-9)
    assert ssim(sr, hr, SELFEXSR_Y(scale)) == pytest.approx(float(row["ssim"]), abs=1e-9)


def test_noisy_camera_has_the_numbers_of_ipols_imdiff():
    from skimage import data

    camera = data.camera()
    noisy = np.clip(camera + 20.0 * np.random.RandomState(5).randn(512, 512), 0, 255).astype(np.uint8)
    assert psnr(camera, noisy, GRAY()) == pytest.approx(22.409353, abs=1e-6)
    assert ssim(camera, noisy, GRAY()) == pytest.approx(0.357964, abs=1e-6)  # the valid window
    assert ssim(camera, noisy, GRAY()) == pytest.approx(0.357959, abs=1e-5)  # imdiff's own


SENSITIVITY = {  # luma rounded; clamped; not rounded; RGB; RGB, luma rounded; RGB LR, luma up; nothing rounded
    (
        "Set5",
        2,
    ): "33.6614/0.9299 33.6615/0.9299 33.6767/0.9304 33.6818/0.9305 33.6486/0.9295 33.6868/0.9307 33.6904/0.9308",
    (
        "Set5",
        3,
    ): "30.3922/0.8682 30.3924/0.8682 30.3988/0.8687 30.4047/0.8690 30.3863/0.8679 30.4056/0.8691 30.4077/0.8692",
    (
        "Set5",
        4,
    ): "28.4207/0.8104 28.4211/0.8104 28.4257/0.8109 28.4314/0.8113 28.4189/0.8102 28.4315/0.8113 28.4324/0.8114",
    (
        "Set14",
        2,
    ): "30.2318/0.8687 30.2374/0.8688 30.2391/0.8691 30.2357/0.8692 30.2239/0.8685 30.2316/0.8693 30.2424/0.8693",
    (
        "Set14",
        3,
    ): "27.5405/0.7736 27.5457/0.7742 27.5443/0.7741 27.5397/0.7746 27.5334/0.7738 27.5369/0.7743 27.5461/0.7743",
    (
        "Set14",
        4,
    ): "26.0001/0.7019 26.0044/0.7027 26.0025/0.7023 25.9973/0.7031 25.9933/0.7024 25.9950/0.7026 26.0036/0.7025",
}


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("name", "scale"),
    [pytest.param(*key, marks=[pytest.mark.slow] if key[0] == "Set14" else []) for key in SENSITIVITY],
)
def test_seven_conventions_give_seven_known_bicubic_rows(benchmark, name, scale):
    table = protocol_sensitivity(benchmark(name, scale))
    assert table.columns.tolist() == ["convention", "psnr", "ssim"]
    assert table["convention"].is_unique
    rows = [f"{row.psnr:.4f}/{row.ssim:.4f}" for row in table.itertuples()]
    assert rows == SENSITIVITY[name, scale].split()
    preset = evaluate("bicubic", name.lower(), scale, PRESETS["vdsr"](scale))
    printed = claims.published("drcn").set_index("id")["value"]
    for metric in ("psnr", "ssim"):
        value, text = table[metric].iloc[1], printed[f"table1/Bicubic/x{scale}/{name}/{metric}"]
        assert claims.to_the_digit(value, text)
        assert value == pytest.approx(preset[metric].mean(), abs=2e-5)  # which rounds halves to even


@pytest.mark.benchmark
def test_set5_in_rgb_is_two_decibels_lower(benchmark):
    old_matlab = {"border": "repeat", "round_between": True}
    values = [psnr(imresize(p.lr, 2, **old_matlab), p.hr, RGB(2)) for p in benchmark("Set5", 2, "files")]
    assert f"{np.mean(values):.2f}" == "31.79"


# --- arithmetic -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 255), st.integers(0, 255))
def test_psnr_of_a_constant_difference_is_twenty_log_of_the_ratio(d, level):
    low = min(level, 255 - d)
    x, y = np.full((6, 7), low, np.uint8), np.full((6, 7), low + d, np.uint8)
    assert psnr(x, y, GRAY()) == pytest.approx(20 * math.log10(255 / d), abs=1e-12)
    rgb = [np.stack([a] * 3, -1) for a in (x, y)]
    assert psnr(*rgb, RGB()) == pytest.approx(20 * math.log10(255 / d), abs=1e-12)
    # gray as three equal channels spans 219 of 255 levels
    assert psnr(*rgb, MATLAB_Y()) == pytest.approx(20 * math.log10(255 / d * 255 / 219), abs=1e-9)
    assert psnr(x, y, MATLAB_Y()) == psnr(*rgb, MATLAB_Y())
    assert psnr(x, y, SELFEXSR_Y()) == psnr(x, y, GRAY())


def test_psnr_of_equal_pictures_is_infinite():
    x = levels(8, 8, 3)
    assert psnr(x, x) == math.inf


def test_psnr_takes_the_mean_square_over_all_channels_of_rgb():
    x = np.zeros((4, 4, 3), np.uint8)
    y = x.copy()
    y[..., 1] = 30
    assert psnr(x, y, RGB()) == pytest.approx(10 * math.log10(255**2 / (900 / 3)), abs=1e-12)


@pytest.mark.parametrize("shape", [(11, 11), (16, 23), (40, 31)], ids=str)
@pytest.mark.parametrize("quantise", [True, False])
def test_ssim_equals_scikit_image_on_the_valid_region(shape, quantise):
    x = levels(*shape)
    y = disturbed(x)
    a, b = (x, y) if quantise else (x / 255, y / 255 + 1e-3)
    expected = structural_similarity(
        a * (1.0 if quantise else 255.0), b * (1.0 if quantise else 255.0),
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True,
    )[1][5:-5, 5:-5].mean()  # fmt: skip
    assert ssim(a, b, Protocol(space="gray", quantise=quantise)) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_rgb_is_the_mean_over_channels():
    x = levels(20, 25, 3)
    y = disturbed(x)
    each = [ssim(np.ascontiguousarray(x[..., k]), np.ascontiguousarray(y[..., k]), GRAY()) for k in range(3)]
    assert ssim(x, y, RGB()) == pytest.approx(np.mean(each), abs=1e-12)


def test_ssim_of_two_constants_is_the_luminance_term():
    x, y = np.full((15, 12), 100, np.uint8), np.full((15, 12), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(x, y, GRAY()) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-9)


def test_window_and_sigma_of_the_protocol_are_used():
    x = levels(30, 30)
    y = disturbed(x)
    expected = structural_similarity(
        x, y, gaussian_weights=True, sigma=0.8, use_sample_covariance=False, data_range=255, full=True
    )[1][3:-3, 3:-3].mean()  # scikit-image's radius: int(3.5 * 0.8 + 0.5) = 3
    assert ssim(x, y, Protocol(space="gray", window=7, sigma=0.8)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", [psnr, ssim])
@pytest.mark.parametrize("protocol", [MATLAB_Y(2), SELFEXSR_Y(3), RGB(1), MATLAB_Y()], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64], ids=str)
def test_a_batch_gives_the_values_of_its_pictures(measure, protocol, dtype):
    x = np.stack([levels(24, 29, 3, seed=k) for k in range(3)])
    y = np.stack([disturbed(x[k], 10 * (k + 1)) for k in range(3)])
    a, b = (torch.from_numpy(v).permute(0, 3, 1, 2) for v in (x, y))
    if dtype != torch.uint8:
        a, b = a.to(dtype) / 255, b.to(dtype) / 255
    together = measure(a, b, protocol)
    assert (together.shape, together.dtype) == ((3,), torch.float64)
    for k in range(3):
        assert together[k].item() == pytest.approx(measure(x[k], y[k], protocol), abs=1e-12)
        alone = measure(a[k], b[k], protocol)
        assert isinstance(alone, float)
        assert alone == pytest.approx(together[k].item(), abs=1e-12)


def test_the_crop_is_cut_after_the_conversion_from_each_side():
    x = levels(30, 26, 3)
    y = disturbed(x)
    border = y.copy()
    border[:4], border[-4:], border[:, :4], border[:, -4:] = 0, 0, 255, 255
    for measure in (psnr, ssim):
        assert measure(x, border, MATLAB_Y(4)) == measure(x, y, MATLAB_Y(4))
        assert measure(x, border, MATLAB_Y(3)) != measure(x, y, MATLAB_Y(3))
        assert measure(x[4:-4, 4:-4], y[4:-4, 4:-4], MATLAB_Y()) == measure(x, y, MATLAB_Y(4))


def test_float_pictures_are_rounded_as_a_file_would_unless_told_otherwise():
    x, y = levels(12, 12, 3), levels(12, 12, 3, seed=1)
    beyond = np.where(y == 255, 1.5, np.where(y == 0, -0.5, y / 255 + 0.4 / 255))
    assert psnr(x / 255, beyond, RGB()) == psnr(x, y, RGB())
    exact = np.square((beyond - x / 255) * 255).mean()
    unrounded = Protocol(space="rgb", quantise=False)
    assert psnr(x / 255, beyond, unrounded) == pytest.approx(10 * math.log10(255**2 / exact), abs=1e-9)


def test_gray_files_under_luma_are_as_they_are_or_three_equal_channels():
    x, y = levels(14, 14), levels(14, 14, seed=1)
    assert planes(x, SELFEXSR_Y()).max() > 235
    np.testing.assert_array_equal(planes(x, SELFEXSR_Y())[0, 0], x)
    np.testing.assert_allclose(planes(x, MATLAB_Y())[0, 0], 16 + 219 * (x / 255), rtol=0, atol=1e-12)
    three = [np.stack([v] * 3, -1) for v in (x, y)]
    assert ssim(x, y, MATLAB_Y()) == ssim(*three, MATLAB_Y())


def test_luma_rounding_of_the_protocol_is_used():
    x = levels(9, 9, 3)
    assert (planes(x, MATLAB_Y()) % 1 != 0).any()
    assert (planes(x, SELFEXSR_Y()) % 1 == 0).all()


def test_arrays_of_any_stride_can_be_compared():
    x = levels(24, 24, 3)
    y = disturbed(x)
    assert psnr(x[::-1, ::-1], y[::-1, ::-1]) == pytest.approx(psnr(x, y), abs=1e-12)
    assert psnr(x[:1][::-1], y[:1][::-1]) == psnr(x[:1], y[:1])


def test_metrics_carry_no_gradient_and_leave_their_input_alone():
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before = x.detach().clone()
    assert not psnr(x, x * 0.9).requires_grad
    assert torch.equal(x, before)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [psnr, ssim])
@pytest.mark.parametrize(
    ("a", "b", "protocol", "error", "message"),
    [
        (levels(20, 20, 3), levels(20, 21, 3), None, ValueError, r"differ in shape: \(20, 20, 3\) and \(20, 21, 3\)"),
        (levels(20, 20, 3), torch.zeros(20, 20, 3), None, TypeError, "two tensors, got ndarray and Tensor"),
        (levels(20, 20, 2), levels(20, 20, 2), None, ValueError, "pictures have 1 or 3 channels, got 2"),
        (levels(1, 3, 20, 20), levels(1, 3, 20, 20), None, ValueError, r"\(H, W, C\), got \(1, 3, 20, 20\)"),
        (torch.zeros(20, 20), torch.zeros(20, 20), None, ValueError, r"\(C, H, W\) or \(N, C, H, W\), got \(20, 20\)"),
        (np.zeros((20, 20), int), np.zeros((20, 20), int), None, TypeError, "a must be uint8 .*, got int64: convert"),
        (levels(20, 20, 3), levels(20, 20, 3), GRAY(), ValueError, "'gray' but the picture has 3 channels"),
        (levels(20, 20), levels(20, 20), GRAY(10), ValueError, "cropping 10 pixels .* leaves nothing of a 20x20"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_pictures_that_cannot_be_compared_are_refused(measure, a, b, protocol, error, message):
    with pytest.raises(error, match=message):
        measure(a, b, protocol)


def test_ssim_says_when_its_window_does_not_fit():
    x = levels(20, 12)
    with pytest.raises(ValueError, match="SSIM's 11x11 window does not fit in 18x10 pixels"):
        ssim(x, x, GRAY(1))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"space": "Y"}, "space must be 'y', 'rgb' or 'gray', got 'Y'"),
        ({"luma_rounding": "round"}, "luma_rounding must be 'none', 'nearest' or 'matlab', got 'round'"),
        ({"crop": -1}, "crop must not be negative, got -1"),
        ({"window": 10}, "window must be odd and positive, got 10"),
        ({"window": -1}, "window must be odd and positive, got -1"),
        ({"space": "rgb", "clamp": True}, "clamp=True is for luma, space 'y', got 'rgb'"),
    ],
    ids=str,
)
def test_a_protocol_that_makes_no_sense_cannot_be_made(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**kwargs)


def test_a_protocol_prints_every_choice_in_one_line():
    assert str(MATLAB_Y(2)) == (
        "Y of BT.601 16..235, rounding none; gray files as three equal channels; crop 2 px; output rounded to 8 bit; "
        "PSNR peak 255; SSIM 11x11 Gaussian, sigma 1.5, valid, K 0.01 0.03, L 255; mean of per-image values"
    )
    assert "rounding matlab; gray files as they are" in str(SELFEXSR_Y())
    assert "as they are; LR from luma, not rounded, its bicubic upscaling clamped to 16..235; crop 3" in str(VDSR_Y(3))
    assert str(RGB(4)).startswith("RGB; crop 4 px; output rounded")
    assert str(Protocol(space="gray", quantise=False)).startswith("gray plane; crop 0 px; output not rounded")
    every = [MATLAB_Y(), SELFEXSR_Y(), RGB(), GRAY(), MATLAB_Y(2), Protocol(window=7), Protocol(sigma=2)]
    every += [Protocol(quantise=False), Protocol(luma_rounding="nearest"), Protocol(gray_as_is=True)]
    assert len({str(p) for p in every}) == len(every)


# --- signatures -------------------------------------------------------------------------------------------------------

FIELDS = {  # of each, what it takes: a new field must be added here, with more than its default
    "space": st.sampled_from(["y", "rgb", "gray"]),
    "luma_rounding": st.sampled_from(["none", "nearest", "matlab"]),
    "crop": st.integers(0, 64),
    "quantise": st.booleans(),
    "gray_as_is": st.booleans(),
    "window": st.integers(0, 20).map(lambda n: 2 * n + 1),
    "sigma": st.floats(0, 100, exclude_min=True),
    "clamp": st.booleans(),
}
PROTOCOLS = st.fixed_dictionaries(FIELDS).map(lambda kw: Protocol(**kw | {"clamp": kw["clamp"] and kw["space"] == "y"}))
SETTINGS = st.builds(
    Setting,
    scale=st.integers(1, 8),
    lr=st.sampled_from(["paper", "repeat", "mirror", "luma", "luma_8bit", "files", "unknown"]),
    noise=st.none() | st.integers(0, 255) | st.floats(0, 255),
    jpeg=st.none() | st.integers(1, 100),
    noise_seed=st.integers(0, 2**70),
    tile=st.none() | st.just("auto") | st.integers(1, 999),
    fast=st.booleans(),
)


@given(PROTOCOLS, PROTOCOLS)
def test_a_protocol_comes_back_from_its_signature(one, other):
    assert Protocol.parse(one.signature) == one
    assert (one.signature == other.signature) == (one == other)


@example(Setting(noise_seed=2**63 + 1), Setting(noise_seed=2**63))
@given(SETTINGS, SETTINGS)
def test_a_setting_comes_back_from_its_signature(one, other):
    assert Setting.parse(one.signature) == one
    assert (one.signature == other.signature) == (one == other)


@pytest.mark.parametrize("name", [field.name for field in fields(Protocol)])
@given(st.data())
def test_every_field_of_a_protocol_is_in_its_signature(name, data):
    value = data.draw(FIELDS[name])
    changed = Protocol(**{name: value})
    assert (changed.signature == Protocol().signature) == (value == getattr(Protocol(), name))


def test_a_field_that_comes_later_leaves_stored_signatures_as_they_are():
    @dataclass(frozen=True)
    class Later(Protocol):
        wrap: bool = False
        border: Literal["mirror", "repeat"] = "mirror"

    assert Later(crop=4).signature == Protocol(crop=4).signature
    assert Later(crop=4, wrap=True, border="repeat").signature == "v1:y,crop=4,wrap=yes,border=repeat"
    assert signatures.read(Later, ["wrap=yes", "border=repeat"]) == {"wrap": True, "border": "repeat"}


@pytest.mark.parametrize(
    ("protocol", "signature"),
    [
        (MATLAB_Y(), "v1:y"),
        (MATLAB_Y(4), "v1:y,crop=4"),
        (MATLAB_Y(np.int64(4)), "v1:y,crop=4"),
        (SELFEXSR_Y(2), "v1:y,luma_rounding=matlab,crop=2,gray_as_is=yes"),
        (VDSR_Y(3), "v1:y,luma_rounding=matlab,crop=3,gray_as_is=yes,clamp=yes"),
        (RGB(3), "v1:rgb,crop=3"),
        (Protocol(space="gray", quantise=np.False_, window=7, sigma=2), "v1:gray,quantise=no,window=7,sigma=2"),
        (Protocol(sigma=2.0), "v1:y,sigma=2"),
        (Protocol(sigma=0.1), "v1:y,sigma=0.1"),
    ],
    ids=str,
)
def test_stored_signatures_keep_their_meaning(protocol, signature):
    assert protocol.signature == signature
    assert Protocol.parse(signature) == protocol


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_typed_with_and_without_fields(name):
    assert Protocol.parse(name) == PRESETS[name](0)
    assert Protocol.parse(f" {name} , crop = 4 ") == Protocol.parse(f"v1:{name},crop=4") == PRESETS[name](4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lab,crop=2", "a protocol begins with one of y, selfexsr, vdsr, rgb, gray, got 'lab,crop=2'"),
        ("", "a protocol begins with one of y, selfexsr, vdsr, rgb, gray, got ''"),
        ("crop=2", "a protocol begins with one of y, selfexsr, vdsr, rgb, gray, got 'crop=2'"),
        (
            "y,crp=2",
            "a protocol has no field 'crp=2'; there are: luma_rounding=, crop=, quantise=, gray_as_is=, window=",
        ),
        ("y,space=rgb", "a protocol has no field 'space=rgb'; there are: luma_rounding="),
        ("y,rgb", "a protocol has no field 'rgb'; there are: "),
        ("y,crop=two", "crop takes a whole number, got 'two'"),
        ("y,crop=2.5", "crop takes a whole number, got '2.5'"),
        ("y,sigma=", "sigma takes a number, got ''"),
        ("y,quantise=1", "quantise takes yes or no, got '1'"),
        ("y,luma_rounding=up", "luma_rounding takes none or nearest or matlab, got 'up'"),
        ("y,crop=-1", "crop must not be negative, got -1"),
        ("y,crop=1,crop=1", "crop is given twice"),
        ("v2:y", "'v2:y' is a signature of version 'v2', and not 'v1'"),
    ],
)
def test_text_that_is_no_protocol_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Protocol.parse(text)
