"""A small DRN with dual networks, patches and batches, for the tests of its compression."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib import data
from nsrlib.data.patches import Batch, Patches
from nsrlib.models.drn import DRN, dual_networks
from nsrlib.papers.drn.criteria import calibration


def net(
    scale: int = 2, f: int = 8, blocks: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64, **config
) -> DRN:
    torch.manual_seed(seed)
    return DRN(scale, f, blocks, **config).to(dtype)


def duals_of(model: DRN, seed: int = 1) -> nn.ModuleList:
    torch.manual_seed(seed)
    return dual_networks(model.scale, model.num_feats).to(next(model.parameters()).dtype)


@lru_cache
def patches(scale: int = 2, patch: int = 12) -> Patches:
    return Patches(data.load("embedded", scale)[:2], patch)


def batches(n: int = 2, scale: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Batch]:
    return [Batch(*(t.to(dtype) for t in b)) for b in calibration(patches(scale), n, 4, seed)]


def half_of(model: DRN, seed: int = 0) -> dict[str, list[int]]:
    dice = np.random.default_rng(seed)
    pairs = zip(model.slots, model.widths, strict=True)
    return {s.name: sorted(dice.permutation(w)[: max(1, w // 2)].tolist()) for s, w in pairs}


def by_norm(model: DRN, widths: list[int]) -> dict[str, list[int]]:
    kept = {}
    for slot, w in zip(model.slots, widths, strict=True):
        norms = model.get_parameter(f"{slot.consumer}.weight").abs().sum((0, 2, 3))
        kept[slot.name] = norms.argsort(descending=True)[:w].tolist()
    return kept


def windows_and_outputs(model: DRN, slot, sample: list[Batch]) -> tuple[Tensor, Tensor]:
    """Every window and output of the slot's consumer, straight from a hook."""
    conv, rows = model.get_submodule(slot.consumer), []
    handle = conv.register_forward_hook(lambda m, args, out: rows.append((args[0], out)))
    with torch.no_grad():
        for batch in sample:
            model(batch.input)
    handle.remove()
    unfolded = [F.unfold(x, conv.kernel_size, padding=conv.padding).transpose(1, 2).flatten(0, 1) for x, _ in rows]
    return torch.cat(unfolded), torch.cat([y.flatten(2).transpose(1, 2).flatten(0, 1) for _, y in rows])
