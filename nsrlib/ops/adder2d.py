"""Adder layer ``Y = -sum |X - W|`` (AdderNet, Chen et al., CVPR 2020; AdderSR, Song et al., CVPR 2021, Eq. 2).

``Y[n, o, h, w] = -sum_{c, i, j} |X[n, c, h s + i - p, w s + j - p] - W[o, c, i, j]|``: the sliding window of a
convolution with the negative L1 distance in the place of the dot product. Padding is with zeros, which is not neutral:
a padded tap adds ``-|W|``. With ``D = C K K`` taps, ``G = dL/dY`` and the unfolded ``X`` the gradients are

==========  ==========================================  ===============================
gradient    input                                       weight
==========  ==========================================  ===============================
``adder``   ``sum_o G HardTanh(W - X)``, then folded    ``sum_n G (X - W)``
``sign``    ``sum_o G sign(W - X)``, then folded        ``sum_n G sign(X - W)``
==========  ==========================================  ===============================

``adder`` is AdderNet's rule and not the derivative; ``sign`` is the derivative wherever there is one. Two identities
carry the work. ``sum_n G (X - W) = G X^T - diag(G 1) W``: the weight gradient of a convolution and a small correction.
``HardTanh(t) = 2 sat((t + 1) / 2) - 1`` with ``sat`` the clamp to [0, 1]: one saturating addition and one fused
multiply-add a tap, and outside the loop a box filter over the sum of ``G``.

Memory: no kernel writes anything of size ``D O N`` or ``D N``; beyond inputs and outputs there are the repacked
weight, a padded ``G``, its channel sum and box filter, and for 16-bit weight gradients ``x`` and ``G`` in float32. On a
CPU ``torch.cdist`` (p = 1) runs over the unfolded rows of one image at a time: beyond inputs, outputs and one padded
image the peak is four blocks of at most ``CPU_BLOCK`` elements, or of one output row (``D W``) if that is larger.

Accumulation is in float32 (float64 for float64), in groups of a few dozen taps that are then added up, which keeps the
rounding error of 576 additions near that of PyTorch's pairwise sum. The int8 variant is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nsrlib.bench.audit import Launch
from nsrlib.ops.common import Pair, pair

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:
    HAS_TRITON = False

Gradient = Literal["adder", "sign"]

GRADIENTS: tuple[str, ...] = ("adder", "sign")
CPU_BLOCK = 2**18  # elements of a block on the CPU, 1 MiB of float32
CPU_TAPS = 64  # taps summed at a time there

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def adder2d_ref(x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """The definition: broadcast over the unfolded input, ``N O D L`` elements. PyTorch's own gradient is ``sign``."""
    stride, padding = pair(stride), pair(padding)
    t = _differences(x, weight, stride, padding)  # (N, O, D, L)
    return -t.abs().sum(2).unflatten(2, _output_size(x.shape, weight.shape, stride, padding))


def adder2d_grads_ref(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0, gradient: Gradient = "adder"
) -> tuple[Tensor, Tensor]:
    """The definition of both gradients, input and weight, for ``grad = dL/dY``."""
    stride, padding = pair(stride), pair(padding)
    t = _differences(x, weight, stride, padding)  # (N, O, D, L)
    g = grad.flatten(2)[:, :, None]  # (N, O, 1, L)
    tx, tw = (t.clamp(-1, 1), t) if gradient == "adder" else (t.sign(), t.sign())
    dx = F.fold((tx * g).sum(1), x.shape[2:], weight.shape[2:], padding=padding, stride=stride)
    return dx, -(tw * g).sum((0, 3)).view_as(weight)


