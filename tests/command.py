"""What tests of the command share: how it ended, and pictures to give it."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from nsrlib.images import imresize


class Done(NamedTuple):
    code: int
    out: str
    err: str


def refused(done: Done, pattern: str) -> None:
    """One line on stderr, exit status 1, no traceback."""
    assert done.code == 1, done
    assert re.fullmatch(rf"nsr: .*{pattern}.*\n", done.err), done.err
    assert "Traceback" not in done.out


def photo(*shape: int, seed: int = 0) -> np.ndarray:
    """A smooth picture, so that bicubic interpolation stays within the range."""
    coarse = np.random.default_rng(seed).random((4, 5, *shape[2:])) * 0.6 + 0.2
    return np.round(imresize(coarse, size=shape[:2]) * 255).astype(np.uint8)


def nearly(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for ties of the rounding."""
    return a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 1 and (a != b).mean() < 0.01
