"""What the operators' public functions share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """A number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def in_autocast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """All tensors (None stays None) in the type that autocast asks for; as they are without it, or if x is float64."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return x, *others
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None else t.to(dtype) for t in (x, *others))
