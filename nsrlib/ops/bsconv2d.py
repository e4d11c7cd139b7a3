"""Blueprint separable convolution in one pass: pointwise, depthwise, bias, residual, activation.

``y = act(DW(PW x) + bias + residual)`` with a pointwise (1x1) convolution PW without bias and a depthwise KxK
convolution DW, K odd, stride 1, zero padding that keeps the size (BSConv-U, Haase & Amthor, CVPR 2020; every 3x3 layer
of BSRN, Li et al. 2022). A library runs this as two to four kernels and writes ``z = PW x`` to memory in between.

On a GPU with K = 3 one Triton kernel reads x and writes y. A program walks down the rows of a strip of columns. Zero
padding outside PW or inside it is the same, so each row of x is multiplied by PW at its three horizontal shifts (tensor
cores; a third of the products of the equivalent dense convolution), and three rolling sums take what that row gives to
the output rows above, at and below it. Sums are float32; z is never rounded to the storage type. Any other K, more than
256 input channels, float64 and every CPU tensor take library convolutions.

The backward pass is library convolutions on any device. It recomputes z, and what goes into a GELU, so that nothing but
the inputs is kept (ReLU keeps y).

Shapes: x ``(N, C_in, H, W)``, any strides; the result ``(N, C_out, H, W)`` is always channels last.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nsrlib.bench.audit import Launch
from nsrlib.layers import one_by_one_dilation
from nsrlib.ops.common import in_autocast

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:
    HAS_TRITON = False

Float32Precision = Literal["tf32x3", "ieee", "tf32"]

ACTIVATIONS: tuple[str | None, ...] = (None, "gelu", "relu")
FLOAT32_PRECISIONS: tuple[str, ...] = ("tf32x3", "ieee", "tf32")


def bsconv2d_ref(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """What :func:`bsconv2d` computes, by definition."""
    z = F.conv2d(x, pointwise)
    y = F.conv2d(z, depthwise, bias, padding=depthwise.shape[-1] // 2, groups=depthwise.shape[0])
    if residual is not None:
        y = y + residual
    if activation == "gelu":
        return F.gelu(y)
    return F.relu(y) if activation == "relu" else y


# --- kernel -----------------------------------------------------------------------------------------------------------

if HAS_TRITON:

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
        BLOCK_W: tl.constexpr,
        BLOCK_IN: tl.constexpr,
        BLOCK_OUT: tl.constexpr,
        STAGES: tl.constexpr,
    ):
        # Blocks of output channels change fastest: programs that read the same x run together and share the L2 cache.
        BLOCKS: tl.constexpr = (C_OUT + BLOCK_OUT - 1) // BLOCK_OUT
        strips = (width + BLOCK_W - 1) // BLOCK_W
        chunks = (height + rows - 1) // rows
        pid = tl.program_id(0)
        o = (pid % BLOCKS) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        pid = pid // BLOCKS
        w = (pid % strips) * BLOCK_W + tl.arange(0, BLOCK_W)
        pid = pid // strips
        first = (pid % chunks) * rows
        last = tl.minimum(first + rows, height)
        n = (pid // chunks).to(tl.int64)
        i = tl.arange(0, BLOCK_IN)
        ok_o = o < C_OUT

        # Sums are (BLOCK_OUT, BLOCK_W). This way round a thread's elements of a product lie in two rows, and it holds
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

        above = tl.full((BLOCK_OUT, BLOCK_W), 0, tl.float32)
        here = tl.full((BLOCK_OUT, BLOCK_W), 0, tl.float32)
        for h in tl.range(first - 1, last + 1, num_stages=STAGES):
            row = (n * height + h) * width
            in_row = (h >= 0) & (h < height)
            left = tl.full((BLOCK_OUT, BLOCK_W), 0, tl.float32)
            middle = tl.full((BLOCK_OUT, BLOCK_W), 0, tl.float32)
            right = tl.full((BLOCK_OUT, BLOCK_W), 0, tl.float32)
            for c in tl.static_range(0, C_IN, BLOCK_IN):
                ok_i = c + i < C_IN
                if C_IN > BLOCK_IN:
                    pw = tl.load(
                        pw_ptr + o[:, None] * C_IN + (c + i)[None, :], mask=ok_o[:, None] & ok_i[None, :], other=0
                    )
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
                    y += tl.load(residual_ptr + at, mask=ok_y, other=0).to(tl.float32)
                if ACTIVATION == "gelu":
                    y = 0.5 * y * (1 + tl.math.erf(y * 0.7071067811865476))
                if ACTIVATION == "relu":
                    y = tl.where(y < 0, 0.0, y)  # keeps NaN, as PyTorch does
                tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=ok_y)


def rows_per_program(height: int, columns: int, processors: int) -> int:
    """Rows that one program walks down: enough programs to fill the device, but never fewer than 8 rows.

    A program reads two rows more than it writes, a quarter more at 8 rows, most of it from the cache.

    Args:
        height: H.
        columns: programs side by side: strips times blocks of output channels times N.
        processors: of the device.
    """
    chunks = max(1, 4 * processors // columns)
    return max(8, -(-height // chunks))


def fused_launch(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    y: Tensor,
    float32_precision: str = "tf32x3",
    processors: int = 132,
) -> Launch:
    """The launch that fills ``y`` with :func:`bsconv2d`. Meta tensors do for an audit.

    x, residual and y are channels last. On AMD ``float32_precision`` must be ``"ieee"``. ``processors``: how many the
    device has.
    """
    n, c_in, h, w = x.shape
    c_out = pointwise.shape[0]
    narrow = x.dtype == torch.float32 or w <= 16  # wider strips of float32 spill
    block_w, block_out = 16 if narrow else 32, min(64, _power_of_two(c_out))
    columns = n * -(-w // block_w) * -(-c_out // block_out)
    rows = rows_per_program(h, columns, processors)
    arguments = {
        "x_ptr": x,
        "pw_ptr": pointwise.flatten(1).contiguous(),
        "dw_ptr": depthwise.flatten(1).contiguous(),
        "bias_ptr": bias if bias is None else bias.contiguous(),
        "residual_ptr": residual,
        "y_ptr": y,
        "height": h,
        "width": w,
        "rows": rows,
        "C_IN": c_in,
        "C_OUT": c_out,
        "ACTIVATION": activation,
        "PRECISION": float32_precision if x.dtype == torch.float32 else "ieee",  # says nothing about 16-bit types
        "BLOCK_W": block_w,
        "BLOCK_IN": min(64, _power_of_two(c_in)),
        "BLOCK_OUT": block_out,
        # loads ahead of time; with many channels they would not fit into the shared memory of smaller GPUs
        "STAGES": 2 if c_in <= 128 else 1,
    }
    without_tensor_cores = x.dtype == torch.float32 and float32_precision == "ieee"
    grid = (columns * -(-h // rows),)
    return Launch(_bsconv2d_fwd_kernel, grid, arguments, num_warps=8 if without_tensor_cores else 4)


def _power_of_two(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())  # a matrix product wants 16


def _has_kernel(x: Tensor, depthwise: Tensor) -> bool:
    return (
        HAS_TRITON
        and x.is_cuda
        and depthwise.shape[-1] == 3
        and x.shape[1] <= 256  # more are a matter of arithmetic, not of memory traffic
        and x.dtype in (torch.float16, torch.bfloat16, torch.float32)
        and x.numel() > 0
    )


# --- operator ---------------------------------------------------------------------------------------------------------


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _pixels(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 2)  # (N, C, H, W) -> (NHW, C)


def _empty_result(x: Tensor, c_out: int) -> Tensor:
    n, _, h, w = x.shape
    return torch.empty((n, c_out, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.custom_op("nsrlib::bsconv2d", mutates_args=())
def _bsconv2d(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    float32_precision: str,
) -> Tensor:
    x = _channels_last(x)
    c_out, kernel = depthwise.shape[0], depthwise.shape[-1]
    if _has_kernel(x, depthwise):
        y = _empty_result(x, c_out)
        residual = residual if residual is None else _channels_last(residual)
        if torch.version.hip:
            float32_precision = "ieee"  # matrix cores of CDNA multiply float32 as it is
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 132
        launch = fused_launch(x, pointwise, depthwise, bias, activation, residual, y, float32_precision, processors)
        with torch.cuda.device_of(x):
            launch.run()
        return y
    z = F.conv2d(x, pointwise, dilation=one_by_one_dilation(x.device))
    y = F.conv2d(z, depthwise, bias, padding=kernel // 2, groups=c_out)
    if residual is not None:
        y += residual
    if activation == "gelu":
        torch.ops.aten.gelu_(y)  # F.gelu has no in-place form
    elif activation == "relu":
        y.relu_()
    return _channels_last(y)


@_bsconv2d.register_fake
def _(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    float32_precision: str,
) -> Tensor:
    return _empty_result(x, depthwise.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, pointwise, depthwise, bias, residual, ctx.activation, _ = inputs
    gelu = ctx.activation == "gelu"
    ctx.has_bias = bias is not None
    ctx.save_for_backward(
        x,
        pointwise,
        depthwise,
        bias if gelu else None,
        residual if gelu else None,
        output if ctx.activation == "relu" else None,
    )


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of x, pointwise, depthwise, bias, residual, by library convolutions; itself differentiable."""
    x, pointwise, depthwise, bias, residual, y = ctx.saved_tensors
    need_x, need_pointwise, need_depthwise, need_bias, need_residual = ctx.needs_input_grad[:5]
    need_dz = need_x or need_pointwise
    c_out, pad, dilation = depthwise.shape[0], depthwise.shape[-1] // 2, one_by_one_dilation(x.device)
    x, grad = _channels_last(x), _channels_last(grad)
    z = F.conv2d(x, pointwise, dilation=dilation)
    if ctx.activation == "gelu":
        before = F.conv2d(z, depthwise, bias, padding=pad, groups=c_out)
        if residual is not None:
            before = before + residual
        grad = torch.ops.aten.gelu_backward(grad, before)
    elif ctx.activation == "relu":
        grad = torch.ops.aten.threshold_backward(grad, y, 0)

    dx: Tensor | None = None
    d_pointwise: Tensor | None = None
    d_depthwise: Tensor | None = None
    d_bias: Tensor | None = None
    need_bias = need_bias and ctx.has_bias
    if need_dz or need_depthwise or need_bias:
        dz: Tensor
        dz, d_depthwise, d_bias = torch.ops.aten.convolution_backward(
            grad, z, depthwise, [c_out], [1, 1], [pad, pad], [1, 1], False, [0, 0], c_out,
            [need_dz, need_depthwise, need_bias],
        )  # fmt: skip
    if need_x:
        dx = F.conv2d(dz, pointwise.transpose(0, 1), dilation=dilation)
    if need_pointwise:
        # As a matrix product: oneDNN's weight gradient of a dilated convolution errs three times as much in float32.
        d_pointwise = (_pixels(dz).t() @ _pixels(x)).view_as(pointwise)
    return dx, d_pointwise, d_depthwise, d_bias, grad if need_residual else None, None, None


