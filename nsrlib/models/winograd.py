"""Winograd's F(4x4, 3x3) on a CPU: several 3x3 convolutions of one feature map, each with a ReLU behind it.

36 products for 16 outputs instead of 144 (Lavin & Gray, CVPR 2016), exact but for rounding. The input's transform is
shared, and strips of rows keep what is in flight in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

_G = [[1 / 4, 0, 0], [-1 / 6] * 3, [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6],
      [0, 0, 1]]  # fmt: skip
_TILES = 256  # of 4x4 outputs at a time, in whole rows: enough for the products, few enough for the cache

Job = tuple[Tensor, Tensor, Tensor, float | None]


def transformed(weights: Tensor) -> Tensor:
    """Kernels at the 36 points, ``G w G^T``: ``(n, out, in, 3, 3)`` to ``(n, 36, in, out)``, computed in float64."""
    g = torch.tensor(_G, dtype=torch.float64)
    return torch.einsum("ip,jq,kocpq->kjico", g, g, weights.double()).flatten(1, 2).to(weights.dtype)


def winograd_relu(padded: Tensor, jobs: list[Job]) -> None:
    """``relu`` of 3x3 convolutions of one ``(4a + 2, 4b + 2, C)``, whose transform they share.

    A job: transformed kernels ``(36, C, F)``, bias ``(F,)``, target ``(4a, 4b, F)``; None fills the target, a number
    increases it by so much of the result.
    """
    c, o = jobs[0][0].shape[1:]
    tall, wide = (padded.shape[0] - 2) // 4, (padded.shape[1] - 2) // 4
    n = min(max(1, _TILES // wide), tall)
    v1 = padded.new_empty(6, n, padded.shape[1], c)
    v = padded.new_empty(6, 6, n, wide, c)  # (column point, row point, ...)
    m = padded.new_empty(6, 6, n, wide, o)
    columns = padded.new_empty(4, 6, n, wide, o)
    y = padded.new_empty(4, 4, n, wide, o)  # (row, column, ...)
    for first in range(0, tall, n):
        top = 4 * min(first, tall - n)  # the last strip may repeat rows, so that all are alike
        _to_points([padded[top + p : top + p + 4 * n - 3 : 4] for p in range(6)], v1)
        _to_points([v1[:, :, q : q + 4 * wide - 3 : 4] for q in range(6)], v)
        for u, bias, target, share in jobs:
            torch.bmm(v.view(36, n * wide, c), u, out=m.view(36, n * wide, o))
            m[1, 1] += bias  # what is at the point (1, 1) reaches all 16 outputs with the factor 1
            _from_points(list(m), columns)
            _from_points(list(columns.unbind(1)), y)
            places = target[top : top + 4 * n].unflatten(1, (wide, 4)).unflatten(0, (n, 4)).permute(1, 3, 0, 2, 4)
            if share is None:
                torch.clamp_min(y, 0, out=places)
            else:  # rows that are repeated have had their share
                fresh = slice(first - top // 4, None)
                places[:, :, fresh].add_(y[:, :, fresh].clamp_min_(0), alpha=share)


def _to_points(d: list[Tensor], out: Tensor) -> None:
    """Six samples to the values at the points 0, 1, -1, 2, -2, infinity: ``B^T d``."""
    a, b = out[0], out[5]  # scratch, until their turn comes
    torch.sub(d[4], d[2], alpha=4, out=a)
    torch.sub(d[3], d[1], alpha=4, out=b)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.sub(d[4], d[2], out=a)
    torch.sub(d[3], d[1], out=b)
    torch.add(a, b, alpha=2, out=out[3])
    torch.sub(a, b, alpha=2, out=out[4])
    torch.sub(d[4], d[2], alpha=5, out=a).add_(d[0], alpha=4)
    torch.sub(d[5], d[3], alpha=5, out=b).add_(d[1], alpha=4)


def _from_points(m: list[Tensor], out: Tensor) -> None:
    """Products at the six points to four outputs: ``A^T m``. Overwrites ``m``."""
    difference, other = torch.sub(m[1], m[2], out=out[1]), torch.sub(m[3], m[4], out=out[3])
    p, r = m[1].add_(m[2]), m[3].add_(m[4])
    torch.add(p, r, alpha=4, out=out[2])
    torch.add(p, r, out=out[0]).add_(m[0])
    m[5].add_(difference).add_(other, alpha=8)
    difference.add_(other, alpha=2)
    other.copy_(m[5])
