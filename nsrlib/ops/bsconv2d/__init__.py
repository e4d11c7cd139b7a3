"""Blueprint separable convolution in one pass: pointwise, depthwise, bias, residual, activation.

``y = act(DW(PW x) + bias + residual)`` with a pointwise (1x1) convolution PW without bias and a depthwise KxK
convolution DW, K odd, stride 1, zero padding that keeps the size (BSConv-U, Haase & Amthor, CVPR 2020; every 3x3 layer
of BSRN, Li et al. 2022).

On a GPU with K = 3 one Triton kernel reads x and writes y, without ``z = PW x`` in memory. A program walks down the
rows of a strip of columns. Zero padding outside PW or inside it is the same, so each row of x is multiplied by PW at
its three horizontal shifts, and three rolling sums take what that row gives to the output rows above, at and below it.
Sums are float32. Any other K, more than 256 input channels, float64 and every CPU tensor take library convolutions.

Backward on a GPU keeps operands and result only. In 16 bits with at most 64 channels two kernels do it: the walk once
more, for the gradient of what goes into a GELU, and a second one that computes z again and all other gradients; a
weight's is a sum of one part a program, in the same order on every run. Everything else recomputes by library
convolutions. On a CPU z and what goes into a GELU are kept: computing them again takes longer than reading them.

Shapes: x ``(N, C_in, H, W)``, any strides; the result ``(N, C_out, H, W)`` is always channels last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nsrlib.ops.bsconv2d import cpu
from nsrlib.ops.bsconv2d.reference import bsconv2d_ref
from nsrlib.ops.common import (
    FLOAT32_PRECISIONS,
    Float32Precision,
    channels_last,
    check_alike,
    check_choice,
    check_filters,
    check_input,
    empty,
    has_kernel,
    in_autocast,
    on_kernel_device,
    vmap_rule,
)  # fmt: skip

__all__ = ["ACTIVATIONS", "bsconv2d", "bsconv2d_ref"]

ACTIVATIONS: tuple[str | None, ...] = (None, "gelu", "relu")


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
    # more channels are a matter of arithmetic, not of memory traffic
    if _fused(x, depthwise) and x.shape[1] <= 256:
        from nsrlib.ops.bsconv2d import kernels  # here, because it brings Triton along

        return kernels.forward(x, pointwise, depthwise, bias, residual, activation, float32_precision)
    return cpu.forward(x, pointwise, depthwise, bias, residual, activation)


@torch.library.custom_op("nsrlib::bsconv2d_backward", mutates_args=())
def _bsconv2d_backward(
    grad: Tensor,
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    float32_precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    from nsrlib.ops.bsconv2d import kernels

    return kernels.backward(grad, x, pointwise, depthwise, bias, residual, activation, float32_precision)


def _fused(x: Tensor, depthwise: Tensor) -> bool:
    return has_kernel(x) and depthwise.shape[-1] == 3 and x.numel() > 0


def _fused_backward(x: Tensor, depthwise: Tensor) -> bool:
    # what a program holds of more channels, or of float32's split products, does not fit into registers
    narrow = x.dtype != torch.float32 and max(x.shape[1], len(depthwise)) <= 64
    return narrow and _fused(x, depthwise)


@_bsconv2d.register_fake
def _(x: Tensor, pointwise: Tensor, depthwise: Tensor, *more: Any) -> Tensor:
    n, _, h, w = x.shape
    return empty(x, (n, depthwise.shape[0], h, w), last=True)


@_bsconv2d_backward.register_fake
def _(
    grad: Tensor, x: Tensor, pointwise: Tensor, depthwise: Tensor, bias: Any, residual: Any, activation: Any, _: str
) -> tuple[Tensor, Tensor, Tensor]:
    weights = x.new_empty(pointwise.numel() + depthwise.numel() + len(depthwise))
    inner = empty(grad, grad.shape if activation == "gelu" else (0, 1, 1, 1), last=True)
    return empty(x, x.shape, last=True), weights, inner


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, pointwise, depthwise, bias, residual, ctx.activation, ctx.precision = inputs
    ctx.has_bias = bias is not None
    if ctx.activation != "gelu":  # the others do not need what went into them
        bias = residual = None
    ctx.save_for_backward(x, pointwise, depthwise, bias, residual, output if ctx.activation == "relu" else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_x, need_pointwise, need_depthwise, need_bias, need_residual = ctx.needs_input_grad[:5]
    need = (need_x, need_pointwise, need_depthwise, need_bias and ctx.has_bias, need_residual)
    x, pointwise, depthwise, bias, residual, y = ctx.saved_tensors
    # gradients of gradients need a backward pass that autograd knows
    if _fused_backward(x, depthwise) and not torch.is_grad_enabled():
        if ctx.activation == "relu":
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        operands = (grad, x, pointwise, depthwise, bias, residual)
        dx, weights, inner = _bsconv2d_backward(*operands, ctx.activation, ctx.precision)
        d_pointwise, d_depthwise, d_bias = weights.split([pointwise.numel(), depthwise.numel(), len(depthwise)])
        d_residual = inner if ctx.activation == "gelu" else grad
        grads = (dx, d_pointwise.view_as(pointwise), d_depthwise.view_as(depthwise), d_bias, d_residual)
        return *(g if wanted else None for g, wanted in zip(grads, need, strict=True)), None, None
    return *cpu.backward(grad, x, pointwise, depthwise, bias, residual, y, ctx.activation, need), None, None


_bsconv2d.register_autograd(_backward, setup_context=_setup_context)
for _operator in (_bsconv2d, _bsconv2d_backward):
    _operator.register_vmap(vmap_rule(_operator))


@register_flop_formula(torch.ops.nsrlib.bsconv2d)
def _flops(x_shape: Any, pointwise_shape: Any, depthwise_shape: Any, *args: Any, **kwargs: Any) -> int:
    """Multiply-adds of the definition, each counted as two, as in PyTorch's convolutions."""
    n, c_in, h, w = x_shape
    c_out, _, kernel, _ = depthwise_shape
    return 2 * n * h * w * c_out * (c_in + kernel * kernel)


