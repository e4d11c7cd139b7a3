"""Pictures in files: read without loss, refused in one line, never half written."""

from __future__ import annotations

import errno
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsrlib.pictures import read_image, read_picture, write_picture


def levels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_gray_files_become_three_equal_channels(tmp_path):
    x = levels(9, 7)
    Image.fromarray(x).save(tmp_path / "g.png")
    np.testing.assert_array_equal(read_image(tmp_path / "g.png"), np.stack([x] * 3, -1))
    picture = read_picture(tmp_path / "g.png")
    assert (picture.gray, picture.bits, picture.alpha, picture.notes) == (True, 8, None, ())
    np.testing.assert_array_equal(np.round(picture.rgb * 255), np.stack([x] * 3, -1))


def test_alpha_is_dropped_by_read_image_and_kept_by_read_picture(tmp_path):
    x = levels(6, 8, 4)
    Image.fromarray(x).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), x[..., :3])
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(np.round(picture.alpha * 255), x[..., 3])
    np.testing.assert_array_equal(np.round(picture.rgb * 255), x[..., :3])
    assert not picture.gray


def test_gray_with_alpha_stays_gray(tmp_path):
    x = levels(6, 8, 2)
    Image.fromarray(x).save(tmp_path / "la.png")
    picture = read_picture(tmp_path / "la.png")
    assert picture.gray
    np.testing.assert_array_equal(np.round(picture.alpha * 255), x[..., 1])
    np.testing.assert_array_equal(np.round(picture.rgb[..., 2] * 255), x[..., 0])


