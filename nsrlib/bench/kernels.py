"""How fast the operators are on this device: against every alternative a user has, and against the device's limits.

A :class:`Case` is an operator at one size, type and layout; an entry of :data:`OPERATORS` knows its definition, the
ways to compute it (ours first) and the least work it takes. :func:`kernels` goes through the cases by importance:

1. *Right first.* Ours against the definition in float64 on a small shape, results and gradients: at most twice the
   error of the definition run in the same type by PyTorch. What fails is reported and not timed.
2. *Then times.* On a GPU between CUDA events, with the L2 cache flushed before each call and the call queued behind a
   pause, so that Python's own time does not count (it is reported apart, as ``launch_ms``). On a CPU by the wall clock,
   or, with one thread, by the processor's time, in which waiting for other programs does not count. The ways take
   turns, so that a busy moment hits all. Median, quartile distance and best; ratios are of medians on a GPU and of the
   best on a CPU, where other programs only ever add time.
3. *Against the limits,* measured in the same run: copying, additions, matrix products. The least time of a case is the
   larger of its bytes over the copy rate and its operations over the rate of their unit (a roofline).

Results go to ``data/results/ops/<device>.json`` after every case.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib import files
from nsrlib.bench.audit import Launch
from nsrlib.evaluation import pick_device
from nsrlib.models import create_model, optimise
from nsrlib.models.bsrn import BSRN, FusedBSRN
from nsrlib.ops.adder2d import adder2d, adder2d_grads_ref, adder2d_int8, adder2d_int8_ref, adder2d_ref
from nsrlib.ops.bsconv2d import bsconv2d, bsconv2d_ref
from nsrlib.ops.mixed_conv2d import mixed_conv2d, mixed_conv2d_ref

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:
    HAS_TRITON = False

if TYPE_CHECKING:
    import pandas as pd

RESULTS = files.ROOT / "data" / "results" / "ops"
OURS = "nsrlib"
SECONDS = 0.5  # of measuring, for each way to compute a case
REPEATS = (5, 200)  # least and most

Inputs = dict[str, Tensor]
Layout = Literal["NCHW", "channels last"]


@dataclass(frozen=True)
class Case:
    """An operator at one size.

    ``shape`` is that of the input, ``(N, C, H, W)``; ``backward`` asks for the gradients of all inputs too.
    """

    op: str
    shape: tuple[int, int, int, int]
    c_out: int
    dtype: torch.dtype = torch.float32
    layout: Layout = "NCHW"
    backward: bool = False

    @property
    def mode(self) -> str:
        return "forward+backward" if self.backward else "forward"

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{self.op} {self.mode} {_name(self.dtype)} {size} to {self.c_out}, {self.layout}"


@dataclass(frozen=True)
class Way:
    """One way to compute a case: ``run(**inputs)``.

    ``prepare`` converts the inputs once, untimed. ``equal``: computes what ours does. ``memory``: bytes that it needs
    beyond its inputs, where that may be too many.
    """

    run: Callable[..., Tensor]
    prepare: Callable[[Tensor], Tensor] = lambda t: t
    equal: bool = True
    tf32: bool = False
    compiled: bool = False
    memory: int = 0


class Work(NamedTuple):
    """The least that a case takes: bytes to and from memory, and operations of a unit of :func:`limits`."""

    bytes: int
    operations: int
    unit: str


class Operator(NamedTuple):
    inputs: Callable[[Case], Inputs]  # in float64 or int8, on the CPU
    definition: Callable[..., Tensor]
    ways: Callable[[Case, str], dict[str, Way]]
    work: Callable[[Case, str], Work | None]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _draw(*size: int, scale: float = 1.0) -> Tensor:
    """From the generator of :func:`torch.manual_seed`, so that inputs do not depend on the device."""
    return scale * torch.randn(size, dtype=torch.float64)


def _library(run: Callable[..., Tensor], case: Case, device: str, name: str, **options: Any) -> dict[str, Way]:
    """A formulation of library calls as users run it: both layouts, TF32 off and on, and compiled."""
    found: dict[str, Way] = {}
    for tf32 in (False, True) if device == "cuda" and case.dtype == torch.float32 else (False,):
        suffix = "" if device == "cpu" or case.dtype != torch.float32 else f", TF32 {'on' if tf32 else 'off'}"
        found |= {
            f"{name}{suffix}": Way(run, tf32=tf32, **options),
            f"{name} channels last{suffix}": Way(run, _last, tf32=tf32, **options),
            f"{name} channels last, torch.compile{suffix}": Way(run, _last, tf32=tf32, compiled=True, **options),
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
    return {"x": _draw(*case.shape), "weight": _draw(case.c_out, case.shape[1], 3, 3)}


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
        OURS: Way(lambda x, weight: adder2d_int8(x, weight, 1, 1), _last),
        "convolution float32, TF32 off": Way(_convolution, Tensor.float, **other),
        "convolution float32 channels last, TF32 off": Way(_convolution, lambda t: _last(t.float()), **other),
        "convolution float32 channels last, TF32 on": Way(_convolution, lambda t: _last(t.float()), tf32=True, **other),
        "convolution bfloat16 channels last": Way(_convolution, lambda t: _last(t.bfloat16()), **other),
        "adder2d float32": Way(lambda x, weight: adder2d(x, weight, 1, 1), Tensor.float, **other),
    }


def _int8_work(case: Case, device: str) -> Work:
    n, c, h, w = case.shape
    return Work(n * h * w * (c + 4 * case.c_out) + 9 * c * case.c_out, _taps(case) // 4, "vabsdiff4")


# --- bsconv2d ---------------------------------------------------------------------------------------------------------


def _bsconv_inputs(case: Case) -> Inputs:
    n, c, h, w = case.shape
    return {
        "x": _draw(*case.shape),
        "pointwise": _draw(case.c_out, c, 1, 1, scale=c**-0.5),
        "depthwise": _draw(case.c_out, 1, 3, 3, scale=1 / 3),
        "bias": _draw(case.c_out),
        "residual": _draw(n, case.c_out, h, w),
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

    ways = {OURS: Way(ours(), _last), **_library(_bsconv, case, device, "eager")}
    ways |= _library(_merged, case, device, "merged dense convolution")
    if device == "cuda" and case.dtype == torch.float32:
        ways[f"{OURS}, TF32 on"] = Way(ours("tf32"), _last, tf32=True)
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
        "x": _draw(*case.shape),
        "weight": _draw(GROUPS * case.c_out, c, 3, 3, scale=(9 * c) ** -0.5),
        "gate": _draw(n, GROUPS, CARDINALS).softmax(1),
    }


def _soft(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    return mixed_conv2d_ref(x, weight, gate, padding=1)


def _hard(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    return mixed_conv2d_ref(x, weight, gate, padding=1, mode="hard")


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
    own = _last if device == "cuda" else Way.prepare
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


# --- BSRN end to end --------------------------------------------------------------------------------------------------


def _network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model(name, 4).double().eval()  # fused in float64 too


def _bsrn_inputs(case: Case) -> Inputs:
    return {"x": torch.rand(case.shape, dtype=torch.float64)}


def _bsrn_exact(x: Tensor) -> Tensor:
    return _network("bsrn").to(x)(x)


def _bsrn_ways(case: Case, device: str) -> dict[str, Way]:
    bsrn, rfdn = _network("bsrn"), _network("rfdn")
    assert isinstance(bsrn, BSRN)

    def way(network: nn.Module, **options: Any) -> Way:
        ready = network.to(device, case.dtype)
        return Way(lambda x: ready(x), **options)

    fused = {kernels: way(FusedBSRN(bsrn, kernels)) for kernels in ("library", "triton")}
    return {
        OURS: fused["triton" if device == "cuda" else "library"],
        **({"BSRN, fused, library convolutions": fused["library"]} if device == "cuda" else {}),
        "BSRN, as published": way(bsrn),
        "RFDN, as published": way(rfdn, equal=False),
        "RFDN, channels last": way(optimise(rfdn, device), equal=False),
        "RFDN, channels last, torch.compile": way(optimise(rfdn, device), equal=False, compiled=True),
    }


OPERATORS: dict[str, Operator] = {
    "adder2d": Operator(_adder_inputs, _broadcast, _adder_ways, _adder_work),
    "adder2d_int8": Operator(_int8_inputs, lambda x, weight: adder2d_int8_ref(x, weight, 1, 1), _int8_ways, _int8_work),
    "bsconv2d": Operator(_bsconv_inputs, _bsconv, _bsconv_ways, _bsconv_work),
    "mixed_conv2d": Operator(_mixed_inputs, _soft, lambda case, device: _mixed_ways(case, device, "soft"), _mixed_work),
    "mixed_conv2d_hard": Operator(
        _mixed_inputs, _hard, lambda case, device: _mixed_ways(case, device, "hard"), _mixed_work
    ),
    "bsrn_x4": Operator(_bsrn_inputs, _bsrn_exact, _bsrn_ways, lambda case, device: None),
}
"""The operators, and BSRN end to end."""


def cases(device: str = "cuda") -> list[Case]:
    """What is measured on ``"cuda"`` or ``"cpu"``, the most important first."""
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    last: Layout = "channels last"
    patches, wide_patches, frame, frame_2 = (16, 64, 48, 48), (16, 256, 48, 48), (1, 64, 180, 320), (1, 64, 360, 640)
    if device == "cpu":
        return [
            Case("adder2d", (8, 64, 32, 32), 64, backward=True),
            Case("adder2d", (8, 64, 32, 32), 64),
            Case("bsconv2d", frame, 64),
            Case("bsrn_x4", (1, 3, 180, 320), 3),
            Case("bsconv2d", patches, 64, backward=True),
            Case("mixed_conv2d", patches, 64),
            Case("mixed_conv2d_hard", patches, 64),
            Case("mixed_conv2d", patches, 64, backward=True),
            Case("bsconv2d", frame, 64, bf16),
            Case("adder2d", frame, 64),
        ]
    return [
        Case("adder2d", patches, 64),
        Case("adder2d_int8", patches, 64, torch.int8, last),
        Case("bsconv2d", frame_2, 64, bf16, last),
        Case("mixed_conv2d", patches, 64, bf16, last),
        Case("mixed_conv2d_hard", patches, 64, bf16, last),
        Case("bsrn_x4", (1, 3, 180, 320), 3),
        Case("bsrn_x4", (1, 3, 360, 640), 3, f16),
        Case("adder2d", patches, 64, backward=True),
        Case("bsconv2d", frame, 64, bf16, last),
        Case("bsconv2d", frame_2, 64, f32, last),
        Case("mixed_conv2d", patches, 64, f32, last),
        Case("mixed_conv2d", patches, 64, bf16, last, backward=True),
        Case("adder2d", wide_patches, 256),
        Case("adder2d_int8", wide_patches, 256, torch.int8, last),
        Case("adder2d", frame, 64),
        Case("adder2d_int8", frame_2, 64, torch.int8, last),
        Case("bsconv2d", patches, 64, bf16, last, backward=True),
        Case("bsconv2d", patches, 64, f32, last, backward=True),
        Case("adder2d", wide_patches, 256, backward=True),
        Case("adder2d", patches, 64, f32, last),
        Case("adder2d", patches, 64, bf16),
        Case("bsconv2d", (1, 256, 180, 320), 256, bf16, last),
        Case("bsconv2d", frame_2, 64, f16, last),
        Case("bsrn_x4", (1, 3, 180, 320), 3, f16),
        Case("mixed_conv2d_hard", patches, 64, f32, last),
        Case("mixed_conv2d", (16, 128, 48, 48), 128, bf16, last),
        Case("adder2d", frame_2, 64),
        Case("adder2d", patches, 64, bf16, backward=True),
    ]


# --- right first ------------------------------------------------------------------------------------------------------


def _tensors(case: Case, device: torch.device) -> Inputs:
    """The inputs of a case, and ``grad`` where its gradients are asked for; the same values whatever the type."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = OPERATORS[case.op].inputs(case)
        if case.backward:
            inputs["grad"] = _draw(case.shape[0], case.c_out, *case.shape[2:])
    layout = _last if case.layout == "channels last" else Tensor.contiguous
    return {name: layout(t.to(device, case.dtype)) for name, t in inputs.items()}


