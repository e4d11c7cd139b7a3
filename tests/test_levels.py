"""Every picture array is 0..255 or [0, 1]: each form of a picture gives the same number, all else an error."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsrlib import create_model
from nsrlib.images import Degradation, add_noise, degraded, imresize, jpeg, levels_of, luma, to_tensor, to_uint8
from nsrlib.metrics import GRAY, MATLAB_Y, RGB, SELFEXSR_Y, Protocol, planes, psnr, ssim

OFTEN = pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.slow)])


def texture(side: int = 32, spread: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """A picture and a disturbed copy."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    return x, np.clip(x.astype(int) + rng.integers(-spread, spread + 1, x.shape), 0, 255).astype(np.uint8)


def chw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 0)))


# bfloat16 is missing: its 8 bits do not tell 256 levels apart
ARRAYS = {
    "uint8": lambda x: x,
    "float16": lambda x: (x / 255).astype(np.float16),
    "float32": lambda x: x.astype(np.float32) / np.float32(255),
    "float64": lambda x: x / 255,
    "the other byte order": lambda x: (x / 255).astype(np.dtype(np.float32).newbyteorder()),
    "columns first": lambda x: np.asfortranarray(x / 255),
    "negative strides": lambda x: (x[::-1, ::-1] / 255)[::-1, ::-1],
}
TENSORS = {
    "uint8": chw,
    **{str(d): lambda x, d=d: (chw(x).double() / 255).to(d) for d in (torch.float16, torch.float32, torch.float64)},
    "not contiguous": lambda x: torch.from_numpy(x / 255).permute(2, 0, 1),
}
PICTURES = st.builds(
    lambda shape, seed, low, high: (
        np.random.default_rng(seed).integers(low, max(low, high) + 1, shape).astype(np.uint8)
    ),
    st.tuples(st.integers(3, 9), st.integers(3, 9), st.just(3)),
    st.integers(0, 2**31),
    st.sampled_from([0, 0, 1, 128, 255]),
    st.sampled_from([0, 1, 2, 20, 255]),
)
PROTOCOLS = [
    Protocol(p.space, p.luma_rounding, gray_as_is=p.gray_as_is, window=3) for p in (MATLAB_Y(), SELFEXSR_Y(), RGB())
]


@OFTEN
def test_each_form_of_a_picture_gives_the_same_number(examples):
    @settings(max_examples=examples)
    @given(PICTURES, st.integers(0, 2**31), st.sampled_from(PROTOCOLS), st.data())
    def holds(x, seed, protocol, data):
        y = np.random.default_rng(seed).integers(0, 256, x.shape).astype(np.uint8)
        expected = psnr(x, y, protocol), ssim(x, y, protocol)
        for forms in (ARRAYS, TENSORS):
            one, other = (data.draw(st.sampled_from(list(forms))) for _ in range(2))
            a, b = forms[one](x), forms[other](y)
            assert (psnr(a, b, protocol), ssim(a, b, protocol)) == pytest.approx(expected, abs=1e-11)  # another order
        np.testing.assert_array_equal(to_uint8(b), y)  # the tensor
        np.testing.assert_allclose(luma(ARRAYS["float64"](x)), luma(x), rtol=0, atol=1e-12)
        # 16 bits: half of 2^-11, on a slope of 219
        np.testing.assert_allclose(luma(TENSORS[one](x)), luma(x), rtol=0, atol=219 / 2**12 + 1e-4)
        np.testing.assert_allclose(add_noise(a, 25, 3), add_noise(TENSORS["uint8"](x), 25, 3), rtol=0, atol=2**-8)

    holds()


GOOD = np.full((12, 12, 3), 128, np.uint8)
TAKE_BOTH = {  # a picture as array, or as tensor where `one` is given the same
    "psnr": lambda x, good: psnr(x, good),
    "psnr, second": lambda x, good: psnr(good, x),
    "ssim": lambda x, good: ssim(x, good),
    "ssim, second": lambda x, good: ssim(good, x),
    "planes": lambda x, _: planes(x, RGB()),
    "luma": lambda x, _: luma(x),
    "add_noise": lambda x, _: add_noise(x, 25, 0),
}
TAKE_ARRAYS = {
    "to_tensor": to_tensor,
    "jpeg": lambda x: jpeg(x, 50),
    "JPEG of a task": Degradation(jpeg=50).apply,
    "noise of a task": Degradation(noise=25).apply,
    "degraded": lambda x: degraded(x, Degradation(noise=25)),
}


