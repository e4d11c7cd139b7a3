"""The definition of the convolution with mixed kernels: for tests, and to be read."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from nsrlib.ops.common import Pair, pair
from nsrlib.ops.mixed_conv2d.gates import Mode, one_hot


def mixed_conv2d_ref(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    *,
    tile: Pair | None = None,
    mode: Mode = "soft",
) -> Tensor:
    """What :func:`nsrlib.ops.mixed_conv2d` computes, by definition: the outputs of all k kernels, mixed.

    Its gradients are the definition too; if hard, that of the gate is the straight-through one.
    """
    if mode == "hard":
        gate = one_hot(gate) + gate - gate.detach()
    z = F.conv2d(x, weight, bias, stride, padding)  # (N, k C_out, OH, OW)
    if tile is None:
        pixels = gate[..., None, None]  # (N, k, d, 1, 1)
    else:
        th, tw = pair(tile)
        pixels = gate.repeat_interleave(th, 3).repeat_interleave(tw, 4)[..., : z.shape[2], : z.shape[3]]
    k, d = gate.shape[1:3]
    z = z.unflatten(1, (k, d, -1))  # (N, k, d, r, OH, OW)
    return (z * pixels[:, :, :, None]).sum(1).flatten(1, 2)
