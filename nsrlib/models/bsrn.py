"""BSRN and BSRN-S (Li et al., "Blueprint Separable Residual Network", CVPR Workshops 2022, arXiv 2205.05996).

RFDN's feature distillation with blueprint separable convolutions, ESA and contrast-aware channel attention.
Shapes: input ``(N, 3, H, W)`` in [0, 1], sides at least 15; output ``(N, 3, rH, rW)``, not clipped.

Equations are numbered as in the notebook. Where code and paper part ways: the official class hard-wires 8 blocks; here
``num_blocks`` counts. For the ``standard`` ablation the official ESA forgets the padding of three convolutions and dies
on 48-pixel patches; here they are padded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.layers import ESA, activation, check_input, conv_layer


class CCA(nn.Module):
    """Contrast-aware channel attention (IMDN, Hui et al. 2019), eq. 11: gate channels by ``std + mean``.

    The standard deviation is the population one over the whole image, so a tile sees another value than the image.
    ``eps`` (inside the root) only keeps the gradient of a constant channel finite: 1e-12 changes no measured digit.
    """

    def __init__(self, channels: int, reduction: int = 16, eps: float = 1e-12) -> None:
        super().__init__()
        self.eps = eps
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        hidden = channels // reduction
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = self.avg_pool(x)
        variance = (x - mean).square().mean((2, 3), keepdim=True)
        return x * self.conv_du((variance + self.eps).sqrt() + mean)


class ESDB(nn.Module):
    """Efficient separable distillation block, eqs. 7 to 9."""

    def __init__(self, channels: int, conv: str, act: str, esa: bool, cca: bool) -> None:
        super().__init__()
        half = channels // 2
        self.c1_d, self.c2_d, self.c3_d = (nn.Conv2d(channels, half, 1) for _ in range(3))
        self.c1_r, self.c2_r, self.c3_r = (conv_layer(conv, channels, channels) for _ in range(3))
        self.c4 = conv_layer(conv, channels, half)
        self.c5 = nn.Conv2d(4 * half, channels, 1)
        self.esa = ESA(channels, channels // 4, conv, act) if esa else nn.Identity()
        self.cca = CCA(channels) if cca else nn.Identity()
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        d1 = self.act(self.c1_d(x))
        r1 = self.act(self.c1_r(x) + x)
        d2 = self.act(self.c2_d(r1))
        r2 = self.act(self.c2_r(r1) + r1)
        d3 = self.act(self.c3_d(r2))
        r3 = self.act(self.c3_r(r2) + r2)
        d4 = self.act(self.c4(r3))
        return self.cca(self.esa(self.c5(torch.cat([d1, d2, d3, d4], 1)))) + x


class PixelShuffleUpsampler(nn.Module):
    """3x3 convolution and pixel shuffle in one step, whatever the scale (eq. 5)."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.upsampleOneStep = nn.Sequential(nn.Conv2d(channels, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.upsampleOneStep(x)


class BSRN(nn.Module):
    """The network of the paper's comparison table; ``conv``, ``esa``, ``cca`` and ``act`` give its ablations.

    Args:
        scale: 2, 3 or 4.
        num_feats: C. num_blocks: n.
        conv: kind of every 3x3 convolution except the upsampler's.
        esa, cca: with spatial, with channel attention.
        act: activation of blocks, ESA and fusion.
    """

    min_size = 15

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
        super().__init__()
        if num_feats < 16 or num_feats % 2:
            raise ValueError(f"num_feats must be even and at least 16 (CCA divides it by 16), got {num_feats}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        self.scale, self.num_blocks = scale, num_blocks
        # Context a tile needs: every 3x3 convolution of the trunk counts. ESA and CCA look further, at low weight.
        self.halo = 4 * num_blocks + 3
        self.fea_conv = conv_layer(conv, 12, num_feats)
        for k in range(1, num_blocks + 1):
            self.add_module(f"B{k}", ESDB(num_feats, conv, act, esa, cca))
        self.c1 = nn.Conv2d(num_blocks * num_feats, num_feats, 1)
        self.c2 = conv_layer(conv, num_feats, num_feats)
        self.upsampler = PixelShuffleUpsampler(num_feats, scale)
        self.act = activation(act)

    @property
    def blocks(self) -> list[ESDB]:
        return [getattr(self, f"B{k}") for k in range(1, self.num_blocks + 1)]

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, 3, self.min_size)
        shallow = self.fea_conv(x.repeat(1, 4, 1, 1))  # (N, 12, H, W) -> (N, C, H, W)
        features, f = [], shallow
        for block in self.blocks:
            f = block(f)
            features.append(f)
        fused = self.c2(self.act(self.c1(torch.cat(features, 1))))
        return self.upsampler(fused + shallow)  # (N, 3, rH, rW)


