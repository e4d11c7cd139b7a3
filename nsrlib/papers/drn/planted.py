"""A test of criteria with a known answer: channels that repeat others and are hardly read."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from nsrlib import data
from nsrlib.data.patches import Batch, Patches
from nsrlib.models import create_model
from nsrlib.models.drn import DRN, dual_networks
from nsrlib.papers.drn.criteria import CRITERIA, calibration
from nsrlib.papers.drn.pruning import convolution, masked, prune, shrink


def network(scale: int = 2) -> tuple[DRN, list[int]]:
    """A network, one layer of which has redundant channels, and widths that remove half of that layer, in float64.

    Half of the layer's channels repeat the other half and are read with kernels a thousand times smaller.
    """
    torch.manual_seed(3)
    model = cast(DRN, create_model("drn_s", scale, num_feats=8, num_blocks=1).double())
    slot = model.slots[1]
    producer, consumer = convolution(model, slot.producer), convolution(model, slot.consumer)
    half = consumer.in_channels // 2
    with torch.no_grad():
        producer.weight[half:] = producer.weight[:half]
        cast(nn.Parameter, producer.bias)[half:] = cast(nn.Parameter, producer.bias)[:half]
        consumer.weight[:, half:] *= 1e-3
    return model, [half if k == 1 else width for k, width in enumerate(model.widths)]


def lost_output(redundant: DRN, widths: list[int]) -> dict[str, float]:
    """By criterion: how far the output of the pruned network is from that of the whole one, on an unseen picture."""
    patches = Patches(data.training_set("embedded_train", redundant.scale), 12)
    sample = [Batch(b.input.double(), b.target.double()) for b in calibration(patches, 2, 4)]
    torch.manual_seed(1)
    duals = dual_networks(redundant.scale, redundant.num_feats).double()
    fresh, lost = torch.rand(1, 3, 11, 9, dtype=torch.float64), {}
    for kind in CRITERIA:
        pruned = prune(redundant, widths, sample, kind, duals=duals, progress=False)
        with torch.inference_mode():
            lost[kind] = float((pruned.model(fresh) - redundant(fresh)).abs().max())
    return lost


def surgery_error(model: DRN) -> float:
    """The smaller network against the masked one, every second channel removed: the largest difference of outputs."""
    kept = {slot.name: list(range(0, width, 2)) for slot, width in zip(model.slots, model.widths, strict=True)}
    x = torch.rand(1, 3, 11, 9, dtype=torch.float64)
    with torch.inference_mode():
        return float((shrink(model, kept)(x) - masked(model, kept)(x)).abs().max())
