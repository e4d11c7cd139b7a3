"""What is compared: each operator at some size, its definition, and every way in which a user could compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nsrlib.ops.adder2d import adder2d, adder2d_grads_ref, adder2d_int8, adder2d_int8_ref, adder2d_ref
from nsrlib.ops.bsconv2d import bsconv2d, bsconv2d_ref
from nsrlib.ops.mixed_conv2d import mixed_conv2d, mixed_conv2d_ref

OURS = "nsrlib"

Inputs = dict[str, Tensor]
Layout = Literal["NCHW", "channels last"]


@dataclass(frozen=True)
class Case:
    """An operator at one input ``shape``, ``(N, C, H, W)``; ``backward`` asks for the gradients of all inputs too."""

    op: str
    shape: tuple[int, int, int, int]
    c_out: int
    dtype: torch.dtype = torch.float32
    layout: Layout = "NCHW"
    backward: bool = False

    @property
    def type_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def mode(self) -> str:
        return "forward+backward" if self.backward else "forward"

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{self.op} {self.mode} {self.type_name} {size} to {self.c_out}, {self.layout}"


@dataclass(frozen=True)
class Way:
    """One way to compute a case, ``run(**inputs)``; ``prepare`` converts the inputs once, untimed.

    ``equal``: computes what ours does. ``memory``: bytes beyond its inputs, where that may be too many.
    """

    run: Callable[..., Tensor]
    prepare: Callable[[Tensor], Tensor] = lambda t: t
    equal: bool = True
    tf32: bool = False
    compiled: bool = False
    memory: int = 0


class Work(NamedTuple):
    """The least that a case takes: bytes to and from memory, and operations of a unit of
    :func:`~nsrlib.bench.clock.limits`."""

    bytes: int
    operations: int
    unit: str


class Operator(NamedTuple):
    inputs: Callable[[Case], Inputs]  # in float64 or int8, on the CPU
    definition: Callable[..., Tensor]
    ways: Callable[[Case, str], dict[str, Way]]
    work: Callable[[Case, str], Work | None]


def nhwc(x: Tensor) -> Tensor:
    """Channels last in memory, where there are four axes."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def draw(*size: int, scale: float = 1.0) -> Tensor:
    """From the generator of :func:`torch.manual_seed`, so that inputs do not depend on the device."""
    return scale * torch.randn(size, dtype=torch.float64)


def _library(run: Callable[..., Tensor], case: Case, device: str, name: str, **options: Any) -> dict[str, Way]:
    """A formulation of library calls as users run it: both layouts, TF32 off and on, and compiled."""
    found: dict[str, Way] = {}
    for tf32 in (False, True) if device == "cuda" and case.dtype == torch.float32 else (False,):
        suffix = "" if device == "cpu" or case.dtype != torch.float32 else f", TF32 {'on' if tf32 else 'off'}"
        found |= {
            f"{name}{suffix}": Way(run, tf32=tf32, **options),
            f"{name} channels last{suffix}": Way(run, nhwc, tf32=tf32, **options),
            f"{name} channels last, torch.compile{suffix}": Way(run, nhwc, tf32=tf32, compiled=True, **options),
        }
    return found


# --- adder2d ----------------------------------------------------------------------------------------------------------


