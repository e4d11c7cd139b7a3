"""Folders of a user's own: layouts, formats, names, their order, and HR and LR that do not belong together."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from nsrlib.data import Pair, load
from nsrlib.data.catalogue import names_in
from nsrlib.data.sets import belong
from nsrlib.images import imresize, jpeg


def save(path: Path, img: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(img).save(path)


def shades(number: int, side: int = 12) -> np.ndarray:
    """A picture that every lossless format keeps, and of which another number makes another."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def layout(root: Path, hr: str, lr: str, names: tuple[str, ...] = ("img2", "img10")) -> None:
    for number, name in enumerate(names):
        save(root / hr.format(name), np.kron(shades(number, 6), np.ones((2, 2, 1), np.uint8)))
        save(root / lr.format(name), shades(number, 6))


# --- layouts ----------------------------------------------------------------------------------------------------------

LAYOUTS = [
    ("GTmod12/{}.png", "LRbicx2/{}_x2.png", "."),
    ("GT/{}.png", "LRbicx2/{}x2.png", "."),
    ("HR/{}.png", "LR/x2/{}.png", "."),
    ("HR/x2/{}.png", "LR/x2/{}.png", "."),
    ("hr/{}.png", "LR/X2/{}-X2.png", "."),
    ("HR/{}.png", "LR_x2/{}.png", "."),
    ("GT/{}.png", "lq/{}.png", "."),
    ("gt/{}_GT.png", "LQ/{}_LQ.png", "."),
    ("HR/{}_HR.png", "LR/{}_LR.png", "."),
    ("hq/{}.png", "lq/{}.jp2", "."),
    ("trainH/{}.png", "trainL/{}.png", "."),
    ("trainH/{}.png", "trainL/{}_x2.png", "trainH"),
    ("HR/{}.bmp", "LRbicx2/{}x2.png", "HR"),
    ("D_HR/{}.png", "D_LR_bicubic/X2/{}x2.png", "D_HR"),
    ("D_HR/{}.png", "D_LR_unknown/X2/{}x2.png", "D_HR"),
    ("D_HR/{}.png", "D_LR_mild/{}x2m.png", "D_HR"),
    ("{}.png", "LR/{}.png", "."),
]


@pytest.mark.parametrize(("hr", "lr", "given"), LAYOUTS, ids=lambda text: str(text).replace("/", ":"))
def test_every_layout_gives_each_image_its_own_low_resolution_file(tmp_path, hr, lr, given):
    layout(tmp_path / "mine", hr, lr)
    images = load(tmp_path / "mine" / given, 2, lr="files")
    assert [name.partition("_")[0] for name in images.names] == ["img2", "img10"]
    for number, pair in enumerate(images):
        np.testing.assert_array_equal(pair.hr[::2, ::2], shades(number, 6))
        if not lr.endswith(".jp2"):
            np.testing.assert_array_equal(pair.lr, shades(number, 6))


def test_a_folder_with_images_of_its_own_is_not_left_for_a_subfolder_of_a_common_name(tmp_path):
    save(tmp_path / "mine" / "a.png", shades(0))
    save(tmp_path / "mine" / "target" / "b.png", shades(1))
    assert load(tmp_path / "mine").names == ["a"]


def test_names_that_end_like_a_scale_are_told_from_ends(tmp_path):
    layout(tmp_path / "plain", "HR/{}.png", "LR/{}.png", ("img", "imgx2"))
    layout(tmp_path / "ends", "HR/{}.png", "LR/{}x2.png", ("img", "imgx2"))
    for name in ("plain", "ends"):
        for number, pair in enumerate(load(tmp_path / name, 2, lr="files")):
            np.testing.assert_array_equal(pair.lr, shades(number, 6))
    (tmp_path / "ends" / "LR" / "imgx2x2.png").unlink()
    with pytest.raises(ValueError, match="no LR file at x2 for 1 of 2 images, first imgx2, in LR"):
        load(tmp_path / "ends", 2, lr="files")