_bsconv2d.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.nsrlib.bsconv2d)
def _flops(x_shape: Any, pointwise_shape: Any, depthwise_shape: Any, *args: Any, **kwargs: Any) -> int:
    """A multiplication and an addition for each tap, as PyTorch counts convolutions; nothing for the rest.

    Counts what the definition needs, not that the kernel repeats the pointwise product for each shift.
    """
    n, c_in, h, w = x_shape
    c_out, _, kernel, _ = depthwise_shape
    return 2 * n * h * w * c_out * (c_in + kernel * kernel)


# --- public function --------------------------------------------------------------------------------------------------


def bsconv2d(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    activation: str | None = None,
    residual: Tensor | None = None,
    *,
    float32_precision: Float32Precision = "tf32x3",
) -> Tensor:
    """``act(DW(PW x) + bias + residual)``: one Triton kernel on a GPU when K = 3, library convolutions elsewhere.

    Differentiable, twice too. Under autocast every tensor is cast to its type, as for a convolution.

    Args:
        x: ``(N, C_in, H, W)``, float16, bfloat16, float32 (or float64, library only). Channels last is read as it is,
            any other layout is copied first.
        pointwise: ``(C_out, C_in, 1, 1)``.
        depthwise: ``(C_out, 1, K, K)``, K odd. Only K = 3 is fused.
        bias: ``(C_out,)`` or None.
        activation: None, ``"gelu"`` (exact, by erf) or ``"relu"``.
        residual: ``(N, C_out, H, W)``, added before the activation; or None.
        float32_precision: how the kernel multiplies float32 on NVIDIA tensor cores. ``"tf32x3"``: three TF32 products,
            which together err as little as float32; ``"ieee"``: float32 without tensor cores, slower; ``"tf32"``: one
            product with 10-bit mantissas, fastest. Plays no part for other types, the library, or AMD (always ieee).

    Returns:
        ``(N, C_out, H, W)``, channels last.

    Raises:
        ValueError: shapes that do not fit, even K, different devices, unknown activation or precision.
        TypeError: an integer type, or different types.
    """
    same = residual is x  # asked before the casts, which make two tensors of one
    x, pointwise, depthwise, bias, residual = in_autocast(x, pointwise, depthwise, bias, residual)
    _check(x, pointwise, depthwise, bias, activation, residual, float32_precision)
    # Here, not in the operator: so the copy of another layout is made once, and also serves the backward pass.
    x = _channels_last(x)
    if residual is not None:
        residual = x if same else _channels_last(residual)
    return _bsconv2d(x, pointwise, depthwise, bias, residual, activation, float32_precision)


