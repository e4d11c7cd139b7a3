"""The Triton kernel of the blueprint separable convolution for K = 3, its launch, and what runs it.

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


@triton.jit(do_not_specialize=["height", "width", "rows"])
def _bsconv2d_fwd_kernel(
    x_ptr,  # (N, H, W, C_IN)
    pw_ptr,  # (C_OUT, C_IN)
    dw_ptr,  # (C_OUT, 9)
    bias_ptr,  # (C_OUT,) or None
    residual_ptr,  # (N, H, W, C_OUT) or None
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
    w00 = tl.load(dw_ptr + o * 9 + 0, mask=ok_o, other=0).to(tl.float32)[:, None]
    w01 = tl.load(dw_ptr + o * 9 + 1, mask=ok_o, other=0).to(tl.float32)[:, None]
    w02 = tl.load(dw_ptr + o * 9 + 2, mask=ok_o, other=0).to(tl.float32)[:, None]
    w10 = tl.load(dw_ptr + o * 9 + 3, mask=ok_o, other=0).to(tl.float32)[:, None]
    w11 = tl.load(dw_ptr + o * 9 + 4, mask=ok_o, other=0).to(tl.float32)[:, None]
    w12 = tl.load(dw_ptr + o * 9 + 5, mask=ok_o, other=0).to(tl.float32)[:, None]
    w20 = tl.load(dw_ptr + o * 9 + 6, mask=ok_o, other=0).to(tl.float32)[:, None]
    w21 = tl.load(dw_ptr + o * 9 + 7, mask=ok_o, other=0).to(tl.float32)[:, None]
    w22 = tl.load(dw_ptr + o * 9 + 8, mask=ok_o, other=0).to(tl.float32)[:, None]
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
            if ACTIVATION == "gelu":
                y = _gelu(y)
            if ACTIVATION == "relu":
                y = tl.where(y < 0, 0.0, y)  # keeps NaN, as PyTorch does
            tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=ok_y)


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
) -> Launch:
    """The launch that fills ``y`` with :func:`nsrlib.ops.bsconv2d`. Meta tensors do for an audit.

    x, residual and y are channels last.
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
        "bias_ptr": bias if bias is None else bias.contiguous(), "residual_ptr": residual, "y_ptr": y,
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