def _outputs(case: Case, way: Way, inputs: Inputs) -> Callable[[], dict[str, Tensor]]:
    """A call that gives the result and, if asked for, the gradient of every input."""
    run = torch.compile(way.run, dynamic=False) if way.compiled else way.run
    ready = {name: way.prepare(t) for name, t in inputs.items()}

    def forward() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"y": run(**ready)}

    if not case.backward:
        return forward
    grad = ready.pop("grad")
    leaves = {name: t.detach().requires_grad_() for name, t in ready.items()}

    def forward_backward() -> dict[str, Tensor]:
        y = run(**leaves)
        gradients = torch.autograd.grad(y, list(leaves.values()), grad)
        return {"y": y.detach(), **{f"d_{name}": g for name, g in zip(leaves, gradients, strict=True)}}

    return forward_backward


def errors(case: Case, device: torch.device, size: tuple[int, int] = (15, 19)) -> dict[str, float]:
    """Largest error of every uncompiled equal way on one small picture, relative to the largest exact value.

    Raises:
        ArithmeticError: ours errs more than twice as much as the definition in the same type (beyond the rounding of
            float32); names the tensor and both errors.
    """
    small = replace(case, shape=(1, *case.shape[1:2], *size))
    operator = OPERATORS[case.op]
    inputs = _tensors(small, device)
    exact = _outputs(small, Way(operator.definition), {k: t.double() for k, t in inputs.items()})()
    with _float32(tf32=False):
        eager = _outputs(small, Way(operator.definition), inputs)()
    found = {}
    for label, way in operator.ways(small, device.type).items():
        if way.compiled or not way.equal:
            continue
        try:
            with _float32(way.tf32):
                outputs = _outputs(small, way, inputs)()
        except Exception:
            if label == OURS:
                raise
            continue  # its time will not be had either, and the row says why
        worst = 0.0
        for name, value in exact.items():
            top = float(value.abs().max()) or 1.0
            error = float((outputs[name].double() - value).abs().max()) / top
            allowed = 2 * float((eager[name].double() - value).abs().max()) / top + torch.finfo(torch.float32).eps
            if label == OURS and not error <= allowed:  # NaN fails too
                raise ArithmeticError(f"{name} errs by {error:.1e} of its largest value, allowed are {allowed:.1e}")
            worst = max(worst, error)
        found[label] = worst
    return found


