"""Networks that distil features: IMDN, RFDN, and what BSRN takes from both.

All take ``(N, 3, H, W)`` in [0, 1] and return ``(N, 3, rH, rW)``, not clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nsrlib.layers import ESA, DistillationBlock, check_input, conv_layer
from nsrlib.models.baselines import ChannelAttention, Layer, conv1x1, conv3x3


class CCA(ChannelAttention):
    """Contrast-aware channel attention (IMDN, Hui et al. 2019), eq. 11: gate channels by ``std + mean``.

    The standard deviation is the population one over the whole image, so a tile sees another value than the image.
    1e-12 inside the root only keeps the gradient of a constant channel finite: it changes no measured digit.
    """

    def forward(self, x: Tensor) -> Tensor:
        mean = self.avg_pool(x)
        variance = (x - mean).square().mean((2, 3), keepdim=True)
        return x * self.conv_du((variance + 1e-12).sqrt() + mean)


class RFDB(DistillationBlock):
    """Residual feature distillation block: 1x1 convolutions distil, 3x3 convolutions refine.

    Args:
        wide, point: make a 3x3, a 1x1 convolution of so many channels in and out.
        esa: makes the spatial attention.
    """

    def __init__(self, channels: int, wide: Layer, point: Layer, esa: Callable[[], nn.Module], act: nn.Module) -> None:
        super().__init__()
        half = channels // 2
        self.c1_d, self.c2_d, self.c3_d = (point(channels, half) for _ in range(3))
        self.c1_r, self.c2_r, self.c3_r = (wide(channels, channels) for _ in range(3))
        self.c4 = wide(channels, half)
        self.c5 = point(4 * half, channels)
        self.esa, self.act = esa(), act

    def forward(self, x: Tensor) -> Tensor:
        return self.esa(self.c5(self.distil(x)))


class DistillationNetwork(nn.Module):
    """What IMDN, RFDN and BSRN share: a first convolution and blocks ``B1`` .. ``Bn``, whose results are all kept."""

    block_name = "B"
    min_size = 15

    def __init__(
        self, scale: int, num_blocks: int, head: Callable[[], nn.Module], block: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.scale, self.num_blocks = scale, num_blocks
        # Context a tile needs: every 3x3 convolution of the trunk counts. ESA and CCA look further, at low weight.
        self.halo = 4 * num_blocks + 3
        self.fea_conv = head()
        for k in range(1, num_blocks + 1):
            self.add_module(f"{self.block_name}{k}", block())

    @property
    def blocks(self) -> list[Any]:
        return [getattr(self, f"{self.block_name}{k}") for k in range(1, self.num_blocks + 1)]

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first convolution's ``(N, C, H, W)``, and those of all blocks, ``(N, n C, H, W)``."""
        shallow = f = self.fea_conv(x)
        kept = []
        for block in self.blocks:
            f = block(f)
            kept.append(f)
        return shallow, torch.cat(kept, 1)


class DistillationTrunk(DistillationNetwork):
    """IMDN's frame, which RFDN took over: fusion with LeakyReLU, one convolution, a skip connection, one upsampling."""

    img_range = 1.0

    def __init__(self, scale: int, channels: int, num_blocks: int, wide: Layer, block: Callable[[], nn.Module]) -> None:
        super().__init__(scale, num_blocks, lambda: wide(3, channels), block)
        self.c = nn.Sequential(conv1x1(num_blocks * channels, channels), nn.LeakyReLU(0.05))
        self.LR_conv = wide(channels, channels)
        self.upsampler = nn.Sequential(conv3x3(channels, 3 * scale**2), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, 3, self.min_size)
        head, features = self.features(x * self.img_range)
        return self.upsampler(self.LR_conv(self.c(features)) + head) / self.img_range


