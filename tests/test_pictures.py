"""Pictures in files: read without loss, refused in one line, never half written."""

from __future__ import annotations

import ast
import errno
import re
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from nsrlib.pictures import (
    SUFFIXES,
    Picture,
    check_target,
    quantised,
    read_image,
    read_picture,
    without_hidden_colours,
    write_picture,
)


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
    np.testing.assert_array_equal(picture.alpha, x[..., 3])
    np.testing.assert_array_equal(np.round(picture.rgb * 255), x[..., :3])
    assert not picture.gray


def test_gray_with_alpha_stays_gray(tmp_path):
    x = levels(6, 8, 2)
    Image.fromarray(x).save(tmp_path / "la.png")
    picture = read_picture(tmp_path / "la.png")
    assert picture.gray
    np.testing.assert_array_equal(picture.alpha, x[..., 1])
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
    assert picture.alpha.tolist() == [[255, 0], [255, 255]]


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


def tiff(path: Path, x: np.ndarray, tags: dict[int, int] | None = None) -> Path:
    Image.fromarray(x).save(path, tiffinfo=tags or {})
    return path


X8 = np.array([[0, 1, 100, 254, 255]], np.uint8)


@pytest.mark.parametrize(
    ("x", "tags", "note"),
    [
        (X8 / np.float32(255), {}, None),
        (X8.astype(np.float32), {}, r"its floating-point values 0\.\.255 were read as 0\.\.255: the file does not say"),
        (X8.astype(np.float32) * 257, {}, r"its floating-point values 0\.\.65535 were read as 0\.\.65535"),
        (X8.astype(np.float32), {281: 255}, None),
        (X8 * np.float32(4095 / 255), {281: 4095}, None),
        (X8.astype(np.int32), {}, r"its 32-bit whole numbers 0\.\.255 were read as 0\.\.255: the file does not say"),
        (X8.astype(np.int32) * 257, {}, r"its 32-bit whole numbers 0\.\.65535 were read as 0\.\.65535"),
        (X8.astype(np.int32), {281: 255}, None),
        (X8.astype(np.uint16) * 257, {}, None),
        (np.round(X8 * (4095 / 255)).astype(np.uint16), {281: 4095}, None),
        ((255 - X8).astype(np.uint16) * 257, {262: 0}, None),
        (X8 / np.float32(-255) + 1, {262: 0}, None),
    ],
    ids=lambda v: f"{v.dtype}-{v.max():.0f}" if isinstance(v, np.ndarray) else "",
)
def test_a_gray_file_of_any_type_and_range_is_the_same_picture_or_says_what_was_guessed(tmp_path, x, tags, note):
    picture = read_picture(tiff(tmp_path / "x.tif", x, tags))
    assert picture.gray
    np.testing.assert_array_equal(picture.eight_bits, X8)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), np.stack([X8] * 3, -1))
    assert len(picture.notes) == (note is not None)
    assert note is None or re.match(note, picture.notes[0])


def test_twelve_bits_a_sample_are_scaled(tmp_path):
    body = bytes([0x00, 0x08, 0x00, 0xFF, 0xFF, 0xFF])  # 0, 2048, 4095, 4095
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + b"\0" * 4
    (tmp_path / "x.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory)
    picture = read_picture(tmp_path / "x.tif")
    assert picture.levels.ravel().tolist() == [0, round(2048 / 4095 * 65535), 65535, 65535]
    assert picture.notes == ()


def test_twelve_bits_in_sixteen_are_named_where_nothing_says_so(tmp_path):
    x = np.array([[0, 4095]], np.uint16)
    for path in (tmp_path / "x.png", tmp_path / "x.tif"):
        Image.fromarray(x).save(path)
        picture = read_picture(path)
        assert picture.levels.ravel().tolist() == [0, 4095]
        assert picture.notes[0].startswith("its brightest level is 4095 of 65535: if the file holds fewer bits")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([[0, 70000]], np.int32), r"values 0\.\.70000, expected 0\.\.1, 0\.\.255 or 0\.\.65535; scale them"),
        (np.array([[-1, 255]], np.int32), r"values -1\.\.255, expected 0\.\.1, "),
        (np.array([[-0.5, 1]], np.float32), r"values -0.5\.\.1, expected 0\.\.1, "),
        (np.array([[0, 1.5]], np.float32), r"values 0\.\.1\.5, expected 0\.\.1, "),
        (np.array([[0, np.nan]], np.float32), "it holds NaN or infinite values; store finite ones"),
        (np.array([[0, np.inf]], np.float32), "it holds NaN or infinite values; store finite ones"),
    ],
    ids=str,
)
def test_values_without_a_known_range_are_refused(tmp_path, x, message):
    for read in (read_image, read_picture):
        with pytest.raises(ValueError, match=rf"^cannot use .*x\.tif: {message}[^\n]*$"):
            read(tiff(tmp_path / "x.tif", x))


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_orientation_is_applied_as_pillow_does(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(levels(4, 6, 3)).save(tmp_path / f"e.{suffix}", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"e.{suffix}")))
    np.testing.assert_array_equal(read_picture(tmp_path / f"e.{suffix}").levels, expected)
    np.testing.assert_array_equal(read_image(tmp_path / f"e.{suffix}"), expected)


