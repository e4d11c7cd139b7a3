"""PSNR and SSIM under a :class:`Protocol` that leaves nothing implicit and is stored beside every number.

Checked against numbers that MATLAB (SelfExSR's result files) and IPOL's imdiff computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nsrlib import signatures
from nsrlib.images import LumaRounding, levels_of, plain_luma, quantise


@dataclass(frozen=True)
class Protocol:
    """Every choice between two pictures and a number.

    Example:
        >>> print(Protocol(space="rgb", crop=4))
        RGB; crop 4 px; output rounded to 8 bit; PSNR peak 255; SSIM 11x11 Gaussian, sigma 1.5, valid,
        K 0.01 0.03, L 255; mean of per-image values
        >>> Protocol(space="rgb", crop=4).signature
        'v1:rgb,crop=4'
    """

    # studio-range luma of the RGB picture; its channels together (PSNR) or averaged (SSIM); one plane as it is
    space: Literal["y", "rgb", "gray"] = "y"
    luma_rounding: LumaRounding = "none"  # see nsrlib.images.luma; only for "y"
    crop: int = 0  # pixels cut from each side, after the colour conversion
    quantise: bool = True  # clip float pictures to [0, 1] and round to 255 levels first, as an 8-bit file would
    # one channel under "y" is compared at 0..255 (MATLAB scripts); else it becomes three equal ones, and so 16..235
    gray_as_is: bool = False
    window: int = 11  # of SSIM's Gaussian
    sigma: float = 1.5
    # how a network for luma is fed: with its plane, upscaled by bicubic and clamped to 16..235; see VDSR_Y
    clamp: bool = False

    def __post_init__(self) -> None:
        if self.space not in ("y", "rgb", "gray"):
            raise ValueError(f"space must be 'y', 'rgb' or 'gray', got {self.space!r}")
        if self.luma_rounding not in ("none", "nearest", "matlab"):
            raise ValueError(f"luma_rounding must be 'none', 'nearest' or 'matlab', got {self.luma_rounding!r}")
        if self.crop < 0:
            raise ValueError(f"crop must not be negative, got {self.crop}")
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window must be odd and positive, got {self.window}")
        if self.clamp and self.space != "y":
            raise ValueError(f"clamp=True is for luma, space 'y', got {self.space!r}")

    def __str__(self) -> str:
        what = {"y": f"Y of BT.601 16..235, rounding {self.luma_rounding}", "rgb": "RGB", "gray": "gray plane"}
        parts = [
            what[self.space],
            f"crop {self.crop} px",
            "output rounded to 8 bit" if self.quantise else "output not rounded",
            "PSNR peak 255",
            f"SSIM {self.window}x{self.window} Gaussian, sigma {self.sigma:g}, valid, K 0.01 0.03, L 255",
            "mean of per-image values",
        ]
        if self.space == "y":
            parts.insert(1, "gray files " + ("as they are" if self.gray_as_is else "as three equal channels"))
        if self.clamp:
            parts.insert(2, "LR from luma, not rounded, its bicubic upscaling clamped to 16..235")
        return "; ".join(parts)

    @property
    def lr(self) -> str:
        """How LR is made for it, see :func:`nsrlib.data.load`."""
        return "luma" if self.clamp else "paper"

    @property
    def signature(self) -> str:
        """The space and every other field that differs from its default, see :mod:`nsrlib.signatures`."""
        return f"{signatures.VERSION}:{','.join([self.space, *signatures.written(self, skip='space')])}"

    @classmethod
    def parse(cls, text: str) -> Protocol:
        """The protocol of a :attr:`signature`, or of what a person types: a name of :data:`PRESETS`, then fields.

        Nothing is added to what is written: ``y`` crops nothing.

        Raises:
            ValueError: another version, an unknown name or field, or a value that does not fit; it lists what there is.

        Example:
            >>> Protocol.parse("v1:y,crop=4") == Protocol.parse("y, crop=4") == MATLAB_Y(4)
            True
            >>> Protocol.parse("selfexsr,crop=2").signature
            'v1:y,luma_rounding=matlab,crop=2,gray_as_is=yes'
        """
        name, *pairs = signatures.parts(text) or [""]
        if name not in PRESETS:
            raise ValueError(f"a protocol begins with one of {', '.join(PRESETS)}, got {text!r}")
        return replace(PRESETS[name](0), **signatures.read(cls, pairs, skip="space"))


def MATLAB_Y(crop: int = 0) -> Protocol:
    """Super-resolution papers of the BasicSR era: luma of the 8-bit RGB output, luma itself not rounded."""
    return Protocol(space="y", luma_rounding="none", crop=crop)


def SELFEXSR_Y(crop: int = 0) -> Protocol:
    """Luma rounded to whole levels as MATLAB's uint8 ``rgb2ycbcr``; gray files left alone (Huang et al. 2015)."""
    return Protocol(space="y", luma_rounding="matlab", crop=crop, gray_as_is=True)


