"""Triton kernels of the adder layer, their launches, and what runs them: forward, both input gradients, int8.

Names are those of :mod:`nsrlib.ops.common`; besides, ``pixels`` of one image and ``all_pixels`` of the batch, ``ROWS``
of a filter that are unrolled, ``IDX`` and ``ACC`` the types of offsets and sums, and ``w_row`` the length of the packed
filters' last axis, filled up so that blocks read it without a mask. Tensors may have any strides.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from nsrlib.ops.adder2d.cpu import empty_result
from nsrlib.ops.adder2d.reference import Gradient
from nsrlib.ops.common import HW, Launch, accumulator, cdiv, empty, is_channels_last

# Without dot products Triton spreads a tile over its threads along the last axis first. A thread thus holds 16 x 4
# outputs, or 8 x 4 input gradients (each has three registers there): tall enough for the additions to set the pace and
# not the loads, small enough not to spill.
NUM_WARPS = 2
BLOCK_P = 256
BLOCK_O, BLOCK_C = 16, 8
GROUP = 36  # taps summed before they are added to the total
UNROLL = 25  # taps; larger kernels loop over their rows, to stay within the instruction cache


@triton.jit
def _adder2d_fwd_kernel(
    x_ptr, w_ptr, y_ptr, c_in, c_out, height, width, out_w, pixels, all_pixels, stride_h, stride_w, pad_h, pad_w,
    x_n, x_c, x_h, x_w, y_n, y_o, y_p, w_row,
    KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr, IDX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """BLOCK_O output channels of BLOCK_P pixels, which count through the batch; w ``(c_in, KH, KW, w_row)``."""
    p = tl.program_id(0).to(IDX) * BLOCK_P + tl.arange(0, BLOCK_P)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    ok = p < all_pixels
    n = p // pixels
    r = (p % pixels).to(tl.int32)
    h = (r // out_w) * stride_h - pad_h
    w = (r % out_w) * stride_w - pad_w
    x_off = n * x_n + h.to(IDX) * x_h + w.to(IDX) * x_w
    acc = tl.zeros((BLOCK_O, BLOCK_P), ACC)
    steps = c_in * (KH // ROWS)
    for start in range(0, steps, GROUP):
        part = tl.zeros((BLOCK_O, BLOCK_P), ACC)
        for i in range(start, min(start + GROUP, steps)):
            row = i % (KH // ROWS) * ROWS
            for kh in tl.static_range(ROWS):
                for kw in tl.static_range(KW):
                    hh = h + (row + kh)
                    ww = w + kw
                    inside = ok & (hh >= 0) & (hh < height) & (ww >= 0) & (ww < width)
                    a = tl.load(x_ptr + (x_off + (kh * x_h + kw * x_w)), mask=inside, other=0.0).to(ACC)
                    b = tl.load(w_ptr + (kh * KW + kw) * w_row + o).to(ACC)
                    part += tl.abs(a[None, :] - b[:, None])
            w_ptr += ROWS * KW * w_row
            if ROWS == KH:
                x_off += x_c
            else:  # one row down, or back up and to the next channel
                x_off += tl.where(row == KH - 1, x_c - (KH - 1) * x_h, x_h)
        acc += part
    y = y_ptr + (n * y_n + r.to(IDX) * y_p)[None, :] + o.to(IDX)[:, None] * y_o
    tl.store(y, -acc, mask=(o < c_out)[:, None] & ok[None, :])


@triton.jit
def _adder2d_int8_kernel(
    x_ptr, w_ptr, y_ptr, scale, words, c_out, height, width, out_w, pixels, all_pixels,
    stride_h, stride_w, pad_h, pad_w, x_n, x_c, x_h, x_w, y_n, y_o, y_p, w_row,
    KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr,
    IDX: tl.constexpr, SCALED: tl.constexpr, VABSDIFF4: tl.constexpr,
):  # fmt: skip
    """The same on words of four int8 channels; strides count words."""
    p = tl.program_id(0).to(IDX) * BLOCK_P + tl.arange(0, BLOCK_P)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    ok = p < all_pixels
    n = p // pixels
    r = (p % pixels).to(tl.int32)
    h = (r // out_w) * stride_h - pad_h
    w = (r % out_w) * stride_w - pad_w
    x_off = n * x_n + h.to(IDX) * x_h + w.to(IDX) * x_w
    w_off = o
    acc = tl.zeros((BLOCK_O, BLOCK_P), tl.int32)
    for i in range(words * (KH // ROWS)):
        row = i % (KH // ROWS) * ROWS
        for kh in tl.static_range(ROWS):
            for kw in tl.static_range(KW):
                hh = h + (row + kh)
                ww = w + kw
                inside = ok & (hh >= 0) & (hh < height) & (ww >= 0) & (ww < width)
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
    y = y_ptr + (n * y_n + r.to(IDX) * y_p)[None, :] + o.to(IDX)[:, None] * y_o
    inside_y = (o < c_out)[:, None] & ok[None, :]
    if SCALED:
        tl.store(y, acc.to(tl.float32) * -scale, mask=inside_y)
    else:
        tl.store(y, -acc, mask=inside_y)


# Strides of x and dx are not specialised: a vectorised load of x would give the tile a layout in which g and w take
# the way through shared memory, with two barriers a tap.
@triton.jit(do_not_specialize=["x_n", "x_c", "x_h", "x_w", "d_n", "d_c", "d_h", "d_w", "box_p"])
def _adder2d_bwd_input_kernel(
    g_ptr, x_ptr, w_ptr, box_ptr, d_ptr, c_in, c_out, width, pixels, all_pixels, group_steps,
    g_n, g_o, g_h, x_n, x_c, x_h, x_w, d_n, d_c, d_h, d_w, box_p, w_row,
    KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    SIGN: tl.constexpr, IDX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """BLOCK_C input channels of BLOCK_P input pixels.

    ``g`` is padded, ``(N, c_out, height + KH - 1, width + KW - 1)``; ``w`` is ``(c_out, KH, KW, w_row)``, flipped in
    both axes: ``W`` for the sign, ``(W + 1) / 2`` for HardTanh, whose box filter of ``sum_o G`` is ``box``.
    """
    p = tl.program_id(0).to(IDX) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = p < all_pixels
    p = tl.minimum(p, all_pixels - 1)
    n = p // pixels
    r = (p % pixels).to(tl.int32)
    h = (r // width).to(IDX)
    w = (r % width).to(IDX)
    inside = (c < c_in)[:, None] & ok[None, :]
    # pixels are the axis to lay threads along: Triton 3.6 breaks the tie the other way, and then spills
    x_off = tl.max_contiguous((n * x_n + h * x_h + w * x_w)[None, :] + c.to(IDX)[:, None] * x_c, [1, 2])
    x = tl.load(x_ptr + x_off, mask=inside, other=0.0).to(ACC)
    half = -0.5 * x
    g_off = n * g_n + h * g_h + w
    acc = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    if not SIGN:  # sum G sat - sum G / 2: from here the total stays near what is wanted, and so does its rounding
        acc -= 0.5 * tl.load(box_ptr + p * box_p).to(ACC)[None, :]
    steps = c_out * (KH // ROWS)
    for start in range(0, steps, group_steps):
        group = tl.zeros((BLOCK_C, BLOCK_P), ACC)
        for i in range(start, min(start + group_steps, steps)):
            part = tl.zeros((BLOCK_C, BLOCK_P), ACC)
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
    d_off = tl.max_contiguous((n * d_n + h * d_h + w * d_w)[None, :] + c.to(IDX)[:, None] * d_c, [1, 2])
    tl.store(d_ptr + d_off, acc, mask=inside)


@triton.jit
def _adder2d_bwd_weight_kernel(
    g_ptr, x_ptr, w_ptr, d_ptr, c_in, c_out, height, width, out_w, pixels, all_pixels,
    stride_h, stride_w, pad_h, pad_w, chunk, g_n, g_o, g_h, g_w, x_n, x_c, x_h, x_w,
    KH: tl.constexpr, KW: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    IDX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``sum G sign(X - W)`` of one tap over ``chunk`` pixels, to ``d[split, c_out, c_in, KH, KW]``."""
    blocks = tl.cdiv(c_in, BLOCK_C)
    o = tl.program_id(0) // blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    kh = tl.program_id(1) // KW
    kw = tl.program_id(1) % KW
    split = tl.program_id(2).to(IDX)
    w_off = (o[:, None] * c_in + c[None, :]) * (KH * KW) + tl.program_id(1)
    w_ok = (o < c_out)[:, None] & (c < c_in)[None, :]
    b = tl.load(w_ptr + w_off, mask=w_ok, other=0.0).to(ACC)[:, :, None]
    acc = tl.zeros((BLOCK_O, BLOCK_C, BLOCK_P), ACC)
    for start in range(0, chunk, BLOCK_P):
        p = split * chunk + start + tl.arange(0, BLOCK_P)
        ok = p < all_pixels
        n = p // pixels
        r = (p % pixels).to(tl.int32)
        i = r // out_w
        j = r % out_w
        h = i * stride_h - pad_h + kh
        w = j * stride_w - pad_w + kw
        inside = ok & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        g_off = (n * g_n + i.to(IDX) * g_h + j.to(IDX) * g_w)[None, :] + o.to(IDX)[:, None] * g_o
        x_off = (n * x_n + h.to(IDX) * x_h + w.to(IDX) * x_w)[None, :] + c.to(IDX)[:, None] * x_c
        g = tl.load(g_ptr + g_off, mask=(o < c_out)[:, None] & ok[None, :], other=0.0).to(ACC)[:, None, :]
        a = tl.load(x_ptr + x_off, mask=(c < c_in)[:, None] & inside[None, :], other=0.0).to(ACC)[None, :, :]
        acc += tl.where(a > b, g, tl.where(a < b, -g, 0.0))
    tl.store(d_ptr + split * c_out * c_in * KH * KW + w_off, tl.sum(acc, 2), mask=w_ok)


