"""DRN-S and DRN-L with dual regression (Guo et al., CVPR 2020, arXiv 2003.07018; TPAMI 2024, arXiv 2207.07929).

The network P upscales in steps of two and gives an image at every size; small networks D_k bring each back to the size
below. ``L = sum_k |p^k - x^k| + lambda * sum_k |D_k(p^k) - x^(k-1)|`` (means over pixels) trains both. Shapes:
``(N, 3, H, W)`` in [0, 1] to ``(N, 3, rH, rW)``, not clipped; 0..255 inside, as released.

Where code and paper part ways, the code is followed, because the weights and counts are its own: the input is first
upscaled by *PyTorch's* bicubic (a = -0.75, not antialiased), the two mean shifts are trained, all levels are computed
at inference although the last alone is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.data.patches import Batch, Patches
from nsrlib.images import imresize
from nsrlib.layers import check_input
from nsrlib.models.baselines import ChannelAttention, conv1x1, conv3x3
from nsrlib.models.weights import load_weights

Widths = Sequence[int] | None
MEAN = (0.4488, 0.4371, 0.4040)
"""Mean colour of DIV2K, [0, 1]."""

_SEARCHED = {  # a hexadecimal digit a layer: width / 4
    (4, 0.3): "359AAB9ABA9BA9B99AAABB9A9BABBBAAABABABAABBAAB9BABBABBBABBABABBBB",
    (4, 0.5): "1248767676887678878787887887687878888888878888878788888788888878",
    (4, 0.7): "1244354554454554545554554545455455555455545455545545555554545555",
    (8, 0.3): "13589BA9AABBBABBA9AABBBABA9BBBBBAB9BB9AB9BAB9BABAABABABBAABBABBBB5554455455455555455455455454555",
    (8, 0.5): "124688787888788788867878886876787687878887687877888767878788788883344444444444434444344443444444",
    (8, 0.7): "124545355545554544545555544554555454555545455544555454554544545552221222222122222222122221222222",
}


def full_widths(scale: int, num_feats: int, num_blocks: int) -> dict[str, int]:
    """Inner widths of the unpruned network by layer: those that search and pruning may lower.

    In the order of the released configurations: ``down0`` ..., then for each stage ``up0.rcab0`` ... and
    ``up0.shuffle``, the channels between pixel shuffle and 1x1 convolution.
    """
    levels = _levels(scale)
    widths = {f"down{p}": 2**p * num_feats for p in range(levels)}
    for i in range(levels):
        c = _stage_width(levels, i, num_feats)
        widths |= {f"up{i}.rcab{b}": c for b in range(num_blocks)} | {f"up{i}.shuffle": c}
    return widths


def searched_widths(ratio: float, scale: int) -> list[int]:
    """The widths that the authors' search found for DRN-S: ``search_*.txt`` of guoyongcs/DRC, commit d374450."""
    if (scale, ratio) not in _SEARCHED:
        have = ", ".join(f"{r} at x{s}" for s, r in _SEARCHED)
        raise ValueError(f"no searched widths for ratio={ratio} at x{scale}; there are: {have}")
    return [4 * int(letter, 16) for letter in _SEARCHED[scale, ratio]]


def uniform_widths(full: Sequence[int], ratio: float) -> list[int]:
    """``ceil(c * (1 - ratio))`` of every width: the manually designed networks."""
    check_ratio(ratio)
    return [max(1, math.ceil(c * (1 - ratio) - 1e-9)) for c in full]


def check_ratio(ratio: float) -> None:
    if not 0 < ratio < 1:
        raise ValueError(f"ratio is the share of channels to remove, between 0 and 1, got {ratio!r}")


