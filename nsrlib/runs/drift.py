"""Whether two rendered figures show the same, for ``make nbval``. Needs neither PyTorch nor matplotlib."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter


def changed_pixels(one: np.ndarray, other: np.ndarray, shift: int = 1, levels: int = 48) -> np.ndarray:
    """Where two rendered figures show something else: ``bool`` ``(H, W)`` of the larger of both sizes.

    A pixel has changed if some channel lies more than ``levels`` outside the range that the other figure has within
    ``shift`` pixels of it, seen from either side: hinting, lines off by a pixel and last bits are no change. (Nor is a
    single digit, which is as small; verdict cells compare those as text.)

    Args:
        one, other: ``uint8`` ``(H, W, 3)``. The smaller is continued in white.
    """
    h, w = (max(a, b) for a, b in zip(one.shape[:2], other.shape[:2], strict=True))
    sheets = []
    for figure in (one, other):
        sheets.append(np.full((h, w, 3), 255, np.int16))
        sheets[-1][: figure.shape[0], : figure.shape[1]] = figure
    size = (2 * shift + 1, 2 * shift + 1, 1)
    changed = np.zeros((h, w), bool)
    for here, there in (sheets, sheets[::-1]):
        high, low = maximum_filter(there, size) + levels, minimum_filter(there, size) - levels
        changed |= ((here > high) | (here < low)).any(2)
    return changed
