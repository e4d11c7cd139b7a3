"""Networks that the papers compare with, and what their own networks share with them.

All take ``(N, 3, H, W)`` in [0, 1] and return ``(N, 3, rH, rW)``, not clipped; DnCNN works on gray and keeps the size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.images import imresize, plain_luma
from nsrlib.layers import WeightNormConv2d, check_input

Layer = Callable[[int, int], nn.Module]


def conv1x1(c_in: int, c_out: int) -> nn.Module:
    return nn.Conv2d(c_in, c_out, 1)


def conv3x3(c_in: int, c_out: int) -> nn.Module:
    return nn.Conv2d(c_in, c_out, 3, padding=1)


class Bicubic(nn.Module):
    """MATLAB's bicubic upscaling as a network without parameters."""

    min_size = 1
    halo = 3

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, "bicubic", x.shape[1], self.min_size)
        there = x.cpu() if x.device.type == "mps" else x  # a Mac's GPU has no float64
        return imresize(there.double(), self.scale).to(x)

    def refine(self, plane: Tensor) -> Tensor:
        return plane


class NonLocalMeans(nn.Module):
    """Non-local means (Buades et al., CVPR 2005) of scikit-image, in the settings its documentation shows: patches of
    5x5 within 6 pixels, ``h = 0.8 sigma``, the fast form.

    Told the noise (0..255), it takes one gray plane, ``(N, 1, H, W)``, to the same, on the CPU.
    """

    scale, channels, min_size, halo = 1, 1, 16, 16

    def __init__(self, noise: float) -> None:
        super().__init__()
        if not 0 < noise <= 255:
            raise ValueError(f"noise must be a standard deviation above 0 and up to 255, got {noise!r}")
        self.sigma = noise / 255

    def forward(self, x: Tensor) -> Tensor:
        from skimage.restoration import denoise_nl_means

        check_input(x, type(self).__name__, self.channels, self.min_size)
        settings = {"patch_size": 5, "patch_distance": 6, "h": 0.8 * self.sigma, "sigma": self.sigma}
        planes = [denoise_nl_means(plane.double().cpu().numpy(), fast_mode=True, **settings) for plane in x[:, 0]]
        return torch.from_numpy(np.stack(planes)[:, None]).to(x)