def adder2d_int8_ref(x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """The definition for int8 tensors, int32; through float64, which holds every sum exactly."""
    return adder2d_ref(x.double(), weight.double(), stride, padding).to(torch.int32)


def _differences(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """``W - X`` for every tap of every window, ``(N, O, D, L)``."""
    columns = F.unfold(x, weight.shape[2:], padding=padding, stride=stride)  # (N, D, L)
    return weight.flatten(1)[None, :, :, None] - columns[:, None]


# Without dot products Triton spreads a tile over its threads along the last axis first. A thread thus holds 16 x 4
# outputs, or 8 x 4 input gradients (each has three registers there): tall enough for the additions to set the pace and
# not the loads, small enough not to spill.
NUM_WARPS = 2
BLOCK_PIXELS = 256
BLOCK_OUT, BLOCK_IN = 16, 8
GROUP = 36  # taps summed before they are added to the total
UNROLL = 25  # taps; larger kernels loop over their rows, to stay within the instruction cache

if HAS_TRITON:

    @triton.jit
    def _adder2d_fwd_kernel(
        x_ptr, w_ptr, y_ptr, C, OC, H, W, OW, L, NL, stride_h, stride_w, padding_h, padding_w,
        x_n, x_c, x_h, x_w, y_n, y_o, y_l, w_row,
        KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr, BO: tl.constexpr, BP: tl.constexpr,
        IDX: tl.constexpr, ACC: tl.constexpr,
    ):  # fmt: skip
        """BO output channels of BP pixels, which count through the batch. ``w`` is ``(C, KH, KW, w_row)``."""
        p = tl.program_id(0).to(IDX) * BP + tl.arange(0, BP)
        o = tl.program_id(1) * BO + tl.arange(0, BO)
        ok = p < NL
        n = p // L
        r = (p % L).to(tl.int32)
        h = (r // OW) * stride_h - padding_h
        w = (r % OW) * stride_w - padding_w
        x_off = n * x_n + h.to(IDX) * x_h + w.to(IDX) * x_w
        acc = tl.zeros((BO, BP), ACC)
        steps = C * (KH // ROWS)
        for start in range(0, steps, GROUP):
            part = tl.zeros((BO, BP), ACC)
            for i in range(start, min(start + GROUP, steps)):
                row = i % (KH // ROWS) * ROWS
                for kh in tl.static_range(ROWS):
                    for kw in tl.static_range(KW):
                        hh = h + (row + kh)
                        ww = w + kw
                        inside = ok & (hh >= 0) & (hh < H) & (ww >= 0) & (ww < W)
                        a = tl.load(x_ptr + (x_off + (kh * x_h + kw * x_w)), mask=inside, other=0.0).to(ACC)
                        b = tl.load(w_ptr + (kh * KW + kw) * w_row + o).to(ACC)
                        part += tl.abs(a[None, :] - b[:, None])
                w_ptr += ROWS * KW * w_row
                if ROWS == KH:
                    x_off += x_c
                else:  # one row down, or back up and to the next channel
                    x_off += tl.where(row == KH - 1, x_c - (KH - 1) * x_h, x_h)
            acc += part
        y = y_ptr + (n * y_n + r.to(IDX) * y_l)[None, :] + o.to(IDX)[:, None] * y_o
        tl.store(y, -acc, mask=(o < OC)[:, None] & ok[None, :])

    @triton.jit
    def _adder2d_int8_kernel(
        x_ptr, w_ptr, y_ptr, scale, C4, OC, H, W, OW, L, NL, stride_h, stride_w, padding_h, padding_w,
        x_n, x_c, x_h, x_w, y_n, y_o, y_l, w_row,
        KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, BO: tl.constexpr, BP: tl.constexpr,
        IDX: tl.constexpr, SCALED: tl.constexpr, VABSDIFF4: tl.constexpr,
    ):  # fmt: skip
        """The same on words of four int8 channels; strides count words."""
        p = tl.program_id(0).to(IDX) * BP + tl.arange(0, BP)
        o = tl.program_id(1) * BO + tl.arange(0, BO)
        ok = p < NL
        n = p // L
        r = (p % L).to(tl.int32)
        h = (r // OW) * stride_h - padding_h
        w = (r % OW) * stride_w - padding_w
        x_off = n * x_n + h.to(IDX) * x_h + w.to(IDX) * x_w
        w_off = o
        acc = tl.zeros((BO, BP), tl.int32)
        for i in range(C4 * (KH // ROWS)):
            row = i % (KH // ROWS) * ROWS
            for kh in tl.static_range(ROWS):
                for kw in tl.static_range(KW):
                    hh = h + (row + kh)
                    ww = w + kw
                    inside = ok & (hh >= 0) & (hh < H) & (ww >= 0) & (ww < W)
                    a = tl.load(x_ptr + (x_off + (kh * x_h + kw * x_w)), mask=inside, other=0)
                    b = tl.load(w_ptr + (w_off + (kh * KW + kw) * w_row))
                    if VABSDIFF4:
                        acc = tl.inline_asm_elementwise(
                            "vabsdiff4.u32.s32.s32.add $0, $1, $2, $3;", "=r,r,r,r",
                            [a[None, :], b[:, None], acc], dtype=tl.int32, is_pure=True, pack=1,
                        )  # fmt: skip
                    else:
                        for byte in tl.static_range(4):
                            # to the top of the word and back: sign extension
                            a8 = (a << (24 - 8 * byte)) >> 24
                            b8 = (b << (24 - 8 * byte)) >> 24
                            acc += tl.abs(a8[None, :] - b8[:, None])
            w_off += ROWS * KW * w_row
            if ROWS == KH:
                x_off += x_c
            else:
                x_off += tl.where(row == KH - 1, x_c - (KH - 1) * x_h, x_h)
        y = y_ptr + (n * y_n + r.to(IDX) * y_l)[None, :] + o.to(IDX)[:, None] * y_o
        inside_y = (o < OC)[:, None] & ok[None, :]
        if SCALED:
            tl.store(y, acc.to(tl.float32) * -scale, mask=inside_y)
        else:
            tl.store(y, -acc, mask=inside_y)

    # Strides of x and dx are not specialised: a vectorised load of x would give the tile a layout in which G and W take
    # the way through shared memory, with two barriers a tap.
    @triton.jit(do_not_specialize=["x_n", "x_c", "x_h", "x_w", "d_n", "d_c", "d_h", "d_w", "box_l"])
    def _adder2d_bwd_input_kernel(
        g_ptr, x_ptr, w_ptr, box_ptr, d_ptr, C, OC, W, L, NL, group_steps,
        g_n, g_o, g_h, x_n, x_c, x_h, x_w, d_n, d_c, d_h, d_w, box_l, w_row,
        KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
        SIGN: tl.constexpr, IDX: tl.constexpr, ACC: tl.constexpr,
    ):  # fmt: skip
        """BC input channels of BP input pixels.

        ``g`` is padded, ``(N, O, H + KH - 1, W + KW - 1)``; ``w`` is ``(O, KH, KW, w_row)``, flipped in both axes:
        ``W`` for the sign, ``(W + 1) / 2`` for HardTanh, whose box filter of ``sum_o G`` is ``box``.
        """
        p = tl.program_id(0).to(IDX) * BP + tl.arange(0, BP)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        ok = p < NL
        p = tl.minimum(p, NL - 1)
        n = p // L
        r = (p % L).to(tl.int32)
        h = (r // W).to(IDX)
        w = (r % W).to(IDX)
        inside = (c < C)[:, None] & ok[None, :]
        x_off = (n * x_n + h * x_h + w * x_w)[None, :] + c.to(IDX)[:, None] * x_c
        x = tl.load(x_ptr + x_off, mask=inside, other=0.0).to(ACC)
        half = -0.5 * x
        g_off = n * g_n + h * g_h + w
        acc = tl.zeros((BC, BP), ACC)
        if not SIGN:  # sum G sat - sum G / 2: from here the total stays near what is wanted, and so does its rounding
            acc -= 0.5 * tl.load(box_ptr + p * box_l).to(ACC)[None, :]
        steps = OC * (KH // ROWS)
        for start in range(0, steps, group_steps):
            group = tl.zeros((BC, BP), ACC)
            for i in range(start, min(start + group_steps, steps)):
                part = tl.zeros((BC, BP), ACC)
                for kh in tl.static_range(ROWS):
                    for kw in tl.static_range(KW):
                        g = tl.load(g_ptr + (g_off + (kh * g_h + kw))).to(ACC)[None, :]
                        b = tl.load(w_ptr + (kh * KW + kw) * w_row + c).to(ACC)[:, None]
                        if SIGN:
                            part += tl.where(b > x, g, tl.where(b < x, -g, 0.0))
                        else:  # compiles to a saturating and a plain multiply-add
                            part += g * tl.minimum(tl.maximum(b + half, 0.0), 1.0)
                group += part
                w_ptr += ROWS * KW * w_row
                if ROWS == KH:
                    g_off += g_o
                else:
                    g_off += tl.where(i % KH == KH - 1, g_o - (KH - 1) * g_h, g_h)
            acc += group
        if not SIGN:
            acc = 2.0 * acc
        # saturation turns NaN into 0; the gradient at a NaN is NaN, as in PyTorch
        acc = tl.where(x == x, acc, x)
        d_off = (n * d_n + h * d_h + w * d_w)[None, :] + c.to(IDX)[:, None] * d_c
        tl.store(d_ptr + d_off, acc, mask=inside)

    @triton.jit
    def _adder2d_bwd_weight_kernel(
        g_ptr, x_ptr, w_ptr, d_ptr, C, OC, H, W, OW, L, NL, stride_h, stride_w, padding_h, padding_w, chunk,
        g_n, g_o, g_h, g_w, x_n, x_c, x_h, x_w,
        KH: tl.constexpr, KW: tl.constexpr, BO: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
        IDX: tl.constexpr, ACC: tl.constexpr,
    ):  # fmt: skip
        """``sum G sign(X - W)`` of one tap over ``chunk`` pixels, to ``d[split, O, C, KH, KW]``."""
        blocks = tl.cdiv(C, BC)
        o = tl.program_id(0) // blocks * BO + tl.arange(0, BO)
        c = tl.program_id(0) % blocks * BC + tl.arange(0, BC)
        kh = tl.program_id(1) // KW
        kw = tl.program_id(1) % KW
        split = tl.program_id(2).to(IDX)
        w_off = (o[:, None] * C + c[None, :]) * (KH * KW) + tl.program_id(1)
        w_ok = (o < OC)[:, None] & (c < C)[None, :]
        b = tl.load(w_ptr + w_off, mask=w_ok, other=0.0).to(ACC)[:, :, None]
        acc = tl.zeros((BO, BC, BP), ACC)
        for start in range(0, chunk, BP):
            p = split * chunk + start + tl.arange(0, BP)
            ok = p < NL
            n = p // L
            r = (p % L).to(tl.int32)
            i = r // OW
            j = r % OW
            h = i * stride_h - padding_h + kh
            w = j * stride_w - padding_w + kw
            inside = ok & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            g_off = (n * g_n + i.to(IDX) * g_h + j.to(IDX) * g_w)[None, :] + o.to(IDX)[:, None] * g_o
            x_off = (n * x_n + h.to(IDX) * x_h + w.to(IDX) * x_w)[None, :] + c.to(IDX)[:, None] * x_c
            g = tl.load(g_ptr + g_off, mask=(o < OC)[:, None] & ok[None, :], other=0.0).to(ACC)[:, None, :]
            a = tl.load(x_ptr + x_off, mask=(c < C)[:, None] & inside[None, :], other=0.0).to(ACC)[None, :, :]
            acc += tl.where(a > b, g, tl.where(a < b, -g, 0.0))
        tl.store(d_ptr + split * OC * C * KH * KW + w_off, tl.sum(acc, 2), mask=w_ok)


def forward_launch(
    x: Tensor, weight: Tensor, y: Tensor, stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0)
) -> Launch:
    """The launch that fills ``y`` with :func:`adder2d`. Meta tensors do for an audit."""
    o, c, kh, kw = weight.shape
    acc = _accumulator(x.dtype)
    packed = _pad_last(weight.to(acc).permute(1, 2, 3, 0), BLOCK_OUT)  # (C, KH, KW, O')
    rows = _unrolled_rows(kh, kw)
    arguments = {
        "x_ptr": x, "w_ptr": packed, "y_ptr": y, "C": c, "OC": o, **_geometry(x, y, stride, padding),
        **_strides("x", x), "y_n": y.stride(0), "y_o": y.stride(1), "y_l": y.stride(3), "w_row": packed.shape[-1],
        "KH": kh, "KW": kw, "ROWS": rows, "GROUP": max(1, GROUP // (rows * kw)), "BO": BLOCK_OUT, "BP": BLOCK_PIXELS,
        "IDX": _index(x, y), "ACC": _tl(acc),
    }  # fmt: skip
    pixels = y.shape[0] * y.shape[2] * y.shape[3]
    grid = (triton.cdiv(pixels, BLOCK_PIXELS), triton.cdiv(o, BLOCK_OUT), 1)
    return Launch(_adder2d_fwd_kernel, grid, arguments, NUM_WARPS)


def int8_launch(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    scale: float | None = None,
    vabsdiff4: bool = True,
) -> Launch:
    """The launch that fills ``y`` with :func:`adder2d_int8`; ``vabsdiff4`` on NVIDIA only."""
    o, _, kh, kw = weight.shape
    words = _pack_int8(x)  # (N, C / 4, H, W)
    packed = _pad_last(_pack_int8(weight).permute(1, 2, 3, 0), BLOCK_OUT)  # (C / 4, KH, KW, O')
    arguments = {
        "x_ptr": words, "w_ptr": packed, "y_ptr": y, "scale": 1.0 if scale is None else float(scale),
        "C4": words.shape[1], "OC": o, **_geometry(x, y, stride, padding),
        **_strides("x", words), "y_n": y.stride(0), "y_o": y.stride(1), "y_l": y.stride(3), "w_row": packed.shape[-1],
        "KH": kh, "KW": kw, "ROWS": _unrolled_rows(kh, kw) if vabsdiff4 else 1, "BO": BLOCK_OUT, "BP": BLOCK_PIXELS,
        "IDX": _index(words, y), "SCALED": scale is not None, "VABSDIFF4": vabsdiff4,
    }  # fmt: skip
    pixels = y.shape[0] * y.shape[2] * y.shape[3]
    grid = (triton.cdiv(pixels, BLOCK_PIXELS), triton.cdiv(o, BLOCK_OUT), 1)
    return Launch(_adder2d_int8_kernel, grid, arguments, NUM_WARPS)


def input_grad_launch(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    dx: Tensor,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    gradient: Gradient = "adder",
) -> Launch:
    """The launch that fills ``dx`` with the gradient of :func:`adder2d` for its input."""
    n, c, h, w = x.shape
    o, _, kh, kw = weight.shape
    acc = _accumulator(x.dtype)
    sign = gradient == "sign"
    g = _window_every_pixel(grad, (h, w), (kh, kw), stride, padding)  # (N, O, H + KH - 1, W + KW - 1)
    flipped = weight.to(acc).flip(2, 3).permute(0, 2, 3, 1)
    packed = _pad_last(flipped if sign else (flipped + 1) / 2, BLOCK_IN)  # (O, KH, KW, C')
    # the sum of all G that reach a pixel; at least float32, and float64 costs nothing here
    box = g.new_empty(1) if sign else _box(g.sum(1, dtype=torch.float64), (kh, kw)).to(acc)
    rows = _unrolled_rows(kh, kw)
    arguments = {
        "g_ptr": g, "x_ptr": x, "w_ptr": packed, "box_ptr": box, "d_ptr": dx,
        "C": c, "OC": o, "W": w, "L": h * w, "NL": n * h * w,
        "group_steps": math.isqrt(o * (kh // rows)),
        "g_n": g.stride(0), "g_o": g.stride(1), "g_h": g.stride(2), **_strides("x", x), **_strides("d", dx),
        "box_l": 1, "w_row": packed.shape[-1], "KH": kh, "KW": kw, "ROWS": rows,
        "BC": BLOCK_IN, "BP": BLOCK_PIXELS, "SIGN": sign, "IDX": _index(g, x, dx), "ACC": _tl(acc),
    }  # fmt: skip
    grid = (triton.cdiv(n * h * w, BLOCK_PIXELS), triton.cdiv(c, BLOCK_IN), 1)
    return Launch(_adder2d_bwd_input_kernel, grid, arguments, NUM_WARPS)


def weight_sign_grad_launch(
    grad: Tensor, x: Tensor, weight: Tensor, dw: Tensor, stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
) -> Launch:  # fmt: skip
    """The launch that fills ``dw``, ``(splits, *weight.shape)``, with the partial sums of ``sum_n G sign(X - W)``."""
    o, c, kh, kw = weight.shape
    bo, bc, bp = 16, 16, 32
    pixels = grad.shape[0] * grad.shape[2] * grad.shape[3]
    arguments = {
        "g_ptr": grad, "x_ptr": x, "w_ptr": weight.contiguous(), "d_ptr": dw, "C": c, "OC": o,
        **_geometry(x, grad, stride, padding), "chunk": bp * triton.cdiv(pixels, bp * dw.shape[0]),
        **_strides("g", grad), **_strides("x", x), "KH": kh, "KW": kw, "BO": bo, "BC": bc, "BP": bp,
        "IDX": _index(grad, x, dw), "ACC": _tl(_accumulator(x.dtype)),
    }  # fmt: skip
    grid = (triton.cdiv(o, bo) * triton.cdiv(c, bc), kh * kw, dw.shape[0])
    return Launch(_adder2d_bwd_weight_kernel, grid, arguments, 4)


def _geometry(x: Tensor, y: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> dict[str, int]:
    pixels = y.shape[2] * y.shape[3]
    return {
        "H": x.shape[2], "W": x.shape[3], "OW": y.shape[3], "L": pixels, "NL": y.shape[0] * pixels,
        "stride_h": stride[0], "stride_w": stride[1], "padding_h": padding[0], "padding_w": padding[1],
    }  # fmt: skip


def _strides(name: str, x: Tensor) -> dict[str, int]:
    return {f"{name}_{axis}": x.stride(i) for i, axis in enumerate("nohw" if name == "g" else "nchw")}


def _unrolled_rows(kh: int, kw: int) -> int:
    return kh if kh * kw <= UNROLL else 1


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _tl(dtype: torch.dtype) -> Any:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _index(*tensors: Tensor) -> Any:
    """int64 offsets where one of the tensors reaches past 2**31 elements, with room for padding."""
    reach = max(sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) for t in tensors)
    return tl.int64 if reach >= 2**31 - 2**24 else tl.int32


def _pad_last(x: Tensor, multiple: int) -> Tensor:
    """Contiguous, the last axis filled up with zeros."""
    return F.pad(x, (0, -x.shape[-1] % multiple)).contiguous()


def _pack_int8(x: Tensor) -> Tensor:
    """Words of four channels ``(N, ceil(C / 4), H, W)`` int32; a view of channels_last tensors, else one copy."""
    n, c, h, w = x.shape
    if c % 4 == 0 and x.is_contiguous(memory_format=torch.channels_last) and x.storage_offset() % 4 == 0:
        words = x.permute(0, 2, 3, 1).reshape(-1).view(torch.int32)
        return words.view(n, h, w, c // 4).permute(0, 3, 1, 2)
    x = F.pad(x, (0, 0, 0, 0, 0, -c % 4)).unflatten(1, (-1, 4)).permute(0, 1, 3, 4, 2)
    return x.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.int32).view(x.shape[:-1])


def _window_every_pixel(
    grad: Tensor, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """``grad`` spread and padded, so that input pixel ``(h, w)`` received from ``[h : h + KH, w : w + KW]``."""
    out = grad.new_zeros(*grad.shape[:2], *(m + k - 1 for m, k in zip(size, kernel, strict=True)))
    source, target = [slice(None)] * 2, [slice(None)] * 2
    for i in range(2):
        # output i lands at i * stride + shift; padding beyond the kernel leaves some outside
        shift = kernel[i] - 1 - padding[i]
        first = max(0, -(shift // stride[i]))
        last = min(grad.shape[2 + i] - 1, (out.shape[2 + i] - 1 - shift) // stride[i])
        source.append(slice(first, last + 1))
        start = first * stride[i] + shift
        target.append(slice(start, start + (last - first) * stride[i] + 1, stride[i]))
    out[tuple(target)] = grad[tuple(source)]
    return out


def _box(x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Sum over every ``kernel``-sized window of ``(N, H, W)``."""
    return x.unfold(1, kernel[0], 1).sum(-1).unfold(2, kernel[1], 1).sum(-1)


def _run(launch: Launch, device: torch.device) -> None:
    if device.type == "cuda":
        with torch.cuda.device(device):
            launch.run()
    else:
        launch.run()


def _forward_triton(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    y = _empty_output(x, weight, stride, padding, x.dtype)
    if y.numel():
        _run(forward_launch(x, weight, y, stride, padding), x.device)
    return y


def _int8_triton(
    x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], scale: float | None
) -> Tensor:
    y = _empty_output(x, weight, stride, padding, torch.int32 if scale is None else torch.float32)
    if y.numel():
        vabsdiff4 = x.is_cuda and torch.version.hip is None
        _run(int8_launch(x, weight, y, stride, padding, scale, vabsdiff4), x.device)
    return y


def _input_grad_triton(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], gradient: Gradient
) -> Tensor:
    dx = torch.empty_like(x, memory_format=_memory_format(x))
    if dx.numel():
        _run(input_grad_launch(grad, x, weight, dx, stride, padding, gradient), x.device)
    return dx


def _weight_grad_triton(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    # enough programs to fill a GPU, at most 64 partial sums of the size of the weight
    pixels = grad.shape[0] * grad.shape[2] * grad.shape[3]
    partial = x.new_empty(min(64, max(1, pixels // 256)), *weight.shape, dtype=_accumulator(x.dtype))
    if pixels == 0:
        return torch.zeros_like(weight)
    _run(weight_sign_grad_launch(grad, x, weight, partial, stride, padding), x.device)
    return partial.sum(0).to(weight.dtype)


def _rows(
    x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], out: tuple[int, int]
) -> Iterator[tuple[int, slice, slice, Tensor]]:
    """Image, output rows, padded input rows and the unfolded taps ``(D, pixels)`` of a few output rows at a time."""
    (kh, kw), acc = weight.shape[2:], _accumulator(x.dtype)
    taps = weight[0].numel()
    count = max(1, CPU_BLOCK // (taps * out[1]))
    for n in range(x.shape[0]):
        image = F.pad(x[n].to(acc), (padding[1], padding[1], padding[0], padding[0]))
        for a in range(0, out[0], count):
            b = min(a + count, out[0])
            rows = slice(a * stride[0], (b - 1) * stride[0] + kh)
            yield n, slice(a, b), rows, F.unfold(image[None, :, rows], (kh, kw), stride=stride)[0]


def _pixel_blocks(columns: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Differences ``W - X``, ``(pixels, O, D)``, for as many of the pixels at a time as a core's cache holds.

    ``columns`` is ``(pixels, D)``.
    """
    o, d = weight.shape
    count = max(1, CPU_BLOCK // 2 // (o * d))
    buffer = columns.new_empty(min(count, len(columns)), o, d)
    for a in range(0, len(columns), count):
        block = columns[a : a + count]
        yield slice(a, a + len(block)), torch.sub(weight, block[:, None], out=buffer[: len(block)])


def _forward_cpu(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    y = _empty_output(x, weight, stride, padding, x.dtype)
    flat = weight.flatten(1).to(_accumulator(x.dtype))
    for n, out_rows, _, columns in _rows(x, weight, stride, padding, (y.shape[2], y.shape[3])):
        total = columns.new_zeros(len(flat), columns.shape[1])
        # cdist sums along the taps; in pieces its rounding error stays that of a pairwise sum
        for a in range(0, len(columns), CPU_TAPS):
            taps = slice(a, a + CPU_TAPS)
            total -= torch.cdist(flat[:, taps].contiguous(), columns[taps].t().contiguous(), p=1)
        y[n, :, out_rows] = total.view(len(flat), -1, y.shape[3])
    return y


def _input_grad_cpu(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], gradient: Gradient
) -> Tensor:
    acc = _accumulator(x.dtype)
    _, c, h, w = x.shape
    dx = torch.empty_like(x, memory_format=_memory_format(x))
    flat = weight.flatten(1).to(acc)
    out = (grad.shape[2], grad.shape[3])
    image = x.new_zeros(c, h + 2 * padding[0], w + 2 * padding[1], dtype=acc)
    for n, out_rows, rows, columns in _rows(x, weight, stride, padding, out):
        if out_rows.start == 0:
            image.zero_()
        g = grad[n, :, out_rows].flatten(1).t().to(acc)[:, None]  # (pixels, 1, O)
        columns = columns.t().contiguous()
        d_columns = torch.empty_like(columns)
        for block, t in _pixel_blocks(columns, flat):
            t = t.sign_() if gradient == "sign" else t.clamp_(-1, 1)
            torch.bmm(g[block], t, out=d_columns[block, None])
        size = (rows.stop - rows.start, image.shape[2])
        image[:, rows] += F.fold(d_columns.t()[None], size, weight.shape[2:], stride=stride)[0]
        if out_rows.stop == out[0]:
            dx[n] = image[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w]
    return dx


def _weight_grad_cpu(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    acc = _accumulator(x.dtype)
    flat = weight.flatten(1).to(acc)
    dw = torch.zeros_like(flat)
    for n, out_rows, _, columns in _rows(x, weight, stride, padding, (grad.shape[2], grad.shape[3])):
        g = grad[n, :, out_rows].flatten(1).t().to(acc)[:, :, None]  # (pixels, O, 1)
        for block, t in _pixel_blocks(columns.t().contiguous(), flat):
            dw -= t.sign_().mul_(g[block]).sum(0)
    return dw.view_as(weight).to(weight.dtype)


def _weight_grad_conv(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """``G X^T - diag(G 1) W``: the first term is large where ``X`` is, so both are kept in float32 without TF32."""
    acc = _accumulator(x.dtype)
    cudnn = torch.backends.cudnn  # flags() resets what it is not told, and switches cuDNN off
    kept = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    with cudnn.flags(**kept, allow_tf32=False):
        product = torch.ops.aten.convolution_backward(
            grad.to(acc), x.to(acc), weight.to(acc), None, stride, padding, (1, 1), False, (0, 0), 1,
            (False, True, False),
        )[1]  # fmt: skip
    total = grad.sum((0, 2, 3), dtype=torch.float64)[:, None, None, None]
    return (product.double() - total * weight.double()).to(weight.dtype).contiguous()


@torch.library.custom_op("nsrlib::adder2d", mutates_args=())
def _adder2d(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str) -> Tensor:
    forward = _forward_triton if x.is_cuda else _forward_cpu
    return forward(x, weight, (stride[0], stride[1]), (padding[0], padding[1]))


@torch.library.custom_op("nsrlib::adder2d_input_grad", mutates_args=())
def _adder2d_input_grad(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str
) -> Tensor:
    backward = _input_grad_triton if x.is_cuda else _input_grad_cpu
    rule: Gradient = "sign" if gradient == "sign" else "adder"
    return backward(grad, x, weight, (stride[0], stride[1]), (padding[0], padding[1]), rule)


@torch.library.custom_op("nsrlib::adder2d_weight_grad", mutates_args=())
def _adder2d_weight_grad(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str
) -> Tensor:
    backward = _weight_grad_conv
    if gradient == "sign":
        backward = _weight_grad_triton if x.is_cuda else _weight_grad_cpu
    return backward(grad, x, weight, (stride[0], stride[1]), (padding[0], padding[1]))


@torch.library.custom_op("nsrlib::adder2d_int8", mutates_args=())
def _adder2d_int8(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], scale: float | None) -> Tensor:
    s, p = (stride[0], stride[1]), (padding[0], padding[1])
    if x.is_cuda:
        return _int8_triton(x, weight, s, p, scale)
    # float32 holds integers up to 2**24: every partial sum is exact
    exact = torch.float32 if weight[0].numel() * 255 <= 2**24 else torch.float64
    y = _forward_cpu(x.to(exact), weight.to(exact), s, p)
    return y.to(torch.int32) if scale is None else y.float() * scale


@_adder2d.register_fake
def _(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str) -> Tensor:
    return _empty_output(x, weight, stride, padding, x.dtype)


@_adder2d_input_grad.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str) -> Tensor:
    return torch.empty_like(x, memory_format=_memory_format(x))


@_adder2d_weight_grad.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


@_adder2d_int8.register_fake
def _(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], scale: float | None) -> Tensor:
    return _empty_output(x, weight, stride, padding, torch.int32 if scale is None else torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.stride, ctx.padding, ctx.gradient = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    arguments = (grad, *ctx.saved_tensors, ctx.stride, ctx.padding, ctx.gradient)
    dx = _adder2d_input_grad(*arguments) if ctx.needs_input_grad[0] else None
    dw = _adder2d_weight_grad(*arguments) if ctx.needs_input_grad[1] else None
    return dx, dw, None, None, None


_adder2d.register_autograd(_backward, setup_context=_setup_context)


# FlopCounterMode counts a multiply-add as two. Here a tap is a subtraction and an addition; in the input gradient a
# subtraction, a multiplication and an addition (clamping and signs are free); the weight gradient is a convolution's.


@register_flop_formula([torch.ops.nsrlib.adder2d, torch.ops.nsrlib.adder2d_int8])
def _forward_flops(x: Any, weight: Any, stride: Any, padding: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * _taps(x, weight, stride, padding)


@register_flop_formula(torch.ops.nsrlib.adder2d_input_grad)
def _input_grad_flops(
    grad: Any, x: Any, weight: Any, stride: Any, padding: Any, gradient: str, out_shape: Any = None, **_: Any
) -> int:
    return (2 if gradient == "sign" else 3) * _taps(x, weight, stride, padding)


@register_flop_formula(torch.ops.nsrlib.adder2d_weight_grad)
def _weight_grad_flops(
    grad: Any, x: Any, weight: Any, stride: Any, padding: Any, gradient: str, out_shape: Any = None, **_: Any
) -> int:
    return 2 * _taps(x, weight, stride, padding)


def _taps(x: Any, weight: Any, stride: Any, padding: Any) -> int:
    oh, ow = _output_size(x, weight, stride, padding)
    o, c, kh, kw = weight
    return x[0] * o * oh * ow * c * kh * kw


def adder2d(x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0, *, gradient: Gradient = "adder") -> Tensor:
    """Adder layer ``-sum |X - W|``: Triton on CUDA, chunked ``torch.cdist`` on a CPU. Gradients once, not twice.

    Under autocast 16-bit inputs are taken to float32, as autocast does for ``torch.cdist``: the outputs are sums of
    hundreds of terms of one sign.

    Args:
        x: input ``(N, C, H, W)``, float16, bfloat16, float32 or float64, any strides.
        weight: filters ``(O, C, KH, KW)``, same dtype and device.
        stride: at least 1, one number or ``(vertical, horizontal)``.
        padding: zeros added on every side, likewise.
        gradient: ``adder`` for AdderNet's full-precision and HardTanh gradients, ``sign`` for the derivative.

    Returns:
        ``(N, O, OH, OW)`` in the dtype of ``x``, channels_last if ``x`` is.

    Raises:
        ValueError: rank, channels, dtype, device, stride, padding or ``gradient`` do not fit.
    """
    if x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type):
        x, weight = (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in (x, weight))
    stride, padding = _validate(x, weight, stride, padding)
    if x.dtype not in _DTYPES:
        raise ValueError(f"x must be {', '.join(map(str, _DTYPES))}, got {x.dtype}; adder2d_int8 takes torch.int8")
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
    return _adder2d(x, weight, list(stride), list(padding), gradient)


def adder2d_int8(
    x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0, *, scale: float | None = None
) -> Tensor:
    """Adder layer on int8 features and weights that share one scale; exact, inference only.

    ``|s a - s b| = s |a - b|``, so with a common scale ``s`` (Wang et al., arXiv 2101.10015) nothing is rounded here.
    On NVIDIA one instruction takes four channels; channels_last input with ``C`` a multiple of 4 is read in place, any
    other layout is repacked first.

    Args:
        x: ``(N, C, H, W)`` int8, see :func:`quantize_int8`.
        weight: ``(O, C, KH, KW)`` int8.
        stride, padding: as in :func:`adder2d`; padding is with 0.
        scale: the value of one step, to get float32 outputs.

    Returns:
        ``(N, O, OH, OW)``: int32 in steps, or float32 if ``scale`` is given.

    Raises:
        ValueError: as :func:`adder2d`, a dtype other than int8, or so many taps that int32 could overflow.
    """
    stride, padding = _validate(x, weight, stride, padding)
    if x.dtype != torch.int8:
        raise ValueError(f"x must be torch.int8 (-128 to 127), got {x.dtype}; see quantize_int8")
    taps = weight[0].numel()
    if taps * 255 >= 2**31:
        raise ValueError(f"weight has {taps} taps a filter: sums up to {taps * 255} exceed int32, {2**31 - 1}")
    return _adder2d_int8(x, weight, list(stride), list(padding), scale)


def shared_scale(*tensors: Tensor) -> float:
    """The smallest step that brings all of these tensors into the int8 range: largest magnitude / 127."""
    largest = max(float(t.detach().abs().max()) for t in tensors)
    return largest / 127 if largest > 0 else 1.0


def quantize_int8(x: Tensor, scale: float, *, saturate: bool = False) -> Tensor:
    """``round(x / scale)`` as int8.

    Raises:
        ValueError: ``scale`` is not positive, or a value leaves -128 to 127 and ``saturate`` is off.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    steps = (x / scale).round_()
    low, high = (float(v) for v in (steps.min(), steps.max())) if steps.numel() else (0.0, 0.0)
    if not saturate and not (low >= -128 and high <= 127):
        raise ValueError(f"x spans {low:.0f} to {high:.0f} steps of scale {scale:g}, int8 holds -128 to 127")
    return steps.clamp_(-128, 127).to(torch.int8)


def _validate(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> tuple[tuple[int, int], tuple[int, int]]:
    for name, t, axes in (("x", x, "N, C, H, W"), ("weight", weight, "O, C, KH, KW")):
        if t.ndim != 4:
            raise ValueError(f"{name} must have 4 axes ({axes}), got {t.ndim}: {tuple(t.shape)}")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"weight has {weight.shape[1]} input channels {tuple(weight.shape)}, x has {x.shape[1]}")
    if x.dtype != weight.dtype:
        raise ValueError(f"weight is {weight.dtype}, x is {x.dtype}")
    if x.device != weight.device:
        raise ValueError(f"weight is on {weight.device}, x is on {x.device}")
    if x.is_cuda and not HAS_TRITON:
        raise RuntimeError(f"x is on {x.device}, which needs Triton, and Triton is not installed")
    if 0 in weight.shape:
        raise ValueError(f"weight must not be empty, got {tuple(weight.shape)}")
    s, p = pair(stride), pair(padding)
    if min(s) < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if min(p) < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    if min(_output_size(x.shape, weight.shape, s, p)) < 1:
        raise ValueError(
            f"weight of {tuple(weight.shape[2:])} exceeds x of {tuple(x.shape[2:])} with padding {padding}"
        )
    return s, p


def _output_size(x: Any, weight: Any, stride: Any, padding: Any) -> tuple[int, int]:
    oh, ow = ((x[i] + 2 * padding[i - 2] - weight[i]) // stride[i - 2] + 1 for i in (2, 3))
    return oh, ow


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _empty_output(x: Tensor, weight: Tensor, stride: Any, padding: Any, dtype: torch.dtype) -> Tensor:
    size = (x.shape[0], weight.shape[0], *_output_size(x.shape, weight.shape, stride, padding))
    return torch.empty(size, dtype=dtype, device=x.device, memory_format=_memory_format(x))
