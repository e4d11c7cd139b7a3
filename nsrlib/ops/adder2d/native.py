"""The adder layer in native code, compiled by numba: an extra, `cpu` works without it.

An image is kept as *planes*: the padded pixels of one channel and one phase of the stride in a row, so that each tap of
every output pixel is read at one distance, whatever the stride. In the inner loops four rows meet four others over the
pixels that a core's first cache holds. At most ``TERMS`` terms are added in the type of the planes, and those sums in
float64. No flag assumes that there is no NaN and no infinity.

The kernels are serial and release the interpreter; threads of ours share the work, because numba's OpenMP ends a
process that is forked after PyTorch's has run.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numba
import numpy as np
import torch
from numba.core import event
from torch import Tensor

from nsrlib.ops.adder2d import cpu
from nsrlib.ops.adder2d.reference import Gradient
from nsrlib.ops.common import HW, accumulator, cdiv, empty, is_channels_last

PIXELS = 512  # of a block: four sums, the rows that they read and their totals fit in 32 KiB
VECTOR = 64  # loops over pixels have a multiple of it to do, so that none leaves a remainder
TERMS = 64

_jit: Any = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "afn", "reassoc"}
)


class _Notice(event.Listener):
    """Says once that kernels are compiled, which takes so long only until they are in numba's cache."""

    said = False

    def on_start(self, started: Any) -> None:
        if not self.said and started.data["dispatcher"].py_func.__module__ == __name__:
            self.said = True
            logging.getLogger(__name__).warning("compiling the adder layer for this CPU (once, about 20 s)")

    def on_end(self, ended: Any) -> None:
        pass


event.register("numba:compile", _Notice())


# --- kernels ----------------------------------------------------------------------------------------------------------


@_jit
def _four(row):
    return row[0], row[1], row[2], row[3]


