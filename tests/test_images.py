"""MATLAB's imresize, luma, noise and JPEG; pictures as tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nsrlib import create_model, images
from nsrlib.bench.clock import CpuClock, measure
from nsrlib.images import (
    Degradation,
    add_noise,
    imresize,
    jpeg,
    luma,
    modcrop,
    to_tensor,
    to_uint8,
)

EPS32 = np.finfo(np.float32).eps


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def levels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- imresize ---------------------------------------------------------------------------------------------------------


def keys_cubic(t: float) -> float:
    """Keys 1981 with a = -0.5, as the documentation of MATLAB's imresize names it."""
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t <= 2 else 0.0


def dense_matrix(n_in: int, n_out: int, scale: float, border: str, antialias: bool = True) -> np.ndarray:
    """Resizing of one axis as a matrix ``(n_out, n_in)``, pixel by pixel: pixel i covers [i, i + 1)."""
    matrix = np.zeros((n_out, n_in))
    stretch = min(scale, 1.0) if antialias else 1.0
    reach = math.ceil(2 / stretch) + 1
    for i in range(n_out):
        centre = (i + 0.5) / scale - 0.5
        near = range(math.floor(centre) - reach, math.ceil(centre) + reach + 1)
        weights = [keys_cubic(stretch * (centre - j)) for j in near]
        for j, weight in zip(near, weights, strict=True):
            if border == "repeat":
                inside = min(max(j, 0), n_in - 1)
            else:
                inside = j % (2 * n_in)
                inside = inside if inside < n_in else 2 * n_in - 1 - inside
            matrix[i, inside] += weight / sum(weights)
    return matrix


@pytest.mark.parametrize("border", ["mirror", "repeat"])
@pytest.mark.parametrize(
    ("shape", "factors"),
    [
        ((24, 36), (0.5, 0.5)),
        ((25, 37), (1 / 3, 1 / 3)),
        ((23, 41), (0.25, 0.25)),
        ((9, 12), (1 / 8, 1 / 8)),  # the kernel is wider than the picture
        ((13, 11), (2, 2)),
        ((13, 11), (3, 3)),
        ((7, 5), (4, 4)),
        ((17, 19), (0.7, 1.6)),
        ((17, 19), (1.6, 0.7)),
        ((1, 6), (2.5, 0.4)),
        ((12, 12), (1, 1)),
    ],
    ids=str,
)
def test_imresize_equals_a_dense_matrix_written_from_the_definition(shape, factors, border):
    x = noise(*shape)
    target = [math.ceil(f * s - 1e-9) for f, s in zip(factors, shape, strict=True)]
    rows, cols = (dense_matrix(*args, border) for args in zip(shape, target, factors, strict=True))
    y = imresize(x, factors, border=border)
    assert y.shape == tuple(target)
    # fewer than 100 terms of size one, centres rounded to eps * 41
    np.testing.assert_allclose(y, rows @ x @ cols.T, rtol=0, atol=1e-13 * 10)


def test_imresize_without_antialiasing_equals_the_unstretched_kernel():
    x = noise(20, 31)
    expected = dense_matrix(20, 8, 0.4, "mirror", False) @ x @ dense_matrix(31, 13, 0.4, "mirror", False).T
    np.testing.assert_allclose(imresize(x, 0.4, antialias=False), expected, rtol=0, atol=1e-12)


def half_up(x: np.ndarray) -> np.ndarray:
    return np.floor(x + 0.5).clip(0, 255)


@pytest.mark.parametrize("factors", [(0.5, 0.25), (0.25, 0.5), (0.5, 2), (2, 0.5), (0.5, 0.5), (2, 2)], ids=str)
def test_the_axis_with_the_smaller_factor_is_resized_and_rounded_first(factors):
    x = levels(32, 24)  # factors of 1/4, 1/2, 2 have weights that are exact in binary: no tie depends on the order
    target = [int(f * s) for f, s in zip(factors, x.shape, strict=True)]
    rows, cols = (dense_matrix(*args, "repeat") for args in zip(x.shape, target, factors, strict=True))
    rows_first = half_up(half_up(rows @ x) @ cols.T)
    cols_first = half_up(rows @ half_up(x @ cols.T))
    assert (rows_first != cols_first).any()
    y = imresize(x, factors, border="repeat", round_between=True)
    assert y.dtype == np.uint8
    np.testing.assert_array_equal(y, rows_first if factors[0] <= factors[1] else cols_first)


