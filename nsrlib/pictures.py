"""Picture files: one reader and one writer. What is changed or lost on the way is said; nothing is half written.

A file's pixels are *levels*, ``uint8`` or ``uint16`` ``(H, W, 1 or 3)``, where the type's largest value is white.
"""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nsrlib.files import one_line, whole_file

_AVIF = ("AVIF",) if find_spec("PIL.AvifImagePlugin") else ()  # Pillow has it from 11.3
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", *_AVIF, "TGA")
"""Pillow's names of all formats that are read. Every other one, such as EPS, may start programs or is rarely tested."""

SUFFIXES = frozenset(
    f".{word}"
    for word in (
        *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "bmp", "gif", "ppm", "pgm", "pbm", "pnm", "tif", "tiff"),
        *("webp", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "tga", *(("avif", "avifs") if _AVIF else ())),
    )
)
"""Suffixes, in small letters, of the files in a folder that are taken for pictures."""

MOST_PIXELS = 178_956_970
"""Pixels of the largest picture that is read where nobody asked for this very file: in data sets and on pages."""

BAND = 2**24
"""Pixels that are converted at a time."""


@dataclass(frozen=True)
class _Target:
    """What a format of :func:`write_picture` can hold."""

    form: str  # Pillow's name
    alpha: bool
    wide: bool  # 16-bit gray
    keeps: frozenset[str]
    side: int = 2**31 - 1  # longest
    options: dict[str, Any] = field(default_factory=dict)


_ALL = frozenset({"profile", "resolution", "EXIF"})
_JPEG = _Target("JPEG", False, False, _ALL, 65535, {"quality": 100, "subsampling": "4:4:4"})
_TIFF = _Target("TIFF", True, True, _ALL)
_PPM = _Target("PPM", False, True, frozenset())
_TARGETS = {
    ".png": _Target("PNG", True, True, _ALL | {"gamma", "text"}),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".webp": _Target("WEBP", True, False, _ALL - {"resolution"}, 16383, {"lossless": True, "exact": True}),
    ".jp2": _Target("JPEG2000", True, True, frozenset()),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".bmp": _Target("BMP", False, False, frozenset({"resolution"})),
    ".ppm": _PPM,
    ".pgm": _PPM,
}
if _AVIF:
    _TARGETS[".avif"] = _Target(
        "AVIF", True, False, _ALL - {"resolution"}, 65536, {"quality": 100, "subsampling": "4:4:4"}
    )