def test_alpha_and_gray_are_turned_upright_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    x = levels(4, 6, 2)
    Image.fromarray(x).save(tmp_path / "e.png", exif=exif)
    picture = read_picture(tmp_path / "e.png")
    np.testing.assert_array_equal(np.dstack([picture.levels, picture.alpha]), np.rot90(x, -1))


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
        with pytest.raises(ValueError, match=rf"^cannot decode .*{name}: no picture of a format that is read \(PNG, "):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder, not an image"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such image: .*missing\.png"):
        read(tmp_path / "missing.png")


# --- foreign files ----------------------------------------------------------------------------------------------------

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 24\n%%EndComments\n{ } loop\n"
PIXEL_FORMAT = struct.pack("<8I", 32, 0x410000, 0, 0, 0, 0, 0, 0)
DDS = b"DDS " + struct.pack("<18I", 124, 0x1007, 9, 9, *[0] * 14) + PIXEL_FORMAT + struct.pack("<5I", *[0] * 5)


@pytest.mark.parametrize("name", ["photo.png", "photo.eps", "photo.jpg", "photo"])
@pytest.mark.parametrize("content", [POSTSCRIPT, DDS, b"\xd7\xcd\xc6\x9a" + b"\0" * 60], ids=["EPS", "DDS", "WMF"])
def test_formats_that_may_start_programs_are_no_pictures(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing may be started
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot decode .*: no picture of a format that is read"):
        read_picture(tmp_path / name)


def test_every_picture_is_opened_with_a_list_of_formats():
    opened = [
        (path.name, [keyword.arg for keyword in node.keywords])
        for path in (Path(__file__).parents[1] / "nsrlib").rglob("*.py")
        if "Image.open(" in (code := path.read_text())
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"
    ]
    assert len(opened) >= 3
    assert [name for name, keywords in opened if "formats" not in keywords] == []


def test_a_kind_of_pixels_that_is_not_read_is_told_from_a_foreign_format(tmp_path):
    skimage_io = pytest.importorskip("tifffile")
    skimage_io.imwrite(tmp_path / "x.tif", np.zeros((4, 5, 3), np.float64), photometric="rgb")
    with pytest.raises(ValueError, match="a damaged TIFF, or one whose kind of pixels is not read"):
        read_picture(tmp_path / "x.tif")


def test_a_tga_is_known_by_its_suffix_because_it_has_no_signature(tmp_path):
    Image.fromarray(x := levels(4, 5, 3)).save(tmp_path / "x.tga")
    np.testing.assert_array_equal(read_picture(tmp_path / "x.tga").levels, x)
    (tmp_path / "x.png").write_bytes((tmp_path / "x.tga").read_bytes())
    with pytest.raises(ValueError, match="no picture of a format that is read"):
        read_picture(tmp_path / "x.png")


def sound_files(folder: Path) -> list[Path]:
    """A small file of every format and kind of pixels that is read."""
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "somebody"
    colour, gray = Image.fromarray(levels(20, 24, 3)), Image.fromarray(levels(20, 24))
    kinds = {"rgb": colour, "l": gray, "p": colour.quantize(16), "1": gray.convert("1"), "rgba": colour.convert("RGBA")}
    kinds |= {"la": gray.convert("LA"), "cmyk": colour.convert("CMYK"), "i16": gray.convert("I;16")}
    kinds |= {"i": gray.convert("I"), "f": gray.convert("F")}
    files = []
    for suffix in sorted(SUFFIXES):
        for kind, image in kinds.items():
            path = folder / f"{kind}{suffix}"
            try:
                image.save(path, **({"exif": exif, "dpi": (300, 300)} if suffix in (".png", ".jpg", ".tif") else {}))
                files.append(path)
            except (OSError, KeyError, ValueError):  # this format has no such pixels
                path.unlink(missing_ok=True)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        colour.save(path := folder / f"{compression}.tif", compression=compression)
        files.append(path)
    gray.save(path := folder / "frames.gif", save_all=True, append_images=[gray, gray.rotate(90)])
    return [*files, path]


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, cut off, doubled or set to an extreme, mostly near the beginning, where headers are."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        place = int(len(data) * rng.random() ** rng.choice([1, 4]))
        match rng.integers(0, 4):
            case 0:
                data[place : place + 1] = bytes(rng.integers(0, 256, 1, np.uint8))
            case 1:
                data[place : place + 4] = rng.choice(
                    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\1\0\0\0"]
                )
            case 2:
                del data[place : place + int(rng.integers(1, 40))]
            case _:
                data[place:place] = data[place : place + int(rng.integers(1, 40))]
    return bytes(data)


@pytest.mark.parametrize("inputs", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_damaged_file_is_read_or_refused_in_one_line_without_a_warning(tmp_path, inputs, recwarn):
    files = sound_files(tmp_path)
    assert {path.suffix for path in files} == SUFFIXES
    assert all(read_picture(path).levels.shape[2] in (1, 3) for path in files)
    rng = np.random.default_rng(inputs)
    refused = []
    for k in range(inputs):
        path = tmp_path / f"damaged{files[k % len(files)].suffix}"
        path.write_bytes(mutated(files[k % len(files)].read_bytes(), rng))
        try:
            picture = read_picture(path, most_pixels=10**6)
        except ValueError as error:
            refused.append(str(error))
        else:
            assert picture.levels.dtype in (np.uint8, np.uint16)
            assert picture.levels.shape[2] in (1, 3)
            for suffix in (".png", ".tif", ".webp"):
                write_picture(tmp_path / f"again{suffix}", picture.eight_bits, alpha=picture.alpha, like=picture)
    assert inputs / 10 < len(refused) < inputs
    assert [line for line in refused if "damaged." not in line or "\n" in line] == []
    assert [str(warning.message) for warning in recwarn] == []


def test_the_number_of_pixels_is_bounded_unless_somebody_named_the_file(tmp_path):
    Image.new("1", (300, 200)).save(tmp_path / "x.png")
    with pytest.raises(
        ValueError, match=r"x\.png has 60,000 pixels; more than 59,999 are read only of a file to upscale"
    ):
        read_picture(tmp_path / "x.png", most_pixels=59_999)
    assert read_picture(tmp_path / "x.png", most_pixels=60_000).levels.shape == (200, 300, 1)


def test_pillows_own_limit_is_neither_obeyed_nor_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (30, 20)).save(tmp_path / "x.png")
    assert read_picture(tmp_path / "x.png").levels.shape == (20, 30, 1)
    assert Image.MAX_IMAGE_PIXELS == 100


# --- writing ----------------------------------------------------------------------------------------------------------


def same_levels(path: Path, x: np.ndarray) -> bool:
    return np.array_equal(np.asarray(Image.open(path)), x)


@pytest.mark.parametrize("suffix", ["png", "tif", "PNG", "jp2"])
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
    write_picture(path, colour, alpha=alpha)
    assert same_levels(path, np.dstack([colour, alpha]))
    write_picture(path, gray, alpha=alpha)
    assert same_levels(path, np.dstack([gray, alpha]))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("suffix", "most"), [("webp", 0), ("bmp", 0), ("ppm", 0), ("tiff", 0), ("avif", 2), ("jpg", 4), ("jpeg", 4)]
)
def test_the_suffix_does_not_change_the_picture(tmp_path, astronaut, suffix, most):
    if f".{suffix}" not in SUFFIXES:
        pytest.skip(f"Pillow has no {suffix} here")
    path = tmp_path / f"x.{suffix}"
    for x in (astronaut[:64, 180:260], astronaut[:64, 180:260, 1]):
        write_picture(path, x)
        y = read_image(path).astype(int)
        assert np.abs(y - np.atleast_3d(x)).max() <= most
    if suffix in ("webp", "avif"):
        write_picture(path, astronaut[:64, 180:260], alpha=astronaut[100:164, 180:260, 0])
        picture = read_picture(path)
        np.testing.assert_array_equal(picture.alpha, astronaut[100:164, 180:260, 0])
        assert np.abs(picture.levels.astype(int) - astronaut[:64, 180:260]).max() <= most


