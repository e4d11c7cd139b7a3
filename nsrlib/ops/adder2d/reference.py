"""The definition of the adder layer and of its gradients, by broadcasting: for tests, and to be read."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nsrlib.ops.common import HW, Pair, output_size, pair

Gradient = Literal["adder", "sign"]


def adder2d_ref(x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """The definition: broadcast over the unfolded input, ``N O D L`` elements. PyTorch's own gradient is ``sign``."""
    stride, padding = pair(stride), pair(padding)
    t = _differences(x, weight, stride, padding)  # (N, O, D, L)
    return -t.abs().sum(2).unflatten(2, output_size(x.shape[2:], weight.shape[2:], stride, padding))


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


def _differences(x: Tensor, weight: Tensor, stride: HW, padding: HW) -> Tensor:
    """``W - X`` for every tap of every window, ``(N, O, D, L)``."""
    columns = F.unfold(x, weight.shape[2:], padding=padding, stride=stride)  # (N, D, L)
    return weight.flatten(1)[None, :, :, None] - columns[:, None]
