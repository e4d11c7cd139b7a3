"""Images as the papers use them: MATLAB's ``imresize``, studio-range luma, noise, JPEG.

Pictures are numpy ``uint8`` 0..255, ``(H, W, 3)`` RGB or ``(H, W)`` gray; network tensors are ``(N, C, H, W)`` float in
[0, 1], as are float arrays. Functions that accept both say so. :func:`levels_of` decides the range, and guesses none.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)
Border = Literal["mirror", "repeat"]
LumaRounding = Literal["none", "nearest", "matlab"]

CACHED = 2**16  # elements of a result that are made at a time: they stay in a core's second cache
FARTHEST = 16  # from 0 in a float picture: noise of sigma 255 reaches -6.5 and 7.5 in a billion pixels
DEEP = 2**17  # above all levels, those of 16 bits too


def levels_of(img: np.ndarray | Tensor, name: str = "img") -> int:
    """The white of a picture: 255 for ``uint8``, 1 for float. What is neither 0..255 nor [0, 1] is refused.

    A float picture means [0, 1]; noise and the results of networks may leave it. It is refused if a value is NaN,
    infinite or beyond -16..16, or if all values are whole and one is beyond -1..1: these are levels of 0..255 or more.

    This cannot be told, and is taken for [0, 1]: levels of 0..255 none of which is above 16 and not all of which are
    whole (a nearly black photograph), whole zeros and ones, [-1, 1]. A ``uint8`` array of zeros and ones is black.

    Values are not looked at while a graph is traced; elsewhere the question waits for the device.

    Args:
        img: array or tensor of any shape.
        name: what messages call it.

    Raises:
        TypeError: any other type: bool, other integers, complex, object, a masked array, a list.
        ValueError: a float picture as above, with its range, the likely cause and the cure.

    Example:
        >>> levels_of(np.zeros((2, 2), np.uint8)), levels_of(torch.rand(3, 2, 2))
        (255, 1)
        >>> levels_of(np.array([[0.5, 254]]))
        Traceback (most recent call last):
        ValueError: img is float with values from 0.5 to 254, not [0, 1]: levels of 0..255? Divide by 255, or give uint8
    """
    if _is_uint8(img, name):
        return 255
    if torch.compiler.is_compiling() or 0 in img.shape:
        return 1
    ends = np.array([img.min(), img.max()]) if isinstance(img, np.ndarray) else torch.stack(img.detach().aminmax())
    low, high = ends.tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} holds NaN or infinite values")
    far = max(-low, high)
    whole = far > 1 and low % 1 == high % 1 == 0 and not (img % 1).any()  # the ends first: it is slow
    if whole or far > FARTHEST:
        cause = "levels of 0..255? Divide by 255, or give uint8"
        if far > 2 * 255:
            cause = "levels of more than 8 bit? Divide by their white, such as 65535"
        if far > DEEP:
            cause = "what an untrained network answers? It is no picture"
        values = "whole values" if whole else "values"
        raise ValueError(f"{name} is float with {values} from {low:g} to {high:g}, not [0, 1]: {cause}")
    return 1


def _is_uint8(img: Any, name: str, wanted: str = "uint8 (0..255) or float ([0, 1])") -> bool:
    """Whether it is ``uint8`` and not float; all else is refused. Looks at no value, so that it can be traced."""
    if isinstance(img, Tensor):
        known = img.dtype == torch.uint8 or (img.is_floating_point() and img.dtype.itemsize > 1)
    else:
        array = isinstance(img, np.ndarray) and not isinstance(img, np.ma.MaskedArray)
        known = array and img.dtype.name in ("uint8", "float16", "float32", "float64")
    if not known:
        raise TypeError(f"{name} must be {wanted}, got {_described(img)}")
    return bool(img.dtype == (torch.uint8 if isinstance(img, Tensor) else np.uint8))


def _described(img: Any) -> str:
    """What is no picture, and how it becomes one."""
    if isinstance(img, np.ma.MaskedArray):
        return "a masked array: fill it, as img.filled(0) does"
    if not isinstance(img, np.ndarray | Tensor):
        return f"{type(img).__name__}: give a numpy array or a tensor"
    kind = str(img.dtype).removeprefix("torch.")
    cure = "convert it to float32 in [0, 1]"
    if kind == "bool":
        cure = "convert it to uint8 and multiply it by 255"
    elif "int" in kind:
        cure = "convert it to uint8 if it holds 0..255, else divide it by its white, such as 65535"
    return f"{kind}: {cure}"


def _native(img: np.ndarray) -> Tensor:
    """A copy: torch takes neither negative strides nor the other byte order."""
    return torch.from_numpy(np.array(img, img.dtype.newbyteorder("="), order="C"))


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, as in MATLAB's ``imresize`` (support -2..2)."""
    a = x.abs()
    inner = (1.5 * a - 2.5) * a * a + 1.0
    outer = ((-0.5 * a + 2.5) * a - 4.0) * a + 2.0
    return inner * (a <= 1) + outer * ((a > 1) & (a <= 2))