def forward_launch(x: Tensor, weight: Tensor, y: Tensor, stride: HW = (1, 1), padding: HW = (0, 0)) -> Launch:
    """The launch that fills ``y`` with :func:`nsrlib.ops.adder2d`. Meta tensors do for an audit."""
    _, c, kh, kw = weight.shape
    acc = accumulator(x.dtype)
    packed = _pad_last(weight.to(acc).permute(1, 2, 3, 0), BLOCK_O)  # (C, KH, KW, O')
    rows = _unrolled_rows(kh, kw)
    more = {"c_in": c, "ROWS": rows, "GROUP": max(1, GROUP // (rows * kw)), "ACC": _triton_type(acc)}
    return _launch(_adder2d_fwd_kernel, x, packed, y, weight, stride, padding, more)


def int8_launch(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    stride: HW = (1, 1),
    padding: HW = (0, 0),
    scale: float | None = None,
    vabsdiff4: bool = True,
) -> Launch:
    """The launch that fills ``y`` with :func:`nsrlib.ops.adder2d_int8`; ``vabsdiff4`` on NVIDIA only."""
    words = pack_int8(x)  # (N, C / 4, H, W)
    packed = _pad_last(pack_int8(weight).permute(1, 2, 3, 0), BLOCK_O)  # (C / 4, KH, KW, O')
    more = {
        "scale": 1.0 if scale is None else float(scale), "words": words.shape[1], "SCALED": scale is not None,
        "ROWS": _unrolled_rows(*weight.shape[2:]) if vabsdiff4 else 1, "VABSDIFF4": vabsdiff4,
    }  # fmt: skip
    return _launch(_adder2d_int8_kernel, words, packed, y, weight, stride, padding, more)


def _launch(
    kernel: Any, x: Tensor, packed: Tensor, y: Tensor, weight: Tensor, stride: HW, padding: HW, more: Any
) -> Launch:
    o, _, kh, kw = weight.shape
    arguments = {
        "x_ptr": x, "w_ptr": packed, "y_ptr": y, "c_out": o, **_sizes(x, y, stride, padding), **_strides("x", x),
        "y_n": y.stride(0), "y_o": y.stride(1), "y_p": y.stride(3), "w_row": packed.shape[-1], "KH": kh, "KW": kw,
        "BLOCK_O": BLOCK_O, "BLOCK_P": BLOCK_P, "IDX": _index(x, y), **more,
    }  # fmt: skip
    grid = (cdiv(arguments["all_pixels"], BLOCK_P), cdiv(o, BLOCK_O), 1)
    return Launch(kernel, grid, arguments, NUM_WARPS)


def input_grad_launch(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    dx: Tensor,
    stride: HW = (1, 1),
    padding: HW = (0, 0),
    gradient: Gradient = "adder",
) -> Launch:
    """The launch that fills ``dx`` with the gradient of :func:`nsrlib.ops.adder2d` for its input."""
    n, c, h, w = x.shape
    o, _, kh, kw = weight.shape
    acc = accumulator(x.dtype)
    sign = gradient == "sign"
    g = _window_every_pixel(grad, (h, w), (kh, kw), stride, padding)  # (N, O, H + KH - 1, W + KW - 1)
    flipped = weight.to(acc).flip(2, 3).permute(0, 2, 3, 1)
    packed = _pad_last(flipped if sign else (flipped + 1) / 2, BLOCK_C)  # (O, KH, KW, C')
    # the sum of all G that reach a pixel; at least float32, and float64 costs nothing here
    box = g.new_empty(1) if sign else _box(g.sum(1, dtype=torch.float64), (kh, kw)).to(acc)
    rows = _unrolled_rows(kh, kw)
    arguments = {
        "g_ptr": g, "x_ptr": x, "w_ptr": packed, "box_ptr": box, "d_ptr": dx,
        "c_in": c, "c_out": o, "width": w, "pixels": h * w, "all_pixels": n * h * w,
        "group_steps": math.isqrt(o * (kh // rows)),
        "g_n": g.stride(0), "g_o": g.stride(1), "g_h": g.stride(2), **_strides("x", x), **_strides("d", dx),
        "box_p": 1, "w_row": packed.shape[-1], "KH": kh, "KW": kw, "ROWS": rows, "BLOCK_C": BLOCK_C, "BLOCK_P": BLOCK_P,
        "SIGN": sign, "IDX": _index(g, x, dx), "ACC": _triton_type(acc),
    }  # fmt: skip
    grid = (cdiv(n * h * w, BLOCK_P), cdiv(c, BLOCK_C), 1)
    return Launch(_adder2d_bwd_input_kernel, grid, arguments, NUM_WARPS)


def weight_sign_grad_launch(
    grad: Tensor, x: Tensor, weight: Tensor, dw: Tensor, stride: HW = (1, 1),
    padding: HW = (0, 0),
) -> Launch:  # fmt: skip
    """The launch that fills ``dw``, ``(splits, *weight.shape)``, with the partial sums of ``sum_n G sign(X - W)``."""
    o, c, kh, kw = weight.shape
    block_o, block_c, block_p = 16, 16, 32
    sizes = _sizes(x, grad, stride, padding)
    arguments = {
        "g_ptr": grad, "x_ptr": x, "w_ptr": weight.contiguous(), "d_ptr": dw, "c_in": c, "c_out": o, **sizes,
        "chunk": block_p * cdiv(sizes["all_pixels"], block_p * dw.shape[0]), **_strides("g", grad), **_strides("x", x),
        "KH": kh, "KW": kw, "BLOCK_O": block_o, "BLOCK_C": block_c, "BLOCK_P": block_p,
        "IDX": _index(grad, x, dw), "ACC": _triton_type(accumulator(x.dtype)),
    }  # fmt: skip
    grid = (cdiv(o, block_o) * cdiv(c, block_c), kh * kw, dw.shape[0])
    return Launch(_adder2d_bwd_weight_kernel, grid, arguments, 4)


def forward(x: Tensor, weight: Tensor, stride: HW, padding: HW) -> Tensor:
    """``-sum |X - W|`` in the layout of ``x``."""
    y = empty_result(x, weight, stride, padding)
    if y.numel():
        forward_launch(x, weight, y, stride, padding).run()
    return y


def forward_int8(x: Tensor, weight: Tensor, stride: HW, padding: HW, scale: float | None) -> Tensor:
    """The same of int8 tensors: int32, or float32 with a ``scale``."""
    y = empty_result(x, weight, stride, padding, torch.int32 if scale is None else torch.float32)
    if y.numel():
        vabsdiff4 = x.is_cuda and torch.version.hip is None
        int8_launch(x, weight, y, stride, padding, scale, vabsdiff4).run()
    return y


def input_grad(grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW, gradient: Gradient) -> Tensor:
    """The gradient of ``x``, in its layout."""
    dx = empty(x, x.shape, is_channels_last(x))
    if dx.numel():
        input_grad_launch(grad, x, weight, dx, stride, padding, gradient).run()
    return dx


def weight_sign_grad(grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW) -> Tensor:
    """``sum_n G sign(X - W)``."""
    pixels = grad.shape[0] * grad.shape[2] * grad.shape[3]
    if pixels == 0:
        return torch.zeros_like(weight)
    # enough programs to fill a GPU, at most 64 partial sums of the size of the weight
    partial = x.new_empty(min(64, max(1, pixels // 256)), *weight.shape, dtype=accumulator(x.dtype))
    weight_sign_grad_launch(grad, x, weight, partial, stride, padding).run()
    return partial.sum(0).to(weight.dtype)


def pack_int8(x: Tensor) -> Tensor:
    """Words of four channels ``(N, ceil(C / 4), H, W)`` int32; a view of channels_last tensors, else one copy."""
    n, c, h, w = x.shape
    if c % 4 == 0 and x.is_contiguous(memory_format=torch.channels_last) and x.storage_offset() % 4 == 0:
        words = x.permute(0, 2, 3, 1).reshape(-1).view(torch.int32)
        return words.view(n, h, w, c // 4).permute(0, 3, 1, 2)
    x = F.pad(x, (0, 0, 0, 0, 0, -c % 4)).unflatten(1, (-1, 4)).permute(0, 1, 3, 4, 2)
    return x.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.int32).view(x.shape[:-1])


def _sizes(x: Tensor, y: Tensor, stride: HW, padding: HW) -> dict[str, int]:
    pixels = y.shape[2] * y.shape[3]
    return {
        "height": x.shape[2], "width": x.shape[3], "out_w": y.shape[3], "pixels": pixels,
        "all_pixels": y.shape[0] * pixels, "stride_h": stride[0], "stride_w": stride[1],
        "pad_h": padding[0], "pad_w": padding[1],
    }  # fmt: skip


def _strides(name: str, x: Tensor) -> dict[str, int]:
    return {f"{name}_{axis}": x.stride(i) for i, axis in enumerate("nohw" if name == "g" else "nchw")}


def _unrolled_rows(kh: int, kw: int) -> int:
    return kh if kh * kw <= UNROLL else 1


def _triton_type(dtype: torch.dtype) -> Any:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _index(*tensors: Tensor) -> Any:
    """int64 offsets where one of the tensors reaches past 2**31 elements, with room for padding."""
    reach = max(sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) for t in tensors)
    return tl.int64 if reach >= 2**31 - 2**24 else tl.int32


def _pad_last(x: Tensor, multiple: int) -> Tensor:
    """Contiguous, the last axis filled up with zeros."""
    return F.pad(x, (0, -x.shape[-1] % multiple)).contiguous()


def _window_every_pixel(grad: Tensor, size: HW, kernel: HW, stride: HW, padding: HW) -> Tensor:
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


def _box(x: Tensor, kernel: HW) -> Tensor:
    """Sum over every ``kernel``-sized window of ``(N, H, W)``."""
    return x.unfold(1, kernel[0], 1).sum(-1).unfold(2, kernel[1], 1).sum(-1)