def VDSR_Y(crop: int = 0) -> Protocol:
    """Networks for luma from SRCNN to DRCN, and the bicubic row of most later tables.

    HR's luma, rounded, is shrunk and enlarged by bicubic in double precision and clamped to 16..235, gray files too;
    that plane is the network's input, and the bicubic result. Outputs are rounded, not clamped.

    Source: ``methods/Bicubic.m``, ``methods/VDSR.m`` and ``utils/compute_diff.m`` of kjw0612/rcn, 79f2bab. With it all
    12 bicubic cells of DRCN's Table 1 on Set5 and Set14 are those printed; without the clamp 9 are.
    """
    return Protocol(space="y", luma_rounding="matlab", crop=crop, gray_as_is=True, clamp=True)


def RGB(crop: int = 0) -> Protocol:
    """All three channels together (NTIRE challenges)."""
    return Protocol(space="rgb", crop=crop)


def GRAY(crop: int = 0) -> Protocol:
    """One plane at 0..255 (denoising, JPEG artefacts)."""
    return Protocol(space="gray", crop=crop)


PRESETS: dict[str, Callable[[int], Protocol]] = {
    "y": MATLAB_Y, "selfexsr": SELFEXSR_Y, "vdsr": VDSR_Y, "rgb": RGB, "gray": GRAY,
}  # fmt: skip
"""Protocols by the names that the command line takes; each is called with the crop."""


def planes(img: np.ndarray | Tensor, protocol: Protocol) -> Tensor:
    """What is compared: float64 ``(N, C, H, W)`` in grey levels, converted and cropped as ``protocol`` says.

    ``img``: ``uint8``, or float in [0, 1]; numpy ``(H, W[, C])``, or tensor ``([N, ]C, H, W)``; C is 1 or 3. Another
    range or type is refused: :func:`nsrlib.images.levels_of`.

    Example:
        >>> planes(np.full((6, 6, 3), 255, np.uint8), MATLAB_Y(crop=2))[0, 0]
        tensor([[235., 235.],
                [235., 235.]], dtype=torch.float64)
    """
    levels_of(img)
    return _planes(img, protocol)


def _planes(img: np.ndarray | Tensor, protocol: Protocol) -> Tensor:
    if isinstance(img, np.ndarray):
        if img.ndim not in (2, 3):
            raise ValueError(f"a picture must have shape (H, W) or (H, W, C), got {img.shape}")
        native = np.array(np.atleast_3d(img), img.dtype.newbyteorder("="), order="C")
        x = torch.from_numpy(native).permute(2, 0, 1)[None]
    else:
        if img.ndim not in (3, 4):
            raise ValueError(f"a tensor must have shape (C, H, W) or (N, C, H, W), got {tuple(img.shape)}")
        x = img.detach() if img.ndim == 4 else img.detach()[None]
    channels = x.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"pictures have 1 or 3 channels, got {channels}")
    x = quantise(x) if protocol.quantise else x
    if protocol.space == "y" and not (channels == 1 and protocol.gray_as_is):
        x = plain_luma(x if channels == 3 else x.expand(-1, 3, -1, -1), protocol.luma_rounding)[:, None]
    else:
        if protocol.space == "gray" and channels == 3:
            raise ValueError("protocol.space is 'gray' but the picture has 3 channels; use 'y' or 'rgb'")
        x = x.double() if x.dtype == torch.uint8 else x.double() * 255
    c = protocol.crop
    h, w = x.shape[-2:]
    if 2 * c >= min(h, w):
        raise ValueError(f"cropping {c} pixels from each side leaves nothing of a {h}x{w} picture")
    return x[..., c : h - c, c : w - c]