@_jit
def _block(pixels):
    """Pixels of one of the fewest blocks, which are of about one size."""
    blocks = max(1, -(-pixels // PIXELS))
    return VECTOR * max(1, -(-pixels // (blocks * VECTOR)))


@_jit
def _carry(part, total):
    """Move the sums to the totals; no terms are left."""
    total += part
    part[:] = 0
    return 0


@_jit
def _distance(x, w):
    return abs(x[0] - w[0]) + abs(x[1] - w[1]) + abs(x[2] - w[2]) + abs(x[3] - w[3])


@_jit
def _distances(planes, taps, weight, out, first, last):
    """``out[o, p] = -sum_ct |planes[c, taps[t] + p] - weight[t, o, c]|`` for the pixels ``first <= p < last``."""
    part, total = np.empty((4, PIXELS), planes.dtype), np.empty((4, PIXELS))
    y0, y1, y2, y3 = part[0], part[1], part[2], part[3]
    size = _block(last - first)
    for start in range(first, last, size):
        n = min(size, last - start)
        for o in range(0, len(out), 4):
            part[:] = 0
            total[:] = 0
            terms = 0
            for c in range(0, len(planes), 4):
                for t in range(len(taps)):
                    p = slice(taps[t] + start, taps[t] + start + n)
                    x0, x1, x2, x3 = planes[c, p], planes[c + 1, p], planes[c + 2, p], planes[c + 3, p]
                    w0, w1 = _four(weight[t, o, c : c + 4]), _four(weight[t, o + 1, c : c + 4])
                    w2, w3 = _four(weight[t, o + 2, c : c + 4]), _four(weight[t, o + 3, c : c + 4])
                    for i in range(n):
                        x = x0[i], x1[i], x2[i], x3[i]
                        y0[i] -= _distance(x, w0)
                        y1[i] -= _distance(x, w1)
                        y2[i] -= _distance(x, w2)
                        y3[i] -= _distance(x, w3)
                    terms += 4
                    if terms == TERMS:
                        terms = _carry(part, total)
            out[o : o + 4, start : start + n] = (total + part)[:, :n]


@_jit
def _signed(g, v, zero):
    """``g`` with the sign of ``v``, 0 where that has none."""
    return (g if v > zero else zero) - (g if v < zero else zero)


@_jit
def _slope(v, one, sign):
    """``clamp(v, -1, 1)``, or the sign of ``v``."""
    if sign:
        return _signed(one, v, one - one)
    v = one if v > one else v
    return -one if v < -one else v


@_jit
def _weighted(g, w, x, one, sign):
    return (
        g[0] * _slope(w[0] - x, one, sign)
        + g[1] * _slope(w[1] - x, one, sign)
        + g[2] * _slope(w[2] - x, one, sign)
        + g[3] * _slope(w[3] - x, one, sign)
    )


@_jit
def _input_grads(planes, phase, taps, weight, grad, out, sign, first, last):
    """``out[c, p] = sum_ot grad[o, taps[t] + p] slope(weight[t, c, o] - planes[c, phase + p])``."""
    part, total = np.empty((4, PIXELS), planes.dtype), np.empty((4, PIXELS))
    y0, y1, y2, y3 = part[0], part[1], part[2], part[3]
    one = planes.dtype.type(1)
    size = _block(last - first)
    for start in range(first, last, size):
        n = min(size, last - start)
        for c in range(0, len(out), 4):
            p = slice(phase + start, phase + start + n)
            x0, x1, x2, x3 = planes[c, p], planes[c + 1, p], planes[c + 2, p], planes[c + 3, p]
            part[:] = 0
            total[:] = 0
            terms = 0
            for o in range(0, len(grad), 4):
                for t in range(len(taps)):
                    p = slice(taps[t] + start, taps[t] + start + n)
                    g0, g1, g2, g3 = grad[o, p], grad[o + 1, p], grad[o + 2, p], grad[o + 3, p]
                    w0, w1 = _four(weight[t, c, o : o + 4]), _four(weight[t, c + 1, o : o + 4])
                    w2, w3 = _four(weight[t, c + 2, o : o + 4]), _four(weight[t, c + 3, o : o + 4])
                    for i in range(n):
                        g = g0[i], g1[i], g2[i], g3[i]
                        y0[i] += _weighted(g, w0, x0[i], one, sign)
                        y1[i] += _weighted(g, w1, x1[i], one, sign)
                        y2[i] += _weighted(g, w2, x2[i], one, sign)
                        y3[i] += _weighted(g, w3, x3[i], one, sign)
                    terms += 4
                    if terms == TERMS:
                        terms = _carry(part, total)
            out[c : c + 4, start : start + n] = (total + part)[:, :n]


@_jit
def _weight_signs(planes, taps, weight, grad, lead, pixels, out, first, last):
    """``out[t, o, c] -= sum_p grad[o, lead + p] sign(weight[t, o, c] - planes[c, taps[t] + p])`` from c = ``first``."""
    zero = planes.dtype.type(0)
    for start in range(0, pixels, VECTOR):
        for c in range(first, last, 4):
            for t in range(len(taps)):
                p = slice(taps[t] + start, taps[t] + start + VECTOR)
                x0, x1, x2, x3 = planes[c, p], planes[c + 1, p], planes[c + 2, p], planes[c + 3, p]
                for o in range(len(grad)):
                    g = grad[o, lead + start : lead + start + VECTOR]
                    w = _four(weight[t, o, c : c + 4])
                    s0, s1, s2, s3 = zero, zero, zero, zero
                    for i in range(VECTOR):
                        s0 += _signed(g[i], w[0] - x0[i], zero)
                        s1 += _signed(g[i], w[1] - x1[i], zero)
                        s2 += _signed(g[i], w[2] - x2[i], zero)
                        s3 += _signed(g[i], w[3] - x3[i], zero)
                    out[t, o, c] -= s0
                    out[t, o, c + 1] -= s1
                    out[t, o, c + 2] -= s2
                    out[t, o, c + 3] -= s3


# --- planes -----------------------------------------------------------------------------------------------------------


class _Window:
    """Where the taps of a filter find their pixels in the planes of an image.

    In numpy: PyTorch's threads would go on waiting, on the cores that ours need, after each of its copies.
    """

    def __init__(self, x: Tensor, weight: Tensor, stride: HW, padding: HW) -> None:
        self.stride, self.padding, self.kernel = stride, padding, weight.shape[2:]
        self.height, self.width = (cdiv(x.shape[2 + a] + 2 * padding[a], stride[a]) for a in (0, 1))
        self.plane = self.height * self.width
        self.dtype = accumulator(x.dtype)
        self.back = tuple((self.kernel[a] - 1) // stride[a] for a in (0, 1))  # rows and columns, at most

    def array(self, x: Tensor) -> np.ndarray:
        return x.detach().to(self.dtype).numpy()

    def rows(self, channels: int, pixels: int) -> np.ndarray:
        """Zeros for a multiple of four channels, with room for a whole vector behind the last pixel."""
        dtype = np.float64 if self.dtype == torch.float64 else np.float32
        return np.zeros((4 * cdiv(channels, 4), pixels + VECTOR), dtype)

    def planes(self, image: np.ndarray) -> np.ndarray:
        """An image ``(C, H, W)`` as ``(C, phases * plane)``, both rounded up."""
        (sh, sw), (top, left), (c, h, w) = self.stride, self.padding, image.shape
        padded = np.zeros((c, self.height * sh, self.width * sw), image.dtype)
        padded[:, top : top + h, left : left + w] = image
        out = self.rows(c, sh * sw * self.plane)
        phases = out[:c, :-VECTOR].reshape(c, sh, sw, self.height, self.width)  # a view
        phases[:] = padded.reshape(c, self.height, sh, self.width, sw).transpose(0, 2, 4, 1, 3)
        return out

    def image(self, planes: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
        """The reverse: planes ``(phases, C, plane)`` as an image ``(C, H, W)``."""
        (sh, sw), (top, left), (c, h, w) = self.stride, self.padding, size
        phases = planes[:, :c, : self.plane].reshape(sh, sw, c, self.height, self.width)
        padded = phases.transpose(2, 3, 0, 4, 1).reshape(c, self.height * sh, self.width * sw)
        return padded[:, top : top + h, left : left + w]

    def results(self, rows: np.ndarray, size: tuple[int, int, int], lead: int = 0) -> np.ndarray:
        """The pixels of a result ``(O, OH, OW)`` in rows that are as wide as those of the planes: a view."""
        o, h, w = size
        return rows[:o, lead : lead + h * self.width].reshape(o, h, self.width)[:, :, :w]

    def gradient(self, grad: np.ndarray) -> tuple[int, np.ndarray]:
        """``(O, OH, OW)`` in such rows, and the place of its first pixel: zeros lie where the taps reach back."""
        lead = self.back[0] * self.width + self.back[1]
        rows = self.rows(len(grad), lead + self.plane)
        self.results(rows, grad.shape, lead)[:] = grad
        return lead, rows

    def taps(self) -> np.ndarray:
        """Distance of every tap, row by row, from the output pixel in the planes."""
        (kh, kw), (sh, sw) = self.kernel, self.stride
        return np.array(
            [(i % sh * sw + j % sw) * self.plane + i // sh * self.width + j // sw for i in range(kh) for j in range(kw)]
        )

    def filters(self, weight: Tensor) -> np.ndarray:
        """Filters ``(A, B, kh, kw)`` as ``(taps, A, B)``, the channels filled up with zeros to multiples of four."""
        a, b, *kernel = weight.shape
        out = np.zeros((math.prod(kernel), 4 * cdiv(a, 4), 4 * cdiv(b, 4)), self.rows(0, 0).dtype)
        out[:, :a, :b] = self.array(weight).reshape(a, b, -1).transpose(2, 0, 1)
        return out

    def pixels(self, size: tuple[int, ...]) -> int:
        """From the first to the last pixel of a result ``(..., OH, OW)``, in whole vectors."""
        return VECTOR * cdiv((size[-2] - 1) * self.width + size[-1], VECTOR)


def _share(kernel: Callable[[int, int], Any], count: int, multiple: int) -> None:
    """``kernel(first, last)`` over ``count``, in as many threads as PyTorch uses."""
    size = multiple * cdiv(cdiv(count, torch.get_num_threads()), multiple)
    firsts = range(0, count, size)
    if len(firsts) == 1:
        kernel(0, count)
        return
    with ThreadPoolExecutor(len(firsts)) as pool:
        list(pool.map(lambda first: kernel(first, min(first + size, count)), firsts))


# --- the operator -----------------------------------------------------------------------------------------------------


def forward(x: Tensor, weight: Tensor, stride: HW, padding: HW) -> Tensor:
    """``-sum |X - W|`` in the layout of ``x``."""
    window = _Window(x, weight, stride, padding)
    y = cpu.empty_result(x, weight, stride, padding, window.dtype)
    taps, filters = window.taps(), window.filters(weight)
    out = window.rows(y.shape[1], window.plane)
    for image, result in zip(window.array(x), y.numpy(), strict=True):
        _share(partial(_distances, window.planes(image), taps, filters, out), window.pixels(y.shape), VECTOR)
        result[:] = window.results(out, result.shape)
    return y.to(x.dtype)


def forward_int8(x: Tensor, weight: Tensor, stride: HW, padding: HW, scale: float | None) -> Tensor:
    """The same of int8 tensors: int32, or float32 with a ``scale``."""
    return cpu.forward_int8(x, weight, stride, padding, scale, forward)


def input_grad(grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW, gradient: Gradient) -> Tensor:
    """The gradient of ``x``, in its layout."""
    window = _Window(x, weight, stride, padding)
    dx = empty(x, x.shape, is_channels_last(x), window.dtype)
    (sh, sw), plane = stride, window.plane
    out = np.stack([window.rows(x.shape[1], plane)] * (sh * sw))
    # the pixels of a phase meet every stride-th tap
    phases = []
    for k, (i, j) in enumerate(itertools.product(range(sh), range(sw))):
        part = weight[:, :, i::sh, j::sw].transpose(0, 1)
        if part.numel():
            back = np.arange(part.shape[2])[:, None] * window.width + np.arange(part.shape[3])
            phases.append((k, back.ravel(), window.filters(part)))
    for image, g, result in zip(window.array(x), window.array(grad), dx.numpy(), strict=True):
        planes, (lead, rows) = window.planes(image), window.gradient(g)
        for k, back, filters in phases:
            kernel = partial(_input_grads, planes, k * plane, lead - back, filters, rows, out[k], gradient == "sign")
            _share(kernel, VECTOR * cdiv(plane, VECTOR), VECTOR)
        result[:] = window.image(out, result.shape)
    return dx.to(x.dtype)


def weight_sign_grad(grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW) -> Tensor:
    """``sum_n G sign(X - W)``."""
    window = _Window(x, weight, stride, padding)
    taps, filters, pixels = window.taps(), window.filters(weight), window.pixels(grad.shape)
    out = np.zeros(filters.shape)
    for image, g in zip(window.array(x), window.array(grad), strict=True):
        lead, rows = window.gradient(g)
        kernel = partial(_weight_signs, window.planes(image), taps, filters, rows, lead, pixels, out)
        _share(kernel, filters.shape[2], 4)
    o, c = weight.shape[:2]
    found = torch.from_numpy(out)[:, :o, :c].permute(1, 2, 0).contiguous()
    return found.view(weight.shape).to(weight.dtype)