def test_uint8_without_rounding_between_is_the_double_result_rounded_half_up():
    x = levels(30, 26, 3)
    exact = imresize(x.astype(np.float64), 0.5)
    np.testing.assert_array_equal(imresize(x, 0.5), half_up(exact).astype(np.uint8))
    step = np.array([[0, 0, 255, 255]], np.uint8)
    assert imresize(step.astype(np.float64), 2).max() > 255  # the cubic overshoots, so uint8 must clip
    assert imresize(step, 2).max() == 255


@pytest.mark.benchmark
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("name", "count"), [("Set5", 5), ("Set14", 14)])
def test_imresize_makes_the_lr_files_of_old_matlab_bit_by_bit(benchmark, name, count, scale):
    pairs = benchmark(name, scale, "files")
    assert len(pairs) == count
    for pair in pairs:
        made = imresize(pair.hr, 1 / scale, border="repeat", round_between=True)
        np.testing.assert_array_equal(made, pair.lr, err_msg=pair.name)


@pytest.mark.benchmark
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_imresize_makes_the_lr_files_of_newer_matlab_bit_by_bit(benchmark, scale):
    pairs = benchmark("Set5", scale, "files_mirror")
    assert len(pairs) == 5
    for pair in pairs:
        made = imresize(pair.hr, 1 / scale, border="mirror", round_between=scale != 8)
        np.testing.assert_array_equal(made, pair.lr, err_msg=pair.name)


@pytest.mark.parametrize("kwargs", [{}, {"border": "repeat", "round_between": True}], ids=str)
@pytest.mark.parametrize("scale", [1 / 3, 0.5, 2, 3, (0.4, 2.5)], ids=str)
def test_numpy_tensor_and_batch_give_the_same_levels(scale, kwargs):
    batch = levels(3, 3, 21, 17)
    together = imresize(torch.from_numpy(batch), scale, **kwargs)
    assert together.dtype == torch.uint8
    for k in range(3):
        alone = imresize(batch[k].transpose(1, 2, 0), scale, **kwargs)
        np.testing.assert_array_equal(together[k].permute(1, 2, 0), alone)
        np.testing.assert_array_equal(together[k, 0], imresize(batch[k, 0], scale, **kwargs))


def test_float_numpy_tensor_and_batch_are_equal_to_the_last_bit():
    batch = noise(2, 3, 21, 17)
    together = imresize(torch.from_numpy(batch), 1 / 3)
    for k in range(2):
        np.testing.assert_array_equal(together[k].permute(1, 2, 0), imresize(batch[k].transpose(1, 2, 0), 1 / 3))


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.5, 2, 3, 4])
def test_float32_is_as_close_to_float64_as_its_sums_allow(scale):
    x = noise(40, 37)
    taps = math.ceil(4 / min(scale, 1)) + 2
    error = imresize(torch.from_numpy(x).float(), scale).double() - imresize(torch.from_numpy(x), scale)
    # each pass: input, weights and one rounding a tap, on values below 2
    assert error.abs().max() < 2 * (taps + 2) * EPS32