def refusals(x) -> dict[str, str]:
    """What each function says about an array ``(12, 12, 3)``, and about the tensor of it where torch has one."""
    calls = {name: (call, (x, GOOD)) for name, call in TAKE_BOTH.items()}
    calls |= {name: (call, (x,)) for name, call in TAKE_ARRAYS.items()}
    if type(x) is np.ndarray and x.dtype not in (object, np.longdouble):
        tensor, good = chw(x), chw(GOOD)
        calls |= {f"{name} of tensors": (call, (tensor, good)) for name, call in TAKE_BOTH.items()}
        calls["to_uint8"] = to_uint8, (tensor,)
    said = {}
    for name, (call, args) in calls.items():
        with pytest.raises((TypeError, ValueError)) as error:
            call(*args)
        said[name] = str(error.value)
        assert "\n" not in said[name], name
    return said


@OFTEN
def test_a_float_picture_of_another_range_is_refused_with_its_range_and_the_cure(examples):
    @settings(max_examples=examples)
    @given(
        st.integers(0, 2**31),
        st.sampled_from([100, 255, 1023, 4095, 65535]),
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.booleans(),
        st.sampled_from([0.1, 0.5, 1]),
    )
    def holds(seed, white, dtype, whole, part):
        x = np.random.default_rng(seed).random(GOOD.shape) * white * part
        x.flat[0] = white * part  # the brightest
        x = (x.round() if whole else x + 0.01).clip(0, 65500).astype(dtype)
        if x.max() <= 16 and not whole:
            return  # cannot be told
        for name, said in refusals(x).items():
            if name not in ("to_tensor", "jpeg", "JPEG of a task"):  # which take no float at all
                found = re.search(
                    r"with (whole )?values from (\S+) to (\S+), not \[0, 1\]: levels of .* Divide by", said
                )
                assert found, f"{name}: {said}"
                assert float(found[3]) == pytest.approx(float(x.max()), rel=1e-5)

    holds()


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "complex64", "complex128", "object"],
)
def test_other_types_are_refused_with_the_cure(dtype):
    said = refusals(GOOD.astype(dtype))
    assert all(re.search(rf"got {dtype}: convert it to (uint8|float32)", text) for text in said.values()), said
    with pytest.raises(TypeError, match=f"img must be uint8 .* got {dtype}: convert it to"):
        imresize(GOOD.astype(dtype), 2)