def check_widths(widths: Sequence[int], full: dict[str, int]) -> list[int]:
    """``widths`` as a list: one for each layer, whole, from 1 to the full width."""
    if len(widths) != len(full):
        listed = list(full)
        few = ", ".join(listed if len(listed) < 5 else [*listed[:2], "...", listed[-1]])
        raise ValueError(f"widths must be {len(full)} numbers, one for each of {few}; got {len(widths)}")
    for (name, most), width in zip(full.items(), widths, strict=True):
        if int(width) != width or not 1 <= width <= most:
            raise ValueError(f"width of {name} must be a whole number from 1 to {most}, got {width!r}")
    return [int(w) for w in widths]


def _levels(scale: int) -> int:
    if scale not in (2, 4, 8):
        raise ValueError(f"scale must be 2, 4 or 8, got {scale!r}")
    return int(scale).bit_length() - 1


def _stage_width(levels: int, stage: int, num_feats: int) -> int:
    return 2 ** (levels - max(stage - 1, 0)) * num_feats


class DownBlock(nn.Module):
    """Half the size: strided 3x3 convolution, LeakyReLU 0.2, 3x3 convolution, no bias. Also every dual network."""

    def __init__(self, c_in: int, inner: int, c_out: int) -> None:
        super().__init__()
        self.dual_module = nn.Sequential(
            nn.Sequential(nn.Conv2d(c_in, inner, 3, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)),
            nn.Conv2d(inner, c_out, 3, 1, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.dual_module(x)


class RCAB(nn.Module):
    """Residual channel attention block; ``inner`` channels between its two convolutions."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(channels, inner), nn.ReLU(inplace=True), conv3x3(inner, channels), ChannelAttention(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Slot(NamedTuple):
    """A prunable width: the channels between two convolutions of a DRN, ``producer`` and ``consumer``.

    ``name`` is as in :func:`full_widths`; so many (``group``) outputs of the producer make one channel.
    """

    name: str
    producer: str
    consumer: str
    group: int = 1


class DRN(nn.Module):
    """Dual regression network of any size; :class:`DRNS` and :class:`DRNL` are the published ones.

    Args:
        num_feats: f, channels at full size. num_blocks: B, attention blocks in each of log2(scale) stages.
        widths: inner width of every layer as :func:`full_widths` orders them; default: full.
    """

    min_size = 1

    def __init__(self, scale: int = 4, num_feats: int = 16, num_blocks: int = 30, widths: Widths = None) -> None:
        super().__init__()
        for name, value in (("num_feats", num_feats), ("num_blocks", num_blocks)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        f, levels = num_feats, _levels(scale)
        self.scale, self.num_feats, self.num_blocks, self.num_levels = int(scale), f, num_blocks, levels
        full = full_widths(scale, f, num_blocks)
        inner = dict(zip(full, check_widths(list(full.values()) if widths is None else widths, full), strict=True))
        # Context a tile needs; the attention looks at the whole picture, so that tiles differ a little in any case.
        self.halo = math.ceil(sum((2 * num_blocks + 1) / 2**i for i in range(levels))) + 6
        self.upsample = nn.Upsample(scale_factor=scale, mode="bicubic", align_corners=False)
        self.sub_mean, self.add_mean = _mean_shift(-1), _mean_shift(1)
        self.head = conv3x3(3, f)
        self.down = nn.ModuleList(DownBlock(2**p * f, inner[f"down{p}"], 2 ** (p + 1) * f) for p in range(levels))
        self.up_blocks = nn.ModuleList()
        self.slots = [Slot(f"down{p}", f"down.{p}.dual_module.0.0", f"down.{p}.dual_module.1") for p in range(levels)]
        for i in range(levels):
            c, middle = _stage_width(levels, i, f), inner[f"up{i}.shuffle"]
            self.up_blocks.append(
                nn.Sequential(
                    *(RCAB(c, inner[f"up{i}.rcab{b}"]) for b in range(num_blocks)),
                    nn.Sequential(conv3x3(c, 4 * middle), nn.PixelShuffle(2)),
                    conv1x1(middle, 2 ** (levels - i - 1) * f),
                )
            )
            start = f"up_blocks.{i}"
            for b in range(num_blocks):
                self.slots.append(Slot(f"up{i}.rcab{b}", f"{start}.{b}.body.0", f"{start}.{b}.body.2"))
            self.slots.append(Slot(f"up{i}.shuffle", f"{start}.{num_blocks}.0", f"{start}.{num_blocks + 1}", 4))
        self.tail = nn.ModuleList(conv3x3(_stage_width(levels, i, f), 3) for i in range(levels + 1))

    @property
    def widths(self) -> list[int]:
        """In the order of :func:`full_widths`."""
        return [self.get_submodule(slot.consumer).in_channels for slot in self.slots]  # type: ignore[misc]

    def forward(self, x: Tensor, all_levels: bool = False) -> Any:
        """The largest image, or with ``all_levels`` the list of all, ``(N, 3, 2^k H, 2^k W)``, smallest first."""
        check_input(x, type(self).__name__, 3, self.min_size)
        copies = [self.head(self.sub_mean(self.upsample(x * 255)))]
        for down in self.down:
            copies.append(down(copies[-1]))
        found = [copies.pop()]
        for up in self.up_blocks:
            found.append(torch.cat((up(found[-1]), copies.pop()), 1))
        images = [self.add_mean(tail(f)) / 255 for tail, f in zip(self.tail, found, strict=True)]
        return images if all_levels else images[-1]


def _mean_shift(sign: int) -> nn.Conv2d:
    conv = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[:, :, None, None])
        conv.bias.copy_(sign * 255 * torch.tensor(MEAN))  # type: ignore[union-attr]
    return conv


class DRNS(DRN):
    """DRN-S: 4.8 M parameters at x4, 5.4 M at x8; x2, which was not published, takes the sizes of x4."""

    def __init__(
        self, scale: int = 4, num_feats: int | None = None, num_blocks: int = 30, widths: Widths = None
    ) -> None:
        super().__init__(scale, num_feats or (8 if scale == 8 else 16), num_blocks, widths)


class DRNL(DRN):
    """DRN-L: 9.8 M parameters at x4, 10.0 M at x8; x2, which was not published, takes the sizes of x4."""

    def __init__(
        self, scale: int = 4, num_feats: int | None = None, num_blocks: int | None = None, widths: Widths = None
    ) -> None:
        f, b = (10, 36) if scale == 8 else (20, 40)
        super().__init__(scale, num_feats or f, num_blocks or b, widths)


def dual_networks(scale: int, num_feats: int) -> nn.ModuleList:
    """D_1 .. D_S: each halves an image, ``(N, 3, H, W)`` to ``(N, 3, H/2, W/2)``."""
    return nn.ModuleList(DownBlock(3, num_feats, 3) for _ in range(_levels(scale)))


load_dual_weights = load_weights

RELEASED: dict[tuple[str, int], str] = {
    **{(f"DRN-{size}", scale): f"DRN{size}{scale}x.pt" for size in "SL" for scale in (4, 8)},
    **{(f"DRN-S{p}", scale): f"DRNS_{scale}x_Prune_{p}.pt" for p in (30, 50, 70) for scale in (4, 8)},
}
"""Files that the authors released beside guoyongcs/DRN (v0.1) and guoyongcs/DRC (v1.1)."""


def released(network: str, scale: int) -> DRN | None:
    """A network with the authors' weights, or None where their file is not at hand.

    Their files have no published hash, so they are neither downloaded nor verified: put them into ``weights/`` of a
    folder of ``NSRLIB_DATA`` or of the cache.
    """
    from nsrlib.data.download import local_roots

    if (network, scale) not in RELEASED:
        have = ", ".join(f"{n} x{s}" for n, s in RELEASED)
        raise ValueError(f"{network} x{scale} was not released; there are: {have}")
    places = [root / "weights" / RELEASED[network, scale] for _, root in local_roots()]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        return None
    percent = network.removeprefix("DRN-S")
    widths = searched_widths(int(percent) / 100, scale) if percent.isdigit() else None
    model = DRNL(scale) if network == "DRN-L" else DRNS(scale, widths=widths)
    return cast(DRN, load_weights(model, path).eval())


def pyramid(batch: Batch) -> list[Tensor]:
    """Targets of all levels: the input itself, bicubic reductions of the target, the target.

    The authors read the middle levels from files. Here they are MATLAB's bicubic of the *patch*, in float, neither
    rounded nor clipped, and within ``2r`` pixels of its edge the patch is mirrored where the files go on.
    """
    (h, w), (hr_h, hr_w) = batch.input.shape[-2:], batch.target.shape[-2:]
    r = hr_h // h
    if r not in (2, 4, 8) or (hr_h, hr_w) != (r * h, r * w):
        raise ValueError(f"the target must be 2, 4 or 8 times the input's size, got {hr_h}x{hr_w} for {h}x{w}")
    middle = [imresize(batch.target, size=(2**k * h, 2**k * w)) for k in range(1, _levels(r))]
    return [batch.input, *middle, batch.target]


def dual_regression_loss(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], duals: Sequence[Callable[[Tensor], Tensor]] = ()
) -> tuple[Tensor, Tensor]:
    """Primal and dual term, neither weighted: sums over levels of mean absolute differences.

    Args:
        outputs: p^0 .. p^S. targets: x^0 .. x^S. duals: D_1 .. D_S, or none: the dual term is 0 then.
    """
    if len(outputs) != len(targets) or (len(duals) and len(duals) != len(outputs) - 1):
        raise ValueError(
            f"{len(outputs)} outputs need as many targets and {len(outputs) - 1} dual networks or none, "
            f"got {len(targets)} and {len(duals)}"
        )
    primal = _summed(outputs, targets, "level {level} of the pyramid is {want}, but the output there {got}")
    if not len(duals):
        return primal, primal.new_zeros(())
    returned = [dual(p) for dual, p in zip(duals, outputs[1:], strict=True)]
    return primal, _summed(returned, targets[:-1], "dual network {dual} returns {got}, but level {level} is {want}")


def _summed(images: Sequence[Tensor], targets: Sequence[Tensor], mismatch: str) -> Tensor:
    for level, (y, x) in enumerate(zip(images, targets, strict=True)):
        if y.shape != x.shape:
            raise ValueError(mismatch.format(level=level, dual=level + 1, got=tuple(y.shape), want=tuple(x.shape)))
    return torch.stack([F.l1_loss(y, x) for y, x in zip(images, targets, strict=True)]).sum()


def brought_back(duals: Sequence[Callable[[Tensor], Tensor]], image: Tensor) -> Tensor:
    """``D_1(...D_S(image))``: all the way down."""
    for dual in reversed(list(duals)):
        image = dual(image)
    return image


def drn_losses(
    lambda_: float = 0.1,
    *,
    dual_hr: bool = False,
    unpaired: Patches | None = None,
    unpaired_share: float = 0.3,
) -> Callable[..., dict[str, Tensor]]:
    """DRN's losses for :class:`nsrlib.training.Hooks`, with ``networks={"dual": dual_networks(...)}``.

    Args:
        lambda_: weight of the dual term. 0: without; the dual networks may be left out then.
        dual_hr: also bring HR down and up again, ``lambda_ * |P(D_1(...D_S(y))) - y|``: twice the cost.
        unpaired: low-resolution images without HR (CVPR 2020, Sec. 3.3; its code was not released), whose target is
            never looked at: they add ``lambda_ * |D_1(...D_S(p^S)) - x|``.
        unpaired_share: rho, their share of each batch, on top of the paired patches that ``fit`` draws. All terms are
            means over both kinds, so the primal one counts ``1 - rho``.
    """
    if not 0 <= lambda_ < math.inf:
        raise ValueError(f"lambda_ must be 0 or more, got {lambda_!r}")
    if not 0 < unpaired_share < 1:
        raise ValueError(f"unpaired_share must be between 0 and 1, got {unpaired_share!r}")
    if lambda_ == 0 and (dual_hr or unpaired is not None):
        raise ValueError("dual_hr and unpaired are dual terms: they need lambda_ above 0")

    def losses(model: Any, batch: Batch, step: int, dual: Any = None) -> dict[str, Tensor]:
        nonlocal unpaired
        if lambda_ and dual is None:
            raise ValueError('lambda_ above 0 needs networks={"dual": dual_networks(scale, num_feats)}')
        duals = list(dual) if lambda_ else []
        primal, back = dual_regression_loss(model(batch.input, all_levels=True), pyramid(batch), duals)
        if unpaired is not None:
            unpaired = unpaired.to(batch.input.device)  # once
            n = len(batch.input)
            m = max(1, round(n * unpaired_share / (1 - unpaired_share)))
            # fit seeds PyTorch's generator anew for every step and process
            x = unpaired.batch(m, int(torch.randint(2**62, ()))).input
            alone = F.l1_loss(brought_back(duals, model(x)), x)
            primal, back = primal * n / (n + m), (n * back + m * alone) / (n + m)
        terms = {"primal": primal}
        if lambda_:
            terms["dual"] = lambda_ * back
        if dual_hr:
            terms["dual HR"] = lambda_ * F.l1_loss(model(brought_back(duals, batch.target)), batch.target)
        return terms

    return losses


def training_setup(network: DRN, recipe: Any, lambda_: float = 0.1, dual_hr: bool = False) -> dict[str, Any]:
    """Fields of :class:`~nsrlib.training.Hooks`: losses, and dual networks that start from ``recipe.seed`` alone."""
    networks = {}
    if lambda_:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            networks["dual"] = dual_networks(network.scale, network.num_feats)
    return {"losses": drn_losses(lambda_, dual_hr=dual_hr), "networks": networks}


class Visibility(NamedTuple):
    """How much of an HR image a bicubic reduction fixes: rank of ``pixels`` unknowns, its share, singular values."""

    pixels: int
    rank: int
    share: float
    smallest: float
    largest: float


def visibility(scale: int, size: int = 32) -> Visibility:
    """Rank of MATLAB's bicubic reduction of ``size`` x ``size`` images by ``scale``.

    The map is ``X -> A X A^T``: its rank is that of A squared, its singular values are products of A's. The dual loss
    of ``y + z`` equals that of ``y`` for every z in the null space, a share ``1 - 1 / r^2`` of all directions.
    """
    values = np.linalg.svd(_reduction(scale, size), compute_uv=False)
    rank = int((values > 1e-10).sum())  # rounding moves them by less
    return Visibility(size**2, rank**2, rank**2 / size**2, float(values[rank - 1] ** 2), float(values[0] ** 2))


def invisible(image: Tensor, scale: int) -> Tensor:
    """The part of ``(..., n, n)`` that bicubic reduction by ``scale`` maps to zero: ``Z - A+ A Z (A+ A)^T``."""
    a = torch.from_numpy(_reduction(scale, image.shape[-1])).to(image)
    if image.shape[-2] != image.shape[-1]:
        raise ValueError(f"image must be square, got {image.shape[-2]}x{image.shape[-1]}")
    seen = torch.linalg.pinv(a) @ a
    return image - seen @ image @ seen.T


def _reduction(scale: int, size: int) -> np.ndarray:
    """A, ``(size / scale, size)`` float64."""
    if scale < 2 or size < scale or size % scale:
        raise ValueError(f"size must be a multiple of the scale, got {size} at x{scale}")
    return imresize(np.eye(size), (1 / scale, 1.0))