class _Broadcast(torch.autograd.Function):
    """The adder layer as it is commonly written, with AdderNet's gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return adder2d_ref(x, weight, 1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return adder2d_grads_ref(grads[0], x, weight, 1, 1)


def _broadcast(x: Tensor, weight: Tensor) -> Tensor:
    return _Broadcast.apply(x, weight)


def _cdist(x: Tensor, weight: Tensor) -> Tensor:
    columns = F.unfold(x, weight.shape[2:], padding=1).mT  # (N, L, D)
    wide = torch.promote_types(x.dtype, torch.float32)  # it knows no 16-bit types
    return -torch.cdist(weight.flatten(1).to(wide), columns.to(wide), p=1).to(x.dtype).unflatten(2, x.shape[2:])


def _convolution(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


def _taps(case: Case) -> int:
    n, c, h, w = case.shape
    return n * h * w * c * 9 * case.c_out


def _adder_inputs(case: Case) -> Inputs:
    return {"x": draw(*case.shape), "weight": draw(case.c_out, case.shape[1], 3, 3)}


def _adder_ways(case: Case, device: str) -> dict[str, Way]:
    size = _taps(case) * case.dtype.itemsize  # of the D x O x N tensor
    return {
        OURS: Way(lambda x, weight: adder2d(x, weight, 1, 1)),
        "broadcast": Way(_broadcast, memory=size * (4 if case.backward else 2)),
        "broadcast, torch.compile": Way(_broadcast, compiled=True),
        # its gradient is the sign's; on CUDA its backward pass fills such a tensor
        "torch.cdist": Way(_cdist, equal=not case.backward, memory=size if case.backward and device == "cuda" else 0),
        **{
            label: replace(way, equal=False)
            for label, way in _library(_convolution, case, device, "convolution of that shape").items()
            if not way.compiled
        },
    }


def _adder_work(case: Case, device: str) -> Work:
    n, c, h, w = case.shape
    tensors = n * h * w * (c + case.c_out) + 9 * c * case.c_out
    # Instructions a tap: two additions forward; a saturating addition and a multiply-add for the input's gradient, one
    # multiply-add for the weight's. The matrix rate of a CPU counts operations, two for each multiply-add.
    per_tap = (5 if case.backward else 2) if device == "cuda" else (8 if case.backward else 2)
    unit = "additions" if device == "cuda" else "float32"
    return Work((2 if case.backward else 1) * tensors * case.dtype.itemsize, per_tap * _taps(case), unit)


def _int8_inputs(case: Case) -> Inputs:
    shapes = {"x": case.shape, "weight": (case.c_out, case.shape[1], 3, 3)}
    return {name: torch.randint(-128, 128, shape, dtype=torch.int8) for name, shape in shapes.items()}


def _int8_ways(case: Case, device: str) -> dict[str, Way]:
    other: dict[str, Any] = {"equal": False}
    return {
        OURS: Way(lambda x, weight: adder2d_int8(x, weight, 1, 1), nhwc),
        "convolution float32, TF32 off": Way(_convolution, Tensor.float, **other),
        "convolution float32 channels last, TF32 off": Way(_convolution, lambda t: nhwc(t.float()), **other),
        "convolution float32 channels last, TF32 on": Way(_convolution, lambda t: nhwc(t.float()), tf32=True, **other),
        "convolution bfloat16 channels last": Way(_convolution, lambda t: nhwc(t.bfloat16()), **other),
        "adder2d float32": Way(lambda x, weight: adder2d(x, weight, 1, 1), Tensor.float, **other),
    }


def _int8_work(case: Case, device: str) -> Work:
    n, c, h, w = case.shape
    return Work(n * h * w * (c + 4 * case.c_out) + 9 * c * case.c_out, _taps(case) // 4, "vabsdiff4")


# --- bsconv2d ---------------------------------------------------------------------------------------------------------


def _bsconv_inputs(case: Case) -> Inputs:
    n, c, h, w = case.shape
    return {
        "x": draw(*case.shape),
        "pointwise": draw(case.c_out, c, 1, 1, scale=c**-0.5),
        "depthwise": draw(case.c_out, 1, 3, 3, scale=1 / 3),
        "bias": draw(case.c_out),
        "residual": draw(n, case.c_out, h, w),
    }


def _bsconv(x: Tensor, pointwise: Tensor, depthwise: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return bsconv2d_ref(x, pointwise, depthwise, bias, "gelu", residual)


def _merged(x: Tensor, pointwise: Tensor, depthwise: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """One dense convolution; its kernel is made anew, as training would, which is next to nothing."""
    return F.gelu(F.conv2d(x, pointwise * depthwise, bias, padding=1) + residual)


def _bsconv_ways(case: Case, device: str) -> dict[str, Way]:
    def ours(precision: Any = "tf32x3") -> Callable[..., Tensor]:
        return lambda x, pointwise, depthwise, bias, residual: bsconv2d(
            x, pointwise, depthwise, bias, "gelu", residual, float32_precision=precision
        )

    ways = {OURS: Way(ours(), nhwc), **_library(_bsconv, case, device, "eager")}
    ways |= _library(_merged, case, device, "merged dense convolution")
    if device == "cuda" and case.dtype == torch.float32:
        ways[f"{OURS}, TF32 on"] = Way(ours("tf32"), nhwc, tf32=True)
    return ways


def _bsconv_work(case: Case, device: str) -> Work:
    n, c, h, w = case.shape
    pixels = n * h * w
    tensors = pixels * (c + 2 * case.c_out)  # x, residual, y
    per_pixel = 2 * case.c_out * (c + 9)
    times = 3 if case.backward else 1
    # backward: x, dy and what recomputes the GELU are read, both gradients written
    total = 2 * tensors + pixels * case.c_out if case.backward else tensors
    return Work(total * case.dtype.itemsize, times * pixels * per_pixel, _matrix_unit(case, device))


def _matrix_unit(case: Case, device: str) -> str:
    """The fastest way in which this device multiplies matrices of that type."""
    if case.dtype == torch.float32:
        return "float32, TF32" if device == "cuda" else "float32"
    return "bfloat16"


# --- mixed_conv2d -----------------------------------------------------------------------------------------------------

GROUPS, CARDINALS = 4, 16  # k and d of NSR's networks


def _mixed_inputs(case: Case) -> Inputs:
    n, c = case.shape[:2]
    return {
        "x": draw(*case.shape),
        "weight": draw(GROUPS * case.c_out, c, 3, 3, scale=(9 * c) ** -0.5),
        "gate": draw(n, GROUPS, CARDINALS).softmax(1),
    }


_soft = partial(mixed_conv2d_ref, padding=1)
_hard = partial(mixed_conv2d_ref, padding=1, mode="hard")


def _grouped(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    """As NSR's authors do: mix the kernels of every sample, then a convolution with groups = batch."""
    n, _, h, w = x.shape
    mixed = torch.einsum("nkd,kdr...->ndr...", gate, weight.unflatten(0, (*gate.shape[1:], -1)))
    return F.conv2d(x.reshape(1, -1, h, w), mixed.flatten(0, 2), padding=1, groups=n).view(n, -1, h, w)