def test_a_folder_of_another_scale_does_not_serve(tmp_path):
    layout(tmp_path / "mine", "HR/{}.png", "LRbicx2/{}.png")
    with pytest.raises(ValueError, match="no LR file at x3 for 2 of 2 images, first img2, and no folder such as LRb"):
        load(tmp_path / "mine", 3, lr="files")


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["avif", "jp2", "j2k", "jfif", "jpe", "tga", "pbm", "apng", "TIF", "JPEG"])
def test_a_picture_of_any_format_that_is_read_is_taken(tmp_path, suffix):
    img = np.full((8, 8), 255, np.uint8) if suffix == "pbm" else np.full((8, 8, 3), 255, np.uint8)
    Image.fromarray(img).convert("1" if suffix == "pbm" else "RGB").save(tmp_path / f"a.{suffix}")
    (pair,) = load(tmp_path)
    assert (pair.name, pair.hr.shape, int(pair.hr.min())) == ("a", (8, 8, 3), 255)


def test_files_that_look_like_pictures_and_are_not_read_are_named_once(tmp_path):
    for name in ("z.heic", "b.CR2", "notes.txt", ".hidden.heic"):
        (tmp_path / name).write_bytes(b"x")
    said = "2 of its files are in formats that are not read, first b.CR2"
    with pytest.raises(ValueError, match=f"has no images .*; {said}$"):
        load(tmp_path)
    save(tmp_path / "a.png", shades(0))
    with pytest.warns(UserWarning, match=said) as warned:
        assert load(tmp_path).names == ["a"]
    assert len(warned) == 1


# --- names ------------------------------------------------------------------------------------------------------------


def test_images_of_one_name_are_told_apart_by_their_suffix(tmp_path):
    for k, name in enumerate(("HR/a.bmp", "HR/a.png", "HR/b.png", "LRbicx2/a.bmp", "LRbicx2/a.png", "LRbicx2/b.bmp")):
        save(tmp_path / "mine" / name, shades(k % 3, 6 if "LR" in name else 12))
    assert load(tmp_path / "mine").names == ["a.bmp", "a.png", "b"]
    files = [Path(item.files.lr).name for item in load(tmp_path / "mine", 2, lr="files").items]
    assert files == ["a.bmp", "a.png", "b.bmp"]
    (tmp_path / "mine" / "LRbicx2" / "a.png").unlink()
    with pytest.raises(ValueError, match=r"which LR file belongs to .*a\.png: a\.bmp\? Give it the suffix \.png"):
        load(tmp_path / "mine", 2, lr="files")


def test_of_two_low_resolution_files_of_one_name_that_with_the_suffix_of_the_image_counts(tmp_path):
    for name in ("HR/a.png", "LRbicx2/a.bmp", "LRbicx2/a.png"):
        save(tmp_path / "mine" / name, shades(0, 6 if "LR" in name else 12))
    assert Path(load(tmp_path / "mine", 2, lr="files").items[0].files.lr).name == "a.png"
    (tmp_path / "mine" / "HR" / "a.png").rename(tmp_path / "mine" / "HR" / "a.tif")
    with pytest.raises(ValueError, match=r"which LR file belongs to .*a\.tif: a\.bmp, a\.png\?"):
        load(tmp_path / "mine", 2, lr="files")


def test_images_of_a_folder_come_as_people_count(tmp_path):
    names = ["a", "a b", "a-1", "a1", "a2", "a10", "a10b", "b007", "b7", "B2"]
    for name in names:
        save(tmp_path / f"{name}.png", shades(0))
    assert load(tmp_path).names == ["B2", "a b", "a-1", "a", "a1", "a2", "a10", "a10b", "b007", "b7"]


