"""Which channels a layer needs: what a criterion looks at, and those criteria that look at one layer alone.

Source: Guo et al., "Towards Lightweight Super-Resolution with Dual Regression Learning" (DRC, TPAMI 2024, arXiv
2207.07929), Sec. 4.2, and the papers named in :data:`CRITERIA`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from nsrlib.data.patches import Batch, Patches, stream_seed
from nsrlib.models.drn import DRN, Slot

CRITERIA: dict[str, str] = {
    "drc": "greedy: the channel whose kernel has the largest gradient of reconstruction error and dual regression loss",
    "dcp": "the same without the dual term (Zhuang et al., NeurIPS 2018, whose classifier has no meaning here)",
    "cp": "LASSO on the channels' contributions (He et al., ICCV 2017)",
    "thinet": "greedy: remove the channels whose summed contribution is smallest (Luo et al., ICCV 2017)",
    "l1": "largest sum of absolute weights in the convolution that reads the channel",
    "random": "drawn from the seed",
}


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

    def solve(self, channels: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Kernels of these channels (zeros elsewhere) and bias with the least squared error. Minimum norm."""
        index = self._columns(channels)
        solution = torch.zeros_like(self.cross)
        solution[index] = self._inverse(index) @ self.cross[index]
        return self.unpack(solution)

    def beyond(self, gradient: Tensor, channels: Sequence[int]) -> Tensor:
        """The part of a gradient, ``(c * K * K + 1, out)``, that moving the kernels of ``channels`` cannot make up for,
        where the rest of the loss is taken as linear; a copy of a kept channel has none."""
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


@torch.no_grad()
def layer_statistics(
    student: DRN, original: DRN, slot: Slot, batches: Sequence[Batch], positions: int = 256, seed: int = 0
) -> LayerStatistics:
    """Inputs of the layer's consumer in the partly pruned ``student``, outputs in the ``original``, at so many random
    ``positions`` per patch (all where there are fewer)."""
    inner, outer = (cast(nn.Conv2d, network.get_submodule(slot.consumer)) for network in (student, original))
    taps, c = inner.weight[0, 0].numel(), inner.in_channels
    gram = torch.zeros(c * taps + 1, c * taps + 1, dtype=torch.float64)
    cross = torch.zeros(c * taps + 1, inner.out_channels, dtype=torch.float64)
    energy, samples = 0.0, 0
    generator = torch.Generator().manual_seed(seed)
    seen: dict[str, Tensor] = {}
    for batch in batches:
        with (
            inner.register_forward_hook(lambda m, args, out: seen.update(x=args[0])),
            outer.register_forward_hook(lambda m, args, out: seen.update(y=out)),
        ):
            student(batch.input)
            original(batch.input)
        windows = nn.functional.unfold(seen["x"], inner.kernel_size, padding=inner.padding)  # type: ignore[arg-type]  # (N, cKK, HW)
        pick = torch.randperm(windows.shape[2], generator=generator)[:positions].to(windows.device)
        # (N positions, cKK) and (N positions, out)
        x, y = (t[..., pick].transpose(1, 2).flatten(0, 1).double().cpu() for t in (windows, seen["y"].flatten(2)))
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        gram += x.T @ x
        cross += x.T @ y
        energy += float(y.square().sum())
        samples += len(x)
    weight = inner.weight.detach().double().cpu().flatten(2).clone()
    bias = None if inner.bias is None else inner.bias.detach().double().cpu()
    return LayerStatistics(gram, cross, energy, samples, weight, bias)


def select_channels(s: LayerStatistics, width: int, criterion: str, seed: int = 0) -> list[int]:
    """Channels to keep by a criterion that needs the layer alone: cp, thinet, l1 or random."""
    if criterion == "random":
        return sorted(torch.randperm(s.weight.shape[1], generator=torch.Generator().manual_seed(seed))[:width].tolist())
    if criterion == "l1":
        return sorted(s.weight.abs().sum((0, 2)).argsort(descending=True, stable=True)[:width].tolist())
    among, with_target = s.contributions()
    return _thinet(among, width) if criterion == "thinet" else _lasso(among, with_target, width)


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
    chosen = np.flatnonzero(active[:, reached[0] if len(reached) else sizes.argmax()]).tolist()
    rest = [int(i) for i in among.diagonal().argsort(descending=True) if int(i) not in chosen]
    return sorted((chosen + rest)[:width])