@pytest.mark.parametrize("border", ["mirror", "repeat"])
@pytest.mark.parametrize("scale", [0.5, 1 / 3, 2, (0.7, 1.5)], ids=str)
def test_gradient_of_imresize_is_right(scale, border):
    x = torch.from_numpy(noise(1, 2, 6, 5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: imresize(t, scale, border=border), x)


def test_gradient_of_imresize_is_the_transposed_matrix():
    x = torch.from_numpy(noise(12, 9)).requires_grad_()
    (imresize(x, 1 / 3) * torch.from_numpy(noise(4, 3, seed=1))).sum().backward()
    rows, cols = dense_matrix(12, 4, 1 / 3, "mirror"), dense_matrix(9, 3, 1 / 3, "mirror")
    np.testing.assert_allclose(x.grad, rows.T @ noise(4, 3, seed=1) @ cols, rtol=0, atol=1e-13)


@given(
    st.floats(0.2, 5),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 255),
    st.sampled_from(["mirror", "repeat"]),
)
def test_a_constant_image_stays_constant_at_any_scale(scale, h, w, level, border):
    for round_between in (False, True):
        y = imresize(np.full((h, w), level, np.uint8), scale, border=border, round_between=round_between)
        assert y.shape == (math.ceil(scale * h - 1e-9), math.ceil(scale * w - 1e-9))
        assert (y == level).all()
    np.testing.assert_allclose(imresize(np.full((h, w), 0.3), scale, border=border), 0.3, rtol=1e-13)


