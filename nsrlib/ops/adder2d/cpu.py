"""The adder layer by PyTorch's own operators: ``torch.cdist`` (p = 1) over the unfolded rows of one image at a time.

Beyond inputs, outputs and one padded image the peak is four blocks of at most ``CPU_BLOCK`` elements, or of one output
row (``D W``) if that is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from nsrlib.ops.adder2d.reference import Gradient
from nsrlib.ops.common import HW, accumulator, empty, is_channels_last, output_size

CPU_BLOCK = 2**18  # elements of a block, 1 MiB of float32
CPU_TAPS = 64  # taps summed at a time
SUMMED = 128  # pixels summed at a time by a library, for the gradient of the weight


def empty_result(x: Tensor, weight: Tensor, stride: HW, padding: HW, dtype: torch.dtype | None = None) -> Tensor:
    """Room for the result in the type and layout of ``x``, or in another type."""
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding)
    return empty(x, (x.shape[0], weight.shape[0], *size), is_channels_last(x), dtype)


def forward(x: Tensor, weight: Tensor, stride: HW, padding: HW) -> Tensor:
    """``-sum |X - W|`` in the layout of ``x``."""
    y = empty_result(x, weight, stride, padding)
    flat = weight.flatten(1).to(accumulator(x.dtype))
    for n, out_rows, _, columns in _rows(x, weight, stride, padding, (y.shape[2], y.shape[3])):
        total = columns.new_zeros(len(flat), columns.shape[1])
        # cdist sums along the taps; in pieces its rounding error stays that of a pairwise sum
        for a in range(0, len(columns), CPU_TAPS):
            taps = slice(a, a + CPU_TAPS)
            total -= torch.cdist(flat[:, taps].contiguous(), columns[taps].t().contiguous(), p=1)
        y[n, :, out_rows] = total.view(len(flat), -1, y.shape[3])
    return y


def forward_int8(
    x: Tensor, weight: Tensor, stride: HW, padding: HW, scale: float | None, forward: Callable[..., Tensor] = forward
) -> Tensor:
    """The same of int8 tensors: int32, or float32 with a ``scale``."""
    # float32 holds integers up to 2**24: every partial sum is exact
    exact = torch.float32 if weight[0].numel() * 255 <= 2**24 else torch.float64
    y = forward(x.to(exact), weight.to(exact), stride, padding)
    return y.to(torch.int32) if scale is None else y.float() * scale


def input_grad(grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW, gradient: Gradient) -> Tensor:
    """The gradient of ``x``, in its layout."""
    acc = accumulator(x.dtype)
    _, c, h, w = x.shape
    dx = empty(x, x.shape, is_channels_last(x))
    flat = weight.flatten(1).to(acc)
    out = (grad.shape[2], grad.shape[3])
    image = x.new_zeros(c, h + 2 * padding[0], w + 2 * padding[1], dtype=acc)
    for n, out_rows, rows, columns in _rows(x, weight, stride, padding, out):
        if out_rows.start == 0:
            image.zero_()
        g = grad[n, :, out_rows].flatten(1).t().to(acc)[:, None]  # (pixels, 1, O)
        columns = columns.t().contiguous()
        d_columns = torch.empty_like(columns)
        for block, t in _pixel_blocks(columns, flat):
            t = t.sign_() if gradient == "sign" else t.clamp_(-1, 1)
            torch.bmm(g[block], t, out=d_columns[block, None])
        size = (rows.stop - rows.start, image.shape[2])
        image[:, rows] += F.fold(d_columns.t()[None], size, weight.shape[2:], stride=stride)[0]
        if out_rows.stop == out[0]:
            dx[n] = image[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w]
    return dx


def weight_sign_grad(grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW) -> Tensor:
    """``sum_n G sign(X - W)``."""
    acc = accumulator(x.dtype)
    flat = weight.flatten(1).to(acc)
    dw = torch.zeros_like(flat)
    for n, out_rows, _, columns in _rows(x, weight, stride, padding, (grad.shape[2], grad.shape[3])):
        g = grad[n, :, out_rows].flatten(1).t().to(acc)[:, :, None]  # (pixels, O, 1)
        for block, t in _pixel_blocks(columns.t().contiguous(), flat):
            dw -= t.sign_().mul_(g[block]).sum(0)
    return dw.view_as(weight).to(weight.dtype)


def weight_grad(grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW) -> Tensor:
    """``G X^T - diag(G 1) W``: the first term is large where ``X`` is, so both are kept in float32 without TF32.

    On a GPU without Triton, too: it is the weight gradient of a convolution. That adds up all pixels one by one; rows
    of about ``SUMMED`` pixels at a time, added in float64, err a tenth as much.
    """
    acc, (oh, ow) = accumulator(x.dtype), grad.shape[2:]
    x, g, w = F.pad(x.to(acc), (padding[1], padding[1], padding[0], padding[0])), grad.to(acc), weight.to(acc)
    product, count = torch.zeros_like(weight, dtype=torch.float64), max(1, SUMMED // max(ow, 1))
    cudnn = torch.backends.cudnn  # flags() resets what it is not told, and switches cuDNN off
    kept = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    with cudnn.flags(**kept, allow_tf32=False):
        for n in range(x.shape[0]):
            for a in range(0, oh, count):
                b = min(a + count, oh)
                rows = x[n : n + 1, :, a * stride[0] : (b - 1) * stride[0] + weight.shape[2]]
                product += torch.ops.aten.convolution_backward(
                    g[n : n + 1, :, a:b], rows, w, None, stride, (0, 0), (1, 1), False, (0, 0), 1, (False, True, False)
                )[1]
    total = grad.sum((0, 2, 3), dtype=torch.float64)[:, None, None, None]
    return (product - total * weight.double()).to(weight.dtype).contiguous()


def _rows(x: Tensor, weight: Tensor, stride: HW, padding: HW, out: HW) -> Iterator[tuple[int, slice, slice, Tensor]]:
    """Image, output rows, padded input rows and the unfolded taps ``(D, pixels)`` of a few output rows at a time."""
    (kh, kw), acc = weight.shape[2:], accumulator(x.dtype)
    taps = weight[0].numel()
    count = max(1, CPU_BLOCK // (taps * out[1]))
    for n in range(x.shape[0]):
        image = F.pad(x[n].to(acc), (padding[1], padding[1], padding[0], padding[0]))
        for a in range(0, out[0], count):
            b = min(a + count, out[0])
            rows = slice(a * stride[0], (b - 1) * stride[0] + kh)
            yield n, slice(a, b), rows, F.unfold(image[None, :, rows], (kh, kw), stride=stride)[0]


def _pixel_blocks(columns: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Differences ``W - X``, ``(pixels, O, D)``, for as many of the pixels at a time as a core's cache holds.

    ``columns`` is ``(pixels, D)``.
    """
    o, d = weight.shape
    count = max(1, CPU_BLOCK // 2 // (o * d))
    buffer = columns.new_empty(min(count, len(columns)), o, d)
    for a in range(0, len(columns), count):
        block = columns[a : a + count]
        yield slice(a, a + len(block)), torch.sub(weight, block[:, None], out=buffer[: len(block)])