def _taps(n_in: int, n_out: int, scale: float, antialias: bool, border: Border) -> tuple[Tensor, Tensor]:
    """Weights (float64) and source indices of one axis, both ``(taps, n_out)``; sizes may be symbolic."""
    stretch = min(scale, 1.0) if antialias else 1.0
    width = 4.0 / stretch
    centre = torch.arange(1, n_out + 1, dtype=torch.float64) / scale + 0.5 * (1 - 1 / scale)  # MATLAB counts from 1
    index = (centre - width / 2).floor() + torch.arange(math.ceil(width) + 2)[:, None]
    weight = stretch * _cubic(stretch * (centre - index))
    weight = weight / reduce(torch.add, weight)
    index = index.long() - 1
    if border == "mirror":  # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
        index = index % (2 * n_in)
        return weight, torch.minimum(index, 2 * n_in - 1 - index)
    return weight, index.clamp(0, n_in - 1)


@lru_cache(maxsize=256)
def _used_taps(n_in: int, n_out: int, scale: float, antialias: bool, border: Border) -> tuple[Tensor, Tensor]:
    weight, index = _taps(n_in, n_out, scale, antialias, border)
    used = (weight != 0).any(1)
    return weight[used], index[used]


def _resize_axis(x: Tensor, axis: int, n_out: int, scale: float, antialias: bool, border: Border) -> Tensor:
    traced = torch.compiler.is_compiling()  # torch.export, too: sizes are symbols, which no cache can hold
    taps = (_taps if traced else _used_taps)(x.shape[axis], n_out, scale, antialias, border)
    weight, index = taps[0].to(x.device, x.dtype)[..., None], taps[1].to(x.device)
    first = x.movedim(axis, 0)
    rows = first.flatten(1)
    # MATLAB adds tap by tap; a matrix product would add in another order and flip exact ties of the rounding.
    if traced or (x.requires_grad and torch.is_grad_enabled()):
        out = reduce(torch.add, (rows[i] * w for i, w in zip(index, weight, strict=True)))
    else:
        out = rows.new_empty(n_out, rows.shape[1])
        step = max(1, CACHED // rows.shape[1]) if x.device.type == "cpu" else n_out
        spare = torch.empty_like(out[:step])
        for a in range(0, n_out, step):
            y = out[a : a + step]
            some, part = slice(a, a + step), spare[: len(y)]
            torch.index_select(rows, 0, index[0, some], out=y).mul_(weight[0, some])
            for i, w in zip(index[1:, some], weight[1:, some], strict=True):
                y += torch.index_select(rows, 0, i, out=part).mul_(w)
    return out.unflatten(1, first.shape[1:]).movedim(0, axis)


def imresize(
    img: Array,
    scale: float | tuple[float, float] | None = None,
    size: tuple[int, int] | None = None,
    *,
    border: Border = "mirror",
    round_between: bool = False,
    antialias: bool = True,
) -> Array:
    """Resize like MATLAB's ``imresize(img, scale, "bicubic")``: cubic a = -0.5, antialiased when shrinking.

    ===========================  ==========  =================  =========================================
    behaviour                    ``border``  ``round_between``  where it is met
    ===========================  ==========  =================  =========================================
    double precision (default)   mirror      False              ``imresize(im2double(x))``: papers' LR
    old MATLAB on uint8          repeat      True               LR files of SelfExSR (Set5, Set14, B100)
    newer MATLAB on uint8        mirror      True               LR files that came with SwinIR
    ===========================  ==========  =================  =========================================

    Args:
        img: numpy ``(H, W)`` or ``(H, W, C)``, or tensor ``(..., H, W)`` on any device. ``uint8`` input is computed in
            float64, rounded half up and clipped to ``uint8``; float input is computed in its own dtype, 16 bits in
            float32, not clipped, and is differentiable. Float values may have any range: they are not looked at.
        scale: factor, or (vertical, horizontal) factors; the output has ``ceil(scale * side)`` pixels.
        size: output (height, width), whole numbers, instead of ``scale``.
        border: what lies beyond the edge: the mirrored image, or the edge pixel repeated.
        round_between: round to whole grey levels (of 255) between the two passes, as MATLAB does for ``uint8``.
        antialias: stretch the kernel by ``1 / scale`` when shrinking.

    Source: MATLAB documentation and files; checked bit by bit against images that MATLAB wrote.

    Example:
        >>> imresize(np.eye(8, dtype=np.uint8) * 255, 1 / 4)
        array([[60,  4],
               [ 4, 60]], dtype=uint8)
        >>> imresize(torch.zeros(1, 3, 10, 12), 2).shape
        torch.Size([1, 3, 20, 24])
    """
    if (scale is None) == (size is None):
        raise ValueError(f"give exactly one of scale and size, got scale={scale} and size={size}")
    if border not in ("mirror", "repeat"):
        raise ValueError(f"border must be 'mirror' or 'repeat', got {border!r}")
    is_u8 = _is_uint8(img, "img")
    x, axes = _as_tensor(img)
    if round_between and not is_u8:
        raise ValueError("round_between=True is MATLAB's behaviour for uint8 images, got a float image")
    if x.numel() == 0:
        raise ValueError(f"img is empty: shape {tuple(x.shape)}")
    sides = [x.shape[a] for a in axes]
    if size is not None:
        targets = _whole_sides(size)
        factors = [t / s for t, s in zip(targets, sides, strict=True)]
    else:
        factors = _factors(scale)
        # 1/3 * 9 must give 3, not 4, in floating point too; a whole factor keeps symbolic sizes simple
        targets = [int(f) * s if f == int(f) else math.ceil(f * s - 1e-9) for f, s in zip(factors, sides, strict=True)]
    if min(factors) <= 0 or min(targets) < 1:
        raise ValueError(f"cannot resize {sides[0]}x{sides[1]} to {targets[0]}x{targets[1]}: sizes must be positive")

    # sums of 16 bit numbers would be off by whole levels
    y = x.double() if is_u8 else x.to(torch.promote_types(x.dtype, torch.float32))
    first_is_rows = factors[0] <= factors[1]  # MATLAB resizes the axis with the smaller factor first
    for step in (0, 1) if first_is_rows else (1, 0):
        y = _resize_axis(y, axes[step], targets[step], factors[step], antialias, border)
        if round_between:
            y = (y + 0.5).floor().clamp_(0, 255)
    if is_u8:
        y = (y + 0.5).floor().clamp_(0, 255)
    y = y.to(x.dtype)
    return y.numpy() if isinstance(img, np.ndarray) else y


def _whole_sides(size: Any) -> list[int]:
    sides = list(size) if isinstance(size, Sequence | np.ndarray) else []
    if (
        len(sides) != 2
        or not all(isinstance(s, (int, np.integer, torch.SymInt)) for s in sides)
        or bool in map(type, sides)
    ):
        raise ValueError(f"size must be two whole numbers (height, width), got {size!r}")
    return [int(s) for s in sides]


def _factors(scale: Any) -> list[float]:
    pair = scale.tolist() if isinstance(scale, np.ndarray) else scale
    pair = list(pair) if isinstance(pair, Sequence) else [pair, pair]
    numbers = all(isinstance(f, (int, float, np.integer, np.floating)) and not isinstance(f, bool) for f in pair)
    if len(pair) != 2 or not numbers or not all(map(math.isfinite, pair)):
        raise ValueError(f"scale must be a finite factor or two of them (vertical, horizontal), got {scale!r}")
    return [float(f) for f in pair]


def _as_tensor(img: np.ndarray | Tensor) -> tuple[Tensor, tuple[int, int]]:
    """View ``img`` as a tensor and tell which axes are height and width."""
    if isinstance(img, Tensor):
        if img.ndim < 2:
            raise ValueError(f"img must have shape (..., H, W), got {tuple(img.shape)}")
        return img, (img.ndim - 2, img.ndim - 1)
    if img.ndim not in (2, 3):
        raise ValueError(f"img must have shape (H, W) or (H, W, C), got {img.shape}")
    return _native(img), (0, 1)


def modcrop(img: Array, scale: int) -> Array:
    """Cut the bottom and right so that both sides are multiples of ``scale``. Numpy ``(H, W[, C])`` or ``(..., H, W)``.

    Example:
        >>> modcrop(np.zeros((11, 14, 3)), 4).shape
        (8, 12, 3)
    """
    if scale < 1 or int(scale) != scale:
        raise ValueError(f"scale must be a positive whole number, got {scale}")
    h, w = img.shape[:2] if isinstance(img, np.ndarray) else img.shape[-2:]
    if h < scale or w < scale:
        raise ValueError(f"image of {h}x{w} is smaller than the scale {scale}")
    rows, columns = slice(h - h % scale), slice(w - w % scale)
    return img[rows, columns] if isinstance(img, np.ndarray) else img[..., rows, columns]


def luma(rgb: Array, rounding: LumaRounding = "none") -> Array:
    """Studio-range luma Y of ITU-R BT.601 (16..235), as MATLAB's ``rgb2ycbcr`` has it.

    Args:
        rgb: numpy ``(H, W, 3)`` or tensor ``(..., 3, H, W)``; ``uint8``, or float in [0, 1], see :func:`levels_of`.
        rounding: ``none``: ``16 + (65.481 R + 128.553 G + 24.966 B) / 255``; ``nearest``: that, rounded half up;
            ``matlab``: rounded half up too, but summed in the order of MATLAB's uint8 path, which decides ties.

    Returns:
        Y in grey levels, **float64 16..235** whatever the input: numpy ``(H, W)`` or tensor ``(..., H, W)``.

    Example:
        >>> luma(np.array([[[255, 255, 255], [255, 0, 0]]], np.uint8)).round(3)
        array([[235.   ,  81.481]])
    """
    levels_of(rgb, "rgb")
    if isinstance(rgb, Tensor):
        return plain_luma(rgb, rounding)
    if rgb.ndim < 3 or rgb.shape[-1] != 3:
        raise ValueError(f"rgb must have 3 channels on axis -1, got shape {rgb.shape}")
    return plain_luma(_native(rgb).movedim(-1, -3), rounding).numpy()


def plain_luma(rgb: Tensor, rounding: LumaRounding = "none") -> Tensor:
    """:func:`luma` of a tensor that is known to be ``uint8`` or in [0, 1]: no value is looked at, so that networks can
    call it without waiting for the device.

    Example:
        >>> plain_luma(torch.ones(1, 3, 1, 1))
        tensor([[[235.]]], dtype=torch.float64)
    """
    if rounding not in ("none", "nearest", "matlab"):
        raise ValueError(f"rounding must be 'none', 'nearest' or 'matlab', got {rounding!r}")
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"rgb must have 3 channels on axis -3, got shape {tuple(rgb.shape)}")
    r, g, b = (rgb.double() * (1.0 if rgb.dtype == torch.uint8 else 255.0)).unbind(-3)
    if rounding == "matlab":
        k = 1 / 255
        return (65.481 * k * r + 128.553 * k * g + 24.966 * k * b + 16 + 0.5).floor()
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    return y if rounding == "none" else (y + 0.5).floor()


