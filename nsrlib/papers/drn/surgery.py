"""Removing channels from a DRN: a pruned network is an ordinary one with smaller ``widths``, no mask."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nsrlib.models.drn import DRN, Slot


def keep_channels(model: DRN, slot: Slot, channels: Sequence[int]) -> None:
    """Remove all other channels of one layer, in place."""
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
