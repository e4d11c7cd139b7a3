"""The blueprint separable convolution by library convolutions: on a CPU, for what has no kernel, and its gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsrlib.ops.common import channels_last, one_by_one_dilation


class _Pointwise(torch.autograd.Function):
    """A 1x1 convolution, channels last; its weight's gradient is a matrix product.

    oneDNN's weight gradient of a dilated convolution errs up to three times as much in float32.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, dilation=one_by_one_dilation(x.device))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return _pointwise_backward(channels_last(dz), *ctx.saved_tensors, *ctx.needs_input_grad)


def _pointwise_backward(
    dz: Tensor, x: Tensor, weight: Tensor, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    dx = F.conv2d(dz, weight.transpose(0, 1), dilation=one_by_one_dilation(x.device)) if need_x else None
    return dx, (_pixels(dz).t() @ _pixels(x)).view_as(weight) if need_weight else None


def _pixels(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 2)  # (N, C, H, W) -> (NHW, C)


def differentiable(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
) -> Tensor:
    """The result, channels last, by operators that autograd knows: z and what goes into a GELU are kept.

    On a CPU, where computing them again takes longer than reading them.
    """
    z = _Pointwise.apply(channels_last(x), pointwise)
    y = F.conv2d(z, depthwise, bias, padding=depthwise.shape[-1] // 2, groups=depthwise.shape[0])
    if residual is not None:
        y = y + residual
    if activation == "gelu":
        y = F.gelu(y)
    elif activation == "relu":
        y = F.relu(y)
    y = channels_last(y)
    if y.requires_grad:
        # a gradient in planes would take all that follows several times as long; an undefined one is None
        y.register_hook(lambda grad: grad if grad is None else channels_last(grad))
    return y


def forward(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
) -> Tensor:
    """The result, channels last, in as little memory as possible and unknown to autograd."""
    c_out, kernel = depthwise.shape[0], depthwise.shape[-1]
    z = F.conv2d(channels_last(x), pointwise, dilation=one_by_one_dilation(x.device))
    y = F.conv2d(z, depthwise, bias, padding=kernel // 2, groups=c_out)
    if residual is not None:
        y += residual
    if activation == "gelu":
        torch.ops.aten.gelu_(y)  # F.gelu has no in-place form
    elif activation == "relu":
        y.relu_()
    return channels_last(y)


def backward(
    grad: Tensor,
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor | None,
    activation: str | None,
    need: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of x, pointwise, depthwise, bias and residual, where ``need`` says so; itself differentiable.

    A GELU needs bias and residual (if there are any), a ReLU the result ``y``.
    """
    need_x, need_pointwise, need_depthwise, need_bias, need_residual = need
    need_dz = need_x or need_pointwise
    c_out, pad = depthwise.shape[0], depthwise.shape[-1] // 2
    x, grad = channels_last(x), channels_last(grad)
    z = F.conv2d(x, pointwise, dilation=one_by_one_dilation(x.device))
    if activation == "gelu":
        before = F.conv2d(z, depthwise, bias, padding=pad, groups=c_out)
        if residual is not None:
            before = before + residual
        grad = torch.ops.aten.gelu_backward(grad, before)
    elif activation == "relu":
        grad = torch.ops.aten.threshold_backward(grad, y, 0)

    dx = d_pointwise = d_depthwise = d_bias = None
    if need_dz or need_depthwise or need_bias:
        dz, d_depthwise, d_bias = torch.ops.aten.convolution_backward(
            grad, z, depthwise, [c_out], [1, 1], [pad, pad], [1, 1], False, [0, 0], c_out,
            [need_dz, need_depthwise, need_bias],
        )  # fmt: skip
    if need_dz:
        dx, d_pointwise = _pointwise_backward(dz, x, pointwise, need_x, need_pointwise)
    return dx, d_pointwise, d_depthwise, d_bias, grad if need_residual else None
