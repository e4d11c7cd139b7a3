"""Triton kernels of the convolution with mixed kernels, their launches, and what runs them.

Names are those of :mod:`nsrlib.ops.common`; besides, ``tile_h`` are pixels of a tile and ``tiles_h`` tiles of an image,
``cells`` samples or all tiles, ``GROUPS`` the k kernel groups, ``CARDINALS`` the d cardinal groups. Images are channels
last, gates ``(N, GROUPS, CARDINALS, tiles_h tiles_w)``.

Filters that a kernel reads channels last are not kept between calls: ``Tensor._version`` does not see what ``.data``,
foreign optimisers or a CUDA graph write. Who keeps the weight channels last, as for a convolution, saves the copy.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsrlib.ops.common import HW, Launch, cdiv, channel_block, channels_last, dot_precision, empty, processors
from nsrlib.ops.mixed_conv2d.gates import Geometry, cell_gate, merge_patches

MOST_GROUPS = 16  # whose gates a kernel compares itself


@triton.jit
def _largest(gate_ptr, groups_apart, GROUPS: tl.constexpr, ok):
    """Number of the kernel group with the largest gate: the first of equals, and of NaN, as in ``torch.argmax``."""
    largest = tl.load(gate_ptr, mask=ok, other=0).to(tl.float32)
    chosen = tl.zeros_like(largest).to(tl.int32)
    for i in range(1, GROUPS):
        gate = tl.load(gate_ptr + i * groups_apart, mask=ok, other=0).to(tl.float32)
        better = (gate > largest) | ((gate != gate) & (largest == largest))
        largest = tl.where(better, gate, largest)
        chosen = tl.where(better, i, chosen)
    return chosen


@triton.jit
def _filter_rows(gate_ptr, cell, tiles, o, C_OUT: tl.constexpr, CARDINALS: tl.constexpr, GROUPS: tl.constexpr):
    """Rows of the filters ``o`` of a cell, and the row they count from: in the cell's own mixed kernel, or all."""
    if gate_ptr is None:
        first = cell.to(tl.int64) * C_OUT
        rows = o
    else:
        first = cell.to(tl.int64) * 0
        cardinal = o // (C_OUT // CARDINALS)
        if GROUPS == 0:
            rows = tl.load(gate_ptr + cell.to(tl.int64) * CARDINALS + cardinal, mask=o < C_OUT, other=0)
        else:
            gate_ptr += (cell // tiles).to(tl.int64) * (GROUPS * CARDINALS) * tiles + cell % tiles
            groups_apart = tiles.to(tl.int64) * CARDINALS
            rows = _largest(gate_ptr + cardinal.to(tl.int64) * tiles, groups_apart, GROUPS, o < C_OUT)
        rows = rows * C_OUT + o
    return first, rows


@triton.jit
def _within(i, size):
    """``0 <= i < size`` in one comparison."""
    return i.to(tl.uint32) < size.to(tl.uint32)


@triton.jit
def _products(
    x_ptr, w_ptr, rows, h, w, ok, ok_o, height, width, steps,
    C_IN: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """Convolution sums of pixels whose windows begin at (h, w), ``(BLOCK_P, BLOCK_O)``."""
    CHUNKS: tl.constexpr = (C_IN + BLOCK_C - 1) // BLOCK_C
    c = tl.arange(0, BLOCK_C)
    at = ((h * width + w) * C_IN)[:, None] + c[None, :]
    at_w = (rows * (KH * KW * C_IN))[:, None] + c[None, :]
    h = tl.where(ok, h, -KH)  # outside, whatever the tap
    acc = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for step in range(steps):
        tap = step // CHUNKS
        first_c = step % CHUNKS * BLOCK_C
        ok_c = (first_c + c < C_IN)[None, :]
        inside = _within(h + tap // KW, height) & _within(w + tap % KW, width)
        x_tap = x_ptr + ((tap // KW * width + tap % KW) * C_IN + first_c)
        a = tl.load(x_tap + at, mask=inside[:, None] & ok_c, other=0)
        b = tl.load(w_ptr + (tap * C_IN + first_c) + at_w, mask=ok_o[:, None] & ok_c, other=0)
        acc = tl.dot(a, tl.trans(b), acc, input_precision=PRECISION)
    return acc


@triton.jit(do_not_specialize=["cells", "tiles", "w_h", "w_w"])
def _mixed_conv2d_mix_kernel(
    w_ptr,  # (GROUPS C_OUT, C_IN, KH, KW), any strides
    bias_ptr,  # (GROUPS C_OUT,) or None
    gate_ptr,
    y_ptr,  # (cells, C_OUT, KH, KW, C_IN), and behind it the biases (cells, C_OUT)
    cells, tiles, w_o, w_c, w_h, w_w,
    GROUPS: tl.constexpr, CARDINALS: tl.constexpr,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One filter of BLOCK_M cells, BLOCK_C of its numbers."""
    NUMBERS: tl.constexpr = KH * KW * C_IN
    BLOCKS_C: tl.constexpr = (NUMBERS + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    at = pid % BLOCKS_C * BLOCK_C + tl.arange(0, BLOCK_C)
    o = pid // BLOCKS_C % C_OUT
    cell = pid // BLOCKS_C // C_OUT * BLOCK_M + tl.arange(0, BLOCK_M)
    ok = cell < cells
    ok_c = at < NUMBERS
    tap = at // C_IN
    w_ptr += (at % C_IN).to(tl.int64) * w_c + (tap // KW).to(tl.int64) * w_h + (tap % KW).to(tl.int64) * w_w
    many = tiles.to(tl.int64)
    gate_ptr += ((cell // tiles) * (GROUPS * CARDINALS) + o // (C_OUT // CARDINALS)) * many + cell % tiles
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    bias = tl.zeros((BLOCK_M,), tl.float32)
    for i in range(GROUPS):
        gate = tl.load(gate_ptr + i * CARDINALS * many, mask=ok, other=0).to(tl.float32)
        row = i * C_OUT + o
        w = tl.load(w_ptr + row.to(tl.int64) * w_o, mask=ok_c, other=0).to(tl.float32)
        total += gate[:, None] * w[None, :]
        if bias_ptr is not None:
            bias += gate * tl.load(bias_ptr + row).to(tl.float32)
    filters = cell.to(tl.int64) * C_OUT + o
    mask = ok[:, None] & ok_c[None, :]
    tl.store(y_ptr + filters[:, None] * NUMBERS + at[None, :], total.to(y_ptr.dtype.element_ty), mask=mask)
    if bias_ptr is not None:
        y_ptr += cells.to(tl.int64) * (C_OUT * NUMBERS)
        tl.store(y_ptr + filters, bias.to(y_ptr.dtype.element_ty), mask=ok & (pid % BLOCKS_C == 0))


@triton.jit(do_not_specialize=["height", "width", "out_h", "out_w", "tile_h", "tile_w", "tiles_h", "tiles_w"])
def _mixed_conv2d_fwd_kernel(
    x_ptr,  # (N, H, W, C_IN)
    w_ptr,  # (rows, KH, KW, C_IN)
    bias_ptr,  # (rows,) or None
    gate_ptr,  # whose largest choose; if GROUPS is 0 the choice itself, (cells, CARDINALS), int32; None if mixed
    y_ptr,  # (N, OH, OW, C_OUT)
    height, width, out_h, out_w, tile_h, tile_w, tiles_h, tiles_w,
    GROUPS: tl.constexpr, CARDINALS: tl.constexpr,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """BLOCK_P pixels of one cell, BLOCK_O output channels. Blocks of channels change fastest: they share x."""
    BLOCKS_O: tl.constexpr = (C_OUT + BLOCK_O - 1) // BLOCK_O
    blocks_p = tl.cdiv(tile_h * tile_w, BLOCK_P)
    pid = tl.program_id(0)
    o = pid % BLOCKS_O * BLOCK_O + tl.arange(0, BLOCK_O)
    p = pid // BLOCKS_O % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P)
    cell = pid // BLOCKS_O // blocks_p
    n = (cell // (tiles_h * tiles_w)).to(tl.int64)
    h = cell // tiles_w % tiles_h * tile_h + p // tile_w
    w = cell % tiles_w * tile_w + p % tile_w
    ok = (p < tile_h * tile_w) & (h < out_h) & (w < out_w)
    ok_o = o < C_OUT
    first, rows = _filter_rows(gate_ptr, cell, tiles_h * tiles_w, o, C_OUT, CARDINALS, GROUPS)
    y = _products(
        x_ptr + n * height * width * C_IN, w_ptr + first * (KH * KW * C_IN), rows,
        h * STRIDE_H - PAD_H, w * STRIDE_W - PAD_W, ok, ok_o, height, width,
        KH * KW * ((C_IN + BLOCK_C - 1) // BLOCK_C), C_IN, KH, KW, PRECISION, BLOCK_P, BLOCK_C, BLOCK_O,
    )  # fmt: skip
    if bias_ptr is not None:
        y += tl.load(bias_ptr + first + rows, mask=ok_o, other=0).to(tl.float32)[None, :]
    y_ptr += n * out_h * out_w * C_OUT
    at = (h * out_w + w) * C_OUT
    tl.store(y_ptr + at[:, None] + o[None, :], y.to(y_ptr.dtype.element_ty), mask=ok[:, None] & ok_o[None, :])


@triton.jit(do_not_specialize=["height", "width", "out_h", "out_w", "tile_h", "tile_w", "tiles_h", "tiles_w", "steps"])
def _mixed_conv2d_wide_kernel(
    x_ptr,  # (N, H, W, C_IN)
    w_ptr,  # (GROUPS, C_OUT, KH, KW, C_IN)
    bias_ptr,  # (GROUPS, C_OUT) or None
    gate_ptr,
    y_ptr,  # (N, OH, OW, C_OUT)
    height, width, out_h, out_w, tile_h, tile_w, tiles_h, tiles_w,
    steps,  # KH KW times chunks of channels; were it known to the compiler, it would unroll them and spill
    HARD: tl.constexpr, GROUPS: tl.constexpr, CARDINALS: tl.constexpr,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """BLOCK_P pixels of one sample, BLOCK_O output channels: kernel groups one after the other."""
    BLOCKS_O: tl.constexpr = (C_OUT + BLOCK_O - 1) // BLOCK_O
    blocks_p = tl.cdiv(out_h * out_w, BLOCK_P)
    pid = tl.program_id(0)
    o = pid % BLOCKS_O * BLOCK_O + tl.arange(0, BLOCK_O)
    p = pid // BLOCKS_O % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P)
    n = (pid // BLOCKS_O // blocks_p).to(tl.int64)
    h = p // out_w
    w = p % out_w
    ok = h < out_h
    ok_o = o < C_OUT
    tiles = (tiles_h * tiles_w).to(tl.int64)  # a gate may have more elements than an image
    gate_ptr += n * tiles * (GROUPS * CARDINALS)
    tile = h // tile_h * tiles_w + w // tile_w
    at_gate = tile[:, None] + (o // (C_OUT // CARDINALS) * tiles)[None, :]
    within = ok[:, None] & ok_o[None, :]
    if HARD:
        chosen = _largest(gate_ptr + at_gate, CARDINALS * tiles, GROUPS, within)
    total = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for i in range(GROUPS):
        rows = i * C_OUT + o
        y = _products(
            x_ptr + n * height * width * C_IN, w_ptr, rows, h * STRIDE_H - PAD_H, w * STRIDE_W - PAD_W, ok, ok_o,
            height, width, steps, C_IN, KH, KW, PRECISION, BLOCK_P, BLOCK_C, BLOCK_O,
        )  # fmt: skip
        if bias_ptr is not None:
            y += tl.load(bias_ptr + rows, mask=ok_o, other=0).to(tl.float32)[None, :]
        if HARD:
            total = tl.where(chosen == i, y, total)
        else:
            gate = tl.load(gate_ptr + i * CARDINALS * tiles + at_gate, mask=within, other=0)
            total += gate.to(tl.float32) * y
    y_ptr += n * out_h * out_w * C_OUT
    at = (h * out_w + w) * C_OUT
    tl.store(y_ptr + at[:, None] + o[None, :], total.to(y_ptr.dtype.element_ty), mask=within)


@triton.jit(do_not_specialize=["out_h", "out_w", "tile_h", "tile_w", "tiles_h", "tiles_w", "patch_h", "patch_w"])
def _mixed_conv2d_bwd_input_kernel(
    g_ptr,  # (N, OH, OW, C_OUT)
    w_ptr,  # (rows, KH, KW, C_IN)
    gate_ptr,  # whose largest choose; if GROUPS is 0 the choice itself, (cells, CARDINALS), int32; None if mixed
    d_ptr,  # (cells, patch_h, patch_w, C_IN)
    out_h, out_w, tile_h, tile_w, tiles_h, tiles_w, patch_h, patch_w,
    GROUPS: tl.constexpr, CARDINALS: tl.constexpr,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """BLOCK_P pixels of what one cell reads, BLOCK_C input channels.

    The patch begins (PAD_H, PAD_W) pixels into the first window of the cell.
    """
    BLOCKS_C: tl.constexpr = (C_IN + BLOCK_C - 1) // BLOCK_C
    CHUNKS: tl.constexpr = (C_OUT + BLOCK_O - 1) // BLOCK_O
    blocks_p = tl.cdiv(patch_h * patch_w, BLOCK_P)
    pid = tl.program_id(0)
    c = pid % BLOCKS_C * BLOCK_C + tl.arange(0, BLOCK_C)
    p = pid // BLOCKS_C % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P)
    cell = pid // BLOCKS_C // blocks_p
    g_ptr += (cell // (tiles_h * tiles_w)).to(tl.int64) * out_h * out_w * C_OUT
    d_ptr += cell.to(tl.int64) * patch_h * patch_w * C_IN
    top = cell // tiles_w % tiles_h * tile_h
    left = cell % tiles_w * tile_w
    ok = p < patch_h * patch_w
    ok_c = (c < C_IN)[None, :]
    last_h = tl.minimum(tile_h, out_h - top)
    last_w = tl.minimum(tile_w, out_w - left)
    patch_row = tl.where(ok, p // patch_w + PAD_H, -1)  # outside, whatever the tap
    patch_column = p % patch_w + PAD_W
    acc = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(KH * KW * CHUNKS):
        tap = step // CHUNKS
        o = step % CHUNKS * BLOCK_O + tl.arange(0, BLOCK_O)
        ok_o = o < C_OUT
        first, rows = _filter_rows(gate_ptr, cell, tiles_h * tiles_w, o, C_OUT, CARDINALS, GROUPS)
        h = patch_row - tap // KW
        w = patch_column - tap % KW
        inside = (h >= 0) & (w >= 0)
        if STRIDE_H > 1:
            inside = inside & (h % STRIDE_H == 0)
            h = h // STRIDE_H
        if STRIDE_W > 1:
            inside = inside & (w % STRIDE_W == 0)
            w = w // STRIDE_W
        inside = inside & (h < last_h) & (w < last_w)
        at = ((top + h) * out_w + left + w) * C_OUT
        a = tl.load(g_ptr + at[:, None] + o[None, :], mask=inside[:, None] & ok_o[None, :], other=0)
        at_w = rows * (KH * KW * C_IN) + tap * C_IN
        filters = w_ptr + first * (KH * KW * C_IN)
        b = tl.load(filters + at_w[:, None] + c[None, :], mask=ok_o[:, None] & ok_c, other=0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    at = p * C_IN
    tl.store(d_ptr + at[:, None] + c[None, :], acc.to(d_ptr.dtype.element_ty), mask=ok[:, None] & ok_c)


@triton.jit(do_not_specialize=["height", "width", "out_h", "out_w", "tile_h", "tile_w", "tiles_h", "tiles_w"])
def _mixed_conv2d_bwd_weight_kernel(
    g_ptr,  # (N, OH, OW, C_OUT)
    x_ptr,  # (N, H, W, C_IN)
    d_ptr,  # (splits, cells, C_OUT, KH, KW, C_IN), float32
    height, width, out_h, out_w, tile_h, tile_w, tiles_h, tiles_w, cells, chunk,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One tap of BLOCK_O filters and BLOCK_C channels, over ``chunk`` pixels of one cell.

    Float32 sums of more than BLOCK_S pixels are sums of sums: of n terms one by one, the error grows with n.
    """
    BLOCKS_O: tl.constexpr = (C_OUT + BLOCK_O - 1) // BLOCK_O
    BLOCKS_C: tl.constexpr = (C_IN + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)  # taps change fastest: they share x and g
    tap = pid % (KH * KW)
    pid = pid // (KH * KW)
    o = pid % BLOCKS_O * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // BLOCKS_O
    c = pid % BLOCKS_C * BLOCK_C + tl.arange(0, BLOCK_C)
    pid = pid // BLOCKS_C
    cell = pid % cells
    split = pid // cells
    n = (cell // (tiles_h * tiles_w)).to(tl.int64)
    g_ptr += n * out_h * out_w * C_OUT
    x_ptr += n * height * width * C_IN
    top = cell // tiles_w % tiles_h * tile_h
    left = cell % tiles_w * tile_w
    ok_o = (o < C_OUT)[None, :]
    ok_c = (c < C_IN)[None, :]
    total = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
    for first in range(0, chunk, BLOCK_S):
        acc = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
        for start in range(first, first + tl.minimum(chunk - first, BLOCK_S), BLOCK_P):
            p = split * chunk + start + tl.arange(0, BLOCK_P)
            h = top + p // tile_w
            w = left + p % tile_w
            ok = (p < tile_h * tile_w) & (h < out_h) & (w < out_w)
            hh = h * STRIDE_H - PAD_H + tap // KW
            ww = w * STRIDE_W - PAD_W + tap % KW
            inside = ok & (hh >= 0) & (hh < height) & (ww >= 0) & (ww < width)
            at_g = (h * out_w + w) * C_OUT
            at_x = (hh * width + ww) * C_IN
            a = tl.load(g_ptr + at_g[:, None] + o[None, :], mask=ok[:, None] & ok_o, other=0)
            b = tl.load(x_ptr + at_x[:, None] + c[None, :], mask=inside[:, None] & ok_c, other=0)
            acc = tl.dot(tl.trans(a), b, acc, input_precision=PRECISION)
        total += acc
    row = (split.to(tl.int64) * cells + cell) * C_OUT + o
    at = (row * (KH * KW) + tap) * C_IN
    tl.store(d_ptr + at[:, None] + c[None, :], total, mask=(o < C_OUT)[:, None] & ok_c)


def mix_launch(weight: Tensor, bias: Tensor | None, gate: Tensor, mixed: Tensor, g: Geometry) -> Launch:
    """The launch that mixes the kernels of all cells, of a weight of any strides, and the biases.

    Fills ``mixed``, flat: filters ``(cells, C_out, KH, KW, C_in)`` and, with a bias, ``(cells, C_out)``.
    """
    block_m = min(16, 1 << (g.cells - 1).bit_length())
    block_c = 2048 // block_m if g.taps > 128 else 128
    w_o, w_c, w_h, w_w = weight.stride()
    arguments = {
        "w_ptr": weight, "bias_ptr": bias, "gate_ptr": gate, "y_ptr": mixed, "cells": g.cells,
        "tiles": g.tiles[0] * g.tiles[1], "w_o": w_o, "w_c": w_c, "w_h": w_h, "w_w": w_w, "GROUPS": g.k,
        "CARDINALS": g.d, "C_IN": g.c_in, "C_OUT": g.c_out, "KH": g.kernel[0], "KW": g.kernel[1],
        "BLOCK_M": block_m, "BLOCK_C": block_c,
    }  # fmt: skip
    return Launch(_mixed_conv2d_mix_kernel, (cdiv(g.cells, block_m) * g.c_out * cdiv(g.taps, block_c),), arguments)


def forward_launch(
    x: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    choice: Tensor | None,
    y: Tensor,
    g: Geometry,
    float32_precision: str = "tf32x3",
) -> Launch:
    """The launch that fills ``y`` the aggregated way. Images are channels last; meta tensors do for an audit.

    ``rows`` are filters ``(rows, KH, KW, C_in)``, ``bias`` is ``(rows,)`` or None. With ``choice`` None, rows are the
    ``cells C_out`` mixed ones. Else they are all ``k C_out``, and each cardinal group takes those of its largest gate
    ``(N, k, d[, GH, GW])``, or of the kernel group that ``choice`` names, ``(cells, d)``, int32.
    """
    blocks = _blocks(x, float32_precision, 128, g)
    arguments = {
        "x_ptr": x, "w_ptr": rows, "bias_ptr": bias, "y_ptr": y, "height": g.size[0], "width": g.size[1],
        **_choice(choice, g), **_sizes(g, g.padding), **blocks,
    }  # fmt: skip
    programs = g.cells * cdiv(g.tile[0] * g.tile[1], blocks["BLOCK_P"]) * cdiv(g.c_out, blocks["BLOCK_O"])
    return Launch(_mixed_conv2d_fwd_kernel, (programs,), arguments)


def wide_launch(
    x: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    gate: Tensor,
    y: Tensor,
    g: Geometry,
    mode: str = "soft",
    float32_precision: str = "tf32x3",
) -> Launch:
    """The launch that fills ``y`` the wide way; rows ``(k C_out, KH, KW, C_in)``, gate ``(N, k, d, GH, GW)``."""
    blocks = _blocks(x, float32_precision, 64, g)  # two sums a pixel
    arguments = {
        "x_ptr": x, "w_ptr": rows, "bias_ptr": bias, "gate_ptr": gate, "y_ptr": y, "height": g.size[0],
        "width": g.size[1], "steps": g.kernel[0] * g.kernel[1] * cdiv(g.c_in, blocks["BLOCK_C"]),
        "HARD": mode == "hard", "GROUPS": g.k, "CARDINALS": g.d, **_sizes(g, g.padding), **blocks,
    }  # fmt: skip
    programs = g.n * cdiv(g.out[0] * g.out[1], blocks["BLOCK_P"]) * cdiv(g.c_out, blocks["BLOCK_O"])
    return Launch(_mixed_conv2d_wide_kernel, (programs,), arguments)


def input_grad_launch(
    grad: Tensor, rows: Tensor, choice: Tensor | None, dx: Tensor, g: Geometry, float32_precision: str = "tf32x3"
) -> Launch:
    """The launch that fills ``dx``: the gradient ``(N, H, W, C_in)`` of x, or ``(cells, *g.patch, C_in)`` of tiles.

    The other arguments are those of :func:`forward_launch`; ``grad``, of y, is channels last.
    """
    blocks = _blocks(grad, float32_precision, 128, g)
    patch, padding = (g.size, g.padding) if g.whole else (g.patch, (0, 0))
    arguments = {
        "g_ptr": grad, "w_ptr": rows, "d_ptr": dx, "patch_h": patch[0], "patch_w": patch[1],
        **_choice(choice, g), **_sizes(g, padding), **blocks,
    }  # fmt: skip
    programs = g.cells * cdiv(patch[0] * patch[1], blocks["BLOCK_P"]) * cdiv(g.c_in, blocks["BLOCK_C"])
    return Launch(_mixed_conv2d_bwd_input_kernel, (programs,), arguments)


def weight_grad_launch(
    grad: Tensor, x: Tensor, d_rows: Tensor, g: Geometry, float32_precision: str = "tf32x3"
) -> Launch:
    """The launch that fills ``d_rows`` ``(splits, cells, C_out, KH, KW, C_in)``, float32, partial sums over pixels."""
    blocks = _blocks(x, float32_precision, 64, g)
    splits, pixels = d_rows.shape[0], g.tile[0] * g.tile[1]
    arguments = {
        "g_ptr": grad, "x_ptr": x, "d_ptr": d_rows, "height": g.size[0], "width": g.size[1], "cells": g.cells,
        "chunk": cdiv(pixels, splits * blocks["BLOCK_P"]) * blocks["BLOCK_P"], **_sizes(g, g.padding),
        "BLOCK_S": 256 if x.dtype == torch.float32 else 4096, **blocks,
    }  # fmt: skip
    return Launch(_mixed_conv2d_bwd_weight_kernel, (splits * g.cells * _weight_blocks(blocks, g),), arguments)


def weight_grad_splits(x: Tensor, g: Geometry, processors: int) -> int:
    """Parts of a cell's pixels in :func:`weight_grad_launch`: two programs a processor, at least 256 pixels each."""
    programs = g.cells * _weight_blocks(_blocks(x, "", 64, g), g)
    return max(1, min(2 * processors // programs, g.tile[0] * g.tile[1] // 256))


def _choice(choice: Tensor | None, g: Geometry) -> dict[str, Any]:
    groups = 0 if choice is None or choice.dtype == torch.int32 else g.k
    return {"gate_ptr": choice, "GROUPS": groups, "CARDINALS": g.d}


def _weight_blocks(blocks: dict[str, Any], g: Geometry) -> int:
    return g.kernel[0] * g.kernel[1] * cdiv(g.c_in, blocks["BLOCK_C"]) * cdiv(g.c_out, blocks["BLOCK_O"])


def _sizes(g: Geometry, padding: HW) -> dict[str, int]:
    return {
        "out_h": g.out[0], "out_w": g.out[1], "tile_h": g.tile[0], "tile_w": g.tile[1],
        "tiles_h": g.tiles[0], "tiles_w": g.tiles[1], "C_IN": g.c_in, "C_OUT": g.c_out, "KH": g.kernel[0],
        "KW": g.kernel[1], "STRIDE_H": g.stride[0], "STRIDE_W": g.stride[1], "PAD_H": padding[0], "PAD_W": padding[1],
    }  # fmt: skip


def _blocks(x: Tensor, float32_precision: str, pixels: int, g: Geometry) -> dict[str, Any]:
    # in wider blocks of float32 registers spill
    most, pixels = (32, pixels // 2) if x.dtype == torch.float32 else (64, pixels)
    return {
        "PRECISION": dot_precision(x.dtype, float32_precision),
        "BLOCK_P": pixels,
        "BLOCK_C": channel_block(g.c_in, most),
        "BLOCK_O": channel_block(g.c_out, most),
    }


def forward(
    x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor | None, g: Geometry, mode: str, float32_precision: str
) -> Tensor:
    """The result, channels last."""
    x, y = channels_last(x), empty(x, (g.n, g.c_out, *g.out), last=True)
    gate, bias = gate.contiguous(), bias if bias is None else bias.contiguous()
    if g.aggregated:
        rows, bias, choice = _filters(weight, gate, bias, g, mode)
        forward_launch(x, rows, bias, choice, y, g, float32_precision).run()
    else:
        wide_launch(x, _rows(weight), bias, gate, y, g, mode, float32_precision).run()
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    g: Geometry,
    mode: str,
    float32_precision: str,
    need_x: bool,
    need_filters: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and of the cells' filters ``(cells, C_out, KH, KW, C_in)``, float32."""
    grad, x = channels_last(grad), channels_last(x)
    dx = d_filters = None
    if need_x:
        rows, _, choice = _filters(weight, gate.contiguous(), None, g, mode)
        size, dtype = (g.size, x.dtype) if g.whole else (g.patch, torch.float32)
        patches = torch.empty((g.cells, *size, g.c_in), dtype=dtype, device=x.device)
        input_grad_launch(grad, rows, choice, patches, g, float32_precision).run()
        patches = patches.view(g.n, *g.tiles, *size, g.c_in).permute(0, 5, 1, 2, 3, 4)
        dx = patches[:, :, 0, 0] if g.whole else merge_patches(patches, g)
    if need_filters:
        splits = weight_grad_splits(x, g, processors(x.device))
        parts = torch.empty((splits, g.cells, g.c_out, *g.kernel, g.c_in), dtype=torch.float32, device=x.device)
        weight_grad_launch(grad, x, parts, g, float32_precision).run()
        d_filters = parts[0] if splits == 1 else parts.sum(0)
    return dx, d_filters


def _rows(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).contiguous()  # (rows, KH, KW, C_in)


def _filters(
    weight: Tensor, gate: Tensor, bias: Tensor | None, g: Geometry, mode: str
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Filters by row ``(rows, KH, KW, C_in)``, biases ``(rows,)``, and what chooses among them, None if mixed."""
    if mode == "hard":
        # every program of a kernel looks through all k gates
        choice = gate if g.k <= MOST_GROUPS else cell_gate(gate).argmax(1).to(torch.int32)
        return _rows(weight), bias, choice
    filters, numbers = g.cells * g.c_out, g.cells * g.c_out * g.taps
    mixed = weight.new_empty(numbers + (0 if bias is None else filters))
    mix_launch(weight, bias, gate, mixed, g).run()
    rows = mixed[:numbers].view(filters, *g.kernel, g.c_in)
    return rows, None if bias is None else mixed[numbers:], None
