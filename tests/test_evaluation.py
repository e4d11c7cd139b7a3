"""Tiles, files and tables: networks on pictures, and the numbers that published weights give."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from counting import Counting
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from nsrlib import create_model, evaluation
from nsrlib.data import load
from nsrlib.evaluation import (
    Setting,
    evaluate,
    pick_device,
    protocol_sensitivity,
    upscale,
    upscaled_bands,
)
from nsrlib.images import imresize, luma, to_tensor, to_uint8
from nsrlib.metrics import GRAY, MATLAB_Y, RGB, SELFEXSR_Y, VDSR_Y, Protocol, psnr, ssim
from nsrlib.models import optimise

# --- published weights ------------------------------------------------------------------------------------------------

CELLS = [  # network, scale, set, LR, PSNR and SSIM measured independently with the same weights
    ("bsrn", 2, "Set5", "paper", 38.099, 0.96096),
    ("bsrn", 3, "Set5", "paper", 34.460, 0.92774),
    ("bsrn", 4, "Set5", "paper", 32.351, 0.89655),
    ("bsrn", 2, "Set14", "paper", 33.737, 0.91934),
    ("bsrn", 3, "Set14", "paper", 30.468, 0.84493),
    ("bsrn", 4, "Set14", "paper", 28.734, 0.78473),
    ("bsrn", 2, "Set5", "files", 38.084, 0.96084),
    ("bsrn", 4, "Set5", "files", 32.350, 0.89652),
    ("bsrn", 2, "Set14", "files", 33.734, 0.91926),
    ("bsrn", 4, "Set14", "files", 28.739, 0.78472),
    ("rfdn", 4, "Set5", "paper", 32.155, 0.89449),
    ("rfdn", 4, "Set14", "paper", 28.645, 0.78253),
    ("rfdn", 4, "Set5", "files", 32.161, 0.89459),
    ("bsrn_s", 4, "Set5", "paper", 32.158, 0.89485),
    ("bsrn_s", 4, "Set14", "paper", 28.628, 0.78197),
    ("imdn_ntire22", 4, "Set5", "paper", 32.249, 0.89595),
    ("imdn_ntire22", 4, "Set14", "paper", 28.693, 0.78403),
]


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("name", "scale", "dataset", "lr", "psnr_db", "ssim_value"),
    [pytest.param(*cell, marks=[pytest.mark.slow] if cell[2] == "Set14" else []) for cell in CELLS],
    ids=lambda v: None if isinstance(v, float) else str(v),
)
def test_published_weights_give_the_measured_numbers(
    published, benchmark, name, scale, dataset, lr, psnr_db, ssim_value
):
    table = evaluate(published(name, scale), benchmark(dataset, scale, lr), device="cpu")
    assert table["psnr"].mean() == pytest.approx(psnr_db, abs=0.001)
    assert table["ssim"].mean() == pytest.approx(ssim_value, abs=0.00001)


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("scale", "lr", "protocol", "psnr_db"),
    [
        (2, "paper", Protocol(crop=2, luma_rounding="nearest"), 38.012),
        (4, "paper", Protocol(crop=4, luma_rounding="nearest"), 32.329),
        (2, "mirror", MATLAB_Y(2), 38.083),
        (4, "mirror", MATLAB_Y(4), 32.349),
        (4, "repeat", MATLAB_Y(4), 32.350),
        (2, "paper", RGB(2), 35.912),
        (4, "paper", RGB(4), 30.436),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_each_choice_of_protocol_and_lr_moves_bsrn_on_set5_as_measured(
    published, benchmark, scale, lr, protocol, psnr_db
):
    table = evaluate(published("bsrn", scale), benchmark("Set5", scale, lr), protocol=protocol, device="cpu")
    assert table["psnr"].mean() == pytest.approx(psnr_db, abs=0.001)


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("scale", "psnr_db", "ssim_value"), [(2, 33.682, 0.93052), (3, 30.405, 0.86897), (4, 28.431, 0.81127)]
)
def test_bicubic_as_a_network_gives_its_row(benchmark, scale, psnr_db, ssim_value):
    table = evaluate("bicubic", benchmark("Set5", scale))
    assert table["psnr"].mean() == pytest.approx(psnr_db, abs=0.001)
    assert table["ssim"].mean() == pytest.approx(ssim_value, abs=0.00001)


@pytest.mark.slow
@pytest.mark.benchmark
def test_tiles_change_published_bsrn_by_less_than_a_tenth_of_a_level_in_the_mean(published, astronaut):
    model = optimise(published("bsrn", 2))
    x = to_tensor(astronaut[:192, 160:352])
    whole, tiled = upscale(model, x), upscale(model, x, tile=96)
    difference = (whole.clamp(0, 1) - tiled.clamp(0, 1)).abs() * 255
    assert 0 < difference.mean() < 0.1


# --- tiles ------------------------------------------------------------------------------------------------------------


def local_network(kind: str, scale: int) -> nn.Module:
    """A random network that sees no further than its halo."""
    torch.manual_seed(0)
    if kind == "imdn_ntire22":
        return create_model("imdn_ntire22", scale, num_feats=16, num_blocks=2).eval()
    if kind == "bsrn":
        return create_model("bsrn", scale, num_feats=16, num_blocks=2, esa=False, cca=False).eval()
    model = create_model("rfdn", scale, num_feats=16, num_blocks=2)
    for k in (1, 2):
        setattr(model.get_submodule(f"B{k}"), "esa", nn.Identity())  # noqa: B010
    return model.eval()


def picture(h: int, w: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=12)
@given(
    st.sampled_from(["imdn_ntire22", "rfdn", "bsrn"]),
    st.sampled_from([2, 3]),
    st.tuples(st.integers(1, 151), st.integers(1, 151)),
    st.integers(32, 100),
    st.integers(0, 12),
)
def test_tiles_of_a_local_network_equal_the_whole(kind, scale, size, tile, blend):
    model, x = local_network(kind, scale), picture(*size)
    whole = upscale(model, x)
    tiled = upscale(model, x, tile=tile, blend=blend)
    assert whole.shape == tiled.shape == (1, 3, size[0] * scale, size[1] * scale)
    if min(size) >= 15:
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", [32, 40, 63, 100])
@pytest.mark.parametrize("size", [(101, 67), (33, 129), (200, 31)], ids=str)
def test_tiles_of_the_challenges_imdn_equal_the_whole_at_odd_sizes(tile, size):
    model, x = local_network("imdn_ntire22", 2), picture(*size)
    torch.testing.assert_close(upscale(model, x, tile=tile), upscale(model, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["imdn_ntire22", "rfdn", "bsrn"])
def test_the_halo_is_exactly_how_far_a_local_network_sees(kind):
    model = local_network(kind, 2).double()
    x = picture(41, 39).double().requires_grad_()
    model(x)[..., 40:42, 38:40].sum().backward()  # what pixel (20, 19) becomes
    seen = x.grad.abs().sum((0, 1)) > 0
    rows, cols = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    assert (rows.min(), rows.max()) == (20 - model.halo, 20 + model.halo)
    assert (cols.min(), cols.max()) == (19 - model.halo, 19 + model.halo)


class Box(nn.Module):
    """The mean of 9x9 pixels."""

    scale, halo, min_size = 1, 4, 1

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 9, 1, 4)


def test_a_halo_one_pixel_smaller_would_be_seen():
    model, x = Box(), picture(60, 200)
    torch.testing.assert_close(upscale(model, x, tile=64), model(x), rtol=0, atol=1e-6)
    model.halo = 3
    assert (upscale(model, x, tile=64, blend=0) - model(x)).abs().max() > 1e-3


class Ones(nn.Module):
    """White, whatever the picture."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.halo = scale, 0

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(1, 1, x.shape[2] * self.scale, x.shape[3] * self.scale)


