"""Convolution with input-dependent kernels (NSR, Fan et al., NeurIPS 2020, Eqs. 6, 9 and 10).

A layer owns k kernels ``W^1 ... W^k`` of ``C_out`` filters each. The filters are cut into d *cardinal* groups of
``r = C_out / d``, and a gate ``g``, made elsewhere, weighs the k kernels for each cardinal group j on its own:

    ``What[j r + s] = sum_i g[i, j] W^i[j r + s]``,   ``y = What * x + bhat``,   s = 0 ... r - 1,

the bias mixed by the same gate. A gate belongs to a sample or to a tile of a sample's output; a tile's convolution
reads its neighbours' input, so that no seam appears where two tiles share a gate. (The official evaluation has
overlapping, zero-padded patches instead.) The *hard* mode takes the kernel of the largest gate with weight 1, per
cardinal group (Eq. 6).

Convolution is linear in its kernel, so there are two ways to compute, with multiply-adds per output pixel

==========  =====================================================  ==============================================
aggregated  mix the kernels of a tile, then one convolution        ``C_out D (1 + k / T)``, without ``k / T`` if hard
wide        k convolutions, outputs mixed pixel by pixel           ``k C_out D``
==========  =====================================================  ==============================================

where ``D = C_in KH KW`` and a tile has T pixels. Samples, and tiles of at least ``TILE_PIXELS``, are aggregated.

On a GPU one Triton kernel convolves all samples or tiles, each with its own filters, which it reads by row number: rows
of the mixed kernels, or, if hard, the chosen rows of ``weight`` where they lie. The wide way mixes in registers. Sums
are float32. Elsewhere, and in float64, library convolutions: grouped if aggregated, k plain ones if wide.

Memory beyond inputs and results: aggregated, the mixed kernels, ``C_out D`` a tile, if soft, and in the library ``x``
as tiles with a margin; backward, the float32 gradients of both. Wide: in the Triton kernel nothing, backward and in the
library three results (float32 for 16-bit types) and the gate at every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nsrlib.ops.common import (
    FLOAT32_PRECISIONS,
    HW,
    Float32Precision,
    Pair,
    accumulator,
    cdiv,
    channels_last,
    check_alike,
    check_at_least,
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
from nsrlib.ops.mixed_conv2d import cpu
from nsrlib.ops.mixed_conv2d.gates import (
    TILE_PIXELS,
    Geometry,
    Mode,
    cell_gate,
    geometry,
    one_hot,
    results_as_groups,
    unmix,
)
from nsrlib.ops.mixed_conv2d.reference import mixed_conv2d_ref

__all__ = ["MODES", "TILE_PIXELS", "Mode", "mixed_conv2d", "mixed_conv2d_ref"]

MODES: tuple[str, ...] = ("soft", "hard")


@torch.library.custom_op("nsrlib::mixed_conv2d", mutates_args=())
def _mixed_conv2d(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    tile: list[int],
    mode: str,
    float32_precision: str,
) -> Tensor:
    g = geometry(x.shape, weight.shape, gate.shape, stride, padding, tile)
    if g.n == 0:
        return _result(x, g)
    if has_kernel(x):
        from nsrlib.ops.mixed_conv2d import kernels  # here, because it brings Triton along

        return kernels.forward(x, weight, gate, bias, g, mode, float32_precision)
    if not g.aggregated and mode == "hard":
        gate = one_hot(gate)
    return cpu.forward(x, weight, gate, bias, g, mode)


@torch.library.custom_op("nsrlib::mixed_conv2d_backward", mutates_args=())
def _mixed_conv2d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    tile: list[int],
    mode: str,
    float32_precision: str,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, gate, bias; empty where ``need`` is false. A hard gate counts as 0 and 1."""
    g = geometry(x.shape, weight.shape, gate.shape, stride, padding, tile)
    results = _empty_gradients(x, weight, gate, need)
    if grad.numel() == 0:
        for result in results:
            result.zero_()
        return results
    need_x, need_weight, need_gate, need_bias = need
    dx = d_weight = d_cells = d_bias = None
    weights = one_hot(gate) if mode == "hard" else gate
    if not g.aggregated:
        found = cpu.backward_wide(grad, x, weight, weights, bias, g, need)
    else:
        need_filters = need_weight or need_gate
        wide = accumulator(x.dtype)
        cells = cell_gate(weights).to(wide)
        if has_kernel(x):
            from nsrlib.ops.mixed_conv2d import kernels

            dx, d_filters = kernels.backward(grad, x, weight, gate, g, mode, float32_precision, need_x, need_filters)
            if d_filters is not None:
                # of n float32 terms one by one, the error grows with n: channels first, then the others
                rows, parts = weight.permute(0, 2, 3, 1).to(wide), g.c_out // g.d * g.kernel[0] * g.kernel[1]
                d_weight, d_cells = unmix(cells, rows, d_filters, parts)
                d_weight = d_weight.permute(0, 3, 1, 2)
        else:
            dx, d_filters = cpu.backward(grad, x, weight, gate, g, mode, need_x, need_filters)
            if d_filters is not None:
                d_weight, d_cells = unmix(cells, weight.to(wide), d_filters.to(wide))
        if bias is not None and (need_bias or need_gate):
            d_biases = results_as_groups(grad, g).reshape(g.cells, g.c_out, -1).sum(-1, dtype=wide)
            d_bias, d_cells_bias = unmix(cells, bias.to(wide), d_biases)
            d_cells = d_cells_bias if d_cells is None else d_cells + d_cells_bias
        if d_cells is not None:
            d_cells = d_cells.view(g.n, *g.tiles, g.k, g.d).permute(0, 3, 4, 1, 2).reshape(gate.shape)
        found = [dx, d_weight, d_cells, d_bias]
    dx, d_weight, d_gate, d_bias = map(_fill, results, found, need)
    return dx, d_weight, d_gate, d_bias