@dataclass(frozen=True)
class Picture:
    """A decoded file, upright as its EXIF orientation wants it."""

    levels: np.ndarray  # uint8 or uint16 (H, W, 1 or 3)
    alpha: np.ndarray | None = None  # uint8 (H, W)
    icc: bytes | None = None  # colour profile
    dpi: tuple[float, float] | None = None  # horizontal, vertical
    exif: bytes | None = None  # without orientation, sizes, thumbnails and a camera maker's own
    gamma: float | None = None  # exponent of a PNG
    text: dict[str, str] = field(default_factory=dict)  # of a PNG: Author, Copyright, ...
    turned: bool = False  # the file was not stored upright
    notes: tuple[str, ...] = ()  # what was changed in the pixels or guessed, in words
    lost: tuple[str, ...] = ()  # names of what was left out beside the pixels

    @property
    def gray(self) -> bool:
        """Whether the file has no colour."""
        return self.levels.shape[2] == 1

    @property
    def bits(self) -> int:
        """8 or 16 per channel."""
        return 8 * self.levels.itemsize

    @cached_property
    def rgb(self) -> np.ndarray:
        """float32 ``(H, W, 3)`` in [0, 1]; gray as three equal channels. Twelve bytes a pixel."""
        rgb = self.levels.astype(np.float32) / (2**self.bits - 1)
        return np.repeat(rgb, 3, 2) if self.gray else rgb

    @property
    def eight_bits(self) -> np.ndarray:
        """``uint8`` ``(H, W)`` if gray, else ``(H, W, 3)``; 16 bits are rounded."""
        levels = self.levels if self.bits == 8 else np.round(self.levels.astype(np.float32) / 257).astype(np.uint8)
        return levels[..., 0] if self.gray else levels

    @property
    def rgb_u8(self) -> np.ndarray:
        """``uint8`` ``(H, W, 3)``, as :attr:`eight_bits`; gray as three equal channels."""
        return np.stack([self.eight_bits] * 3, -1) if self.gray else self.eight_bits


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The colours of :func:`read_picture` as ``uint8`` RGB ``(H, W, 3)``; gray becomes three equal channels.

    Example:
        >>> write_picture("gray.png", np.full((2, 3), 7, np.uint8))
        ()
        >>> read_image("gray.png").shape
        (2, 3, 3)
    """
    return read_picture(path).rgb_u8


def read_picture(path: str | os.PathLike, most_pixels: int | None = MOST_PIXELS) -> Picture:
    """Read a picture of any of :data:`FORMATS`: gray, palette, RGBA, CMYK, 16 bits, whole numbers, floating point.

    What white is, a gray file of more than 8 bits says by its type, its bits per sample or its ``MaxSampleValue``.
    Where it does not, the largest value decides (1, 255 or 65535) and a note says so.

    Args:
        most_pixels: a larger picture is refused; None: any size, for a file that somebody named.

    Raises:
        FileNotFoundError, PermissionError: no such file, or no permission to read it.
        ValueError: no picture, a damaged one, too large, or values without a known range. One line that names the file.

    Example:
        >>> write_picture("deep.tif", np.full((2, 3), 5000, np.uint16))
        ()
        >>> picture = read_picture("deep.tif")
        >>> picture.bits, picture.gray, picture.levels.shape, picture.rgb.shape
        (16, True, (2, 3, 1), (2, 3, 3))
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    formats = FORMATS if path.suffix.lower() == ".tga" else FORMATS[:-1]  # TGA has no signature: much passes for it
    try:
        with _quiet() as complaints, Image.open(path, formats=formats) as picture:
            size = picture.width * picture.height
            if most_pixels is None or size <= most_pixels:
                found = _decoded(picture)
                unsound = tuple(f"the file is not sound ({text})" for text in dict.fromkeys(map(_text, complaints)))
                return replace(found, notes=unsound + found.notes)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not an image") from None
    except PermissionError:
        raise PermissionError(f"no permission to read {path}") from None
    except UnidentifiedImageError:
        raise ValueError(f"cannot decode {path}: {_unknown(path, formats)}") from None
    except _RangeError as error:
        raise ValueError(f"cannot use {path}: {error}") from None
    except Exception as error:  # decoders of damaged files raise anything, IndexError and RuntimeError among them
        raise ValueError(f"cannot decode {path}: {one_line(str(error)) or type(error).__name__}") from error
    raise ValueError(f"{path} has {size:,} pixels; more than {most_pixels:,} are read only of a file to upscale")


_decoding = threading.Lock()  # Pillow's limit and Python's filter of warnings are the process's


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Pillow's warnings in a list, and no limit of its own."""
    from PIL import Image

    with _decoding, warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield complaints
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _text(complaint: warnings.WarningMessage) -> str:
    return one_line(str(complaint.message), 100).rstrip(".")


def _unknown(path: Path, formats: tuple[str, ...]) -> str:
    """Why no decoder took a file."""
    from PIL import Image

    with path.open("rb") as file:
        start = file.read(16)
    for form in formats:
        accept = Image.OPEN[form][1] if form in Image.OPEN else None
        if accept and accept(start):
            return f"a damaged {form}, or one whose kind of pixels is not read"
    return f"no picture of a format that is read ({', '.join(FORMATS)})"


