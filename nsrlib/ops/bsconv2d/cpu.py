"""The blueprint separable convolution by library convolutions: on a CPU, for what has no kernel, and backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nsrlib.ops.common import channels_last, one_by_one_dilation


def forward(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
) -> Tensor:
    """The result, channels last."""
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
    c_out, pad, dilation = depthwise.shape[0], depthwise.shape[-1] // 2, one_by_one_dilation(x.device)
    x, grad = channels_last(x), channels_last(grad)
    z = F.conv2d(x, pointwise, dilation=dilation)
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
    if need_x:
        dx = F.conv2d(dz, pointwise.transpose(0, 1), dilation=dilation)
    if need_pointwise:
        # As a matrix product: oneDNN's weight gradient of a dilated convolution errs three times as much in float32.
        d_pointwise = (_pixels(dz).t() @ _pixels(x)).view_as(pointwise)
    return dx, d_pointwise, d_depthwise, d_bias, grad if need_residual else None


def _pixels(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 2)  # (N, C, H, W) -> (NHW, C)