def described() -> Picture:
    exif = Image.Exif()
    exif[0x8298], exif[0x013B] = "(c) somebody", "an artist"
    return Picture(
        levels(4, 4, 3), icc=b"profile", dpi=(300, 150), exif=exif.tobytes(), gamma=0.6, text={"Author": "an author"}
    )


@pytest.mark.parametrize(
    ("suffix", "lost"),
    [
        ("png", ()),
        ("tif", ("not kept: gamma, text",)),
        ("jpg", ("not kept: gamma, text",)),
        ("webp", ("not kept: resolution, gamma, text",)),
        ("bmp", ("not kept: profile, EXIF, gamma, text",)),
        ("ppm", ("not kept: profile, resolution, EXIF, gamma, text",)),
        ("jp2", ("not kept: profile, resolution, EXIF, gamma, text",)),
    ],
)
def test_what_a_file_says_beside_its_pixels_is_kept_or_named(tmp_path, suffix, lost):
    path, picture = tmp_path / f"x.{suffix}", described()
    assert write_picture(path, picture.levels, like=picture) == lost
    read = read_picture(path)
    text = "".join(lost)
    assert (read.icc == b"profile") == ("profile" not in text)
    assert (read.dpi is not None and np.allclose(read.dpi, (300, 150), atol=0.1)) == ("resolution" not in text)
    exif = Image.open(path).getexif()
    assert (exif.get(0x8298), exif.get(0x013B)) == ((None, None) if "EXIF" in text else ("(c) somebody", "an artist"))
    assert (read.gamma == 0.6) == (read.text == {"Author": "an author"}) == ("gamma" not in text)


