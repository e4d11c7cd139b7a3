"""Adder layer ``Y = -sum |X - W|`` (AdderNet, Chen et al., CVPR 2020; AdderSR, Song et al., CVPR 2021, Eq. 2).

``Y[n, o, h, w] = -sum_{c, i, j} |X[n, c, h s + i - p, w s + j - p] - W[o, c, i, j]|``: the sliding window of a
convolution with the negative L1 distance in the place of the dot product. Padding is with zeros, which is not neutral:
a padded tap adds ``-|W|``. With ``D = C K K`` taps, ``G = dL/dY`` and the unfolded ``X`` the gradients are

==========  ==========================================  ===============================
gradient    input                                       weight
==========  ==========================================  ===============================
``adder``   ``sum_o G HardTanh(W - X)``, then folded    ``sum_n G (X - W)``
``sign``    ``sum_o G sign(W - X)``, then folded        ``sum_n G sign(X - W)``
==========  ==========================================  ===============================

``adder`` is AdderNet's rule and not the derivative; ``sign`` is the derivative wherever there is one. Two identities
carry the work. ``sum_n G (X - W) = G X^T - diag(G 1) W``: the weight gradient of a convolution and a small correction.
``HardTanh(t) = 2 sat((t + 1) / 2) - 1`` with ``sat`` the clamp to [0, 1]: one saturating addition and one fused
multiply-add a tap, and outside the loop a box filter over the sum of ``G``.

Memory beyond inputs and outputs, on a GPU: for large results and channels_last input repacked filters and a copy of
``x``; backward a padded copy of ``x``, two of ``G`` (one is padded), the sum of its channels, the repacked filters and
up to 64 partial sums of the weight gradient; nothing of size ``D O N`` or ``D N``. Sums are float32 (float64 for
float64), in groups, which keeps their rounding near that of PyTorch's pairwise sum. On a CPU numba compiles the loops
at the first call (the extra ``native``); without it, and in float64, ``torch.cdist`` runs.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nsrlib.ops.adder2d import cpu
from nsrlib.ops.adder2d.reference import Gradient, adder2d_grads_ref, adder2d_int8_ref, adder2d_ref
from nsrlib.ops.common import (
    FLOATS,
    HW,
    Pair,
    check_alike,
    check_choice,
    check_filters,
    check_input,
    check_window,
    empty,
    has_kernel,
    in_autocast,
    is_channels_last,
    output_size,
    pair,
    vmap_rule,
)

__all__ = [
    "GRADIENTS", "Gradient", "adder2d", "adder2d_grads_ref", "adder2d_int8", "adder2d_int8_ref", "adder2d_ref",
    "quantize_int8",
]  # fmt: skip

GRADIENTS: tuple[str, ...] = ("adder", "sign")


def _has_kernel(x: Tensor) -> bool:
    return has_kernel(x, torch.float64, torch.int8)


def _way(x: Tensor) -> Any:
    """The module that computes with ``x``."""
    if _has_kernel(x):
        from nsrlib.ops.adder2d import launches  # here, because it brings Triton along

        return launches
    return _native() if x.device.type == "cpu" and x.dtype != torch.float64 else cpu


@cache
def _native() -> Any:
    """The module in native code, or `cpu` and a line that says why."""
    try:
        from nsrlib.ops.adder2d import native

        return native
    except (ImportError, RuntimeError) as error:  # not there, not for this numpy, or no folder for what it compiles
        logging.getLogger(__name__).warning("adder2d takes torch.cdist, about ten times slower on a CPU: %s", error)
        return cpu


@torch.library.custom_op("nsrlib::adder2d", mutates_args=())
def _adder2d(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str) -> Tensor:
    return _way(x).forward(x, weight, pair(stride), pair(padding))


@torch.library.custom_op("nsrlib::adder2d_input_grad", mutates_args=())
def _adder2d_input_grad(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str
) -> Tensor:
    return _way(x).input_grad(grad, x, weight, pair(stride), pair(padding), gradient)


@torch.library.custom_op("nsrlib::adder2d_weight_grad", mutates_args=())
def _adder2d_weight_grad(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str
) -> Tensor:
    way, arguments = _way(x), (grad, x, weight, pair(stride), pair(padding))
    if _has_kernel(x):
        return way.weight_grad(*arguments, gradient)
    return way.weight_sign_grad(*arguments) if gradient == "sign" else cpu.weight_grad(*arguments)


@torch.library.custom_op("nsrlib::adder2d_grads", mutates_args=())
def _adder2d_grads(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str
) -> tuple[Tensor, Tensor]:
    if _has_kernel(x):
        return _way(x).grads(grad, x, weight, pair(stride), pair(padding), gradient)
    arguments = grad, x, weight, stride, padding, gradient
    return _adder2d_input_grad(*arguments), _adder2d_weight_grad(*arguments)


@torch.library.custom_op("nsrlib::adder2d_int8", mutates_args=())
def _adder2d_int8(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], scale: float | None) -> Tensor:
    return _way(x).forward_int8(x, weight, pair(stride), pair(padding), scale)


@_adder2d.register_fake
def _(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], gradient: str) -> Tensor:
    return cpu.empty_result(x, weight, pair(stride), pair(padding))


@_adder2d_input_grad.register_fake
def _(grad: Tensor, x: Tensor, *_: Any) -> Tensor:
    return empty(x, x.shape, is_channels_last(x))


@_adder2d_weight_grad.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


@_adder2d_grads.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return empty(x, x.shape, is_channels_last(x)), torch.empty_like(weight, memory_format=torch.contiguous_format)


@_adder2d_int8.register_fake
def _(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], scale: float | None) -> Tensor:
    return cpu.empty_result(x, weight, pair(stride), pair(padding), torch.int32 if scale is None else torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.stride, ctx.padding, ctx.gradient = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    arguments = (grad, *ctx.saved_tensors, ctx.stride, ctx.padding, ctx.gradient)
    if all(ctx.needs_input_grad[:2]):
        return *_adder2d_grads(*arguments), None, None, None
    dx = _adder2d_input_grad(*arguments) if ctx.needs_input_grad[0] else None
    dw = _adder2d_weight_grad(*arguments) if ctx.needs_input_grad[1] else None
    return dx, dw, None, None, None


_adder2d.register_autograd(_backward, setup_context=_setup_context)
for _operator in (_adder2d, _adder2d_input_grad, _adder2d_weight_grad, _adder2d_grads, _adder2d_int8):
    _operator.register_vmap(vmap_rule(_operator))


# FlopCounterMode counts a multiply-add as two. Here a tap is a subtraction and an addition; in the input gradient a
# subtraction, a multiplication and an addition (clamping and signs are free); the weight gradient is a convolution's.


@register_flop_formula([torch.ops.nsrlib.adder2d, torch.ops.nsrlib.adder2d_int8])
def _forward_flops(x: Any, weight: Any, stride: Any, padding: Any, *_: Any, **__: Any) -> int:
    return 2 * _taps(x, weight, stride, padding)


@register_flop_formula(torch.ops.nsrlib.adder2d_input_grad)
def _input_grad_flops(grad: Any, x: Any, weight: Any, stride: Any, padding: Any, gradient: str, **_: Any) -> int:
    return (2 if gradient == "sign" else 3) * _taps(x, weight, stride, padding)


@register_flop_formula(torch.ops.nsrlib.adder2d_weight_grad)
def _weight_grad_flops(grad: Any, x: Any, weight: Any, stride: Any, padding: Any, *_: Any, **__: Any) -> int:
    return 2 * _taps(x, weight, stride, padding)


@register_flop_formula(torch.ops.nsrlib.adder2d_grads)
def _grads_flops(*arguments: Any, **_: Any) -> int:
    return _input_grad_flops(*arguments) + _weight_grad_flops(*arguments)


def _taps(x: Any, weight: Any, stride: Any, padding: Any) -> int:
    oh, ow = output_size(x[2:], weight[2:], stride, padding)
    o, c, kh, kw = weight
    return x[0] * o * oh * ow * c * kh * kw


def adder2d(x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0, *, gradient: Gradient = "adder") -> Tensor:
    """Adder layer ``-sum |X - W|``: Triton on a GPU, chunked ``torch.cdist`` elsewhere. Gradients once, not twice.

    Under autocast every tensor is cast to float32, as for ``torch.cdist``. (float64 stays.)

    Args:
        x: input ``(N, C_in, H, W)``, float16, bfloat16, float32 or float64, any strides.
        weight: filters ``(C_out, C_in, KH, KW)``, same dtype and device.
        stride: at least 1, one number or ``(vertical, horizontal)``.
        padding: zeros added on every side, likewise.
        gradient: ``adder`` for AdderNet's full-precision and HardTanh gradients, ``sign`` for the derivative.

    Returns:
        ``(N, C_out, OH, OW)`` in the dtype of ``x``, channels_last if ``x`` is.

    Raises:
        ValueError: shapes that do not fit, different devices, stride below 1, negative padding, unknown ``gradient``.
        TypeError: no float type, or different types.

    Example:
        >>> adder2d(torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([[[[2.0]]]]))
        tensor([[[[-1., -3.]]]])
    """
    x, weight = in_autocast(x, weight, float32=True)
    stride, padding = pair(stride), pair(padding)
    check_choice("gradient", gradient, GRADIENTS)
    check_input(x, FLOATS, "; adder2d_int8 takes torch.int8")
    _check(x, weight, stride, padding)
    return _adder2d(x, weight, list(stride), list(padding), gradient)


def adder2d_int8(
    x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0, *, scale: float | None = None
) -> Tensor:
    """Adder layer on int8 features and weights that share one scale; exact, inference only.

    ``|s a - s b| = s |a - b|``, so with a common scale ``s`` (Wang et al., arXiv 2101.10015) nothing is rounded here.
    On a GPU any layout is first copied into planes of words of four channels, which reads whole cache lines.

    Args:
        x: ``(N, C_in, H, W)`` int8, see :func:`quantize_int8`.
        weight: ``(C_out, C_in, KH, KW)`` int8.
        stride, padding: as in :func:`adder2d`; padding is with 0.
        scale: the value of one step, to get float32 outputs.

    Returns:
        ``(N, C_out, OH, OW)``: int32 in steps, or float32 if ``scale`` is given.

    Raises:
        ValueError: as :func:`adder2d`, or so many taps that int32 could overflow.
        TypeError: a type other than int8.

    Example:
        >>> x, weight = torch.tensor([[[[1, 5]]]], dtype=torch.int8), torch.tensor([[[[2]]]], dtype=torch.int8)
        >>> adder2d_int8(x, weight), adder2d_int8(x, weight, scale=0.5)
        (tensor([[[[-1, -3]]]], dtype=torch.int32), tensor([[[[-0.5000, -1.5000]]]]))
    """
    stride, padding = pair(stride), pair(padding)
    check_input(x, (torch.int8,), " (it holds -128 to 127); see quantize_int8")
    _check(x, weight, stride, padding)
    taps = weight[0].numel()
    if taps * 255 >= 2**31:
        raise ValueError(f"weight has {taps} taps a filter: sums up to {taps * 255} exceed int32, {2**31 - 1}")
    return _adder2d_int8(x, weight, list(stride), list(padding), scale)


def quantize_int8(x: Tensor, scale: float, *, saturate: bool = False) -> Tensor:
    """``round(x / scale)`` as int8.

    Raises:
        ValueError: ``scale`` is not positive, or a value leaves -128 to 127 and ``saturate`` is off.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    steps = (x / scale).round_()
    low, high = (float(v) for v in (steps.min(), steps.max())) if steps.numel() else (0.0, 0.0)
    if not saturate and not (low >= -128 and high <= 127):
        raise ValueError(f"x spans {low:.0f} to {high:.0f} steps of scale {scale:g}, int8 holds -128 to 127")
    return steps.clamp_(-128, 127).to(torch.int8)


def _check(x: Tensor, weight: Tensor, stride: HW, padding: HW) -> None:
    check_filters("weight", weight, x, "(C_out, C_in, KH, KW)")
    check_alike(x, weight=weight)
    check_window(x, weight, stride, padding)
