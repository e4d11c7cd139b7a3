"""What is compared: each operator at some size, its definition, and every way in which a user could compute it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from nsrlib.models import create_model, optimise
from nsrlib.ops.adder2d import adder2d, adder2d_grads_ref, adder2d_int8, adder2d_int8_ref, adder2d_ref
from nsrlib.ops.bsconv2d import bsconv2d, bsconv2d_ref
from nsrlib.ops.mixed_conv2d import mixed_conv2d, mixed_conv2d_ref

OURS = "nsrlib"
TAPS = tuple(itertools.product(range(3), range(3)))

Inputs = dict[str, Tensor]
Layout = Literal["NCHW", "channels last"]


@dataclass(frozen=True)
class Case:
    """An operator from one ``shape``, ``(N, C, H, W)``, to ``C`` channels; ``backward``: with all inputs' gradients."""

    op: str
    shape: tuple[int, int, int, int]
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
        return f"{self.op} {self.mode} {self.type_name} {size} to {self.shape[1]}, {self.layout}"


@dataclass(frozen=True)
class Way:
    """One way to compute a case, ``run(**inputs)``."""

    run: Callable[..., Tensor]
    prepare: Callable[[Tensor], Tensor] = lambda t: t  # of every input, once, untimed
    equal: bool = True  # computes what ours does
    tf32: bool = False
    compiled: bool = False
    pieces: bool = False  # run(compile=...) says itself what is compiled
    memory: int = 0  # bytes beyond its inputs, where that may be too many


class Work(NamedTuple):
    """The least that a case takes: bytes to and from memory, operations of a unit of :func:`~.clock.limits`."""

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
    both = device == "cuda" and case.dtype == torch.float32
    for suffix, tf32 in {", TF32 off": False, ", TF32 on": True}.items() if both else [("", False)]:
        found |= {
            f"{name}{suffix}": Way(run, tf32=tf32, **options),
            f"{name} channels last{suffix}": Way(run, nhwc, tf32=tf32, **options),
            f"{name} channels last, torch.compile{suffix}": Way(run, nhwc, tf32=tf32, compiled=True, **options),
        }
    return found


def _eager(ways: dict[str, Way]) -> dict[str, Way]:
    return {label: way for label, way in ways.items() if not way.compiled}


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