@contextlib.contextmanager
def _float32(tf32: bool) -> Iterator[None]:
    """Float32 products in TF32 or not; and cuDNN tries its algorithms, to give libraries their best."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
        matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = before


# --- times ------------------------------------------------------------------------------------------------------------


class CpuClock:
    """Milliseconds of a call: of this process if PyTorch has one thread, else by the wall clock."""

    typical = min

    def __init__(self) -> None:
        self._now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def launch(self, call: Callable[[], object]) -> float:
        """Milliseconds until the call returns."""
        start = self._now()
        call()
        return 1000 * (self._now() - start)

    def __call__(self, call: Callable[[], object], lead: float) -> float:
        return self.launch(call)

    def peak(self, call: Callable[[], object]) -> int:
        """The most bytes that PyTorch's allocator holds during a call beyond those before it."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says on stderr that it starts and stops
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            call()
        held = peak = 0
        kineto = profile.profiler.kineto_results
        for event in sorted((e for e in kineto.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak

    def room(self) -> int:
        """Bytes that one call may take."""
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


class CudaClock:
    """Milliseconds of a call on the device, between two events, from a cold L2 cache.

    A pause of ``lead`` milliseconds goes before the first event, long enough for the CPU to queue the whole call.
    """

    typical = statistics.median

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
        self._flush = torch.empty(max(2 * cache, 2**26), dtype=torch.int8, device=device)
        self._cycles = 0
        cycles = 10**7
        self._between(lambda: torch.cuda._sleep(cycles))  # the first launch of a kernel loads it
        self._cycles = int(cycles / max(self._between(lambda: torch.cuda._sleep(cycles)), 1e-3))  # a millisecond

    def _between(self, call: Callable[[], object], lead: float = 0.0) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        torch.cuda._sleep(int(lead * self._cycles))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def launch(self, call: Callable[[], object]) -> float:
        torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        torch.cuda.synchronize(self.device)
        return 1000 * seconds

    def __call__(self, call: Callable[[], object], lead: float) -> float:
        return self._between(call, min(2 * lead + 0.05, 20.0))

    def peak(self, call: Callable[[], object]) -> int:
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        return torch.cuda.max_memory_allocated(self.device) - before

    def room(self) -> int:
        torch.cuda.empty_cache()
        return int(0.9 * torch.cuda.mem_get_info(self.device)[0])


Clock = CpuClock | CudaClock


class Times(NamedTuple):
    """Of one call: median, quartile distance, best and what ratios are made of, in ms; ms until it returns; repeats;
    most bytes held."""

    median: float
    spread: float
    best: float
    typical: float
    launch: float
    repeats: int
    peak: int


def measure(
    calls: Mapping[str, Callable[[], object]],
    clock: Clock,
    seconds: float = SECONDS,
    around: Callable[[str], contextlib.AbstractContextManager[object]] = lambda label: contextlib.nullcontext(),
) -> dict[str, Times | str]:
    """Time calls in turns, each for about ``seconds``; a call that raises gives its error's first line instead.

    ``around`` gives the context in which a label's call runs.
    """
    found: dict[str, Times | str] = {}
    warm: dict[str, tuple[float, int, int]] = {}
    for label, call in calls.items():
        try:
            with around(label):
                call()  # compiles, chooses algorithms
                peak = clock.peak(call)
                lead = clock.launch(call)
                once = clock(call, lead)
        except Exception as error:  # whatever a library or compiler raises is the answer
            found[label] = _first_line(error)
            continue
        least, most = REPEATS
        warm[label] = lead, peak, max(least, min(most, int(1000 * seconds / max(once, 1e-6))))
    taken: dict[str, list[float]] = {label: [] for label in warm}
    rounds = max((count for _, _, count in warm.values()), default=0)
    for turn in range(1, rounds + 1):
        for label, (lead, _, count) in warm.items():
            if turn * count // rounds > len(taken[label]):  # the slow ones evenly spread over the turns
                with around(label):
                    taken[label].append(clock(calls[label], lead))
    for label, (lead, peak, count) in warm.items():
        low, median, high = statistics.quantiles(taken[label], n=4)
        typical = type(clock).typical(taken[label])
        found[label] = Times(median, high - low, min(taken[label]), typical, lead, count, peak)
    return {label: found[label] for label in calls}


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__


# --- limits -----------------------------------------------------------------------------------------------------------

if HAS_TRITON:

    @triton.jit
    def _additions_kernel(x_ptr, y_ptr, steps, BLOCK: tl.constexpr):
        """16 additions in a chain, ``steps`` times, for every element."""
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i)
        acc = x
        for _ in range(steps):
            for _ in tl.static_range(16):
                acc += x
        tl.store(y_ptr + i, acc)

    @triton.jit
    def _vabsdiff4_kernel(x_ptr, y_ptr, steps, BLOCK: tl.constexpr):
        """The same with four absolute differences of bytes and their sum at a time."""
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i)
        acc = x
        for _ in range(steps):
            for _ in tl.static_range(16):
                acc = tl.inline_asm_elementwise(
                    "vabsdiff4.u32.s32.s32.add $0, $1, $2, $2;", "=r,r,r",
                    [x, acc], dtype=tl.int32, is_pure=True, pack=1,
                )  # fmt: skip
        tl.store(y_ptr + i, acc)