def _grouped_hard(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    return _grouped(x, weight, F.one_hot(gate.argmax(1), GROUPS).mT.to(gate.dtype))


def _mixed_ways(case: Case, device: str, mode: Any) -> dict[str, Way]:
    def plain(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
        return F.conv2d(x, weight[: case.c_out], padding=1)

    # the library's grouped convolution, which ours is on a CPU, folds the batch into the channels
    own = nhwc if device == "cuda" else Way.prepare
    grouped, wide = (_grouped, _soft) if mode == "soft" else (_grouped_hard, _hard)
    single = _library(plain, case, device, "convolution of 1/k the width", equal=False)
    return {
        OURS: Way(lambda x, weight, gate: mixed_conv2d(x, weight, gate, None, 1, 1, mode=mode), own),
        **_library(grouped, case, device, "grouped convolution"),
        **{label: way for label, way in _library(wide, case, device, "k convolutions").items() if not way.compiled},
        **({} if case.backward else {label: way for label, way in single.items() if not way.compiled}),
    }


def _mixed_work(case: Case, device: str) -> Work:
    n, c, h, w = case.shape
    tensors = n * h * w * (c + case.c_out) + 9 * c * GROUPS * case.c_out
    times = 2 if case.backward else 1
    return Work(times * tensors * case.dtype.itemsize, (2 * times - 1) * 2 * _taps(case), _matrix_unit(case, device))


ADDER2D = Operator(_adder_inputs, _broadcast, _adder_ways, _adder_work)
ADDER2D_INT8 = Operator(_int8_inputs, lambda x, weight: adder2d_int8_ref(x, weight, 1, 1), _int8_ways, _int8_work)
BSCONV2D = Operator(_bsconv_inputs, _bsconv, _bsconv_ways, _bsconv_work)
MIXED_CONV2D = Operator(_mixed_inputs, _soft, lambda case, device: _mixed_ways(case, device, "soft"), _mixed_work)
MIXED_CONV2D_HARD = Operator(_mixed_inputs, _hard, lambda case, device: _mixed_ways(case, device, "hard"), _mixed_work)
