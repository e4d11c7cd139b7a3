"""The cases of the benchmark, BSRN end to end among them, and whether ours compute them right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nsrlib.bench import operators
from nsrlib.bench.clock import float32_products
from nsrlib.bench.operators import OURS, Case, Inputs, Layout, Operator, Way, draw, nhwc
from nsrlib.models import create_model, optimise


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
    "adder2d": operators.ADDER2D,
    "adder2d_int8": operators.ADDER2D_INT8,
    "bsconv2d": operators.BSCONV2D,
    "mixed_conv2d": operators.MIXED_CONV2D,
    "mixed_conv2d_hard": operators.MIXED_CONV2D_HARD,
    "bsrn_x4": Operator(
        lambda case: {"x": torch.rand(case.shape, dtype=torch.float64)},
        lambda x: _network("bsrn").to(x)(x),
        _bsrn_ways,
        lambda case, device: None,
    ),
}
"""The operators, and BSRN end to end."""


def cases_of(device: str = "cuda") -> list[Case]:
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


def inputs_of(case: Case, device: torch.device) -> Inputs:
    """The inputs of a case, and ``grad`` where its gradients are asked for; the same values whatever the type."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = OPERATORS[case.op].inputs(case)
        if case.backward:
            inputs["grad"] = draw(case.shape[0], case.c_out, *case.shape[2:])
    layout = nhwc if case.layout == "channels last" else Tensor.contiguous
    return {name: layout(t.to(device, case.dtype)) for name, t in inputs.items()}


def call_of(case: Case, way: Way, inputs: Inputs) -> Callable[[], dict[str, Tensor]]:
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
    inputs = inputs_of(small, device)
    exact = call_of(small, Way(operator.definition), {k: t.double() for k, t in inputs.items()})()
    with float32_products(tf32=False):
        eager = call_of(small, Way(operator.definition), inputs)()
    found = {}
    for label, way in operator.ways(small, device.type).items():
        if way.compiled or not way.equal:
            continue
        try:
            with float32_products(way.tf32):
                outputs = call_of(small, way, inputs)()
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