@given(st.integers(1, 700), st.integers(1, 3), st.integers(1, 150), st.integers(0, 16), st.integers(1, 4))
def test_cross_fade_weights_sum_to_one(height, width, tile, blend, r):
    y = upscale(Ones(r), torch.zeros(1, 1, height, width), tile=tile, blend=blend)
    torch.testing.assert_close(y, torch.ones(1, 1, height * r, width * r), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tile", [None, 32, 50])
def test_bands_are_the_same_rows_from_top_to_bottom(tile):
    model, x = local_network("imdn_ntire22", 3), picture(140, 75)
    with torch.inference_mode():
        pieces = list(upscaled_bands(model, x, tile=tile))
    expected_row = 0
    for row, band in pieces:
        assert row == expected_row
        assert (band.shape[0], band.shape[2]) == (3, 75 * 3)
        expected_row += band.shape[1]
    assert expected_row == 140 * 3
    assert len(pieces) == (1 if tile is None else round(140 / tile))
    assert torch.equal(torch.cat([band for _, band in pieces], 1)[None], upscale(model, x, tile=tile))


def test_auto_tiles_only_what_is_too_large(monkeypatch):
    model, x = Counting(), picture(300, 280)
    monkeypatch.setattr(evaluation, "WHOLE_LIMIT", {"cpu": 300 * 280})
    upscale(model, x, tile="auto")
    assert model.seen == [(300, 280)]
    monkeypatch.setattr(evaluation, "WHOLE_LIMIT", {"cpu": 300 * 280 - 1})
    model.seen.clear()
    x = picture(600, 280)
    torch.testing.assert_close(upscale(model, x, tile="auto"), model(x), rtol=0, atol=1e-6)
    *tiles, whole = model.seen
    assert whole == (600, 280)
    assert len(tiles) >= 2
    assert max(h for h, _ in tiles) < 400


def test_a_tile_larger_than_the_picture_is_the_whole():
    model, x = Counting(), picture(40, 30)
    upscale(model, x, tile=40)
    assert model.seen == [(40, 30)]


@pytest.mark.parametrize("name", ["bsrn", "bsrn_s", "rfdn"])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (14, 14), (20, 7)], ids=str)
def test_a_picture_smaller_than_the_network_takes_is_mirrored(name, size):
    torch.manual_seed(0)
    model = create_model(name, 2, num_feats=16, num_blocks=1).eval()
    x = picture(*size)
    grown = np.pad(x.numpy(), [(0, 0), (0, 0), *((0, max(15 - s, 0)) for s in size)], mode="symmetric")
    expected = model(torch.from_numpy(grown))[..., : 2 * size[0], : 2 * size[1]].detach()
    torch.testing.assert_close(upscale(model, x), expected, rtol=0, atol=0)
    torch.testing.assert_close(upscale(model, x, tile=1000), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "kwargs", "message"),
    [
        (torch.zeros(2, 3, 20, 20), {}, r"one picture \(1, C, H, W\), got \(2, 3, 20, 20\)"),
        (torch.zeros(3, 20, 20), {}, r"one picture \(1, C, H, W\), got \(3, 20, 20\)"),
        (torch.zeros(1, 3, 20, 20), {"tile": 0}, "positive whole number, 'auto' or None, got 0"),
        (torch.zeros(1, 3, 20, 20), {"tile": 32.5}, "positive whole number, 'auto' or None, got 32.5"),
        (torch.zeros(1, 3, 20, 20), {"tile": "big"}, "positive whole number, 'auto' or None, got 'big'"),
        (torch.zeros(1, 3, 20, 20), {"blend": -1}, "blend must be a whole number of pixels, 0 or more, got -1"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_upscale_says_what_is_wrong(x, kwargs, message):
    with pytest.raises(ValueError, match=message):
        upscale(create_model("bicubic", 2), x, **kwargs)


def test_upscale_leaves_no_gradient_and_the_input_alone():
    x = picture(40, 40).requires_grad_()
    before = x.detach().clone()
    y = upscale(optimise(local_network("imdn_ntire22", 2)), x, tile=32)
    assert not y.requires_grad
    assert torch.equal(x, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tiles_on_a_gpu_equal_those_of_the_cpu():
    model, x = local_network("imdn_ntire22", 2).double(), picture(101, 67).double()
    expected = upscale(model, x, tile=40)
    y = upscale(model.cuda(), x.cuda(), tile=40)
    assert y.is_cuda
    torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=1e-6)


# --- devices ----------------------------------------------------------------------------------------------------------


def test_auto_picks_a_device_that_is_there():
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_an_error_in_one_line(device, tmp_path):
    calls = [
        lambda: pick_device(device),
        lambda: evaluate("bicubic", "embedded", 4, device=device, limit=1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"^device '{device}' cannot be used: [^\n]*$"):
            call()


# --- tables -----------------------------------------------------------------------------------------------------------


def levels(*shape: int, seed: int = 0) -> np.ndarray:
    """A smooth picture, so that bicubic interpolation stays within the range."""
    coarse = np.random.default_rng(seed).random((4, 5, *shape[2:])) * 0.6 + 0.2
    return np.round(imresize(coarse, size=shape[:2]) * 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two colour pictures and a gray one."""
    for k, shape in enumerate([(40, 44, 3), (37, 50, 3), (48, 36)]):
        Image.fromarray(levels(*shape, seed=k)).save(tmp_path / f"p{k}.png")
    return tmp_path


def test_evaluate_returns_rows_and_says_where_they_came_from(folder):
    images = load(folder, 2)
    table = evaluate("bicubic", images, device="cpu")
    assert table.columns.tolist() == ["image", "psnr", "ssim", "seconds", "pixels_sha256"]
    assert table["image"].tolist() == ["p0", "p1", "p2"]
    assert (table["seconds"] > 0).all()
    expected = {
        "dataset": images.name,
        "origin": "folder",
        "sha256": images.sha256,
        "scale": 2,
        "protocol": "v1:y,crop=2",
        "setting": "v1:scale=2",
        "model": "Bicubic",
        "device": "cpu",
    }
    assert expected.items() <= table.attrs.items()


def bicubic(lr: np.ndarray, scale: int) -> np.ndarray:
    return to_uint8(create_model("bicubic", scale)(to_tensor(lr)))


def test_evaluate_measures_what_it_says(folder):
    protocol = RGB(3)
    table = evaluate("bicubic", folder, 3, protocol, device="cpu")
    assert (table.attrs["protocol"], table.attrs["setting"]) == ("v1:rgb,crop=3", "v1:scale=3")
    for row, pair in zip(table.itertuples(), load(folder, 3), strict=True):
        sr = bicubic(pair.lr, 3)
        assert row.psnr == pytest.approx(psnr(sr, pair.hr, protocol), abs=1e-9)
        assert row.ssim == pytest.approx(ssim(sr, pair.hr, protocol), abs=1e-9)


def test_a_table_says_how_lr_was_made(folder):
    table, by_name = (
        evaluate("bicubic", images, 2, lr="repeat", device="cpu") for images in (load(folder, 2, lr="repeat"), folder)
    )
    assert table.attrs["setting"] == by_name.attrs["setting"] == "v1:scale=2,lr=repeat"
    assert table["psnr"].tolist() == by_name["psnr"].tolist()
    by_hand = replace(load(folder, 2), lr="unknown")
    assert evaluate("bicubic", by_hand, device="cpu").attrs["setting"] == "v1:scale=2,lr=unknown"


@pytest.mark.parametrize(
    ("how", "signature"),
    [
        ({"noise": 25}, "v1:noise=25"),
        ({"noise": 25.0}, "v1:noise=25"),
        ({"noise": 2.5, "noise_seed": 3}, "v1:noise=2.5,noise_seed=3"),
        ({"jpeg": 30, "noise_seed": 3, "lr": "repeat"}, "v1:jpeg=30"),
        ({"jpeg": 30, "tile": 32, "fast": False}, "v1:jpeg=30,tile=32,fast=no"),
    ],
    ids=str,
)
def test_a_table_says_what_was_restored_and_how(folder, how, signature):
    table = evaluate("bicubic", folder, 1, **how, device="cpu", limit=1)
    assert table.attrs["setting"] == signature
    assert Setting.parse(signature).signature == signature


def test_a_table_has_the_hash_of_every_picture(folder):
    table = evaluate("bicubic", folder, 2, SELFEXSR_Y(2), device="cpu")
    for row, pair in zip(table.itertuples(), load(folder, 2), strict=True):
        a = bicubic(pair.lr, 2)
        assert row.pixels_sha256 == hashlib.sha256(f"{a.shape} {a.dtype}".encode() + a.tobytes()).hexdigest()
    # the picture, and not what a protocol makes of it
    assert (
        table["pixels_sha256"].tolist() == evaluate("bicubic", folder, 2, RGB(), device="cpu")["pixels_sha256"].tolist()
    )


@pytest.mark.parametrize("lr", ["paper", "repeat", "mirror"])
def test_a_gray_file_is_compared_as_the_protocol_wants(folder, lr):
    pair = load(folder, 2, lr=lr)[2]
    assert pair.gray
    assert pair.hr.ndim == 3
    sr, hr = bicubic(pair.lr[..., 0], 2), np.ascontiguousarray(pair.hr[..., 0])
    for protocol, as_is in [(SELFEXSR_Y(2), GRAY(2)), (MATLAB_Y(2), MATLAB_Y(2))]:
        row = evaluate("bicubic", folder, 2, protocol, lr=lr, device="cpu").iloc[2]
        assert row.psnr == pytest.approx(psnr(sr, hr, as_is), abs=1e-9)


def test_a_set_loaded_as_gray_is_compared_on_one_plane(folder):
    images = load(folder, 2, gray=True)
    assert images[0].hr.ndim == 2
    table = evaluate("bicubic", images, protocol=GRAY(2), device="cpu")
    for row, pair in zip(table.itertuples(), images, strict=True):
        assert row.psnr == pytest.approx(psnr(bicubic(pair.lr, 2), pair.hr, GRAY(2)), abs=1e-9)


def test_limit_takes_the_first_images(folder):
    whole = evaluate("bicubic", folder, 2, device="cpu")
    for source in (folder, load(folder, 2)):
        part = evaluate("bicubic", source, 2, limit=2, device="cpu")
        assert part["image"].tolist() == ["p0", "p1"]
        assert part["psnr"].tolist() == whole["psnr"].tolist()[:2]
    assert part.attrs["sha256"] != whole.attrs["sha256"]


def test_the_fast_form_gives_the_same_table(folder):
    torch.manual_seed(0)
    model = create_model("bsrn", 2, num_feats=16, num_blocks=2)
    fast, plain = evaluate(model, folder, device="cpu"), evaluate(model, folder, device="cpu", fast=False)
    np.testing.assert_allclose(fast["psnr"], plain["psnr"], rtol=0, atol=1e-3)
    assert fast.attrs["model"] == plain.attrs["model"] == "BSRN"


def test_tiles_give_nearly_the_same_table(folder):
    model = local_network("imdn_ntire22", 2)
    np.testing.assert_allclose(
        evaluate(model, folder, tile=32, device="cpu")["psnr"], evaluate(model, folder, device="cpu")["psnr"], atol=1e-3
    )


def test_scales_that_do_not_match_are_refused(folder):
    model = create_model("bicubic", 4)
    with pytest.raises(ValueError, match="scale=2, but the model upscales by 4"):
        evaluate(model, folder, 2)
    with pytest.raises(ValueError, match=r"the model upscales by 4, but .* was loaded at scale 2"):
        evaluate(model, load(folder, 2))
    with pytest.raises(ValueError, match=r"the model upscales by 3, but .* was loaded at scale 2"):
        evaluate("bicubic", load(folder, 2), 3)
    assert evaluate("bicubic", load(folder, 2)).attrs["scale"] == 2


def test_gray_protocols_refuse_colour(folder):
    with pytest.raises(ValueError, match="'gray' but the picture has 3 channels"):
        evaluate("bicubic", folder, 2, GRAY())


def test_protocol_sensitivity_needs_a_scale(folder):
    with pytest.raises(ValueError, match="must be loaded with a scale of 2 or more, got None"):
        protocol_sensitivity(load(folder))
    table = protocol_sensitivity(load(folder, 2))
    assert len(table) == 7
    assert protocol_sensitivity(load(folder, 2), 1).to_dict("records") == table[:1].to_dict("records")


# --- networks for luma ------------------------------------------------------------------------------------------------


class HalfContrast(nn.Module):
    """Answers an upscaled plane with half of its contrast, so that no clipping at the end hides what came in."""

    scale, halo, min_size = 2, 1, 1

    def refine(self, plane: Tensor) -> Tensor:
        return plane / 2 + 0.25

    def forward(self, x: Tensor) -> Tensor:
        return self.refine(imresize(x, 2))


def test_the_protocol_of_vdsr_gives_a_network_the_clamped_plane_in_double(folder):
    ramp = np.tile(np.linspace(0, 255, 40).round().astype(np.uint8), (32, 1))  # a gray file leaves 16..235
    Image.fromarray(ramp).save(folder / "ramp.png")
    model = HalfContrast()
    table = evaluate(model, folder, 2, VDSR_Y(2), fast=False)
    assert table.attrs["setting"] == "v1:scale=2,lr=luma,fast=no"
    for row, pair in zip(table.itertuples(), load(folder, 2), strict=True):
        y = luma(pair.hr, "matlab") if not pair.gray else pair.hr[..., 0].astype(float)
        plane = np.clip(imresize(imresize(y / 255, 1 / 2), 2), 16 / 255, 235 / 255)
        answer = np.clip(np.round(255 * (plane / 2 + 0.25)), 0, 255).astype(np.uint8)
        assert row.psnr == pytest.approx(psnr(answer, y.astype(np.uint8), GRAY(2)), abs=1e-9)


def test_without_the_clamp_luma_goes_through_the_network_as_a_plane(folder):
    bare = replace(VDSR_Y(2), clamp=False)
    for lr in ("luma", "luma_8bit"):
        table = evaluate("bicubic", folder, 2, bare, lr=lr)
        for row, pair in zip(table.itertuples(), load(folder, 2, lr=lr), strict=True):
            small = pair.lr if lr == "luma" else pair.lr / 255
            assert (pair.lr.dtype, pair.hr.dtype) == ((np.float64 if lr == "luma" else np.uint8), np.uint8)
            again = np.clip(np.round(255 * imresize(small, 2)), 0, 255).astype(np.uint8)
            assert row.psnr == pytest.approx(psnr(again, pair.hr, GRAY(2)), abs=1e-3)


@pytest.mark.parametrize("name", ["vdsr", "drcn", "addersr_vdsr", "bicubic"])
def test_networks_for_luma_refine_a_plane_as_they_do_at_scale_1(name):
    config = {"drcn": {"features": 4, "recursions": 2}, "bicubic": {}}.get(name, {"num_feats": 4, "num_layers": 3})
    model, plane = create_model(name, 1, **config).eval(), torch.rand(2, 1, 9, 11)
    with torch.inference_mode():
        assert torch.allclose(model.refine(plane), model(plane), atol=1e-6)


def test_the_protocol_of_vdsr_refuses_networks_for_colour_and_other_images(folder):
    with pytest.raises(ValueError, match=r"clamp=True takes a network for luma .* got BSRN and .* with lr='luma'"):
        evaluate(create_model("bsrn", 2, num_feats=16, num_blocks=1), folder, 2, VDSR_Y(2))
    with pytest.raises(ValueError, match=r"images with lr='luma', got Bicubic and \w+ with lr='paper'"):
        evaluate("bicubic", load(folder, 2), 2, VDSR_Y(2))
