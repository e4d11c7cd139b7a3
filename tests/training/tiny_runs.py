"""A network in a second, and what its trainings leave: shared by the tests of training and the scripts they start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from nsrlib.data import Pair
from nsrlib.data.patches import Patches
from nsrlib.images import imresize
from nsrlib.training import Recipe, seeded

SHORT = Recipe(iterations=12, batch=4, patch=6, lr=1e-2)
COMPLETE = SHORT.replace(ema=0.9, warmup=3, weight_decay=0.1, channels_last=True)
PLAIN = Recipe(iterations=24, batch=6, patch=6, lr=0.05, optimiser="sgd", schedule="cosine", loss="l2")


class Tiny(nn.Module):
    """x2, with all that a checkpoint must keep: weights, vectors, running statistics, an index, and dropout."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.PReLU(channels)
        self.drop = nn.Dropout(0.1)
        self.adder = nn.Conv2d(channels, 12, 3, padding=1)
        self.register_buffer("order", torch.arange(12).flip(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.adder(self.drop(self.act(self.norm(self.head(x)))))
        return F.pixel_shuffle(x[:, self.order], 2)


def tiny(seed: int = 0, **config: int) -> Tiny:
    with seeded(seed):
        return Tiny(**config)


def patches(patch: int = 6, seed: int = 0) -> Patches:
    rng = np.random.default_rng(seed)
    hr = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((30, 24), (26, 40), (20, 20))]
    return Patches([Pair(str(k), imresize(a, 1 / 2), a) for k, a in enumerate(hr)], patch)


DATA = patches()


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def checkpoint(folder: Path, back: int = 0) -> Path:
    return sorted(folder.glob("checkpoint-*.pt"))[-1 - back]


def content(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def identical(a: object, b: object) -> bool:
    """Bit for bit, all the way down a checkpoint."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


def assert_same_run(folder: Path, reference: Path) -> None:
    assert identical(content(checkpoint(folder)) | {"rows": []}, content(checkpoint(reference)) | {"rows": []})
    ours, theirs = (pd.read_csv(f / "history.csv").drop(columns="seconds") for f in (folder, reference))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def plain(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Nothing in it looks at the rest of the batch or draws at random."""
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)
        ).to(dtype)