def _as_it_is(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return function


class _Taps(torch.autograd.Function):
    """The adder layer for a compiler: tap by tap, pixels innermost, padding outside, where it masks no access."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, compile: Callable[..., Any]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.compile = compile
        return compile(_taps_forward)(F.pad(x, (1, 1, 1, 1)), weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,), (x, weight) = grads, ctx.saved_tensors
        dx = ctx.compile(_taps_input_grad)(F.pad(g, (1, 1, 1, 1)), x, weight)
        # sum G (X - W), with the weight gradient of a convolution
        product = conv2d_weight(x, weight.shape, g, padding=1)
        return dx, product - g.sum((0, 2, 3))[:, None, None, None] * weight, None


def _taps_forward(padded: Tensor, weight: Tensor) -> Tensor:
    (h, w), y = (side - 2 for side in padded.shape[2:]), padded.new_zeros(())
    for i, j in TAPS:
        y = y - (padded[:, None, :, i : i + h, j : j + w] - weight[:, :, i, j, None, None]).abs().sum(2)
    return y


def _taps_input_grad(padded: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    (h, w), dx = x.shape[2:], x.new_zeros(())
    for i, j in TAPS:
        g = padded[:, :, None, 2 - i : 2 - i + h, 2 - j : 2 - j + w]
        dx = dx + (g * (weight[:, :, i, j, None, None] - x[:, None]).clamp(-1, 1)).sum(1)
    return dx


def _by_taps(x: Tensor, weight: Tensor, compile: Callable[..., Any] = _as_it_is) -> Tensor:
    return _Taps.apply(x, weight, compile)


def _cdist(x: Tensor, weight: Tensor) -> Tensor:
    columns = F.unfold(x, weight.shape[2:], padding=1).mT  # (N, L, D)
    wide = torch.promote_types(x.dtype, torch.float32)  # it knows no 16-bit types
    return -torch.cdist(weight.flatten(1).to(wide), columns.to(wide), p=1).to(x.dtype).unflatten(2, x.shape[2:])


def _convolution(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


def _taps(case: Case) -> int:
    n, c, h, w = case.shape
    return n * h * w * c * 9 * c


def _adder_inputs(case: Case) -> Inputs:
    c = case.shape[1]
    return {"x": draw(*case.shape), "weight": draw(c, c, 3, 3)}


def _adder_ways(case: Case, device: str) -> dict[str, Way]:
    size = _taps(case) * case.dtype.itemsize  # of the D x O x N tensor
    return {
        OURS: Way(lambda x, weight: adder2d(x, weight, 1, 1)),
        "broadcast": Way(_broadcast, memory=size * (4 if case.backward else 2)),
        "broadcast, torch.compile": Way(_broadcast, compiled=True),
        "broadcast by taps, torch.compile": Way(_by_taps, compiled=True, pieces=True),
        # its gradient is the sign's; on CUDA its backward pass fills such a tensor
        "torch.cdist": Way(_cdist, equal=not case.backward, memory=size if case.backward and device == "cuda" else 0),
        **_eager(_library(_convolution, case, device, "convolution of that shape", equal=False)),
    }


def _adder_work(case: Case, device: str) -> Work:
    n, c, h, w = case.shape
    tensors = n * h * w * 2 * c + 9 * c * c
    # Instructions a tap: two additions forward; a saturating addition and a multiply-add for the input's gradient, one
    # multiply-add for the weight's. The matrix rate of a CPU counts operations, two for each multiply-add.
    per_tap = (5 if case.backward else 2) if device == "cuda" else (8 if case.backward else 2)
    unit = "additions" if device == "cuda" else "float32"
    return Work((2 if case.backward else 1) * tensors * case.dtype.itemsize, per_tap * _taps(case), unit)


def _int8_inputs(case: Case) -> Inputs:
    shapes = {"x": case.shape, "weight": (case.shape[1], case.shape[1], 3, 3)}
    return {name: torch.randint(-128, 128, shape, dtype=torch.int8) for name, shape in shapes.items()}


def _int8_ways(case: Case, device: str) -> dict[str, Way]:
    def convolution(prepare: Callable[[Tensor], Tensor], tf32: bool = False) -> Way:
        return Way(_convolution, prepare, equal=False, tf32=tf32)

    return {
        OURS: Way(lambda x, weight: adder2d_int8(x, weight, 1, 1), nhwc),
        "convolution float32, TF32 off": convolution(Tensor.float),
        "convolution float32 channels last, TF32 off": convolution(lambda t: nhwc(t.float())),
        "convolution float32 channels last, TF32 on": convolution(lambda t: nhwc(t.float()), tf32=True),
        "convolution bfloat16 channels last": convolution(lambda t: nhwc(t.bfloat16())),
        "adder2d float32": Way(lambda x, weight: adder2d(x, weight, 1, 1), Tensor.float, equal=False),
    }


def _int8_work(case: Case, device: str) -> Work:
    n, c, h, w = case.shape
    return Work(n * h * w * 5 * c + 9 * c * c, _taps(case) // 4, "vabsdiff4")


def _bsconv_inputs(case: Case) -> Inputs:
    c = case.shape[1]
    return {
        "x": draw(*case.shape),
        "pointwise": draw(c, c, 1, 1, scale=c**-0.5),
        "depthwise": draw(c, 1, 3, 3, scale=1 / 3),
        "bias": draw(c),
        "residual": draw(*case.shape),
    }


_bsconv = partial(bsconv2d_ref, activation="gelu")


def _padded_first(x: Tensor, pointwise: Tensor, depthwise: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """The same: a 1x1 convolution without bias keeps a border of zeros, and the depthwise one need not pad."""
    z = F.conv2d(F.pad(x, (1, 1, 1, 1)), pointwise)
    return F.gelu(F.conv2d(z, depthwise, bias, groups=len(depthwise)) + residual)


def _merged(x: Tensor, pointwise: Tensor, depthwise: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """One dense convolution; its kernel is made anew, as training would, which is next to nothing."""
    return F.gelu(F.conv2d(x, pointwise * depthwise, bias, padding=1) + residual)


def _bsconv_ways(case: Case, device: str) -> dict[str, Way]:
    ours = partial(bsconv2d, activation="gelu")
    ways = {OURS: Way(ours, nhwc), **_library(_bsconv, case, device, "eager")}
    ways |= _library(_padded_first, case, device, "eager, padded first")
    ways |= _library(_merged, case, device, "merged dense convolution")
    if device == "cuda" and case.dtype == torch.float32:
        ways[f"{OURS}, TF32 on"] = Way(partial(ours, float32_precision="tf32"), nhwc, tf32=True)
    return ways


def _bsconv_work(case: Case, device: str) -> Work:
    n, c, h, w = case.shape
    # x, residual, y; backward: x, dy and what recomputes the GELU are read, both gradients written
    tensors, times = (7, 3) if case.backward else (3, 1)
    values = n * h * w * c
    return Work(tensors * values * case.dtype.itemsize, times * values * 2 * (c + 9), _matrix_unit(case, device))


def _matrix_unit(case: Case, device: str) -> str:
    """The fastest way in which this device multiplies matrices of that type."""
    if case.dtype == torch.float32:
        return "float32, TF32" if device == "cuda" else "float32"
    return "bfloat16"


GROUPS, CARDINALS = 4, 16  # k and d of NSR's networks


def _mixed_inputs(case: Case) -> Inputs:
    n, c = case.shape[:2]
    return {
        "x": draw(*case.shape),
        "weight": draw(GROUPS * c, c, 3, 3, scale=(9 * c) ** -0.5),
        "gate": draw(n, GROUPS, CARDINALS).softmax(1),
    }


_soft = partial(mixed_conv2d_ref, padding=1)
_hard = partial(mixed_conv2d_ref, padding=1, mode="hard")


def _grouped(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    """As NSR's authors do: mix the kernels of every sample, then a convolution with groups = batch."""
    return _by_sample(x, torch.einsum("nkd,kdr...->ndr...", gate, weight.unflatten(0, (*gate.shape[1:], -1))))


def _grouped_hard(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    """Likewise; a choice of kernels needs no sum."""
    groups = torch.arange(gate.shape[2], device=gate.device)
    return _by_sample(x, weight.unflatten(0, (*gate.shape[1:], -1))[gate.argmax(1), groups])


def _by_sample(x: Tensor, kernels: Tensor) -> Tensor:
    """``x`` ``(N, C, H, W)`` with the kernels of each sample, ``(N, d, r, C, 3, 3)``."""
    n, _, h, w = x.shape
    return F.conv2d(x.reshape(1, -1, h, w), kernels.flatten(0, 2), padding=1, groups=n).view(n, -1, h, w)


def _mixed_ways(case: Case, device: str, mode: Any) -> dict[str, Way]:
    def plain(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
        return _convolution(x, weight[: case.shape[1]])

    # the library's grouped convolution, which ours is on a CPU, folds the batch into the channels
    own = nhwc if device == "cuda" else Way.prepare
    grouped, wide = (_grouped, _soft) if mode == "soft" else (_grouped_hard, _hard)
    single = _library(plain, case, device, "convolution of 1/k the width", equal=False)
    return {
        OURS: Way(lambda x, weight, gate: mixed_conv2d(x, weight, gate, None, 1, 1, mode=mode), own),
        **_library(grouped, case, device, "grouped convolution"),
        **_eager(_library(wide, case, device, "k convolutions")),
        **({} if case.backward else _eager(single)),
    }


def _mixed_work(case: Case, device: str) -> Work:
    n, c, h, w = case.shape
    tensors = n * h * w * 2 * c + 9 * c * GROUPS * c
    times = 2 if case.backward else 1
    return Work(times * tensors * case.dtype.itemsize, (2 * times - 1) * 2 * _taps(case), _matrix_unit(case, device))


def _network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model(name, 4).double().eval()  # fused in float64 too


def _bsrn_ways(case: Case, device: str) -> dict[str, Way]:
    bsrn, rfdn = _network("bsrn"), _network("rfdn")

    def way(network: nn.Module, **options: Any) -> Way:
        ready = network.to(device, case.dtype)
        return Way(lambda x: ready(x), **options)

    library, triton = (way(optimise(bsrn, device, kernels)) for kernels in ("library", "triton"))
    return {
        OURS: triton if device == "cuda" else library,
        **({"BSRN, fused, library convolutions": library} if device == "cuda" else {}),
        "BSRN, as published": way(bsrn),
        "RFDN, as published": way(rfdn, equal=False),
        "RFDN, channels last": way(optimise(rfdn, device), equal=False),
        "RFDN, channels last, torch.compile": way(optimise(rfdn, device), equal=False, compiled=True),
    }


OPERATORS: dict[str, Operator] = {
    "adder2d": Operator(_adder_inputs, _broadcast, _adder_ways, _adder_work),
    "adder2d_int8": Operator(_int8_inputs, lambda x, weight: adder2d_int8_ref(x, weight, 1, 1), _int8_ways, _int8_work),
    "bsconv2d": Operator(_bsconv_inputs, _bsconv, _bsconv_ways, _bsconv_work),
    "mixed_conv2d": Operator(_mixed_inputs, _soft, partial(_mixed_ways, mode="soft"), _mixed_work),
    "mixed_conv2d_hard": Operator(_mixed_inputs, _hard, partial(_mixed_ways, mode="hard"), _mixed_work),
    "bsrn_x4": Operator(
        lambda case: {"x": torch.rand(case.shape, dtype=torch.float64)},
        lambda x: _network("bsrn").to(x)(x),
        _bsrn_ways,
        lambda case, device: None,
    ),
}


def cases_of(device: str = "cuda") -> list[Case]:
    """What is measured on ``"cuda"`` or ``"cpu"``, the most important first."""
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    last: Layout = "channels last"
    patches, wide_patches, frame, frame_2 = (16, 64, 48, 48), (16, 256, 48, 48), (1, 64, 180, 320), (1, 64, 360, 640)
    if device == "cpu":
        return [
            Case("adder2d", (8, 64, 32, 32), backward=True),
            Case("adder2d", (8, 64, 32, 32)),
            Case("bsconv2d", frame),
            Case("bsrn_x4", (1, 3, 180, 320)),
            Case("bsconv2d", patches, backward=True),
            Case("bsconv2d", frame, backward=True),
            Case("mixed_conv2d", patches),
            Case("mixed_conv2d_hard", patches),
            Case("mixed_conv2d", patches, backward=True),
            Case("bsconv2d", frame, bf16),
            Case("adder2d", frame),
        ]
    return [
        Case("adder2d", patches),
        Case("adder2d_int8", patches, torch.int8, last),
        Case("bsconv2d", frame_2, bf16, last),
        Case("mixed_conv2d", patches, bf16, last),
        Case("mixed_conv2d_hard", patches, bf16, last),
        Case("bsrn_x4", (1, 3, 180, 320)),
        Case("bsrn_x4", (1, 3, 360, 640), f16),
        Case("adder2d", patches, backward=True),
        Case("bsconv2d", frame, bf16, last),
        Case("bsconv2d", frame_2, f32, last),
        Case("mixed_conv2d", patches, f32, last),
        Case("mixed_conv2d", patches, bf16, last, backward=True),
        Case("adder2d", wide_patches),
        Case("adder2d_int8", wide_patches, torch.int8, last),
        Case("adder2d", frame),
        Case("adder2d_int8", frame_2, torch.int8, last),
        Case("bsconv2d", patches, bf16, last, backward=True),
        Case("bsconv2d", patches, f32, last, backward=True),
        Case("adder2d", wide_patches, backward=True),
        Case("adder2d", patches, f32, last),
        Case("adder2d", patches, bf16),
        Case("bsconv2d", (1, 256, 180, 320), bf16, last),
        Case("bsconv2d", frame_2, f16, last),
        Case("bsrn_x4", (1, 3, 180, 320), f16),
        Case("mixed_conv2d_hard", patches, f32, last),
        Case("mixed_conv2d", (16, 128, 48, 48), bf16, last),
        Case("adder2d", frame_2),
        Case("adder2d", patches, bf16, backward=True),
    ]