def interpolated_luma(plane: Array, scale: int) -> Array:
    """A luma plane, 0..1 of 255, enlarged bicubically and clamped to 16..235 of 255.

    It is what networks for luma from SRCNN to DRCN are given (``utils/compute_diff.m`` of kjw0612/rcn, 79f2bab).

    Args:
        plane: numpy ``(H, W)`` or tensor ``(..., H, W)``, float.

    Example:
        >>> (255 * interpolated_luma(np.array([[0.0, 1.0]]), 2)).round(1)
        array([[ 16. ,  51.8, 203.2, 235. ],
               [ 16. ,  51.8, 203.2, 235. ]])
    """
    return imresize(plane, scale).clip(16 / 255, 235 / 255)


def add_noise(img: Array, sigma: float, seed: int) -> Array:
    """Add white Gaussian noise of ``sigma`` grey levels (0..255 scale); not clipped, not rounded.

    The stream is numpy's ``default_rng(seed)`` on every device, so results do not depend on torch or the GPU.

    ``img`` has any shape, ``uint8`` or float in [0, 1] (:func:`levels_of`); the result is float on that scale, which
    values may leave: float64 for numpy, the tensor's dtype (float32 for uint8).

    Example:
        >>> add_noise(np.zeros(3), 25, seed=0).round(4)
        array([ 0.0123, -0.013 ,  0.0628])
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and not negative, got {sigma}")
    white = levels_of(img)
    noise = np.random.default_rng(seed).standard_normal(tuple(img.shape)) * (sigma / 255)
    if isinstance(img, np.ndarray):
        return img.astype(np.float64) / white + noise
    x = img.float() / 255 if white == 255 else img
    return x + torch.from_numpy(noise).to(x.device, x.dtype)


def jpeg(img: np.ndarray, quality: int) -> np.ndarray:
    """Compress and decompress with JPEG (Pillow, libjpeg tables, colour subsampled 4:2:0 as MATLAB's ``imwrite``).

    ``img`` is ``uint8`` ``(H, W)`` or ``(H, W, 3)``, ``quality`` 1..100.

    Example:
        >>> from skimage.data import camera
        >>> low, high = (np.abs(jpeg(camera(), quality).astype(int) - camera()).mean() for quality in (10, 90))
        >>> bool(low > 3 * high > 0)
        True
    """
    from PIL import Image

    _check_levels(img)
    if img.ndim != 2 and img.shape[2:] != (3,):
        raise ValueError(f"img must have shape (H, W) or (H, W, 3), got {img.shape}")
    check_quality(quality, "quality")
    buffer = io.BytesIO()
    Image.fromarray(img).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return np.array(Image.open(buffer, formats=["JPEG"]))


@dataclass(frozen=True)
class Degradation:
    """What a restoration network has to undo, at the picture's own size: white Gaussian noise, or JPEG.

    Everything follows from the picture, its name and these numbers, so that all networks are tested on the same input.

    Example:
        >>> print(Degradation(jpeg=30))
        JPEG of quality 30 (Pillow)
    """

    noise: float | None = None  # standard deviation in grey levels (0..255 scale), see add_noise
    # quality 1..100; papers used MATLAB's encoder: their mean PSNR of classic5 is met to 0.01 dB at qualities 10 to 40
    jpeg: int | None = None
    seed: int = 0  # of the noise

    def __post_init__(self) -> None:
        if (self.noise is None) == (self.jpeg is None):
            raise ValueError(f"give one of noise and jpeg, got noise={self.noise!r} and jpeg={self.jpeg!r}")
        number = isinstance(self.noise, int | float | np.number) and not isinstance(self.noise, bool)
        if self.noise is not None and not (number and 0 <= self.noise <= 255):
            raise ValueError(f"noise must be a standard deviation between 0 and 255, got {self.noise!r}")
        if self.jpeg is not None:
            check_quality(self.jpeg)

    def __str__(self) -> str:
        if self.jpeg is not None:
            return f"JPEG of quality {self.jpeg} (Pillow)"
        return f"Gaussian noise of sigma {self.noise:g}, not clipped, from each image's name and seed {self.seed}"

    def apply(self, img: np.ndarray, name: str = "") -> np.ndarray:
        """A ``uint8`` picture ``(H, W[, 3])`` after JPEG, ``uint8``, or with its name's noise, float64, not clipped.

        For noise the picture may be float in [0, 1], too.
        """
        if self.jpeg is not None:
            return jpeg(img, self.jpeg)
        assert self.noise is not None
        return add_noise(img, self.noise, name_seed(f"{name} {self.noise:g} {self.seed}"))


def degraded(img: np.ndarray, task: Degradation, name: str = "", device: str | torch.device = "cpu") -> Tensor:
    """A picture after its degradation as the input of a network, float32 ``(1, C, H, W)``; noise leaves [0, 1].

    Example:
        >>> degraded(np.zeros((8, 9), np.uint8), Degradation(noise=25), "black").shape
        torch.Size([1, 1, 8, 9])
    """
    picture = task.apply(img, name)
    if picture.dtype == np.uint8:
        return to_tensor(picture, device)
    return torch.from_numpy(np.atleast_3d(picture)).permute(2, 0, 1)[None].float().contiguous().to(device)


def _check_levels(img: Any) -> None:
    if not _is_uint8(img, "img", "a uint8 array (0..255)") or isinstance(img, Tensor):
        cure = "a float picture in [0, 1] becomes one by np.round(img * 255).astype(np.uint8), a tensor by to_uint8"
        raise TypeError(f"img must be a uint8 array (0..255), got {type(img).__name__} of {img.dtype}: {cure}")


def check_quality(quality: Any, name: str = "jpeg") -> None:
    """Raise a ValueError unless ``quality`` is a whole number that JPEG encoders take."""
    if not isinstance(quality, int | np.integer) or isinstance(quality, bool) or not 1 <= quality <= 100:
        raise ValueError(f"{name} must be a whole quality from 1 to 100, got {quality!r}")


def pixels_sha256(picture: np.ndarray) -> str:
    """SHA-256 of a picture's shape, dtype and pixels, by which two pictures are called bit-equal.

    With numpy alone, for a file: ``a = np.ascontiguousarray(Image.open(path))``, then
    ``hashlib.sha256(f"{a.shape} {a.dtype}".encode() + a.tobytes()).hexdigest()``.

    Example:
        >>> pixels_sha256(np.zeros((2, 3, 3), np.uint8))[:16]
        '432b587f39cd9316'
    """
    digest = hashlib.sha256(f"{picture.shape} {picture.dtype}".encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def name_seed(text: str) -> int:
    """64 bits that follow from a text, on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def to_tensor(img: np.ndarray, device: str | torch.device = "cpu") -> Tensor:
    """``uint8`` ``(H, W)`` or ``(H, W, C)`` picture -> float32 ``(1, C, H, W)`` in [0, 1].

    Example:
        >>> to_tensor(np.array([[0, 51, 255]], np.uint8))
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    _check_levels(img)
    if img.ndim not in (2, 3):
        raise ValueError(f"img must have shape (H, W) or (H, W, C), got {img.shape}")
    planes = np.array(np.atleast_3d(img), order="C")
    return torch.from_numpy(planes).to(device).permute(2, 0, 1)[None].float().contiguous() / 255


def quantise(x: Tensor) -> Tensor:
    """Float in [0, 1] -> ``uint8``, clipped and rounded half to even, as the papers' code does; ``uint8`` as it is.

    Example:
        >>> quantise(torch.tensor([-0.1, 0.2, 1.3]))
        tensor([  0,  51, 255], dtype=torch.uint8)
    """
    if x.dtype == torch.uint8:
        return x
    wide = torch.promote_types(x.dtype, torch.float32)  # products of 16 bit numbers are rounded before the rounding
    return x.detach().to(wide).clamp(0, 1).mul(255).round().to(torch.uint8)


def to_uint8(x: Tensor, *, output: bool = False) -> np.ndarray:
    """``(1, C, H, W)`` or ``(C, H, W)`` -> picture ``uint8`` ``(H, W, C)``, or ``(H, W)`` when C is 1.

    A batch ``(N, C, H, W)`` of more than one keeps its axis: ``(N, H, W, C)`` or ``(N, H, W)``. ``x`` is float in
    [0, 1], clipped and rounded half to even (:func:`quantise`), or ``uint8``.

    Args:
        output: ``x`` is what a network answered: it may have any finite values, as it does before it has learnt.

    Raises:
        ValueError, TypeError: as :func:`levels_of`; with ``output`` only NaN and infinite values.

    Example:
        >>> to_uint8(torch.tensor([[[-0.1, 0.2, 1.3]]]))
        array([[  0,  51, 255]], dtype=uint8)
        >>> to_uint8(torch.rand(8, 3, 4, 5)).shape
        (8, 4, 5, 3)
    """
    if not isinstance(x, Tensor) or x.ndim not in (3, 4):
        raise ValueError(
            f"x must be a tensor (C, H, W) or (N, C, H, W), got {type(x).__name__} {tuple(getattr(x, 'shape', ()))}"
        )
    if not output:
        levels_of(x, "the picture")
    elif not x.isfinite().all():
        raise ValueError("the picture holds NaN or infinite values; are the weights sound?")
    x = x[0] if x.ndim == 4 and len(x) == 1 else x
    planes = quantise(x).movedim(-3, -1).contiguous().cpu().numpy()
    return planes[..., 0] if planes.shape[-1] == 1 else planes