class ChannelAttention(nn.Module):
    """Gate channels by a two-layer network of their means (RCAN, Zhang et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_du = nn.Sequential(conv1x1(channels, hidden), nn.ReLU(), conv1x1(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(self.avg_pool(x))


def upscaled_luma(x: Tensor, name: str, scale: int, min_size: int) -> tuple[Tensor, Tensor]:
    """A picture upscaled, and its luma plane over 255: the same tensor if the picture is a plane."""
    colour = x.shape[1:2] == (3,)
    check_input(x, name, 3 if colour else 1, min_size)
    up = x if scale == 1 else imresize(x.to(torch.promote_types(x.dtype, torch.float32)), scale).to(x.dtype)
    return up, (plain_luma(up)[:, None] / 255).to(x.dtype) if colour else up


class LumaResidual(nn.Module):
    """What VDSR and its adder twin share: a chain of layers that adds detail to the bicubically upscaled luma.

    Input ``(N, 1, H, W)``, taken as the plane itself, or RGB ``(N, 3, H, W)``: the detail of its luma (BT.601, 16..235
    of 255) is then added to all three channels, times 255 / 219, which raises the luma by that detail and leaves the
    colour differences bicubic. Output ``(N, 1 or 3, rH, rW)``. At scale 1 the input has been upscaled already.

    ``layer`` makes the layers between the first convolution (with ReLU) and the last, ``num_layers`` in all.
    """

    min_size = 1

    def __init__(self, scale: int, num_feats: int, num_layers: int, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        check_depth(num_layers)
        self.scale, self.halo = scale, math.ceil(num_layers / scale) + 3
        self.head = conv3x3(1, num_feats)
        self.body = nn.Sequential(*(layer() for _ in range(num_layers - 2)))
        self.tail = nn.Conv2d(num_feats, 1, 3, padding=1)
        he_init(self)
        with torch.no_grad():
            self.tail.weight.mul_(0.1)  # starts near bicubic

    def detail(self, plane: Tensor) -> Tensor:
        return self.tail(self.body(F.relu(self.head(plane))))

    def refine(self, plane: Tensor) -> Tensor:
        """The upscaled luma ``(N, 1, H, W)`` with its detail."""
        return plane + self.detail(plane)

    def forward(self, x: Tensor) -> Tensor:
        up, plane = upscaled_luma(x, type(self).__name__, self.scale, self.min_size)
        detail = self.detail(plane)
        return up + (detail if plane is up else 255 / 219 * detail)

    def extra_operations(self, x: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
        return {"residuals": (0, y.numel())}


class VDSR(LumaResidual):
    """VDSR (Kim et al., CVPR 2016): 665,921 parameters, for every scale the same."""

    def __init__(self, scale: int = 4, num_feats: int = 64, num_layers: int = 20) -> None:
        super().__init__(scale, num_feats, num_layers, lambda: nn.Sequential(conv3x3(num_feats, num_feats), nn.ReLU()))


class SRCNN(nn.Module):
    """SRCNN 9-5-5 (Dong et al., TPAMI 2016, Sec. 4.3): 57,281 parameters, three layers that draw the luma plane anew.

    Input and output as of :class:`LumaResidual`: ``(N, 1, H, W)`` or ``(N, 3, H, W)`` to the same at ``scale`` times
    the size, in [0, 1]. A colour picture gets the difference that the network makes to its luma. Before each layer the
    plane is continued by its outermost pixels, as the authors' test code does it: zeros cost 2.8 dB on Set5 x3, where
    only 3 pixels are cut.

    Args:
        num_feats, num_mid: channels after the first and the second layer.

    Example:
        >>> model = SRCNN(3)
        >>> model(torch.rand(1, 3, 4, 5)).shape, model.refine(torch.rand(1, 1, 12, 15)).shape
        (torch.Size([1, 3, 12, 15]), torch.Size([1, 1, 12, 15]))
    """

    min_size = 1

    def __init__(self, scale: int = 4, num_feats: int = 64, num_mid: int = 32) -> None:
        super().__init__()
        self.scale, self.halo = scale, math.ceil(8 / scale) + 3
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(c_in, c_out, k, padding=k // 2, padding_mode="replicate")
            for c_in, c_out, k in ((1, num_feats, 9), (num_feats, num_mid, 5), (num_mid, 1, 5))
        )
        he_init(self)

    def refine(self, plane: Tensor) -> Tensor:
        """The network itself: a luma plane ``(N, 1, H, W)``, upscaled already, to the same."""
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(plane)))))

    def forward(self, x: Tensor) -> Tensor:
        up, plane = upscaled_luma(x, type(self).__name__, self.scale, self.min_size)
        refined = self.refine(plane)
        return refined if plane is up else up + 255 / 219 * (refined - plane)


def check_depth(num_layers: int) -> None:
    if num_layers < 3:
        raise ValueError(f"num_layers must be at least 3 (first, middle, last), got {num_layers}")


def he_init(network: nn.Module) -> None:
    """He's initialisation of all convolutions, biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MeanShift(nn.Module):
    """Add ``sign`` times DIV2K's mean colour. Buffers, named as in the released files: nothing here is trained."""

    weight: Tensor
    bias: Tensor

    def __init__(self, img_range: float, sign: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(3)[:, :, None, None])
        self.register_buffer("bias", sign * img_range * torch.tensor([0.4488, 0.4371, 0.4040]))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


