"""NSR: neural sparse representation (Fan et al., NeurIPS 2020, arXiv 2006.04357).

WDSR's trunk, in whose blocks every convolution owns k kernels. A gate, one Linear layer on the pooled input of that
convolution and a softmax over the k kernels for each of d cardinal groups of filters, mixes them into one kernel
(:func:`nsrlib.ops.mixed_conv2d`; Eqs. 9 and 10, numbered as in the notebook): k times the parameters for the work of
one. Training pools over the patch. On a picture there are three ways to choose the gates, :data:`INFERENCE`:

``map``    a gate for every cell of the picture, pooled over a window of the training patch's size (not the paper's).
``tiles``  as the authors evaluate: overlapping patches, each with a gate of its own, merged; small pictures as a whole.
``whole``  one gate for all, pooled over the whole picture.

Shapes: ``(N, C, H, W)`` in [0, 1] to ``(N, C, rH, rW)``, not clipped. Where code and paper part ways: the paper's MLP
is one Linear layer in the code, and so here; its derivation shares a gate between the two layers of a block
(``paired=True``), its code does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib import ops
from nsrlib.layers import WeightNormConv2d
from nsrlib.models.baselines import WideBlock, WideFrame, check_wide, dense_block, residual

if TYPE_CHECKING:
    import pandas as pd

VARIANTS = ("softmax", "sigmoid", "hard", "gumbel", "branches", "se", "dense")
"""How k kernels share the work.

``softmax``   mixed by a softmax over the k kernels: the paper's method.
``sigmoid``   mixed by independent sigmoids: CondConv.
``hard``      the kernel of the largest gate, with straight-through gradients (Eq. 6).
``gumbel``    the same, after Gumbel noise on the logits in training.
``branches``  k hidden layers evaluated and their results mixed, before Eq. 9 makes them one; the gate is paired.
``se``        one kernel, its filters scaled by a sigmoid each: squeeze and excitation. It is ``softmax`` with d = c_out
              and k = 2, the second kernel zero.
