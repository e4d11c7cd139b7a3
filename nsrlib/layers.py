"""Layers that more than one network uses: separable and weight-normalised convolutions, ESA, activations.

Parameter names follow the authors' released state dicts, so that published weights load with ``strict=True``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def activation(name: str) -> nn.Module:
    """A fresh activation module: ``gelu`` (exact, erf), ``relu``, ``leaky_relu`` (slope 0.05) or ``hswish``."""
    builders: dict[str, Callable[[], nn.Module]] = {
        "gelu": nn.GELU,
        "relu": nn.ReLU,
        "leaky_relu": lambda: nn.LeakyReLU(0.05),
        "hswish": nn.Hardswish,
    }
    if name not in builders:
        raise ValueError(f"activation must be one of {', '.join(builders)}, got {name!r}")
    return builders[name]()


class BSConvU(nn.Sequential):
    """Blueprint separable convolution (Haase & Amthor, CVPR 2020): a pointwise, then a depthwise convolution.

    Equals one dense convolution with kernel ``K[o, i] = pw[o, i] * dw[o]``, see :func:`merged_kernel`. Only the
    depthwise part has a bias, as in BSRN.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.pw = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.dw = nn.Conv2d(c_out, c_out, kernel, stride, padding, groups=c_out)


class BSConvS(nn.Sequential):
    """BSConv with a pointwise part of rank ``c' = min(c_in, max(4, ceil(c_in / 4)))`` (Haase & Amthor, CVPR 2020)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        rank = min(c_in, max(4, math.ceil(c_in / 4)))
        self.pw1 = nn.Conv2d(c_in, rank, 1, bias=False)
        self.pw2 = nn.Conv2d(rank, c_out, 1, bias=False)
        self.dw = nn.Conv2d(c_out, c_out, kernel, stride, padding, groups=c_out)


class DSConv(nn.Sequential):
    """Depthwise separable convolution: a depthwise (with bias), then a pointwise convolution (without)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.dw = nn.Conv2d(c_in, c_in, kernel, stride, padding, groups=c_in)
        self.pw = nn.Conv2d(c_in, c_out, 1, bias=False)


_CONVS = {"standard": nn.Conv2d, "dsconv": DSConv, "bsconv_s": BSConvS, "bsconv_u": BSConvU}
CONV_KINDS: tuple[str, ...] = tuple(_CONVS)


def conv_layer(kind: str, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Module:
    """One of the four 3x3 convolutions of BSRN's decomposition table."""
    if kind not in _CONVS:
        raise ValueError(f"conv must be one of {', '.join(_CONVS)}, got {kind!r}")
    return _CONVS[kind](c_in, c_out, kernel, stride, padding)


def merged_kernel(layer: nn.Module) -> Tensor:
    """The dense kernel ``(c_out, c_in, K, K)`` that a separable layer computes with (exact, BSRN eq. 12)."""
    if isinstance(layer, BSConvU):
        return layer.pw.weight * layer.dw.weight
    if isinstance(layer, BSConvS):
        return torch.einsum("omxy,mixy->oixy", layer.pw2.weight, layer.pw1.weight) * layer.dw.weight
    if isinstance(layer, DSConv):
        return layer.pw.weight * layer.dw.weight[:, 0]
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        return layer.weight
    raise TypeError(f"no dense kernel for {type(layer).__name__}")


def merge_bsconv(layer: BSConvU | BSConvS) -> nn.Conv2d:
    """An ordinary convolution that computes the same as ``layer``: more arithmetic, fewer passes over memory."""
    kernel, dw = merged_kernel(layer), layer.dw
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[-1], dw.stride, dw.padding)  # type: ignore[arg-type]
    conv.weight = nn.Parameter(kernel.detach().contiguous())
    conv.bias = nn.Parameter(dw.bias.detach().clone())  # type: ignore[union-attr]
    return conv


