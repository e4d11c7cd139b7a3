"""What adder filters do to constant images, and what a network of them makes of a picture (Song et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.models.addersr import AdderUnit, adder_layers, input_ranges

# --- constant images --------------------------------------------------------------------------------------------------


def dc_response(weight: Tensor, level: Tensor) -> Tensor:
    """``r(s) = -sum_t |s - w_t|``: what each filter answers to constant images.

    ``(O, ...)`` with any number of taps and ``(S,)`` give ``(O, S)``.
    """
    return -(level[None, :, None] - weight.flatten(1)[:, None]).abs().sum(2)


def dc_slope(weight: Tensor, level: Tensor) -> Tensor:
    """Slope of :func:`dc_response`, ``#(w > s) - #(w < s)``; ``(O, S)``, whole numbers from -D to D."""
    w = weight.flatten(1)[:, None]
    s = level[None, :, None]
    return (w > s).sum(2) - (w < s).sum(2)


def difference_filters(taps: Sequence[int], bound: float) -> tuple[Tensor, Tensor]:
    """Two adder filters, weights +-M, of which half the difference is the convolution ``taps`` (of -1, 0, 1) on
    ``|x| <= M``; M is ``bound``. Both as long as ``taps``, float64."""
    c = torch.tensor(taps, dtype=torch.float64)
    if not set(taps) <= {-1, 0, 1}:
        raise ValueError(f"taps must be of -1, 0, 1, got {list(taps)}")
    plus = torch.where(c >= 0, c.new_tensor(bound), -bound)
    return plus, torch.where(c == 0, plus, -plus)


def dc_audit(model: nn.Module, images: Iterable[Tensor]) -> pd.DataFrame:
    """T2d: how a trained network's adder filters answer constant input over the range that their layer really sees.

    Args:
        images: inputs ``(N, C, H, W)`` that show the range.

    Returns:
        One row a filter. layer, filter, taps; low, high: the range; ``slope``: mean slope of :func:`dc_response` over
        it, divided by the taps (-1 to 1; 0: constant levels cancel, as in a high-pass); ``steepest``: the largest
        ``|slope|`` in the range, likewise; ``inside``: share of the weights that lie within the range.
    """
    layers = adder_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no adder layers to audit")
    rows: list[dict[str, Any]] = []
    for name, (low, high) in input_ranges(model, images).items():
        w = layers[name].weight.detach().double().cpu().flatten(1)
        taps = w.shape[1]
        ends = torch.tensor([low, high], dtype=torch.float64)
        r = dc_response(w, ends)
        mean = (r[:, 1] - r[:, 0]) / (max(high - low, 1e-12) * taps)
        # the slope only falls with the level, so its extremes are those at the ends
        steepest = dc_slope(w, ends).abs().amax(1) / taps
        inside = ((w >= low) & (w <= high)).double().mean(1)
        rows += [
            {"layer": name, "filter": k, "taps": taps, "low": low, "high": high, "slope": float(mean[k]),
             "steepest": float(steepest[k]), "inside": float(inside[k])}
            for k in range(len(w))
        ]  # fmt: skip
    return pd.DataFrame(rows)


# --- feature maps -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def unit_traces(model: nn.Module, image: Tensor) -> dict[str, dict[str, Tensor]]:
    """What every adder unit makes of an image, step by step (Figure 2). Evaluation mode.

    Returns:
        Unit by name -> ``input`` and what each step leaves, :meth:`~nsrlib.models.addersr.AdderUnit.trace`.
    """
    units = {name: m for name, m in model.named_modules() if isinstance(m, AdderUnit)}
    if not units:
        raise ValueError(f"{type(model).__name__} has no adder units to look into")
    inputs: dict[str, Tensor] = {}
    handles = [
        unit.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
        for name, unit in units.items()
    ]
    training = model.training
    try:
        model.eval()(image)
        return {name: {"input": x, **units[name].trace(x)} for name, x in inputs.items()}
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of two sets of maps ``(N, C, H, W)`` channel by channel, ``(C,)`` float64; NaN for constant maps."""
    a, b = (m.double().transpose(0, 1).flatten(1) for m in (a, b))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def laplacian_share(maps: Tensor) -> float:
    """Energy of the Laplacian over the energy without the mean, ``(N, C, H, W)``, all channels together.

    The 5-point Laplacian over 8, its gain for a checkerboard: 0 for flat maps, 1 for a checkerboard, 5/16 for noise.
    """
    m = maps.double()
    kernel = m.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]) / 8
    c = m.shape[1]
    fine = F.conv2d(m, kernel.expand(c, 1, 3, 3), groups=c)
    inside = m[..., 1:-1, 1:-1]
    rest = inside - inside.mean((2, 3), keepdim=True)
    return float(fine.square().sum() / rest.square().sum().clamp_min(1e-300))