def _fill(result: Tensor, value: Tensor | None, wanted: bool) -> Tensor:
    """``value`` in the type and layout of ``result``, copied only if it is not so already."""
    if value is None or not wanted:
        return result
    same = value.dtype == result.dtype and value.stride() == result.stride()
    return value if same else result.copy_(value)


def _empty_gradients(
    x: Tensor, weight: Tensor, gate: Tensor, need: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    last = has_kernel(x)
    dx = empty(x, x.shape, last=last) if need[0] else x.new_empty(0)
    d_weight = empty(weight, weight.shape, last=last and is_channels_last(weight)) if need[1] else x.new_empty(0)
    d_gate, d_bias = (
        x.new_empty(shape if wanted else 0) for shape, wanted in ((gate.shape, need[2]), (weight.shape[:1], need[3]))
    )
    return dx, d_weight, d_gate, d_bias


def _result(x: Tensor, g: Geometry) -> Tensor:
    """Kernels work on channels last; the library folds samples into channels, and that is the other layout."""
    return empty(x, (g.n, g.c_out, *g.out), last=has_kernel(x))


@_mixed_conv2d.register_fake
def _(x: Tensor, weight: Tensor, gate: Tensor, bias: Any, stride: Any, padding: Any, tile: Any, *_: Any) -> Tensor:
    return _result(x, geometry(x.shape, weight.shape, gate.shape, stride, padding, tile))


@_mixed_conv2d_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, gate: Tensor, *more: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_gradients(x, weight, gate, need=more[-1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, gate, bias, *ctx.options = inputs
    ctx.save_for_backward(x, weight, gate, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, gate, bias = ctx.saved_tensors
    need = list(ctx.needs_input_grad[:4])
    found = _mixed_conv2d_backward(grad, x, weight, gate, bias, *ctx.options, need)
    return *(t if wanted else None for t, wanted in zip(found, need, strict=True)), None, None, None, None, None


_mixed_conv2d.register_autograd(_backward, setup_context=_setup_context)


_mixed_conv2d.register_vmap(vmap_rule(_mixed_conv2d))
_mixed_conv2d_backward.register_vmap(vmap_rule(_mixed_conv2d_backward))


# A multiply-add counts as two, biases nothing, as in PyTorch's own convolutions. Mixing kernels counts if soft;
# choosing does not. The wide way counts as what it is: k convolutions, and k multiply-adds for each output.


@register_flop_formula(torch.ops.nsrlib.mixed_conv2d)
def _flops(
    x: Any, weight: Any, gate: Any, bias: Any, stride: Any, padding: Any, tile: Any, mode: str, *_: Any, **__: Any
) -> int:
    g = geometry(x, weight, gate, stride, padding, tile)
    outputs = g.n * g.out[0] * g.out[1] * g.c_out
    if not g.aggregated:
        return 2 * outputs * g.k * (g.taps + 1)
    return 2 * (outputs * g.taps + (_mixing(g) if mode == "soft" else 0))


@register_flop_formula(torch.ops.nsrlib.mixed_conv2d_backward)
def _backward_flops(
    grad: Any, x: Any, weight: Any, gate: Any, bias: Any, stride: Any, padding: Any, tile: Any, mode: str,
    float32_precision: str, need: Sequence[bool], *_: Any, **__: Any,
) -> int:  # fmt: skip
    g = geometry(x, weight, gate, stride, padding, tile)
    need_x, need_weight, need_gate, _need_bias = need
    outputs = g.n * g.out[0] * g.out[1] * g.c_out
    if not g.aggregated:
        # the gate into the gradient; a convolution for each; products and sums for the gate
        return outputs * g.k * (1 + 2 * g.taps * (need_x + need_weight + need_gate) + 2 * need_gate)
    mixings = (need_x and mode == "soft") + 2 * (need_weight or need_gate)
    return 2 * (outputs * g.taps * (need_x + (need_weight or need_gate)) + mixings * _mixing(g))


def _mixing(g: Geometry) -> int:
    return g.cells * g.k * g.c_out * g.taps


def mixed_conv2d(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    *,
    tile: Pair | None = None,
    mode: Mode = "soft",
    float32_precision: Float32Precision = "tf32x3",
) -> Tensor:
    """Convolution with k kernels mixed by a gate per sample or per tile: Triton on a GPU, the library elsewhere.

    Gradients once, not twice: of x, weight, bias and gate. In the hard mode that of the gate is the straight-through
    one, ``dL/dg[i, j] = <dL/dy_j, W^i_j * x + b^i_j>`` for all k, chosen or not, as of a soft gate of zeros and ones.
    Under autocast every tensor is cast to its type, as for a convolution.

    Args:
        x: ``(N, C_in, H, W)``, float16, bfloat16, float32 (or float64, library only), any strides; on a GPU channels
            last is read as it is.
        weight: ``(k C_out, C_in, KH, KW)``, filter ``i C_out + j r + s`` belongs to kernel group i and, within it, to
            cardinal group j; ``r = C_out / d``. Weight norm, if any, has been applied. A kernel that chooses reads
            it channels last; any other layout is copied first.
        gate: weights of the kernel groups, *after* softmax or sigmoid (no sum is enforced): ``(N, k, d)``, or with
            ``tile`` ``(N, k, d, GH, GW)``, ``GH = ceil(OH / tile height)``. In the hard mode only their order matters,
            so logits will do, and of equals the first counts.
        bias: ``(k C_out,)`` or None, mixed or chosen like the filters.
        stride: at least 1, one number or ``(vertical, horizontal)``.
        padding: zeros added on every side, likewise.
        tile: output pixels that share a gate, likewise, counted from the top left; 1 for a gate a pixel, None for a
            gate a sample. Tiles at the right and bottom end may be cut.
        mode: ``"soft"`` or ``"hard"``. Tiles below ``TILE_PIXELS`` (64 pixels) save no work in the hard mode.
        float32_precision: how kernels multiply float32 on NVIDIA tensor cores, as in :func:`nsrlib.ops.bsconv2d`.
            Plays no part for other types, the library, or AMD. The gradients of weight and gate also come from small
            matrix products of PyTorch's, in float32 unless ``torch.set_float32_matmul_precision`` says otherwise.

    Returns:
        ``(N, C_out, OH, OW)``; channels last from a kernel, contiguous from the library.

    Raises:
        ValueError: shapes that do not fit, a width that k or d does not divide, different devices, stride or tile below
            1, negative padding, unknown mode or precision.
        TypeError: no float type, or different types.

    Example:
        >>> x, weight = torch.ones(2, 1, 1, 3), torch.tensor([1.0, 10.0]).view(2, 1, 1, 1)  # k = 2 kernels, 1x1
        >>> gate = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).view(2, 2, 1)  # d = 1
        >>> mixed_conv2d(x, weight, gate)[:, 0, 0]
        tensor([[5.5000, 5.5000, 5.5000],
                [7.7500, 7.7500, 7.7500]])
        >>> mixed_conv2d(x, weight, gate, mode="hard")[:, 0, 0, 0]
        tensor([ 1., 10.])
    """
    x, weight, gate, bias = in_autocast(x, weight, gate, bias)
    stride, padding = pair(stride), pair(padding)
    tile = None if tile is None else pair(tile)
    check_choice("mode", mode, MODES)
    check_choice("float32_precision", float32_precision, FLOAT32_PRECISIONS)
    check_input(x)
    check_filters("weight", weight, x, "(k C_out, C_in, KH, KW)")
    check_window(x, weight, stride, padding)
    check_at_least(1, tile=tile or (1, 1))
    _check_gate(x, weight, gate, output_size(x.shape[2:], weight.shape[2:], stride, padding), tile)
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias must be ({weight.shape[0]},) to fit weight, got {tuple(bias.shape)}")
    check_alike(x, weight=weight, gate=gate, bias=bias)
    if has_kernel(x):  # here, not in the operator: the copies also serve the backward pass
        x = channels_last(x)
        if mode == "hard":
            weight = channels_last(weight)
    return _mixed_conv2d(x, weight, gate, bias, list(stride), list(padding), list(tile or ()), mode, float32_precision)


def _check_gate(x: Tensor, weight: Tensor, gate: Tensor, out: HW, tile: HW | None) -> None:
    axes = "(N, k, d)" if tile is None else "(N, k, d, GH, GW) with tile"
    if gate.ndim != (3 if tile is None else 5):
        hint = "; give tile for a gate map" if tile is None and gate.ndim == 5 else ""
        raise ValueError(f"gate must be {axes}, got {tuple(gate.shape)}{hint}")
    n, k, d = gate.shape[:3]
    if n != x.shape[0]:
        raise ValueError(f"gate {tuple(gate.shape)} is for {n} samples, x has {x.shape[0]}")
    if k == 0 or weight.shape[0] % k:
        raise ValueError(f"weight has {weight.shape[0]} filters, which the k = {k} of gate does not divide")
    c_out = weight.shape[0] // k
    if d == 0 or c_out % d:
        raise ValueError(f"weight has {c_out} filters a kernel, which the d = {d} of gate does not divide")
    largest = max(x.shape[1] * x.shape[2] * x.shape[3], c_out * out[0] * out[1])
    if has_kernel(x) and largest >= 2**31:
        raise ValueError(f"x and the result must have fewer than 2**31 elements a sample on a GPU, got {largest}")
    if has_kernel(x) and weight.numel() >= 2**31:
        raise ValueError(f"weight must have fewer than 2**31 elements on a GPU, got {weight.numel()}")
    tiles = () if tile is None else (cdiv(out[0], tile[0]), cdiv(out[1], tile[1]))
    if gate.shape[3:] != tiles:
        raise ValueError(f"gate must have {tiles} tiles of {tile} for a result of {out}, got {tuple(gate.shape[3:])}")