class RFDN(DistillationTrunk):
    """RFDN as released (Liu et al., ECCV Workshops 2020; winner of the AIM 2020 challenge), values 0..255 inside.

    433 K parameters; its paper's has 550 K. ``conv``: kind of all 3x3 convolutions but the upsampler's.
    """

    img_range = 255.0

    def __init__(self, scale: int = 4, num_feats: int = 50, num_blocks: int = 4, conv: str = "standard") -> None:
        c, wide = num_feats, partial(conv_layer, conv)

        def block() -> nn.Module:
            return RFDB(c, wide, conv1x1, lambda: ESA(c, c // 4, conv, "relu"), nn.LeakyReLU(0.05))

        super().__init__(scale, c, num_blocks, wide, block)


def multidistilled(x: Tensor, steps: Iterable[nn.Module], last: nn.Module, keep: int) -> Tensor:
    """Each step's first ``keep`` channels, and ``last`` of what all steps passed on, side by side."""
    kept = []
    for step in steps:
        y = step(x)
        kept.append(y[:, :keep])
        x = y[:, keep:]
    return torch.cat([*kept, last(x)], 1)


class IMDB(nn.Module):
    """Information multi-distillation block: three times keep 16 channels of 64 and pass on 48; then CCA."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.keep, rest = channels // 4, channels - channels // 4
        self.c1, self.c2, self.c3 = (conv3x3(c_in, channels) for c_in in (channels, rest, rest))
        self.c4 = conv3x3(rest, self.keep)
        self.act = nn.LeakyReLU(0.05)
        self.c5, self.cca = conv1x1(channels, channels), CCA(channels)

    def forward(self, x: Tensor) -> Tensor:
        steps = (nn.Sequential(conv, self.act) for conv in (self.c1, self.c2, self.c3))
        return x + self.c5(self.cca(multidistilled(x, steps, self.c4, self.keep)))


class IMDN(DistillationTrunk):
    """IMDN (Hui et al., ACM Multimedia 2019), 694, 703 and 715 K parameters at x2, x3 and x4.

    Example:
        >>> sum(p.numel() for p in IMDN(4).parameters())
        715176
    """

    block_name = "IMDB"
    min_size = 1

    def __init__(self, scale: int = 4, num_feats: int = 64, num_blocks: int = 6) -> None:
        super().__init__(scale, num_feats, num_blocks, conv3x3, lambda: IMDB(num_feats))


class PlainIMDB(nn.Module):
    """:class:`IMDB` without attention, its layers named as in the challenge's file."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.keep, rest = channels // 4, channels - channels // 4
        self.conv1, self.conv2, self.conv3 = (
            nn.Sequential(conv3x3(c_in, channels), nn.LeakyReLU(0.05)) for c_in in (channels, rest, rest)
        )
        self.conv4 = conv3x3(rest, self.keep)
        self.conv1x1 = conv1x1(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1x1(multidistilled(x, (self.conv1, self.conv2, self.conv3), self.conv4, self.keep))


class _Shortcut(nn.Module):
    """``x + sub(x)``; the name is part of the released state dict."""

    def __init__(self, sub: nn.Sequential) -> None:
        super().__init__()
        self.sub = sub

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sub(x)


class ChallengeIMDN(nn.Module):
    """The baseline of the NTIRE 2022 challenge: eight blocks without CCA in a chain, 894 K parameters at x4."""

    min_size = 1

    def __init__(self, scale: int = 4, num_feats: int = 64, num_blocks: int = 8) -> None:
        super().__init__()
        self.scale = scale
        self.halo = 4 * num_blocks + 3
        blocks = [PlainIMDB(num_feats) for _ in range(num_blocks)]
        self.model = nn.Sequential(
            conv3x3(3, num_feats),
            _Shortcut(nn.Sequential(*blocks, conv3x3(num_feats, num_feats))),
            conv3x3(num_feats, 3 * scale**2),
            nn.PixelShuffle(scale),
        )

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, 3, self.min_size)
        return self.model(x)
