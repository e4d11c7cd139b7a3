"""Networks that the papers compare with: bicubic, IMDN, RFDN.

All take ``(N, 3, H, W)`` in [0, 1] and return ``(N, 3, rH, rW)``, not clipped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsrlib.images import imresize
from nsrlib.layers import ESA, DistillationBlock, check_input, conv_layer


class Bicubic(nn.Module):
    """MATLAB's bicubic upscaling as a network without parameters."""

    min_size = 1
    halo = 3

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, "bicubic", x.shape[1], self.min_size)
        return imresize(x.double(), self.scale).to(x.dtype)


class RFDB(DistillationBlock):
    """Residual feature distillation block: 1x1 convolutions distil, 3x3 convolutions refine."""

    def __init__(self, channels: int, conv: str) -> None:
        super().__init__()
        half = channels // 2
        self.c1_d, self.c2_d, self.c3_d = (nn.Conv2d(channels, half, 1) for _ in range(3))
        self.c1_r, self.c2_r, self.c3_r = (conv_layer(conv, channels, channels) for _ in range(3))
        self.c4 = conv_layer(conv, channels, half)
        self.c5 = nn.Conv2d(4 * half, channels, 1)
        self.esa = ESA(channels, channels // 4, conv, "relu")
        self.act = nn.LeakyReLU(0.05)

    def forward(self, x: Tensor) -> Tensor:
        return self.esa(self.c5(self.distil(x)))


class RFDN(nn.Module):
    """RFDN as released (Liu et al., ECCV Workshops 2020; winner of the AIM 2020 challenge).

    50 channels, 4 blocks, 433 K parameters. The network of its paper (48 channels, 6 blocks, CCA, 550 K) was never
    released. The released file works on values 0..255; the factor is applied here, so this network takes [0, 1] like
    all others.

    Args:
        scale: any whole number.
        conv: kind of the 3x3 convolutions in head, blocks, ESA and ``LR_conv`` (BSRN's decomposition table).
    """

    min_size = 15
    img_range = 255.0

    def __init__(self, scale: int = 4, num_feats: int = 50, num_blocks: int = 4, conv: str = "standard") -> None:
        super().__init__()
        self.scale, self.num_blocks = scale, num_blocks
        self.halo = 4 * num_blocks + 3
        self.fea_conv = conv_layer(conv, 3, num_feats)
        for k in range(1, num_blocks + 1):
            self.add_module(f"B{k}", RFDB(num_feats, conv))
        self.c = nn.Sequential(nn.Conv2d(num_blocks * num_feats, num_feats, 1), nn.LeakyReLU(0.05))
        self.LR_conv = conv_layer(conv, num_feats, num_feats)
        self.upsampler = nn.Sequential(nn.Conv2d(num_feats, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, 3, self.min_size)
        head = self.fea_conv(x * self.img_range)
        features, f = [], head
        for k in range(1, self.num_blocks + 1):
            f = getattr(self, f"B{k}")(f)
            features.append(f)
        body = self.LR_conv(self.c(torch.cat(features, 1)))
        return self.upsampler(body + head) / self.img_range


class IMDB(nn.Module):
    """Information multi-distillation block without CCA: three times keep 16 channels and pass on 48."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.keep = channels // 4
        rest = channels - self.keep

        def conv(c_in: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(c_in, channels, 3, padding=1), nn.LeakyReLU(0.05))

        self.conv1, self.conv2, self.conv3 = conv(channels), conv(rest), conv(rest)
        self.conv4 = nn.Conv2d(rest, self.keep, 3, padding=1)
        self.conv1x1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        sizes = [self.keep, x.shape[1] - self.keep]
        k1, f = self.conv1(x).split(sizes, 1)
        k2, f = self.conv2(f).split(sizes, 1)
        k3, f = self.conv3(f).split(sizes, 1)
        return x + self.conv1x1(torch.cat([k1, k2, k3, self.conv4(f)], 1))


class _Shortcut(nn.Module):
    """``x + sub(x)``; the name is part of the released state dict."""

    def __init__(self, sub: nn.Sequential) -> None:
        super().__init__()
        self.sub = sub

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sub(x)


class IMDN(nn.Module):
    """IMDN as the NTIRE 2022 challenge's baseline (64 channels, 8 blocks, no CCA, 894 K); its paper's has 715 K."""

    min_size = 1

    def __init__(self, scale: int = 4, num_feats: int = 64, num_blocks: int = 8) -> None:
        super().__init__()
        self.scale = scale
        self.halo = 4 * num_blocks + 3
        blocks = [IMDB(num_feats) for _ in range(num_blocks)]
        self.model = nn.Sequential(
            nn.Conv2d(3, num_feats, 3, padding=1),
            _Shortcut(nn.Sequential(*blocks, nn.Conv2d(num_feats, num_feats, 3, padding=1))),
            nn.Conv2d(num_feats, 3 * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, 3, self.min_size)
        return self.model(x)
