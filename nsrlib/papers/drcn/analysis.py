"""What can be said about DRCN without training it: sizes, receptive fields, how gradients travel, what fusion may gain.

The tables are :class:`pandas.DataFrame`; each row has the law beside what was counted or measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn

from nsrlib.models.drcn import DRCN, loss_terms

# --- sizes ------------------------------------------------------------------------------------------------------------

_DESIGNS = {  # share_recursion, share_recon
    "a: shared": (True, True),
    "b: own reconstructions": (True, False),
    "chain of different layers": (False, True),
    "c: nothing shared": (False, False),
}


def parameters(recursions: int, features: int = 256, design: str = "a") -> int:
    """Parameters of a design of Fig. 3 for one channel and the additive skip, without the D weights of the ensemble.

    Args:
        design: ``a``, ``b``, ``c``, or ``chain`` (D different layers, one reconstruction).
    """
    d, f = recursions, features
    embed, inner, recon = 10 * f + 9 * f * f + f, 9 * f * f + f, 9 * f * f + f + 9 * f + 1
    laws = {
        "a": embed + inner + recon,
        "b": embed + inner + d * recon,
        "chain": embed + d * inner + recon,
        "c": d * embed + d * (d + 1) // 2 * inner + d * recon,
    }
    if design not in laws:
        raise ValueError(f"design must be one of {', '.join(laws)}, got {design!r}")
    return laws[design]


def parameter_laws(depths: Sequence[int] = tuple(range(1, 21)), features: int = 256) -> pd.DataFrame:
    """Fig. 3's three designs and a plain chain: columns design, depth, params (counted, without the ensemble's D
    weights), law (:func:`parameters`)."""
    rows = []
    for design, (recursion, recon) in _DESIGNS.items():
        for d in depths:
            with torch.device("meta"):
                net = DRCN(features=features, recursions=d, share_recursion=recursion, share_recon=recon)
            counted = sum(p.numel() for p in net.parameters()) - d
            rows.append((design, d, counted, parameters(d, features, design.split(":")[0].split()[0])))
    return pd.DataFrame(rows, columns=["design", "depth", "params", "law"])


def macs(recursions: int, features: int = 256, size: tuple[int, int] = (720, 1280), *, collapsed: bool = False) -> int:
    """Multiply-adds of all D predictions of one luma image of ``size`` (H, W), whatever the scale; additive skip.

    ``collapsed``: of :meth:`DRCN.collapsed`, whose last layer runs once.
    """
    f, d = features, recursions
    return size[0] * size[1] * (9 * f + 9 * f * f * (1 + 2 * d) + 9 * f * (1 if collapsed else d))


# --- receptive fields -------------------------------------------------------------------------------------------------


def receptive_field(recursions: int) -> int:
    """Side of the square that an output pixel depends on: D + 4 convolutions of 3x3 in the longest chain."""
    return 2 * recursions + 9


def footprint(recursions: int, identity: bool = False, side: int = 0) -> Tensor:
    """Where the gradient of one output pixel is not zero, for positive weights: ``(side, side)`` bool.

    Args:
        identity: with the recursion as it is initialised, which does not widen anything.
        side: of the input, the pixel in its middle; 0: a little more than needed.
    """
    net = DRCN(features=2, recursions=recursions, skip="none").double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if not (identity and name.startswith("recur")):
                p.fill_(0.1)
    side = side or receptive_field(recursions) + 4
    x = torch.ones(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[0][0, 0, side // 2, side // 2], x)
    return gradient[0, 0] != 0


def measured_receptive_field(recursions: int, identity: bool = False) -> int:
    """Side of the square that :func:`footprint` finds."""
    seen = footprint(recursions, identity)
    rows, columns = (int(seen.any(axis).sum()) for axis in (1, 0))
    assert rows == columns
    return rows


def receptive_fields(depths: Sequence[int] = (1, 6, 9, 11, 16, 20)) -> pd.DataFrame:
    """Columns depth, layers (of the longest chain), law, measured (from gradients), at_start (with W the identity).

    41 pixels for D = 16; the 21 that is sometimes quoted is that of D = 6.
    """
    rows = [
        (d, d + 4, receptive_field(d), *(measured_receptive_field(d, start) for start in (False, True))) for d in depths
    ]
    return pd.DataFrame(rows, columns=["depth", "layers", "law", "measured", "at_start"])


# --- gradients --------------------------------------------------------------------------------------------------------

LOSSES = {"last": "last output only", "recursions": "l1: every recursion", "ensemble": "l2: weighted sum"}


def grad_profile(model: DRCN, batch: tuple[Tensor, Tensor], loss: str = "recursions") -> dict[str, Any]:
    """Gradients of one loss along the recursion.

    Args:
        batch: input and target, ``(N, C, H, W)``, of the model's dtype.
        loss: a key of :data:`LOSSES`.

    Returns:
        ``loss``; ``weight``: dL/dW, ``(F, F, 3, 3)``; ``states``: norms of dL/dH_0 .. dL/dH_D.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if not (model.share_recursion and model.ensemble):
        raise ValueError("grad_profile takes a DRCN with an ensemble and a shared recursion")
    x, target = batch
    states = list(model.states(x))
    ys = [model.reconstruct(h, x, d) for d, h in enumerate(states) if d]
    value = loss_terms(model.combine(ys), ys, target)[loss]
    weight = cast(nn.Conv2d, model.recur[0]).weight
    gradient, *along = torch.autograd.grad(value, [weight, *states])
    return {"loss": value.item(), "weight": gradient, "states": torch.stack([g.norm() for g in along]).tolist()}


