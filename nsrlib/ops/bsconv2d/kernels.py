"""The Triton kernels of the blueprint separable convolution for K = 3, their launches, and what runs them.

Names are those of :mod:`nsrlib.ops.common`; besides, ``pw_ptr`` and ``dw_ptr`` are the pointwise and the depthwise
filters. A program walks down ``rows`` rows of a strip of ``BLOCK_P`` columns; its loads run ``STAGES`` ahead.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsrlib.ops.common import Launch, cdiv, channel_block, channels_last, dot_precision, empty, processors

PROGRAMS = {torch.float16: 3, torch.bfloat16: 3, torch.float32: 4}
"""Programs that fit on a multiprocessor of an H100 at a time, by the registers and the shared memory that they take."""
BACKWARD_PROGRAMS = 2


@triton.jit
def _upper_tail(y):
    """``P(Y > |y|)`` of a standard normal Y, and ``exp(-y**2 / 2)``.

    The form of Abramowitz & Stegun 7.1.26, one degree higher, with coefficients fitted for the least greatest error of
    ``y P``: 6e-9. So a float32 GELU made of it errs by its rounding, 2.4e-7, less than PyTorch's own.
    """
    e = tl.exp2(y * y * -0.7213475204444817)
    root = tl.rsqrt(1 + 0.28 * tl.abs(y))  # a division takes six instructions, this one
    t = root * root
    tail = ((-0.107032199 * t + 0.394924912) * t - 0.245277074) * t + 0.275657197
    return ((tail * t + 0.0647681612) * t + 0.116958984) * t * e, e


@triton.jit
def _gelu(y):
    """``y P(Y < y)``; of infinity infinity, of NaN NaN."""
    tail, _ = _upper_tail(y)
    return tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL) - tl.minimum(tl.abs(y), 14.0) * tail


@triton.jit
def _gelu_slope(y):
    tail, e = _upper_tail(y)
    return tl.where(y < 0, tail, 1 - tail) + y * e * 0.3989422804014327


@triton.jit
def _taps(dw_ptr, o, ok_o):
    """The nine taps of channels ``o``, row by row, each (BLOCK_O, 1)."""
    w00 = tl.load(dw_ptr + o * 9 + 0, mask=ok_o, other=0).to(tl.float32)[:, None]
    w01 = tl.load(dw_ptr + o * 9 + 1, mask=ok_o, other=0).to(tl.float32)[:, None]
    w02 = tl.load(dw_ptr + o * 9 + 2, mask=ok_o, other=0).to(tl.float32)[:, None]
    w10 = tl.load(dw_ptr + o * 9 + 3, mask=ok_o, other=0).to(tl.float32)[:, None]
    w11 = tl.load(dw_ptr + o * 9 + 4, mask=ok_o, other=0).to(tl.float32)[:, None]
    w12 = tl.load(dw_ptr + o * 9 + 5, mask=ok_o, other=0).to(tl.float32)[:, None]
    w20 = tl.load(dw_ptr + o * 9 + 6, mask=ok_o, other=0).to(tl.float32)[:, None]
    w21 = tl.load(dw_ptr + o * 9 + 7, mask=ok_o, other=0).to(tl.float32)[:, None]
    w22 = tl.load(dw_ptr + o * 9 + 8, mask=ok_o, other=0).to(tl.float32)[:, None]
    return w00, w01, w02, w10, w11, w12, w20, w21, w22


@triton.jit(do_not_specialize=["height", "width", "rows"])
def _bsconv2d_fwd_kernel(
    x_ptr,  # (N, H, W, C_IN)
    pw_ptr,  # (C_OUT, C_IN)
    dw_ptr,  # (C_OUT, 9)
    bias_ptr,  # (C_OUT,) or None
    residual_ptr,  # (N, H, W, C_OUT) or None
    g_ptr,  # None, or (N, H, W, C_OUT): then y is the gradient of what goes into the GELU
    y_ptr,  # (N, H, W, C_OUT)
    height,
    width,
    rows,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``rows`` rows of BLOCK_P columns of one sample, BLOCK_O output channels."""
    # Blocks of output channels change fastest: programs that read the same x run together and share the L2 cache.
    BLOCKS: tl.constexpr = (C_OUT + BLOCK_O - 1) // BLOCK_O
    strips = (width + BLOCK_P - 1) // BLOCK_P
    chunks = (height + rows - 1) // rows
    pid = tl.program_id(0)
    o = (pid % BLOCKS) * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // BLOCKS
    w = (pid % strips) * BLOCK_P + tl.arange(0, BLOCK_P)
    pid = pid // strips
    first = (pid % chunks) * rows
    last = tl.minimum(first + rows, height)
    n = (pid // chunks).to(tl.int64)
    i = tl.arange(0, BLOCK_C)
    ok_o = o < C_OUT

    # Sums are (BLOCK_O, BLOCK_P). This way round a thread's elements of a product lie in two rows, and it holds
    # two numbers for each tap; the other way round it is sixteen, and registers spill.
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = _taps(dw_ptr, o, ok_o)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + o, mask=ok_o, other=0).to(tl.float32)[:, None]
    pw = tl.load(pw_ptr + o[:, None] * C_IN + i[None, :], mask=ok_o[:, None] & (i < C_IN)[None, :], other=0)

    above = tl.full((BLOCK_O, BLOCK_P), 0, tl.float32)
    here = tl.full((BLOCK_O, BLOCK_P), 0, tl.float32)
    for h in tl.range(first - 1, last + 1, num_stages=STAGES):
        row = (n * height + h) * width
        in_row = (h >= 0) & (h < height)
        left = tl.full((BLOCK_O, BLOCK_P), 0, tl.float32)
        middle = tl.full((BLOCK_O, BLOCK_P), 0, tl.float32)
        right = tl.full((BLOCK_O, BLOCK_P), 0, tl.float32)
        for c in tl.static_range(0, C_IN, BLOCK_C):
            ok_i = c + i < C_IN
            if C_IN > BLOCK_C:
                pw = tl.load(pw_ptr + o[:, None] * C_IN + (c + i)[None, :], mask=ok_o[:, None] & ok_i[None, :], other=0)
            x_row = x_ptr + row * C_IN + w[:, None] * C_IN + (c + i)[None, :]
            ok = ok_i[None, :] & in_row
            x_left = tl.load(x_row - C_IN, mask=ok & ((w >= 1) & (w <= width))[:, None], other=0)
            left = tl.dot(pw, tl.trans(x_left), left, input_precision=PRECISION)
            x_middle = tl.load(x_row, mask=ok & (w < width)[:, None], other=0)
            middle = tl.dot(pw, tl.trans(x_middle), middle, input_precision=PRECISION)
            x_right = tl.load(x_row + C_IN, mask=ok & (w + 1 < width)[:, None], other=0)
            right = tl.dot(pw, tl.trans(x_right), right, input_precision=PRECISION)
        y = above + left * w20 + middle * w21 + right * w22
        above = here + left * w10 + middle * w11 + right * w12
        here = left * w00 + middle * w01 + right * w02
        if h > first:  # row h - 1 is complete, and it is this program's
            at = (row - width) * C_OUT + w[None, :] * C_OUT + o[:, None]
            ok_y = (w < width)[None, :] & ok_o[:, None]
            if bias_ptr is not None:
                y += bias
            if residual_ptr is not None:
                # loaded any earlier, it would take the registers of one program in three
                y += tl.load(residual_ptr + at, mask=ok_y, other=0).to(tl.float32)
            if g_ptr is not None:
                y = _gelu_slope(y) * tl.load(g_ptr + at, mask=ok_y, other=0).to(tl.float32)
            elif ACTIVATION == "gelu":
                y = _gelu(y)
            if ACTIVATION == "relu":
                y = tl.where(y < 0, 0.0, y)  # keeps NaN, as PyTorch does
            tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=ok_y)


