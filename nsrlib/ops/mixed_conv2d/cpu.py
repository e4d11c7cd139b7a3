"""The convolution with mixed kernels by library convolutions: grouped if aggregated, k plain ones if wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nsrlib.ops.common import HW, accumulator
from nsrlib.ops.mixed_conv2d.gates import Geometry, cell_filters, margins, merge_patches, patches_of, results_as_groups


def forward(x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor | None, g: Geometry, mode: str) -> Tensor:
    """The result, contiguous; a hard gate of small tiles comes as zeros and ones."""
    if not g.aggregated:
        return _forward_wide(x, weight, gate, bias, g)
    if not g.whole:
        return _forward_rows(x, weight, gate, bias, g, mode)
    filters = cell_filters(weight, gate, mode)
    biases = None if bias is None else cell_filters(bias, gate, mode)
    return _forward_grouped(x, filters, biases, g).contiguous()


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, gate: Tensor, g: Geometry, mode: str, need_x: bool, need_filters: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and of the cells' filters."""
    x, padding = _as_groups(x, g)
    filters = cell_filters(weight, gate, mode).flatten(0, 1)
    dx, d_filters, _ = torch.ops.aten.convolution_backward(
        results_as_groups(grad, g), x, filters, None, g.stride, padding, (1, 1), False, (0, 0), g.cells,
        (need_x, need_filters, False),
    )  # fmt: skip
    if need_x:
        patches = dx.reshape(g.n, *g.tiles, g.c_in, *x.shape[2:]).permute(0, 3, 1, 2, 4, 5)
        dx = patches[:, :, 0, 0] if g.whole else merge_patches(patches, g)
    return dx, d_filters


def backward_wide(
    grad: Tensor, x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor | None, g: Geometry, need: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of x, weight, gate, bias."""
    need_x, need_weight, need_gate, need_bias = need
    wide = accumulator(x.dtype)
    dx = torch.zeros_like(x, dtype=wide) if need_x else None
    d_weight, d_gate, d_bias = [], [], []
    groups = grad.unflatten(1, (g.d, -1))  # (N, d, r, OH, OW)
    for i, filters in enumerate(weight.chunk(g.k)):
        gated = (groups.to(wide) * _pixel_gate(gate, i, g)).flatten(1, 2)
        if need_x or need_weight:
            dx_i, dw_i, _ = torch.ops.aten.convolution_backward(
                gated.to(x.dtype), x, filters, None, g.stride, g.padding, (1, 1), False, (0, 0), 1,
                (need_x, need_weight, False),
            )  # fmt: skip
            if dx is not None:
                dx += dx_i
            d_weight.append(dw_i)
        if need_bias:
            d_bias.append(gated.sum((0, 2, 3)))
        if need_gate:
            z = F.conv2d(x, filters, None if bias is None else bias.chunk(g.k)[i], g.stride, g.padding)
            pixels = (groups.to(wide) * z.unflatten(1, (g.d, -1))).sum(2)  # (N, d, OH, OW)
            cells = results_as_groups(pixels, g).reshape(g.n, *g.tiles, g.d, -1).sum(-1)  # (N, GH, GW, d)
            d_gate.append(cells.permute(0, 3, 1, 2))
    return [
        dx,
        torch.cat(d_weight) if need_weight else None,
        torch.stack(d_gate, 1).view(gate.shape) if need_gate else None,
        torch.cat(d_bias) if need_bias else None,
    ]


def _as_groups(x: Tensor, g: Geometry) -> tuple[Tensor, HW]:
    """x as ``(1, cells C_in, ...)`` for a convolution with one group a cell, and the padding it still needs."""
    if g.whole:
        return x.reshape(1, -1, *x.shape[2:]), g.padding
    patches = patches_of(F.pad(x, margins(g)), g)
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(1, -1, *g.patch), (0, 0)


def _forward_grouped(x: Tensor, filters: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    """``filters`` ``(cells, C_out, C_in, KH, KW)``, ``bias`` ``(cells, C_out)``.

    oneDNN's fast grouped convolutions take multiples of 8 channels; zeros fill up others: 3 to 5 times as fast.
    """
    more_in, more_out = (-g.c_in % 8, -g.c_out % 8) if g.cells > 1 and x.device.type == "cpu" else (0, 0)
    if more_in or more_out:
        x = F.pad(x, (0, 0, 0, 0, 0, more_in))
        filters = F.pad(filters, (0, 0, 0, 0, 0, more_in, 0, more_out))
        bias = bias if bias is None else F.pad(bias, (0, more_out))
        narrow = g.c_out
        g = replace(g, c_in=g.c_in + more_in, c_out=g.c_out + more_out)
        return _forward_grouped(x, filters, bias, g)[:, :narrow]
    x, padding = _as_groups(x, g)
    bias = bias if bias is None else bias.flatten()
    y = F.conv2d(x, filters.flatten(0, 1), bias, g.stride, padding, groups=g.cells)
    y = y.reshape(g.n, *g.tiles, g.c_out, *g.tile).permute(0, 3, 1, 4, 2, 5)  # (N, C, GH, th, GW, tw)
    return y.reshape(g.n, g.c_out, g.tiles[0] * g.tile[0], -1)[:, :, : g.out[0], : g.out[1]]


def _forward_rows(x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor | None, g: Geometry, mode: str) -> Tensor:
    """One row of tiles after the other: its kernels and patches are mixed, cut and used while they are in the cache."""
    y = x.new_empty((g.n, g.c_out, *g.out))
    row = replace(g, size=(g.patch[0], g.size[1]), padding=(0, g.padding[1]))
    for i in range(g.tiles[0]):
        first = i * g.tile[0] * g.stride[0] - g.padding[0]
        top = min(max(-first, 0), g.patch[0])
        read = x[:, :, max(first, 0) : first + g.patch[0]] if first + g.patch[0] > 0 else x[:, :, :0]
        read = F.pad(read, (0, 0, top, g.patch[0] - top - read.shape[2]))
        cells = gate[..., i : i + 1, :]
        filters = cell_filters(weight, cells, mode)
        biases = None if bias is None else cell_filters(bias, cells, mode)
        place = y[:, :, i * g.tile[0] : (i + 1) * g.tile[0]]
        place.copy_(_forward_grouped(read, filters, biases, row)[:, :, : place.shape[2]])
    return y


def _forward_wide(x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    y = x.new_zeros((g.n, g.d, g.c_out // g.d, *g.out), dtype=accumulator(x.dtype))
    for i, filters in enumerate(weight.chunk(g.k)):
        z = F.conv2d(x, filters, None if bias is None else bias.chunk(g.k)[i], g.stride, g.padding)
        y.addcmul_(z.unflatten(1, (g.d, -1)).to(y.dtype), _pixel_gate(gate, i, g))
    return y.flatten(1, 2).to(x.dtype)


def _pixel_gate(gate: Tensor, i: int, g: Geometry) -> Tensor:
    """Gate of kernel group i for every output ``(N, d, 1, OH, OW)``, to go with ``(N, d, r, OH, OW)``."""
    pixels = gate[:, i].repeat_interleave(g.tile[0], 2).repeat_interleave(g.tile[1], 3)
    return pixels[:, :, None, : g.out[0], : g.out[1]].to(accumulator(gate.dtype))