def _decoded(picture: Any) -> Picture:
    notes: list[str] = []
    raw = [tile[3] for tile in getattr(picture, "tile", [])]  # only an undecoded file tells how its pixels are stored
    try:
        frames = getattr(picture, "n_frames", 1)
    except Exception:  # a later frame is damaged
        frames = "several"
    picture.load()
    if frames != 1:
        notes.append(f"only the first of {frames} frames was read")
    if picture.mode in ("RGB", "RGBA", "LA") and any(_is_wide(picture, mode) for mode in raw):
        notes.append("16-bit colour was read as 8 bits per channel")
    alpha = None
    if picture.mode.startswith(("I", "F")):
        levels = _wide_levels(picture, any(";32" in str(mode) or ";16S" in str(mode) for mode in raw), notes)[..., None]
        if "transparency" in picture.info:
            notes.append("the transparent level of 16-bit gray was not kept")
    else:
        levels, alpha = _narrow_levels(picture, "LA;16B" in raw, notes)
    exif, info, lost = picture.getexif(), picture.info, []  # after load, which turns TIFF pictures upright
    turn = _TURNS.get(exif.get(0x0112), lambda x: x)
    for name, keys in (("XMP", ("xmp", "XML:com.adobe.xmp")), ("IPTC", ("photoshop",)), ("comment", ("comment",))):
        lost += [name] * any(key in info for key in keys)
    if "chromaticity" in info and not np.allclose(info["chromaticity"], _SRGB, atol=1e-3):
        lost.append("primaries")
    return Picture(
        np.ascontiguousarray(turn(levels)),
        None if alpha is None else np.ascontiguousarray(turn(alpha)),
        info.get("icc_profile") if picture.mode not in _CONVERTED else None,
        _dpi(picture, exif),
        _kept_exif(exif, lost),
        info.get("gamma") if isinstance(info.get("gamma"), float) else None,
        {k: str(v) for k, v in getattr(picture, "text", {}).items() if "xmp" not in k and k[:11] != "Raw profile"},
        exif.get(0x0112) in _TURNS,
        tuple(notes),
        tuple(lost),
    )


def _is_wide(picture: Any, raw: Any) -> bool:
    """Whether colours are stored in more than the 8 bits that Pillow keeps of them."""
    return ";16" in str(raw) or (picture.format == "PPM" and isinstance(raw, tuple) and raw[-1] > 255)