@triton.jit
def _fours(product):
    """Sums over pixels, but for the four threads that share a row of a product: no data moves between threads."""
    fours = tl.reshape(product, (product.shape[0], product.shape[1] // 8, 4, 2))
    return tl.sum(tl.sum(fours, 3), 1)


@triton.jit(do_not_specialize=["height", "width", "rows"])
def _bsconv2d_bwd_kernel(
    x_ptr,  # (N, H, W, C_IN)
    pw_ptr,  # (C_OUT, C_IN)
    dw_ptr,  # (C_OUT, 9)
    g_ptr,  # (N, H, W, C_OUT), of what goes into the activation
    d_ptr,  # (N, H, W, C_IN)
    parts_ptr,  # (programs, C_OUT * (C_IN + 9 + 1)): of pw, dw and bias, one after the other
    height,
    width,
    rows,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``rows`` rows of BLOCK_P columns of one sample, all channels: its pixels of d and its part of the weights'.

    At row h of g, z is known of the rows h - 1, h and h + 1 (of this program's own, others count as 0), and three
    rolling sums take what g gives to these rows of dz.
    """
    strips = (width + BLOCK_P - 1) // BLOCK_P
    chunks = (height + rows - 1) // rows
    pid = tl.program_id(0)
    w = (pid % strips) * BLOCK_P + tl.arange(0, BLOCK_P)
    first = (pid // strips) % chunks * rows
    last = tl.minimum(first + rows, height)
    n = (pid // strips // chunks).to(tl.int64)
    o = tl.arange(0, BLOCK_O)
    i = tl.arange(0, BLOCK_C)
    ok_o = o < C_OUT
    ok_i = i < C_IN

    w00, w01, w02, w10, w11, w12, w20, w21, w22 = _taps(dw_ptr, o, ok_o)
    pw = tl.load(pw_ptr + o[:, None] * C_IN + i[None, :], mask=ok_o[:, None] & ok_i[None, :], other=0)

    # g times 1: so it reaches the threads that hold z as any product does, without a detour of its own
    eye = tl.where(o[:, None] == o[None, :], 1.0, 0.0).to(pw.dtype)
    z_above = tl.full((BLOCK_O, BLOCK_P), 0, tl.float32)
    z_here = tl.full((BLOCK_O, BLOCK_P), 0, tl.float32)
    above = tl.full((BLOCK_O, BLOCK_P), 0, tl.float32)
    here = tl.full((BLOCK_O, BLOCK_P), 0, tl.float32)
    d_pw = tl.full((BLOCK_O, BLOCK_C), 0, tl.float32)
    d00 = tl.full((BLOCK_O, 4), 0, tl.float32)
    d01, d02, d10, d11, d12, d20, d21, d22, d_bias = d00, d00, d00, d00, d00, d00, d00, d00, d00
    for h in tl.range(first - 1, last + 1, num_stages=STAGES):
        row = (n * height + h) * width
        ok_x = (w < width)[:, None] & ok_i[None, :]
        x_at = row * C_IN + w[:, None] * C_IN + i[None, :]
        x_below = tl.load(x_ptr + x_at + width * C_IN, mask=ok_x & (h + 1 < last), other=0)
        z_below = tl.dot(pw, tl.trans(x_below), input_precision=PRECISION)

        g_at = g_ptr + row * C_OUT + w[:, None] * C_OUT + o[None, :]
        ok_g = ok_o[None, :] & (w < width)[:, None] & (h >= 0) & (h < height)
        g_left = tl.load(g_at - C_OUT, mask=ok_g & (w >= 1)[:, None], other=0)
        left = tl.dot(eye, tl.trans(g_left), input_precision=PRECISION)
        g_middle = tl.load(g_at, mask=ok_g, other=0)
        middle = tl.dot(eye, tl.trans(g_middle), input_precision=PRECISION)
        g_right = tl.load(g_at + C_OUT, mask=ok_g & (w + 1 < width)[:, None], other=0)
        right = tl.dot(eye, tl.trans(g_right), input_precision=PRECISION)

        d00 += _fours(z_above * right)
        d01 += _fours(z_above * middle)
        d02 += _fours(z_above * left)
        d10 += _fours(z_here * right)
        d11 += _fours(z_here * middle)
        d12 += _fours(z_here * left)
        d20 += _fours(z_below * right)
        d21 += _fours(z_below * middle)
        d22 += _fours(z_below * left)
        if (h >= first) & (h < last):
            d_bias += _fours(middle)
        z_above = z_here
        z_here = z_below

        dz = above + right * w00 + middle * w01 + left * w02
        above = here + right * w10 + middle * w11 + left * w12
        here = right * w20 + middle * w21 + left * w22
        own = h > first  # row h - 1 is complete, and it is this program's
        dz = tl.where(own, dz, 0.0).to(x_ptr.dtype.element_ty)
        x = tl.load(x_ptr + x_at - width * C_IN, mask=ok_x & own, other=0)
        d_pw = tl.dot(dz, x, d_pw, input_precision=PRECISION)
        dx = tl.dot(tl.trans(pw), dz, input_precision=PRECISION)
        at = (row - width) * C_IN + w[None, :] * C_IN + i[:, None]
        tl.store(d_ptr + at, dx.to(d_ptr.dtype.element_ty), mask=(w < width)[None, :] & ok_i[:, None] & own)

    parts_ptr += tl.program_id(0).to(tl.int64) * (C_OUT * (C_IN + 10))
    tl.store(parts_ptr + o[:, None] * C_IN + i[None, :], d_pw, mask=ok_o[:, None] & ok_i[None, :])
    taps = parts_ptr + C_OUT * C_IN + o * 9
    tl.store(taps + 0, tl.sum(d00, 1), mask=ok_o)
    tl.store(taps + 1, tl.sum(d01, 1), mask=ok_o)
    tl.store(taps + 2, tl.sum(d02, 1), mask=ok_o)
    tl.store(taps + 3, tl.sum(d10, 1), mask=ok_o)
    tl.store(taps + 4, tl.sum(d11, 1), mask=ok_o)
    tl.store(taps + 5, tl.sum(d12, 1), mask=ok_o)
    tl.store(taps + 6, tl.sum(d20, 1), mask=ok_o)
    tl.store(taps + 7, tl.sum(d21, 1), mask=ok_o)
    tl.store(taps + 8, tl.sum(d22, 1), mask=ok_o)
    tl.store(parts_ptr + C_OUT * (C_IN + 9) + o, tl.sum(d_bias, 1), mask=ok_o)


def rows_per_program(height: int, columns: int, slots: int) -> int:
    """Rows that one program walks down: enough programs to fill the device once, but never fewer than 8 rows.

    A program reads two rows more than it writes. ``columns`` are programs side by side: strips times blocks of output
    channels times N; ``slots`` are programs that run at a time.
    """
    return max(8, cdiv(height, max(1, slots // columns)))


def fused_launch(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    y: Tensor,
    float32_precision: str = "tf32x3",
    grad: Tensor | None = None,
) -> Launch:
    """The launch that fills ``y`` with :func:`nsrlib.ops.bsconv2d`. Meta tensors do for an audit.

    With ``grad``, the gradient of the result, it is the gradient of what goes into the GELU that fills ``y``. x,
    residual, grad and y are channels last.
    """
    n, c_in, h, w = x.shape
    c_out = pointwise.shape[0]
    narrow = x.dtype == torch.float32 or w <= 16  # wider strips of float32 spill
    block_p, block_o = 16 if narrow else 32, channel_block(c_out)
    columns = n * cdiv(w, block_p) * cdiv(c_out, block_o)
    slots = processors(x.device) * PROGRAMS[x.dtype]
    rows = rows_per_program(h, columns, slots)
    precision = dot_precision(x.dtype, float32_precision)
    stages = 2 if c_in <= 128 else 1  # with more channels, loads ahead would not fit into smaller GPUs' shared memory
    arguments = {
        "x_ptr": x, "pw_ptr": pointwise.flatten(1).contiguous(), "dw_ptr": depthwise.flatten(1).contiguous(),
        "bias_ptr": bias if bias is None else bias.contiguous(), "residual_ptr": residual, "g_ptr": grad, "y_ptr": y,
        "height": h, "width": w, "rows": rows, "C_IN": c_in, "C_OUT": c_out, "ACTIVATION": activation,
        "PRECISION": precision, "BLOCK_P": block_p, "BLOCK_C": channel_block(c_in), "BLOCK_O": block_o,
        "STAGES": stages,
    }  # fmt: skip
    without_tensor_cores = x.dtype == torch.float32 and precision == "ieee"
    grid = (columns * cdiv(h, rows),)
    return Launch(_bsconv2d_fwd_kernel, grid, arguments, num_warps=8 if without_tensor_cores else 4)


def forward(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    float32_precision: str,
) -> Tensor:
    """The result, channels last."""
    x, residual = channels_last(x), residual if residual is None else channels_last(residual)
    n, _, h, w = x.shape
    y = empty(x, (n, len(depthwise), h, w), last=True)
    fused_launch(x, pointwise, depthwise, bias, activation, residual, y, float32_precision).run()
    return y


def backward_launch(
    x: Tensor, pointwise: Tensor, depthwise: Tensor, grad: Tensor, dx: Tensor, float32_precision: str = "tf32x3"
) -> Launch:
    """The launch that fills ``dx`` and its argument ``parts_ptr``; summed over programs that is the weights' gradients.

    ``grad`` is that of what goes into the activation; x, grad and dx are channels last; at most 64 channels.
    """
    n, c_in, h, w = x.shape
    c_out = pointwise.shape[0]
    block_p = 16  # 32 spill
    strips = n * cdiv(w, block_p)
    rows = rows_per_program(h, strips, BACKWARD_PROGRAMS * processors(x.device))
    programs = strips * cdiv(h, rows)
    arguments = {
        "x_ptr": x, "pw_ptr": pointwise.flatten(1).contiguous(), "dw_ptr": depthwise.flatten(1).contiguous(),
        "g_ptr": grad, "d_ptr": dx,
        "parts_ptr": torch.empty((programs, c_out * (c_in + 10)), dtype=torch.float32, device=x.device),
        "height": h, "width": w, "rows": rows, "C_IN": c_in, "C_OUT": c_out,
        "PRECISION": dot_precision(x.dtype, float32_precision),
        "BLOCK_P": block_p, "BLOCK_C": channel_block(c_in), "BLOCK_O": 16 if c_out <= 16 else 64,  # 32 spill
        "STAGES": 2,
    }  # fmt: skip
    return Launch(_bsconv2d_bwd_kernel, (programs,), arguments, num_warps=4)


def backward(
    grad: Tensor,
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    float32_precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of all weights in a row, and of what goes into a GELU (empty if there is none)."""
    x, grad = channels_last(x), channels_last(grad)
    inner = empty(grad, grad.shape if activation == "gelu" else (0, 1, 1, 1), last=True)
    if activation == "gelu":
        residual = residual if residual is None else channels_last(residual)
        launch = fused_launch(x, pointwise, depthwise, bias, None, residual, inner, float32_precision, grad)
        launch.run()
        grad = inner
    dx = empty(x, x.shape, last=True)
    launch = backward_launch(x, pointwise, depthwise, grad, dx, float32_precision)
    launch.run()
    return dx, launch.arguments["parts_ptr"].sum(0).to(x.dtype), inner