@register_flop_formula(torch.ops.nsrlib.bsconv2d_backward)
def _backward_flops(grad: Any, x: Any, pointwise: Any, depthwise: Any, *more: Any, **__: Any) -> int:
    """z once more, and once more with what goes into a GELU; two products and two depthwise convolutions."""
    n, c_in, h, w = x
    return 2 * n * h * w * depthwise[0] * (3 * c_in + 2 * 9 + (c_in + 9 if "gelu" in more else 0))


def bsconv2d(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None = None,
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
        float32_precision: of the kernel on NVIDIA. ``"tf32x3"``: three TF32 products, as accurate as float32;
            ``"ieee"``: float32 without tensor cores, slower; ``"tf32"``: 10-bit mantissas, fastest.

    Returns:
        ``(N, C_out, H, W)``, channels last.

    Raises:
        ValueError: shapes that do not fit, even K, different devices, unknown activation or precision.
        TypeError: no float type, or different types.

    Example:
        >>> x, pointwise, depthwise = torch.ones(1, 2, 3, 3), torch.ones(4, 2, 1, 1), torch.ones(4, 1, 3, 3)
        >>> bsconv2d(x, pointwise, depthwise, activation="relu")[0, 0]  # two channels times the taps inside
        tensor([[ 8., 12.,  8.],
                [12., 18., 12.],
                [ 8., 12.,  8.]])
    """
    same = residual is x  # asked before the casts, which make two tensors of one
    x, pointwise, depthwise, bias, residual = in_autocast(x, pointwise, depthwise, bias, residual)
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("float32_precision", float32_precision, FLOAT32_PRECISIONS)
    _check_shapes(x, pointwise, depthwise, bias, residual)
    check_alike(x, pointwise=pointwise, depthwise=depthwise, bias=bias, residual=residual)
    # Here, not in the operator: so the copy of another layout is made once, and also serves the backward pass.
    x = channels_last(x)
    if residual is not None:
        residual = x if same else channels_last(residual)
    operands = (x, pointwise, depthwise, bias, residual)
    if not on_kernel_device(x) and torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands):
        return cpu.differentiable(*operands, activation)
    return _bsconv2d(*operands, activation, float32_precision)


def _check_shapes(
    x: Tensor, pointwise: Tensor, depthwise: Tensor, bias: Tensor | None, residual: Tensor | None
) -> None:
    check_input(x)
    n, _, h, w = x.shape
    if pointwise.ndim != 4 or pointwise.shape[2:] != (1, 1):
        raise ValueError(f"pointwise must be (C_out, C_in, 1, 1), got {tuple(pointwise.shape)}")
    check_filters("pointwise", pointwise, x, "(C_out, C_in, 1, 1)")
    c_out = pointwise.shape[0]
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