def test_a_comma_may_stand_in_the_name_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "c,d,e", "c"):
        (tmp_path / name).mkdir()
    assert names_in("set5, set14") == ["set5", "set14"]
    assert names_in("a,b") == ["a,b"]
    assert names_in("set5,c,d,e,a,b,c") == ["set5", "c,d,e", "a,b", "c"]
    for nothing in ("", ",", " , "):
        with pytest.raises(ValueError, match="names no data set; write one or more, separated by commas"):
            names_in(nothing)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", shades(0))
    with pytest.raises(ValueError, match="name must be that of a data set or a folder, got"):
        load(name)


# --- HR and LR --------------------------------------------------------------------------------------------------------


def changed(lr: np.ndarray) -> dict[str, np.ndarray]:
    """What cameras, codecs and challenges do to an LR image."""
    noise = np.random.default_rng(0).normal(0, 50, lr.shape)
    return {
        "as it is": lr,
        "noise": np.clip(lr + noise, 0, 255).astype(np.uint8),
        "blur": np.asarray(imresize(imresize(lr, 1 / 6), size=lr.shape[:2])),
        "JPEG": jpeg(lr, 5),
        "shifted by a 32nd": np.roll(lr, max(1, min(lr.shape[:2]) // 32), (0, 1)),
        "dark": (lr * 0.4).astype(np.uint8),
        "flat": (lr * 0.3 + 120).astype(np.uint8),
        "another white": (lr * np.array([1, 0.8, 0.5])).astype(np.uint8),
    }


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["embedded", "embedded_train", "embedded_gray_train"])
def test_degraded_images_belong_to_their_originals_and_others_do_not(name, scale):
    images = load(name, scale, gray=False)
    for pair, other in zip(images, [*images[1:], images[0]], strict=True):
        for what, lr in changed(pair.lr).items():
            assert belong(pair.hr, lr), (pair.name, what)
        wrong = {"upside down": pair.lr[::-1, ::-1], "negative": 255 - pair.lr, "black": 0 * pair.lr}
        wrong["another"] = np.asarray(imresize(other.hr, size=pair.lr.shape[:2]))
        if name != "embedded_gray_train":  # brick, grass and gravel look the same everywhere
            for what, lr in wrong.items():
                assert not belong(pair.hr, lr), (pair.name, what)


def test_a_plain_picture_may_belong_to_any_other():
    plain = np.full((48, 48, 3), 200, np.uint8)
    assert belong(plain, plain[::2, ::2] - 190)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 8), (9, 300)])
def test_the_smallest_pictures_can_be_compared(shape):
    lr = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert belong(np.kron(lr, np.ones((2, 2, 1), np.uint8)), lr)


def test_files_that_do_not_belong_together_are_named_and_used(tmp_path, astronaut):
    hr = astronaut[:96, :96]
    small = np.asarray(imresize(hr, 1 / 2))
    save(tmp_path / "HR" / "a.png", hr)
    save(tmp_path / "LRbicx2" / "a.png", small)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(load(tmp_path, 2, lr="files"))
    save(tmp_path / "LRbicx2" / "a.png", np.rot90(small))
    with pytest.warns(UserWarning, match=r"LRbicx2/a\.png does not look like .*HR/a\.png: another picture, or turned"):
        (pair,) = load(tmp_path, 2, lr="files")
    np.testing.assert_array_equal(pair.lr, np.rot90(small))


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_a_data_loader_takes_a_set_as_it_is(tmp_path):
    for number, name in enumerate(("a", "b", "c")):
        save(tmp_path / f"{name}.png", shades(number))
    batches = list(DataLoader(load(tmp_path, 2), batch_size=2))
    assert [list(batch.name) for batch in batches] == [["a", "b"], ["c"]]
    np.testing.assert_array_equal(batches[0].hr[1].numpy(), shades(1))
    assert batches[0].lr.shape == (2, 6, 6, 3)
    (one, *_) = DataLoader(load(tmp_path), batch_size=None)
    assert isinstance(one, Pair)
    assert one.lr is None