def test_a_transparent_palette_is_read_as_colour_and_alpha(tmp_path):
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    palette.putdata([0, 1, 2, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    expected = [[[10, 20, 30], [200, 100, 50]], [[0, 255, 0], [10, 20, 30]]]
    assert read_image(tmp_path / "p.png").tolist() == expected
    picture = read_picture(tmp_path / "p.png")
    assert np.round(picture.rgb * 255).tolist() == expected
    assert picture.alpha.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_gray_keeps_its_bits_or_is_scaled_but_never_clipped(tmp_path, suffix):
    x = np.array([[0, 128, 129, 257], [1000, 32768, 65280, 65535]], np.uint16)
    path = tmp_path / f"g16.{suffix}"
    Image.fromarray(x).save(path)
    picture = read_picture(path)
    assert (picture.bits, picture.gray) == (16, True)
    np.testing.assert_array_equal(np.round(picture.rgb * 65535), np.stack([x] * 3, -1))
    expected = np.round(x / 257)  # 65535 = 255 * 257
    np.testing.assert_array_equal(read_image(path), np.stack([expected] * 3, -1))


def test_gray_values_outside_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "i.tif")
    for read in (read_image, read_picture):
        with pytest.raises(ValueError, match=r"cannot use .*i\.tif: values 0..70000, expected 0..65535"):
            read(tmp_path / "i.tif")


def test_sixteen_bit_colour_is_read_with_a_note(tmp_path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 65535, 32768, 0)))
    (tmp_path / "c16.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixel + chunk(b"IEND", b""))
    picture = read_picture(tmp_path / "c16.png")
    assert picture.notes == ("16-bit colour was read as 8 bits per channel",)
    assert (picture.rgb * 255).tolist() == [[[255, 128, 0]]]


def test_cmyk_jpeg_is_converted_and_loses_its_profile(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "k.jpg", icc_profile=b"cmyk profile")
    picture = read_picture(tmp_path / "k.jpg")
    assert picture.icc is None
    assert picture.notes == ("CMYK was converted to RGB",)
    np.testing.assert_allclose(picture.rgb[8, 8], [1, 0, 0], atol=4 / 255)
    np.testing.assert_allclose(read_image(tmp_path / "k.jpg")[8, 8], [255, 0, 0], atol=4)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda x: x), (3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, -1)), (8, np.rot90), (2, np.fliplr)],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    x = levels(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(x).save(tmp_path / "e.png", exif=exif)
    np.testing.assert_array_equal(np.round(read_picture(tmp_path / "e.png").rgb * 255), upright(x))


def test_only_the_first_frame_is_read_and_said_so(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (10, 200, 30)]
    frames[0].save(tmp_path / "f.tif", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / "f.tif")
    assert picture.notes == ("only the first of 3 frames was read",)
    assert np.round(picture.rgb * 255).max() == 10


@pytest.mark.parametrize("read", [read_image, read_picture])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, read, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(levels(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cannot decode .*cut\.{suffix}: "):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_picture])
def test_files_that_are_no_pictures_are_named(tmp_path, read):
    (tmp_path / "page.png").write_text("<html>404</html>")
    (tmp_path / "empty.png").touch()
    for name in ("page.png", "empty.png"):
        with pytest.raises(ValueError, match=rf"cannot decode .*{name}: cannot identify image file"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder, not an image"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such image: .*missing\.png"):
        read(tmp_path / "missing.png")


def same_levels(path: Path, x: np.ndarray) -> bool:
    return np.array_equal(np.asarray(Image.open(path)), x)


@pytest.mark.parametrize("suffix", ["png", "tif", "PNG"])
def test_pictures_are_written_without_loss(tmp_path, suffix):
    colour, gray, wide = levels(5, 7, 3), levels(5, 7), levels(5, 7).astype(np.uint16) * 251
    path = tmp_path / f"x.{suffix}"
    write_picture(path, colour)
    assert same_levels(path, colour)
    for form in (gray, gray[..., None]):
        write_picture(path, form)
        assert same_levels(path, gray)
    write_picture(path, wide)
    assert same_levels(path, wide)
    alpha = levels(5, 7, seed=1)
    write_picture(path, colour, alpha=alpha / 255)
    assert same_levels(path, np.dstack([colour, alpha]))
    write_picture(path, gray, alpha=alpha / 255)
    assert same_levels(path, np.dstack([gray, alpha]))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_colour_profile_survives(tmp_path):
    profile = b"not a real profile, but bytes are bytes"
    write_picture(tmp_path / "x.png", levels(4, 4, 3), icc=profile)
    assert read_picture(tmp_path / "x.png").icc == profile


def test_a_jpeg_is_written_with_full_colour_resolution(tmp_path):
    red_blue = np.zeros((16, 16, 3), np.uint8)
    red_blue[:, ::2, 0] = red_blue[:, 1::2, 2] = 255
    write_picture(tmp_path / "x.jpg", red_blue)
    assert np.abs(read_image(tmp_path / "x.jpg").astype(int) - red_blue).max() < 30


@pytest.mark.parametrize(
    ("name", "dtype", "alpha", "message"),
    [
        (
            "x.jpg",
            np.uint8,
            True,
            r"JPEG cannot hold this picture \(cannot write mode RGBA as JPEG\); try .png or .tif",
        ),
        ("x.jpg", np.uint16, False, "JPEG cannot hold 16 bits per channel; try .png or .tif"),
        ("x.webp", np.uint16, False, "WEBP cannot hold 16 bits"),
        ("x.gif", np.uint16, False, "GIF cannot hold 16 bits"),
        ("x.foo", np.uint8, False, "cannot tell the image format of 'x.foo'; use a suffix such as .png"),
        ("x", np.uint8, False, "cannot tell the image format of 'x'"),
    ],
    ids=str,
)
def test_a_format_that_cannot_hold_the_picture_is_refused(tmp_path, name, dtype, alpha, message):
    planes = np.zeros((4, 4, 1 if dtype == np.uint16 else 3), dtype)
    with pytest.raises(ValueError, match=message):
        write_picture(tmp_path / name, planes, alpha=np.ones((4, 4)) if alpha else None)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        write_picture(tmp_path / "nowhere" / "x.png", levels(4, 4))


@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, before):
    path = tmp_path / "x.png"
    if before:
        path.write_bytes(before)

    def save(self, target, *args, **kwargs):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match=r"cannot write .*x\.png: No space left on device") as caught:
        write_picture(path, levels(4, 4))
    assert caught.value.errno == errno.ENOSPC
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"x.png": before} if before else {})


def test_an_interruption_leaves_nothing_half_written(tmp_path, monkeypatch):
    def save(self, target, *args, **kwargs):
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt):
        write_picture(tmp_path / "x.png", levels(4, 4))
    assert not list(tmp_path.iterdir())


def test_a_size_that_a_format_cannot_hold_is_said_without_an_error_number(tmp_path):
    with pytest.raises(OSError, match=r"^cannot write .*x\.jpg: ") as caught:
        write_picture(tmp_path / "x.jpg", np.zeros((1, 70000), np.uint8))
    assert caught.value.errno is None
