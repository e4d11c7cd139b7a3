"""The definition of the blueprint separable convolution: for tests, and to be read."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bsconv2d_ref(
    x: Tensor,
    pointwise: Tensor,
    depthwise: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """What :func:`nsrlib.ops.bsconv2d` computes, by definition."""
    z = F.conv2d(x, pointwise)
    y = F.conv2d(z, depthwise, bias, padding=depthwise.shape[-1] // 2, groups=depthwise.shape[0])
    if residual is not None:
        y = y + residual
    if activation == "gelu":
        return F.gelu(y)
    return F.relu(y) if activation == "relu" else y
