"""Pruning layer by layer, judged by dual regression; the surgery; the same fine-tuning for every student.

Source: Guo et al., "Towards Lightweight Super-Resolution with Dual Regression Learning" (DRC, TPAMI 2024, arXiv
2207.07929), Sec. 4.2 and 4.3. Losses are in grey levels (0..255), as in the authors' code: that fixes what ``gamma``
means. Where code and paper part ways, see :func:`prune`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from nsrlib.data.patches import Batch, Patches, stream_seed
from nsrlib.models.drn import DRN, Slot, check_widths, drn_losses
from nsrlib.papers.drn.criteria import CRITERIA, LayerStatistics, layer_statistics, select_channels
from nsrlib.papers.drn.search import ClosedLoop
from nsrlib.training import Hooks, Recipe, TrainingResult, fit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` returns: the smaller network and by layer the channels ``kept``, numbered as in the unpruned
    one; ``layers``: layer, width before and after, relative reconstruction error (before anything is fine-tuned)."""

    model: DRN
    kept: dict[str, list[int]]
    layers: pd.DataFrame


def prune(
    model: DRN,
    widths: Sequence[int],
    batches: Sequence[Batch],
    criterion: str = "drc",
    *,
    duals: nn.Module | None = None,
    gamma: float = 1.0,
    lambda_: float = 0.1,
    per_step: int = 1,
    seed: int = 0,
    progress: bool | None = None,
) -> Pruned:
    """Choose which channels to keep, layer by layer in the network's order (DRC, Sec. 4.2).

    The loss is ``L_M + gamma * L_DR``: the mean squared error between a layer's output and the unpruned network's, and
    the dual regression loss of the whole pruned network. ``drc`` and ``dcp`` start a layer with zero kernels, score
    every channel by ``sum_o |dL / dW[o, k]|`` (a Frobenius norm for each output), add the best and fit again.

    What differs from the authors' code: after each choice, the kept kernels *and* the bias are the exact least-squares
    solution of L_M, so that criteria differ in what they choose and nothing else; the authors take steps of SGD on the
    whole loss. What kept channels could do for L_DR is taken out of the scores (:meth:`LayerStatistics.beyond`). Their
    CP and ThiNet compare contributions with an output that contains the bias, and add it again; here it is taken off.

    Args:
        widths: channels to keep in each layer.
        batches: see :func:`~nsrlib.papers.drn.criteria.calibration`.
        criterion: of :data:`~nsrlib.papers.drn.criteria.CRITERIA`.
        duals: dual networks of ``model``; ``drc`` needs them.
        gamma: weight of the dual regression loss in the score; lambda_: of the dual term inside it.
        per_step: channels added for each scoring. 1 as in the paper; 4 takes a quarter of the time.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be 0 or more, got {gamma!r}")
    if per_step < 1:
        raise ValueError(f"per_step must be at least 1, got {per_step}")
    if not batches:
        raise ValueError("batches is empty: there is nothing to look at")
    if criterion == "drc" and duals is None and gamma and lambda_:
        raise ValueError("criterion 'drc' needs duals, the dual networks that model was trained with")
    goals = check_widths(widths, dict(zip([s.name for s in model.slots], model.widths, strict=True)))

    original = copy.deepcopy(model).eval().requires_grad_(False)
    student = copy.deepcopy(original)
    loop = ClosedLoop(student, None if criterion == "dcp" else copy.deepcopy(duals), lambda_).requires_grad_(False)
    kept, rows = {}, []
    hidden = None if progress is None else not progress
    for number, slot in enumerate(tqdm(student.slots, desc="pruning", disable=hidden)):
        width = goals[number]
        before = convolution(student, slot.consumer).in_channels
        if width == before:
            kept[slot.name] = list(range(before))
            continue
        s = layer_statistics(student, original, slot, batches, seed=seed)
        layer = LayerPruning(loop, slot, s, batches, gamma)
        if criterion in ("drc", "dcp"):
            chosen = layer.grow(width, per_step)
        else:
            chosen = select_channels(s, width, criterion, stream_seed(seed, number))
            layer.set(*s.solve(chosen))
        rows.append({"layer": slot.name, "before": before, "after": width, "error": s.error(*layer.current())})
        keep_channels(student, slot, chosen)
        kept[slot.name] = sorted(chosen)
    layers = pd.DataFrame(rows, columns=["layer", "before", "after", "error"])
    return Pruned(student.requires_grad_(True).train(model.training), kept, layers)


class LayerPruning:
    """One consumer while its channels are chosen: kernels of the student, zero for channels not (yet) kept."""

    def __init__(
        self, loop: ClosedLoop, slot: Slot, statistics: LayerStatistics, batches: Sequence[Batch], gamma: float
    ) -> None:
        self.loop, self.s, self.batches, self.gamma = loop, statistics, batches, gamma
        self.conv = convolution(loop.model, slot.consumer)

    def current(self) -> tuple[Tensor, Tensor | None]:
        bias = None if self.conv.bias is None else self.conv.bias.detach().double().cpu()
        return self.conv.weight.detach().double().cpu().flatten(2).clone(), bias

    @torch.no_grad()
    def set(self, weight: Tensor, bias: Tensor | None) -> None:
        self.conv.weight.copy_(weight.view(self.conv.weight.shape))
        if bias is not None:
            self.conv.bias.copy_(bias)  # type: ignore[union-attr]

    def gradient(self) -> Tensor:
        """Of the whole loss with respect to kernels and bias, ``(c * K * K + 1, out)``."""
        total = self.s.gradient(*self.current())
        if self.gamma:
            parameters = [p.requires_grad_() for p in self.conv.parameters()]  # weight, then bias
            for batch in self.batches:
                found = [g.double().cpu() for g in torch.autograd.grad(self.loop(batch), parameters)]
                step = self.s.pack(found[0].flatten(2), found[1] if len(found) > 1 else None)
                total += self.gamma / len(self.batches) * step
            self.conv.requires_grad_(False)
        return total

    def scores(self, chosen: Sequence[int] = ()) -> Tensor:
        """``sum_o |dL / dW[o, k]|`` for every channel k, ``(c,)``; see :func:`prune` for what is taken out."""
        return self.s.unpack(self.s.beyond(self.gradient(), chosen))[0].norm(dim=2).sum(0)

    def grow(self, width: int, per_step: int) -> list[int]:
        chosen: list[int] = []
        self.set(*self.s.solve(chosen))
        while len(chosen) < width:
            scores = self.scores(chosen)
            scores[chosen] = -1
            chosen += scores.argsort(descending=True, stable=True)[: min(per_step, width - len(chosen))].tolist()
            self.set(*self.s.solve(chosen))
        return chosen


# --- surgery ----------------------------------------------------------------------------------------------------------


def keep_channels(model: DRN, slot: Slot, channels: Sequence[int]) -> None:
    """Remove all other channels of one layer, in place: what is left is an ordinary network, with no mask."""
    producer, consumer = convolution(model, slot.producer), convolution(model, slot.consumer)
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
            consumer = convolution(copied, slot.consumer)
            gone = torch.ones(consumer.in_channels, dtype=torch.bool)
            gone[_checked_channels(slot, kept[slot.name], consumer.in_channels)] = False
            with torch.no_grad():
                consumer.weight[:, gone] = 0
    return copied


def convolution(model: nn.Module, name: str) -> nn.Conv2d:
    return cast(nn.Conv2d, model.get_submodule(name))


def _kept(parameter: Tensor, index: Any) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[index].clone(), parameter.requires_grad)


def _checked_channels(slot: Slot, channels: Sequence[int], width: int) -> list[int]:
    chosen = sorted(int(c) for c in channels)
    if not chosen or len(set(chosen)) != len(chosen) or not 0 <= chosen[0] <= chosen[-1] < width:
        raise ValueError(f"channels of {slot.name} must be different numbers from 0 to {width - 1}, got {chosen}")
    return chosen


# --- tuning -----------------------------------------------------------------------------------------------------------


def fine_tune(
    model: DRN,
    data: Patches,
    recipe: Recipe,
    *,
    duals: nn.Module | None = None,
    lambda_: float = 0.1,
    **options: Any,
) -> TrainingResult:
    """Train a copy of a pruned network, or of the unpruned one, in the same way (DRC, Sec. 4.3).

    Every student must get this with one recipe, *and the unpruned network too*: otherwise a gain by more training is
    taken for one by pruning. The authors' DRN-L, which teaches their students alone, is left out.

    Args:
        duals: dual networks of the unpruned network, copied. lambda_: weight of the dual term; 0 needs none.
        options: further keywords of :func:`~nsrlib.training.fit`.
    """
    networks = {"dual": copy.deepcopy(duals)} if lambda_ and duals is not None else {}
    return fit(copy.deepcopy(model), data, recipe, hooks=Hooks(drn_losses(lambda_), networks), **options)