def rate_launch(unit: str, x: Tensor, y: Tensor, steps: int) -> tuple[Launch, int]:
    """The launch that keeps a unit busy, ``additions`` (float32) or ``vabsdiff4`` (int32), and its operations.

    x and y are flat, a multiple of 1024 elements. Meta tensors do for an audit.
    """
    kernel = {"additions": _additions_kernel, "vabsdiff4": _vabsdiff4_kernel}[unit]
    arguments = {"x_ptr": x, "y_ptr": y, "steps": steps, "BLOCK": 1024}
    return Launch(kernel, (x.numel() // 1024,), arguments, num_warps=4), x.numel() * steps * 16


def limits(device: torch.device, clock: Clock, seconds: float = SECONDS) -> dict[str, float]:
    """What this device does at best, a second: bytes copied (read and written), operations of each unit.

    Units: float32, bfloat16 (matrix products, a multiply-add counts as two); on CUDA also float32 in TF32, and
    additions and vabsdiff4 (instructions).
    """
    cuda = device.type == "cuda"
    work: dict[str, tuple[Callable[[], object], float]] = {}
    x = torch.randn(2**28 if cuda else 2**25, device=device)
    y = torch.empty_like(x)
    work["copy"] = (lambda: y.copy_(x)), 2 * x.numel() * x.element_size()
    n = 8192 if cuda else 1024
    a = torch.randn(n, n, device=device)
    b = a.bfloat16()
    for unit, matrix in (("float32", a), ("bfloat16", b), *((("float32, TF32", a),) if cuda else ())):
        work[unit] = partial(torch.mm, matrix, matrix), 2 * n**3
    if cuda and HAS_TRITON:
        flat = torch.randn(1024 * 64 * torch.cuda.get_device_properties(device).multi_processor_count, device=device)
        launch, count = rate_launch("additions", flat, torch.empty_like(flat), 1024)
        work["additions"] = launch.run, count
        if torch.version.hip is None:
            words = flat.view(torch.int32)
            launch, count = rate_launch("vabsdiff4", words, torch.empty_like(words), 1024)
            work["vabsdiff4"] = launch.run, count
    times = measure({u: w[0] for u, w in work.items()}, clock, seconds, lambda unit: _float32("TF32" in unit))
    return {u: count / t.typical * 1000 for u, (_, count) in work.items() if isinstance(t := times[u], Times)}


# --- the run ----------------------------------------------------------------------------------------------------------


def kernels(
    device: str | torch.device = "auto",
    *,
    budget: float = 25.0,
    only: str = "",
    resume: bool = False,
    threads: int | None = None,
    out: str | os.PathLike | None = None,
    seconds: float = SECONDS,
    command: str = "nsr bench kernels",
    say: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Measure the operators; see the module.

    Args:
        device: as for :func:`nsrlib.evaluation.pick_device`.
        budget: minutes. A case is begun if the longest one of its operator so far would still fit.
        only: one of :data:`OPERATORS`; default: all.
        resume: keep the cases that ``out`` holds.
        threads: of the CPU; default: PyTorch's.
        out: where the results go after every case; default: ``data/results/ops/<device>.json``.
        seconds: of measuring for each way to compute a case.
        command: written to the results.
        say: told of each case, what failed and what was left out.

    Returns:
        :func:`table` of the results.

    Raises:
        ValueError: unknown operator; a budget, number of threads or of seconds that is not positive; or results to
            resume from another device, versions, commit, command or number of threads.
    """
    if only and only not in OPERATORS:
        raise ValueError(f"unknown operator {only!r}; known: {', '.join(OPERATORS)}")
    for name, number in (("budget", budget), ("threads", threads), ("seconds", seconds)):
        if number is not None and not number > 0:
            raise ValueError(f"{name} must be positive, got {number}")
    start = time.monotonic()
    chosen, before = pick_device(device), torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    if chosen.index is not None and chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # events belong to the current device
    try:
        result: dict[str, Any] = {"provenance": _provenance(chosen, command), "limits": {}, "left_out": [], "rows": []}
        path = Path(out) if out else RESULTS / f"{_slug(result['provenance']['device'])}.json"
        if resume and path.is_file():
            kept = _read(path)
            # results that are written make a clean checkout dirty
            old, new = ({**r["provenance"], "commit": r["provenance"]["commit"][:7]} for r in (kept, result))
            if old != new:
                differs = [key for key in new if old[key] != new[key]]
                raise ValueError(f"{path.name} was measured with another {', '.join(differs)}; run without --resume")
            result["rows"], result["limits"] = kept["rows"], kept["limits"]
        clock = CudaClock(chosen) if chosen.type == "cuda" else CpuClock()
        done = {row["case"] for row in result["rows"]}
        wanted = [case for case in cases(chosen.type) if case.op == only or not only]
        took: dict[str, float] = {}
        for case in wanted:
            if str(case) in done:
                continue
            begun = time.monotonic()
            if begun - start + took.get(case.op, 0.0) > 60 * budget:
                result["left_out"].append(str(case))
                say(f"{case}: left out, no time")
                continue
            if chosen.type == "cpu" or not result["limits"]:  # a CPU is at its best between other programs only
                for unit, rate in limits(chosen, clock, seconds).items():
                    result["limits"][unit] = max(rate, result["limits"].get(unit, 0.0))
            rows = measure_case(case, chosen, clock, seconds)
            result["rows"] += rows
            _against_limits(result["rows"], result["limits"], "best_ms" if chosen.type == "cpu" else "median_ms")
            files.write_json(path, result)
            took[case.op] = max(took.get(case.op, 0.0), time.monotonic() - begun)
            say(f"{case}: {_summary(rows)}")
        files.write_json(path, result)
        say(", ".join(f"{unit} {rate / 1e9:,.0f} G/s" for unit, rate in result["limits"].items()))
    finally:
        torch.set_num_threads(before)
    return table(path)


def measure_case(case: Case, device: torch.device, clock: Clock, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """The rows of one case, ours first; the columns are those of :func:`table`, without the device's limits."""
    operator = OPERATORS[case.op]
    row = {
        "case": str(case), "op": case.op, "mode": case.mode, "dtype": _name(case.dtype), "shape": list(case.shape),
        "c_out": case.c_out, "layout": case.layout,
    }  # fmt: skip
    try:
        found = errors(case, device)
    except Exception as error:
        return [{**row, "way": OURS, "skipped": f"not timed: {_first_line(error)}"}]
    inputs = _tensors(case, device)
    ways, room = operator.ways(case, device.type), clock.room()
    too_large = {
        label: f"needs {way.memory / 2**30:.0f} GiB, {room / 2**30:.0f} GiB may be had"
        for label, way in ways.items()
        if way.memory > room
    }
    calls = {label: _outputs(case, way, inputs) for label, way in ways.items() if label not in too_large}
    times = measure(calls, clock, seconds, lambda label: _float32(ways[label].tf32))
    torch._dynamo.reset()
    if work := operator.work(case, device.type):
        row |= {"bytes": work.bytes, "operations": work.operations, "unit": work.unit}
    ours, rows = times[OURS], []
    for label, way in ways.items():
        taken = times.get(label, too_large.get(label, ""))
        if isinstance(taken, str):
            rows.append({**row, "way": label, "equal": way.equal, "skipped": taken})
            continue
        rows.append(
            {
                **row, "way": label, "equal": way.equal, "median_ms": taken.median, "spread_ms": taken.spread,
                "best_ms": taken.best, "launch_ms": taken.launch, "repeats": taken.repeats, "peak_bytes": taken.peak,
                "speedup": taken.typical / ours.typical if isinstance(ours, Times) else None,
                "max_error": found.get(label),
            }
        )  # fmt: skip
    return rows


def _against_limits(rows: Sequence[dict[str, Any]], limits: Mapping[str, float], time: str) -> None:
    """Put into every row which limit binds its case, and what percentage of it a way that equals ours reaches."""
    for row in rows:
        if row.get("unit") in limits and row.get("equal") and row.get(time):
            floors = {"copy": row["bytes"] / limits["copy"], row["unit"]: row["operations"] / limits[row["unit"]]}
            row["limit"], floor = max(floors.items(), key=lambda item: item[1])
            row["percent_of_limit"] = 100_000 * floor / row[time]


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    if "median_ms" not in rows[0]:
        return str(rows[0]["skipped"])
    share = rows[0].get("percent_of_limit")
    text = f"{rows[0]['median_ms']:.3g} ms" + (f", {share:.0f} % of the {rows[0]['limit']} limit" if share else "")
    others = sorted((row for row in rows[1:] if row.get("speedup") and row["equal"]), key=lambda row: row["speedup"])
    return "; ".join([text, *(f"{row['way']} takes {row['speedup']:.2g} times as long" for row in others[:1])])


def _provenance(device: torch.device, command: str) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else files.cpu_name(),
        "versions": files.versions(),
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "commit": files.commit(),
        "command": command,
    }


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        return {key: result[key] for key in ("provenance", "limits", "left_out", "rows")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None


COLUMNS = (
    *("case", "op", "mode", "dtype", "shape", "c_out", "layout", "way", "equal", "median_ms", "spread_ms", "best_ms"),
    *("launch_ms", "repeats", "peak_bytes", "speedup", "limit", "percent_of_limit", "max_error", "bytes"),
    *("operations", "unit", "skipped"),
)


def table(path: str | os.PathLike) -> pd.DataFrame:
    """Stored results, a row for each way to compute each case.

    Columns: case and its parts op, mode, dtype, shape, c_out, layout; way (``nsrlib`` is ours); equal (computes what
    ours does); median_ms, spread_ms (quartile distance), best_ms, launch_ms (until the call returns), repeats,
    peak_bytes; speedup (its time over ours); limit and percent_of_limit; max_error (against float64 on a small shape,
    of the largest value); bytes, operations, unit (the least work); skipped (why there is no time). ``attrs`` holds
    limits (a second), left_out and provenance.

    Raises:
        ValueError: the file is damaged.
    """
    import pandas as pd

    result = _read(Path(path))
    rows = pd.DataFrame(result["rows"], columns=list(COLUMNS))
    rows.attrs = {key: result[key] for key in ("limits", "left_out", "provenance")}
    return rows


# --- what was to be reached -------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """``column`` of all rows whose op, mode, dtype and way match must be at least ``least``."""

    text: str
    rows: str  # a pattern for "op mode dtype way"
    column: str
    least: float


BARS = {
    "cuda": (
        Bar("adder2d float32: percent of the limit", f"adder2d forward float32 {OURS}", "percent_of_limit", 60),
        Bar("adder2d float32: times torch.cdist", r"adder2d \S+ float32 torch\.cdist", "speedup", 20),
        Bar("int8: times float32 convolution, TF32 off", "adder2d_int8 .*convolution.*TF32 off", "speedup", 1),
        Bar("bsconv2d: percent of the limit", rf"bsconv2d forward \S+ {OURS}", "percent_of_limit", 70),
        Bar("bsconv2d: times eager and torch.compile", r"bsconv2d forward \S+ eager.*", "speedup", 1),
        Bar("mixed_conv2d soft: times grouped convolution", "mixed_conv2d .*grouped.*", "speedup", 4),
        Bar("mixed_conv2d hard: times convolution of 1/k the width", "mixed_conv2d_hard .*1/k.*", "speedup", 1 / 1.3),
        Bar("BSRN x4: times RFDN", "bsrn_x4 .*RFDN.*", "speedup", 1),
    ),
    "cpu": (
        Bar("adder2d: times broadcast", r"adder2d forward\+backward \S+ broadcast", "speedup", 4),
        Bar("adder2d: memory of broadcast over ours", r"adder2d forward\+backward \S+ broadcast", "memory", 10),
    ),
}
"""The project's own aims."""


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Which aims were reached: columns aim, least, worst, best (over cases and ways), verdict."""
    import pandas as pd

    ours = rows[rows["way"] == OURS].set_index("case")["peak_bytes"]
    names = rows["op"] + " " + rows["mode"] + " " + rows["dtype"] + " " + rows["way"]
    rows = rows.assign(memory=rows["peak_bytes"] / rows["case"].map(ours))
    found = []
    for bar in BARS["cuda" if rows.attrs["provenance"]["cuda"] else "cpu"]:
        values = pd.to_numeric(rows.loc[names.str.fullmatch(bar.rows), bar.column]).dropna()
        verdict = "not measured" if values.empty else "reached" if values.min() >= bar.least else "missed"
        found.append((bar.text, bar.least, values.min(), values.max(), verdict))
    return pd.DataFrame(found, columns=["aim", "least", "worst", "best", "verdict"])