class WeightNormConv2d(nn.Conv2d):
    """Convolution with weight norm, ``W = g v / ||v||`` for each filter (Salimans & Kingma, NIPS 2016).

    Its parameters bear the names that released files of WDSR and NSR have, ``bias``, ``weight_g`` ``(c_out, 1, 1, 1)``
    and ``weight_v``; ``weight`` is computed from them until :meth:`fold` makes it a parameter.

    Every g starts at ``gain``, v as PyTorch's convolutions do, the bias at 0.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, gain: float = 1.0) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        self.weight_g = nn.Parameter(torch.full((c_out, 1, 1, 1), gain))
        self.weight_v = nn.Parameter(self.weight.detach())
        del self.weight  # from here on :meth:`__getattr__` is asked for it

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and "weight_v" in self._parameters:
            v = self.weight_v
            return v * (self.weight_g / torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True))
        return super().__getattr__(name)

    def fold(self) -> None:
        """Compute the weight once and for all: for inference. The state dict then has ``weight`` alone."""
        if "weight_v" in self._parameters:
            weight = self.weight.detach()
            del self.weight_g, self.weight_v
            self.weight = nn.Parameter(weight)


class ESA(nn.Module):
    """Enhanced spatial attention (RFANet, Liu et al., CVPR 2020): gate every pixel by a wide, cheap look around.

    Shapes: ``(N, C, H, W)`` in and out; H and W at least 15 (15 -> 7 by the strided convolution -> 1 by the pool).

    ``hidden`` is the width f of the branch, ``conv`` the kind of its 3x3 convolutions (:func:`conv_layer`); the
    ``strided`` one may differ.
    """

    def __init__(
        self, channels: int, hidden: int, conv: str = "standard", act: str = "relu", strided: str | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.conv_f = nn.Conv2d(hidden, hidden, 1)
        self.conv_max = conv_layer(conv, hidden, hidden)
        self.conv2 = conv_layer(strided or conv, hidden, hidden, 3, stride=2, padding=0)
        self.conv3 = conv_layer(conv, hidden, hidden)
        self.conv3_ = conv_layer(conv, hidden, hidden)
        self.conv4 = nn.Conv2d(hidden, channels, 1)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)  # (N, f, H, W)
        b = F.max_pool2d(self.conv2(a), kernel_size=7, stride=3)  # (N, f, about H/6, W/6)
        b = self.act(self.conv_max(b))
        b = self.act(self.conv3(b))
        b = self.conv3_(b)
        b = F.interpolate(b, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(b + self.conv_f(a)))


class DistillationBlock(nn.Module):
    """Feature distillation that RFDN's and BSRN's blocks share (BSRN eq. 7).

    Three times a 1x1 convolution ``ci_d`` keeps half of the channels and ``ci_r`` refines all of them; ``c4`` keeps the
    last half. Subclasses make these layers and the activation ``act``.
    """

    def distil(self: Any, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the four kept halves, ``(N, 2C, H, W)``."""
        kept = []
        for keep, refine in ((self.c1_d, self.c1_r), (self.c2_d, self.c2_r), (self.c3_d, self.c3_r)):
            kept.append(self.act(keep(x)))
            x = self.act(refine(x) + x)
        return torch.cat([*kept, self.act(self.c4(x))], 1)


def check_input(x: Tensor, name: str, channels: int, min_size: int) -> None:
    """Raise a ValueError that names the network unless ``x`` is float ``(N, channels, H, W)``, sides large enough."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"{name} takes (N, {channels}, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} takes float values in [0, 1], got {x.dtype}")
    if min(x.shape[-2:]) < min_size:
        raise ValueError(f"{name} needs at least {min_size}x{min_size} pixels, got {x.shape[-2]}x{x.shape[-1]}")


def factorise(weight: Tensor, kind: str = "bsconv_u") -> tuple[Tensor, Tensor]:
    """The separable kernel nearest to a dense one (least squares), and how much of it that keeps.

    ``bsconv_u`` asks that the slices of one *filter* are multiples of one blueprint, ``K[o, i] = pw[o, i] * dw[o]``;
    ``dsconv`` that the slices of one *input channel* are, ``K[o, i] = pw[o, i] * dw[i]``. Both are best rank-one
    approximations of ``(slices, K*K)`` matrices (BSRN eq. 12; Haase & Amthor 2020, Sec. 3).

    Returns:
        The approximation, like ``weight`` ``(c_out, c_in, K, K)``; and the share of the squared norm it keeps, float64
        in [0, 1], one number a filter (``bsconv_u``) or an input channel (``dsconv``).
    """
    if kind not in ("bsconv_u", "dsconv"):
        raise ValueError(f"kind must be 'bsconv_u' or 'dsconv', got {kind!r}")
    grouped = weight if kind == "bsconv_u" else weight.transpose(0, 1)
    u, s, vh = torch.linalg.svd(grouped.detach().flatten(2).double(), full_matrices=False)
    nearest = (u[..., :1] * s[:, None, :1]) @ vh[:, :1]
    kept = s[:, 0].square() / s.square().sum(1)
    nearest = nearest.view(grouped.shape).to(weight.dtype)
    return (nearest if kind == "bsconv_u" else nearest.transpose(0, 1).contiguous()), kept
