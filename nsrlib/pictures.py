"""Picture files: read without losing what can be put back, and written whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nsrlib.files import whole_file


def _open(path: str | os.PathLike):
    """Decode a file completely, or say in one line why not."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not an image") from None
    except PermissionError:
        raise PermissionError(f"no permission to read {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot decode {path}: {error}") from error
    return picture


def _wide_levels(picture, path: str | os.PathLike) -> np.ndarray | None:
    """float32 0..65535 of a gray picture of more than 8 bits, or None."""
    if not picture.mode.startswith(("I", "F")):
        return None
    levels = np.asarray(picture, dtype=np.float32)
    if not 0 <= levels.min() <= levels.max() <= 65535:
        raise ValueError(f"cannot use {path}: values {levels.min():g}..{levels.max():g}, expected 0..65535")
    return levels


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read a picture as ``uint8`` RGB ``(H, W, 3)``; gray becomes three equal channels, alpha is dropped.

    Raises:
        FileNotFoundError, PermissionError, ValueError: no image, or truncated; the message names the file.

    Example:
        >>> write_picture("gray.png", np.full((2, 3), 7, np.uint8))
        >>> read_image("gray.png").shape
        (2, 3, 3)
    """
    picture = _open(path)
    levels = _wide_levels(picture, path)  # Pillow alone would clip 16-bit gray to white
    if levels is None:
        return np.array(picture.convert("RGB"))
    return np.repeat(np.round(levels / 257).astype(np.uint8)[..., None], 3, 2)


@dataclass(frozen=True)
class Picture:
    """A user's picture, decoded without losing what :func:`write_picture` can put back."""

    rgb: np.ndarray  # float32 (H, W, 3) in [0, 1], upright (EXIF orientation applied)
    alpha: np.ndarray | None  # float32 (H, W) in [0, 1]
    gray: bool  # the file has no colour; the three channels are equal
    bits: int  # 8 or 16 per channel
    icc: bytes | None  # colour profile
    notes: tuple[str, ...] = ()  # what could not be kept, in words


def read_picture(path: str | os.PathLike) -> Picture:
    """Read any picture that Pillow knows: gray, palette, RGBA, CMYK, 16-bit gray, EXIF orientation.

    Errors as :func:`read_image`.

    Example:
        >>> write_picture("deep.tif", np.full((2, 3), 1000, np.uint16))
        >>> picture = read_picture("deep.tif")
        >>> picture.bits, picture.gray, picture.rgb.shape
        (16, True, (2, 3, 3))
    """
    from PIL import Image, ImageOps

    picture = _open(path)
    icc = picture.info.get("icc_profile")
    notes = []
    with Image.open(path) as header:  # only the raw mode of an undecoded file tells that Pillow cuts colours to 8 bits
        raw_modes = [str(tile[3]) for tile in getattr(header, "tile", [])]
        deep = header.mode in ("RGB", "RGBA", "LA") and any(";16" in mode for mode in raw_modes)
    if deep:
        notes.append("16-bit colour was read as 8 bits per channel")
    if getattr(picture, "n_frames", 1) > 1:
        notes.append(f"only the first of {picture.n_frames} frames was read")
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        icc = None
        notes.append(f"{picture.mode} was converted to RGB")
    picture = ImageOps.exif_transpose(picture)
    gray = _wide_levels(picture, path)
    if gray is not None:
        return Picture(np.repeat(gray[..., None] / 65535, 3, 2), None, True, 16, icc, tuple(notes))
    has_alpha = picture.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in picture.info
    is_gray = picture.mode in ("1", "L", "LA", "La")
    planes = np.asarray(picture.convert("RGBA" if has_alpha else "RGB"), dtype=np.float32) / 255
    alpha = np.ascontiguousarray(planes[..., 3]) if has_alpha else None
    return Picture(np.ascontiguousarray(planes[..., :3]), alpha, is_gray, 8, icc, tuple(notes))


def check_target(path: str | os.PathLike) -> None:
    """Raise what :func:`write_picture` would raise after the work: no image format, no such folder, no permission."""
    from PIL import Image

    path = Path(path)
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"cannot tell the image format of {path.name!r}; use a suffix such as .png, .jpg or .tif")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"no permission to write in {path.parent}")


def write_picture(
    path: str | os.PathLike, levels: np.ndarray, *, alpha: np.ndarray | None = None, icc: bytes | None = None
) -> None:
    """Write a picture; a half-written file never bears the final name. The suffix chooses the format.

    Args:
        levels: ``uint8`` ``(H, W, 1 or 3)``, or ``uint16`` ``(H, W, 1)``; also ``(H, W)``.
        alpha: float ``(H, W)`` in [0, 1], for ``uint8`` only.
        icc: colour profile to embed.

    Raises:
        ValueError, OSError: as :func:`check_target`; or the format cannot hold the picture.

    Example:
        >>> write_picture("white.png", np.full((2, 3, 3), 255, np.uint8))
        >>> int(read_image("white.png").min())
        255
    """
    from PIL import Image

    check_target(path)
    path = Path(path)
    planes = np.atleast_3d(levels)
    if alpha is not None:
        planes = np.concatenate([planes, np.round(alpha * 255).astype(np.uint8)[..., None]], 2)
    image = Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    form = Image.registered_extensions()[path.suffix.lower()]
    if levels.dtype == np.uint16 and form not in ("PNG", "TIFF", "JPEG2000", "PPM"):  # others clip it to white
        raise ValueError(f"{form} cannot hold 16 bits per channel; try .png or .tif")
    options: dict[str, Any] = {"icc_profile": icc} if icc else {}
    if form == "JPEG":
        options |= {"quality": 95, "subsampling": "4:4:4"}
    try:
        with whole_file(path) as draft:
            image.save(draft, format=form, **options)
    except OSError as error:
        if "cannot write mode" in str(error):
            raise ValueError(f"{form} cannot hold this picture ({error}); try .png or .tif") from None
        message = f"cannot write {path}: {error.strerror or error}"
        raise (OSError(error.errno, message) if error.errno else OSError(message)) from error