def test_masked_arrays_lists_and_longer_floats_are_refused():
    masked = np.ma.masked_equal(GOOD, 3)
    for x, cure in (
        (masked, "fill it, as img.filled"),
        (masked / 255, "fill it, as img.filled"),
        (GOOD.tolist(), "list: give a numpy array or a tensor"),
        ((GOOD / 255).astype(np.longdouble), "convert it to float32"),
    ):
        assert all(cure in text for text in refusals(x).values())
        with pytest.raises(TypeError, match=cure):
            imresize(x, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_enough_for_a_refusal(value):
    x = GOOD / 255
    x[7, 5, 1] = value
    for name, said in refusals(x).items():
        assert name in ("to_tensor", "jpeg", "JPEG of a task") or "holds NaN or infinite values" in said


def test_a_float_photograph_of_255_levels_is_refused_where_it_had_another_number():
    x, y = texture()
    assert (round(psnr(x, y), 2), round(ssim(x, y), 3)) == (38.15, 0.997)
    assert (psnr(x / 255, y / 255), ssim(x / 255, y / 255)) == (psnr(x, y), ssim(x, y))
    assert psnr(x, y / 255) == psnr(x / 255, y) == psnr(x, y)
    message = "{} is float with whole values from 0 to 255, not [0, 1]: levels of 0..255? Divide by 255, or give uint8"
    for measure in (psnr, ssim):
        for a, b, name in ((x * 1.0, y * 1.0, "a"), (x, y * 1.0, "b"), (x / 255, y * np.float32(1), "b")):
            with pytest.raises(ValueError, match=re.escape(message.format(name))):
                measure(a, b)
    assert luma(x).max() < 236
    for wrong in (x * 1.0, x.astype(np.int64), x.astype(np.uint16) * 257):
        with pytest.raises((TypeError, ValueError), match="rgb "):
            luma(wrong)


def test_the_strongest_noise_is_a_picture_in_float():
    x, _ = texture()
    noisy = add_noise(x, 255, 0)
    assert noisy.max() > 3
    assert levels_of(noisy) == levels_of(chw(noisy)) == 1
    exact = -10 * np.log10(np.square(noisy - x / 255).mean())
    assert psnr(noisy, x, Protocol(space="rgb", quantise=False)) == pytest.approx(exact, abs=1e-9)
    assert psnr(noisy, x, RGB()) == psnr(noisy.clip(0, 1), x, RGB())
    assert ssim(noisy, x) == ssim(noisy.clip(0, 1), x)
    assert (to_uint8(chw(noisy)) == np.round(noisy.clip(0, 1) * 255)).all()
    assert levels_of(np.random.default_rng(0).standard_normal(10**7)) == 1


def test_what_cannot_be_told_is_taken_for_zero_to_one():
    for x in (np.full((3, 3), 15.5), np.eye(3), -np.eye(3), np.zeros((3, 3), np.float32)):
        assert levels_of(x) == 1
    assert levels_of(np.eye(3, dtype=np.uint8)) == 255
    for x in (np.full((3, 3), 16.5), np.eye(3) * 2, -2 * np.eye(3)):
        with pytest.raises(ValueError, match="not \\[0, 1\\]"):
            levels_of(x)


def test_what_an_untrained_network_answers_is_clipped_and_levels_are_refused():
    answer = torch.linspace(-5e6, 6e6, 192, dtype=torch.float64).view(3, 8, 8)
    for scale in (1.0, 1e-4):
        assert (to_uint8(answer * scale, output=True) == np.where(answer.permute(1, 2, 0) > 0, 255, 0)).all()
    with pytest.raises(ValueError, match=r"a is float with values from -5e\+06 to 6e\+06, .* untrained network"):
        psnr(answer, answer)
    with pytest.raises(ValueError, match="NaN or infinite values; are the weights sound"):
        to_uint8(answer * float("inf"), output=True)
    bicubic = imresize(torch.from_numpy(texture()[0]).permute(2, 0, 1).double(), 2)
    assert bicubic.min() < -20  # it overshoots
    with pytest.raises(ValueError, match=r"the picture is float with values from -.* Divide by 255"):
        to_uint8(bicubic)


# --- where values are not looked at -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bicubic", "vdsr", "drcn", "bsrn"])
def test_a_network_looks_at_no_value_of_its_input(name):
    with torch.device("meta"):
        network = create_model(name, 2)
    assert network(torch.empty(1, 3, 16, 18, device="meta")).shape == (1, 3, 32, 36)  # which has none


def test_resizing_and_luma_are_one_graph_for_the_compiler():
    def small(x):
        return luma(imresize(x, 0.5)) + imresize(x, size=(6, 7))[:, 0]

    x = torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), small(x), rtol=0, atol=1e-4)
    torch.testing.assert_close(compiled(x * 255), compiled(x) * 255 - 254 * 16, rtol=0, atol=1e-2)  # values unseen


def test_gray_pictures_are_decided_as_colour_is():
    x = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert psnr(x / 255, x[::-1], GRAY()) == psnr(x, x[::-1] / 255, GRAY()) == psnr(x, x[::-1], GRAY())
    with pytest.raises(ValueError, match="a is float with whole values from 0 to 255"):
        psnr(x * 1.0, x, GRAY())
