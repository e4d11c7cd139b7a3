"""How many channels: the search of DRC (Guo et al., TPAMI 2024, arXiv 2207.07929, Sec. 4.1).

Losses are in grey levels (0..255), as in the authors' code, which fixes what a plain gradient step means.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nsrlib.data.patches import Batch, Patches, stream_seed
from nsrlib.models.drn import DRN, check_ratio, dual_regression_loss, full_widths, pyramid
from nsrlib.papers.drn.costs import channel_costs
from nsrlib.training import Recipe, learning_rate

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def candidate_widths(channels: int, ratio: float, multiple: int = 4) -> tuple[int, ...]:
    """Widths that the search may choose for a layer: :data:`SHARES` of ``(1 - ratio) * channels``.

    Cut to whole numbers, rounded to a multiple of 4 (a remainder of 2 down), at least 4 and at most ``channels``; some
    come twice.
    """
    check_ratio(ratio)
    cut = (int(share * (1 - ratio) * channels + 1e-9) for share in SHARES)
    rounded = (multiple * ((width + (multiple - 1) // 2) // multiple) for width in cut)
    return tuple(min(max(width, multiple), channels) for width in rounded)


def soft_channel_mask(alpha: Tensor, candidates: Sequence[int] | Tensor, channels: int) -> Tensor:
    """Factor of the channel of each rank, ``(channels,)``: ``m_j = sum of softmax(alpha)_k over c_k > j``."""
    widths = torch.as_tensor(candidates, device=alpha.device)
    counts = widths[:, None] > torch.arange(channels, device=alpha.device)  # (K, channels)
    return (alpha.softmax(0)[:, None] * counts).sum(0)


class ClosedLoop(nn.Module):
    """Network and dual networks as one module that returns the dual regression loss of a batch, in grey levels."""

    def __init__(self, model: DRN, duals: nn.Module | None, lambda_: float = 0.1) -> None:
        super().__init__()
        self.model = model
        self.duals = nn.ModuleList() if duals is None or lambda_ == 0 else duals
        self.lambda_ = lambda_

    def forward(self, batch: Batch) -> Tensor:
        outputs = self.model(batch.input, all_levels=True)
        primal, dual = dual_regression_loss(outputs, pyramid(batch), list(self.duals))  # type: ignore[call-overload]
        return 255 * (primal + self.lambda_ * dual)


class Relaxed:
    """A closed loop whose layers have soft widths: ``loss(weights, alpha, batch)``.

    The kernels that read the channel of rank j (by the L1 norm of these kernels, largest first) are multiplied by
    :func:`soft_channel_mask`, so that one forward pass stands for all candidates, ``(layers, K)``.
    """

    def __init__(self, loop: ClosedLoop, candidates: Sequence[Sequence[int]]) -> None:
        self.loop = loop
        self.candidates = torch.tensor([list(c) for c in candidates])

    def weights(self) -> dict[str, Tensor]:
        return dict(self.loop.named_parameters())

    def loss(self, weights: Mapping[str, Tensor], alpha: Tensor, batch: Batch) -> Tensor:
        masked = dict(weights)
        for slot, logits, widths in zip(self.loop.model.slots, alpha, self.candidates, strict=True):
            name = f"model.{slot.consumer}.weight"
            w = weights[name]
            rank = w.detach().abs().sum((0, 2, 3)).argsort(descending=True, stable=True).argsort()
            masked[name] = w * soft_channel_mask(logits, widths, w.shape[1])[rank][:, None, None]
        return functional_call(self.loop, masked, (batch,))


def architecture_gradient(
    relaxed: Relaxed, alpha: Tensor, train: Batch, validation: Batch, virtual_lr: float
) -> Tensor:
    """Gradient of ``L_val(W - virtual_lr * dL_train/dW, alpha)`` with respect to ``alpha``.

    The dual networks are part of W. The inner gradient is taken as a constant: the authors' code intends its dependence
    on ``alpha`` by finite differences, but multiplies by their step where it should divide, and so has none.
    """
    weights = {name: p.detach().requires_grad_() for name, p in relaxed.weights().items()}
    alpha = alpha.detach().requires_grad_()
    gradients = torch.autograd.grad(relaxed.loss(weights, alpha, train), list(weights.values()))
    virtual = {n: (w - virtual_lr * g).detach() for (n, w), g in zip(weights.items(), gradients, strict=True)}
    return torch.autograd.grad(relaxed.loss(virtual, alpha, validation), alpha)[0]


def search_widths(
    model: DRN,
    duals: nn.Module,
    train: Patches,
    validation: Patches,
    candidates: Sequence[Sequence[int]],
    *,
    steps: int = 2500,
    batch: int = 16,
    lr: float = 1e-4,
    alpha_lr: float = 3e-4,
    lambda_: float = 0.1,
    budget: float | None = None,
    cost_weight: float = 100.0,
    seed: int = 0,
) -> tuple[list[int], np.ndarray]:
    """Search the width of every layer (DRC, Sec. 4.1): bi-level, alpha on ``validation``, weights on ``train``.

    Starts from a trained network and its dual networks, which stay as they are; the defaults are the authors'
    settings. The paper has no cost: the candidates alone cap it. Expected multiply-adds ``E`` above a ``budget`` B add
    ``cost_weight * max(0, E / B - 1)`` grey levels to the loss, and the final choice meets B. Unlike the authors, the
    last alpha is taken, not that with the best score on a test set.

    Args:
        train, validation: disjoint patches of one scale and patch size.
        candidates: widths to choose from, one list per layer, all of one length: the authors' are
            :func:`candidate_widths`; for a search with a budget, give wider ones.
        lr, alpha_lr: of Adam, both by cosine to 1e-7; alpha has a weight decay of 1e-3, weights a gradient norm of at
            most 5.
        budget: multiply-adds (rule ``macs``, 96x96 input).

    Returns:
        One width per layer, for ``create_model(..., widths=widths)``; the softmax of alpha, ``(layers, K)``.
    """
    full = list(full_widths(model.scale, model.num_feats, model.num_blocks).values())
    if model.widths != full:
        raise ValueError("model must be unpruned: the search starts from full widths")
    if len(candidates) != len(full) or len({len(c) for c in candidates}) != 1:
        raise ValueError(f"candidates must be {len(full)} lists of one length, one for each layer")
    for slot, c, most in zip(model.slots, candidates, full, strict=True):
        if not 1 <= min(c) <= max(c) <= most:
            raise ValueError(f"candidates of {slot.name} must be from 1 to {most}, got {c}")
    costs, fixed = channel_costs(model)
    least = fixed + int(costs @ np.array([min(c) for c in candidates]))
    if budget is not None and budget < least:
        raise ValueError(f"the smallest candidates cost {least:,} multiply-adds, more than budget={budget:,.0f}")

    p = next(model.parameters())
    relaxed = Relaxed(ClosedLoop(copy.deepcopy(model), copy.deepcopy(duals), lambda_).train(), candidates)
    generator = torch.Generator().manual_seed(seed)
    alpha = (1e-3 * torch.randn(len(full), len(candidates[0]), generator=generator)).to(p).requires_grad_()
    weights_step = torch.optim.Adam(relaxed.loop.parameters(), lr)
    alpha_step = torch.optim.Adam([alpha], alpha_lr, weight_decay=1e-3)
    unit = torch.tensor(costs[:, None] * np.array(candidates), device=p.device, dtype=p.dtype)  # (layers, K)
    train, validation = train.to(p.device), validation.to(p.device)
    for step in range(steps):
        for optimiser, start in ((weights_step, lr), (alpha_step, alpha_lr)):
            optimiser.param_groups[0]["lr"] = learning_rate(Recipe(iterations=steps, lr=start), step)
        a = train.batch(batch, stream_seed(seed, step, 0))
        b = validation.batch(batch, stream_seed(seed, step, 1))
        alpha.grad = architecture_gradient(relaxed, alpha, a, b, weights_step.param_groups[0]["lr"])
        if budget is not None:
            excess = cost_weight * torch.relu((fixed + (alpha.softmax(1) * unit).sum()) / budget - 1)
            alpha.grad = alpha.grad + torch.autograd.grad(excess, alpha)[0]
        alpha_step.step()
        weights_step.zero_grad()
        relaxed.loss(relaxed.weights(), alpha.detach(), a).backward()
        nn.utils.clip_grad_norm_(relaxed.loop.model.parameters(), 5.0)
        weights_step.step()
    probabilities = alpha.detach().softmax(1).cpu().numpy()
    return discretise(probabilities, candidates, costs, fixed, budget), probabilities


def discretise(
    probabilities: np.ndarray, candidates: Sequence[Sequence[int]], costs: np.ndarray, fixed: int, budget: float | None
) -> list[int]:
    """Each layer's likeliest width (probabilities of equal candidates are added up).

    While a budget is exceeded, the layer that loses least log-probability per multiply-add saved takes a smaller one.
    """
    layers: list[dict[int, float]] = []
    for p, widths in zip(probabilities, candidates, strict=True):
        total = dict.fromkeys(widths, 0.0)
        for width, share in zip(widths, p, strict=True):
            total[width] += float(share)
        layers.append(total)
    chosen = [max(total, key=total.__getitem__) for total in layers]
    while budget is not None and fixed + costs @ np.array(chosen) > budget:
        moves = [
            ((math.log(layers[i][now] + 1e-30) - math.log(p + 1e-30)) / (costs[i] * (now - w)), i, w)
            for i, now in enumerate(chosen)
            for w, p in layers[i].items()
            if w < now
        ]
        _, i, w = min(moves)
        chosen[i] = w
    return chosen