def _check(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    float32_precision: str,
) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    if float32_precision not in FLOAT32_PRECISIONS:
        raise ValueError(f"float32_precision must be one of {', '.join(FLOAT32_PRECISIONS)}, got {float32_precision!r}")
    if x.ndim != 4:
        raise ValueError(f"x must be (N, C_in, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be float, got {x.dtype}")
    n, c_in, h, w = x.shape
    if pointwise.ndim != 4 or pointwise.shape[2:] != (1, 1):
        raise ValueError(f"pointwise must be (C_out, C_in, 1, 1), got {tuple(pointwise.shape)}")
    c_out = pointwise.shape[0]
    if pointwise.shape[1] != c_in:
        raise ValueError(f"pointwise {tuple(pointwise.shape)} takes {pointwise.shape[1]} channels, x has {c_in}")
    if depthwise.ndim != 4 or depthwise.shape[1] != 1 or depthwise.shape[2] != depthwise.shape[3]:
        raise ValueError(f"depthwise must be (C_out, 1, K, K), got {tuple(depthwise.shape)}")
    if depthwise.shape[0] != c_out:
        raise ValueError(f"depthwise {tuple(depthwise.shape)} has {depthwise.shape[0]} channels, pointwise {c_out}")
    if depthwise.shape[-1] % 2 == 0:
        raise ValueError(f"depthwise {tuple(depthwise.shape)} must have an odd kernel size, got {depthwise.shape[-1]}")
    if bias is not None and bias.shape != (c_out,):
        raise ValueError(f"bias must be ({c_out},) to fit pointwise, got {tuple(bias.shape)}")
    if residual is not None and residual.shape != (n, c_out, h, w):
        raise ValueError(f"residual must be {(n, c_out, h, w)} as the result, got {tuple(residual.shape)}")
    others = {"pointwise": pointwise, "depthwise": depthwise, "bias": bias, "residual": residual}
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"{name} is {tensor.dtype}, x is {x.dtype}: they must be the same")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x is on {x.device}: they must be the same")
