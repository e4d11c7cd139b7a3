"""Triton kernels of the convolution with mixed kernels, their launches, and what runs them.

Names are those of :mod:`nsrlib.ops.common`; besides, ``tile_h`` are pixels of a tile and ``tiles_h`` tiles of an image,
``cells`` samples or all tiles, ``GROUPS`` the k kernel groups, ``CARDINALS`` the d cardinal groups. Images are channels
last.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsrlib.ops.common import HW, Launch, cdiv, channel_block, channels_last, dot_precision, empty, processors
from nsrlib.ops.mixed_conv2d.gates import Geometry, cell_gate, merge_patches, mix


@triton.jit
def _filter_rows(chosen_ptr, cell, o, C_OUT: tl.constexpr, CARDINALS: tl.constexpr):
    """Rows of the filters ``o`` of a cell, and the row they count from: in the cell's own mixed kernel, or all."""
    if chosen_ptr is None:
        first = cell.to(tl.int64) * C_OUT
        rows = o
    else:
        first = cell.to(tl.int64) * 0
        rows = tl.load(chosen_ptr + cell * CARDINALS + o // (C_OUT // CARDINALS), mask=o < C_OUT, other=0)
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


@triton.jit(do_not_specialize=["height", "width", "out_h", "out_w", "tile_h", "tile_w", "tiles_h", "tiles_w"])
def _mixed_conv2d_fwd_kernel(
    x_ptr,  # (N, H, W, C_IN)
    w_ptr,  # (rows, KH, KW, C_IN)
    bias_ptr,  # (rows,) or None
    chosen_ptr,  # (cells, CARDINALS), int32, or None
    y_ptr,  # (N, OH, OW, C_OUT)
    height, width, out_h, out_w, tile_h, tile_w, tiles_h, tiles_w,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, CARDINALS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
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
    first, rows = _filter_rows(chosen_ptr, cell, o, C_OUT, CARDINALS)
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
    gate_ptr,  # (N, tiles_h, tiles_w, GROUPS, CARDINALS)
    y_ptr,  # (N, OH, OW, C_OUT)
    height, width, out_h, out_w, tile_h, tile_w, tiles_h, tiles_w,
    steps,  # KH KW times chunks of channels; were it known to the compiler, it would unroll them and spill
    GROUPS: tl.constexpr,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, CARDINALS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
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
    gate_ptr += n * tiles_h * tiles_w * (GROUPS * CARDINALS)
    tile = h // tile_h * tiles_w + w // tile_w
    at_gate = (tile * (GROUPS * CARDINALS))[:, None] + (o // (C_OUT // CARDINALS))[None, :]
    total = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for i in range(GROUPS):
        rows = i * C_OUT + o
        y = _products(
            x_ptr + n * height * width * C_IN, w_ptr, rows, h * STRIDE_H - PAD_H, w * STRIDE_W - PAD_W, ok, ok_o,
            height, width, steps, C_IN, KH, KW, PRECISION, BLOCK_P, BLOCK_C, BLOCK_O,
        )  # fmt: skip
        if bias_ptr is not None:
            y += tl.load(bias_ptr + rows, mask=ok_o, other=0).to(tl.float32)[None, :]
        gate = tl.load(gate_ptr + at_gate + i * CARDINALS, mask=ok[:, None] & ok_o[None, :], other=0)
        total += gate.to(tl.float32) * y
    y_ptr += n * out_h * out_w * C_OUT
    at = (h * out_w + w) * C_OUT
    tl.store(y_ptr + at[:, None] + o[None, :], total.to(y_ptr.dtype.element_ty), mask=ok[:, None] & ok_o[None, :])


@triton.jit(do_not_specialize=["out_h", "out_w", "tile_h", "tile_w", "tiles_h", "tiles_w", "patch_h", "patch_w"])
def _mixed_conv2d_bwd_input_kernel(
    g_ptr,  # (N, OH, OW, C_OUT)
    w_ptr,  # (rows, KH, KW, C_IN)
    chosen_ptr,  # (cells, CARDINALS), int32, or None
    d_ptr,  # (cells, patch_h, patch_w, C_IN)
    out_h, out_w, tile_h, tile_w, tiles_h, tiles_w, patch_h, patch_w,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, CARDINALS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
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
        first, rows = _filter_rows(chosen_ptr, cell, o, C_OUT, CARDINALS)
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
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One tap of BLOCK_O filters and BLOCK_C channels, over ``chunk`` pixels of one cell."""
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
    acc = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
    for start in range(0, chunk, BLOCK_P):
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
    row = (split.to(tl.int64) * cells + cell) * C_OUT + o
    at = (row * (KH * KW) + tap) * C_IN
    tl.store(d_ptr + at[:, None] + c[None, :], acc, mask=(o < C_OUT)[:, None] & ok_c)


def forward_launch(
    x: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    chosen: Tensor | None,
    y: Tensor,
    g: Geometry,
    float32_precision: str = "tf32x3",
) -> Launch:
    """The launch that fills ``y`` the aggregated way. Images are channels last; meta tensors do for an audit.

    ``rows`` are filters ``(rows, KH, KW, C_in)``: ``cells C_out`` mixed ones, or all ``k C_out`` if ``chosen``,
    ``(cells, d)`` int32, tells the kernel group of each cardinal group. ``bias`` is ``(rows,)`` or None.
    """
    blocks = _blocks(x, float32_precision, 128, g)
    arguments = {
        "x_ptr": x, "w_ptr": rows, "bias_ptr": bias, "chosen_ptr": chosen, "y_ptr": y, "height": g.size[0],
        "width": g.size[1], "CARDINALS": g.d, **_sizes(g, g.padding), **blocks,
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
    float32_precision: str = "tf32x3",
) -> Launch:
    """The launch that fills ``y`` the wide way; rows ``(k C_out, KH, KW, C_in)``, gate ``(N, GH, GW, k, d)``."""
    blocks = _blocks(x, float32_precision, 64, g)  # two sums a pixel
    arguments = {
        "x_ptr": x, "w_ptr": rows, "bias_ptr": bias, "gate_ptr": gate, "y_ptr": y, "height": g.size[0],
        "width": g.size[1], "steps": g.kernel[0] * g.kernel[1] * cdiv(g.c_in, blocks["BLOCK_C"]),
        "GROUPS": g.k, "CARDINALS": g.d, **_sizes(g, g.padding), **blocks,
    }  # fmt: skip
    programs = g.n * cdiv(g.out[0] * g.out[1], blocks["BLOCK_P"]) * cdiv(g.c_out, blocks["BLOCK_O"])
    return Launch(_mixed_conv2d_wide_kernel, (programs,), arguments)


def input_grad_launch(
    grad: Tensor, rows: Tensor, chosen: Tensor | None, dx: Tensor, g: Geometry, float32_precision: str = "tf32x3"
) -> Launch:
    """The launch that fills ``dx``: the gradient ``(N, H, W, C_in)`` of x, or ``(cells, *g.patch, C_in)`` of tiles.

    The other arguments are those of :func:`forward_launch`; ``grad``, of y, is channels last.
    """
    blocks = _blocks(grad, float32_precision, 128, g)
    patch, padding = (g.size, g.padding) if g.whole else (g.patch, (0, 0))
    arguments = {
        "g_ptr": grad, "w_ptr": rows, "chosen_ptr": chosen, "d_ptr": dx, "patch_h": patch[0], "patch_w": patch[1],
        "CARDINALS": g.d, **_sizes(g, padding), **blocks,
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
        "chunk": cdiv(pixels, splits * blocks["BLOCK_P"]) * blocks["BLOCK_P"], **_sizes(g, g.padding), **blocks,
    }  # fmt: skip
    return Launch(_mixed_conv2d_bwd_weight_kernel, (splits * g.cells * _weight_blocks(blocks, g),), arguments)


def weight_grad_splits(x: Tensor, g: Geometry, processors: int) -> int:
    """Parts of a cell's pixels in :func:`weight_grad_launch`: two programs a processor, at least 256 pixels each."""
    programs = g.cells * _weight_blocks(_blocks(x, "", 64, g), g)
    return max(1, min(2 * processors // programs, g.tile[0] * g.tile[1] // 256))


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
    """The result, channels last; a hard gate of small tiles comes as zeros and ones."""
    x, y = channels_last(x), empty(x, (g.n, g.c_out, *g.out), last=True)
    if g.aggregated:
        rows, chosen = _filters(weight, gate, mode)
        if bias is not None and chosen is None:
            bias = mix(cell_gate(gate), bias)
        forward_launch(x, rows, bias, chosen, y, g, float32_precision).run()
    else:
        cells = gate.permute(0, 3, 4, 1, 2).contiguous()
        wide_launch(x, _rows(weight), bias, cells, y, g, float32_precision).run()
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
    """Gradients of x and of the cells' filters ``(cells, C_out, C_in, KH, KW)``, float32."""
    grad, x = channels_last(grad), channels_last(x)
    dx = d_filters = None
    if need_x:
        rows, chosen = _filters(weight, gate, mode)
        size, dtype = (g.size, x.dtype) if g.whole else (g.patch, torch.float32)
        patches = torch.empty((g.cells, *size, g.c_in), dtype=dtype, device=x.device)
        input_grad_launch(grad, rows, chosen, patches, g, float32_precision).run()
        patches = patches.view(g.n, *g.tiles, *size, g.c_in).permute(0, 5, 1, 2, 3, 4)
        dx = patches[:, :, 0, 0] if g.whole else merge_patches(patches, g)
    if need_filters:
        splits = weight_grad_splits(x, g, processors(x.device))
        parts = torch.empty((splits, g.cells, g.c_out, *g.kernel, g.c_in), dtype=torch.float32, device=x.device)
        weight_grad_launch(grad, x, parts, g, float32_precision).run()
        d_filters = (parts[0] if splits == 1 else parts.sum(0)).permute(0, 1, 4, 2, 3)
    return dx, d_filters


def _rows(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).contiguous()  # (rows, KH, KW, C_in)


def _filters(weight: Tensor, gate: Tensor, mode: str) -> tuple[Tensor, Tensor | None]:
    """Filters by row ``(rows, KH, KW, C_in)`` and the chosen kernel groups ``(cells, d)``."""
    cells = cell_gate(gate)
    if mode == "hard":
        return _rows(weight), cells.argmax(1).to(torch.int32)
    return mix(cells, _rows(weight)).flatten(0, 1), None