def gradient_identities(
    x: Tensor, target: Tensor, depths: Sequence[int] = tuple(range(1, 17)), features: int = 16
) -> pd.DataFrame:
    """The gradient of an identity recursion is D times (last output only) or (D + 1) / 2 times that of one step.

    With W the identity and ``H_0 >= 0`` every ``H_d`` is ``H_0``, so each of the D steps passes the same gradient on.
    The last prediction's loss sees D steps; the mean over all predictions, and their equally weighted sum, see
    ``1 .. D`` of them: (D + 1) / 2 on average.

    Returns:
        Columns depth, loss, factor (norm of dL/dW over that of D = 1), law, error (largest difference from law times
        the gradient of D = 1, relative to its largest element), along (largest over smallest norm of dL/dH_d, d = 0 ..
        D - 1, of the last output's loss: 1).
    """
    batch = x.double(), target.double()
    rows = []
    one = grad_profile(network_at_start(features, 1, "identity"), batch, "last")["weight"]
    for d in depths:
        net = network_at_start(features, d, "identity")
        states = grad_profile(net, batch, "last")["states"][:-1]
        for loss in LOSSES:
            gradient = grad_profile(net, batch, loss)["weight"]
            law = float(d) if loss == "last" else (d + 1) / 2
            factor = (gradient.norm() / one.norm()).item()
            error = ((gradient - law * one).abs().max() / (law * one).abs().max()).item()
            rows.append((d, loss, factor, law, error, max(states) / min(states)))
    return pd.DataFrame(rows, columns=["depth", "loss", "factor", "law", "error", "along"])