# --- BSRN-S -----------------------------------------------------------------------------------------------------------


class Pointwise(nn.Linear):
    """A 1x1 convolution whose weight is 2-D, as ``nn.Linear`` has it.

    ``as_linear`` walks the official way (to channels last, Linear, back); the default calls a convolution, which is
    what the paper calls BSRN-S-opt. Same numbers, other speed.
    """

    as_linear = False

    def forward(self, x: Tensor) -> Tensor:
        if self.as_linear:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


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


class ESDBSmall(nn.Module):
    """ESDB of BSRN-S: no CCA; a learnt weight per channel and one more pointwise layer instead."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.c1_d, self.c2_d, self.c3_d = (Pointwise(channels, half) for _ in range(3))
        self.c1_r, self.c2_r, self.c3_r = (BSConvBias(channels, channels) for _ in range(3))
        self.c4 = BSConvBias(channels, half)
        self.c5 = Pointwise(4 * half, channels)
        self.esa = ESASmall(channels, channels // 4)
        self.cw = nn.Parameter(torch.empty(1, channels).normal_(1, 0.2))
        self.conv_out = Pointwise(channels, channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        d1 = self.act(self.c1_d(x))
        r1 = self.act(self.c1_r(x) + x)
        d2 = self.act(self.c2_d(r1))
        r2 = self.act(self.c2_r(r1) + r1)
        d3 = self.act(self.c3_d(r2))
        r3 = self.act(self.c3_r(r2) + r2)
        d4 = self.act(self.c4(r3))
        attended = self.esa(self.c5(torch.cat([d1, d2, d3, d4], 1)))
        return self.conv_out(attended * self.cw[:, :, None, None]) + x


class BSRNS(nn.Module):
    """BSRN-S, the entry to the NTIRE 2022 challenge: not just a narrower BSRN (see :class:`ESDBSmall`).

    Args:
        scale: 4 in the challenge.
        as_linear: run pointwise layers through ``nn.Linear`` as the submission did; False is BSRN-S-opt.
    """

    min_size = 15

    def __init__(self, scale: int = 4, num_feats: int = 48, num_blocks: int = 5, as_linear: bool = False) -> None:
        super().__init__()
        self.scale, self.num_blocks = scale, num_blocks
        self.halo = 4 * num_blocks + 3
        self.fea_conv = BSConvBias(12, num_feats)
        for k in range(1, num_blocks + 1):
            self.add_module(f"B{k}", ESDBSmall(num_feats))
        self.c1 = Pointwise(num_blocks * num_feats, num_feats)
        self.c2 = BSConvBias(num_feats, num_feats)
        self.upsampler = PixelShuffleUpsampler(num_feats, scale)
        for layer in self.modules():
            if isinstance(layer, Pointwise):
                layer.as_linear = as_linear

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, 3, self.min_size)
        shallow = self.fea_conv(x.repeat(1, 4, 1, 1))
        features, f = [], shallow
        for k in range(1, self.num_blocks + 1):
            f = getattr(self, f"B{k}")(f)
            features.append(f)
        fused = self.c2(F.gelu(self.c1(torch.cat(features, 1))))
        return self.upsampler(fused + shallow)
