"""Data sets: names, layouts, scales, LR conventions, contamination, and what is said when data is missing."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsrlib import data
from nsrlib.data import DataUnavailable, ImageSet, Source, benchmark_or_embedded, load, training_set
from nsrlib.images import imresize, luma
from nsrlib.papers.drcn.jiny import FILES as JINY_FILES

PLACES = {name: os.environ.get(name, "") for name in ("NSRLIB_DATA", "NSRLIB_CACHE")}  # before the fixture hides them


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """An empty folder as NSRLIB_DATA, an empty cache, no network."""
    (tmp_path / "root").mkdir()
    monkeypatch.setenv("NSRLIB_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    data.download.forget()
    return tmp_path / "root"


@pytest.fixture
def benchmark(monkeypatch):
    """``load`` on real data, or a visible skip."""
    for name, value in PLACES.items():
        monkeypatch.setenv(name, value)

    def load_or_skip(name, *args, **kwargs) -> ImageSet:
        try:
            return load(name, *args, download=False, **kwargs)
        except DataUnavailable:
            pytest.skip(f"{name} not at hand: set NSRLIB_DATA")

    return load_or_skip


def picture(h: int = 24, w: int = 24, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (h, w, channels) if channels > 1 else (h, w)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, img: np.ndarray | None = None) -> np.ndarray:
    img = picture() if img is None else img
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(img).save(path)
    return img


def pin(monkeypatch, root: Path, folder: str = "") -> None:
    """Make the table of sources list what is in ``root`` now, with the notes of the real table."""
    table, real = {}, data.sources()
    for file in sorted(p for p in (root / folder).rglob("*") if p.is_file()):
        path, content = file.relative_to(root).as_posix(), file.read_bytes()
        digest, note = hashlib.sha256(content).hexdigest(), real[path].note if path in real else ""
        url = f"http://127.0.0.1:9/{path}"
        table[path] = Source(path.split("/")[0], "test", path, len(content), digest, url, "none", note)
    monkeypatch.setattr("nsrlib.data.catalogue.sources", lambda: table)


# --- names, scales, arguments -----------------------------------------------------------------------------------------


def missing_files(name: str, *args, **kwargs) -> tuple[str, ...]:
    """What would have to be downloaded."""
    with pytest.raises(DataUnavailable) as caught:
        load(name, *args, **kwargs)
    return caught.value.missing


def test_the_table_of_sources_lists_every_pinned_set_completely():
    pinned = {key: info for key, info in data.SETS.items() if info.kind in ("selfexsr", "flat")}
    counts = {key: len(missing_files(key, 4, include_contaminated=True)) for key in pinned}
    assert counts == {key: info.count for key, info in pinned.items()}
    assert sum(s.path.endswith(".pth") for s in data.sources().values()) == 7
    assert {s.url.split("/")[2] for s in data.sources().values()} == {"raw.githubusercontent.com"}


def test_all_pinned_files_have_a_hash_and_a_commit():
    for source in data.sources().values():
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
        assert source.bytes > 0
        assert re.search(r"/[0-9a-f]{40}/", source.url)


def test_importing_data_loads_no_heavy_package():
    heavy = "skimage sklearn pandas requests tqdm IPython matplotlib"
    code = (
        "import sys, torch; before = set(sys.modules); import nsrlib.data; nsrlib.data.sources(); "
        f"print([m for m in {heavy.split()} if m in set(sys.modules) - before])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("name", ["embedded_gray_train", "Embedded-Gray-Train", "EMBEDDED gray_train"])
def test_names_tolerate_case_and_separators(name):
    assert load(name).name == "embedded_gray_train"


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("sett5",), {}, r"unknown data set 'sett5': did you mean 'set5'\? accepted: set5, set14, b100"),
        (("/no/folder",), {}, r"there is no folder /no/folder"),
        (("set5", 5), {}, r"set5 has no scale 5; accepted: 2, 3, 4, 8"),
        (("set5", 2.0), {}, r"set5 has no scale 2.0"),
        (("set5", True), {}, r"set5 has no scale True"),
        (("embedded", 0), {}, r"scale of embedded must be None or a whole number from 1 on, got 0"),
        (("set5", 4), {"lr": "fiels"}, r"unknown lr convention 'fiels': did you mean 'files'\? accepted: paper, "),
        (("set5", 8), {"lr": "files"}, r"set5 has LR files only at x2, x3, x4 for lr='files'; computed at any scale"),
        (("urban100", 3), {"lr": "files"}, r"urban100 has LR files only at x2, x4"),
        (("set14", 2), {"lr": "files_mirror"}, r"set14 has no LR files for lr='files_mirror'"),
        (("t91", 2), {"lr": "files"}, r"t91 has no LR files"),
        (("embedded",), {"limit": 0}, r"limit must be a positive whole number or None, got 0"),
        (("embedded",), {"on_error": "ignore"}, r"unknown on_error 'ignore'"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_told_what_is_accepted(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        load(*args, **kwargs)


# --- embedded sets ----------------------------------------------------------------------------------------------------


def test_the_embedded_test_set_needs_nothing():
    images = load("embedded", 4)
    assert (images.origin, images.role, images.names) == ("embedded", "test", ["chelsea", "coffee"])
    chelsea, coffee = images
    assert chelsea.hr.shape == (300, 448, 3)  # 451 wide, cropped
    assert coffee.lr.shape == (100, 150, 3)
    assert chelsea.hr.dtype == chelsea.lr.dtype == np.uint8
    assert not chelsea.gray


@pytest.mark.parametrize("name", ["embedded_val", "embedded_train", "embedded_gray_train"])
def test_embedded_sets_are_disjoint_and_load(name):
    images = load(name)
    assert [pair.name for pair in images] == images.names
    assert all(pair.lr is None for pair in images)
    assert all(pair.hr.ndim == (2 if "gray" in name else 3) for pair in images)
    others = {n for other in data.SETS if other.startswith("embedded") and other != name for n in load(other).names}
    assert not others & set(images.names)


def test_a_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataUnavailable, match=r"embedded_val needs .* scikit-learn, .*run 'pip install scikit-learn'"):
        load("embedded_val")
    assert len(load("embedded_train", limit=2)) == 2  # astronaut and motorcycle come with scikit-image


# --- ImageSet ---------------------------------------------------------------------------------------------------------


def test_an_image_set_is_a_sequence_that_decodes_once():
    images = load("embedded", 2)
    assert len(images) == 2
    assert images[0].hr is images[0].hr
    assert images[-1].name == "coffee"
    assert isinstance(images[1:], ImageSet)
    assert images[1:][0].lr is images[1].lr
    assert images[1:].names == ["coffee"]
    assert repr(images) == "ImageSet(embedded x2, 2 test images, origin embedded)"
    with pytest.raises(IndexError):
        images[2]
    assert pickle.loads(pickle.dumps(images)).sha256 == images.sha256


def test_the_hash_depends_on_pixels_and_not_on_the_file_format(tmp_path):
    img = save(tmp_path / "a" / "x.png")
    save(tmp_path / "b" / "x.bmp", img)
    img[0, 0, 0] ^= 1
    save(tmp_path / "c" / "x.png", img)
    a, b, c = (load(tmp_path / name).sha256 for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("scale", [None, 1])
def test_without_a_scale_there_is_no_low_resolution_image(scale):
    assert load("embedded", scale)[0].lr is None
    assert load("embedded", scale)[0].hr.shape == (300, 451, 3)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("paper", {"border": "mirror", "round_between": False}),
        ("repeat", {"border": "repeat", "round_between": True}),
        ("mirror", {"border": "mirror", "round_between": True}),
    ],
)
def test_low_resolution_follows_the_convention(tmp_path, convention, expected):
    img = save(tmp_path / "set" / "x.png", picture(31, 26))
    pair = load(tmp_path / "set", 3, lr=convention)[0]
    np.testing.assert_array_equal(pair.hr, img[:30, :24])
    np.testing.assert_array_equal(pair.lr, imresize(img[:30, :24], 1 / 3, **expected))


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_set_sorted_by_name_without_hidden_and_other_files(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.tif", "d.webp", ".hidden.png"):
        save(tmp_path / "mine" / name)
    (tmp_path / "mine" / "notes.txt").write_text("no image")
    images = load(str(tmp_path / "mine"), 5)
    assert images.names == ["a", "b", "c", "d"]
    assert (images.name, images.origin, images.role, images.skipped) == ("mine", "folder", "test", ())
    assert images[0].lr.shape == (4, 4, 3)
    assert load(tmp_path / "mine", limit=2).names == ["a", "b"]


def test_a_broken_image_is_named(tmp_path):
    save(tmp_path / "mine" / "good.png")
    whole = (tmp_path / "mine" / "good.png").read_bytes()
    (tmp_path / "mine" / "cut.png").write_bytes(whole[: len(whole) // 2])
    images = load(tmp_path / "mine", 2)
    with pytest.raises(ValueError, match=r"cut\.png"):
        list(images)


def test_broken_images_are_skipped_on_request_and_counted(tmp_path):
    save(tmp_path / "mine" / "good.png")
    for name in ("bad1.png", "bad2.png"):
        (tmp_path / "mine" / name).write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"2 of 3 images skipped, first: .*bad1\.png") as warned:
        images = load(tmp_path / "mine", 2, on_error="skip")
    assert len(warned) == 1
    assert (images.names, images.skipped) == (["good"], ("bad1.png", "bad2.png"))
    (tmp_path / "mine" / "good.png").unlink()
    with pytest.raises(ValueError, match="has no image that can be read"), pytest.warns(UserWarning, match="skipped"):
        load(tmp_path / "mine", on_error="skip")


def test_an_image_smaller_than_the_scale_is_named(tmp_path):
    save(tmp_path / "mine" / "tiny.png", picture(3, 9))
    with pytest.raises(ValueError, match=r"tiny\.png: image of 3x9 is smaller than the scale 4"):
        _ = load(tmp_path / "mine", 4)[0]


def test_an_empty_folder_and_a_file_are_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no images \(\.apng, .*\.webp\)$"):
        load(tmp_path / "empty")
    save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="is a file; give the folder that holds it"):
        load(tmp_path / "x.png")


def test_a_single_channel_file_is_three_equal_channels_and_flagged(tmp_path):
    img = save(tmp_path / "mine" / "gray.png", picture(channels=1))
    save(tmp_path / "mine" / "rgb.png")
    gray, rgb = load(tmp_path / "mine", 2)
    assert (gray.gray, rgb.gray) == (True, False)
    np.testing.assert_array_equal(gray.hr, np.stack([img] * 3, -1))
    assert gray.lr.shape == (12, 12, 3)
    gray, rgb = load(tmp_path / "mine", 2, gray=True)
    np.testing.assert_array_equal(gray.hr, img)
    assert rgb.hr.shape == (24, 24)
    assert rgb.lr.shape == (12, 12)
    assert rgb.gray


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hr_folder", ["HR", "original", "GTmod12", "gtmod12", "."])
@pytest.mark.parametrize("lr_name", ["LRbicx2/{}x2.png", "LR_bicubic/X2/{}x2.png", "LRbicx2/{}.png"])
def test_common_layouts_of_a_benchmark_are_recognised(root, hr_folder, lr_name):
    for i, name in enumerate(["baby", "bird", "butterfly", "head", "woman"]):
        save(root / "Set5" / hr_folder / f"{name}.png", picture(seed=i))
        save(root / "Set5" / lr_name.format(name), picture(12, 12, seed=10 + i))
    images = load("set5", 2, lr="files")
    assert (images.origin, images.names[:2]) == ("NSRLIB_DATA, unverified copy", ["baby", "bird"])
    np.testing.assert_array_equal(images[1].hr, picture(seed=1))
    np.testing.assert_array_equal(images[1].lr, picture(12, 12, seed=11))
    assert load("set5", 3)[0].lr.shape == (8, 8, 3)
    assert load(root / "Set5", 2, lr="files").sha256 == images.sha256


def test_an_incomplete_copy_is_not_taken_for_the_benchmark(root):
    save(root / "Set5" / "HR" / "baby.png")
    with pytest.raises(DataUnavailable, match=r"NSRLIB_DATA \(incomplete: 1 of 5 images in .*Set5\)"):
        load("set5", 2)


def test_low_resolution_files_that_do_not_belong_are_refused(root):
    save(root / "mine" / "HR" / "a.png", picture(48, 48))
    save(root / "mine" / "LRbicx2" / "ax2.png", picture(12, 12))
    with pytest.raises(ValueError, match=r"ax2\.png of 12x12 does not belong to .*a\.png of 48x48 at scale 2"):
        _ = load(root / "mine", 2, lr="files")[0]
    with pytest.raises(ValueError, match=r"no LR file at x4 for 1 of 1 images, first a"):
        load(root / "mine", 4, lr="files")


def test_high_resolution_is_cropped_to_low_resolution_files_made_from_crops(root):
    hr = save(root / "mine" / "HR" / "a.png", picture(30, 28))
    save(root / "mine" / "LRbicx2" / "ax2.png", picture(12, 12))  # of GTmod12
    np.testing.assert_array_equal(load(root / "mine", 2, lr="files")[0].hr, hr[:24, :24])


def selfexsr(root: Path, folder: str, count: int, scale: int) -> None:
    for i in range(1, count + 1):
        stem = f"{folder}/image_SRF_{scale}/img_{i:03d}_SRF_{scale}"
        side = 12 if (folder, scale) == ("Urban100", 2) else 24  # the half-size trap
        save(root / f"{stem}_HR.png", picture(side, side, seed=i))
        save(root / f"{stem}_LR.png", picture(24 // scale if side == 24 else 6, 24 // scale if side == 24 else 6))


def test_pinned_files_are_preferred_to_an_unverified_copy(root, monkeypatch):
    selfexsr(root, "Set5", 5, 2)
    pin(monkeypatch, root)
    for name in ["baby", "bird", "butterfly", "head", "woman"]:
        save(root / "Set5" / "HR" / f"{name}.png", picture(12, 12))
    assert load("set5", 2)[0].hr.shape == (24, 24, 3)
    assert load("set5", 2).names == ["baby", "bird", "butterfly", "head", "woman"]


def test_a_damaged_benchmark_file_is_never_used(root, monkeypatch):
    for i in range(1, 13):
        save(root / "Set12" / f"{i:02d}.png", picture(channels=1))
    pin(monkeypatch, root)
    save(root / "Set12" / "03.png", picture(channels=1, seed=1))
    with pytest.warns(UserWarning, match=r"03\.png has sha256 .*; the file is ignored"), pytest.raises(DataUnavailable):
        load("set12")
    assert load("set12", limit=2).names == ["01", "02"]


def test_urban100_avoids_the_half_size_images_of_its_x2_folder(root, monkeypatch):
    for scale in (2, 4):
        selfexsr(root, "Urban100", 100, scale)
    pin(monkeypatch, root)
    for scale, side in [(None, 24), (2, 24), (3, 24), (4, 24), (8, 24)]:
        assert load("urban100", scale, limit=2)[0].hr.shape == (side, side, 3)
    x2 = load("urban100", 2, lr="files", limit=2)
    np.testing.assert_array_equal(x2[0].lr, picture(12, 12, seed=1))  # named HR in image_SRF_2
    assert load(root / "Urban100", 2, lr="files", limit=2).sha256 == x2.sha256
    assert load("urban100", 4, lr="files", limit=1)[0].lr.shape == (6, 6, 3)


def test_b100_images_bear_their_bsds_names(root, monkeypatch):
    for path in missing_files("b100", 4):
        save(root / path)
    pin(monkeypatch, root)
    names = load("b100", 4).names
    assert names[0] == "101085"
    assert len(set(names)) == 100


def test_files_come_from_the_cache_when_nsrlib_data_lacks_them(root, tmp_path, monkeypatch):
    selfexsr(root, "Set5", 5, 4)
    pin(monkeypatch, root)
    os.renames(root / "Set5", tmp_path / "cache" / "Set5")
    monkeypatch.delenv("NSRLIB_DATA")
    assert load("set5", 4).origin == "cache"
    assert load("set5", 8)[0].lr.shape == (3, 3, 3)


# --- missing data -----------------------------------------------------------------------------------------------------


def test_missing_data_says_what_where_and_what_to_do(monkeypatch):
    message = (
        r"^set5: 5 of 5 files missing, first Set5/image_SRF_4/img_001_SRF_4_HR\.png; looked in NSRLIB_DATA "
        r"\(nothing of it\), cache \(empty\), download \(NSRLIB_OFFLINE is set\); run 'nsr data fetch set5' "
        r"where there is a network, or set NSRLIB_DATA to a folder that holds Set5/$"
    )
    with pytest.raises(DataUnavailable, match=message) as caught:
        load("set5", 4)
    assert isinstance(caught.value, FileNotFoundError)
    assert len(caught.value.missing) == 5


@pytest.mark.parametrize("name", ["manga109", "div2k_val"])
def test_sets_that_only_the_user_can_get_say_so(root, name):
    spec = data.SETS[name]
    with pytest.raises(DataUnavailable, match=r"no folder .*put the \d+ images into"):
        load(name, 4)
    with pytest.raises(DataUnavailable, match=r"put the \d+ images into"):
        data.fetch_set(name)
    for i in range(spec.count):
        save(root / spec.folder / "HR" / f"{i:03d}.png", picture(8, 8))
    assert len(load(name, 4)) == spec.count


def test_div2k_is_found_as_it_is_unpacked(root):
    for i in range(801, 901):
        save(root / "DIV2K_valid_HR" / f"{i:04d}.png", picture(8, 8, seed=i))
        save(root / "DIV2K_valid_LR_bicubic" / "X4" / f"{i:04d}x4.png", picture(2, 2, seed=i))
    images = load("div2k_val", 4, lr="files")
    np.testing.assert_array_equal(images[99].lr, picture(2, 2, seed=900))
    assert images.role == "validation"


def test_without_benchmark_data_the_embedded_images_are_used_and_the_reader_is_told(monkeypatch):
    monkeypatch.delenv("NSRLIB_DATA")
    sets, sentence = benchmark_or_embedded(["set5", "set14"], 4)
    assert [s.name for s in sets] == ["embedded"]
    assert sentence == (
        "No benchmark data (NSRLIB_DATA not set, cache empty, NSRLIB_OFFLINE is set): running on 2 embedded images; "
        "cells that need the benchmark are skipped."
    )
    sets, sentence = benchmark_or_embedded("set12", limit=1)
    assert sets[0][0].hr.ndim == 2
    assert "running on 1 embedded image;" in sentence


def test_the_sets_that_are_there_are_used_and_the_others_named(root, monkeypatch):
    selfexsr(root, "Set5", 5, 4)
    selfexsr(root, "Set14", 14, 4)
    selfexsr(root, "Urban100", 100, 4)
    pin(monkeypatch, root)
    (root / "Urban100" / "image_SRF_4" / "img_007_SRF_4_HR.png").unlink()
    sets, sentence = benchmark_or_embedded(["set5", "urban100", "Set14"], 4)
    assert [s.name for s in sets] == ["set5", "set14"]
    assert sentence == (
        "Set5 and Set14: found in NSRLIB_DATA; "
        "Urban100: not available (NSRLIB_DATA incomplete, cache empty, NSRLIB_OFFLINE is set)."
    )
    with pytest.raises(ValueError, match="unknown data set"):
        benchmark_or_embedded(["set5", "nope"], 4)


# --- training sets ----------------------------------------------------------------------------------------------------


def fake_training_data(root: Path, monkeypatch) -> None:
    for name in ("t36", "t65", "t1"):
        save(root / "T91" / f"{name}.bmp")
    for path in ("train/302003", "train/12003", "train/2092", "test/2018"):
        save(root / "BSDS400" / f"{path}.jpg")
    pin(monkeypatch, root)


def test_training_leaves_out_test_images_and_the_duplicate(root, monkeypatch):
    fake_training_data(root, monkeypatch)
    images = training_set(["t91", "bsds400"], 2)
    assert sorted(images.names) == ["2018", "2092", "t1", "t36"]
    assert (images.name, images.role, images.origin, images.scale) == ("t91+bsds400", "train", "NSRLIB_DATA", 2)
    assert sorted(load("bsds400").names) == ["2018", "2092"]
    assert sorted(load("bsds400", include_contaminated=True).names) == ["12003", "2018", "2092", "302003"]
    assert "t65" in load("t91").names


def test_the_contaminated_images_are_in_the_table():
    kept, every = (set(missing_files("bsds400", include_contaminated=both)) for both in (False, True))
    assert every - kept == {"BSDS400/train/302003.jpg", "BSDS400/train/12003.jpg"}
    assert data.sources()["T91/t65.bmp"].sha256 == data.sources()["T91/t36.bmp"].sha256


@pytest.mark.parametrize("name", ["b100", "BSD68", "bsds_val", "some/where/BSD100"])
def test_training_on_bsds_val_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="BSDS val, B100 and BSD68 are the same photographs; 'bsds400' has the train"):
        training_set(["t91", name])


@pytest.mark.parametrize(("name", "role"), [("set5", "test"), ("embedded_val", "validation"), ("urban100", "test")])
def test_training_on_a_test_set_is_refused(name, role):
    with pytest.raises(ValueError, match=f"do not train on {name}: it is a {role} set; accepted: div2k, t91, bsds400"):
        training_set(name)


def test_own_folders_may_be_trained_on(tmp_path):
    save(tmp_path / "mine" / "x.png")
    images = training_set([tmp_path / "mine", "embedded_train"], 2)
    assert (images.name, images.origin, len(images)) == ("mine+embedded_train", "folder and embedded", 5)


# --- command line -----------------------------------------------------------------------------------------------------


def test_the_list_of_sets_says_where_they_are(root, monkeypatch):
    selfexsr(root, "Set5", 5, 4)
    pin(monkeypatch, root)
    table = data.list_sets().set_index("name")
    assert list(table.columns) == ["role", "images", "scales", "megabytes", "licence", "where"]
    where = {"set5": "NSRLIB_DATA", "set14": "download", "manga109": "user", "embedded": "embedded"}
    assert table["where"][list(where)].to_dict() == where
    assert table["images"]["set5"] == 5


def test_files_without_a_hash_are_called_unverified_and_never_ok(root, monkeypatch):
    (root / "weights").mkdir()
    bare = {s.path: dataclasses.replace(s, bytes=0, sha256="") for s in data.sources().values()}
    monkeypatch.setattr("nsrlib.data.download.sources", lambda: bare)
    monkeypatch.setattr("nsrlib.data.catalogue.sources", lambda: bare)
    (root / "weights" / JINY_FILES[0]).write_bytes(b"anything")
    found = data.verify("weights").set_index("path")["status"]
    assert found[f"weights/{JINY_FILES[0]}"] == "unverified"
    assert (found.drop(f"weights/{JINY_FILES[0]}") == "missing").all()
    assert data.weights_path(JINY_FILES[0]) == root / "weights" / JINY_FILES[0]


def test_authors_pictures_of_results_are_a_group_of_their_own(root, monkeypatch):
    pictures = [source for source in data.sources().values() if source.role == "reference"]
    assert {Path(source.path).suffix for source in pictures} == {".png"}
    content = {source.path: source.path.encode() for source in pictures}
    table = {
        p: dataclasses.replace(data.sources()[p], sha256=hashlib.sha256(c).hexdigest()) for p, c in content.items()
    }
    monkeypatch.setattr("nsrlib.data.catalogue.sources", lambda: table)
    with pytest.raises(DataUnavailable, match=f"^figures: {len(content)} of {len(content)} files missing"):
        data.fetch_set("figures")
    for path, raw in content.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(raw)
    assert data.fetch_set("Figures") == {path: root / path for path in content}
    assert data.verify("figures")["status"].tolist() == ["ok"] * len(content)


def test_verify_hashes_everything_that_is_there(root, tmp_path, monkeypatch):
    selfexsr(root, "Set5", 5, 4)
    pin(monkeypatch, root)
    assert set(data.verify("set5")["status"]) == {"ok"}
    damaged, missing = sorted((root / "Set5" / "image_SRF_4").iterdir())[:2]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (tmp_path / "cache" / "Set5" / "image_SRF_4").mkdir(parents=True)
    missing.rename(tmp_path / "cache" / "Set5" / "image_SRF_4" / missing.name)
    (root / "Set5" / "image_SRF_4" / "img_005_SRF_4_LR.png").unlink()
    table = data.verify("set5")
    found = {("", "missing"): 1, ("NSRLIB_DATA", "damaged"): 1, ("NSRLIB_DATA", "ok"): 7, ("cache", "ok"): 1}
    assert table.groupby(["where", "status"]).size().to_dict() == found
    with pytest.raises(ValueError, match=r"unknown data set 'stet5': did you mean 'set5'"):
        data.verify("stet5")


def test_fetching_a_set_or_one_scale_of_it_lists_its_files(root, monkeypatch):
    for scale in (2, 4):
        selfexsr(root, "Urban100", 100, scale)
    pin(monkeypatch, root)
    assert len(data.fetch_set("urban100")) == 400
    x2 = data.fetch_set("urban100", 2)
    assert len(x2) == 200
    assert x2["Urban100/image_SRF_2/img_001_SRF_2_HR.png"].is_file()
    assert data.fetch_set("embedded") == {}
    with pytest.raises(ValueError, match="urban100 has no scale 7"):
        data.fetch_set("urban100", 7)


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.benchmark
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["set5", "set14"])
def test_repeat_is_bit_for_bit_what_old_matlab_wrote(benchmark, name, scale):
    files, ours = benchmark(name, scale, lr="files"), benchmark(name, scale, lr="repeat")
    assert files.sha256 == ours.sha256
    for file, computed in zip(files, ours, strict=True):
        np.testing.assert_array_equal(file.lr, computed.lr, err_msg=file.name)


@pytest.mark.benchmark
@pytest.mark.parametrize(("scale", "convention"), [(2, "mirror"), (3, "mirror"), (4, "mirror"), (8, "paper")])
def test_mirror_is_bit_for_bit_what_newer_matlab_wrote(benchmark, scale, convention):
    files, ours = benchmark("set5", scale, lr="files_mirror"), benchmark("set5", scale, lr=convention)
    for file, computed in zip(files, ours, strict=True):
        np.testing.assert_array_equal(file.lr, computed.lr, err_msg=file.name)


@pytest.mark.benchmark
def test_every_scale_shows_a_crop_of_the_same_picture(benchmark):
    for x2, x3, x4 in zip(*(benchmark("set14", scale) for scale in (2, 3, 4)), strict=True):
        h, w = np.minimum(np.minimum(x2.hr.shape, x3.hr.shape), x4.hr.shape)[:2]
        assert (x2.hr[:h, :w] == x3.hr[:h, :w]).all()
        assert (x2.hr[:h, :w] == x4.hr[:h, :w]).all()


@pytest.mark.benchmark
def test_only_bridge_of_set14_is_single_channel(benchmark):
    images = benchmark("set14", 4)
    assert [pair.name for pair in images if pair.gray] == ["bridge"]
    man = images[images.names.index("man")].hr
    assert (man[..., 0] == man[..., 2]).all()  # gray, but stored as RGB


@pytest.mark.benchmark
def test_gray_is_matlabs_rgb2gray(benchmark):
    starfish = benchmark("set12")[3].hr  # an exact crop of a BSDS image that MATLAB made gray
    bsds = benchmark("bsds400", gray=True, include_contaminated=True)
    source = bsds[bsds.names.index("12003")].hr
    np.testing.assert_array_equal(source[7 : 7 + 256, 109 : 109 + 256], starfish)


def test_gray_of_live1_is_the_luma_of_the_jpeg_papers(root, monkeypatch):
    img = save(root / "LIVE1" / "bikes.bmp")
    pin(monkeypatch, root)
    pair = load("live1")[0]
    np.testing.assert_array_equal(pair.hr, luma(img, "matlab"))
    assert load("live1", gray=False)[0].hr.shape == (24, 24, 3)


@pytest.mark.benchmark
@pytest.mark.parametrize(("name", "count", "gray"), [("bsd68", 68, True), ("classic5", 5, True), ("t91", 91, False)])
def test_the_other_sets_load(benchmark, name, count, gray):
    images = benchmark(name)
    assert len(images) == count
    assert images[0].hr.ndim == (2 if gray else 3)
