"""Is there an adder filter with given answers? Decided in exact arithmetic, for AdderSR's theorems.

As a function of the unknown weights, ``|v - w|`` is linear between the values v that a finite set of windows takes. So
"some W maps these windows to those targets" splits into finitely many linear systems with bounds, one for each cell of
the space of weights. SciPy proposes a solution of each, or Farkas multipliers that show there is none; both are turned
into fractions and verified exactly, so that nothing depends on rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Exact:
    """Answer of :func:`solve_filter`: ``weights`` (with slope p and offset q, if they were unknown) or None if there is
    no solution, after ``cells`` linear systems of which each was decided by a verified certificate."""

    weights: tuple[Fraction, ...] | None
    slope: Fraction
    offset: Fraction
    cells: int


def solve_filter(
    windows: Sequence[Sequence[int]], targets: Sequence[int], *, free_slope: bool = False, free_offset: bool = False
) -> Exact:
    """Is there any filter W with ``y(x) = p target(x) + q`` for all of these windows? Decided exactly.

    Args:
        windows: whole numbers, D in each. The work grows as (different values + 1) ** D.
        free_slope, free_offset: p and q are unknown too (else 1 and 0). With both, the answer covers every affine map
            after the filter, such as batch normalisation with a factor other than 0.

    Raises:
        ArithmeticError: a certificate did not survive the exact check.
    """
    taps = len(windows[0])
    if any(len(x) != taps for x in windows) or len(targets) != len(windows):
        raise ValueError(f"windows must be equally long, one target each; got {len(windows)} and {len(targets)}")
    values = [sorted({x[t] for x in windows}) for t in range(taps)]
    cells = 0
    for cell in itertools.product(*(range(len(v) + 1) for v in values)):
        cells += 1
        bounds = [(v[i - 1] if i else None, v[i] if i < len(v) else None) for v, i in zip(values, cell, strict=True)]
        rows, right = [], []
        for x, target in zip(windows, targets, strict=True):
            # |x - w| = sign (x - w): a value at or below the cell lies below w, any other at or above it
            signs = [-1 if low is not None and v <= low else 1 for v, (low, _) in zip(x, bounds, strict=True)]
            rows.append([*signs, *([-target] if free_slope else []), *([-1] if free_offset else [])])
            right.append(sum(s * v for s, v in zip(signs, x, strict=True)) + (0 if free_slope else target))
        unknown = len(rows[0]) - taps
        solution = _solve_exactly(rows, right, [*bounds, *[(None, None)] * unknown])
        if solution is not None:
            rest = list(solution[taps:])
            slope = rest.pop(0) if free_slope else Fraction(1)
            return Exact(solution[:taps], slope, rest.pop(0) if free_offset else Fraction(0), cells)
    return Exact(None, Fraction(1), Fraction(0), cells)


Bound = tuple[int | None, int | None]


def _solve_exactly(rows: list[list[int]], right: list[int], bounds: list[Bound]) -> tuple[Fraction, ...] | None:
    """A solution of ``rows z = right`` within bounds, or None; both with an exact proof."""
    from scipy.optimize import linprog  # comes with scikit-image

    a, b = np.array(rows, float), np.array(right, float)
    n = a.shape[1]
    lows = [(j, lo) for j, (lo, _) in enumerate(bounds) if lo is not None]
    highs = [(j, hi) for j, (_, hi) in enumerate(bounds) if hi is not None]
    # Farkas: multipliers of the equations, of w >= low and of w <= high that add up to 0 = something negative
    pick = np.zeros((n, len(lows) + len(highs)))
    for k, (j, _) in enumerate(lows):
        pick[j, k] = -1
    for k, (j, _) in enumerate(highs):
        pick[j, len(lows) + k] = 1
    cost = np.concatenate([b, [-lo for _, lo in lows], [hi for _, hi in highs]])
    limits = [(-1.0, 1.0)] * len(b) + [(0.0, 1.0)] * pick.shape[1]
    found = linprog(cost, A_eq=np.hstack([a.T, pick]), b_eq=np.zeros(n), bounds=limits, method="highs")
    if found.fun < -1e-6:
        m = [Fraction(float(v)).limit_denominator(10_000) for v in found.x]
        y, u, v = m[: len(b)], m[len(b) : len(b) + len(lows)], m[len(b) + len(lows) :]
        total = [sum((f * row[j] for f, row in zip(y, rows, strict=True)), Fraction(0)) for j in range(n)]
        for f, (j, _) in zip(u, lows, strict=True):
            total[j] -= f
        for f, (j, _) in zip(v, highs, strict=True):
            total[j] += f
        value = sum((f * r for f, r in zip(y, right, strict=True)), Fraction(0))
        value += sum((f * hi for f, (_, hi) in zip(v, highs, strict=True)), Fraction(0))
        value -= sum((f * lo for f, (_, lo) in zip(u, lows, strict=True)), Fraction(0))
        if any(total) or min([*u, *v, Fraction(0)]) < 0 or value >= 0:
            raise ArithmeticError("the multipliers that shall show infeasibility are not exact")
        return None
    found = linprog(np.zeros(n), A_eq=a, b_eq=b, bounds=bounds, method="highs")
    if found.status != 0:
        raise ArithmeticError(f"neither a solution nor a proof that there is none: {found.message}")
    z = tuple(Fraction(float(v)).limit_denominator(10_000) for v in found.x)
    exact = all(sum(f * c for f, c in zip(z, row, strict=True)) == r for row, r in zip(rows, right, strict=True))
    inside = all((lo is None or f >= lo) and (hi is None or f <= hi) for f, (lo, hi) in zip(z, bounds, strict=True))
    if not (exact and inside):
        raise ArithmeticError("the solution is not exact")
    return z