def test_orientation_thumbnail_and_a_makers_data_are_not_written_again(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x8298], exif[0x8769] = 6, "(c) somebody", {37500: b"maker", 33434: 0.01, 40962: 6}
    Image.fromarray(levels(4, 6, 3)).save(tmp_path / "x.jpg", exif=exif)
    picture = read_picture(tmp_path / "x.jpg")
    write_picture(tmp_path / "y.jpg", picture.levels, like=picture)
    written = Image.open(tmp_path / "y.jpg").getexif()
    assert dict(written.get_ifd(0x8769)) == {33434: 0.01}
    assert (written.get(0x0112), written.get(0x8298)) == (None, "(c) somebody")


def test_a_picture_is_written_without_what_an_encoder_does_not_take(tmp_path):
    odd = Picture(levels(4, 4), exif=b"no EXIF data", dpi=(300, 300))
    assert write_picture(tmp_path / "x.tif", odd.levels, like=odd) == ("not kept: EXIF",)
    assert read_picture(tmp_path / "x.tif").dpi == (300, 300)


def test_a_resolution_that_pillow_made_up_is_not_kept(tmp_path):
    exif = Image.Exif()
    exif[0x8298] = "(c) somebody"
    Image.fromarray(levels(4, 6, 3)).save(tmp_path / "x.jpg", exif=exif)
    assert Image.open(tmp_path / "x.jpg").info["dpi"] == (72, 72)
    assert read_picture(tmp_path / "x.jpg").dpi is None


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
        ("x.jpg", np.uint8, True, r"^x\.jpg: JPEG cannot hold transparency; take .*\.png, \.tif, \.tiff or \.webp$"),
        ("x.bmp", np.uint8, True, "BMP cannot hold transparency"),
        ("x.ppm", np.uint8, True, "PPM cannot hold transparency"),
        ("x.jpg", np.uint16, False, r"JPEG cannot hold 16 bits per channel; take \.jp2, \.pgm, \.png, .*or \.tiff$"),
        ("x.webp", np.uint16, False, "WEBP cannot hold 16 bits"),
        ("x.gif", np.uint8, False, r"pictures are not written as '\.gif'; take .*\.png"),
        ("x.ico", np.uint8, False, r"pictures are not written as '\.ico'"),
        ("x.eps", np.uint8, False, r"pictures are not written as '\.eps'"),
        ("x", np.uint8, False, "pictures are not written as 'files without a suffix'"),
    ],
    ids=str,
)
def test_a_format_that_cannot_hold_the_picture_is_refused(tmp_path, name, dtype, alpha, message):
    planes = np.zeros((4, 4, 1 if dtype == np.uint16 else 3), dtype)
    calls = [
        lambda: write_picture(tmp_path / name, planes, alpha=np.zeros((4, 4), np.uint8) if alpha else None),
        lambda: check_target(tmp_path / name, alpha=alpha, bits=8 * planes.itemsize),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 3), np.uint16), np.zeros((4, 4, 4), np.uint8)])