@given(
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["mirror", "repeat"]),
    st.integers(0, 2**31),
)
def test_flipping_before_resizing_equals_flipping_after(shape, size, border, seed):
    x = noise(*shape, seed=seed)
    flipped = imresize(np.ascontiguousarray(x[::-1, ::-1]), size=size, border=border)
    # a factor of 24 stretches the kernel to 96 taps; centres carry errors of eps * 40
    np.testing.assert_allclose(flipped, imresize(x, size=size, border=border)[::-1, ::-1], rtol=0, atol=1e-12)


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([2, 3, 4, 8]))
def test_sides_are_the_ceiling_of_scale_times_side_without_floating_point_slips(h, w, r):
    x = np.zeros((h, w))
    assert imresize(x, 1 / r).shape == (-(-h // r), -(-w // r))
    assert imresize(x, r).shape == (h * r, w * r)
    assert imresize(np.zeros((h * r, w * r)), 1 / r).shape == (h, w)


def test_a_third_of_nine_pixels_is_three():
    assert imresize(np.zeros((9, 9, 3)), 1 / 3).shape == (3, 3, 3)
    assert imresize(np.zeros((10, 8)), 1 / 3).shape == (4, 3)


@given(st.integers(1, 30), st.integers(1, 30))
def test_a_single_pixel_fills_any_size(h, w):
    for border in ("mirror", "repeat"):
        assert (imresize(np.full((1, 1), 77, np.uint8), size=(h, w), border=border) == 77).all()


def test_size_means_the_factor_of_each_side():
    x = noise(12, 20)
    np.testing.assert_array_equal(imresize(x, size=(6, 30)), imresize(x, (0.5, 1.5)))
    np.testing.assert_array_equal(imresize(x, size=(12, 20)), x)


def test_sizes_and_factors_may_be_numbers_of_numpy():
    x = noise(12, 20)
    for scale in (np.float32(0.5), np.array(0.5), np.array([0.5, 0.5]), [0.5, np.float64(0.5)]):
        np.testing.assert_array_equal(imresize(x, scale), imresize(x, 0.5))
    np.testing.assert_array_equal(imresize(x, np.array([2, 3])), imresize(x, (2, 3)))
    for size in (np.array([6, 30]), [np.int64(6), 30], torch.Size([6, 30])):
        np.testing.assert_array_equal(imresize(x, size=size), imresize(x, size=(6, 30)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_resized_in_float32_and_rounded_once(dtype):
    x = torch.from_numpy(noise(2, 3, 20, 18)).to(dtype)
    for scale in (0.25, 2):
        y = imresize(x, scale)
        assert y.dtype == dtype
        assert torch.equal(y, imresize(x.float(), scale).to(dtype))
    y = imresize(x[0, 0].float().numpy().astype(np.float16), 2)
    assert y.dtype == np.float16


def test_arrays_of_any_stride_are_read_right():
    x = noise(14, 10, 3)
    np.testing.assert_array_equal(imresize(x[::-1, ::2], 2), imresize(np.ascontiguousarray(x[::-1, ::2]), 2))


def test_the_input_of_imresize_is_not_changed():
    x, y = levels(9, 9), noise(9, 9)
    before = x.copy(), y.copy()
    imresize(x, 1)[:], imresize(y, 1)[:] = 0, 0
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((noise(4, 4),), {}, ValueError, "exactly one of scale and size, got scale=None and size=None"),
        ((noise(4, 4), 2), {"size": (8, 8)}, ValueError, "exactly one of scale and size"),
        ((noise(4, 4), 2), {"border": "reflect"}, ValueError, "border must be 'mirror' or 'repeat', got 'reflect'"),
        ((noise(4, 4), 2), {"round_between": True}, ValueError, "got a float image"),
        ((noise(4, 4), 0), {}, ValueError, "cannot resize 4x4 to 0x0: sizes must be positive"),
        ((noise(4, 4), -2), {}, ValueError, "sizes must be positive"),
        ((noise(4, 4), (2, 0)), {}, ValueError, "cannot resize 4x4 to 8x0"),
        ((noise(4, 4),), {"size": (0, 3)}, ValueError, "cannot resize 4x4 to 0x3"),
        ((noise(4, 4), (1, 2, 3)), {}, ValueError, r"two of them \(vertical, horizontal\), got \(1, 2, 3\)"),
        ((noise(4, 4), float("nan")), {}, ValueError, "finite factor .* got nan"),
        ((noise(4, 4), float("inf")), {}, ValueError, "finite factor .* got inf"),
        ((noise(0, 4), 2), {}, ValueError, r"img is empty: shape \(0, 4\)"),
        ((np.zeros((4, 4), np.int64), 2), {}, TypeError, r"img must be uint8 .* or float .*, got int64: convert"),
        ((noise(4), 2), {}, ValueError, r"\(H, W\) or \(H, W, C\), got \(4,\)"),
        ((noise(1, 3, 4, 4), 2), {}, ValueError, r"got \(1, 3, 4, 4\)"),
        (([[1.0]], 2), {}, TypeError, "got list: give a numpy array or a tensor"),
        ((noise(4, 4),), {"size": (20.9, 20.9)}, ValueError, r"two whole numbers .*, got \(20.9, 20.9\)"),
        ((noise(4, 4),), {"size": (8.0, 8)}, ValueError, r"two whole numbers .*, got \(8.0, 8\)"),
        ((noise(4, 4),), {"size": (True, 8)}, ValueError, r"two whole numbers .*, got \(True, 8\)"),
        ((noise(4, 4),), {"size": (8, 8, 3)}, ValueError, r"two whole numbers .*, got \(8, 8, 3\)"),
        ((noise(4, 4),), {"size": 8}, ValueError, r"two whole numbers \(height, width\), got 8"),
        ((noise(4, 4), True), {}, ValueError, "finite factor .* got True"),
        ((noise(4, 4), (2, False)), {}, ValueError, r"finite factor .* got \(2, False\)"),
        ((noise(4, 4), np.array([True, True])), {}, ValueError, r"finite factor .* got array\(\[ True"),
        ((noise(4, 4), np.ones(3)), {}, ValueError, r"finite factor .* got array\(\[1., 1., 1.\]\)"),
        ((noise(4, 4), "23"), {}, ValueError, "finite factor .* got '23'"),
        ((noise(4, 4), 2j), {}, ValueError, "finite factor .* got 2j"),
        ((torch.zeros(4), 2), {}, ValueError, r"shape \(..., H, W\), got \(4,\)"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_imresize_says_what_is_wrong(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        imresize(*args, **kwargs)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9))
def test_modcrop_keeps_the_top_left_multiple(h, w, r):
    x = levels(h, w, 3)
    t = torch.from_numpy(x).permute(2, 0, 1)
    if min(h, w) < r:
        with pytest.raises(ValueError, match=f"image of {h}x{w} is smaller than the scale {r}"):
            modcrop(x, r)
        return
    y = modcrop(x, r)
    assert y.shape == (h // r * r, w // r * r, 3)
    np.testing.assert_array_equal(y, x[: y.shape[0], : y.shape[1]])
    np.testing.assert_array_equal(modcrop(t, r).permute(1, 2, 0), y)


@pytest.mark.parametrize("scale", [0, -1, 1.5])
def test_modcrop_refuses_a_scale_that_is_no_positive_whole_number(scale):
    with pytest.raises(ValueError, match=f"positive whole number, got {scale}"):
        modcrop(noise(4, 4), scale)


# --- luma -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rgb", "exact", "rounded"),
    [
        ((255, 255, 255), 235.0, 235),
        ((0, 0, 0), 16.0, 16),
        ((255, 0, 0), 81.481, 81),
        ((0, 255, 0), 144.553, 145),
        ((0, 0, 255), 40.966, 41),
        ((128, 128, 128), 16 + 219 * 128 / 255, 126),
    ],
    ids=str,
)
def test_luma_of_known_colours(rgb, exact, rounded):
    pixel = np.array([[rgb]], np.uint8)
    assert luma(pixel)[0, 0] == pytest.approx(exact, abs=1e-12)
    assert luma(pixel, "nearest")[0, 0] == rounded
    assert luma(pixel, "matlab")[0, 0] == rounded


def test_both_roundings_agree_with_exact_integers_except_on_ties_which_matlabs_order_decides():
    r, g, b = np.meshgrid(np.arange(0, 256, 5), np.arange(256), np.arange(256), indexing="ij")
    rgb = np.stack([r, g, b], -1).astype(np.uint8).reshape(-1, 256, 3)
    r, g, b = (rgb[..., k].astype(np.int64) for k in range(3))
    thousandths = 65481 * r + 128553 * g + 24966 * b  # 1000 * 255 * (Y - 16), exact
    tie = thousandths % 255000 == 127500
    exact = 16 + (thousandths + 127500) // 255000
    near, matlab = luma(rgb, "nearest"), luma(rgb, "matlab")
    np.testing.assert_array_equal(near[~tie], exact[~tie])
    np.testing.assert_array_equal(matlab[~tie], exact[~tie])
    assert (near != matlab).any()
    for red, green, blue, ours in zip(r[tie], g[tie], b[tie], matlab[tie], strict=True):
        k = 1 / 255
        y = 65.481 * k * float(red) + 128.553 * k * float(green) + 24.966 * k * float(blue) + 16 + 0.5
        assert ours == math.floor(y)


@pytest.mark.parametrize("rounding", ["none", "nearest", "matlab"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_luma_of_tensors_equals_luma_of_arrays(rounding, dtype):
    x = levels(2, 16, 18, 3) if dtype == np.uint8 else noise(2, 16, 18, 3).astype(dtype)
    y = luma(torch.from_numpy(x).permute(0, 3, 1, 2), rounding)
    assert y.dtype == torch.float64
    assert y.shape == (2, 16, 18)
    for k in range(2):
        np.testing.assert_array_equal(y[k], luma(x[k], rounding))
        np.testing.assert_array_equal(luma(torch.from_numpy(x[k]).permute(2, 0, 1), rounding), y[k])


def test_luma_of_float_pictures_is_that_of_their_levels():
    x = levels(30, 30, 3)
    np.testing.assert_allclose(luma(x / 255), luma(x), rtol=0, atol=1e-12)


def test_luma_says_what_is_wrong():
    with pytest.raises(ValueError, match="rounding must be 'none', 'nearest' or 'matlab', got 'round'"):
        luma(levels(4, 4, 3), "round")
    with pytest.raises(ValueError, match=r"3 channels on axis -1, got shape \(4, 4\)"):
        luma(levels(4, 4))
    with pytest.raises(ValueError, match=r"3 channels on axis -3, got shape \(4, 4, 3\)"):
        luma(torch.zeros(4, 4, 3))


# --- degradations -----------------------------------------------------------------------------------------------------


def test_noise_is_numpys_stream_for_arrays_and_tensors_alike():
    x = noise(3, 8, 9)
    expected = x + np.random.default_rng(7).standard_normal((3, 8, 9)) * (25 / 255)
    np.testing.assert_allclose(add_noise(x, 25, 7), expected, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(add_noise(torch.from_numpy(x), 25, 7), add_noise(x, 25, 7))
    y = add_noise(torch.from_numpy(x).float(), 25, 7)
    assert y.dtype == torch.float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=4 * EPS32)


def test_noise_on_levels_is_scaled_to_one_first():
    x = levels(10, 11)
    np.testing.assert_allclose(add_noise(x, 15, 1), add_noise(x / 255, 15, 1), rtol=0, atol=1e-15)
    t = add_noise(torch.from_numpy(x), 15, 1)
    assert t.dtype == torch.float32
    np.testing.assert_allclose(t, add_noise(x, 15, 1), rtol=0, atol=4 * EPS32)


def test_another_seed_gives_other_noise_and_none_is_none():
    x = noise(16, 16)
    assert (add_noise(x, 25, 0) != add_noise(x, 25, 1)).all()
    np.testing.assert_array_equal(add_noise(x, 0, 3), x)
    with pytest.raises(ValueError, match="sigma must be finite and not negative, got -1"):
        add_noise(x, -1, 0)
    with pytest.raises(ValueError, match="sigma must be finite and not negative, got nan"):
        add_noise(x, math.nan, 0)


def test_noise_has_the_asked_spread_and_is_not_clipped():
    n = 250_000
    y = add_noise(np.full(n, 0.5), 50, 3) * 255 - 127.5
    assert abs(y.mean()) < 4 * 50 / math.sqrt(n)  # four standard errors
    assert abs(y.std() - 50) < 4 * 50 / math.sqrt(2 * n)
    assert y.min() < -127.5
    assert y.max() > 127.5


@pytest.mark.parametrize("gray", [False, True])
def test_jpeg_error_falls_with_quality(astronaut, gray):
    x = np.ascontiguousarray(astronaut[:160, :121, 0] if gray else astronaut[:160, :121])
    errors = []
    for quality in (1, 10, 20, 40, 75, 100):
        y = jpeg(x, quality)
        assert (y.shape, y.dtype) == (x.shape, np.uint8)
        errors.append(np.square(y.astype(float) - x).mean())
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 6


def test_jpeg_halves_the_resolution_of_colour():
    checkers = np.zeros((32, 32, 3), np.uint8)
    checkers[::2, ::2, 0] = checkers[1::2, 1::2, 2] = 200  # single pixels of red and blue
    y = jpeg(checkers, 95).astype(int)
    assert np.ptp(y[8:24, 8:24, 0] - y[8:24, 8:24, 2]) < 20


def test_jpeg_says_what_is_wrong():
    with pytest.raises(
        TypeError, match=r"img must be a uint8 array .*, got ndarray of float64: .* np.round\(img \* 255\)"
    ):
        jpeg(noise(8, 8), 50)
    for quality in (0, 101, True, 50.5):
        with pytest.raises(ValueError, match=f"quality must be a whole quality from 1 to 100, got {quality}"):
            jpeg(levels(8, 8), quality)
    for shape in [(8, 8, 4), (8, 8, 1), (8,)]:
        with pytest.raises(ValueError, match=r"img must have shape \(H, W\) or \(H, W, 3\), got"):
            jpeg(levels(*shape), 50)


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_all_levels_survive_the_way_to_a_tensor_and_back():
    x = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colour = np.dstack([x, x.T, x[::-1]])
    assert to_tensor(colour).shape == (1, 3, 16, 16)
    assert to_tensor(colour).is_contiguous()
    np.testing.assert_array_equal(to_uint8(to_tensor(colour)), colour)
    np.testing.assert_array_equal(to_uint8(to_tensor(x)), x)
    np.testing.assert_array_equal(to_uint8(to_tensor(colour)[0]), colour)


def test_to_uint8_clips_and_rounds_half_to_even():
    x = torch.tensor([-0.3, 1.7, 0.5 / 255, 1.5 / 255, 2.5 / 255], dtype=torch.float64).view(1, 1, 1, 5)
    assert to_uint8(x).tolist() == [[0, 255, 0, 2, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_rounded_once_on_the_way_to_levels(dtype):
    x = torch.arange(2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[x <= 1].view(1, 1, -1)  # every number from 0 to 1
    np.testing.assert_array_equal(to_uint8(x)[0], (x[0, 0].double() * 255).round().numpy())


def test_to_tensor_refuses_what_is_no_picture():
    for wrong in (levels(4), levels(1, 3, 4, 4)):
        with pytest.raises(ValueError, match=r"img must have shape \(H, W\) or \(H, W, C\), got"):
            to_tensor(wrong)
    for wrong, what in (
        (noise(4, 4), "ndarray of float64"),
        (torch.zeros(4, 4, dtype=torch.uint8), "Tensor of torch.u"),
    ):
        with pytest.raises(TypeError, match=rf"img must be a uint8 array \(0..255\), got {what}"):
            to_tensor(wrong)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_tensors_becomes_a_batch_of_pictures(channels):
    batch = levels(4, 5, 6, channels)
    x = torch.from_numpy(batch).permute(0, 3, 1, 2)
    expected = batch if channels == 3 else batch[..., 0]
    for n in (2, 4):
        for some in (x[:n], x[:n].double() / 255):
            np.testing.assert_array_equal(to_uint8(some), expected[:n])
    np.testing.assert_array_equal(to_uint8(x[:1].float() / 255), expected[0])
    for wrong in (x[0, 0], x[None], batch):
        with pytest.raises(
            ValueError, match=r"x must be a tensor \(C, H, W\) or \(N, C, H, W\), got (Tensor|ndarray) \("
        ):
            to_uint8(wrong)


def test_arrays_of_any_stride_and_read_only_arrays_become_tensors(recwarn):
    for x in (
        levels(1, 1)[::-1],
        levels(1, 5, 3)[::-1],
        levels(6, 5, 3)[::-1, ::-2],
        np.frombuffer(b"abcd", np.uint8)[None],
    ):
        np.testing.assert_array_equal(to_uint8(to_tensor(x)), x)
        np.testing.assert_array_equal(imresize(x, 1), x)
    assert not recwarn.list


def test_a_truth_value_is_no_strength_of_noise():
    with pytest.raises(ValueError, match="noise must be a standard deviation between 0 and 255, got True"):
        Degradation(noise=True)


# --- memory, gradients, tracing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1 / 3, 0.7, 2, (2.5, 0.5)], ids=str)
def test_the_ways_to_resize_agree_to_the_last_bit(monkeypatch, scale):
    x = torch.rand(2, 3, 41, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = imresize(x, scale)
    assert torch.equal(imresize(x.clone().requires_grad_(), scale), expected)
    monkeypatch.setattr(images, "CACHED", 1)
    assert torch.equal(imresize(x, scale), expected)


@pytest.mark.parametrize("name", ["bicubic", "vdsr", "drcn", "addersr_vdsr"])
def test_networks_that_resize_are_exported_with_free_sizes(name):
    model = create_model(name, 2).eval()
    sides = {2: torch.export.Dim("height", min=4, max=512), 3: torch.export.Dim("width", min=4, max=512)}
    with torch.no_grad():
        program = torch.export.export(model, (torch.rand(1, 3, 12, 14),), dynamic_shapes=(sides,)).module()
        x = torch.rand(1, 3, 17, 11)
        torch.testing.assert_close(program(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.timing
def test_resizing_takes_at_most_ten_times_a_plain_enlargement():
    x = np.random.default_rng(0).random((512, 512, 3))
    ways = {"resized": lambda: imresize(x, 4), "repeated": lambda: x.repeat(4, 0).repeat(4, 1)}
    times = measure(ways, CpuClock(), 1)
    ratio = times["resized"].best_ms / times["repeated"].best_ms
    print(f"{ratio:.1f} times a plain enlargement")
    assert ratio <= 10
