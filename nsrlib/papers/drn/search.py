"""How many channels: the search of DRC (Guo et al., TPAMI 2024, arXiv 2207.07929, Sec. 4.1).

Losses are in grey levels (0..255), as in the authors' code, which fixes what a plain gradient step means.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nsrlib.data.patches import Batch, Patches, stream_seed
from nsrlib.models.drn import DRN, check_ratio, dual_regression_loss, full_widths, pyramid
from nsrlib.papers.drn.costs import channel_costs
from nsrlib.training import Recipe, learning_rate

if TYPE_CHECKING:
    import pandas as pd

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def candidate_widths(channels: int, ratio: float, multiple: int = 4) -> tuple[int, ...]:
    """Widths that the search may choose for a layer: :data:`SHARES` of ``(1 - ratio) * channels``.

    Cut to whole numbers, rounded to a multiple of 4 (a remainder of 2 down), at least 4 and at most ``channels``; some
    come twice.
    """
    check_ratio(ratio)
    found = []
    for share in SHARES:
        width = int(share * (1 - ratio) * channels + 1e-9)
        width = multiple * ((width + (multiple - 1) // 2) // multiple)
        found.append(min(max(width, multiple), channels))
    return tuple(found)


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
        self.names = [f"model.{slot.consumer}.weight" for slot in loop.model.slots]
        if len(self.candidates) != len(self.names):
            raise ValueError(f"candidates must be {len(self.names)} lists of widths, got {len(self.candidates)}")

    def weights(self) -> dict[str, Tensor]:
        return dict(self.loop.named_parameters())

    def masked(self, weights: Mapping[str, Tensor], alpha: Tensor) -> dict[str, Tensor]:
        """``weights`` with the masks multiplied in; ``alpha`` is ``(layers, K)``."""
        changed = dict(weights)
        for name, logits, widths in zip(self.names, alpha, self.candidates, strict=True):
            w = weights[name]
            rank = w.detach().abs().sum((0, 2, 3)).argsort(descending=True, stable=True).argsort()
            changed[name] = w * soft_channel_mask(logits, widths, w.shape[1])[rank][:, None, None]
        return changed

    def loss(self, weights: Mapping[str, Tensor], alpha: Tensor, batch: Batch) -> Tensor:
        return functional_call(self.loop, self.masked(weights, alpha), (batch,))


def architecture_gradient(
    relaxed: Relaxed, alpha: Tensor, train: Batch, validation: Batch, virtual_lr: float
) -> tuple[Tensor, Tensor]:
    """Gradient of ``L_val(W - virtual_lr * dL_train/dW, alpha)`` with respect to ``alpha``, and that loss.

    The dual networks are part of W. The inner gradient is taken as a constant: the authors' code intends its dependence
    on ``alpha`` by finite differences, but multiplies by their step where it should divide, and so has none.
    """
    weights = {name: p.detach().requires_grad_() for name, p in relaxed.weights().items()}
    alpha = alpha.detach().requires_grad_()
    gradients = torch.autograd.grad(relaxed.loss(weights, alpha, train), list(weights.values()))
    virtual = {n: (w - virtual_lr * g).detach() for (n, w), g in zip(weights.items(), gradients, strict=True)}
    loss = relaxed.loss(virtual, alpha, validation)
    return torch.autograd.grad(loss, alpha)[0], loss.detach()


@dataclass(frozen=True)
class SearchResult:
    """What :func:`search_widths` found.

    Attributes:
        widths: one per layer, for ``create_model(..., widths=widths)``.
        probabilities: softmax of alpha, ``(layers, K)``. candidates: as many widths.
        multi_adds: of the network with these widths (rule ``macs``, 96x96 input).
        history: step, training and validation loss in grey levels, expected multiply-adds, mean entropy of a layer's
            choice in bits.
    """

    widths: list[int]
    probabilities: np.ndarray
    candidates: np.ndarray
    multi_adds: int
    history: pd.DataFrame


def search_widths(
    model: DRN,
    duals: nn.Module,
    train: Patches,
    validation: Patches,
    ratio: float,
    *,
    steps: int = 2500,
    batch: int = 16,
    lr: float = 1e-4,
    alpha_lr: float = 3e-4,
    lambda_: float = 0.1,
    cost_weight: float = 0.0,
    budget: float | None = None,
    candidates: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> SearchResult:
    """Search the width of every layer (DRC, Sec. 4.1): bi-level, alpha on ``validation``, weights on ``train``.

    Starts from a trained network and its dual networks, which stay as they are; the defaults are the authors'
    settings. The paper has no cost: the ratio merely caps the candidates. With ``cost_weight``, expected multiply-adds
    ``E`` above a ``budget`` B add ``cost_weight * max(0, E / B - 1)`` grey levels to the loss, and the final choice
    meets B. Unlike the authors, the last alpha is taken, not that with the best score on a test set.

    Args:
        train, validation: disjoint patches of one scale and patch size.
        ratio: share of channels to remove.
        lr, alpha_lr: of Adam, both by cosine to 1e-7; alpha has a weight decay of 1e-3, weights a gradient norm of at
            most 5.
        budget: multiply-adds (rule ``macs``, 96x96 input); needs ``cost_weight``.
        candidates: widths to choose from, one list per layer, all of one length; default :func:`candidate_widths`. For
            a search with a budget, give wider ones.
    """
    from tqdm.auto import tqdm

    full = list(full_widths(model.scale, model.num_feats, model.num_blocks).values())
    if model.widths != full:
        raise ValueError("model must be unpruned: the search starts from full widths")
    chosen = [candidate_widths(c, ratio) for c in full] if candidates is None else [tuple(c) for c in candidates]
    if len(chosen) != len(full) or len({len(c) for c in chosen}) != 1:
        raise ValueError(f"candidates must be {len(full)} lists of one length, one for each layer")
    for slot, c, most in zip(model.slots, chosen, full, strict=True):
        if not 1 <= min(c) <= max(c) <= most:
            raise ValueError(f"candidates of {slot.name} must be from 1 to {most}, got {c}")
    costs, fixed = channel_costs(model)
    least = fixed + int(costs @ np.array([min(c) for c in chosen]))
    if (cost_weight > 0) != (budget is not None):
        raise ValueError(f"cost_weight and budget go together, got {cost_weight} and {budget}")
    if budget is not None and budget < least:
        raise ValueError(f"the smallest candidates cost {least:,} multiply-adds, more than budget={budget:,.0f}")

    device = next(model.parameters()).device
    loop = ClosedLoop(copy.deepcopy(model), copy.deepcopy(duals), lambda_).train()
    relaxed = Relaxed(loop, chosen)
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    alpha = (1e-3 * torch.randn(len(full), len(chosen[0]), generator=generator)).to(device, dtype).requires_grad_()
    weights_step = torch.optim.Adam(loop.parameters(), lr)
    alpha_step = torch.optim.Adam([alpha], alpha_lr, weight_decay=1e-3)
    unit = torch.tensor(costs[:, None] * np.array(chosen), device=device, dtype=dtype)  # (layers, K)
    train, validation = train.to(device), validation.to(device)
    rows = []
    for step in tqdm(range(steps), desc="search", unit="step", disable=None if progress is None else not progress):
        for optimiser, start in ((weights_step, lr), (alpha_step, alpha_lr)):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(Recipe(iterations=steps, lr=start), step)
        a = train.batch(batch, stream_seed(seed, step, 0))
        b = validation.batch(batch, stream_seed(seed, step, 1))
        gradient, on_validation = architecture_gradient(relaxed, alpha, a, b, weights_step.param_groups[0]["lr"])
        expected = fixed + (alpha.softmax(1) * unit).sum()
        if budget is not None:
            excess = cost_weight * torch.relu(expected / budget - 1)
            gradient = gradient + torch.autograd.grad(excess, alpha)[0]
        alpha.grad = gradient
        alpha_step.step()
        weights_step.zero_grad()
        on_training = relaxed.loss(relaxed.weights(), alpha.detach(), a)
        on_training.backward()
        nn.utils.clip_grad_norm_(loop.model.parameters(), 5.0)
        weights_step.step()
        p = alpha.detach().softmax(1)
        numbers = on_training, on_validation, expected, -(p * p.log2()).sum(1).mean()
        rows.append((step + 1, *(float(number.detach()) for number in numbers)))
    import pandas as pd

    probabilities = alpha.detach().softmax(1).cpu().numpy()
    widths = discretise(probabilities, chosen, costs, fixed, budget)
    total = fixed + int(costs @ np.array(widths))
    history = pd.DataFrame(rows, columns=["step", "training", "validation", "expected_multi_adds", "entropy"])
    return SearchResult(widths, probabilities, np.array(chosen), total, history)


def discretise(
    probabilities: np.ndarray, candidates: Sequence[Sequence[int]], costs: np.ndarray, fixed: int, budget: float | None
) -> list[int]:
    """Each layer's likeliest width (probabilities of equal candidates are added up).

    While a budget is exceeded, the layer that loses least log-probability per multiply-add saved takes a smaller one.
    """
    layers = []
    for p, widths in zip(probabilities, candidates, strict=True):
        total: dict[int, float] = {}
        for w, share in zip(widths, p, strict=True):
            total[int(w)] = total.get(int(w), 0.0) + float(share)
        layers.append(total)
    chosen = [max(total, key=total.__getitem__) for total in layers]
    while budget is not None and fixed + costs @ np.array(chosen) > budget:
        moves = [
            ((math.log(layers[i][now] + 1e-30) - math.log(p + 1e-30)) / (costs[i] * (now - w)), i, w)
            for i, now in enumerate(chosen)
            for w, p in layers[i].items()
            if w < now
        ]
        if not moves:
            raise ValueError(f"the smallest candidates cost more than budget={budget:,.0f}")
        _, i, w = min(moves)
        chosen[i] = w
    return chosen