``dense``     one kernel and no gate.
"""

INFERENCE = ("map", "tiles", "whole")
TILE_MARGIN, TILE_OVERLAP = 4, 8
BORDER_WEIGHT = 0.3
"""Of the patches that fill the border when tiles are merged."""


class Gate(NamedTuple):
    """Weights of the kernels ``(N, k, d)``, or ``(N, k, d, GH, GW)`` for cells of ``tile`` pixels."""

    values: Tensor
    tile: int | None


@dataclass
class Gating:
    """What all gates of a network share; may be changed between calls.

    Attributes:
        temperature: logits are divided by it.
        patch: side of the training patches, and so of the tiles and of the map's windows.
        cell: side of the map's cells. Below 8 pixels k convolutions are mixed pixel by pixel, at k times the cost.
    """

    variant: str = "softmax"
    temperature: float = 1.0
    inference: str = "map"
    patch: int = 48
    cell: int = 32
    hard: bool = False

    @property
    def one_hot(self) -> bool:
        return self.hard or self.variant in ("hard", "gumbel")

    @property
    def branches(self) -> bool:
        """Whether hidden layers, not kernels, are mixed; one-hot gates make that the same (within a cell of a map)."""
        return self.variant == "branches" and not self.hard

    def __call__(self, x: Tensor, mlp: nn.Module, k: int, training: bool) -> Gate:
        """Gates of a layer from its input ``(N, C, H, W)``."""
        mapped = self.inference == "map" and not training and max(x.shape[2:]) > max(self.patch, self.cell)
        pooled = pool_cells(x, self.cell, self.patch) if mapped else x.mean((2, 3))  # (N, C[, GH, GW])
        z = mlp(pooled.movedim(1, -1)).movedim(-1, 1).unflatten(1, (k, -1))  # (N, k, d[, GH, GW])
        if self.variant == "gumbel" and training:
            z = z - torch.empty_like(z).exponential_().log()
        z = z / self.temperature
        values = z.sigmoid() if self.variant in ("sigmoid", "se") else z.softmax(1)
        return Gate(values.to(x.dtype), self.cell if mapped else None)


def entropy(gates: Tensor) -> Tensor:
    """Entropy in nats over the k kernels, axis 1, of gates that are divided by their sum first."""
    p = gates / gates.sum(1, keepdim=True)
    return -torch.xlogy(p, p).sum(1)


def pool_cells(x: Tensor, cell: int, window: int) -> Tensor:
    """Means over windows round every cell: ``(N, C, H, W)`` to ``(N, C, ceil(H / cell), ceil(W / cell))``.

    A window never leaves the picture: near the border it is moved inwards, like the patches of training.
    """
    rows, columns = (_windows(side, cell, window, x) for side in x.shape[2:])  # (GH, H) and (GW, W)
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        means = (rows @ x.permute(0, 2, 3, 1).flatten(2)).unflatten(2, (x.shape[3], -1))  # (N, GH, W, C), no copy
        return (columns @ means).permute(0, 3, 1, 2)
    return rows @ x @ columns.T


def window_starts(side: int, cell: int, window: int) -> Tensor:
    """Where the windows of :func:`pool_cells` begin along a side of ``side`` pixels, one for each cell, ``int64``."""
    return (torch.arange(0, side, cell) + (cell - window) // 2).clamp(0, max(side - window, 0))


def _windows(side: int, cell: int, window: int, like: Tensor) -> Tensor:
    """A matrix that takes means along one side: a row for each cell, ``1 / window`` where its window lies."""
    window = min(window, side)
    at = torch.arange(side, device=like.device)
    first = window_starts(side, cell, window).to(like.device)[:, None]
    return ((at >= first) & (at < first + window)).to(like.dtype) / window


class MixedConv2d(WeightNormConv2d):
    """3x3 convolution with k kernels, weight-normalised before a gate mixes them (Eqs. 9 and 10).

    Filter ``i c_out + j r + s``, ``r = c_out / d``, belongs to kernel i and to cardinal group j.

    Attributes:
        k, d: kernels, and cardinal groups that choose among them. gates: of the last call, detached.
        copies: multiply-adds of the last call over those of one convolution; ``mixing``: those it took beside.
    """

    def __init__(
        self, c_in: int, c_out: int, gain: float, gating: Gating, k: int, d: int, own_gate: bool = True
    ) -> None:
        if c_out % d:
            raise ValueError(f"cardinals={d} does not divide the {c_out} filters of a layer")
        super().__init__(c_in, k * c_out, gain=gain)
        self.gating, self.k, self.d = gating, k, d
        self.gates: Tensor | None = None
        self.copies, self.mixing = 1, 0
        if own_gate:
            self.mlp = nn.Sequential(nn.Linear(c_in, k * d))

    def gate(self, x: Tensor) -> Gate:
        gate = self.gating(x, self.mlp, self.k, self.training)
        self.gates = gate[0].detach()
        return gate

    def forward(self, x: Tensor, gate: Gate | None = None) -> Tensor:
        values, tile = gate or self.gate(x)
        if self.gating.branches:
            hidden = F.conv2d(x, self.weight, self.bias, padding=1)  # (N, k c_out, H, W)
            self.mixing = hidden.numel()
            # before the ReLU: for gates that are not negative, ReLU(g h) = g ReLU(h)
            of_filters = values.flatten(1, 2).repeat_interleave(self.out_channels // (self.k * self.d), 1)
            return hidden * _per_pixel(of_filters, tile, hidden)
        return self._mixed(x, self.weight, values, self.bias, tile, "hard" if self.gating.one_hot else "soft")

    def _mixed(
        self, x: Tensor, weight: Tensor, values: Tensor, bias: Tensor | None, tile: int | None, mode: Any
    ) -> Tensor:
        from nsrlib.ops.mixed_conv2d import TILE_PIXELS  # here, because it brings Triton along

        y = ops.mixed_conv2d(x, weight, values, bias, padding=1, tile=tile, mode=mode)
        wide = tile is not None and tile**2 < TILE_PIXELS
        self.copies = self.k if wide else 1
        cells = values[:, 0, 0].numel()
        mixed = 0 if self.gating.one_hot else cells * self.out_channels * self.in_channels * 9
        self.mixing = self.k * y.numel() if wide else mixed
        return y

    @property
    def within_extras(self) -> tuple[nn.Module, ...]:
        """Layers inside that :meth:`extra_operations` counts."""
        return tuple(self.mlp) if hasattr(self, "mlp") else ()

    def extra_operations(self, x: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
        if self.gates is None:  # not its own
            return {"gates": (self.mixing, self.mixing)}
        multiply_adds = self.mixing + self.gates.numel() * self.in_channels
        return {"gates": (multiply_adds, multiply_adds + x.numel())}  # pooling adds up all of x


class PairedConv2d(MixedConv2d):
    """The second layer of a pair: the first one's gate chooses among its kernels by *input* channels (Eqs. 4 to 6).

    Cardinal group j passes through kernel ``sum_i g[i, j] W2^i``; the bias is mixed by the gate's mean over j.
    """

    def __init__(self, c_in: int, c_out: int, gain: float, gating: Gating, k: int, d: int) -> None:
        super().__init__(c_in, c_out, gain, gating, k, 1, own_gate=False)
        self.d = d

    def forward(self, x: Tensor, gate: Gate | None = None) -> Tensor:
        assert gate is not None
        values, tile = gate
        weight = self.weight.unflatten(0, (self.k, -1)).unflatten(2, (self.d, -1))  # (k, c_out, d, r, 3, 3)
        assert self.bias is not None
        biases = self.bias.unflatten(0, (self.k, -1))
        if self.gating.branches:
            wide = weight.flatten(2, 3).transpose(0, 1).flatten(1, 2)  # (c_out, k c_in, 3, 3)
            bias = torch.einsum("nk...,ko->no...", values.mean(2), biases)
            self.copies, self.mixing = self.k, 0
            return F.conv2d(x, wide, padding=1) + _per_pixel(bias, tile, x)
        if self.gating.one_hot:
            chosen = torch.zeros_like(values).scatter_(1, values.argmax(1, keepdim=True), 1)
            values = chosen + values - values.detach()  # straight through
        cells = values.movedim((1, 2), (-2, -1)).flatten(0, -3)  # (cells, k, d)
        mixed = torch.einsum("nkd,kodrxy->nodrxy", cells, weight).flatten(2, 3).flatten(0, 1)
        # a kernel for each cell, which it chooses
        choice = torch.eye(len(cells), dtype=x.dtype, device=x.device).view(*values[:, 0, 0].shape, -1)
        bias = (cells.mean(2) @ biases).flatten()
        return self._mixed(x, mixed, choice.movedim(-1, 1).unsqueeze(2), bias, tile, "hard")


def _per_pixel(values: Tensor, tile: int | None, like: Tensor) -> Tensor:
    """Values ``(N, G[, GH, GW])`` for the pixels of ``like``, or to go with all of them."""
    if tile is None:
        return values[..., None, None]
    return values.repeat_interleave(tile, 2).repeat_interleave(tile, 3)[..., : like.shape[2], : like.shape[3]]


class PairedBlock(WideBlock):
    """A block whose two layers share one gate, that of its input."""

    def forward(self, x: Tensor) -> Tensor:
        first, act, last = self.body
        gate = first.gate(x)  # type: ignore[operator]
        return residual(x, last(act(first(x, gate)), gate))


class NSR(WideFrame):
    """NSR on WDSR's trunk, 4,877,812 parameters at x2 in the released size.

    Args:
        num_feats: U. num_blocks: B. width: channels inside a block over ``num_feats``.
        groups: k, kernels of a layer. cardinals: d, groups of filters that choose on their own. Not for the variants
            ``se`` and ``dense``.
        variant, inference: of :data:`VARIANTS`, :data:`INFERENCE`. temperature, patch, cell: see :class:`Gating`.
        paired: the two layers of a block share one gate; always so for ``branches``.
    """

    def __init__(
        self,
        scale: int = 4,
        num_feats: int = 64,
        num_blocks: int = 16,
        width: float = 1.0,
        groups: int = 4,
        cardinals: int = 16,
        variant: str = "softmax",
        paired: bool = False,
        channels: int = 3,
        temperature: float = 1.0,
        patch: int = 48,
        cell: int = 32,
        inference: str = "map",
    ) -> None:
        inner = check_wide(num_feats, num_blocks, width, channels)
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        for name, value in (("groups", groups), ("cardinals", cardinals), ("patch", patch), ("cell", cell)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
        paired = paired or variant == "branches"
        if paired and variant in ("se", "dense"):
            raise ValueError(f"paired=True needs kernels to choose from, which variant={variant!r} has not")
        gating = Gating(variant, patch=patch, cell=cell)
        res_scale = 1 / math.sqrt(num_blocks)

        def block() -> nn.Module:
            if variant == "dense":
                return dense_block(num_feats, inner, res_scale)
            k, d = (1, None) if variant == "se" else (groups, cardinals)
            first = MixedConv2d(num_feats, inner, 2.0, gating, k, d or inner)
            if paired:
                return PairedBlock(first, PairedConv2d(inner, num_feats, res_scale, gating, k, cardinals))
            return WideBlock(first, MixedConv2d(inner, num_feats, res_scale, gating, k, d or num_feats))

        super().__init__(scale, num_feats, (block() for _ in range(num_blocks)), channels)
        self.gating = gating
        self.inference, self.temperature = inference, temperature

    @property
    def inference(self) -> str:
        """How gates are chosen on a picture, one of :data:`INFERENCE`."""
        return self.gating.inference

    @inference.setter
    def inference(self, value: str) -> None:
        if value not in INFERENCE:
            raise ValueError(f"inference must be one of {', '.join(INFERENCE)}, got {value!r}")
        self.gating.inference = value

    @property
    def temperature(self) -> float:
        return self.gating.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        if not 0 < value < math.inf:
            raise ValueError(f"temperature must be positive, got {value!r}")
        self.gating.temperature = value

    @property
    def hard(self) -> bool:
        """Whether the kernel of the largest gate is taken alone: really sparse inference."""
        return self.gating.one_hot

    @hard.setter
    def hard(self, value: bool) -> None:
        if value and self.gating.variant in ("sigmoid", "se", "dense"):
            raise ValueError(f"hard selection needs gates that sum to 1, which variant={self.gating.variant!r} has not")
        self.gating.hard = value

    @property
    def tile_step(self) -> int:
        """Where tiles of a picture may begin, so that their cells are the picture's."""
        return self.gating.cell if self.inference == "map" else 1

    def inside(self, x: Tensor) -> Tensor:
        patch = self.gating.patch
        if self.training or self.inference != "tiles" or min(x.shape[2:]) < 4 * patch:
            return self.body(x)
        return by_tiles(self.body, x, patch)


