"""Triton kernels of the adder layer: forward, both gradients, int8, and the copies that they read.

Names are those of :mod:`nsrlib.ops.common`; besides, ``pixels`` of one image and ``all_pixels`` of the batch, ``ROWS``
of a filter that are unrolled, ``IDX`` and ``ACC`` the types of offsets and sums, ``taps`` the ``C K K`` of a filter and
``d`` one of them. What a kernel would read badly (cache lines of which it needs one value, masks and divisions in its
loop) a pack kernel copies first: images as planes, or with the axis innermost along which the threads lie.
:mod:`nsrlib.ops.adder2d.launches` says which.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(
    pid, src_ptr, s_n, s_c, s_h, s_w, samples, channels, height, width, d_ptr, d_n, d_c, d_h, d_w,
    to_samples, to_channels, to_height, to_width, step_h, step_w, shift_h, shift_w, sums_ptr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, IDX: tl.constexpr,
    WORDS: tl.constexpr = False, HALVE: tl.constexpr = False, SUMS: tl.constexpr = False,
):  # fmt: skip
    """Copies pixel ``(i, j)`` to ``(i step + shift, j step + shift)`` of a tensor that is 0 elsewhere.

    WORDS puts four channels (bytes) side by side, HALVE takes ``(a + 1) / 2``, SUMS adds up the channels of a pixel.
    """
    p = pid.to(IDX) * BLOCK_P + tl.arange(0, BLOCK_P)
    ok = p < tl.cast(to_samples, IDX) * to_height * to_width
    n = p // (to_height * to_width)
    r = (p % (to_height * to_width)).to(tl.int32)
    h = r // to_width
    w = r % to_width
    i = h - shift_h
    j = w - shift_w
    hit = ok & (n < samples) & (i >= 0) & (i % step_h == 0) & (j >= 0) & (j % step_w == 0)
    i = i // step_h
    j = j // step_w
    hit = hit & (i < height) & (j < width)
    source = src_ptr + (n * s_n + i.to(IDX) * s_h + j.to(IDX) * s_w)[None, :]
    target = d_ptr + (n * d_n + h.to(IDX) * d_h + w.to(IDX) * d_w)[None, :]
    total = tl.zeros((BLOCK_P,), tl.float64)
    for start in range(0, to_channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        inside = (c < channels)[:, None] & hit[None, :]
        a = tl.load(source + c.to(IDX)[:, None] * s_c, mask=inside, other=0)
        if HALVE:
            a = a.to(d_ptr.dtype.element_ty) * 0.5 + 0.5
        if SUMS:
            total += tl.sum(a.to(tl.float64), 0)
        to_c = (c // 4).to(IDX) * d_c + c % 4 if WORDS else c.to(IDX) * d_c
        tl.store(target + to_c[:, None], a, mask=(c < to_channels)[:, None] & ok[None, :])
    if SUMS:
        tl.store(sums_ptr + p, total, mask=ok)


@triton.jit
def _adder2d_pack_kernel(
    x_ptr, w_ptr, to_x_ptr, to_w_ptr, samples, c_in, c_out, height, width, x_n, x_c, x_h, x_w, w_o, w_c, w_h, w_w,
    w_row, x_programs, KH: tl.constexpr, KW: tl.constexpr, WORDS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, IDX: tl.constexpr,
):  # fmt: skip
    """For the forward pass: x as planes in the first ``x_programs``, then w ``(c_in, KH, KW, w_row)``.

    WORDS: planes and filters of words of four channels, ``(N, C / 4, H, W)`` and ``(C / 4, KH, KW, w_row)``.
    """
    pid = tl.program_id(0)
    plane = height * width
    if WORDS:
        filled = (c_in + 3) // 4 * 4
        if pid < x_programs:
            _place(
                pid, x_ptr, x_n, x_c, x_h, x_w, samples, c_in, height, width,
                to_x_ptr, tl.cast(filled, IDX) * plane, plane * 4, width * 4, 4, samples, filled, height, width,
                1, 1, 0, 0, x_ptr, BLOCK_C, BLOCK_P, IDX, WORDS=True,
            )  # fmt: skip
        else:
            _place(
                pid - x_programs, w_ptr, w_o, w_c, w_h, w_w, c_out, c_in, KH, KW,
                to_w_ptr, 4, KH * KW * w_row * 4, KW * w_row * 4, w_row * 4, w_row, filled, KH, KW,
                1, 1, 0, 0, x_ptr, BLOCK_C, BLOCK_P, IDX, WORDS=True,
            )  # fmt: skip
    else:
        if pid < x_programs:
            _place(
                pid, x_ptr, x_n, x_c, x_h, x_w, samples, c_in, height, width,
                to_x_ptr, tl.cast(c_in, IDX) * plane, plane, width, 1, samples, c_in, height, width,
                1, 1, 0, 0, x_ptr, BLOCK_C, BLOCK_P, IDX,
            )  # fmt: skip
        else:
            _place(
                pid - x_programs, w_ptr, w_c, w_o, w_h, w_w, c_in, c_out, KH, KW,
                to_w_ptr, KH * KW * w_row, 1, KW * w_row, w_row, c_in, w_row, KH, KW,
                1, 1, 0, 0, x_ptr, BLOCK_C, BLOCK_P, IDX,
            )  # fmt: skip


@triton.jit
def _adder2d_fwd_kernel(
    x_ptr, w_ptr, y_ptr, c_in, c_out, height, width, out_w, pixels, all_pixels, stride_h, stride_w, pad_h, pad_w,
    x_n, x_c, x_h, x_w, y_n, y_o, y_p, w_o, w_tap, group_steps,
    KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr, IDX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """BLOCK_O output channels of BLOCK_P pixels, which count through the batch.

    w is ``(c_in, KH, KW, c_out)``, filled up so that a block reads it without a mask (PACKED), or contiguous.
    """
    p = tl.program_id(0).to(IDX) * BLOCK_P + tl.arange(0, BLOCK_P)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    ok = p < all_pixels
    n = p // pixels
    r = (p % pixels).to(tl.int32)
    h = (r // out_w) * stride_h - pad_h
    w = (r % out_w) * stride_w - pad_w
    x_off = n * x_n + h.to(IDX) * x_h + w.to(IDX) * x_w
    w_off = o if PACKED else tl.minimum(o, c_out - 1) * w_o
    acc = tl.zeros((BLOCK_O, BLOCK_P), ACC)
    steps = c_in * (KH // ROWS)
    for start in range(0, steps, group_steps):
        part = tl.zeros((BLOCK_O, BLOCK_P), ACC)
        for i in range(start, min(start + group_steps, steps)):
            row = i % (KH // ROWS) * ROWS
            for kh in tl.static_range(ROWS):
                for kw in tl.static_range(KW):
                    hh = h + (row + kh)
                    ww = w + kw
                    inside = ok & (hh >= 0) & (hh < height) & (ww >= 0) & (ww < width)
                    a = tl.load(x_ptr + (x_off + (kh * x_h + kw * x_w)), mask=inside, other=0.0).to(ACC)
                    b = tl.load(w_ptr + (kh * KW + kw) * w_tap + w_off).to(ACC)
                    part += tl.abs(a[None, :] - b[:, None])
            w_ptr += ROWS * KW * w_tap
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
    acc = tl.zeros((BLOCK_O, BLOCK_P), tl.int32)
    for i in range(words * (KH // ROWS)):
        row = i % (KH // ROWS) * ROWS
        for kh in tl.static_range(ROWS):
            for kw in tl.static_range(KW):
                hh = h + (row + kh)
                ww = w + kw
                inside = ok & (hh >= 0) & (hh < height) & (ww >= 0) & (ww < width)
                a = tl.load(x_ptr + (x_off + (kh * x_h + kw * x_w)), mask=inside, other=0)
                b = tl.load(w_ptr + (kh * KW + kw) * w_row + o)
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
        w_ptr += ROWS * KW * w_row
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


@triton.jit
def _adder2d_pack_bwd_kernel(
    g_ptr, x_ptr, w_ptr, to_planes_ptr, to_sums_ptr, to_w_ptr, to_g_ptr, to_x_ptr,
    samples, c_in, c_out, height, width, out_h, out_w, stride_h, stride_w, pad_h, pad_w,
    g_n, g_o, g_h, g_w, x_n, x_c, x_h, x_w, w_o, w_c, w_h, w_w, w_row, g_row, planes_end, w_end, g_end,
    KH: tl.constexpr, KW: tl.constexpr, SIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    IDX: tl.constexpr,
):  # fmt: skip
    """For the backward pass, by ranges of programs.

    1. ``planes (N, c_out, height + KH - 1, width + KW - 1)``: ``G`` spread and padded, so that input pixel ``(h, w)``
       received from ``[h : h + KH, w : w + KW]``; and ``sums``, that of all its channels;
    2. ``w (c_out, KH, KW, w_row)``, flipped in both axes: ``W`` for the sign, ``(W + 1) / 2`` for HardTanh;
    3. ``G`` with its channels innermost, ``(N, out_h, out_w, g_row)``;
    4. x likewise and padded, as far as windows reach, ``(N, (out_h - 1) stride + KH, (out_w - 1) stride + KW, c_in)``.
    """
    pid = tl.program_id(0)
    if pid < planes_end:
        rows = height + KH - 1
        columns = width + KW - 1
        _place(
            pid, g_ptr, g_n, g_o, g_h, g_w, samples, c_out, out_h, out_w,
            to_planes_ptr, tl.cast(rows * columns, IDX) * c_out, rows * columns, columns, 1,
            samples, c_out, rows, columns, stride_h, stride_w, KH - 1 - pad_h, KW - 1 - pad_w, to_sums_ptr,
            BLOCK_C, BLOCK_P, IDX, SUMS=not SIGN,
        )  # fmt: skip
    elif pid < w_end:
        last = (KH - 1) * w_h + (KW - 1) * w_w
        _place(
            pid - planes_end, w_ptr + last, w_o, w_c, -w_h, -w_w, c_out, c_in, KH, KW,
            to_w_ptr, KH * KW * w_row, 1, KW * w_row, w_row, c_out, w_row, KH, KW, 1, 1, 0, 0, to_sums_ptr,
            BLOCK_C, BLOCK_P, IDX, HALVE=not SIGN,
        )  # fmt: skip
    elif pid < g_end:
        _place(
            pid - w_end, g_ptr, g_n, g_o, g_h, g_w, samples, c_out, out_h, out_w,
            to_g_ptr, tl.cast(out_h * out_w, IDX) * g_row, 1, out_w * g_row, g_row,
            samples, g_row, out_h, out_w, 1, 1, 0, 0, to_sums_ptr, BLOCK_C, BLOCK_P, IDX,
        )  # fmt: skip
    else:
        rows = (out_h - 1) * stride_h + KH
        columns = (out_w - 1) * stride_w + KW
        _place(
            pid - g_end, x_ptr, x_n, x_c, x_h, x_w, samples, c_in, height, width,
            to_x_ptr, tl.cast(rows * columns, IDX) * c_in, 1, columns * c_in, c_in,
            samples, c_in, rows, columns, 1, 1, pad_h, pad_w, to_sums_ptr, BLOCK_C, BLOCK_P, IDX,
        )  # fmt: skip


# Strides of x and dx are not specialised: a vectorised load of x would give the tile a layout in which g and w take
# the way through shared memory, with two barriers a tap.
@triton.jit(do_not_specialize=["x_n", "x_c", "x_h", "x_w", "d_n", "d_c", "d_h", "d_w"])
def _adder2d_bwd_input_kernel(
    g_ptr, x_ptr, w_ptr, sums_ptr, d_ptr, parts_ptr, filters_ptr, dw_ptr,
    c_in, c_out, height, width, all_pixels, group_steps, x_n, x_c, x_h, x_w, d_n, d_c, d_h, d_w, w_row,
    parts, g_row, d_row, f_o, f_c, f_h, f_w,
    KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    SIGN: tl.constexpr, FINISH: tl.constexpr, BLOCK_SUM: tl.constexpr, IDX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """BLOCK_C input channels of BLOCK_P input pixels; g, sums and w as :func:`_adder2d_pack_bwd_kernel` leaves them.

    FINISH: the programs first share out what is left of the weight's gradient, which saves its launch.
    """
    if FINISH:
        blocks = tl.cdiv(c_out * c_in * (KH * KW), BLOCK_SUM)
        first = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        for block in range(first, blocks, tl.num_programs(0) * tl.num_programs(1)):
            _finish_weight(
                block, parts_ptr, filters_ptr, dw_ptr, c_in, c_out, parts, g_row, d_row, f_o, f_c, f_h, f_w,
                KH, KW, SIGN, BLOCK_SUM, ACC,
            )  # fmt: skip
    p = tl.program_id(0).to(IDX) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = p < all_pixels
    p = tl.minimum(p, all_pixels - 1)
    n = p // (height * width)
    r = (p % (height * width)).to(tl.int32)
    h = (r // width).to(IDX)
    w = (r % width).to(IDX)
    inside = (c < c_in)[:, None] & ok[None, :]
    # pixels are the axis to lay threads along: Triton 3.6 breaks the tie the other way, and then spills
    x_off = tl.max_contiguous((n * x_n + h * x_h + w * x_w)[None, :] + c.to(IDX)[:, None] * x_c, [1, 2])
    x = tl.load(x_ptr + x_off, mask=inside, other=0.0).to(ACC)
    half = -0.5 * x
    g_h = width + (KW - 1)
    g_o = g_h * (height + (KH - 1))
    acc = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    if not SIGN:  # sum G sat - sum G / 2: from here the total stays near what is wanted, and so does its rounding
        box = tl.zeros((BLOCK_P,), tl.float64)
        for tap in range(KH * KW):
            box += tl.load(sums_ptr + (n * g_o + (h + tap // KW) * g_h + w + tap % KW))
        acc -= (0.5 * box).to(ACC)[None, :]
    g_off = n * c_out * g_o + h * g_h + w
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


# a vectorised load of x or store of parts would give them a layout for which x takes the way through shared memory
@triton.jit(do_not_specialize=["c_in", "d_row"])
def _adder2d_bwd_weight_kernel(
    g_ptr, x_ptr, w_ptr, parts_ptr, c_in, c_out, rows, out_h, out_w, stride_h, stride_w, chunk, group, g_row, d_row,
    w_o, w_c, w_h, w_w, KH: tl.constexpr, KW: tl.constexpr, SIGN: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_D: tl.constexpr, IDX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sums over ``chunk`` of the ``rows`` of all results, to ``parts (splits, g_row, d_row)``; d is ``(KH, KW, c_in)``.

    ``sum G sign(X - W)`` or ``sum G X``; column ``taps`` of the latter is ``sum G``, because X is 1 there.
    g and x as :func:`_adder2d_pack_bwd_kernel` leaves them: neighbouring threads read neighbouring taps.
    """
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    split = tl.program_id(2)
    is_tap = d < c_in * (KH * KW)
    c = d % c_in
    kh = d // c_in // KW
    kw = d // c_in % KW
    columns = (out_w - 1) * stride_w + KW
    x_off = (kh * columns + kw) * c_in + c
    if SIGN:
        # taps are the axis to lay threads along, see x_off of the kernel above
        w_off = tl.max_contiguous((o * w_o)[:, None] + (c * w_c + kh * w_h + kw * w_w)[None, :], [1, 2])
        b = tl.load(w_ptr + w_off, mask=(o < c_out)[:, None] & is_tap[None, :], other=0.0).to(ACC)
    acc = tl.zeros((BLOCK_O, BLOCK_D), ACC)
    for row in range(split * chunk, min((split + 1) * chunk, rows)):
        x_row = (row // out_h) * ((out_h - 1) * stride_h + KH) + (row % out_h) * stride_h
        x = x_ptr + tl.cast(x_row, IDX) * columns * c_in
        g_o = g_ptr + tl.cast(row, IDX) * out_w * g_row
        for start in range(0, out_w, group):
            part = tl.zeros((BLOCK_O, BLOCK_D), ACC)
            for _ in range(start, min(start + group, out_w)):
                g = tl.load(g_o + o).to(ACC)[:, None]
                a = tl.load(x + x_off, mask=is_tap, other=1.0).to(ACC)[None, :]
                if SIGN:
                    part += tl.where(a > b, g, tl.where(a < b, -g, 0.0))
                else:
                    part += g * a
                g_o += g_row
                x += stride_w * c_in
            acc += part
    at = (split * g_row + o).to(IDX)[:, None] * d_row + d[None, :]
    tl.store(parts_ptr + at, acc)


@triton.jit
def _finish_weight(
    block, parts_ptr, w_ptr, dw_ptr, c_in, c_out, parts, g_row, d_row, w_o, w_c, w_h, w_w,
    KH: tl.constexpr, KW: tl.constexpr, SIGN: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``BLOCK`` values of the weight's gradient from its partial sums, in float64: ``sum G X - W sum G`` may cancel."""
    taps = c_in * (KH * KW)
    q = block * BLOCK + tl.arange(0, BLOCK)
    ok = q < c_out * taps
    o = q // taps
    d = q % taps
    tap = d // c_in
    c = d % c_in
    total = tl.zeros((BLOCK,), tl.float64)
    g = tl.zeros((BLOCK,), tl.float64)
    for part in range(parts):
        row = parts_ptr + (part * g_row + o).to(tl.int64) * d_row
        total += tl.load(row + d, mask=ok, other=0.0).to(tl.float64)
        if not SIGN:
            g += tl.load(row + taps, mask=ok, other=0.0).to(tl.float64)
    if not SIGN:
        w = tl.load(w_ptr + o * w_o + c * w_c + tap // KW * w_h + tap % KW * w_w, mask=ok, other=0.0)
        total -= g * w.to(tl.float64)
    tl.store(dw_ptr + o * taps + c * (KH * KW) + tap, total.to(ACC), mask=ok)


@triton.jit
def _adder2d_finish_weight_kernel(
    parts_ptr, w_ptr, d_ptr, c_in, c_out, parts, g_row, d_row, w_o, w_c, w_h, w_w,
    KH: tl.constexpr, KW: tl.constexpr, SIGN: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The weight's gradient where no launch for the input's follows."""
    _finish_weight(
        tl.program_id(0), parts_ptr, w_ptr, d_ptr, c_in, c_out, parts, g_row, d_row, w_o, w_c, w_h, w_w,
        KH, KW, SIGN, BLOCK, ACC,
    )  # fmt: skip
