"""Patches against crops taken one by one, in every mode; that positions, orientations and noise are spread as they say.

Images whose pixels are their own coordinates show from where, and which way round, a patch was taken.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from nsrlib.data import Pair, training_set
from nsrlib.data.patches import Patches, stream_seed
from nsrlib.images import imresize, luma


def coordinates(h: int, w: int, number: int = 0, scale: int = 2) -> Pair:
    """HR pixel (i, j) is (i, j, number); LR is every ``scale``-th pixel, so that it tells where it lies in HR."""
    i, j = np.meshgrid(np.arange(h * scale), np.arange(w * scale), indexing="ij")
    hr = np.stack([i, j, np.full_like(i, number)], -1).astype(np.uint8)
    return Pair(f"{number}", np.ascontiguousarray(hr[::scale, ::scale]), hr)


def picture(h: int, w: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (h, w, channels) if channels > 1 else (h, w)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def turned(a: np.ndarray, turn: int) -> np.ndarray:
    return np.rot90(a, turn % 4) if turn < 4 else np.fliplr(np.rot90(a, turn % 4))


def every_crop(pairs, patch: int, turns: int = 8) -> dict[bytes, np.ndarray]:
    """Each input patch that there is, as bytes -> its target."""
    crops = {}
    for pair in pairs:
        r = pair.hr.shape[0] // pair.lr.shape[0]
        for i, j in itertools.product(*(range(n - patch + 1) for n in pair.lr.shape[:2])):
            for turn in range(turns):
                x = turned(pair.lr[i : i + patch, j : j + patch], turn)
                y = turned(pair.hr[i * r : (i + patch) * r, j * r : (j + patch) * r], turn)
                crops[np.ascontiguousarray(x).tobytes()] = np.ascontiguousarray(y)
    return crops


def levels(x: torch.Tensor) -> np.ndarray:
    """``(N, C, H, W)`` in [0, 1] -> ``(N, H, W, C)`` uint8, where that is exact."""
    whole = (x * 255).round()
    assert torch.equal(whole / 255, x)
    return whole.permute(0, 2, 3, 1).contiguous().to(torch.uint8).numpy()


# --- where patches come from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("patch", [1, 2, 5], ids="patch {}".format)
def test_every_patch_is_a_crop_and_its_target_lies_below_it(scale, patch):
    pairs = [coordinates(7, 9, 0, scale), coordinates(5, 5, 1, scale), coordinates(11, 6, 2, scale)]
    crops = every_crop(pairs, patch)
    x, y = Patches(pairs, patch).batch(300, seed=scale)
    assert x.dtype == y.dtype == torch.float32
    assert x.shape == (300, 3, patch, patch)
    assert y.shape == (300, 3, patch * scale, patch * scale)
    for crop, target in zip(levels(x), levels(y), strict=True):
        if patch > 1:  # a single pixel does not show how it was turned
            np.testing.assert_array_equal(target, crops[crop.tobytes()])
        else:
            np.testing.assert_array_equal(crop[0, 0], target.min((0, 1)))


def test_positions_and_orientations_are_equally_likely():
    pairs = [coordinates(4, 6, 0), coordinates(3, 3, 1)]
    patches = Patches(pairs, 3)
    assert patches.positions == 2 * 4 + 1
    order = {crop: k for k, crop in enumerate(every_crop(pairs, 3))}
    seen = np.zeros(len(order), int)
    for step in range(4):
        for crop in levels(patches.batch(3000, stream_seed(0, step)).input):
            seen[order[crop.tobytes()]] += 1
    assert len(seen) == 9 * 8
    assert stats.chisquare(seen).pvalue > 1e-3


def test_without_augmentation_nothing_is_turned():
    pairs = [coordinates(5, 6)]
    crops = every_crop(pairs, 4, turns=1)
    x, y = Patches(pairs, 4, augment=False).batch(40, 0)
    assert {crop.tobytes() for crop in levels(x)} == set(crops)
    assert all(np.array_equal(crops[a.tobytes()], b) for a, b in zip(levels(x), levels(y), strict=True))


@given(
    sides=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4),
    scale=st.integers(1, 3),
    seed=st.integers(0, 2**63 - 1),
)
def test_patches_of_any_images_are_crops(sides, scale, seed):
    patch = min(min(s) for s in sides)
    pairs = [coordinates(h, w, k, scale) for k, (h, w) in enumerate(sides)]
    crops = every_crop(pairs, patch)
    patches = Patches(pairs, patch)
    assert patches.positions == sum((h - patch + 1) * (w - patch + 1) for h, w in sides)
    x, y = patches.batch(9, seed)
    for crop, target in zip(levels(x), levels(y), strict=True):
        assert crop.tobytes() in crops
        # corners of HR lie around the LR pixels they come from, whichever way the patch was turned
        box = target.reshape(patch, scale, patch, scale, 3).min((1, 3))
        np.testing.assert_array_equal(box, crop)


def test_the_last_row_and_column_are_reached():
    pair = coordinates(3, 4, scale=2)
    x, y = Patches([pair], 2, augment=False).batch(64, 0)
    assert y[:, 0].max() == 5 / 255
    assert y[:, 1].max() == 7 / 255
    assert {tuple(corner) for corner in (x[:, :2, 0, 0] * 255).int().tolist()} == {
        (i, j) for i in (0, 2) for j in (0, 2, 4)
    }


# --- modes ------------------------------------------------------------------------------------------------------------


def test_gray_images_have_one_channel():
    hr = picture(12, 15, 1)
    pair = Pair("gray", hr[::3, ::3].copy(), hr, gray=True)
    crops = every_crop([pair], 3)
    x, y = Patches([pair], 3).batch(50, 0)
    assert x.shape == (50, 1, 3, 3)
    for crop, target in zip(levels(x), levels(y), strict=True):
        np.testing.assert_array_equal(target[..., 0], crops[crop.tobytes()])


def test_luma_is_rounded_before_it_is_made_smaller():
    hr = picture(24, 30)
    y = luma(hr, rounding="matlab").astype(np.uint8)
    crops = every_crop([Pair("y", imresize(y, 1 / 3), y)], 4)
    batch = Patches([Pair("rgb", imresize(hr, 1 / 3), hr)], 4, channels="y").batch(60, 0)
    for crop, target in zip(levels(batch.input), levels(batch.target), strict=True):
        np.testing.assert_array_equal(target[..., 0], crops[crop.tobytes()])


@pytest.mark.parametrize("channels", ["rgb", "y"])
def test_upscaled_input_lies_on_its_target(channels):
    hr = picture(21, 27, 1 if channels == "rgb" else 3)
    y = hr if hr.ndim == 2 else luma(hr, rounding="matlab").astype(np.uint8)
    lr = imresize(y, 1 / 3)
    patches = Patches([Pair("a", imresize(hr, 1 / 3), hr)], 5, channels=channels, upscaled=True)
    assert patches.scale == 1
    assert patches.positions == 17 * 23
    large = np.asarray(imresize(lr / 255, 3), np.float32)
    crops = every_crop([Pair("a", large, y)], 5)
    batch = patches.batch(60, 0)
    for crop, target in zip(batch.input, levels(batch.target), strict=True):
        np.testing.assert_array_equal(target[..., 0], crops[crop[0].contiguous().numpy().tobytes()])


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_the_deviation_it_was_asked_for_and_is_not_clipped(channels):
    black = np.zeros((40, 40, 3) if channels == 3 else (40, 40), np.uint8)
    patches = Patches([Pair("black", None, black)], 32, noise=25)
    x, y = patches.batch(32, 0)
    assert not y.any()
    noise = (x - y).double() * 255
    n = noise.numel()
    # five standard errors of a mean and of a standard deviation
    assert abs(noise.mean()) < 5 * 25 / n**0.5
    assert abs(noise.std() / 25 - 1) < 5 / (2 * n) ** 0.5
    assert stats.kstest(noise.flatten().numpy()[::7] / 25, "norm").pvalue > 1e-3
    again, other = patches.batch(32, 0).input, patches.batch(32, 1).input
    assert torch.equal(x, again)
    # independent of the first: the correlation of n pairs has a standard error of 1 / sqrt(n)
    assert abs(torch.corrcoef(torch.stack([x.flatten(), other.flatten()]))[0, 1]) < 5 / n**0.5


def test_blind_noise_is_drawn_for_each_patch_from_the_whole_range():
    patches = Patches([Pair("black", None, np.zeros((64, 64), np.uint8))], 64, noise=(10, 50))
    deviation = (patches.batch(400, 0).input.double() * 255).std((1, 2, 3))
    error = 5 * 50 / (2 * 64 * 64) ** 0.5
    assert deviation.min() > 10 - error
    assert deviation.max() < 50 + error
    assert stats.kstest(deviation.numpy(), stats.uniform(10, 40).cdf).pvalue > 1e-3


def test_no_noise_is_the_image_itself():
    x, y = Patches([Pair("a", None, picture(9, 9))], 5, noise=0).batch(4, 0)
    assert torch.equal(x, y)


# --- shards, seeds, devices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [2, 3])
@pytest.mark.parametrize("noise", [None, (5, 50)], ids=["super-resolution", "noise"])
def test_shards_are_parts_of_the_whole_batch(shards, noise):
    pairs = [coordinates(9, 11)] if noise is None else [Pair("a", None, picture(13, 9))]
    patches = Patches(pairs, 4, noise=noise)
    whole = patches.batch(12, 7)
    size = 12 // shards
    parts = [patches.batch(12, 7, slice(k * size, (k + 1) * size)) for k in range(shards)]
    for name in ("input", "target"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_the_same_seed_draws_the_same_batch_whatever_else_is_drawn():
    patches = Patches([coordinates(20, 20)], 4)
    first = patches.batch(8, 3)
    torch.manual_seed(11)
    patches.batch(8, 4)
    assert torch.equal(patches.batch(8, 3).target, first.target)
    assert not torch.equal(patches.batch(8, 4).target, first.target)
    state = torch.get_rng_state()
    patches.batch(8, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_is_pinned_by_its_seed():
    # what a stored recipe and seed mean must not change: corners of the input patches, as (row, column)
    corners = (
        Patches([coordinates(30, 30)], 4, augment=False).batch(4, stream_seed(0, 0)).input[:, :2, 0, 0] * 255
    ).int()
    assert corners.tolist() == [[16, 38], [10, 12], [40, 24], [46, 0]]


def test_seeds_of_streams_are_pinned_and_different():
    assert stream_seed(0, 0) == 7896617691693857887
    seeds = {stream_seed(s, t, k) for s in range(4) for t in range(50) for k in range(4)}
    assert len(seeds) == 4 * 50 * 4
    assert all(0 <= s < 2**63 for s in seeds)


def test_patches_stay_where_they_are():
    patches = Patches([coordinates(8, 8)], 4)
    assert patches.to("cpu") is patches


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_patches():
    patches = Patches([coordinates(20, 30)], 4)
    here, there = patches.batch(32, 0), patches.to("cuda").batch(32, 0)
    assert there.input.is_cuda
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))


# --- what is refused --------------------------------------------------------------------------------------------------


def test_images_smaller_than_a_patch_are_refused_or_left_out_and_counted():
    pairs = [coordinates(8, 8, 0), coordinates(3, 9, 1), coordinates(9, 3, 2)]
    with pytest.raises(
        ValueError, match=r"patch=4 is larger than 2 of 3 images, first 1 \(9x3\); take a smaller patch"
    ):
        Patches(pairs, 4)
    with pytest.warns(UserWarning, match=r"2 images smaller than patch=4 are left out, first 1 \(9x3\)"):
        patches = Patches(pairs, 4, too_small="skip")
    assert patches.names == ("0",)
    assert patches.skipped == ("1 (9x3)", "2 (3x9)")
    assert repr(patches) == "Patches(images x2, 1 images, 25 of 4x4)"
    with pytest.raises(ValueError, match="patch=9 is larger than 3 of 3 images"):
        Patches(pairs, 9, too_small="skip")


@pytest.mark.parametrize(
    ("pairs", "arguments", "message"),
    [
        ([coordinates(8, 8)], {"patch": 0}, "patch must be a positive whole number of pixels, got 0"),
        ([coordinates(8, 8)], {"patch": 4.0}, "patch must be a positive whole number of pixels, got 4.0"),
        ([coordinates(8, 8)], {"patch": True}, "patch must be a positive whole number of pixels, got True"),
        ([coordinates(8, 8)], {"channels": "cbcr"}, "channels must be 'rgb' or 'y', got 'cbcr'"),
        ([coordinates(8, 8)], {"too_small": "pad"}, "too_small must be 'raise' or 'skip', got 'pad'"),
        ([coordinates(8, 8)], {"noise": 25}, "noise is for sets without a scale, but 0 has a low-resolution image"),
        ([Pair("a", None, picture(9, 9))], {}, "a has no low-resolution image: load the set at a scale, or give noise"),
        ([Pair("a", None, picture(9, 9))], {"noise": -1}, "noise must be a standard deviation between 0 and 255"),
        ([Pair("a", None, picture(9, 9))], {"noise": (50, 10)}, r"or a rising range, got \(50, 10\)"),
        ([coordinates(8, 8)], {"upscaled": True}, "upscaled=True is for one channel: take channels='y' or a gray set"),
        ([coordinates(8, 8), coordinates(8, 8, 1, 3)], {}, "one scale, got x2 and, in 1, x3"),
        ([Pair("a", picture(9, 9), picture(20, 18))], {}, "a of 20x18 is no whole multiple of its .* image of 9x9"),
        ([Pair("a", picture(9, 9), picture(5, 5))], {}, "a of 5x5 is no whole multiple of its .* image of 9x9"),
        ([coordinates(8, 8), Pair("g", picture(8, 8, 1), picture(16, 16, 1))], {}, "all be gray or all be coloured"),
        ([], {}, "images is empty: there is nothing to cut patches from"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_patches_are_refused(pairs, arguments, message):
    with pytest.raises(ValueError, match=message):
        Patches(pairs, **{"patch": 4, **arguments})


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_of_nothing_is_refused(size):
    with pytest.raises(ValueError, match=f"size must be a positive number of patches, got {size}"):
        Patches([coordinates(8, 8)], 4).batch(size, 0)


def test_a_folder_with_a_broken_file_is_refused_or_counted(tmp_path):
    for k in range(3):
        Image.fromarray(picture(16, 16, seed=k)).save(tmp_path / f"{k}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    Image.fromarray(picture(4, 16)).save(tmp_path / "low.png")
    with pytest.raises(ValueError, match=r"broken\.png"):
        Patches(training_set(tmp_path, 2), 2)
    with pytest.warns(UserWarning, match=r"broken\.png"):
        images = training_set(tmp_path, 2, on_error="skip")
    with pytest.warns(UserWarning, match="1 images smaller than patch=4"):
        patches = Patches(images, 4, too_small="skip")
    assert patches.names == ("0", "1", "2")
    assert patches.skipped == ("low (8x2)", "broken.png")
    assert patches.origin == "folder"


def test_the_hash_tells_data_and_modes_apart_but_not_patch_sizes():
    pairs, others = [coordinates(8, 8)], [coordinates(8, 9)]
    hashes = {
        Patches(pairs, 4).sha256,
        Patches(others, 4).sha256,
        Patches(pairs, 4, augment=False).sha256,
        Patches(pairs, 4, channels="y").sha256,
        Patches([Pair("0", None, pairs[0].hr)], 4, noise=5).sha256,
        Patches([Pair("0", None, pairs[0].hr)], 4, noise=(5, 6)).sha256,
    }
    assert len(hashes) == 6
    assert Patches(pairs, 3).sha256 == Patches(pairs, 4).sha256
