"""Convolution with input-dependent kernels (NSR, Fan et al., NeurIPS 2020, Eqs. 6, 9 and 10).

A layer owns k kernels ``W^1 ... W^k`` of ``C_out`` filters each. The filters are cut into d *cardinal* groups of
``r = C_out / d``, and a gate ``g``, made elsewhere, weighs the k kernels for each cardinal group j on its own:

    ``What[j r + s] = sum_i g[i, j] W^i[j r + s]``,   ``y = What * x + bhat``,   s = 0 ... r - 1,

the bias mixed by the same gate. A gate belongs to a sample or to a tile of a sample's output. Tiles cut the output
only: a tile's convolution reads its neighbours' input, so that no seam appears where two tiles share a gate, and the
gate is the one thing that steps from tile to tile. This replaces the overlapping, zero-padded patches of the official
evaluation. The *hard* mode takes the kernel of the largest gate with weight 1, per cardinal group (Eq. 6).

Convolution is linear in its kernel, so there are two ways to compute, with multiply-adds per output pixel

==========  =====================================================  ==============================================
aggregated  mix the kernels of a tile, then one convolution        ``C_out D (1 + k / T)``, without ``k / T`` if hard
wide        k convolutions, outputs mixed pixel by pixel           ``k C_out D``
==========  =====================================================  ==============================================

where ``D = C_in KH KW`` and a tile has T pixels. Samples, and tiles of at least ``TILE_PIXELS``, are aggregated: a
layer with k times the parameters for the work of one. Smaller tiles, down to a gate a pixel, are wide.

On a GPU one Triton kernel convolves all samples or tiles, each with its own filters, where PyTorch has a convolution
with groups = batch. It reads filters by row number: rows of the mixed kernels, or, if hard, the chosen rows of
``weight`` where they lie. The wide way mixes in registers. Sums are float32. Elsewhere, and in float64, library
convolutions: grouped if aggregated (on a CPU, at 32 and 64 channels, no slower than
one plain convolution by more than a tenth), k plain ones if wide.

Memory beyond inputs and results. Aggregated: the mixed kernels, ``C_out D`` a tile, if soft; backward, their gradient
in float32 (a few times to spread the work if tiles are few) and the gradient of the tiles' input with its margin. The
library way also copies ``x`` as tiles with a margin. Wide: in the Triton kernel nothing, backward and in the library
three results (float32 for 16-bit types) and the gate at every pixel.

Shapes: x ``(N, C_in, H, W)``; weight ``(k C_out, C_in, KH, KW)``, kernel group i slowest, as released; gate
``(N, k, d)`` or, for tiles, ``(N, k, d, GH, GW)``; bias ``(k C_out,)``; result ``(N, C_out, OH, OW)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nsrlib.bench.audit import Launch
from nsrlib.ops.common import Pair, in_autocast, pair

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:
    HAS_TRITON = False

Mode = Literal["soft", "hard"]
Float32Precision = Literal["tf32x3", "ieee", "tf32"]

MODES: tuple[str, ...] = ("soft", "hard")
FLOAT32_PRECISIONS: tuple[str, ...] = ("tf32x3", "ieee", "tf32")
TILE_PIXELS = 64  # of the smallest tile worth a kernel of its own; below, k = 4 convolutions are no slower on a CPU


def mixed_conv2d_ref(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    *,
    tile: Pair | None = None,
    mode: Mode = "soft",
) -> Tensor:
    """What :func:`mixed_conv2d` computes, by definition: the outputs of all k kernels, mixed.

    Its gradients are the definition too; if hard, that of the gate is the straight-through one.
    """
    if mode == "hard":
        gate = _one_hot(gate) + gate - gate.detach()
    z = F.conv2d(x, weight, bias, stride, padding)  # (N, k C_out, OH, OW)
    if tile is None:
        pixels = gate[..., None, None]  # (N, k, d, 1, 1)
    else:
        th, tw = pair(tile)
        pixels = gate.repeat_interleave(th, 3).repeat_interleave(tw, 4)[..., : z.shape[2], : z.shape[3]]
    k, d = gate.shape[1:3]
    z = z.unflatten(1, (k, d, -1))  # (N, k, d, r, OH, OW)
    return (z * pixels[:, :, :, None]).sum(1).flatten(1, 2)


class Geometry(NamedTuple):
    """Sizes of one call. A per-sample gate is a tile as large as the output."""

    n: int
    k: int
    d: int
    c_in: int
    c_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    size: tuple[int, int]  # H, W
    out: tuple[int, int]  # OH, OW
    tile: tuple[int, int]  # output pixels
    tiles: tuple[int, int]  # GH, GW

    @property
    def cells(self) -> int:
        """Samples, or tiles of all samples."""
        return self.n * self.tiles[0] * self.tiles[1]

    @property
    def whole(self) -> bool:
        """One tile a sample."""
        return self.tiles == (1, 1)

    @property
    def aggregated(self) -> bool:
        return self.whole or self.tile[0] * self.tile[1] >= TILE_PIXELS

    @property
    def patch(self) -> tuple[int, int]:
        """Input pixels that a tile reads, padding included."""
        h, w = ((t - 1) * s + k for t, s, k in zip(self.tile, self.stride, self.kernel, strict=True))
        return h, w

    @property
    def filter_size(self) -> int:
        return self.c_in * self.kernel[0] * self.kernel[1]


def geometry(
    x: Sequence[int], weight: Sequence[int], gate: Sequence[int], stride: Any, padding: Any, tile: Any
) -> Geometry:
    """Sizes of a call from the shapes of its arguments; ``tile`` is a pair, or empty for a per-sample gate."""
    kernel, size = (weight[2], weight[3]), (x[2], x[3])
    oh, ow = _output_size(size, kernel, stride, padding)
    th, tw = (min(tile[0], oh), min(tile[1], ow)) if tile else (oh, ow)
    return Geometry(
        x[0], gate[1], gate[2], x[1], weight[0] // gate[1], kernel, (stride[0], stride[1]), (padding[0], padding[1]),
        size, (oh, ow), (th, tw), (-(-oh // th), -(-ow // tw)),
    )  # fmt: skip


def _output_size(size: Any, kernel: Any, stride: Any, padding: Any) -> tuple[int, int]:
    oh, ow = ((size[a] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in (0, 1))
    return oh, ow


# --- kernels ----------------------------------------------------------------------------------------------------------

if HAS_TRITON:

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

    @triton.jit(
        do_not_specialize=["height", "width", "out_h", "out_w", "tile_h", "tile_w", "tiles_h", "tiles_w", "steps"]
    )
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
    """The launch that fills ``y`` the aggregated way. Meta tensors do for an audit.

    Args:
        x, y: channels last.
        rows: filters ``(rows, KH, KW, C_in)``: ``cells C_out`` mixed ones, or, if ``chosen``, all ``k C_out``.
        bias: ``(rows,)`` or None.
        chosen: ``(cells, d)`` int32, the kernel group of each cardinal group, or None.
        g: :func:`geometry`.
        float32_precision: on AMD ``"ieee"``.
    """
    blocks = _blocks(x, float32_precision, 128, g)
    arguments = {
        "x_ptr": x, "w_ptr": rows, "bias_ptr": bias, "chosen_ptr": chosen, "y_ptr": y, "height": g.size[0],
        "width": g.size[1], **_tiling(g), "CARDINALS": g.d, **_layer(g, g.padding), **blocks,
    }  # fmt: skip
    programs = g.cells * _cdiv(g.tile[0] * g.tile[1], blocks["BLOCK_P"]) * _cdiv(g.c_out, blocks["BLOCK_O"])
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
        "width": g.size[1], **_tiling(g), "steps": g.kernel[0] * g.kernel[1] * _cdiv(g.c_in, blocks["BLOCK_C"]),
        "GROUPS": g.k, "CARDINALS": g.d, **_layer(g, g.padding), **blocks,
    }  # fmt: skip
    programs = g.n * _cdiv(g.out[0] * g.out[1], blocks["BLOCK_P"]) * _cdiv(g.c_out, blocks["BLOCK_O"])
    return Launch(_mixed_conv2d_wide_kernel, (programs,), arguments)


def input_grad_launch(
    grad: Tensor,
    rows: Tensor,
    chosen: Tensor | None,
    dx: Tensor,
    g: Geometry,
    float32_precision: str = "tf32x3",
) -> Launch:
    """The launch that fills ``dx``: the gradient ``(N, H, W, C_in)`` of x, or ``(cells, *g.patch, C_in)`` of tiles.

    The other arguments are those of :func:`forward_launch`; ``grad``, of y, is channels last.
    """
    blocks = _blocks(grad, float32_precision, 128, g)
    patch, padding = (g.size, g.padding) if g.whole else (g.patch, (0, 0))
    arguments = {
        "g_ptr": grad, "w_ptr": rows, "chosen_ptr": chosen, "d_ptr": dx, **_tiling(g), "patch_h": patch[0],
        "patch_w": patch[1], "CARDINALS": g.d, **_layer(g, padding), **blocks,
    }  # fmt: skip
    programs = g.cells * _cdiv(patch[0] * patch[1], blocks["BLOCK_P"]) * _cdiv(g.c_in, blocks["BLOCK_C"])
    return Launch(_mixed_conv2d_bwd_input_kernel, (programs,), arguments)


def weight_grad_launch(
    grad: Tensor, x: Tensor, d_rows: Tensor, g: Geometry, float32_precision: str = "tf32x3"
) -> Launch:
    """The launch that fills ``d_rows`` ``(splits, cells, C_out, KH, KW, C_in)``, float32, partial sums over pixels."""
    blocks = _blocks(x, float32_precision, 64, g)
    splits, pixels = d_rows.shape[0], g.tile[0] * g.tile[1]
    arguments = {
        "g_ptr": grad, "x_ptr": x, "d_ptr": d_rows, "height": g.size[0], "width": g.size[1], **_tiling(g),
        "cells": g.cells, "chunk": _cdiv(pixels, splits * blocks["BLOCK_P"]) * blocks["BLOCK_P"],
        **_layer(g, g.padding), **blocks,
    }  # fmt: skip
    return Launch(_mixed_conv2d_bwd_weight_kernel, (splits * g.cells * _weight_blocks(blocks, g),), arguments)


def weight_grad_splits(x: Tensor, g: Geometry, processors: int) -> int:
    """Parts of a cell's pixels in :func:`weight_grad_launch`: two programs a processor, at least 256 pixels each."""
    programs = g.cells * _weight_blocks(_blocks(x, "", 64, g), g)
    return max(1, min(2 * processors // programs, g.tile[0] * g.tile[1] // 256))


def _weight_blocks(blocks: dict[str, Any], g: Geometry) -> int:
    return g.kernel[0] * g.kernel[1] * _cdiv(g.c_in, blocks["BLOCK_C"]) * _cdiv(g.c_out, blocks["BLOCK_O"])


def _tiling(g: Geometry) -> dict[str, int]:
    return {
        "out_h": g.out[0], "out_w": g.out[1], "tile_h": g.tile[0], "tile_w": g.tile[1],
        "tiles_h": g.tiles[0], "tiles_w": g.tiles[1],
    }  # fmt: skip


def _layer(g: Geometry, padding: tuple[int, int]) -> dict[str, int]:
    return {
        "C_IN": g.c_in, "C_OUT": g.c_out, "KH": g.kernel[0], "KW": g.kernel[1],
        "STRIDE_H": g.stride[0], "STRIDE_W": g.stride[1], "PAD_H": padding[0], "PAD_W": padding[1],
    }  # fmt: skip


def _blocks(x: Tensor, float32_precision: str, pixels: int, g: Geometry) -> dict[str, Any]:
    narrow = x.dtype == torch.float32  # in wider blocks of float32 registers spill
    return {
        "PRECISION": float32_precision if narrow else "ieee",  # says nothing about 16-bit types
        "BLOCK_P": pixels // 2 if narrow else pixels,
        "BLOCK_C": _block(g.c_in, narrow),
        "BLOCK_O": _block(g.c_out, narrow),
    }


def _block(channels: int, narrow: bool) -> int:
    return min(32 if narrow else 64, max(16, 1 << (channels - 1).bit_length()))  # a matrix product wants 16


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _has_kernel(x: Tensor) -> bool:
    return HAS_TRITON and x.is_cuda and x.dtype in (torch.float16, torch.bfloat16, torch.float32)


# --- gates ------------------------------------------------------------------------------------------------------------


def _one_hot(gate: Tensor) -> Tensor:
    """1 where the gate is largest among the k kernel groups (the first of equals), 0 elsewhere."""
    return torch.zeros_like(gate).scatter_(1, gate.argmax(1, keepdim=True), 1)


def _cell_gate(gate: Tensor) -> Tensor:
    """``(cells, k, d)``: tiles become samples."""
    return gate if gate.ndim == 3 else gate.permute(0, 3, 4, 1, 2).flatten(0, 2)


def _mix(gate: Tensor, filters: Tensor) -> Tensor:
    """``sum_i g[m, i, j] W^i``: ``(M, k, d)``, ``(k C_out, ...)`` to ``(M, C_out, ...)``."""
    m, k, d = gate.shape
    mixed = torch.einsum("mkd,kde->mde", gate, filters.reshape(k, d, -1))
    return mixed.contiguous().view(m, filters.shape[0] // k, *filters.shape[1:])


def _choose(chosen: Tensor, filters: Tensor, k: int) -> Tensor:
    """Filters of the chosen kernel groups: ``(M, d)``, ``(k C_out, ...)`` to ``(M, C_out, ...)``."""
    d = chosen.shape[1]
    groups = filters.unflatten(0, (k, d, -1))  # (k, d, r, ...)
    return groups[chosen, torch.arange(d, device=chosen.device)].flatten(1, 2)


def _unmix(gate: Tensor, filters: Tensor, d_mixed: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`_mix`: of ``filters`` and of ``gate``."""
    m, k, d = gate.shape
    d_mixed = d_mixed.reshape(m, d, -1)
    d_filters = torch.einsum("mkd,mde->kde", gate, d_mixed).reshape(filters.shape)
    return d_filters, torch.einsum("mde,kde->mkd", d_mixed, filters.reshape(k, d, -1))


# --- library convolutions ---------------------------------------------------------------------------------------------


def _patches(x: Tensor, g: Geometry) -> Tensor:
    """What the tiles read, a view: ``(N, C, GH, GW, *g.patch)`` of padded x ``(N, C, *padded size)``."""
    step_h, step_w = g.tile[0] * g.stride[0], g.tile[1] * g.stride[1]
    return x.unfold(2, g.patch[0], step_h).unfold(3, g.patch[1], step_w)


def _margins(g: Geometry) -> tuple[int, int, int, int]:
    """Left, right, top, bottom: padding that fills the last tiles; negative where pixels are never read."""
    (left, right), (top, bottom) = (
        (g.padding[a], (g.tiles[a] - 1) * g.tile[a] * g.stride[a] + g.patch[a] - g.size[a] - g.padding[a])
        for a in (1, 0)
    )
    return left, right, top, bottom


def _merge_patches(patches: Tensor, g: Geometry) -> Tensor:
    """Gradient of x from those of the tiles' patches ``(N, C, GH, GW, *g.patch)``, by sums in a fixed order."""
    left, right, top, bottom = _margins(g)
    h, w = g.size[0] + top + bottom, g.size[1] + left + right
    sums = patches.new_zeros((g.n, g.c_in, h, w), dtype=_wide_type(patches.dtype))
    # every a-th tile in a row, every b-th in a column: these do not overlap
    a, b = (_cdiv(g.patch[i], g.tile[i] * g.stride[i]) for i in (0, 1))
    for i in range(a):
        for j in range(b):
            _patches(sums, g)[:, :, i::a, j::b] += patches[:, :, i::a, j::b]
    return F.pad(sums, (-left, -right, -top, -bottom))


def _as_groups(x: Tensor, g: Geometry) -> tuple[Tensor, tuple[int, int]]:
    """x as ``(1, cells C_in, ...)`` for a convolution with one group a cell, and the padding it still needs."""
    if g.whole:
        return x.reshape(1, -1, *x.shape[2:]), g.padding
    patches = _patches(F.pad(x, _margins(g)), g)
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(1, -1, *g.patch), (0, 0)


def _results_as_groups(y: Tensor, g: Geometry) -> Tensor:
    """y as ``(1, cells C_out, *g.tile)``, zeros beyond its end."""
    if g.whole:
        return y.reshape(1, -1, *g.out)
    y = F.pad(y, (0, g.tiles[1] * g.tile[1] - g.out[1], 0, g.tiles[0] * g.tile[0] - g.out[0]))
    y = y.unflatten(3, (g.tiles[1], g.tile[1])).unflatten(2, (g.tiles[0], g.tile[0]))  # (N, C, GH, th, GW, tw)
    return y.permute(0, 2, 4, 1, 3, 5).reshape(1, -1, *g.tile)


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
        g = g._replace(c_in=g.c_in + more_in, c_out=g.c_out + more_out)
        return _forward_grouped(x, filters, bias, g)[:, :narrow]
    x, padding = _as_groups(x, g)
    bias = bias if bias is None else bias.flatten()
    y = F.conv2d(x, filters.flatten(0, 1), bias, g.stride, padding, groups=g.cells)
    y = y.reshape(g.n, *g.tiles, g.c_out, *g.tile).permute(0, 3, 1, 4, 2, 5)  # (N, C, GH, th, GW, tw)
    return y.reshape(g.n, g.c_out, g.tiles[0] * g.tile[0], -1)[:, :, : g.out[0], : g.out[1]]


def _forward_rows(x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor | None, g: Geometry, mode: str) -> Tensor:
    """One row of tiles after the other: its kernels and patches are mixed, cut and used while they are in the cache."""
    y = x.new_empty((g.n, g.c_out, *g.out))
    row = g._replace(
        size=(g.patch[0], g.size[1]), padding=(0, g.padding[1]), out=(g.tile[0], g.out[1]), tiles=(1, g.tiles[1])
    )
    for i in range(g.tiles[0]):
        first = i * g.tile[0] * g.stride[0] - g.padding[0]
        top = min(max(-first, 0), g.patch[0])
        read = x[:, :, max(first, 0) : first + g.patch[0]] if first + g.patch[0] > 0 else x[:, :, :0]
        read = F.pad(read, (0, 0, top, g.patch[0] - top - read.shape[2]))
        cells = gate[..., i : i + 1, :]
        filters = _cell_filters(weight, cells, mode)
        biases = None if bias is None else _cell_filters(bias, cells, mode)
        place = y[:, :, i * g.tile[0] : (i + 1) * g.tile[0]]
        place.copy_(_forward_grouped(read, filters, biases, row)[:, :, : place.shape[2]])
    return y


def _backward_grouped(
    grad: Tensor, x: Tensor, filters: Tensor, g: Geometry, need_x: bool, need_filters: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and of the cells' filters."""
    x, padding = _as_groups(x, g)
    dx, d_filters, _ = torch.ops.aten.convolution_backward(
        _results_as_groups(grad, g), x, filters.flatten(0, 1), None, g.stride, padding, (1, 1), False, (0, 0), g.cells,
        (need_x, need_filters, False),
    )  # fmt: skip
    if need_x:
        patches = dx.reshape(g.n, *g.tiles, g.c_in, *x.shape[2:]).permute(0, 3, 1, 2, 4, 5)
        dx = patches[:, :, 0, 0] if g.whole else _merge_patches(patches, g)
    return dx, d_filters


def _pixel_gate(gate: Tensor, i: int, g: Geometry) -> Tensor:
    """Gate of kernel group i for every output ``(N, d, 1, OH, OW)``, to go with ``(N, d, r, OH, OW)``."""
    pixels = gate[:, i].repeat_interleave(g.tile[0], 2).repeat_interleave(g.tile[1], 3)
    return pixels[:, :, None, : g.out[0], : g.out[1]].to(_wide_type(gate.dtype))


def _forward_wide(x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    y = x.new_zeros((g.n, g.d, g.c_out // g.d, *g.out), dtype=_wide_type(x.dtype))
    for i, filters in enumerate(weight.chunk(g.k)):
        z = F.conv2d(x, filters, None if bias is None else bias.chunk(g.k)[i], g.stride, g.padding)
        y.addcmul_(z.unflatten(1, (g.d, -1)).to(y.dtype), _pixel_gate(gate, i, g))
    return y.flatten(1, 2).to(x.dtype)


def _backward_wide(
    grad: Tensor, x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor | None, g: Geometry, need: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of x, weight, gate, bias."""
    need_x, need_weight, need_gate, need_bias = need
    wide = _wide_type(x.dtype)
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
            cells = _results_as_groups(pixels, g).reshape(g.n, *g.tiles, g.d, -1).sum(-1)  # (N, GH, GW, d)
            d_gate.append(cells.permute(0, 3, 1, 2))
    return [
        dx,
        torch.cat(d_weight) if need_weight else None,
        torch.stack(d_gate, 1).view(gate.shape) if need_gate else None,
        torch.cat(d_bias) if need_bias else None,
    ]


def _wide_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


# --- operator ---------------------------------------------------------------------------------------------------------


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _rows(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).contiguous()  # (rows, KH, KW, C_in)


def _empty(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """A result: kernels work on channels last; the library folds samples into channels, and that is the other one."""
    layout = torch.channels_last if _has_kernel(x) else torch.contiguous_format
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


def _precision(float32_precision: str) -> str:
    return "ieee" if torch.version.hip else float32_precision  # matrix cores of CDNA multiply float32 as it is


def _kernel_rows(weight: Tensor, gate: Tensor, mode: str) -> tuple[Tensor, Tensor | None]:
    """Filters by row ``(rows, KH, KW, C_in)`` and the chosen kernel groups ``(cells, d)``."""
    cells = _cell_gate(gate)
    if mode == "hard":
        return _rows(weight), cells.argmax(1).to(torch.int32)
    return _mix(cells, _rows(weight)).flatten(0, 1), None


@torch.library.custom_op("nsrlib::mixed_conv2d", mutates_args=())
def _mixed_conv2d(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    tile: list[int],
    mode: str,
    float32_precision: str,
) -> Tensor:
    g = geometry(x.shape, weight.shape, gate.shape, stride, padding, tile)
    y = _empty(x, (g.n, g.c_out, *g.out))
    if y.numel() == 0:
        return y
    if not g.aggregated and mode == "hard":
        gate = _one_hot(gate)
    if _has_kernel(x):
        precision = _precision(float32_precision)
        with torch.cuda.device_of(x):
            if g.aggregated:
                rows, chosen = _kernel_rows(weight, gate, mode)
                if bias is not None and chosen is None:
                    bias = _mix(_cell_gate(gate), bias)
                forward_launch(_channels_last(x), rows, bias, chosen, y, g, precision).run()
            else:
                cells = gate.permute(0, 3, 4, 1, 2).contiguous()
                wide_launch(_channels_last(x), _rows(weight), bias, cells, y, g, precision).run()
        return y
    if not g.aggregated:
        return _forward_wide(x, weight, gate, bias, g)
    if not g.whole:
        return _forward_rows(x, weight, gate, bias, g, mode)
    filters = _cell_filters(weight, gate, mode)
    biases = None if bias is None else _cell_filters(bias, gate, mode)
    return _forward_grouped(x, filters, biases, g).contiguous()


def _cell_filters(filters: Tensor, gate: Tensor, mode: str) -> Tensor:
    """Filters, or biases, of every cell: ``(k C_out, ...)`` to ``(cells, C_out, ...)``."""
    cells = _cell_gate(gate)
    return _choose(cells.argmax(1), filters, cells.shape[1]) if mode == "hard" else _mix(cells, filters)


@torch.library.custom_op("nsrlib::mixed_conv2d_backward", mutates_args=())
def _mixed_conv2d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    tile: list[int],
    mode: str,
    float32_precision: str,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, gate, bias; empty where ``need`` is false. A hard gate counts as 0 and 1."""
    g = geometry(x.shape, weight.shape, gate.shape, stride, padding, tile)
    results = _empty_gradients(x, weight, gate, need)
    if grad.numel() == 0:
        for result in results:
            result.zero_()
        return results
    need_x, need_weight, need_gate, need_bias = need
    weights = _one_hot(gate) if mode == "hard" else gate
    if not g.aggregated:
        found = _backward_wide(grad, x, weight, weights, bias, g, need)
    else:
        need_filters = need_weight or need_gate
        d_weight: Tensor | None = None
        d_cells: Tensor | None = None
        if _has_kernel(x):
            dx, d_filters = _backward_kernels(grad, x, weight, gate, g, mode, float32_precision, need_x, need_filters)
        else:
            filters = _cell_filters(weight, gate, mode)
            dx, d_filters = _backward_grouped(grad, x, filters, g, need_x, need_filters)
        wide = _wide_type(x.dtype)
        cells = _cell_gate(weights).to(wide)
        if d_filters is not None:
            d_weight, d_cells = _unmix(cells, weight.to(wide), d_filters.to(wide))
        d_bias: Tensor | None = None
        if bias is not None and (need_bias or need_gate):
            d_biases = _results_as_groups(grad, g).reshape(g.cells, g.c_out, -1).sum(-1, dtype=wide)
            d_bias, d_cells_bias = _unmix(cells, bias.to(wide), d_biases)
            d_cells = d_cells_bias if d_cells is None else d_cells + d_cells_bias
        if d_cells is not None:
            d_cells = d_cells.view(g.n, *g.tiles, g.k, g.d).permute(0, 3, 4, 1, 2).reshape(gate.shape)
        found = [dx, d_weight, d_cells, d_bias]
    filled = [
        _fill(result, value) if wanted and value is not None else result
        for result, value, wanted in zip(results, found, need, strict=True)
    ]
    return filled[0], filled[1], filled[2], filled[3]


def _fill(result: Tensor, value: Tensor) -> Tensor:
    """``value`` in the type and layout of ``result``, copied only if it is not so already."""
    same = value.dtype == result.dtype and value.stride() == result.stride()
    return value if same else result.copy_(value)


def _backward_kernels(
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
    grad, x, precision = _channels_last(grad), _channels_last(x), _precision(float32_precision)
    dx: Tensor | None = None
    d_filters: Tensor | None = None
    with torch.cuda.device_of(x):
        if need_x:
            rows, chosen = _kernel_rows(weight, gate, mode)
            size, dtype = (g.size, x.dtype) if g.whole else (g.patch, torch.float32)
            patches = torch.empty((g.cells, *size, g.c_in), dtype=dtype, device=x.device)
            input_grad_launch(grad, rows, chosen, patches, g, precision).run()
            patches = patches.view(g.n, *g.tiles, *size, g.c_in).permute(0, 5, 1, 2, 3, 4)
            dx = patches[:, :, 0, 0] if g.whole else _merge_patches(patches, g)
        if need_filters:
            processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 132
            splits = weight_grad_splits(x, g, processors)
            parts = torch.empty((splits, g.cells, g.c_out, *g.kernel, g.c_in), dtype=torch.float32, device=x.device)
            weight_grad_launch(grad, x, parts, g, precision).run()
            d_filters = (parts[0] if splits == 1 else parts.sum(0)).permute(0, 1, 4, 2, 3)
    return dx, d_filters


def _empty_gradients(
    x: Tensor, weight: Tensor, gate: Tensor, need: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shapes = ((weight.shape, need[1]), (gate.shape, need[2]), (weight.shape[:1], need[3]))
    d_weight, d_gate, d_bias = (x.new_empty(shape if wanted else 0) for shape, wanted in shapes)
    return _empty(x, tuple(x.shape)) if need[0] else x.new_empty(0), d_weight, d_gate, d_bias


@_mixed_conv2d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    tile: list[int],
    mode: str,
    float32_precision: str,
) -> Tensor:
    g = geometry(x.shape, weight.shape, gate.shape, stride, padding, tile)
    return _empty(x, (g.n, g.c_out, *g.out))


@_mixed_conv2d_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    tile: list[int],
    mode: str,
    float32_precision: str,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_gradients(x, weight, gate, need)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, gate, bias, *ctx.options = inputs
    ctx.save_for_backward(x, weight, gate, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, gate, bias = ctx.saved_tensors
    need = list(ctx.needs_input_grad[:4])
    found = _mixed_conv2d_backward(grad, x, weight, gate, bias, *ctx.options, need)
    return *(t if wanted else None for t, wanted in zip(found, need, strict=True)), None, None, None, None, None


_mixed_conv2d.register_autograd(_backward, setup_context=_setup_context)


def _one_by_one(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The ``torch.vmap`` rule: one call an element."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def element(b: int) -> Any:
            return operator(
                *(a.select(dim, b) if isinstance(dim, int) else a for a, dim in zip(args, in_dims, strict=True))
            )

        found = [element(b) for b in range(info.batch_size)]
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        return tuple(torch.stack(values) for values in zip(*found, strict=True)), (0,) * len(found[0])

    return rule


_mixed_conv2d.register_vmap(_one_by_one(_mixed_conv2d))
_mixed_conv2d_backward.register_vmap(_one_by_one(_mixed_conv2d_backward))


# A multiply-add counts as two, biases nothing, as in PyTorch's own convolutions. Mixing kernels counts if soft;
# choosing does not. The wide way counts as what it is: k convolutions, and k multiply-adds for each output.


@register_flop_formula(torch.ops.nsrlib.mixed_conv2d)
def _flops(
    x: Any, weight: Any, gate: Any, bias: Any, stride: Any, padding: Any, tile: Any, mode: str, *_: Any, **__: Any
) -> int:
    g = geometry(x, weight, gate, stride, padding, tile)
    outputs = g.n * g.out[0] * g.out[1] * g.c_out
    if not g.aggregated:
        return 2 * outputs * g.k * (g.filter_size + 1)
    return 2 * (outputs * g.filter_size + (_mixing(g) if mode == "soft" else 0))


@register_flop_formula(torch.ops.nsrlib.mixed_conv2d_backward)
def _backward_flops(
    grad: Any, x: Any, weight: Any, gate: Any, bias: Any, stride: Any, padding: Any, tile: Any, mode: str,
    float32_precision: str, need: Sequence[bool], *_: Any, **__: Any,
) -> int:  # fmt: skip
    g = geometry(x, weight, gate, stride, padding, tile)
    need_x, need_weight, need_gate, _need_bias = need
    outputs = g.n * g.out[0] * g.out[1] * g.c_out
    if not g.aggregated:
        # the gate into the gradient; a convolution for each; products and sums for the gate
        return outputs * g.k * (1 + 2 * g.filter_size * (need_x + need_weight + need_gate) + 2 * need_gate)
    mixings = (need_x and mode == "soft") + 2 * (need_weight or need_gate)
    return 2 * (outputs * g.filter_size * (need_x + (need_weight or need_gate)) + mixings * _mixing(g))


def _mixing(g: Geometry) -> int:
    return g.cells * g.k * g.c_out * g.filter_size


# --- public function --------------------------------------------------------------------------------------------------


def mixed_conv2d(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    *,
    tile: Pair | None = None,
    mode: Mode = "soft",
    float32_precision: Float32Precision = "tf32x3",
) -> Tensor:
    """Convolution with k kernels mixed by a gate per sample or per tile: Triton on a GPU, the library elsewhere.

    Gradients once, not twice: of x, weight, bias and gate. In the hard mode that of the gate is the straight-through
    one, ``dL/dg[i, j] = <dL/dy_j, W^i_j * x + b^i_j>`` for all k, chosen or not, as of a soft gate of zeros and ones.
    Under autocast every tensor is cast to its type, as for a convolution.

    Args:
        x: ``(N, C_in, H, W)``, float16, bfloat16, float32 (or float64, library only), any strides; on a GPU channels
            last is read as it is.
        weight: ``(k C_out, C_in, KH, KW)``, filter ``i C_out + j r + s`` belongs to kernel group i and, within it, to
            cardinal group j; ``r = C_out / d``. Weight norm, if any, has been applied.
        gate: weights of the kernel groups, *after* softmax or sigmoid (no sum is enforced): ``(N, k, d)``, or with
            ``tile`` ``(N, k, d, GH, GW)``, ``GH = ceil(OH / tile height)``. In the hard mode only their order matters,
            so logits will do, and of equals the first counts.
        bias: ``(k C_out,)`` or None, mixed or chosen like the filters.
        stride: at least 1, one number or ``(vertical, horizontal)``.
        padding: zeros added on every side, likewise.
        tile: output pixels that share a gate, likewise, counted from the top left; 1 for a gate a pixel, None for a
            gate a sample. Tiles at the right and bottom end may be cut.
        mode: ``"soft"`` or ``"hard"``. Tiles below ``TILE_PIXELS`` (64 pixels) save no work in the hard mode.
        float32_precision: how kernels multiply float32 on NVIDIA tensor cores, as in :func:`nsrlib.ops.bsconv2d`.
            Plays no part for other types, the library, or AMD.

    Returns:
        ``(N, C_out, OH, OW)``; channels last from a kernel, contiguous from the library.

    Raises:
        ValueError: shapes that do not fit, a width that k or d does not divide, different devices, stride or tile below
            1, negative padding, unknown mode or precision.
        TypeError: an integer type, or different types.
    """
    x, weight, gate, bias = in_autocast(x, weight, gate, bias)
    stride, padding = pair(stride), pair(padding)
    tile = tile if tile is None else pair(tile)
    _check(x, weight, gate, bias, stride, padding, tile, mode, float32_precision)
    if _has_kernel(x):
        x = _channels_last(x)  # here, not in the operator: the copy also serves the backward pass
    return _mixed_conv2d(x, weight, gate, bias, list(stride), list(padding), list(tile or ()), mode, float32_precision)


def _check(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    tile: tuple[int, int] | None,
    mode: str,
    float32_precision: str,
) -> None:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if float32_precision not in FLOAT32_PRECISIONS:
        raise ValueError(f"float32_precision must be one of {', '.join(FLOAT32_PRECISIONS)}, got {float32_precision!r}")
    for name, sides, least in (("stride", stride, 1), ("padding", padding, 0), ("tile", tile or (1, 1), 1)):
        if min(sides) < least:
            raise ValueError(f"{name} must be at least {least}, got {sides}")
    if x.ndim != 4:
        raise ValueError(f"x must be (N, C_in, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be float, got {x.dtype}")
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"weight must be (k C_out, C_in, KH, KW), none of them 0, got {tuple(weight.shape)}")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight {tuple(weight.shape)} takes {weight.shape[1]} channels, x has {x.shape[1]}")
    axes = "(N, k, d)" if tile is None else "(N, k, d, GH, GW) with tile"
    if gate.ndim != (3 if tile is None else 5):
        hint = "; give tile for a gate map" if tile is None and gate.ndim == 5 else ""
        raise ValueError(f"gate must be {axes}, got {tuple(gate.shape)}{hint}")
    n, k, d = gate.shape[:3]
    if n != x.shape[0]:
        raise ValueError(f"gate {tuple(gate.shape)} is for {n} samples, x has {x.shape[0]}")
    if k == 0 or weight.shape[0] % k:
        raise ValueError(f"weight has {weight.shape[0]} filters, which the k = {k} of gate does not divide")
    c_out = weight.shape[0] // k
    if d == 0 or c_out % d:
        raise ValueError(f"weight has {c_out} filters a kernel, which the d = {d} of gate does not divide")
    size, kernel = tuple(x.shape[2:]), tuple(weight.shape[2:])
    out = _output_size(size, kernel, stride, padding)
    if min(out) < 1:
        raise ValueError(f"weight of {kernel} exceeds x of {size} with padding {padding}")
    largest = max(x.shape[1] * size[0] * size[1], c_out * out[0] * out[1])
    if _has_kernel(x) and largest >= 2**31:
        raise ValueError(f"x and the result must have fewer than 2**31 elements a sample on a GPU, got {largest}")
    if tile is not None:
        tiles = (_cdiv(out[0], tile[0]), _cdiv(out[1], tile[1]))
        if tuple(gate.shape[3:]) != tiles:
            raise ValueError(
                f"gate must have {tiles} tiles of {tile} for a result of {out}, got {tuple(gate.shape[3:])}"
            )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias must be ({weight.shape[0]},) to fit weight, got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("gate", gate), ("bias", bias)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"{name} is {tensor.dtype}, x is {x.dtype}: they must be the same")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x is on {x.device}: they must be the same")