def _pair(a: np.ndarray | Tensor, b: np.ndarray | Tensor, protocol: Protocol) -> tuple[Tensor, Tensor, bool]:
    levels_of(a, "a"), levels_of(b, "b")
    if tuple(a.shape) != tuple(b.shape):
        raise ValueError(f"pictures differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
    if isinstance(a, np.ndarray) != isinstance(b, np.ndarray):
        raise TypeError(f"compare two arrays or two tensors, got {type(a).__name__} and {type(b).__name__}")
    batched = isinstance(a, Tensor) and a.ndim == 4
    return _planes(a, protocol), _planes(b, protocol), batched


def psnr(a: np.ndarray | Tensor, b: np.ndarray | Tensor, protocol: Protocol | None = None) -> float | Tensor:
    """Peak signal-to-noise ratio in dB, ``10 log10(255^2 / mse)``, in float64.

    Args:
        a, b: pictures of equal shape, each ``uint8`` or float in [0, 1] for itself: numpy ``(H, W[, C])`` or tensor
            ``(C, H, W)`` -> a float, inf for equal pictures; tensor ``(N, C, H, W)`` -> float64 ``(N,)`` on the same
            device.
        protocol: default :func:`MATLAB_Y` without crop.

    Raises:
        TypeError, ValueError: another range, type or shape; :func:`nsrlib.images.levels_of` says what can be told.

    Example:
        >>> from skimage.data import astronaut
        >>> picture = astronaut()
        >>> round(psnr(picture, picture // 8 * 8 + 4, RGB()), 2)
        39.91
    """
    x, y, batched = _pair(a, b, protocol or MATLAB_Y())
    value = 10 * torch.log10(255.0**2 / (x - y).square().mean((1, 2, 3)))
    return value if batched else value.item()


def _blur(x: Tensor, size: int, sigma: float) -> Tensor:
    """Gaussian window over both axes of ``(..., H, W)``, valid region. Shifted sums: ten times faster than conv2d."""
    offset = torch.arange(size, dtype=torch.float64) - size // 2
    g = torch.exp(-(offset**2) / (2 * sigma**2))
    weights = (g / g.sum()).tolist()
    for axis in (-2, -1):
        n = x.shape[axis] - size + 1
        out = x.narrow(axis, 0, n) * weights[0]
        for k in range(1, size):
            out.add_(x.narrow(axis, k, n), alpha=weights[k])
        x = out
    return x


def ssim(a: np.ndarray | Tensor, b: np.ndarray | Tensor, protocol: Protocol | None = None) -> float | Tensor:
    """Structural similarity (Wang et al. 2004, ``ssim_index.m``): Gaussian window, valid region, no downsampling.

    Arguments and result as :func:`psnr`; several channels are averaged.

    Example:
        >>> from skimage.data import astronaut
        >>> picture = astronaut()
        >>> round(ssim(picture, picture // 8 * 8 + 4, RGB()), 3)
        0.898
    """
    protocol = protocol or MATLAB_Y()
    x, y, batched = _pair(a, b, protocol)
    h, w = x.shape[-2:]
    if min(h, w) < protocol.window:
        raise ValueError(f"SSIM's {protocol.window}x{protocol.window} window does not fit in {h}x{w} pixels")
    if x.device.type == "cpu":  # what one picture needs stays in the caches
        value = torch.cat([_similarity(*pair, protocol) for pair in zip(x.split(1), y.split(1), strict=True)])
    else:
        value = _similarity(x, y, protocol)
    return value if batched else value.item()


def _similarity(x: Tensor, y: Tensor, protocol: Protocol) -> Tensor:
    mx, my, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]), protocol.window, protocol.sigma)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = ((2 * mx * my + c1) * (2 * (xy - mx * my) + c2)) / (
        (mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2)
    )
    return value.mean((1, 2, 3))