def gradient_propagation(
    x: Tensor,
    target: Tensor,
    depths: Sequence[int] = tuple(range(1, 17)),
    inits: Sequence[str | float] = ("identity", 0.5, 0.7, 1.0, 1.3, 1.6),
    features: int = 64,
) -> pd.DataFrame:
    """Vanishing and exploding gradients by depth, with and without recursive supervision, before any training.

    One pass over the deepest recursion serves all depths, whose predictions are the same; the gradient of ``l1`` is the
    mean of those of the single predictions.

    Args:
        inits: the recursion's initialisation: ``identity``, or a factor of He's.

    Returns:
        Columns init, depth, loss (``last`` is without supervision of the recursions, ``recursions`` with it, and
        ``ensemble``, equally weighted), weight (norm of dL/dW), first and last (norms of dL/dH_0 and dL/dH_D), ratio
        (first over last: of ``last``, what the chain of D steps does to a gradient).
    """
    x, target = x.double(), target.double()
    rows = []
    for init in inits:
        net = network_at_start(features, max(depths), init)
        states = list(net.states(x))
        ys = [net.reconstruct(h, x, d) for d, h in enumerate(states) if d]
        weight = cast(nn.Conv2d, net.recur[0]).weight
        sums = [torch.zeros_like(weight), torch.zeros_like(states[0])]
        for d in range(1, max(depths) + 1):
            mean = torch.stack(ys[:d]).mean(0) if d in depths else ys[d - 1]
            losses = loss_terms(mean, ys[d - 1 : d], target)
            seen = [weight, states[0], states[d]]
            last = torch.autograd.grad(losses["last"], seen, retain_graph=True)
            sums = [total + g for total, g in zip(sums, last, strict=False)]
            if d not in depths:
                continue
            found = {
                "last": last,
                "recursions": (sums[0] / d, sums[1] / d, last[2] / d),
                "ensemble": torch.autograd.grad(losses["ensemble"], seen, retain_graph=True),
            }
            for loss, gradients in found.items():
                w, first, end = (g.norm().item() for g in gradients)
                ratio = first / end if end else float("nan")
                rows.append((str(init), d, loss, w, first, end, ratio))
    return pd.DataFrame(rows, columns=["init", "depth", "loss", "weight", "first", "last", "ratio"])


def network_at_start(features: int, recursions: int, init: str | float) -> DRCN:
    """The same embedding, recursion and reconstruction for every depth and, but for its factor, every He recursion."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = DRCN(1, features, recursions, recur_init=init).double()
    nn.init.constant_(net.w, 1 / recursions)  # which float32 has rounded
    return net


# --- what fusing recursions can gain ----------------------------------------------------------------------------------


def fused_recursion_bound(features: int = 256, tile: int = 32, fused: int = 2) -> dict[str, float | bool]:
    """Arithmetic for a kernel that applies ``fused`` recursions to a tile before it writes, against library calls.

    Nothing is measured: an H200 by its data sheet, in bfloat16. Library calls read and write a feature map once per
    recursion; the kernel once per ``fused``, but computes a halo of one pixel per recursion that is still to come. Both
    are bounded below by their arithmetic and by their traffic; weights are taken to stay in the L2 cache.

    Args:
        tile: side of the finished part.

    Returns:
        ``weight_bytes``; ``weights_fit``, ``state_fits``: in shared memory (the state with its halo, once);
        ``recompute``: multiply-adds over those of library calls; ``library_arithmetic``, ``library_traffic``,
        ``fused_arithmetic``, ``fused_traffic``: seconds per recursion and megapixel; ``gain``: bound of the library
        calls over that of the kernel, the most that fusing can gain if both reach their bounds.
    """
    for name, value in (("features", features), ("tile", tile), ("fused", fused)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
    operations, bandwidth, on_chip = 990e12, 4.8e12, 227 * 1024  # each second: two per multiply-add, bytes; bytes
    pixels, width = 2**20, 2  # bytes a value
    work = 2 * 9 * features**2 * pixels / operations
    traffic = 2 * features * width * pixels / bandwidth
    recompute = sum((tile + 2 * k) ** 2 for k in range(fused)) / (fused * tile**2)
    reads = ((tile + 2 * fused) ** 2 + tile**2) / (2 * tile**2)
    weight_bytes = 9 * features**2 * width
    fused_work, fused_traffic = work * recompute, traffic * reads / fused
    return {
        "weight_bytes": weight_bytes,
        "weights_fit": weight_bytes <= on_chip,
        "state_fits": (tile + 2 * fused) ** 2 * features * width <= on_chip,
        "recompute": recompute,
        "library_arithmetic": work,
        "library_traffic": traffic,
        "fused_arithmetic": fused_work,
        "fused_traffic": fused_traffic,
        "gain": max(work, traffic) / max(fused_work, fused_traffic),
    }
