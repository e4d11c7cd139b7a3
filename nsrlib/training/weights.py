"""Weights: drawn from a seed, and written to files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nsrlib.files import whole_file


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw a network's first weights from ``seed``, on the CPU, and leave its generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def save_weights(model: nn.Module, path: str | os.PathLike, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a network's weights as ``.safetensors``, whole or not at all, with ``metadata`` (as strings) inside."""
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    about = {key: str(value) for key, value in (metadata or {}).items()}
    with whole_file(Path(path)) as draft:
        draft.write_bytes(save(tensors, about))
