"""BSRN and BSRN-S (Li et al., "Blueprint Separable Residual Network", CVPR Workshops 2022, arXiv 2205.05996).

RFDN's feature distillation with blueprint separable convolutions, ESA and contrast-aware channel attention. Equations
are numbered as in the notebook. Shapes: ``(N, 3, H, W)`` in [0, 1], sides at least 15, to ``(N, 3, rH, rW)``, not
clipped. Where code and paper part ways: the official class hard-wires 8 blocks; for the ``standard`` ablation the
official ESA forgets the padding of three convolutions and dies on 48-pixel patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.layers import ESA, BSConvU, activation, check_input, conv_layer
from nsrlib.models.baselines import Layer, conv1x1, conv3x3
from nsrlib.models.distillation import CCA, RFDB, DistillationNetwork
from nsrlib.ops.common import one_by_one_dilation


class ESDB(RFDB):
    """Efficient separable distillation block, eqs. 7 to 9."""

    def __init__(self, channels: int, conv: str, act: str, esa: bool, cca: bool) -> None:
        def attention() -> nn.Module:
            return ESA(channels, channels // 4, conv, act) if esa else nn.Identity()

        super().__init__(channels, partial(conv_layer, conv), conv1x1, attention, activation(act))
        self.cca = CCA(channels) if cca else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.cca(super().forward(x)) + x


class BSRNFrame(DistillationNetwork):
    """What BSRN and BSRN-S share: four copies of the input, blocks, their fusion (with ``act``), the upsampler."""

    def __init__(
        self,
        scale: int,
        num_feats: int,
        num_blocks: int,
        wide: Layer,
        point: Layer,
        block: Callable[[], nn.Module],
        act: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(scale, num_blocks, lambda: wide(12, num_feats), block)
        self.c1 = point(num_blocks * num_feats, num_feats)
        self.c2 = wide(num_feats, num_feats)
        upsampler = nn.Sequential(conv3x3(num_feats, 3 * scale**2), nn.PixelShuffle(scale))
        self.upsampler = nn.ModuleDict({"upsampleOneStep": upsampler})
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, 3, self.min_size)
        shallow, features = self.features(x.repeat(1, 4, 1, 1))  # (N, 12, H, W) -> (N, C, H, W)
        fused = self.c2(self.act(self.c1(features))) + shallow
        return self.upsampler["upsampleOneStep"](fused)  # (N, 3, rH, rW)


class BSRN(BSRNFrame):
    """The network of the paper's comparison table; the other arguments give its ablations.

    Args:
        num_feats: C. num_blocks: n.
        conv: kind of every 3x3 convolution except the upsampler's.
        esa, cca: with spatial, with channel attention. act: activation of blocks, ESA and fusion.
    """

    def __init__(
        self,
        scale: int = 4,
        num_feats: int = 64,
        num_blocks: int = 8,
        conv: str = "bsconv_u",
        esa: bool = True,
        cca: bool = True,
        act: str = "gelu",
    ) -> None:
        if num_feats < 16 or num_feats % 2:
            raise ValueError(f"num_feats must be even and at least 16 (CCA divides it by 16), got {num_feats}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        wide = partial(conv_layer, conv)
        block = partial(ESDB, num_feats, conv, act, esa, cca)
        super().__init__(scale, num_feats, num_blocks, wide, conv1x1, block, activation(act))


class Pointwise(nn.Linear):
    """A 1x1 convolution whose weight is 2-D; ``as_linear`` walks the official way: same numbers, other speed."""

    as_linear = False

    def forward(self, x: Tensor) -> Tensor:
        if self.as_linear:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return _conv1x1(x, self.weight[:, :, None, None], self.bias)


class BSConvBias(nn.Module):
    """Blueprint separable convolution with a bias on both parts; zero padding comes after the pointwise bias."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.pw = Pointwise(c_in, c_out)
        self.dw = nn.Conv2d(c_out, c_out, 3, padding=1, groups=c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.dw(self.pw(x))


class ESASmall(ESA):
    """BSRN-S's ESA: pointwise layers as Linear, an ordinary strided convolution."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels, hidden, "standard", "gelu")
        self.conv1, self.conv_f = Pointwise(channels, hidden), Pointwise(hidden, hidden)  # type: ignore[assignment]
        self.conv_max, self.conv3, self.conv3_ = (BSConvBias(hidden, hidden) for _ in range(3))
        self.conv4 = Pointwise(hidden, channels)  # type: ignore[assignment]


class ESDBSmall(RFDB):
    """ESDB of BSRN-S: no CCA; a learnt weight per channel and one more pointwise layer instead."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, BSConvBias, Pointwise, lambda: ESASmall(channels, channels // 4), nn.GELU())
        self.cw = nn.Parameter(torch.empty(1, channels).normal_(1, 0.2))
        self.conv_out = Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(super().forward(x) * self.cw[:, :, None, None]) + x


class BSRNS(BSRNFrame):
    """BSRN-S, the entry to the NTIRE 2022 challenge (x4): not just a narrower BSRN (see :class:`ESDBSmall`).

    ``as_linear``: run pointwise layers through ``nn.Linear`` as the submission did; False is the paper's BSRN-S-opt.
    """

    def __init__(self, scale: int = 4, num_feats: int = 48, num_blocks: int = 5, as_linear: bool = False) -> None:
        block = partial(ESDBSmall, num_feats)
        super().__init__(scale, num_feats, num_blocks, BSConvBias, Pointwise, block, F.gelu)
        for layer in self.modules():
            if isinstance(layer, Pointwise):
                layer.as_linear = as_linear


Box = tuple[int, int, int, int]
Statistics = dict[int, tuple[Tensor, Tensor]]
Kernels = Literal["auto", "library", "triton"]


class FusedBSRN(nn.Module):
    """Inference-only BSRN: the same function as :class:`BSRN` to float rounding, in fewer passes over memory.

    The four input copies fold into a three-channel head; the concatenations become sums of products or are written
    in place; all runs channels last, where depthwise convolutions are several times faster on a CPU.

    ESA and CCA look at the whole picture: CCA by its statistics, ESA because its coarse map is stretched over it.
    :meth:`tile_runner` gives both to a tile, so that tiles agree with the whole.

    Args:
        model: a :class:`BSRN` with BSConv-U, ESA, CCA and GELU (the published configuration, any width and depth).
        kernels: what computes the 3x3 layers of stride 1: ``"library"`` convolutions, or ``"triton"``, the one kernel
            of :func:`nsrlib.ops.bsconv2d` (on a GPU; elsewhere it calls the library itself). ``"auto"`` is the library
            until a stored measurement of a GPU (``nsr bench kernels``, case ``bsrn_x4``) shows that the kernel pays.
    """

    min_size = 15
    tile_step = 6
    """Tiles must start at multiples of this, the step of ESA's coarse map."""

    def __init__(self, model: BSRN, kernels: Kernels = "auto") -> None:
        super().__init__()
        if not self.accepts(model):
            raise ValueError("only BSRN with conv='bsconv_u', esa=True, cca=True and act='gelu' has a fused form")
        if kernels not in get_args(Kernels):
            raise ValueError(f"kernels must be one of {', '.join(get_args(Kernels))}, got {kernels!r}")
        self.kernels = "library" if kernels == "auto" else kernels
        self.scale, self.halo = model.scale, model.halo
        for name, tensor in model.state_dict().items():
            tensor = tensor.detach().clone()
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self.register_buffer(name.replace(".", "_"), tensor, persistent=False)
        # (C, 12, 1, 1) -> (C, 3, 1, 1): the four copies of R, G, B see the sum of their weights
        head = self.get_buffer("fea_conv_pw_weight").unflatten(1, (4, 3)).sum(1)
        self.register_buffer("head_pw", head.contiguous(memory_format=torch.channels_last), persistent=False)

    @staticmethod
    def accepts(model: BSRN) -> bool:
        block = model.blocks[0]
        kinds = ((block.c1_r, BSConvU), (block.esa, ESA), (block.cca, CCA), (block.act, nn.GELU))
        return all(isinstance(module, kind) for module, kind in kinds)

    def tile_runner(
        self, x: Tensor, boxes: Sequence[Box], sample: int = 8, tick: Callable[[], object] = lambda: None
    ) -> Callable[[Box], Tensor]:
        """A function that upscales one box ``(top, bottom, left, right)`` of ``x`` as part of the whole picture.

        CCA's statistics of the whole are estimated first, from up to ``sample`` of ``boxes``, spread over the picture;
        ``tick`` is called after each.
        """
        statistics: Statistics = {}

        def run(box: Box) -> Tensor:
            top, bottom, left, right = box
            window = Window(top, left, x.shape[2], x.shape[3], statistics)
            y = self(x[..., top:bottom, left:right], window)
            seen.append((window.seen, (bottom - top) * (right - left)))
            return y

        seen: list[tuple[Statistics, int]] = []
        number = min(sample, len(boxes))
        for i in range(number):
            run(boxes[(2 * i + 1) * len(boxes) // (2 * number)])
            tick()
        pixels = sum(n for _, n in seen)
        wide = torch.promote_types(x.dtype, torch.float32)
        for k in seen[0][0]:
            mean = torch.stack([s[k][0].to(wide) * (n / pixels) for s, n in seen]).sum(0)
            spread = [(s[k][1].to(wide) + (s[k][0].to(wide) - mean).square()) * (n / pixels) for s, n in seen]
            statistics[k] = mean.to(x.dtype), torch.stack(spread).sum(0).to(x.dtype)
        return run

    def _conv1x1(self, x: Tensor, name: str, bias: bool = True) -> Tensor:
        return _conv1x1(x, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias") if bias else None)

    def _bsconv(self, x: Tensor, name: str, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        """``GELU(BSConv(x) + residual)``, the last two if asked for."""
        if self.kernels == "triton":
            from nsrlib.ops import bsconv2d  # here, because it brings Triton along

            pointwise, depthwise, bias = (self.get_buffer(f"{name}_{n}") for n in ("pw_weight", "dw_weight", "dw_bias"))
            return bsconv2d(x, pointwise, depthwise, bias, "gelu" if gelu else None, residual)
        y = self._depthwise(self._conv1x1(x, f"{name}_pw", bias=False), name)
        if residual is not None:
            y.add_(residual)
        return _gelu_(y) if gelu else y

    def _depthwise(self, z: Tensor, name: str, stride: int = 1, padding: int = 1) -> Tensor:
        weight = self.get_buffer(f"{name}_dw_weight")
        return F.conv2d(z, weight, self.get_buffer(f"{name}_dw_bias"), stride, padding, groups=weight.shape[0])

    def _block(self, x: Tensor, k: int, distilled: Tensor, window: Window | None) -> Tensor:
        half, h, w = x.shape[1] // 2, x.shape[2], x.shape[3]
        r = x
        for i in (1, 2, 3):
            distilled[:, (i - 1) * half : i * half] = self._conv1x1(r, f"B{k}_c{i}_d")
            r = self._bsconv(r, f"B{k}_c{i}_r", gelu=True, residual=r)
        distilled[:, 3 * half :] = self._bsconv(r, f"B{k}_c4")
        y = self._conv1x1(_gelu_(distilled), f"B{k}_c5")
        del r

        a = self._conv1x1(y, f"B{k}_esa_conv1")
        b = self._depthwise(self._conv1x1(a, f"B{k}_esa_conv2_pw", bias=False), f"B{k}_esa_conv2", stride=2, padding=0)
        b = F.max_pool2d(b, kernel_size=7, stride=3)
        b = self._bsconv(self._bsconv(b, f"B{k}_esa_conv_max", gelu=True), f"B{k}_esa_conv3", gelu=True)
        b = _stretch(self._bsconv(b, f"B{k}_esa_conv3_"), h, w, window)
        y *= self._conv1x1(self._conv1x1(a, f"B{k}_esa_conv_f").add_(b), f"B{k}_esa_conv4").sigmoid_()

        mean, variance = window.statistics.get(k, (None, None)) if window else (None, None)
        if mean is None or variance is None:
            mean = y.mean((2, 3), keepdim=True)
            variance = (y - mean).square_().mean((2, 3), keepdim=True)
            if window:
                window.seen[k] = mean, variance
        gate = F.relu(self._conv1x1((variance + 1e-12).sqrt() + mean, f"B{k}_cca_conv_du_0"))
        gate = self._conv1x1(gate, f"B{k}_cca_conv_du_2").sigmoid()
        return y.mul_(gate).add_(x)

    @torch.no_grad()
    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        check_input(x, "BSRN", 3, self.min_size)
        # A copy, because a picture's own strides (batch of one, made by permute) pass for channels last but are not.
        x = x.clone(memory_format=torch.contiguous_format).contiguous(memory_format=torch.channels_last)
        shallow = self._depthwise(_conv1x1(x, self.get_buffer("head_pw")), "fea_conv")
        n, c, h, w = shallow.shape
        # One buffer for all blocks: a fresh one each time would cost a page fault per 4 KiB.
        size = (n, 4 * (c // 2), h, w)
        distilled = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        f, fused = shallow, self.get_buffer("c1_bias").view(1, c, 1, 1)
        for k, weight in enumerate(self.get_buffer("c1_weight").split(c, 1), 1):
            f = self._block(f, k, distilled, window)
            fused = _conv1x1(f, weight).add_(fused)
        fused = self._bsconv(_gelu_(fused), "c2", residual=shallow)
        last = "upsampler_upsampleOneStep_0"
        y = F.conv2d(fused, self.get_buffer(f"{last}_weight"), self.get_buffer(f"{last}_bias"), padding=1)
        return F.pixel_shuffle(y, self.scale)


@dataclass
class Window:
    """Where a tile lies in a picture of ``(height, width)``, and what that looks like as a whole.

    ``statistics``: block -> mean and variance ``(1, C, 1, 1)`` that CCA shall use; without them the tile's own are used
    and left in ``seen``.
    """

    top: int
    left: int
    height: int
    width: int
    statistics: Statistics = field(default_factory=dict)
    seen: Statistics = field(default_factory=dict)


def _stretch(coarse: Tensor, h: int, w: int, window: Window | None) -> Tensor:
    """Bilinear resizing to ``(h, w)``; in a window, that part of what resizing the whole picture's map would give."""
    if window is None:
        return F.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
    axes = []
    for start, length, whole, cells in (
        (window.top, h, window.height, coarse.shape[2]),
        (window.left, w, window.width, coarse.shape[3]),
    ):
        all_cells = ((whole - 3) // 2 - 6) // 3 + 1  # of the strided convolution and the pool
        pixel = torch.arange(start, start + length, dtype=torch.float64)  # on the CPU: not every device has float64
        cell = ((pixel + 0.5) * all_cells / whole - 0.5).clamp(0, all_cells - 1) - start / FusedBSRN.tile_step
        axes.append((cell + 0.5) * 2 / cells - 1)  # grid_sample counts from -1 to 1
    y, x = torch.meshgrid(*axes, indexing="ij")
    dtype = torch.promote_types(coarse.dtype, torch.float32)  # half precision cannot tell the pixels of a row apart
    grid = torch.stack([x, y], -1)[None].to(coarse.device, dtype).expand(coarse.shape[0], -1, -1, -1)
    stretched = F.grid_sample(coarse.to(dtype), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return stretched.to(coarse.dtype)


def _conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x, weight, bias, dilation=one_by_one_dilation(x.device))


def _gelu_(x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_(x)  # F.gelu has no in-place form
