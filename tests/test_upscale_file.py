"""A user's files through a network: what is kept, what is refused before the work, and what a data set reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from counting import Counting
from PIL import Image
from torch import Tensor

from nsrlib import create_model
from nsrlib.data import load
from nsrlib.evaluation import default_output, evaluate, upscale_file
from nsrlib.images import imresize
from nsrlib.pictures import read_picture


def levels(*shape: int, seed: int = 0) -> np.ndarray:
    """A smooth picture, so that bicubic interpolation stays within the range."""
    coarse = np.random.default_rng(seed).random((4, 5, *shape[2:])) * 0.6 + 0.2
    return np.round(imresize(coarse, size=shape[:2]) * 255).astype(np.uint8)


def nearly(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for ties of the rounding."""
    return a.shape == b.shape and np.abs(a - b).max() <= 1 and (a != b).mean() < 0.01


@pytest.mark.parametrize("tile", ["auto", 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["gray", "gray with alpha", "RGB", "RGBA"])
def test_upscale_file_keeps_channels_and_alpha(tmp_path, channels, tile):
    x = levels(33, 41, channels)
    x = x[..., 0] if channels == 1 else x
    Image.fromarray(x).save(tmp_path / "in.png")
    read = upscale_file(
        create_model("bicubic", 3), tmp_path / "in.png", tmp_path / "out.png", tile=tile, progress=False
    )
    assert read.rgb.shape == (33, 41, 3)
    y = np.asarray(Image.open(tmp_path / "out.png"))
    assert y.dtype == np.uint8
    assert nearly(y.astype(int), np.round(imresize(x.astype(np.float64), 3)).astype(int))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png", "out.png"]


def test_upscale_file_keeps_sixteen_bits(tmp_path):
    x = np.round(imresize(np.random.default_rng(0).random((4, 4)) * 0.6 + 0.2, 8) * 65535).astype(np.uint16)
    Image.fromarray(x).save(tmp_path / "in.png")
    upscale_file(create_model("bicubic", 2), tmp_path / "in.png", tmp_path / "out.tif", progress=False)
    y = np.asarray(Image.open(tmp_path / "out.tif"))
    assert y.dtype == np.uint16
    assert np.abs(y - imresize(x.astype(np.float64), 2)).max() < 0.51 + 65535 * 4e-7  # rounded once; float32 inside
    assert len(np.unique(y)) > 256


def test_upscale_file_turns_pictures_upright_and_keeps_the_profile(tmp_path):
    x = levels(20, 30, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(x).save(tmp_path / "in.png", exif=exif, icc_profile=b"profile")
    upscale_file(create_model("bicubic", 2), tmp_path / "in.png", tmp_path / "out.png", progress=False)
    out = read_picture(tmp_path / "out.png")
    assert out.icc == b"profile"
    expected = np.round(imresize(np.rot90(x, -1).astype(np.float64), 2))
    assert nearly(np.round(out.rgb * 255).astype(int), expected.astype(int))


def test_upscale_file_gives_gray_from_a_colour_network(tmp_path):
    Image.fromarray(levels(20, 24)).save(tmp_path / "in.png")
    upscale_file(
        create_model("imdn", 2, num_feats=16, num_blocks=2), tmp_path / "in.png", tmp_path / "out.png", progress=False
    )
    assert Image.open(tmp_path / "out.png").mode == "L"
    assert Image.open(tmp_path / "out.png").size == (48, 40)


def test_upscale_file_leaves_the_model_alone(tmp_path):
    model = create_model("bsrn", 2, num_feats=16, num_blocks=1)
    Image.fromarray(levels(20, 24, 3)).save(tmp_path / "in.png")
    upscale_file(model, tmp_path / "in.png", tmp_path / "out.png", progress=False)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_upscale_file_refuses_an_impossible_target_before_the_work(tmp_path):
    Image.fromarray(levels(20, 24, 3)).save(tmp_path / "in.png")
    model = Counting()
    with pytest.raises(ValueError, match=r"out\.xyz: pictures are not written as '\.xyz'"):
        upscale_file(model, tmp_path / "in.png", tmp_path / "out.xyz")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        upscale_file(model, tmp_path / "in.png", tmp_path / "nowhere" / "out.png")
    with pytest.raises(FileNotFoundError, match="no such image"):
        upscale_file(model, tmp_path / "missing.png", tmp_path / "out.png")
    Image.fromarray(levels(20, 24, 4)).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match=r"out\.jpg: JPEG cannot hold transparency"):
        upscale_file(model, tmp_path / "clear.png", tmp_path / "out.jpg")
    Image.fromarray(levels(20, 24).astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"out\.webp: WEBP cannot hold 16 bits"):
        upscale_file(model, tmp_path / "deep.png", tmp_path / "out.webp")
    Image.fromarray(levels(1, 8192)).save(tmp_path / "long.png")
    with pytest.raises(ValueError, match="WEBP has at most 16383 pixels a side, not 16384"):
        upscale_file(model, tmp_path / "long.png", tmp_path / "out.webp")
    assert not model.seen
    assert not list(tmp_path.glob("out*"))


def test_upscale_file_replaces_nothing_unless_told_and_never_its_source(tmp_path):
    model, before = Counting(), levels(20, 24, 3)
    for name in ("in.png", "other.png"):
        Image.fromarray(before).save(tmp_path / name)
    (tmp_path / "link.png").symlink_to(tmp_path / "in.png")
    with pytest.raises(FileExistsError, match=r"other\.png exists; give another name"):
        upscale_file(model, tmp_path / "in.png", tmp_path / "other.png")
    for force in (False, True):
        for target in ("in.png", "link.png"):
            with pytest.raises(ValueError, match=rf"{target} is the source itself; give the result another name"):
                upscale_file(model, tmp_path / "in.png", tmp_path / target, force=force)
    assert not model.seen
    assert np.array_equal(np.asarray(Image.open(tmp_path / "other.png")), before)
    upscale_file(model, tmp_path / "in.png", tmp_path / "other.png", progress=False, force=True)
    assert Image.open(tmp_path / "other.png").size == (48, 40)


class Broken(Counting):
    """Gives one bad pixel, or no floating-point numbers."""

    def __init__(self, bad: float | torch.dtype) -> None:
        super().__init__()
        self.bad = bad

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if isinstance(self.bad, torch.dtype):
            return y.to(self.bad)
        y[0, 1, 3, 5] = self.bad
        return y


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), torch.int8, torch.bool], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4], ids=["gray", "RGB", "RGBA"])
@pytest.mark.parametrize("tile", ["auto", 16])
def test_upscale_file_writes_nothing_where_the_network_is_unsound(tmp_path, bad, channels, tile):
    x = levels(20, 24, channels)
    Image.fromarray(x[..., 0] if channels == 1 else x).save(tmp_path / "in.png")
    with pytest.raises(ValueError, match="are the weights sound"):
        upscale_file(Broken(bad), tmp_path / "in.png", tmp_path / "out.png", tile=tile, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def sprite(hidden: int | np.ndarray) -> np.ndarray:
    """A disc of one colour with a soft rim on the left, RGBA; ``hidden``: the levels under full transparency."""
    y, x = np.mgrid[:48, :52]
    alpha = np.clip((18 - np.hypot(y - 24, x - 26)) * np.where(x < 26, 80, 999), 0, 255).astype(np.uint8)
    rgba = np.empty((48, 52, 4), np.uint8)
    rgba[..., :3] = np.where(alpha[..., None] > 0, np.uint8([30, 160, 220]), hidden)
    rgba[..., 3] = alpha
    return rgba


@pytest.mark.parametrize("hidden", [0, 255, "noise"])
def test_colours_under_full_transparency_do_not_come_to_light(tmp_path, hidden):
    hidden = levels(48, 52, 3) if hidden == "noise" else hidden
    Image.fromarray(sprite(hidden)).save(tmp_path / "in.png")
    upscale_file(create_model("bicubic", 2), tmp_path / "in.png", tmp_path / "out.png", progress=False)
    out = np.asarray(Image.open(tmp_path / "out.png")).astype(float)
    alpha = np.clip(imresize(sprite(0)[..., 3].astype(float), 2), 0, 255)
    assert np.abs(out[..., 3] - alpha).max() <= 1
    ground, alpha = np.array([240, 200, 40]), alpha[..., None] / 255
    laid = out[..., :3] * out[..., 3:] / 255 + ground * (1 - out[..., 3:] / 255)
    expected = np.array([30, 160, 220]) * alpha + ground * (1 - alpha)
    assert np.abs(laid - expected).max() <= 2


def test_upscale_file_keeps_resolution_and_rights_and_names_what_it_lost(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "(c) somebody"
    Image.fromarray(levels(20, 24, 3)).save(tmp_path / "in.jpg", exif=exif, dpi=(300, 300))
    model = create_model("bicubic", 2)
    assert upscale_file(model, tmp_path / "in.jpg", tmp_path / "out.png", progress=False).notes == ()
    out = Image.open(tmp_path / "out.png")
    assert out.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert dict(out.getexif()) == {0x8298: "(c) somebody"}
    read = upscale_file(model, tmp_path / "in.jpg", tmp_path / "out.ppm", progress=False)
    assert read.notes == ("not kept: resolution, EXIF",)


def test_upscale_file_takes_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("1", (30, 20), 1).save(tmp_path / "in.png")
    upscale_file(Counting(), tmp_path / "in.png", tmp_path / "out.png", progress=False)
    assert read_picture(tmp_path / "out.png").levels.shape == (40, 60, 1)


MEMORY = """
import resource, sys
from nsrlib import create_model
from nsrlib.evaluation import upscale_file
model, peak = create_model("bicubic", 2), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
upscale_file(model, "small.png", "a.png", progress=False, device="cpu", tile=192)
before = peak()
upscale_file(model, "large.png", "b.png", progress=False, device="cpu")
print((peak() - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_a_large_picture_takes_the_memory_of_its_levels(tmp_path):
    for name, size in (("small.png", (600, 300)), ("large.png", (6000, 3000))):
        Image.new("1", size, 1).save(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=tmp_path, capture_output=True, text=True, check=True)
    levels_of_both = 5 * 6000 * 3000
    assert int(done.stdout) < 3 * levels_of_both  # float32 RGB of the result alone would be 9.6


class Gray(Counting):
    channels = 1


def test_a_network_for_gray_gets_one_channel_and_refuses_colour(tmp_path):
    Image.fromarray(levels(20, 24)).save(tmp_path / "gray.png")
    Image.fromarray(levels(20, 24, 3)).save(tmp_path / "colour.png")
    model = Gray()
    upscale_file(model, tmp_path / "gray.png", tmp_path / "out.png", progress=False)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png"))[::2, ::2], levels(20, 24))
    with pytest.raises(ValueError, match=r"the network takes gray pictures, and .*colour\.png has colour"):
        upscale_file(model, tmp_path / "colour.png", tmp_path / "out2.png", progress=False)


@pytest.mark.parametrize(
    ("source", "scale", "target"), [("photo.jpg", 4, "photo_x4.png"), ("a/b.c.tif", 2, "a/b.c_x2.png")]
)
def test_the_default_output_lies_beside_the_source(source, scale, target):
    assert default_output(source, scale) == Path(target)


# --- the same files in a data set -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*its 16 bits were rounded to 8")
def test_a_photograph_scores_the_same_whatever_type_its_file_has(tmp_path):
    x = levels(60, 72)
    kinds = {"a.png": x, "b.tif": x / np.float32(255), "c.tif": x.astype(np.int32), "d.tif": x.astype(np.uint16) * 257}
    for name, values in kinds.items():
        Image.fromarray(values).save(tmp_path / name)
    with pytest.warns(UserWarning, match=r"c\.tif: its 32-bit whole numbers .* \(said once for its folder\)"):
        table = evaluate("bicubic", tmp_path, 2, device="cpu")
    assert table["image"].tolist() == list("abcd")
    assert len(set(table["psnr"])) == len(set(table["ssim"])) == len(set(table["pixels_sha256"])) == 1


def test_a_pair_whose_hr_is_stored_on_its_side_is_turned_upright(tmp_path):
    for name in ("upright", "aside"):
        (tmp_path / name / "HR").mkdir(parents=True)
        (tmp_path / name / "LRbicx2").mkdir()
        x, exif = levels(64, 64, 3), Image.Exif()
        Image.fromarray(imresize(x, 1 / 2)).save(tmp_path / name / "LRbicx2" / "a.png")
        exif[0x0112] = 6 if name == "aside" else 1
        Image.fromarray(np.ascontiguousarray(np.rot90(x)) if name == "aside" else x).save(
            tmp_path / name / "HR" / "a.png", exif=exif
        )
    upright = evaluate("bicubic", tmp_path / "upright", 2, lr="files", device="cpu")
    with pytest.warns(UserWarning, match=r"a\.png: it was turned upright, as its EXIF orientation says"):
        aside = evaluate("bicubic", tmp_path / "aside", 2, lr="files", device="cpu")
    assert aside["psnr"].tolist() == upright["psnr"].tolist()
    assert upright["psnr"][0] > 30


def test_what_was_changed_in_reading_a_folder_is_said_once(tmp_path, recwarn):
    for k in range(3):
        Image.fromarray(levels(20, 24, 4, seed=k)).save(tmp_path / f"{k}.png")
    evaluate("bicubic", tmp_path, 2, device="cpu")
    evaluate("bicubic", tmp_path, 2, device="cpu")
    assert [str(w.message) for w in recwarn] == [
        f"{tmp_path / '0.png'}: its transparency was left out (said once for its folder)"
    ]


def test_files_that_no_decoder_reads_are_skipped_where_that_is_asked_for(tmp_path):
    Image.fromarray(levels(20, 24, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 24\n%%EndComments\n{ } loop\n")
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(tmp_path / "c.tif")
    (tmp_path / "d.tif").write_bytes((tmp_path / "c.tif").read_bytes()[:60])
    with pytest.warns(UserWarning, match="3 of 4 images skipped"):
        images = load(tmp_path, 2, on_error="skip")
    assert images.names == ["a"]
