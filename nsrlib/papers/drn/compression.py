"""Smaller super-resolution networks: how many channels (search) and which (pruning), judged by dual regression.

Source: Guo et al., "Towards Lightweight Super-Resolution with Dual Regression Learning" (DRC, TPAMI 2024, arXiv
2207.07929), Sec. 4, with the criteria it is compared with. Works on :class:`~nsrlib.models.drn.DRN`. A pruned network
is an ordinary DRN with smaller ``widths``, no mask.

All losses here are in grey levels (0..255), as in the authors' code: that fixes what ``gamma`` and a plain gradient
step mean. Where code and paper part ways, see :func:`search_widths` and :func:`prune`.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nsrlib.complexity import count, lr_size
from nsrlib.data.patches import Batch, Patches, stream_seed
from nsrlib.models import create_model
from nsrlib.models.drn import (
    DRN,
    Slot,
    check_ratio,
    check_widths,
    drn_losses,
    dual_regression_loss,
    full_widths,
    pyramid,
    searched_widths,
    uniform_widths,
)
from nsrlib.training import Recipe, TrainingResult, fit, learning_rate

if TYPE_CHECKING:
    import pandas as pd

Criterion = Literal["drc", "dcp", "cp", "thinet", "l1", "random"]

CRITERIA: dict[str, str] = {
    "drc": "greedy: the channel whose kernel has the largest gradient of reconstruction error and dual regression loss",
    "dcp": "the same without the dual term (Zhuang et al., NeurIPS 2018, whose classifier has no meaning here)",
    "cp": "LASSO on the channels' contributions (He et al., ICCV 2017)",
    "thinet": "greedy: remove the channels whose summed contribution is smallest (Luo et al., ICCV 2017)",
    "l1": "largest sum of absolute weights in the convolution that reads the channel",
    "random": "drawn from the seed",
}


# --- cost -------------------------------------------------------------------------------------------------------------

CONVENTION = "convolutions: one multiply-add per use of a weight and one per addition of a bias"


def channel_costs(model: DRN, input_size: tuple[int, int] = (96, 96)) -> tuple[np.ndarray, int]:
    """Multiply-adds (rule ``macs``) that one inner channel of each layer costs, and those that stay at width 0.

    The cost of a network is linear in its widths: ``fixed + costs @ widths``, exactly.
    """
    counted = count(copy.deepcopy(model).float(), input_size)
    by_name = {row["name"]: row["multi_adds"] for row in counted.layers}
    pairs = zip(model.slots, model.widths, strict=True)
    costs = np.array([(by_name[s.producer] + by_name[s.consumer]) // width for s, width in pairs])
    return costs, counted.multi_adds - int(costs @ np.array(model.widths))


def complexity_table() -> pd.DataFrame:
    """Parameters and multiply-adds of every DRN of the papers, in both conventions of the input's size.

    Columns: model, scale, params; ``multi_adds_96`` for a 96x96 input, which the DRN papers use at every scale without
    saying so, and ``multi_adds_720p`` for a 1280x720 output, in G, after :data:`CONVENTION`; ``thop_96``: by thop's
    rule, which adds global pooling and LeakyReLU and gives the printed digits of the pruned networks.
    """
    import pandas as pd

    rows = []
    for scale in (4, 8):
        full = list(full_widths(scale, 8 if scale == 8 else 16, 30).values())
        nets: dict[str, tuple[str, list[int] | None]] = {"DRN-S": ("drn_s", None), "DRN-L": ("drn_l", None)}
        nets |= {f"DRN-S{r:.0%}"[:-1]: ("drn_s", searched_widths(r, scale)) for r in (0.3, 0.5, 0.7)}
        nets |= {f"uniform {r:.0%}": ("drn_s", uniform_widths(full, r)) for r in (0.3, 0.5, 0.7)}
        for name, (base, widths) in nets.items():
            with torch.device("meta"):
                model = create_model(base, scale, widths=widths)
            counted = count(model, (96, 96), rule="thop")
            convs = [(r["multi_adds"], r["output"][2:] == (1, 1)) for r in counted.layers if r["type"] == "Conv2d"]
            # all but the attention's layers grow with the pixels
            once, h_w = sum(n for n, pooled in convs if pooled), lr_size(scale)
            small = sum(n for n, _ in convs)
            large = once + (small - once) * h_w[0] * h_w[1] / 96**2
            rows.append(
                {
                    "model": name,
                    "scale": scale,
                    "params": counted.params,
                    "multi_adds_96": small / 1e9,
                    "multi_adds_720p": large / 1e9,
                    "thop_96": counted.multi_adds / 1e9,
                }
            )
    return pd.DataFrame(rows)


def widths_at_cost(
    model: DRN, budget: float, kind: Literal["uniform", "random"], *, least: float = 0.25, seed: int = 0
) -> list[int]:
    """Widths that cost ``budget`` multiply-adds, or less by no more than one channel: controls for a search.

    Args:
        model: the unpruned network. budget: in multiply-adds (rule ``macs``) at 96x96, as :func:`channel_costs`.
        kind: ``uniform``: the same share of every layer; ``random``: each layer's share drawn from the seed first.
        least: smallest share of a layer that is drawn.

    Raises:
        ValueError: a budget that no widths meet.
    """
    costs, fixed = channel_costs(model)
    full = np.array(list(full_widths(model.scale, model.num_feats, model.num_blocks).values()))
    if not fixed + costs.sum() <= budget <= fixed + costs @ full:
        raise ValueError(
            f"budget must be between {fixed + costs.sum():,} (one channel each) and {fixed + costs @ full:,} "
            f"multiply-adds, got {budget:,.0f}"
        )
    if kind not in ("uniform", "random"):
        raise ValueError(f"kind must be 'uniform' or 'random', got {kind!r}")
    dice = np.random.default_rng(seed)
    share = np.ones(len(full)) if kind == "uniform" else dice.uniform(least, 1, len(full))
    # clipped shares of all layers, times a common factor found by bisection
    low, high = 0.0, 1 / share.min()
    for _ in range(60):
        middle = (low + high) / 2
        widths = np.clip(np.floor(full * share * middle), 1, full)
        low, high = (middle, high) if fixed + costs @ widths <= budget else (low, middle)
    widths = np.clip(np.floor(full * share * low), 1, full)
    for i in dice.permutation(len(full)):  # one channel more wherever one fits
        if widths[i] < full[i] and fixed + costs @ widths + costs[i] <= budget:
            widths[i] += 1
    return [int(w) for w in widths]


# --- removing channels ------------------------------------------------------------------------------------------------


def keep_channels(model: DRN, slot: Slot, channels: Sequence[int]) -> None:
    """Remove all other channels of one layer, in place: smaller convolutions, no mask.

    Raises:
        ValueError: none, repeated or unknown channels; names the layer.
    """
    producer, consumer = _conv(model, slot.producer), _conv(model, slot.consumer)
    index = torch.as_tensor(_checked_channels(slot, channels, consumer.in_channels), device=consumer.weight.device)
    rows = (slot.group * index[:, None] + torch.arange(slot.group, device=index.device)).flatten()
    producer.weight = _kept(producer.weight, rows)
    if producer.bias is not None:
        producer.bias = _kept(producer.bias, rows)
    consumer.weight = _kept(consumer.weight, (slice(None), index))
    producer.out_channels, consumer.in_channels = len(rows), len(index)


def shrink(model: DRN, kept: Mapping[str, Sequence[int]]) -> DRN:
    """A smaller copy that keeps the channels named for each layer (all where a layer is not named)."""
    small = copy.deepcopy(model)
    by_name = {slot.name: slot for slot in small.slots}
    if unknown := sorted(set(kept) - set(by_name)):
        raise ValueError(f"no layer {unknown[0]!r}; there are: {', '.join(by_name)}")
    for name, channels in kept.items():
        keep_channels(small, by_name[name], channels)
    return small


def masked(model: DRN, kept: Mapping[str, Sequence[int]]) -> DRN:
    """A copy of full size in which the other channels are read with zero kernels: what :func:`shrink` computes."""
    copied = copy.deepcopy(model)
    for slot in copied.slots:
        if slot.name in kept:
            consumer = _conv(copied, slot.consumer)
            gone = torch.ones(consumer.in_channels, dtype=torch.bool)
            gone[_checked_channels(slot, kept[slot.name], consumer.in_channels)] = False
            with torch.no_grad():
                consumer.weight[:, gone] = 0
    return copied


def _conv(model: nn.Module, name: str) -> nn.Conv2d:
    found = model.get_submodule(name)
    assert isinstance(found, nn.Conv2d)
    return found


def _kept(parameter: Tensor, index: Any) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[index].clone(), parameter.requires_grad)


def _checked_channels(slot: Slot, channels: Sequence[int], width: int) -> list[int]:
    chosen = sorted(int(c) for c in channels)
    if not chosen or len(set(chosen)) != len(chosen) or not 0 <= chosen[0] <= chosen[-1] < width:
        raise ValueError(f"channels of {slot.name} must be different numbers from 0 to {width - 1}, got {chosen}")
    return chosen


# --- how many: the channel-number search ------------------------------------------------------------------------------

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
    """Factor of the channel of each rank, ``(channels,)``: ``m_j = sum of softmax(alpha)_k over c_k > j``.

    Args:
        alpha: ``(K,)`` logits, differentiable. candidates: K widths.
    """
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
    :func:`soft_channel_mask`, so that one forward pass stands for all candidates.

    Attributes:
        candidates: ``(layers, K)``.
    """

    def __init__(self, loop: ClosedLoop, candidates: Sequence[Sequence[int]]) -> None:
        self.loop = loop
        self.candidates = torch.tensor([list(c) for c in candidates])
        self.names = [f"model.{slot.consumer}.weight" for slot in loop.model.slots]
        if len(self.candidates) != len(self.names):
            raise ValueError(f"candidates must be {len(self.names)} lists of widths, got {len(self.candidates)}")

    def weights(self) -> dict[str, Tensor]:
        """The module's own parameters by name."""
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
    relaxed: Relaxed, alpha: Tensor, train: Batch, validation: Batch, virtual_lr: float, second_order: bool = False
) -> tuple[Tensor, Tensor]:
    """Gradient of ``L_val(W - virtual_lr * dL_train/dW, alpha)`` with respect to ``alpha``, and that loss.

    The dual networks are part of W. With ``second_order`` the dependence of the inner gradient on ``alpha`` counts too
    (exactly, by differentiating twice); otherwise that gradient is taken as a constant. The authors' code intends the
    former by finite differences, multiplies by their step where it should divide, and thus does the latter.
    """
    weights = {name: p.detach().requires_grad_() for name, p in relaxed.weights().items()}
    alpha = alpha.detach().requires_grad_()
    gradients = torch.autograd.grad(
        relaxed.loss(weights, alpha, train), list(weights.values()), create_graph=second_order
    )
    virtual = {n: w - virtual_lr * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
    if not second_order:
        virtual = {name: w.detach() for name, w in virtual.items()}
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
    virtual_lr: float | None = None,
    second_order: bool = False,
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
        steps: of alpha and the weights, alternately. batch: patches each.
        lr, alpha_lr: of Adam, both by cosine to 1e-7; alpha has a weight decay of 1e-3, weights a gradient norm of at
            most 5.
        virtual_lr: of the plain virtual step, default ``lr``. second_order: see :func:`architecture_gradient`.
        budget: multiply-adds (rule ``macs``, 96x96 input); needs ``cost_weight``.
        candidates: widths to choose from, one list per layer, all of one length; default :func:`candidate_widths`. For
            a search with a budget, give wider ones.

    Raises:
        ValueError: a ratio outside (0, 1), candidates that do not fit, a budget without weight or out of reach.
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
        ahead = weights_step.param_groups[0]["lr"] if virtual_lr is None else virtual_lr
        gradient, on_validation = architecture_gradient(relaxed, alpha, a, b, ahead, second_order)
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
        rows.append(
            {
                "step": step + 1,
                "training": float(on_training.detach()),
                "validation": float(on_validation),
                "expected_multi_adds": float(expected.detach()),
                "entropy": float(-(p * p.log2()).sum(1).mean()),
            }
        )
    import pandas as pd

    probabilities = alpha.detach().softmax(1).cpu().numpy()
    widths = discretise(probabilities, chosen, costs, fixed, budget)
    total = fixed + int(costs @ np.array(widths))
    return SearchResult(widths, probabilities, np.array(chosen), total, pd.DataFrame(rows))


def discretise(
    probabilities: np.ndarray,
    candidates: Sequence[Sequence[int]],
    costs: np.ndarray,
    fixed: int,
    budget: float | None = None,
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


# --- which: pruning ---------------------------------------------------------------------------------------------------


def calibration(data: Patches, batches: int = 10, batch: int = 16, seed: int = 0) -> list[Batch]:
    """The batches that pruning looks at; the same for the same seed."""
    return [data.batch(batch, stream_seed(seed, k)) for k in range(batches)]


@dataclass
class LayerStatistics:
    """Everything about a convolution's inputs X and wanted outputs Y that selection and refitting need, float64.

    X are the input windows at the sampled positions, ``c * K * K`` numbers and a 1 for the bias; Y is what the unpruned
    network's convolution gives there, *with* its bias. Contributions of channels are compared with Y minus the bias.

    Attributes:
        gram: ``X^T X``. cross: ``X^T Y``. energy: sum of Y squared. samples: rows of X.
        weight: ``(out, c, K * K)`` before pruning. bias: ``(out,)`` or None.
    """

    gram: Tensor
    cross: Tensor
    energy: float
    samples: int
    weight: Tensor
    bias: Tensor | None

    @property
    def channels(self) -> int:
        return self.weight.shape[1]

    def solve(self, channels: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Kernels of these channels (zeros elsewhere) and bias with the least squared error. Minimum norm."""
        index = self._columns(channels)
        solution = torch.zeros_like(self.cross)
        solution[index] = self._inverse(index) @ self.cross[index]
        return self.unpack(solution)

    def beyond(self, gradient: Tensor, channels: Sequence[int]) -> Tensor:
        """The part of a gradient, ``(c * K * K + 1, out)``, that moving the kernels of ``channels`` cannot make up for.

        That is the gradient at the minimum over these kernels of the squared error plus what is linear in the rest of
        the loss; a copy of a kept channel has none.
        """
        index = self._columns(channels)
        return gradient - self.gram[:, index] @ (self._inverse(index) @ gradient[index])

    def _columns(self, channels: Sequence[int]) -> Tensor:
        """Rows of ``gram`` that belong to these channels and to the bias."""
        _, c, taps = self.weight.shape
        index = (torch.as_tensor(list(channels), dtype=torch.long)[:, None] * taps + torch.arange(taps)).flatten()
        return index if self.bias is None else torch.cat([index, torch.tensor([c * taps])])

    def _inverse(self, index: Tensor) -> Tensor:
        gram = self.gram[index][:, index]
        if not len(index):
            return gram
        # channels differ in size by orders of magnitude; equal diagonals make one threshold right for all
        size = gram.diagonal().sqrt()
        scale = torch.where(size > 0, 1 / size, 0.0)  # an input that is always zero gets no kernel
        return torch.linalg.pinv(gram * scale * scale[:, None], rtol=1e-13, hermitian=True) * scale * scale[:, None]

    def unpack(self, solution: Tensor) -> tuple[Tensor, Tensor | None]:
        out, c, taps = self.weight.shape
        return solution[:-1].T.reshape(out, c, taps), None if self.bias is None else solution[-1]

    def pack(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        last = torch.zeros(1, len(weight), dtype=torch.float64) if bias is None else bias.double()[None]
        return torch.cat([weight.double().flatten(1).T, last])

    def gradient(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Of the mean squared error with respect to kernels and bias, ``(c * K * K + 1, out)``."""
        return 2 * (self.gram @ self.pack(weight, bias) - self.cross) / (self.samples * len(weight))

    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """Relative error of the reconstruction: root of squared error over squared Y."""
        s = self.pack(weight, bias)
        squared = self.energy - 2 * (s * self.cross).sum() + (s * (self.gram @ s)).sum()
        return math.sqrt(max(float(squared), 0.0) / max(self.energy, 1e-300))

    def contributions(self) -> tuple[Tensor, Tensor]:
        """Inner products of the contributions of all channels, ``(c, c)``, and of each with Y - b, ``(c,)``."""
        out, c, taps = self.weight.shape
        n = c * taps
        flat = self.weight.reshape(out, n)
        among = (self.gram[:n, :n] * (flat.T @ flat)).view(c, taps, c, taps).sum((1, 3))
        cross = self.cross[:n]
        if self.bias is not None:
            cross = cross - self.gram[:n, n:] * self.bias
        return among, (flat.T * cross).view(c, taps, out).sum((1, 2))


@contextmanager
def _watch(module: nn.Module, seen: Callable[[Tensor, Tensor], None]) -> Any:
    handle = module.register_forward_hook(lambda m, args, out: seen(args[0], out))
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def layer_statistics(
    student: DRN, original: DRN, slot: Slot, batches: Sequence[Batch], positions: int = 256, seed: int = 0
) -> LayerStatistics:
    """Inputs of the layer's consumer in the partly pruned ``student``, outputs in the ``original``.

    Args:
        positions: random output positions per patch (all where there are fewer).
    """
    inner, outer = _conv(student, slot.consumer), _conv(original, slot.consumer)
    taps, c = inner.weight[0, 0].numel(), inner.in_channels
    gram = torch.zeros(c * taps + 1, c * taps + 1, dtype=torch.float64)
    cross = torch.zeros(c * taps + 1, inner.out_channels, dtype=torch.float64)
    energy, samples = 0.0, 0
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for batch in batches:
        with _watch(inner, lambda x, y: found.update(x=x)), _watch(outer, lambda x, y: found.update(y=y)):
            student(batch.input)
            original(batch.input)
        windows = nn.functional.unfold(found["x"], inner.kernel_size, padding=inner.padding)  # type: ignore[arg-type]  # (N, cKK, HW)
        wanted = found["y"].flatten(2)
        pick = torch.randperm(windows.shape[2], generator=generator)[:positions].to(windows.device)
        x = windows[..., pick].transpose(1, 2).flatten(0, 1).double().cpu()  # (N positions, cKK)
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        y = wanted[..., pick].transpose(1, 2).flatten(0, 1).double().cpu()
        gram += x.T @ x
        cross += x.T @ y
        energy += float(y.square().sum())
        samples += len(x)
    weight = inner.weight.detach().double().cpu().flatten(2).clone()
    return LayerStatistics(
        gram, cross, energy, samples, weight, None if inner.bias is None else inner.bias.detach().double().cpu()
    )


def select_channels(statistics: LayerStatistics, width: int, criterion: Criterion | str, seed: int = 0) -> list[int]:
    """Channels to keep by a criterion that needs the layer alone: cp, thinet, l1 or random."""
    s = statistics
    if criterion == "random":
        return sorted(torch.randperm(s.channels, generator=torch.Generator().manual_seed(seed))[:width].tolist())
    if criterion == "l1":
        return sorted(s.weight.abs().sum((0, 2)).argsort(descending=True, stable=True)[:width].tolist())
    among, with_target = s.contributions()
    if criterion == "thinet":
        return _thinet(among, width)
    if criterion == "cp":
        return _lasso(among, with_target, width)
    raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")


def _thinet(among: Tensor, width: int) -> list[int]:
    """Grow the removed set by the channel that leaves its summed contribution smallest."""
    kept = list(range(len(among)))
    touching = torch.zeros(len(among), dtype=among.dtype)  # inner product of each channel with the removed sum
    while len(kept) > width:
        growth = 2 * touching[kept] + among.diagonal()[kept]
        gone = kept.pop(int(growth.argmin()))
        touching += among[gone]
    return kept


def _lasso(among: Tensor, with_target: Tensor, width: int) -> list[int]:
    """The first ``width`` channels on the LASSO's path, which is followed exactly instead of bisecting its weight."""
    from sklearn.linear_model import lars_path_gram

    size = float(among.diagonal().mean().clamp_min(1e-300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # redundant channels stop the path early; the rest is filled up below
        _, _, path = lars_path_gram(
            (with_target / size).numpy(), (among / size).numpy(), n_samples=1, method="lasso", copy_Gram=True
        )
    active = path != 0  # (c, steps)
    sizes = active.sum(0)
    reached = np.flatnonzero(sizes == width)
    column = int(reached[0]) if len(reached) else int(sizes.argmax())
    chosen = np.flatnonzero(active[:, column]).tolist()
    rest = [int(i) for i in among.diagonal().argsort(descending=True) if int(i) not in chosen]
    return sorted((chosen + rest)[:width])


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` returns.

    Attributes:
        model: the smaller network.
        kept: layer -> channels kept, numbered as in the unpruned network.
        layers: layer, width before and after, relative reconstruction error (before anything is fine-tuned).
    """

    model: DRN
    kept: dict[str, list[int]]
    layers: pd.DataFrame


def prune(
    model: DRN,
    widths: Sequence[int],
    batches: Sequence[Batch],
    criterion: Criterion | str = "drc",
    *,
    duals: nn.Module | None = None,
    gamma: float = 1.0,
    lambda_: float = 0.1,
    refit: Literal["least_squares", "sgd", "none"] = "least_squares",
    lr: float = 5e-5,
    per_step: int = 1,
    positions: int = 256,
    seed: int = 0,
    progress: bool | None = None,
) -> Pruned:
    """Choose which channels to keep, layer by layer in the network's order (DRC, Sec. 4.2), by one of :data:`CRITERIA`.

    The loss is ``L_M + gamma * L_DR``: the mean squared error between a layer's output and the unpruned network's, and
    the dual regression loss of the whole pruned network. ``drc`` and ``dcp`` start a layer with zero kernels, score
    every channel by ``sum_o |dL / dW[o, k]|`` (a Frobenius norm for each output), add the best and fit again.

    What differs from the authors' code: after each choice and at the end, the kept kernels *and* the bias are the exact
    least-squares solution of L_M, for every criterion alike, so that criteria differ in what they choose and nothing
    else. What kept channels could do for L_DR is taken out of the scores, as fitting them to the whole loss would, to
    first order (:meth:`LayerStatistics.beyond`). ``refit="sgd"`` is the authors' way. Their CP and ThiNet compare
    contributions with an output that still contains the bias, and add it once more; here it is taken off.

    Args:
        model: the unpruned network; not changed.
        widths: channels to keep in each layer; from :func:`search_widths`, :func:`widths_at_cost` or
            :func:`~nsrlib.models.drn.uniform_widths`.
        batches: see :func:`calibration`.
        criterion: key of :data:`CRITERIA`.
        duals: dual networks of ``model``; ``drc`` needs them.
        gamma: weight of the dual regression loss in the score; 0: reconstruction alone.
        lambda_: weight of the dual term inside it.
        refit: ``least_squares``; ``sgd``: one pass over ``batches`` on the whole loss with Nesterov momentum 0.9 and
            ``lr``, from the unpruned kernels; ``none``: the unpruned kernels.
        per_step: channels added for each scoring. 1 as in the paper; 4 takes a quarter of the time.
        positions: sampled per patch, see :func:`layer_statistics`.

    Raises:
        ValueError: unknown criterion or refit, widths that do not fit, a negative gamma, missing dual networks.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if refit not in ("least_squares", "sgd", "none"):
        raise ValueError(f"refit must be 'least_squares', 'sgd' or 'none', got {refit!r}")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be 0 or more, got {gamma!r}")
    if per_step < 1:
        raise ValueError(f"per_step must be at least 1, got {per_step}")
    if not batches:
        raise ValueError("batches is empty: there is nothing to look at")
    if criterion == "drc" and duals is None and gamma and lambda_:
        raise ValueError("criterion 'drc' needs duals, the dual networks that model was trained with")
    goals = check_widths(widths, dict(zip([s.name for s in model.slots], model.widths, strict=True)))

    training = model.training
    original = copy.deepcopy(model).eval().requires_grad_(False)
    student = copy.deepcopy(original)
    loop = ClosedLoop(student, None if criterion == "dcp" else copy.deepcopy(duals), lambda_).requires_grad_(False)
    if criterion not in ("drc", "dcp") and refit != "sgd":
        gamma = 0.0
    kept, rows = {}, []
    todo = list(zip(student.slots, goals, strict=True))
    for number, (slot, width) in enumerate(
        tqdm(todo, desc="pruning", disable=None if progress is None else not progress)
    ):
        before = _conv(student, slot.consumer).in_channels
        if width == before:
            kept[slot.name] = list(range(before))
            continue
        s = layer_statistics(student, original, slot, batches, positions, seed)
        layer = _Layer(loop, original, slot, s, batches, gamma, refit, lr)
        if criterion in ("drc", "dcp"):
            chosen = layer.grow(width, per_step)
        else:
            chosen = select_channels(s, width, criterion, stream_seed(seed, number))
            layer.fit(chosen)
        weight, bias = layer.current()
        rows.append({"layer": slot.name, "before": before, "after": width, "error": s.error(weight, bias)})
        keep_channels(student, slot, chosen)
        kept[slot.name] = sorted(chosen)
    pruned = student.requires_grad_(True).train(training)
    return Pruned(pruned, kept, pd.DataFrame(rows, columns=["layer", "before", "after", "error"]))


class _Layer:
    """One consumer while its channels are chosen: kernels of the student, zero for channels not (yet) kept."""

    def __init__(
        self,
        loop: ClosedLoop,
        original: DRN,
        slot: Slot,
        statistics: LayerStatistics,
        batches: Sequence[Batch],
        gamma: float,
        refit: str,
        lr: float,
    ) -> None:
        self.loop, self.original, self.slot, self.s = loop, original, slot, statistics
        self.batches, self.gamma, self.refit, self.lr = batches, gamma, refit, lr
        self.conv = _conv(loop.model, slot.consumer)

    def current(self) -> tuple[Tensor, Tensor | None]:
        bias = None if self.conv.bias is None else self.conv.bias.detach().double().cpu()
        return self.conv.weight.detach().double().cpu().flatten(2).clone(), bias

    @torch.no_grad()
    def _set(self, weight: Tensor, bias: Tensor | None) -> None:
        self.conv.weight.copy_(weight.view(self.conv.weight.shape))
        if bias is not None:
            self.conv.bias.copy_(bias)  # type: ignore[union-attr]

    def fit(self, channels: Sequence[int], new: Sequence[int] | None = None) -> None:
        """Set the kernels of ``channels``; with ``sgd``, those of ``new`` start from the unpruned ones."""
        if self.refit == "least_squares":
            return self._set(*self.s.solve(channels))
        weight, bias = self.current()
        if new is None:
            weight, new = torch.zeros_like(weight), channels
        weight[:, list(new)] = self.s.weight[:, list(new)]
        self._set(weight, bias)
        if self.refit == "sgd":
            self._descend(channels)
        return None

    def _descend(self, channels: Sequence[int]) -> None:
        parameters = self._trainable(True)
        mask = torch.zeros(self.s.channels, device=self.conv.weight.device, dtype=self.conv.weight.dtype)
        mask[list(channels)] = 1
        optimiser = torch.optim.SGD(parameters, self.lr, momentum=0.9, nesterov=True)
        outer = _conv(self.original, self.slot.consumer)
        found: dict[str, Tensor] = {}
        for batch in self.batches:
            with torch.no_grad(), _watch(outer, lambda x, y: found.update(y=y)):
                self.original(batch.input)
            with _watch(self.conv, lambda x, y: found.update(p=y)):
                total = self.gamma * self.loop(batch)
            total = total + nn.functional.mse_loss(found["p"], found["y"])
            optimiser.zero_grad()
            total.backward()
            self.conv.weight.grad *= mask[:, None, None]  # type: ignore[operator]
            optimiser.step()
        self._trainable(False)

    def gradient(self) -> Tensor:
        """Of the whole loss with respect to kernels and bias, ``(c * K * K + 1, out)``."""
        total = self.s.gradient(*self.current())
        if self.gamma:
            parameters = self._trainable(True)
            for batch in self.batches:
                found = [g.double().cpu() for g in torch.autograd.grad(self.loop(batch), parameters)]
                step = self.s.pack(found[0].flatten(2), found[1] if len(found) > 1 else None)
                total += self.gamma / len(self.batches) * step
            self._trainable(False)
        return total

    def scores(self, chosen: Sequence[int] = ()) -> Tensor:
        """``sum_o |dL / dW[o, k]|`` for every channel k, ``(c,)``; see :func:`prune` for what is taken out."""
        gradient = self.gradient()
        if self.refit == "least_squares":
            gradient = self.s.beyond(gradient, chosen)
        return self.s.unpack(gradient)[0].norm(dim=2).sum(0)

    def _trainable(self, yes: bool) -> list[nn.Parameter]:
        parameters = list(self.conv.parameters())  # weight, then bias
        for p in parameters:
            p.requires_grad_(yes)
            p.grad = None
        return parameters

    def grow(self, width: int, per_step: int) -> list[int]:
        chosen: list[int] = []
        _, bias = self.s.solve([]) if self.refit == "least_squares" else self.current()
        self._set(torch.zeros_like(self.s.weight), bias)
        while len(chosen) < width:
            scores = self.scores(chosen)
            scores[chosen] = -1
            new = scores.argsort(descending=True, stable=True)[: min(per_step, width - len(chosen))].tolist()
            chosen += new
            self.fit(chosen, new)
        return chosen


# --- the same fine-tuning for everyone --------------------------------------------------------------------------------


def fine_tune(
    model: DRN,
    data: Patches,
    recipe: Recipe,
    *,
    duals: nn.Module | None = None,
    lambda_: float = 0.1,
    teacher: DRN | None = None,
    **options: Any,
) -> TrainingResult:
    """Train a pruned network, or the unpruned one, in the same way (DRC, Sec. 4.3).

    Every student must get this with one recipe, *and the unpruned network too*: otherwise a gain by more training or by
    a teacher is taken for one by pruning. ``model`` and ``duals`` are copied, so each student starts from the same.

    Args:
        duals: dual networks of the unpruned network. lambda_: weight of the dual term; 0 needs none.
        teacher: distil from it, see :func:`~nsrlib.models.drn.drn_losses`. None by default: the authors' DRN-L teaches
            their students but not the network they are compared with.
        options: further keywords of :func:`~nsrlib.training.fit`.
    """
    networks = {"dual": copy.deepcopy(duals)} if lambda_ and duals is not None else {}
    return fit(
        copy.deepcopy(model),
        data,
        recipe,
        losses=drn_losses(lambda_, teacher=teacher),
        networks=networks,
        **options,
    )