def tile_grid(h: int, w: int, patch: int = 48) -> list[tuple[int, int, float]]:
    """Top, left and weight of the official evaluation's tiles in a picture of ``(h, w)`` pixels, padded by 4.

    A centred grid in steps of ``patch - 16``, and a row or column along each border, so that no pixel is missed.
    """
    h, w = h + 2 * TILE_MARGIN, w + 2 * TILE_MARGIN
    if min(h, w) < patch:
        raise ValueError(f"tiles of {patch} pixels do not fit into {h}x{w}, a margin of {TILE_MARGIN} included")
    step = patch - 2 * TILE_MARGIN - TILE_OVERLAP
    bottom, right = h - patch, w - patch
    rows, columns = range(0, bottom + 1, step), range(0, right + 1, step)
    rest_h, rest_w = bottom - rows[-1], right - columns[-1]
    border = [(0, x) for x in columns] + [(y, right) for y in rows]
    border += [(bottom, x + rest_w) for x in columns] + [(y + rest_h, 0) for y in rows]
    inner = [(y + rest_h // 2, x + rest_w // 2, 1.0) for y in rows for x in columns]
    return inner + [(y, x, BORDER_WEIGHT) for y, x in border]


def by_tiles(body: Callable[[Tensor], Tensor], x: Tensor, patch: int = 48) -> Tensor:
    """Apply ``body`` as the official evaluation does: to overlapping tiles of the mirrored picture, then merged."""
    m, (h, w) = TILE_MARGIN, x.shape[2:]
    padded = F.pad(x, (m, m, m, m), mode="reflect")
    grid = tile_grid(h, w, patch)
    own = patch - 2 * m
    total: Any = 0
    weights = x.new_zeros(h, w)
    for start in range(0, len(grid), 32):  # as many at once
        part = grid[start : start + 32]
        y = body(torch.cat([padded[..., i : i + patch, j : j + patch] for i, j, _ in part]))
        y = y[..., m:-m, m:-m].unflatten(0, (len(part), -1))  # (tiles, N, C', own, own)
        if start == 0:
            total = x.new_zeros(x.shape[0], y.shape[2], h, w)
        for tile, (i, j, weight) in zip(y, part, strict=True):
            total[..., i : i + own, j : j + own] += weight * tile
            weights[i : i + own, j : j + own] += weight
    return total / weights


def gated_layers(model: nn.Module) -> dict[str, MixedConv2d]:
    return {name: m for name, m in model.named_modules() if isinstance(m, MixedConv2d) and hasattr(m, "mlp")}


def gates(model: nn.Module) -> dict[str, Tensor]:
    """Gates of the last forward pass of every layer, ``(N, k, d)`` or ``(N, k, d, GH, GW)``."""
    found = {name: layer.gates for name, layer in gated_layers(model).items() if layer.gates is not None}
    if not found:
        raise ValueError(f"{type(model).__name__} has no gates, or has seen no picture yet")
    return found


DEAD = 0.01
"""Mean weight below which a kernel of a cardinal group counts as dead."""


def gate_usage(values: Mapping[str, Tensor]) -> pd.DataFrame:
    """How gates are used, a row for each layer.

    Returns:
        Columns layer; entropy (nats, mean over samples or cells and over cardinal groups; at most log k); largest (mean
        of the largest weight); dead (share of the k d kernel groups with a mean weight below :data:`DEAD`); never
        (share of them that are nowhere the largest); patterns (different choices seen, of ``possible = k**d``, in
        ``cells`` samples or cells).
    """
    import pandas as pd

    rows = []
    for layer, g in values.items():
        k, d = g.shape[1:3]
        cells = g.movedim((1, 2), (-2, -1)).reshape(-1, k, d).float()
        choice = cells.argmax(1)  # (cells, d)
        row = {
            "layer": layer,
            "entropy": float(entropy(cells).mean()),
            "largest": float(cells.amax(1).mean()),
            "dead": float((cells.mean(0) < DEAD).float().mean()),
            "never": float((F.one_hot(choice, k).sum(0) == 0).float().mean()),
        }
        rows.append(row | {"patterns": len(choice.unique(dim=0)), "possible": float(k) ** d, "cells": len(cells)})
    return pd.DataFrame(rows)


class GateLog:
    """Gate usage during training, for the hooks of :func:`nsrlib.training.fit`.

    A row of its log has the columns of :func:`gate_usage` as means over layers and steps, ``gate_entropy`` and so on,
    and the entropy of every layer, ``gate_entropy_1`` and so on.
    """

    def __init__(self) -> None:
        self.kept: dict[str, list[Tensor]] = {}

    def before_step(self, model: nn.Module, step: int) -> None:
        for name, values in gates(model).items():
            self.kept.setdefault(name, []).append(values)

    def after_step(self, model: nn.Module, step: int) -> dict[str, float]:
        usage = gate_usage({name: torch.cat(values) for name, values in self.kept.items()})
        self.kept = {}
        columns = ("entropy", "largest", "dead", "never", "patterns")
        row = {f"gate_{name}": float(usage[name].mean()) for name in columns}
        return row | {f"gate_entropy_{i}": float(e) for i, e in enumerate(usage["entropy"], 1)}


def annealed(
    recipe: Any, first: float = 1.0, last: float = 0.05, until: float = 0.75
) -> Callable[[nn.Module, int], None]:
    """A ``before_forward`` hook: the temperature falls by a constant factor, over the share ``until`` of the steps."""
    span = max(1.0, until * recipe.iterations)

    def hook(model: Any, step: int) -> None:
        model.temperature = first * (last / first) ** min(1.0, step / span)

    return hook