class ScaledResidual(nn.Module):
    """``x + res_scale * body(x)``, EDSR's block."""

    def __init__(self, res_scale: float, *body: nn.Module) -> None:
        super().__init__()
        self.body, self.res_scale = nn.Sequential(*body), res_scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res_scale * self.body(x)

    def extra_operations(self, x: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
        return {"residuals": (int(self.res_scale != 1) * y.numel(), y.numel())}


class EDSRFrame(nn.Module):
    """What EDSR and its adder twin share: mean shift, first convolution, long skip, upsampler, last convolution.

    Args:
        scale: 2, 3 or 4; x4 is x2 twice.
        body: the blocks and one layer after them, each keeping ``num_feats`` channels, on values [0, img_range].
        upsampling: makes the layer before each pixel shuffle.
    """

    min_size = 1

    def __init__(
        self, scale: int, num_feats: int, body: Iterable[nn.Module], img_range: float, upsampling: Layer = conv3x3
    ) -> None:
        super().__init__()
        self.scale, self.num_feats, self.img_range = scale, num_feats, img_range
        self.sub_mean, self.add_mean = MeanShift(img_range, -1), MeanShift(img_range, 1)
        self.head = nn.Sequential(conv3x3(3, num_feats))
        self.body = nn.Sequential(*body)
        self.halo = 2 * len(self.body) + 4
        up: list[nn.Module] = []
        for r in (3,) if scale == 3 else (2,) * int(math.log2(scale)):
            up += [upsampling(num_feats, r * r * num_feats), nn.PixelShuffle(r)]
        self.tail = nn.Sequential(nn.Sequential(*up), conv3x3(num_feats, 3))

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, 3, self.min_size)
        head = self.head(self.sub_mean(x * self.img_range))
        return self.add_mean(self.tail(self.body(head) + head)) / self.img_range

    def extra_operations(self, x: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
        return {"residuals": (0, y.numel() // (3 * self.scale**2) * self.num_feats)}


class EDSR(EDSRFrame):
    """EDSR (Lim et al., CVPR Workshops 2017) as released, 40.7 M parameters at x2; values 0..255 inside."""

    def __init__(self, scale: int = 4, num_feats: int = 256, num_blocks: int = 32, res_scale: float = 0.1) -> None:
        c = num_feats
        blocks = [ScaledResidual(res_scale, conv3x3(c, c), nn.ReLU(), conv3x3(c, c)) for _ in range(num_blocks)]
        super().__init__(scale, c, [*blocks, conv3x3(c, c)], 255.0)


class EDSRBaseline(EDSR):
    """EDSR's small form: 64 channels, 16 blocks, blocks not scaled; 1.37 M parameters at x2."""

    def __init__(self, scale: int = 4, num_feats: int = 64, num_blocks: int = 16, res_scale: float = 1.0) -> None:
        super().__init__(scale, num_feats, num_blocks, res_scale)


class WideFrame(nn.Module):
    """What WDSR-A and NSR share: ``shuffle(last(blocks(first(x - 0.5))) + skip(x - 0.5)) + 0.5``.

    At scale 1 (denoising, deblocking) the 5x5 skip path is the identity and there is no shuffle. Blocks keep
    ``num_feats`` channels; images have ``channels``, 1 or 3.
    """

    min_size = 1
    mean = 0.5

    def __init__(self, scale: int, num_feats: int, blocks: Iterable[nn.Module], channels: int) -> None:
        super().__init__()
        self.scale, self.channels = scale, channels
        c_out = channels * scale**2
        self.body = nn.Sequential(WeightNormConv2d(channels, num_feats), *blocks, WeightNormConv2d(num_feats, c_out))
        self.halo = 2 * len(self.body) - 2
        self.skip = nn.Sequential(*([WeightNormConv2d(channels, c_out, 5)] if scale > 1 else []))
        self.shuf = nn.Sequential(*([nn.PixelShuffle(scale)] if scale > 1 else []))

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, self.channels, self.min_size)
        x = x - self.mean
        return self.shuf(self.inside(x) + self.skip(x)) + self.mean

    def extra_operations(self, x: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
        return {"residuals": (0, y.numel())}

    def inside(self, x: Tensor) -> Tensor:
        """The body, ``(N, C, H, W)`` to ``(N, r r C, H, W)``."""
        return self.body(x)

    def fold(self) -> WideFrame:
        """Fold weight norm into the weights, in place, for inference."""
        for layer in self.modules():
            if isinstance(layer, WeightNormConv2d):
                layer.fold()
        return self


def check_wide(num_feats: int, num_blocks: int, width: float, channels: int) -> int:
    """Channels inside a block, after a check of the sizes of a network on :class:`WideFrame`."""
    for name, value in (("num_feats", num_feats), ("num_blocks", num_blocks)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    if int(num_feats * width) < 1:
        raise ValueError(f"width must leave at least one of num_feats={num_feats} channels, got {width}")
    return int(num_feats * width)


class ThriftyReLU(nn.ReLU):
    """ReLU; without gradients in the memory of its input, see :func:`residual`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=not torch.is_grad_enabled())


class WideBlock(nn.Module):
    """``x + last(ReLU(first(x)))``, wide in the middle."""

    def __init__(self, first: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(first, ThriftyReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return residual(x, self.body(x))

    def extra_operations(self, x: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
        return {"residuals": (0, y.numel())}


def residual(x: Tensor, y: Tensor) -> Tensor:
    """``x + y``; without gradients in the memory of y: new memory for a large picture costs more than the sum."""
    return x + y if torch.is_grad_enabled() or x.dtype != y.dtype else y.add_(x)


def dense_block(channels: int, inner: int, res_scale: float) -> WideBlock:
    """WDSR's block. The scale of its residual branch is what the gain of the last convolution starts with."""
    return WideBlock(WeightNormConv2d(channels, inner, gain=2.0), WeightNormConv2d(inner, channels, gain=res_scale))


class WDSR(WideFrame):
    """WDSR-A (Yu et al., 2018) as its authors' later code has it; 1,190,100 parameters at x2.

    ``width``: channels inside a block over ``num_feats``; 1 gives the dense counterpart of NSR, "EDSR" to its authors.
    """

    def __init__(
        self, scale: int = 4, num_feats: int = 32, num_blocks: int = 16, width: float = 4.0, channels: int = 3
    ) -> None:
        inner = check_wide(num_feats, num_blocks, width, channels)
        blocks = (dense_block(num_feats, inner, 1 / math.sqrt(num_blocks)) for _ in range(num_blocks))
        super().__init__(scale, num_feats, blocks, channels)


class DnCNN(nn.Module):
    """DnCNN (Zhang et al., TIP 2017): a chain of 3x3 convolutions predicts the noise, which is taken off.

    ``(N, channels, H, W)`` in and out; 555,137 parameters on gray.

    Args:
        num_layers: convolutions in all, at least 3; 17 in the paper for one noise level, 20 for unknown ones.
        batch_norm: normalise between the inner convolutions and their ReLU, as the authors did in training; in the
            released files this is merged into the convolutions.
    """

    min_size = 1

    def __init__(
        self, scale: int = 1, channels: int = 1, num_feats: int = 64, num_layers: int = 17, batch_norm: bool = False
    ) -> None:
        super().__init__()
        check_depth(num_layers)
        self.scale, self.channels, self.halo = scale, channels, num_layers
        layers: list[nn.Module] = [conv3x3(channels, num_feats), nn.ReLU()]
        for _ in range(num_layers - 2):
            norm = [nn.BatchNorm2d(num_feats)] if batch_norm else []
            layers += [conv3x3(num_feats, num_feats), *norm, nn.ReLU()]
        self.model = nn.Sequential(*layers, conv3x3(num_feats, channels))
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, self.channels, self.min_size)
        return x - self.model(x)
