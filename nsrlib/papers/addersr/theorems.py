"""AdderSR's two theorems as statements that run (Song et al., CVPR 2021, Sec. 3): what holds, what does not, and why.

An adder filter with D taps answers a window x with ``y(x) = -sum_t |x_t - w_t|``. Theorem 1: no filter is the identity.
Theorem 2: none has a constant response to all constant images, so none is a high-pass. A
:class:`~nsrlib.papers.check.Check` says whether a statement was ``checked`` (on samples, in float64, or for one
network) or ``proved``: for every W, in exact arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import Tensor, nn

from nsrlib.models.addersr import AdderUnit, power_activation
from nsrlib.ops.adder2d import adder2d, adder2d_ref
from nsrlib.papers.addersr.filters import dc_response, difference_filters
from nsrlib.papers.check import Check

Figures = dict[str, float | int | str]

# --- is there a filter with given answers? ----------------------------------------------------------------------------


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

    As a function of the weights, ``|v - w|`` is linear between the values v that the windows take, so the question
    splits into linear systems with bounds, one for each cell of the space of weights. SciPy proposes a solution of
    each, or Farkas multipliers that show there is none; both are turned into fractions and verified.

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
        solution = _solve_exactly(rows, right, [*bounds, *[(None, None)] * (free_slope + free_offset)])
        if solution is not None:
            slope = solution[taps] if free_slope else Fraction(1)
            return Exact(solution[:taps], slope, solution[-1] if free_offset else Fraction(0), cells)
    return Exact(None, Fraction(1), Fraction(0), cells)


def _solve_exactly(
    rows: list[list[int]], right: list[int], bounds: list[tuple[int | None, int | None]]
) -> tuple[Fraction, ...] | None:
    """A solution of ``rows z = right`` within bounds, or None; both with an exact proof."""
    n = len(bounds)
    unit = np.eye(n, dtype=int)
    facts = [*zip(rows, right, strict=True)]  # equations, then -w <= -low and w <= high
    facts += [((-unit[j]).tolist(), -low) for j, (low, _) in enumerate(bounds) if low is not None]
    facts += [(unit[j].tolist(), high) for j, (_, high) in enumerate(bounds) if high is not None]
    # Farkas: multipliers of them that add up to 0 <= something negative
    limits = [(-1.0, 1.0)] * len(rows) + [(0.0, 1.0)] * (len(facts) - len(rows))
    sides = np.array([side for side, _ in facts], float).T
    found = linprog([r for _, r in facts], A_eq=sides, b_eq=np.zeros(n), bounds=limits, method="highs")
    if found.fun < -1e-6:
        factors = _fractions(found.x)
        total = [sum(f * side[j] for f, (side, _) in zip(factors, facts, strict=True)) for j in range(n)]
        value = sum(f * r for f, (_, r) in zip(factors, facts, strict=True))
        if any(total) or min(factors[len(rows) :], default=0) < 0 or value >= 0:
            raise ArithmeticError("the multipliers that shall show infeasibility are not exact")
        return None
    found = linprog(np.zeros(n), A_eq=np.array(rows, float), b_eq=right, bounds=bounds, method="highs")
    if found.status != 0:
        raise ArithmeticError(f"neither a solution nor a proof that there is none: {found.message}")
    z = _fractions(found.x)
    exact = all(sum(f * c for f, c in zip(z, row, strict=True)) == r for row, r in zip(rows, right, strict=True))
    inside = all((lo is None or f >= lo) and (hi is None or f <= hi) for f, (lo, hi) in zip(z, bounds, strict=True))
    if not (exact and inside):
        raise ArithmeticError("the solution is not exact")
    return z


def _fractions(numbers: Sequence[float]) -> tuple[Fraction, ...]:
    return tuple(Fraction(float(v)).limit_denominator(10_000) for v in numbers)


# --- Theorem 1 --------------------------------------------------------------------------------------------------------


def theorem1(steps: int = 1500) -> list[Check]:
    """No adder filter is the identity: the checks T1 a to e, the counter-examples, the exact statements.

    Args:
        steps: of training, for T1d.
    """
    return [
        *_theorem1_proofs(),
        _rise(),
        _jacobian(),
        *_counter_examples(),
        _identity_fits(steps),
        *_affine_fits(),
        _shortcut_size(),
        _bn_identity(),
    ]


def _one_tap_changes(taps: int, values: Sequence[int]) -> list[tuple[int, ...]]:
    """All windows with at most one tap different from ``values[0]``."""
    base = (values[0],) * taps
    return [base, *((*base[:t], v, *base[t + 1 :]) for t in range(taps) for v in values[1:])]


def _theorem1_proofs() -> Iterator[Check]:
    import sympy  # type: ignore[import-untyped]  # comes with torch

    q = sympy.Symbol("q", nonnegative=True)
    drops = []
    for taps in range(1, 10):
        # weights m - p_t, pixels m + q: every pixel above every weight, for any m, p and q
        m, p = sympy.Symbol("m", real=True), sympy.symbols(f"p:{taps}", nonnegative=True)
        before, after = (-sum(sympy.Abs((m + q + rise) - (m - p_t)) for p_t in p) for rise in (0, 1))
        drops.append(sympy.simplify(after - before) == -taps)
    statement = "for every W and all images above max W: one level more at the input takes D off the output"
    yield Check("T1", statement, "proved", all(drops), {"D": "1 to 9, symbolic"})

    some = [_one_tap_changes(taps, (-1, -2, 0)) for taps in (2, 3, 4)]
    answers = [solve_filter(w, [x[0] for x in w], free_slope=True, free_offset=True) for w in some]
    statement = "pixels -2, -1, 0: no W and no affine map after it (batch normalisation) give the identity"
    yield Check("T1 exact", statement, "proved", *_refuted(answers, "2, 3, 4"))

    one = solve_filter([(-2,), (-1,), (0,)], [0, 0, 0], free_offset=True)
    statement = (
        "no w is equally far from three different values, so every tap moves the output; windows that differ in "
        "another tap than the centre then contradict the identity for every D >= 2"
    )
    yield Check("T1 any D", statement, "proved", one.weights is None, {"cells": one.cells})

    some = [_one_tap_changes(taps, (-1, -2, 0)) for taps in (1, 2, 3)]
    answers = [solve_filter(w, [0] * len(w), free_offset=True) for w in some]
    statement = "Eq. 7 without normalisation: no W makes x + (x (+) W) the identity, not even up to a constant"
    yield Check("T1 shortcut", statement, "proved", *_refuted(answers, "1, 2, 3"))

    windows = list(itertools.product((-2, -1), repeat=3))
    w = solve_filter(windows, [x[0] for x in windows]).weights
    statement = "one W is the identity on all images of two values: centre at or above both, others midway between them"
    figures: Figures = {"D": 3, "pixels": "-2, -1", "W": " ".join(map(str, w or ()))}
    yield Check("T1 two values", statement, "proved", w is not None, figures)


def _refuted(answers: Sequence[Exact], taps: str) -> tuple[bool, Figures]:
    """Whether none has a solution, and the figures of such a check."""
    return all(a.weights is None for a in answers), {"D": taps, "cells": sum(a.cells for a in answers)}


def _rise() -> Check:
    g = torch.Generator().manual_seed(0)
    w = torch.randn(4, 4, 3, 3, generator=g, dtype=torch.float64)
    image = w.abs().max() + 1 + torch.rand(1, 4, 7, 8, generator=g, dtype=torch.float64)
    change = (adder2d(image + 1, w, padding=1) - adder2d(image, w, padding=1))[0]
    valid = F.conv2d(torch.ones_like(image), torch.ones_like(w), padding=1)[0]  # taps that are not padding
    error = float((change + valid).abs().max())
    figures: Figures = {
        "inside": float(change[:, 3, 3].mean()), "edge": float(change[:, 0, 3].mean()),
        "corner": float(change[:, 0, 0].mean()), "error": _order(error),
    }  # fmt: skip
    statement = (
        "4 channels, 3x3, padded with zeros: one level more changes the output by minus the number of valid taps"
    )
    return Check("T1a", statement, "checked", error < 1e-11, figures)


def _order(error: float) -> str:
    """The size of a rounding error as a bound: its digits differ between machines."""
    return "0" if error == 0 else f"< 1e{math.floor(math.log10(error)) + 2}"


def _jacobian() -> Check:
    g = torch.Generator().manual_seed(0)
    w, x = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, 3, 3, 3), (1, 3, 5, 5)))
    j = torch.autograd.functional.jacobian(lambda t: adder2d_ref(t, w)[0, :, 1, 1], x)[:, 0]  # (O, C, 5, 5)
    window = torch.zeros(5, 5, dtype=torch.bool)
    window[1:4, 1:4] = True
    holds = bool((j[..., window].abs() == 1).all() and (j[..., ~window] == 0).all())
    statement = (
        "dy/dx is +1 or -1 for every tap of the window, wherever it exists; the identity's is 0 for all but one, so no "
        "filter of two taps or more is the identity on any open set, with or without an affine map"
    )
    return Check("T1b", statement, "checked", holds, {"entries": j.numel(), "+-1": int((j.abs() == 1).sum())})


def _counter_examples() -> list[Check]:
    zero = torch.zeros(1, 2, 6, 7, dtype=torch.float64)
    errors = [float((adder2d(zero, torch.zeros(2, 2, 3, 3, dtype=torch.float64), padding=1) - zero).abs().max())]
    a, constant = 0.75, zero - 0.75
    w = torch.full((2, 2, 3, 3), -a, dtype=torch.float64)
    for q in range(2):
        w[q, q, 1, 1] = 0
    errors.append(float((adder2d(constant, w) - constant[..., 1:-1, 1:-1]).abs().max()))
    # two values -a - 1 and -a with a = (D - 1) / 2
    taps, g = w[0].numel(), torch.Generator().manual_seed(0)
    half = (taps - 1) / 2
    binary = torch.randint(0, 2, (3, 2, 9, 8), generator=g).double() - half - 1
    w = torch.full((2, 2, 3, 3), -half - 0.5, dtype=torch.float64)
    for q in range(2):
        w[q, q, 1, 1] = -half
    errors.append(float((adder2d(binary, w) - binary[..., 1:-1, 1:-1]).abs().max()))
    statements = (
        "the wording 'for any image there is no W' is false: I = 0 and W = 0",
        "another one: I = -a, centre tap of the own channel 0, all others -a; exact away from the border",
        "and a class of images with one W: all images of the values -(D+1)/2 and -(D-1)/2",
    )
    return [Check("T1c", s, "checked", e == 0, {"error": _order(e)}) for s, e in zip(statements, errors, strict=True)]


FITS = ("conv", "adder", "x + adder", "adder + bn", "x + bn(adder)")


def _identity_fit(kind: str, steps: int, units: int = 16) -> float:
    """Mean absolute error of the identity on N(0, I), fitted by a 1x1 layer of a kind of :data:`FITS`."""
    g = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.randn(units, units, 1, 1, generator=g) / (units**0.5 if kind == "conv" else 1))
    bn = nn.BatchNorm2d(units) if "bn" in kind else None
    optimiser = torch.optim.Adam([w, *(bn.parameters() if bn else [])], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def error(side: int) -> Tensor:
        x = torch.randn(1, units, side, side, generator=g)
        y = F.conv2d(x, w) if kind == "conv" else adder2d(x, w)
        y = bn(y) if bn else y
        return F.l1_loss(x + y if kind.startswith("x") else y, x)

    for _ in range(steps):
        optimiser.zero_grad()
        error(8).backward()
        optimiser.step()
        schedule.step()
    return error(64).item()


def _identity_fits(steps: int) -> Check:
    error = {kind: _identity_fit(kind, steps) for kind in FITS}
    good, poor = ("conv", "x + bn(adder)"), ("adder", "x + adder")
    holds = max(error[k] for k in good) < 1e-2 < error["adder + bn"] < 1 < min(error[k] for k in poor)
    figures: Figures = {k: f"{v:.1f}" if v > 1 else f"{v:.2f}" if v > 0.01 else "< 0.01" for k, v in error.items()}
    statement = (
        "trained to be the identity (16 units, 1x1): only the convolution and x + BN(adder) learn it; the shortcut "
        "without normalisation changes nothing"
    )
    return Check("T1d", statement, "checked", holds, figures)


def unexplained_variance(taps: int) -> float:
    """``1 - 1 / (1 + (D - 1)(1 - 2 / pi))``: share of a coordinate's variance that the best affine map of one adder
    output leaves, for x from N(0, I): the coordinate's own weight far away, where ``|x - w|`` is linear, and the others
    at their median, where ``|x - w|`` varies least.
    """
    return 1 - 1 / (1 + (taps - 1) * (1 - 2 / math.pi))


def _affine_fits() -> list[Check]:
    rng, checks = np.random.default_rng(0), []
    for taps, samples in ((9, 400_000), (576, 20_000)):
        x = rng.standard_normal((samples, taps), dtype=np.float32)
        y = x[:, 0] - np.abs(x[:, 1:]).sum(1)
        left = 1 - np.corrcoef(x[:, 0], y)[0, 1] ** 2
        # a correlation of n samples is known to about 1 / sqrt(n)
        holds = abs(left - unexplained_variance(taps)) < 4 / math.sqrt(samples)
        statement = (
            f"the best affine fit of one coordinate from one adder output of {taps} taps leaves most of its variance"
        )
        figures: Figures = {"formula": unexplained_variance(taps), "sampled": f"{left:.3f}"}
        checks.append(Check("T1e", statement, "checked", holds, figures))
    return checks


def _shortcut_size() -> Check:
    taps = 576
    x = np.random.default_rng(0).standard_normal((20_000, taps), dtype=np.float32)
    y = -np.abs(x).sum(1)
    mean, std = -taps * math.sqrt(2 / math.pi), math.sqrt(taps * (1 - 2 / math.pi))
    holds = abs(y.mean() - mean) < 0.5 and abs(y.std() - std) < 0.5
    statement = "x (+) W cannot be made small either: for N(0,1) inputs the best W, the median, leaves -0.8 D"
    figures: Figures = {"D": taps, "mean": f"{y.mean():.0f}", "std": f"{y.std():.0f}"}
    return Check("T1 size", statement, "checked", holds, figures)


def _bn_identity() -> Check:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unit = AdderUnit(5, 5).double()
        x = torch.rand(2, 5, 7, 6, dtype=torch.float64)
    assert unit.bn is not None
    nn.init.zeros_(unit.bn.weight)
    error = float((unit(x) - x).abs().max().detach())
    statement = (
        "what normalisation changes: with its factor and offset at 0 the paper's unit is the identity for x >= 0"
    )
    return Check("T1 BN", statement, "checked", error == 0, {"error": _order(error)})


# --- Theorem 2 --------------------------------------------------------------------------------------------------------


def theorem2() -> list[Check]:
    """No adder filter answers all constant images alike, and what becomes of that on bounded images: T2 a to c."""
    return [*_theorem2_proofs(), _slopes(), _checkerboard(), _plus_minus_one()]


def _theorem2_proofs() -> Iterator[Check]:
    odd = [solve_filter([(s,) * taps for s in (-1, 0, 1)], [0, 0, 0], free_offset=True) for taps in (1, 3)]
    statement = "an odd number of taps: no W answers even the three levels -1, 0, 1 alike (the slope is odd, never 0)"
    yield Check("T2 odd", statement, "proved", *_refuted(odd, "1, 3"))

    even = solve_filter([(s,) * 2 for s in range(-2, 3)], [0] * 5, free_offset=True).weights
    statement = (
        "an even number of taps: half of them at or above all levels, half at or below, answers all alike; the "
        "theorem needs levels without bound"
    )
    figures: Figures = {"D": 2, "levels": "-2 to 2", "W": " ".join(map(str, even or ()))}
    yield Check("T2 even", statement, "proved", even is not None, figures)

    # affine in each tap while |x| <= |w|, so equality in the corners of the box is equality in the box
    corners = list(itertools.product((-1, 1), repeat=4))
    single = all(-_distance(box, w) == _product(w, box) - 4 for w in corners for box in corners)
    statement = (
        "if |x| <= M and every |w| = M, an adder filter is a convolution with taps +-1 minus D M; also the paper's "
        "high-pass [[1, -1], [-1, 1]]"
    )
    figures = {"D": 4, "filters": len(corners), "corners": len(corners)}
    yield Check("T2 conv", statement, "proved", single, figures)

    ternary = list(itertools.product((-1, 0, 1), repeat=4))
    double = True
    for taps in ternary:
        plus, minus = (half.int().tolist() for half in difference_filters(taps, 1))
        double &= all(_distance(box, minus) - _distance(box, plus) == 2 * _product(taps, box) for box in corners)
    statement = (
        "half the difference of two such filters is any convolution with taps -1, 0, 1: identity and high-passes"
    )
    yield Check("T2 difference", statement, "proved", double, figures | {"filters": len(ternary)})


def _distance(x: Sequence[int], w: Sequence[int]) -> int:
    return sum(abs(a - b) for a, b in zip(x, w, strict=True))


def _product(x: Sequence[int], w: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(x, w, strict=True))


def _slopes() -> Check:
    g = torch.Generator().manual_seed(0)
    w = torch.randn(1, 16, generator=g, dtype=torch.float64).sort()[0]
    top = float(w.max())
    r = dc_response(w, torch.tensor([top + 1, top + 2], dtype=torch.float64))[0]
    drop = float(r[1] - r[0])
    between = torch.linspace(float(w[0, 7]), float(w[0, 8]), 101, dtype=torch.float64)
    flat = float(dc_response(w, between).std())
    holds = abs(drop + 16) < 1e-12 and flat < 1e-13
    statement = "16 random weights: slope -16 above all of them, but constant between the 8th and the 9th"
    return Check("T2a", statement, "checked", holds, {"slope": round(drop, 9), "spread": _order(flat)})


def _checkerboard() -> Check:
    w = 3 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)[None, None]
    levels = torch.tensor([-3.0, -1.0, 0.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    images = levels[:, None, None, None].expand(-1, 1, 2, 2)
    r = adder2d(images, w).flatten().tolist()
    figures: Figures = {"|s| <= 3": r[0], "s = 5": r[-1]}
    statement = "weights 3 [[1, -1], [-1, 1]] answer every level up to 3 alike, and no longer beyond"
    return Check("T2b", statement, "checked", r == [-12.0] * 5 + [-20.0], figures)


def _plus_minus_one() -> Check:
    g = torch.Generator().manual_seed(0)
    bound = 2.5
    sign = torch.randint(0, 2, (3, 2, 3, 3), generator=g).double() * 2 - 1
    x = (torch.rand(2, 2, 8, 9, generator=g, dtype=torch.float64) * 2 - 1) * bound
    error = float((adder2d(x, bound * sign) - (F.conv2d(x, sign) - sign[0].numel() * bound)).abs().max())
    statement = "an adder layer with weights +-M on |x| <= M equals the convolution with the signs, minus D M"
    return Check("T2c", statement, "checked", error < 1e-12, {"error": _order(error)})


# --- power activation -------------------------------------------------------------------------------------------------


def power_activation_checks() -> list[Check]:
    """What Eq. 11 promises, and that its gradients survive zeros."""
    g = torch.Generator().manual_seed(0)
    y = torch.randn(1000, generator=g, dtype=torch.float64).sort()[0]
    small = y[y.abs() < 1]
    odd = all(torch.equal(power_activation(-y, a), -power_activation(y, a)) for a in (0.3, 1.0, 2.5))
    rising = all(bool((power_activation(y, a).diff() > 0).all()) for a in (0.3, 1.0, 2.5))
    stretch = bool((power_activation(small, 2.5).abs() < small.abs()).all())
    finite: list[Tensor] = []
    for a in (0.3, 1.0, 2.5):
        x = torch.cat([torch.zeros(5, dtype=torch.float64), y]).requires_grad_()
        alpha = torch.tensor(a, dtype=torch.float64, requires_grad=True)
        finite += torch.autograd.grad(power_activation(x, alpha).sum(), (x, alpha))
    return [
        Check("P1", "P is odd and rises, for alpha 0.3, 1 and 2.5", "checked", odd and rising),
        Check("P2", "alpha = 1 is the identity", "checked", torch.equal(power_activation(y, 1.0), y)),
        Check("P3", "alpha > 1 makes small values smaller: contrast grows", "checked", stretch),
        Check("P4", "gradients at exact zeros are finite", "checked", all(bool(t.isfinite().all()) for t in finite)),
    ]
