"""Sizes of a call of the mixed convolution, its gates and its tiles: what kernels and library share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nsrlib.ops.common import HW, accumulator, cdiv, output_size

Mode = Literal["soft", "hard"]

TILE_PIXELS = 64  # of the smallest tile worth a kernel of its own; below, k = 4 convolutions are no slower on a CPU


@dataclass
class Geometry:
    """Sizes of one call. A per-sample gate is a tile as large as the output."""

    n: int
    k: int
    d: int
    c_in: int
    c_out: int
    kernel: HW
    stride: HW
    padding: HW
    size: HW  # H, W
    tile: HW  # output pixels

    @cached_property
    def out(self) -> HW:
        """``(OH, OW)``."""
        return output_size(self.size, self.kernel, self.stride, self.padding)

    @cached_property
    def tiles(self) -> HW:
        """``(GH, GW)``."""
        return cdiv(self.out[0], self.tile[0]), cdiv(self.out[1], self.tile[1])

    @cached_property
    def cells(self) -> int:
        """Samples, or tiles of all samples."""
        return self.n * self.tiles[0] * self.tiles[1]

    @cached_property
    def whole(self) -> bool:
        """One tile a sample."""
        return self.tiles == (1, 1)

    @cached_property
    def aggregated(self) -> bool:
        """Kernels are mixed, not results."""
        return self.whole or self.tile[0] * self.tile[1] >= TILE_PIXELS

    @cached_property
    def patch(self) -> HW:
        """Input pixels that a tile reads, padding included."""
        h, w = ((t - 1) * s + k for t, s, k in zip(self.tile, self.stride, self.kernel, strict=True))
        return h, w

    @cached_property
    def taps(self) -> int:
        """Taps of one filter."""
        return self.c_in * self.kernel[0] * self.kernel[1]


def geometry(
    x: Sequence[int], weight: Sequence[int], gate: Sequence[int], stride: Any, padding: Any, tile: Any
) -> Geometry:
    """Sizes of a call from the shapes of its arguments; ``tile`` is a pair, or empty for a per-sample gate."""
    kernel, size = (weight[2], weight[3]), (x[2], x[3])
    out = output_size(size, kernel, stride, padding)
    return Geometry(
        x[0], gate[1], gate[2], x[1], weight[0] // gate[1], kernel, (stride[0], stride[1]), (padding[0], padding[1]),
        size, (min(tile[0], out[0]), min(tile[1], out[1])) if tile else out,
    )  # fmt: skip


def one_hot(gate: Tensor) -> Tensor:
    """1 where the gate is largest among the k kernel groups (the first of equals), 0 elsewhere."""
    return torch.zeros_like(gate).scatter_(1, gate.argmax(1, keepdim=True), 1)


def cell_gate(gate: Tensor) -> Tensor:
    """``(cells, k, d)``: tiles become samples."""
    return gate if gate.ndim == 3 else gate.permute(0, 3, 4, 1, 2).flatten(0, 2)


def mix(gate: Tensor, filters: Tensor) -> Tensor:
    """``sum_i g[m, i, j] W^i``: ``(M, k, d)``, ``(k C_out, ...)`` to ``(M, C_out, ...)``."""
    m, k, d = gate.shape
    mixed = torch.einsum("mkd,kde->mde", gate, filters.reshape(k, d, -1))
    return mixed.contiguous().view(m, filters.shape[0] // k, *filters.shape[1:])


def choose(chosen: Tensor, filters: Tensor, k: int) -> Tensor:
    """Filters of the chosen kernel groups: ``(M, d)``, ``(k C_out, ...)`` to ``(M, C_out, ...)``."""
    d = chosen.shape[1]
    groups = filters.unflatten(0, (k, d, -1))  # (k, d, r, ...)
    return groups[chosen, torch.arange(d, device=chosen.device)].flatten(1, 2)


def unmix(gate: Tensor, filters: Tensor, d_mixed: Tensor, parts: int = 1) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`mix`: of ``filters`` and of ``gate``, the numbers of a cardinal group summed in parts."""
    m, k, d = gate.shape
    d_filters = torch.einsum("mkd,mde->kde", gate, d_mixed.reshape(m, d, -1)).reshape(filters.shape)
    d_gate = torch.einsum("mdpe,kdpe->dpmk", d_mixed.reshape(m, d, parts, -1), filters.reshape(k, d, parts, -1))
    return d_filters, d_gate.sum(1).permute(1, 2, 0)


def cell_filters(filters: Tensor, gate: Tensor, mode: str) -> Tensor:
    """Filters, or biases, of every cell: ``(k C_out, ...)`` to ``(cells, C_out, ...)``."""
    cells = cell_gate(gate)
    return choose(cells.argmax(1), filters, cells.shape[1]) if mode == "hard" else mix(cells, filters)


def patches_of(x: Tensor, g: Geometry) -> Tensor:
    """What the tiles read, a view: ``(N, C, GH, GW, *g.patch)`` of padded x ``(N, C, *padded size)``."""
    step_h, step_w = g.tile[0] * g.stride[0], g.tile[1] * g.stride[1]
    return x.unfold(2, g.patch[0], step_h).unfold(3, g.patch[1], step_w)


def margins(g: Geometry) -> tuple[int, int, int, int]:
    """Left, right, top, bottom: padding that fills the last tiles; negative where pixels are never read."""
    (left, right), (top, bottom) = (
        (g.padding[a], (g.tiles[a] - 1) * g.tile[a] * g.stride[a] + g.patch[a] - g.size[a] - g.padding[a])
        for a in (1, 0)
    )
    return left, right, top, bottom


def merge_patches(patches: Tensor, g: Geometry) -> Tensor:
    """Gradient of x from those of the tiles' patches ``(N, C, GH, GW, *g.patch)``, by sums in a fixed order."""
    left, right, top, bottom = margins(g)
    h, w = g.size[0] + top + bottom, g.size[1] + left + right
    sums = patches.new_zeros((g.n, g.c_in, h, w), dtype=accumulator(patches.dtype))
    # every a-th tile in a row, every b-th in a column: these do not overlap
    a, b = (cdiv(g.patch[i], g.tile[i] * g.stride[i]) for i in (0, 1))
    for i in range(a):
        for j in range(b):
            patches_of(sums, g)[:, :, i::a, j::b] += patches[:, :, i::a, j::b]
    return F.pad(sums, (-left, -right, -top, -bottom))


def results_as_groups(y: Tensor, g: Geometry) -> Tensor:
    """y as ``(1, cells C_out, *g.tile)``, zeros beyond its end."""
    if g.whole:
        return y.reshape(1, -1, *g.out)
    y = F.pad(y, (0, g.tiles[1] * g.tile[1] - g.out[1], 0, g.tiles[0] * g.tile[0] - g.out[0]))
    y = y.unflatten(3, (g.tiles[1], g.tile[1])).unflatten(2, (g.tiles[0], g.tile[0]))  # (N, C, GH, th, GW, tw)
    return y.permute(0, 2, 4, 1, 3, 5).reshape(1, -1, *g.tile)