def test_levels_of_another_kind_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match=r"levels must be uint8 \(H, W, 1 or 3\) or uint16 \(H, W, 1\), got"):
        write_picture(tmp_path / "x.png", bad)
    with pytest.raises(ValueError, match="alpha must be uint8 beside uint8 levels, got float64"):
        write_picture(tmp_path / "x.png", levels(4, 4), alpha=np.ones((4, 4)))


@pytest.mark.parametrize("bits", [8, 16])
def test_quantising_rounds_half_to_even_and_refuses_what_is_no_picture(bits):
    top = 2**bits - 1
    values = np.array([-9, 0.5 / top, 1.5 / top, 2.5 / top, 0.2, 1, 7])
    assert quantised(values, bits).tolist() == [0, 0, 2, 2, top // 5, top, top]
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="the picture holds NaN or infinite values; are the weights sound"):
            quantised(np.array([0, bad, 1]), bits)
    for kind in (np.int8, bool, np.uint8):
        with pytest.raises(ValueError, match="not floating-point values; are the weights sound"):
            quantised(np.zeros(3, kind), bits)


def test_hidden_pixels_take_the_colour_of_the_nearest_one_that_is_seen():
    x, alpha = levels(90, 70, 3), np.zeros((90, 70), np.uint8)
    alpha[20:70, 10:50] = levels(50, 40, seed=1) // 64 * 64  # holes, too
    filled = without_hidden_colours(x, alpha)
    seen = alpha > 0
    np.testing.assert_array_equal(filled[seen], x[seen])
    ys, xs = np.nonzero(seen)
    for y, at in zip(*np.nonzero(~seen), strict=True):
        distance = (ys - y) ** 2 + (xs - at) ** 2
        nearest = np.flatnonzero(distance == distance.min())
        assert any((filled[y, at] == x[ys[k], xs[k]]).all() for k in nearest)
    hidden = np.where(seen[..., None], x, 77)
    np.testing.assert_array_equal(without_hidden_colours(hidden, alpha), filled)


def test_a_large_picture_is_filled_band_by_band(monkeypatch):
    monkeypatch.setattr("nsrlib.pictures.BAND", 8 * 64 * 20)  # bands of 64 rows
    x, alpha = levels(400, 20, 3), np.zeros((400, 20), np.uint8)
    alpha[70:100, 5:9] = 255
    filled = without_hidden_colours(x, alpha)
    np.testing.assert_array_equal(filled[40:130], without_hidden_colours(x[40:130], alpha[40:130]))
    assert (filled[300:] == np.round(x[70:100, 5:9].mean((0, 1)))).all()


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


def test_a_size_that_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^x\.jpg: JPEG has at most 65535 pixels a side, not 70000; take \.png"):
        write_picture(tmp_path / "x.jpg", np.zeros((1, 70000), np.uint8))
    with pytest.raises(ValueError, match="WEBP has at most 16383 pixels a side"):
        check_target(tmp_path / "x.webp", size=(16384, 9))


def test_a_file_that_exists_is_replaced_only_where_that_is_allowed(tmp_path):
    (path := tmp_path / "x.png").write_bytes(b"a photograph")
    with pytest.raises(FileExistsError, match=r"x\.png exists; give another name, or say that it may be replaced"):
        check_target(path, replace=False)
    check_target(path)
