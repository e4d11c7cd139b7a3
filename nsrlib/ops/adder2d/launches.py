"""Launches of the adder layer's Triton kernels, and what runs them. Tensors may have any strides.

At most two launches a forward pass and three a backward pass: small calls wait for the host.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from nsrlib.ops.adder2d import kernels
from nsrlib.ops.adder2d.cpu import empty_result
from nsrlib.ops.adder2d.reference import Gradient
from nsrlib.ops.common import HW, Launch, accumulator, cdiv, empty, is_channels_last, processors

# Without dot products Triton spreads a tile over its threads along the last axis first. A thread thus holds 16 x 4
# outputs, or 8 x 4 input gradients (each has three registers there): tall enough for the additions to set the pace and
# not the loads, small enough not to spill.
NUM_WARPS = 2
BLOCK_P = 256
BLOCK_O, BLOCK_C = 16, 8
BLOCK_D = {"adder": 128, "sign": 64}  # taps of the weight's gradient, by one warp; the sign keeps W in registers
UNROLL = 25  # taps; larger kernels loop over their rows, to stay within the instruction cache
# share of useful instructions in the loop of half a tile, of that in the loop of a whole one
HALF_TILE, HALF_TILE_INT8 = 0.94, 0.84
PACK_FROM = 2**29  # taps; from here on a launch is cheaper than filters read one by one
PARTS = 64  # partial sums of a weight's gradient, at most
COPY_C, COPY_P = 32, 64  # tile of the pack kernels
STRIDES = {
    name: tuple(f"{name}_{axis}" for axis in axes)
    for name, axes in {"x": "nchw", "d": "nchw", "g": "nohw", "w": "ochw", "f": "ochw"}.items()
}


def forward_launches(x: Tensor, weight: Tensor, y: Tensor, stride: HW = (1, 1), padding: HW = (0, 0)) -> list[Launch]:
    """The launches, one or two, that fill ``y`` with :func:`nsrlib.ops.adder2d`. Meta tensors do for an audit."""
    o, c, kh, kw = weight.shape
    acc = accumulator(x.dtype)
    taps = c * kh * kw
    planes = x.stride(3) == 1
    packed = not planes or not weight.is_contiguous() or y.numel() * taps >= PACK_FROM
    rows = _unrolled_rows(kh, kw)
    # with groups of D^(2/3) terms as much is rounded within groups as between them
    more = {
        "c_in": c, "ROWS": rows, "group_steps": max(1, round(taps ** (2 / 3) / (rows * kw))),
        "ACC": _triton_type(acc), "PACKED": packed,
    }  # fmt: skip
    if not packed:
        return [
            _tiled(
                kernels._adder2d_fwd_kernel, x, weight, y, weight, stride, padding, {**more, "w_o": taps, "w_tap": 1}
            )
        ]
    to_x = x if planes else torch.empty_like(x, memory_format=torch.contiguous_format)
    to_w = torch.empty((c, kh, kw, cdiv(o, BLOCK_O) * BLOCK_O), dtype=acc, device=x.device)
    more |= {"w_o": 1, "w_tap": to_w.shape[3]}
    return [
        _pack_launch(x, weight, to_x, to_w, 0 if planes else x.numel() // c, c * kh * kw, False),
        _tiled(kernels._adder2d_fwd_kernel, to_x, to_w, y, weight, stride, padding, more),
    ]


def int8_launches(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    stride: HW = (1, 1),
    padding: HW = (0, 0),
    scale: float | None = None,
    vabsdiff4: bool = True,
) -> list[Launch]:
    """The two launches that fill ``y`` with :func:`nsrlib.ops.adder2d_int8`; ``vabsdiff4`` on NVIDIA only."""
    (n, c, h, w), (o, _, kh, kw) = x.shape, weight.shape
    words, w_row = cdiv(c, 4), cdiv(o, BLOCK_O) * BLOCK_O
    to_x = torch.empty((n, words, h, w), dtype=torch.int32, device=x.device)
    to_w = torch.empty((words, kh, kw, w_row), dtype=torch.int32, device=x.device)
    more = {
        "scale": 1.0 if scale is None else float(scale), "words": words, "SCALED": scale is not None, "w_row": w_row,
        "ROWS": _unrolled_rows(kh, kw) if vabsdiff4 else 1, "VABSDIFF4": vabsdiff4,
    }  # fmt: skip
    pack = _pack_launch(x, weight, to_x.view(torch.int8), to_w.view(torch.int8), n * h * w, w_row * kh * kw, True)
    return [pack, _tiled(kernels._adder2d_int8_kernel, to_x, to_w, y, weight, stride, padding, more)]


def _pack_launch(
    x: Tensor, weight: Tensor, to_x: Tensor, to_w: Tensor, x_pixels: int, w_pixels: int, words: bool
) -> Launch:
    """Copies ``x_pixels`` of the input (0: it stays where it is) and ``w_pixels``, of all samples, of the filters."""
    o, c, kh, kw = weight.shape
    programs = cdiv(x_pixels, COPY_P)
    arguments = {
        "x_ptr": x, "w_ptr": weight, "to_x_ptr": to_x, "to_w_ptr": to_w, "samples": x.shape[0], "c_in": c, "c_out": o,
        "height": x.shape[2], "width": x.shape[3], **_strides("x", x), **_strides("w", weight),
        "w_row": cdiv(o, BLOCK_O) * BLOCK_O, "x_programs": programs, "KH": kh, "KW": kw, "WORDS": words,
        "BLOCK_C": COPY_C, "BLOCK_P": COPY_P, "IDX": _index(x, to_x, to_w),
    }  # fmt: skip
    return Launch(kernels._adder2d_pack_kernel, (programs + cdiv(w_pixels, COPY_P), 1, 1), arguments)


def _tiled(
    kernel: Any, x: Tensor, filters: Tensor, y: Tensor, weight: Tensor, stride: HW, padding: HW, more: dict[str, Any]
) -> Launch:
    """BLOCK_O channels of as many pixels a program as the waves of programs ask for."""
    o, _, kh, kw = weight.shape
    pixels = y.shape[2] * y.shape[3]
    all_pixels = y.shape[0] * pixels
    if more.get("PACKED", True):
        block = _pixels_a_program(
            cdiv(o, BLOCK_O), all_pixels, x.device, HALF_TILE if "PACKED" in more else HALF_TILE_INT8
        )
    else:
        block = BLOCK_P // 2
    arguments = {
        "x_ptr": x, "w_ptr": filters, "y_ptr": y, "c_out": o, "height": x.shape[2], "width": x.shape[3],
        "out_w": y.shape[3], "pixels": pixels, "all_pixels": all_pixels, "stride_h": stride[0], "stride_w": stride[1],
        "pad_h": padding[0], "pad_w": padding[1], **_strides("x", x),
        "y_n": y.stride(0), "y_o": y.stride(1), "y_p": y.stride(3), "KH": kh, "KW": kw,
        "BLOCK_O": BLOCK_O, "BLOCK_P": block, "IDX": _index(x, y), **more,
    }  # fmt: skip
    return Launch(kernel, (cdiv(all_pixels, block), cdiv(o, BLOCK_O), 1), arguments, NUM_WARPS)


_processors = cache(processors)  # the question costs as much as a launch


def _pixels_a_program(blocks: int, pixels: int, device: torch.device, half: float) -> int:
    """Half a tile where its slower loop costs less than the idle warp schedulers of a whole one's last wave."""

    def busy(block: int) -> float:
        waves = cdiv(pixels, block) * blocks * NUM_WARPS / (4 * _processors(device))  # four schedulers a processor
        return waves / math.ceil(waves)

    return BLOCK_P // 2 if half * busy(BLOCK_P // 2) > busy(BLOCK_P) else BLOCK_P