_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_CONVERTED = ("CMYK", "YCbCr", "LAB", "HSV")
_TURNS = {  # EXIF orientation -> upright
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


def _narrow_levels(picture: Any, gray: bool, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels and alpha of a picture that Pillow has in 8 bits; ``gray``: the file is, whatever Pillow made of it."""
    if picture.mode in _CONVERTED:
        notes.append(f"{picture.mode} was converted to RGB")
    if picture.mode == "L" and _tag(picture, 339) == 2:
        raise _RangeError("its 8-bit samples have a sign; store whole numbers 0..255 without one")
    has_alpha = picture.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in picture.info
    gray = gray or picture.mode in ("1", "L", "LA", "La")
    planes = _planes(picture, ("L" if gray else "RGB") + "A" * has_alpha)
    if not has_alpha:
        return np.atleast_3d(planes), None
    return planes[..., :-1], planes[..., -1]


def _planes(picture: Any, mode: str) -> np.ndarray:
    """The pixels in another of Pillow's modes; large pictures are converted band by band."""
    w, h = picture.size
    step = max(1, BAND // w)
    if h <= step:
        return np.array(picture if picture.mode == mode else picture.convert(mode))
    planes = np.empty((h, w, len(mode)) if len(mode) > 1 else (h, w), np.uint8)
    for top in range(0, h, step):
        planes[top : top + step] = np.asarray(picture.crop((0, top, w, min(top + step, h))).convert(mode))
    return planes


class _RangeError(ValueError):
    """Values whose range is not known."""


def _wide_levels(picture: Any, guess: bool, notes: list[str]) -> np.ndarray:
    """``uint16`` of a gray picture of more than 8 bits; ``guess``: its type does not say what white is."""
    values = np.asarray(picture)
    if not np.isfinite(values).all():
        raise _RangeError("it holds NaN or infinite values; store finite ones")
    low, high = values.min(), values.max()
    floating = values.dtype.kind == "f"
    white = _declared_white(picture, floating)
    if white is None and (floating or guess):
        white = 1 if floating and high <= 1 else 255 if (32 if floating else 0) <= high <= 255 else 65535
        if white != 1:
            kind = "floating-point values" if floating else f"{8 * values.itemsize}-bit whole numbers"
            notes.append(f"its {kind} {low:g}..{high:g} were read as 0..{white}: the file does not say what white is")
    white = white or 65535
    if low < 0 or high > white or (floating and white == 65535 and high < 32):
        known = "0..1, 0..255 or 0..65535" if floating or guess else f"0..{white}"
        raise _RangeError(f"values {low:.10g}..{high:.10g}, expected {known}; scale them, or store 8 or 16 bits")
    if white == 65535 and 0 < high < 4096:
        notes.append(
            f"its brightest level is {high:g} of 65535: if the file holds fewer bits, scale it, it is too dark"
        )
    top = 255 if white == 255 and not floating else 65535
    levels = values if white == top else np.round(values * np.float64(top / white))
    levels = levels.astype(np.uint8 if top == 255 else np.uint16)
    return top - levels if _tag(picture, 262) == 0 else levels  # WhiteIsZero, which Pillow leaves as it is


def _declared_white(picture: Any, floating: bool) -> int | None:
    """White as the tags of a TIFF have it. ``MaxSampleValue`` may be a mere statistic: only 2^n - 1 is believed."""
    largest = _tag(picture, 341) or _tag(picture, 281)
    if largest == 1 and floating:
        return 1
    if isinstance(largest, int | float) and largest in {2**n - 1 for n in range(8, 17)}:
        return int(largest)
    bits = _tag(picture, 258)
    return 2**bits - 1 if bits in range(9, 16) else None


def _tag(picture: Any, number: int) -> Any:
    """A tag of a TIFF, the first value where it has several; None for other files."""
    value = getattr(picture, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value


def _dpi(picture: Any, exif: Any) -> tuple[float, float] | None:
    found = picture.info.get("dpi")
    if picture.format in ("JPEG", "MPO") and picture.info.get("jfif_unit") not in (1, 2) and 0x011A not in exif:
        return None  # Pillow's own 72
    try:
        x, y = (float(v) for v in found)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e5 and 0 < y < 1e5 else None


# Description, make, model, date, artist, white point, primaries, copyright; colour space and comment, which some
# programs leave in the wrong place.
_EXIF_KEPT = (270, 271, 272, 306, 315, 318, 319, 33432, 40961, 37510)
_EXIF_LEFT = (37500, 40962, 40963, 40965)  # a camera maker's own, the old size, a pointer


def _kept_exif(exif: Any, lost: list[str]) -> bytes | None:
    """What a larger, upright copy of a picture may say, too."""
    from PIL import Image

    if not len(exif):
        return None
    kept = Image.Exif()
    try:
        for tag in _EXIF_KEPT:
            if tag in exif:
                kept[tag] = exif[tag]
        if re.match(r"[{<]|ImageJ", str(kept.get(270, ""))):  # tells programs how this very file is laid out
            del kept[270]
            lost.append("description")
        for group in (0x8769, 0x8825):  # the camera's settings; the place
            inner = {tag: value for tag, value in exif.get_ifd(group).items() if tag not in _EXIF_LEFT}
            if inner:
                kept[group] = inner
        return kept.tobytes() if len(kept) else None
    except Exception:  # damaged
        lost.append("EXIF")
        return None


def quantised(values: np.ndarray, bits: int = 8) -> np.ndarray:
    """Floating-point values in [0, 1] as levels of 8 or 16 bits: clipped, and rounded half to even.

    Raises:
        ValueError: NaN, infinite values, or none of floating point.

    Example:
        >>> quantised(np.array([-0.1, 0.2, 1.3]))
        array([  0,  51, 255], dtype=uint8)
    """
    if values.dtype.kind != "f":
        raise ValueError(f"the picture holds {values.dtype}, not floating-point values; are the weights sound?")
    if not np.isfinite(values).all():
        raise ValueError("the picture holds NaN or infinite values; are the weights sound?")
    levels = np.clip(values, 0, 1)
    levels *= 2**bits - 1
    return np.rint(levels, out=levels).astype(np.uint8 if bits == 8 else np.uint16)


def without_hidden_colours(levels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Levels ``(H, W, C)`` where pixels of alpha 0 have the colour of the nearest other one.

    What a network or an interpolation sees there would come to light at the rim. Pixels far from all others have their
    mean colour.

    Example:
        >>> without_hidden_colours(np.array([[[9], [0], [0]]], np.uint8), np.array([[255, 1, 0]])).ravel()
        array([9, 0, 0], dtype=uint8)
    """
    from scipy.ndimage import distance_transform_edt

    seen = alpha > 0
    if seen.all() or not seen.any():
        return levels
    filled, far = levels.copy(), 64  # rows
    mean = np.round(levels.mean((0, 1), where=seen[..., None])).astype(levels.dtype)
    step = max(far, BAND // 8 // alpha.shape[1])
    for top in range(0, len(alpha), step):
        first = max(top - far, 0)
        near, rows = seen[first : top + step + far], slice(top - first, top - first + step)
        if not near.any():
            filled[top : top + step] = mean
        elif not near[rows].all():
            y, x = distance_transform_edt(~near, return_distances=False, return_indices=True)
            filled[top : top + step] = levels[first : top + step + far][y[rows], x[rows]]
    return filled


def check_target(
    path: str | os.PathLike,
    *,
    alpha: bool = False,
    bits: int = 8,
    size: tuple[int, int] = (1, 1),
    replace: bool = True,
) -> None:
    """Raise what :func:`write_picture` would raise after the work.

    Args:
        alpha, bits, size: what is to be written; ``size`` is (height, width).
        replace: whether a file that exists may be replaced.

    Raises:
        ValueError: a suffix that is not written, or a format that cannot hold the picture.
        FileNotFoundError, PermissionError: no such folder, or no permission to write in it.
        FileExistsError: the file exists and ``replace`` is False.

    Example:
        >>> check_target("photo.jpg", alpha=True)
        Traceback (most recent call last):
        ValueError: photo.jpg: JPEG cannot hold transparency; take .avif, .jp2, .png, .tif, .tiff or .webp
    """
    path = Path(path)
    target = _TARGETS.get(path.suffix.lower())
    if target is None:
        raise ValueError(
            f"{path.name}: pictures are not written as {path.suffix or 'files without a suffix'!r}; {_take()}"
        )
    if alpha and not target.alpha:
        raise ValueError(f"{path.name}: {target.form} cannot hold transparency; {_take(alpha=True)}")
    if bits > 8 and not target.wide:
        raise ValueError(f"{path.name}: {target.form} cannot hold 16 bits per channel; {_take(wide=True)}")
    if max(size) > target.side:
        raise ValueError(
            f"{path.name}: {target.form} has at most {target.side} pixels a side, not {max(size)}; take .png"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"no permission to write in {path.parent}")
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    if not replace and os.path.lexists(path):
        raise FileExistsError(f"{path} exists; give another name, or say that it may be replaced (force)")


def _take(**needs: bool) -> str:
    *most, last = sorted(suffix for suffix, t in _TARGETS.items() if all(getattr(t, need) for need in needs))
    return f"take {', '.join(most)} or {last}"


def write_picture(
    path: str | os.PathLike,
    levels: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    icc: bytes | None = None,
    like: Picture | None = None,
) -> tuple[str, ...]:
    """Write a picture without loss, as JPEG or AVIF at their best quality. The suffix chooses the format.

    A half-written file never bears the final name.

    Args:
        levels: ``uint8`` ``(H, W, 1 or 3)``, or ``uint16`` ``(H, W, 1)``; also ``(H, W)``.
        alpha: ``uint8`` ``(H, W)``, beside ``uint8`` levels.
        icc: colour profile to embed.
        like: a picture whose profile, resolution, EXIF data, gamma and texts are written as far as the format has them.

    Returns:
        What of ``like`` could not be kept, in words.

    Raises:
        ValueError, OSError: as :func:`check_target`; or a disk that is full.

    Example:
        >>> write_picture("white.png", np.full((2, 3, 3), 255, np.uint8), like=Picture(None, dpi=(300, 300)))
        ()
        >>> read_picture("white.png").dpi
        (299.9994, 299.9994)
    """
    from PIL import Image

    path, planes = Path(path), np.atleast_3d(levels)
    if planes.dtype not in (np.uint8, np.uint16) or planes.shape[2:] not in ((1,), (3,)[: planes.itemsize == 1]):
        raise ValueError(f"levels must be uint8 (H, W, 1 or 3) or uint16 (H, W, 1), got {levels.dtype} {levels.shape}")
    if alpha is not None and (alpha.dtype, planes.dtype) != (np.uint8, np.uint8):
        raise ValueError(f"alpha must be uint8 beside uint8 levels, got {alpha.dtype} beside {levels.dtype}")
    check_target(path, alpha=alpha is not None, bits=8 * planes.itemsize, size=planes.shape[:2])
    target = _TARGETS[path.suffix.lower()]
    if alpha is not None:
        planes = np.concatenate([planes, alpha[..., None]], 2)
    options, lost = _metadata(target, like or Picture(planes, icc=icc))
    if target.form == "TIFF" and planes.nbytes > 4e9:
        options["big_tiff"] = True
    image = Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    try:
        with whole_file(path) as draft:
            image.save(draft, format=target.form, **target.options, **options)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise (OSError(error.errno, message) if error.errno else OSError(message)) from error
    except Exception as error:  # encoders, as decoders, raise anything
        raise ValueError(f"cannot write {path}: {one_line(str(error)) or type(error).__name__}") from error
    return (f"not kept: {', '.join(lost)}",) if lost else ()


def _metadata(target: _Target, like: Picture) -> tuple[dict[str, Any], list[str]]:
    """Pillow's options that write what a format keeps, and the names of what it does not keep."""
    from PIL.PngImagePlugin import PngInfo

    default = like.gamma is None or abs(like.gamma - 1 / 2.2) < 1e-3  # of all formats
    held = {
        "profile": ("icc_profile", like.icc),
        "resolution": ("dpi", like.dpi),
        "EXIF": ("exif", like.exif),
        "gamma": ("pnginfo", like.gamma and (target.form == "PNG" or not default)),
        "text": ("pnginfo", like.text),
    }
    options: dict[str, Any] = {
        option: value for name, (option, value) in held.items() if value and name in target.keeps
    }
    if "pnginfo" in options:
        options["pnginfo"] = info = PngInfo()
        for key, value in like.text.items():
            info.add_itxt(key, value)
        if like.gamma:
            info.add(b"gAMA", struct.pack(">I", round(like.gamma * 1e5)))
    good = {option: value for option, value in options.items() if _can_be_written(target, option, value)}
    return good, [*like.lost, *(name for name, (option, value) in held.items() if value and option not in good)]


def _can_be_written(target: _Target, option: str, value: Any) -> bool:
    """Whether an encoder takes what a foreign file said; no picture shall be lost for it."""
    from PIL import Image

    try:
        Image.new("L", (1, 1)).save(io.BytesIO(), target.form, **target.options, **{option: value})
    except Exception:
        return False
    return True