def backward_launches(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    dx: Tensor | None,
    dw: Tensor | None,
    stride: HW = (1, 1),
    padding: HW = (0, 0),
    gradient: Gradient = "adder",
) -> list[Launch]:
    """The launches, at most three, that fill ``dx`` and ``dw`` (contiguous) with the gradients, one of them or both."""
    (n, c, h, w), (o, _, kh, kw), (oh, ow) = x.shape, weight.shape, grad.shape[2:]
    acc, sign = accumulator(x.dtype), gradient == "sign"
    g_row, w_row = cdiv(o, BLOCK_O) * BLOCK_O, cdiv(c, BLOCK_C) * BLOCK_C
    plane, reach = (h + kh - 1) * (w + kw - 1), ((oh - 1) * stride[0] + kh, (ow - 1) * stride[1] + kw)

    def room(*size: int, dtype: torch.dtype = x.dtype, wanted: object = True) -> Tensor:
        return grad if wanted is None else torch.empty(size, dtype=dtype, device=x.device)

    planes = room(n, o, h + kh - 1, w + kw - 1, wanted=dx)
    packed = room(o, kh, kw, w_row, dtype=acc, wanted=dx)
    sums = room(n, plane, dtype=torch.float64, wanted=None if sign else dx)
    last, x_last = room(n, oh, ow, g_row, wanted=dw), room(n, *reach, c, wanted=dw)
    index = _index(grad, x, planes, last, x_last)
    pixels = (n * plane, o * kh * kw) if dx is not None else (0, 0), (n * oh * ow, n * reach[0] * reach[1])
    counts = [cdiv(p, COPY_P) for p in (*pixels[0], *(pixels[1] if dw is not None else (0, 0)))]
    shared = {"c_in": c, "c_out": o, "KH": kh, "KW": kw, "SIGN": sign}
    pack = {
        **shared, "g_ptr": grad, "x_ptr": x, "w_ptr": weight, "to_planes_ptr": planes, "to_sums_ptr": sums,
        "to_w_ptr": packed, "to_g_ptr": last, "to_x_ptr": x_last, "samples": n, "height": h, "width": w,
        "out_h": oh, "out_w": ow, "stride_h": stride[0], "stride_w": stride[1], "pad_h": padding[0],
        "pad_w": padding[1], **_strides("g", grad), **_strides("x", x), **_strides("w", weight),
        "w_row": w_row, "g_row": g_row, "planes_end": counts[0], "w_end": sum(counts[:2]), "g_end": sum(counts[:3]),
        "BLOCK_C": COPY_C, "BLOCK_P": COPY_P, "IDX": index,
    }  # fmt: skip
    launches = [Launch(kernels._adder2d_pack_bwd_kernel, (sum(counts), 1, 1), pack)]
    finish: dict[str, Any] = {}
    if dw is not None:
        taps, rows, block_d = c * kh * kw, n * oh, BLOCK_D[gradient]
        d_row = cdiv(taps + 1, block_d) * block_d
        chunk = cdiv(rows, min(PARTS, rows, max(1, rows * ow // 256)))
        splits = cdiv(rows, chunk)
        parts = room(splits, g_row, d_row, dtype=acc)
        weights = {
            **shared, "g_ptr": last, "x_ptr": x_last, "w_ptr": weight, "parts_ptr": parts, "rows": rows, "out_h": oh,
            "out_w": ow, "stride_h": stride[0], "stride_w": stride[1], "chunk": chunk,
            "group": math.isqrt(chunk * ow), "g_row": g_row, "d_row": d_row,
            **_strides("w", weight), "BLOCK_O": BLOCK_O, "BLOCK_D": block_d, "IDX": _index(last, x_last, parts),
            "ACC": _triton_type(acc),
        }  # fmt: skip
        grid = (d_row // block_d, g_row // BLOCK_O, splits)
        launches.append(Launch(kernels._adder2d_bwd_weight_kernel, grid, weights, 1))
        finish = {"parts_ptr": parts, "parts": splits, "g_row": g_row, "d_row": d_row}
    if dx is not None:
        rows = _unrolled_rows(kh, kw)
        nothing = {"parts_ptr": sums, "parts": 0, "g_row": 0, "d_row": 0}
        inputs = {
            **shared, "g_ptr": planes, "x_ptr": x, "w_ptr": packed, "sums_ptr": sums, "d_ptr": dx,
            "height": h, "width": w, "all_pixels": n * h * w, "group_steps": math.isqrt(o * (kh // rows)),
            **_strides("x", x), **_strides("d", dx), "w_row": w_row, **(finish or nothing), "filters_ptr": weight,
            "dw_ptr": weight if dw is None else dw, **_strides("f", weight), "ROWS": rows, "BLOCK_C": BLOCK_C,
            "BLOCK_P": BLOCK_P, "FINISH": dw is not None, "BLOCK_SUM": 128, "IDX": _index(planes, x, dx),
            "ACC": _triton_type(acc),
        }  # fmt: skip
        grid = (cdiv(n * h * w, BLOCK_P), cdiv(c, BLOCK_C), 1)
        launches.append(Launch(kernels._adder2d_bwd_input_kernel, grid, inputs, NUM_WARPS))
    elif dw is not None:
        sums_of_parts = {
            **shared, **finish, "w_ptr": weight, "d_ptr": dw, **_strides("w", weight), "BLOCK": 128,
            "ACC": _triton_type(acc),
        }  # fmt: skip
        launches.append(Launch(kernels._adder2d_finish_weight_kernel, (cdiv(dw.numel(), 128), 1, 1), sums_of_parts))
    return launches


def forward(x: Tensor, weight: Tensor, stride: HW, padding: HW) -> Tensor:
    """``-sum |X - W|`` in the layout of ``x``."""
    y = empty_result(x, weight, stride, padding)
    if y.numel():
        _run(forward_launches(x, weight, y, stride, padding))
    return y


def forward_int8(x: Tensor, weight: Tensor, stride: HW, padding: HW, scale: float | None) -> Tensor:
    """The same of int8 tensors: int32, or float32 with a ``scale``."""
    y = empty_result(x, weight, stride, padding, torch.int32 if scale is None else torch.float32)
    if y.numel():
        _run(int8_launches(x, weight, y, stride, padding, scale, x.is_cuda and torch.version.hip is None))
    return y


def input_grad(grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW, gradient: Gradient) -> Tensor:
    """The gradient of ``x``, in its layout."""
    dx = empty(x, x.shape, is_channels_last(x))
    if dx.numel():
        _run(backward_launches(grad, x, weight, dx, None, stride, padding, gradient))
    return dx


def weight_grad(grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW, gradient: Gradient) -> Tensor:
    """The gradient of ``weight``, contiguous."""
    if not grad.numel():
        return torch.zeros_like(weight, memory_format=torch.contiguous_format)
    dw = torch.empty_like(weight, memory_format=torch.contiguous_format)
    _run(backward_launches(grad, x, weight, None, dw, stride, padding, gradient))
    return dw


def grads(
    grad: Tensor, x: Tensor, weight: Tensor, stride: HW, padding: HW, gradient: Gradient
) -> tuple[Tensor, Tensor]:
    """Both, in three launches."""
    arguments = grad, x, weight, stride, padding, gradient
    if not grad.numel():
        return input_grad(*arguments), weight_grad(*arguments)
    dx = empty(x, x.shape, is_channels_last(x))
    dw = torch.empty_like(weight, memory_format=torch.contiguous_format)
    _run(backward_launches(grad, x, weight, dx, dw, stride, padding, gradient))
    return dx, dw


def _run(launches: list[Launch]) -> None:
    for launch in launches:
        launch.run()


def _strides(name: str, x: Tensor) -> dict[str, int]:
    return dict(zip(STRIDES[name], x.stride(), strict=True))


def _unrolled_rows(kh: int, kw: int) -> int:
    return kh if kh * kw <= UNROLL else 1


def _triton_type(dtype: torch.dtype) -> Any:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _index(*tensors: Tensor) -> Any:
    """int64 offsets where one of the tensors reaches past 2**31 elements, with room for padding."""
    reach = max(sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) for t in tensors)
    return tl.int64 if reach >= 2**31 - 2**24 else tl.int32
